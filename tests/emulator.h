// CUDA kernels on one CPU thread, for tests: blocks run one after another, and each CUDA thread that
// waits at __syncthreads() waits in a fiber of its own. Compile with -U_FORTIFY_SOURCE: fibers are
// switched by longjmp.
//
// Shared memory holds NaN before each block. Threads that wait at different places, or wait while
// another has returned, end the launch with an error. `reverse` runs the threads in falling order:
// where the results differ, a __syncthreads() is missing.

#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

extern "C" double pow(double, double) noexcept;
extern "C" double rint(double) noexcept;
extern "C" double sqrt(double) noexcept;

#define __device__
#define __forceinline__ inline
#define __global__
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("shared_memory")))
#define __syncthreads() emulator::wait(__COUNTER__)
#define __threadfence()

struct Index { unsigned x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;

template <class V> static V atomicAdd(V* place, V value) { V old = *place; *place = old + value; return old; }
template <class V> static V atomicOr(V* place, V value) { V old = *place; *place = old | value; return old; }
template <class V> static V atomicExch(V* place, V value) { V old = *place; *place = value; return old; }

extern "C" {
extern char __start_shared_memory[] __attribute__((weak, visibility("hidden")));
extern char __stop_shared_memory[] __attribute__((weak, visibility("hidden")));
}

namespace emulator {

const int MOST_THREADS = 1024, STACK_BYTES = 1 << 16, RUNNING = -1;

struct Fiber {
    ucontext_t start;
    jmp_buf state;
    int thread, place;                     // place: the barrier that it waits at, or RUNNING
    alignas(16) char stack[STACK_BYTES];
};

static Fiber* fibers[MOST_THREADS];
static Fiber* current;
static int threads, started;
static bool reversed;
static jmp_buf scheduler;
static void (*body)(void**);
static void** given;
static char failure[200];

// A fiber runs thread after thread until one of them waits: without barriers, one fiber is enough.
static void work() {
    while (started < threads) {
        current->thread = reversed ? threads - 1 - started : started;
        ++started;
        threadIdx = {(unsigned)current->thread, 0, 0};
        body(given);
        if (started < threads && current->place != RUNNING) break;
        current->place = RUNNING;
    }
    _longjmp(scheduler, 1);
}

}
