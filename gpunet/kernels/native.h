// What the native loops are given: a call's pointers and sizes, and a lane's share of the work.
//
// A lane is a slice of the batch's rows; a team of threads runs the lanes of a launch list for many
// steps, each thread one lane or several in turn. A lane takes its rows forward and backward. After
// a barrier it computes its slab of each weight's gradient, over all rows, and moves those weights;
// the gradients of vectors, which every lane has a part of, are written apart and added up in the
// order of the lanes. So a step needs two barriers, and no sum depends on which lane comes first,
// nor on how many threads there are.
#pragma once

struct Call {
    void* pointers[16];
    long long sizes[8];
    unsigned long long apart;          // bit i: pointer i is a gradient, one copy a lane

    template <class T> T* at(int i) const { return (T*)pointers[i]; }
};

struct Shared;

// Where part `index` of `count` begins in `size` things that are cut at multiples of `unit`.
static inline long long part(long long size, long long unit, long long index, long long count) {
    long long found = (size + unit - 1) / unit * index / count * unit;
    return found < size ? found : size;
}

struct alignas(64) Lane {
    int index, count;
    long long batch, first, last;      // rows of the batch, and of this lane
    long long stride;                  // bytes from one lane's gradients to the next one's
    const long long* pieces;           // the parameters that this lane moves: pairs of first, last
    int piece_count;
    void* scratch;                     // this lane's own
    long long clock[8];                // each lane's own copy: all tick alike
    double hyper[16];
    Shared* shared;

    long long rows() const { return last - first; }

    long long batch_rows() const {     // of the step's batch, which may be taken in micro-batches
        return clock[VALID] + clock[BEFORE];
    }

    long long valid() const { return valid_of(first, last); }

    long long valid_of(int lane) const { return valid_of(batch * lane / count, batch * (lane + 1) / count); }

    long long valid_of(long long low, long long high) const {  // how many of these rows there are
        long long found = clock[VALID] - low;
        return found < 0 ? 0 : found < high - low ? found : high - low;
    }

    long long share(long long size, long long unit) const { return part(size, unit, index, count); }
    long long share_end(long long size, long long unit) const {
        return part(size, unit, index + 1, count);
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

struct Part { double value, apart[7]; };               // a cache line each

struct Shared {
    Part parts[MOST_LANES];            // one number a lane, for sums over lanes
    int fault;                         // bits that lanes have set, or-ed in atomically
    void* gemm[2];                     // cblas_sgemm, cblas_dgemm
    int wide;                          // whether these count in 64 bits
    long long block;                   // bytes of a weight's gradient that are moved at a time
    void (*move)(const Call&, Lane&, long long, long long, const void*);  // the update, or null:
    const Call* moved;                 // all gradients first; and what it is called with
};

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
