// What the native loops are given: a call's pointers and sizes, and a lane's share of the work.
//
// A team of lanes, one a thread, runs a launch list for many steps. Each lane takes its slice of the
// batch's rows forward and backward. After a barrier it computes its slab of each weight's gradient,
// over all rows, and moves those weights; the gradients of vectors, which every slice has a part of,
// are written apart and added up in the order of the slices. So a step needs two barriers, and no sum
// depends on which lane comes first.
#pragma once

struct Call {
    void* pointers[16];
    long long sizes[4];
    unsigned long long apart;          // bit i: pointer i is a gradient, one copy a slice

    template <class T> T* at(int i) const { return (T*)pointers[i]; }
};

struct Shared;

struct Lane {
    int index, count;
    long long batch, first, last;      // rows of the batch, and of this lane
    long long stride;                  // bytes from one slice's gradients to the next one's
    const long long* pieces;           // the parameters that this lane moves: pairs of first, last
    int piece_count;
    long long clock[8];                // each lane's own copy: all tick alike
    double hyper[16];
    Shared* shared;

    long long rows() const { return last - first; }

    long long valid() const {          // how many of the lane's rows are in the batch
        long long found = clock[VALID] - first;
        return found < 0 ? 0 : found < rows() ? found : rows();
    }

    template <class T> T* copy(const Call& call, int i) const {
        if (!call.pointers[i]) return nullptr;
        return (T*)((char*)call.pointers[i] + (call.apart >> i & 1 ? index * stride : 0));
    }

    template <class T> T* row(const Call& call, int i, long long columns) const {
        return call.pointers[i] ? call.at<T>(i) + first * columns : nullptr;
    }
};

enum { MOST_LANES = 256 };

struct Part { double value; long long count, apart[6]; };      // a cache line each

struct Shared {
    Part parts[MOST_LANES];            // one number and one count a lane, for sums over lanes
    int fault;                         // bits that lanes have set, or-ed in atomically
    void* gemm[2];                     // cblas_sgemm, cblas_dgemm
    int wide;                          // whether these count in 64 bits
};

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
