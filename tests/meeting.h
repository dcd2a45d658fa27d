// CUDA blocks that wait for each other, on one CPU thread: every CUDA thread is a fiber. One that
// waits at __syncthreads() goes on when all of its block have come; one that looks at what other
// blocks write lets them run first. Lanes do nothing together but add up what they have. Shared
// memory holds NaN at first. With a `seed` threads run in an order by chance, now and then not at all,
// those of one block seldom: where that changes a result, somebody did not wait.

#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

extern "C" double pow(double, double) noexcept;

#define __device__
#define __forceinline__ inline
#define __global__
#define __launch_bounds__(...)
#define __syncthreads() meeting::leave(true)
#define __threadfence()
#define __trap() abort()

struct Index { unsigned x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;
static long long* block_memory;

template <class V> static V atomicAdd(V* p, V v) { V old = *p; *p += v; return old; }
template <class V> static V atomicOr(V* p, V v) { V old = *p; *p |= v; return old; }
template <class V> static V atomicExch(V* p, V v) { V old = *p; *p = v; return old; }
template <class V> static V atomicMin(V* p, V v) { V old = *p; if (v < old) *p = v; return old; }

namespace meeting {

enum { STACK_BYTES = 1 << 16, GUARD_BYTES = 256, MOST_ROUNDS = 1 << 22 };

struct Fiber {
    ucontext_t context;
    char* stack;
    int block, thread;
    bool waits, is_done;
    int sums;
    double given[2];
};

static Fiber *fibers, *current;
static ucontext_t scheduler;
static void (*kernel)(void**);
static void** arguments;
static long long** memories;

static void leave(bool waits) {
    current->waits = waits;
    swapcontext(&current->context, &scheduler);
}

static void work() {
    kernel(arguments);
    current->is_done = true;
    leave(false);
}

static void resume(Fiber& fiber) {
    current = &fiber;
    blockIdx = {(unsigned)fiber.block, 0, 0};
    threadIdx = {(unsigned)fiber.thread, 0, 0};
    block_memory = memories[fiber.block];
    swapcontext(&scheduler, &fiber.context);
}

// Let a block's threads go on from their barrier, if all are there.
static const char* release(Fiber* first, int threads) {
    int waiting = 0, done = 0;
    for (int t = 0; t < threads; ++t) waiting += first[t].waits, done += first[t].is_done;
    if (waiting && done) return "threads returned while others wait at a barrier";
    for (int t = 0; waiting == threads && t < threads; ++t) first[t].waits = false;
    return nullptr;
}

static unsigned long long chance;

static bool one_in(int n) {
    chance ^= chance << 13, chance ^= chance >> 7, chance ^= chance << 17;
    return (chance >> 20) % n == 0;
}

static const char* run(int blocks, int threads) {
    int slow = chance % blocks, count = blocks * threads;
    for (int round = 0; round < MOST_ROUNDS; ++round) {
        int left = 0;
        for (int i = 0; i < count; ++i) {
            Fiber& fiber = fibers[chance ? (i * 7919ull + round) % count : i];
            bool rests = chance && (fiber.block == slow ? !one_in(16) : one_in(3));
            if (!fiber.is_done && !fiber.waits && !rests) resume(fiber);
            left += !fiber.is_done;
        }
        if (!left) return nullptr;
        if (chance && one_in(40)) slow = chance % blocks;
        for (int b = 0; b < blocks; ++b)
            if (!chance || one_in(2)) if (const char* failure = release(fibers + b * threads, threads)) return failure;
    }
    return "blocks wait for each other for ever";
}

// The reason why it failed, or null.
static const char* launch(void (*entry)(void**), void** given, int blocks, int threads,
                          long long bytes, unsigned long long seed) {
    chance = seed * 0x9E3779B97F4A7C15ull;
    blockDim = {(unsigned)threads, 1, 1};
    gridDim = {(unsigned)blocks, 1, 1};
    kernel = entry, arguments = given;
    fibers = new Fiber[blocks * threads];
    memories = new long long*[blocks];
    for (int b = 0; b < blocks; ++b) {
        memories[b] = (long long*)malloc(bytes + GUARD_BYTES);
        memset(memories[b], 255, bytes + GUARD_BYTES);
    }
    for (int i = 0; i < blocks * threads; ++i) {
        Fiber& fiber = fibers[i];
        fiber = {};
        fiber.block = i / threads, fiber.thread = i % threads;
        getcontext(&fiber.context);
        fiber.stack = (char*)malloc(STACK_BYTES);
        fiber.context.uc_stack.ss_sp = fiber.stack;
        fiber.context.uc_stack.ss_size = STACK_BYTES;
        makecontext(&fiber.context, work, 0);
    }
    const char* failure = run(blocks, threads);
    for (int i = 0; i < blocks * threads; ++i) free(fibers[i].stack);
    for (int b = 0; b < blocks; ++b) {
        for (int i = 0; i < GUARD_BYTES; ++i)
            if (((unsigned char*)memories[b])[bytes + i] != 255)
                failure = "written behind the shared memory";
        free(memories[b]);
    }
    delete[] fibers;
    delete[] memories;
    return failure;
}

}

// Of a warp's lanes, when all have come. Who has it may give the next number before all have read.
template <class V> static V sum_of_lanes(V x, int lanes) {
    meeting::Fiber *mine = meeting::current, *first = mine - mine->thread % lanes;
    int turn = ++mine->sums;
    mine->given[turn % 2] = x;
    V total = 0;
    for (int l = 0; l < lanes; ++l) {
        while (first[l].sums < turn) meeting::leave(false);
        total += V(first[l].given[turn % 2]);
    }
    return total;
}

template <class V> static V seen_now(const V* place) {
    meeting::leave(false);
    return *place;
}
