// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <limits>

int main() {
  volatile int number = std::numeric_limits<int>::max();
  number = number + 1;  // the bug
  std::printf("%d\n", number);
  return 0;
}
