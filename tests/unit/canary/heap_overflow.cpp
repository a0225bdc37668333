// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <vector>

int main() {
  const std::vector<int> numbers(4, 1);
  const volatile int past_the_end = 4;
  std::printf("%d\n", numbers.data()[past_the_end]);  // the bug
  return 0;
}
