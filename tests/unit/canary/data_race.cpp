// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <thread>

int main() {
  int number = 0;
  const auto count = [&number] {
    for (int i = 0; i < 100'000; ++i) ++number;  // the bug
  };
  std::thread first{count};
  std::thread second{count};
  first.join();
  second.join();
  std::printf("%d\n", number);
  return 0;
}
