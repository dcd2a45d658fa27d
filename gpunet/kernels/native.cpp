// A team of threads that runs a launch list for many steps, without Python.

#include <Python.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "native.h"

namespace {

struct Operation {
    void (*function)(const Call&, Lane&);      // null: a barrier
    Call call;
};

struct Program {
    const Operation* operations;
    long long count, batch, stride;
    int lanes;
    const long long* pieces;                   // of all lanes, one behind the other
    const int* piece_counts;
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

class Team {
    std::mutex one_run, guard;
    std::condition_variable called;
    std::vector<std::thread> threads;
    Program* program = nullptr;
    long long steps = 0;
    unsigned round = 0;
    Barrier barrier;

    void run_lane(Program& given, int index, long long count) {
        Lane lane{};
        lane.index = index;
        lane.count = given.lanes;
        lane.batch = given.batch;
        lane.first = given.batch * index / given.lanes;
        lane.last = given.batch * (index + 1) / given.lanes;
        lane.stride = given.stride;
        lane.shared = &given.shared;
        lane.pieces = given.pieces;
        for (int i = 0; i < index; ++i) lane.pieces += 2 * given.piece_counts[i];
        lane.piece_count = given.piece_counts[index];
        for (int i = 0; i < 8; ++i) lane.clock[i] = given.clock[i];
        for (int i = 0; i < 16; ++i) lane.hyper[i] = given.hyper[i];
        barrier.wait(given.lanes);
        for (long long step = 0; step < count; ++step) {
            for (long long i = 0; i < given.count; ++i) {
                const Operation& operation = given.operations[i];
                if (operation.function) operation.function(operation.call, lane);
                else barrier.wait(given.lanes);
            }
            lane.clock[FAULT] |= __atomic_load_n(&given.shared.fault, __ATOMIC_RELAXED);
            if (lane.clock[FAULT]) break;
        }
        barrier.wait(given.lanes);
        if (index) return;
        for (int i = 0; i < 8; ++i) given.clock[i] = lane.clock[i];
        for (int i = 0; i < 16; ++i) given.hyper[i] = lane.hyper[i];
    }

    void serve(int index, unsigned seen) {
        for (;;) {
            Program* given;
            long long count;
            {
                std::unique_lock<std::mutex> lock(guard);
                called.wait(lock, [&] { return round != seen; });
                seen = round;
                given = program;
                count = steps;
            }
            if (index < given->lanes) run_lane(*given, index, count);
        }
    }

public:
    void run(Program& given, long long count) {
        std::lock_guard<std::mutex> alone(one_run);
        {
            std::lock_guard<std::mutex> lock(guard);
            while ((int)threads.size() < given.lanes - 1) {
                int index = (int)threads.size() + 1;
                threads.emplace_back([this, index, now = round] { serve(index, now); });
            }
            program = &given;
            steps = count;
            ++round;
        }
        if (given.lanes > 1) called.notify_all();
        run_lane(given, 0, count);
    }
};

Team& team() {
    static Team* one = new Team;               // lives as long as the process: threads are never joined
    return *one;
}

}  // namespace

extern "C" void run_program(Program* program, long long steps) { team().run(*program, steps); }

static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", nullptr, -1, nullptr,
                                 nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC PyInit__native() { return PyModule_Create(&definition); }
