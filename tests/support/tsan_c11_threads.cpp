// SPDX-License-Identifier: Apache-2.0
//
// For ThreadSanitizer only. Debian's librdkafka starts its threads by C11's <threads.h>, which TSan does not know: a program
// crashes in the first such thread, and no lock of theirs is seen. These take the place of libc's functions of the same names
// and do the same through pthreads, which TSan does know. On Linux mtx_t, cnd_t, once_flag and tss_t are pthread's types under
// other names, so the objects can be shared; <threads.h> itself is not included, as it declares these functions.

#include <pthread.h>
#include <sched.h>

#include <cerrno>
#include <cstdint>
#include <ctime>
#include <memory>
#include <new>

namespace {

// The values of <threads.h> in glibc.
constexpr int kSuccess = 0;
constexpr int kBusy = 1;
constexpr int kError = 2;
constexpr int kNoMemory = 3;
constexpr int kTimedOut = 4;
constexpr int kRecursive = 1;

struct Start {
  int (*run)(void*);
  void* argument;
};

void* begin(void* raw) {
  const std::unique_ptr<Start> start{static_cast<Start*>(raw)};
  return reinterpret_cast<void*>(static_cast<std::intptr_t>(start->run(start->argument)));  // NOLINT
}

int result_of(int error) {
  switch (error) {
    case 0: return kSuccess;
    case EBUSY: return kBusy;
    case ENOMEM: return kNoMemory;
    case ETIMEDOUT: return kTimedOut;
    default: return kError;
  }
}

}  // namespace

extern "C" {

int thrd_create(pthread_t* thread, int (*run)(void*), void* argument);
int thrd_join(pthread_t thread, int* result);
int thrd_detach(pthread_t thread);
pthread_t thrd_current();
int thrd_equal(pthread_t a, pthread_t b);
void thrd_yield();
[[noreturn]] void thrd_exit(int result);
int mtx_init(pthread_mutex_t* mutex, int type);
int mtx_lock(pthread_mutex_t* mutex);
int mtx_trylock(pthread_mutex_t* mutex);
int mtx_timedlock(pthread_mutex_t* mutex, const timespec* until);
int mtx_unlock(pthread_mutex_t* mutex);
void mtx_destroy(pthread_mutex_t* mutex);
int cnd_init(pthread_cond_t* condition);
int cnd_signal(pthread_cond_t* condition);
int cnd_broadcast(pthread_cond_t* condition);
int cnd_wait(pthread_cond_t* condition, pthread_mutex_t* mutex);
int cnd_timedwait(pthread_cond_t* condition, pthread_mutex_t* mutex, const timespec* until);
void cnd_destroy(pthread_cond_t* condition);
void call_once(pthread_once_t* flag, void (*run)());
int tss_create(pthread_key_t* key, void (*destroy)(void*));
void* tss_get(pthread_key_t key);
int tss_set(pthread_key_t key, void* value);
void tss_delete(pthread_key_t key);

int thrd_create(pthread_t* thread, int (*run)(void*), void* argument) {
  auto* start = new (std::nothrow) Start{run, argument};
  if (start == nullptr) return kNoMemory;
  const int error = pthread_create(thread, nullptr, begin, start);
  if (error != 0) delete start;  // NOLINT(cppcoreguidelines-owning-memory)
  return error == EAGAIN ? kNoMemory : result_of(error);
}
int thrd_join(pthread_t thread, int* result) {
  void* value = nullptr;
  const int error = pthread_join(thread, &value);
  if (error == 0 && result != nullptr) *result = static_cast<int>(reinterpret_cast<std::intptr_t>(value));  // NOLINT
  return result_of(error);
}
int thrd_detach(pthread_t thread) { return result_of(pthread_detach(thread)); }
pthread_t thrd_current() { return pthread_self(); }
int thrd_equal(pthread_t a, pthread_t b) { return pthread_equal(a, b); }
void thrd_yield() { sched_yield(); }
void thrd_exit(int result) { pthread_exit(reinterpret_cast<void*>(static_cast<std::intptr_t>(result))); }  // NOLINT

int mtx_init(pthread_mutex_t* mutex, int type) {
  pthread_mutexattr_t attributes{};
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_settype(&attributes, (type & kRecursive) != 0 ? PTHREAD_MUTEX_RECURSIVE : PTHREAD_MUTEX_NORMAL);
  const int error = pthread_mutex_init(mutex, &attributes);
  pthread_mutexattr_destroy(&attributes);
  return result_of(error);
}
int mtx_lock(pthread_mutex_t* mutex) { return result_of(pthread_mutex_lock(mutex)); }
int mtx_trylock(pthread_mutex_t* mutex) { return result_of(pthread_mutex_trylock(mutex)); }
int mtx_timedlock(pthread_mutex_t* mutex, const timespec* until) { return result_of(pthread_mutex_timedlock(mutex, until)); }
int mtx_unlock(pthread_mutex_t* mutex) { return result_of(pthread_mutex_unlock(mutex)); }
void mtx_destroy(pthread_mutex_t* mutex) { pthread_mutex_destroy(mutex); }

int cnd_init(pthread_cond_t* condition) { return result_of(pthread_cond_init(condition, nullptr)); }
int cnd_signal(pthread_cond_t* condition) { return result_of(pthread_cond_signal(condition)); }
int cnd_broadcast(pthread_cond_t* condition) { return result_of(pthread_cond_broadcast(condition)); }
int cnd_wait(pthread_cond_t* condition, pthread_mutex_t* mutex) { return result_of(pthread_cond_wait(condition, mutex)); }
int cnd_timedwait(pthread_cond_t* condition, pthread_mutex_t* mutex, const timespec* until) {
  return result_of(pthread_cond_timedwait(condition, mutex, until));
}
void cnd_destroy(pthread_cond_t* condition) { pthread_cond_destroy(condition); }

void call_once(pthread_once_t* flag, void (*run)()) { pthread_once(flag, run); }

int tss_create(pthread_key_t* key, void (*destroy)(void*)) { return result_of(pthread_key_create(key, destroy)); }
void* tss_get(pthread_key_t key) { return pthread_getspecific(key); }
int tss_set(pthread_key_t key, void* value) { return result_of(pthread_setspecific(key, value)); }
void tss_delete(pthread_key_t key) { pthread_key_delete(key); }

/// librdkafka is not instrumented: its atomics and what it frees look like races. Whatever runs inside its callbacks is hidden
/// by this too, so penstock's callbacks only note what happened.
const char* __tsan_default_suppressions();  // NOLINT: the name is TSan's
const char* __tsan_default_suppressions() { return "race:librdkafka.so\n"; }

}  // extern "C"
