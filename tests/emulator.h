// CUDA kernels on one CPU thread, for tests: blocks run one after another, and every CUDA thread
// that waits at __syncthreads() waits in a fiber of its own. Build with -U_FORTIFY_SOURCE: longjmp
// switches fibers.
//
// Shared memory holds NaN before each block. A launch fails where threads of a block wait at
// different barriers, or some wait and others have returned. `reverse` runs the threads in falling
// order: where that changes a result, a barrier is missing.

#include <setjmp.h>
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

template <class V> static V atomicAdd(V* place, V value) {
    V old = *place;
    *place = old + value;
    return old;
}
template <class V> static V atomicOr(V* place, V value) {
    V old = *place;
    *place = old | value;
    return old;
}
template <class V> static V atomicExch(V* place, V value) {
    V old = *place;
    *place = value;
    return old;
}

// The linker's names for the section of all __shared__ variables; null where there are none.
extern "C" char __start_shared_memory[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_shared_memory[] __attribute__((weak, visibility("hidden")));

namespace emulator {

enum { MOST_THREADS = 256, STACK_BYTES = 1 << 16, IDLE = -1 };

struct Fiber {
    bool made;
    int thread, place;                     // the thread that it runs, the barrier that it waits at
    jmp_buf state;
    ucontext_t start;
    alignas(16) char stack[STACK_BYTES];
};

static Fiber fibers[MOST_THREADS];
static Fiber* current;
static int threads, started;
static bool reversed;
static jmp_buf scheduler;
static void (*kernel)(void**);
static void** arguments;

static void leave(int place) {
    current->place = place;
    if (!_setjmp(current->state)) _longjmp(scheduler, 1);
}

static void wait(int place) {
    leave(place);
    threadIdx = {(unsigned)current->thread, 0, 0};
}

// Thread after thread, until one waits: a kernel without barriers needs one fiber.
static void work() {
    for (;;) {
        while (started < threads) {
            current->thread = reversed ? threads - 1 - started : started;
            ++started;
            threadIdx = {(unsigned)current->thread, 0, 0};
            kernel(arguments);
        }
        leave(IDLE);
    }
}

static void resume(Fiber& fiber) {
    current = &fiber;
    if (_setjmp(scheduler)) return;
    if (fiber.made) _longjmp(fiber.state, 1);
    fiber.made = true;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack;
    fiber.start.uc_stack.ss_size = STACK_BYTES;
    makecontext(&fiber.start, work, 0);
    setcontext(&fiber.start);
}

static const char* run_block() {
    memset(__start_shared_memory, 255, __stop_shared_memory - __start_shared_memory);
    int used = 0;
    for (started = 0; started < threads;) resume(fibers[used++]);
    for (;;) {
        int waiting = 0;
        for (int i = 0; i < used; ++i)
            if (fibers[i].place != IDLE) ++waiting;
        if (!waiting) return nullptr;
        if (waiting < threads) return "threads returned while others wait at a barrier";
        for (int i = 0; i < used; ++i)
            if (fibers[i].place != fibers[0].place) return "threads wait at different barriers";
        for (int i = 0; i < used; ++i) resume(fibers[i]);
    }
}

// The reason why it failed, or null.
static const char* launch(void (*entry)(void**), void** given, const long long* grid, int block,
                          bool reverse) {
    if (block > MOST_THREADS) return "a block of too many threads";
    kernel = entry, arguments = given, threads = block, reversed = reverse;
    blockDim = {(unsigned)block, 1, 1};
    gridDim = {(unsigned)grid[0], (unsigned)grid[1], (unsigned)grid[2]};
    for (blockIdx.z = 0; blockIdx.z < gridDim.z; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x)
                if (const char* failure = run_block()) {
                    for (Fiber& fiber : fibers) fiber.made = false;
                    return failure;
                }
    return nullptr;
}

}
