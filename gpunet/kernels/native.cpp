// A team of threads that runs a launch list for many steps, without Python.

#include <Python.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#endif

#include "native.h"

namespace {

struct Operation {
    void (*function)(const Call&, Lane&);      // null: a barrier
    Call call;
};

struct Program {
    const Operation* operations;
    long long count, batch, stride;
    int lanes, threads;
    const long long* pieces;                   // of all lanes, one behind the other
    const int* piece_counts;
    char* scratch;                             // of all lanes, `room` bytes each
    long long room;
    long long* clock;
    double* hyper;
    Shared shared;
};

void pause_briefly(int spins) {
    if (spins > 2000) return std::this_thread::yield();
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

class Barrier {
    std::atomic<int> arrived{0};
    std::atomic<unsigned> phase{0};

public:
    void wait(int count) {
        if (count == 1) return;
        unsigned mine = phase.load(std::memory_order_relaxed);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
            arrived.store(0, std::memory_order_relaxed);
            phase.store(mine + 1, std::memory_order_release);
        } else {
            for (int spins = 0; phase.load(std::memory_order_acquire) == mine; ++spins)
                pause_briefly(spins);
        }
    }
};

// Subnormal numbers are zero while it lives, on this thread: averages that fade out would slow
// every update to a third, for ever.
class Flush {
#if defined(__x86_64__)
    unsigned before = _mm_getcsr();

public:
    Flush() { _mm_setcsr(before | 0x8040); }
    ~Flush() { _mm_setcsr(before); }
#elif defined(__aarch64__)
    unsigned long long before;

public:
    Flush() {
        asm volatile("mrs %0, fpcr" : "=r"(before));
        asm volatile("msr fpcr, %0" : : "r"(before | 1ull << 24));
    }
    ~Flush() { asm volatile("msr fpcr, %0" : : "r"(before)); }
#endif
};

class Team {
    std::mutex one_run, guard;
    std::condition_variable called;
    std::vector<std::thread> threads;
    std::vector<Lane> lanes;
    Program* program = nullptr;
    int wanted = 0;                            // threads that the program takes: the others must not
    long long steps = 0;                       // look at it, it may be gone when they wake
    unsigned round = 0;
    Barrier barrier;

    static void open(Lane& lane, Program& given, int index) {
        lane.index = index;
        lane.count = given.lanes;
        lane.batch = given.batch;
        lane.first = given.batch * index / given.lanes;
        lane.last = given.batch * (index + 1) / given.lanes;
        lane.stride = given.stride;
        lane.scratch = given.scratch + index * given.room;
        lane.shared = &given.shared;
        lane.pieces = given.pieces;
        for (int i = 0; i < index; ++i) lane.pieces += 2 * given.piece_counts[i];
        lane.piece_count = given.piece_counts[index];
        for (int i = 0; i < 8; ++i) lane.clock[i] = given.clock[i];
        for (int i = 0; i < 16; ++i) lane.hyper[i] = given.hyper[i];
    }

    // One step of some lanes; between barriers one lane after the other.
    void step(const Program& given, Lane* first, Lane* last) {
        const Operation *at = given.operations, *end = at + given.count;
        while (at < end) {
            const Operation* stop = at;
            for (; stop < end && stop->function; ++stop) {}
            for (Lane* lane = first; lane < last; ++lane)
                for (const Operation* each = at; each < stop; ++each)
                    each->function(each->call, *lane);
            if (stop < end) barrier.wait(given.threads);
            at = stop + 1;
        }
    }

    void run_thread(Program& given, int index, long long count) {
        Flush flush;
        int low = given.lanes * index / given.threads, high = given.lanes * (index + 1) / given.threads;
        Lane *first = &lanes[low], *last = first + (high - low);
        for (int lane = low; lane < high; ++lane) open(lanes[lane], given, lane);
        barrier.wait(given.threads);
        for (long long done = 0; done < count && !first->clock[FAULT]; ++done) {
            step(given, first, last);
            long long fault = __atomic_load_n(&given.shared.fault, __ATOMIC_RELAXED);
            for (Lane* lane = first; lane < last; ++lane) lane->clock[FAULT] |= fault;
        }
        barrier.wait(given.threads);
        if (index) return;
        for (int i = 0; i < 8; ++i) given.clock[i] = first->clock[i];
        for (int i = 0; i < 16; ++i) given.hyper[i] = first->hyper[i];
    }

    void serve(int index, unsigned seen) {
        for (;;) {
            Program* given;
            long long count;
            {
                std::unique_lock<std::mutex> lock(guard);
                called.wait(lock, [&] { return round != seen; });
                seen = round;
                given = index < wanted ? program : nullptr;
                count = steps;
            }
            if (given) run_thread(*given, index, count);
        }
    }

public:
    void run(Program& given, long long count) {
        std::lock_guard<std::mutex> alone(one_run);
        {
            std::lock_guard<std::mutex> lock(guard);
            if ((int)lanes.size() < given.lanes) lanes.resize(given.lanes);
            while ((int)threads.size() < given.threads - 1) {
                int index = (int)threads.size() + 1;
                threads.emplace_back([this, index, now = round] { serve(index, now); });
            }
            given.shared.fault = 0;                // of a run before: the clock has what still holds
            program = &given;
            wanted = given.threads;
            steps = count;
            ++round;
        }
        if (given.threads > 1) called.notify_all();
        run_thread(given, 0, count);
    }
};

Team* team = new Team;                         // lives as long as the process: threads are never joined

// A forked child has none of the threads, and locks as they were: it leaves the team behind.
void renew_team() { team = new Team; }

}  // namespace

extern "C" void run_program(Program* program, long long steps) { team->run(*program, steps); }

static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", nullptr, -1, nullptr,
                                 nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC PyInit__native() {
#if !defined(_WIN32)
    pthread_atfork(nullptr, nullptr, renew_team);
#endif
    return PyModule_Create(&definition);
}
