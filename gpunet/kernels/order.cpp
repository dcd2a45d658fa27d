// The keyed order of rows: random.py's permutation, a block at a time.

#include "native.h"

#define T_BITS 32
typedef float T;
#include "formulas.h"

enum { BLOCK = 1024 };

static CLONES void pass(unsigned* x, long long count, unsigned half, const unsigned* keys) {
    for (long long i = 0; i < count; ++i) x[i] = feistel(x[i], half, keys);
}

// order[i] = shuffled(i, n, half, keys). Those still outside are walked on together.
extern "C" void fill_order(int* order, long long n, unsigned half, const unsigned* keys) {
    unsigned x[BLOCK], places[BLOCK];
    for (long long low = 0; low < n; low += BLOCK) {
        long long outside = n - low < BLOCK ? n - low : BLOCK;
        for (unsigned i = 0; i < outside; ++i) x[i] = unsigned(low) + i, places[i] = i;
        while (outside) {
            pass(x, outside, half, keys);
            long long kept = 0;
            for (long long i = 0; i < outside; ++i) {
                unsigned found = x[i], place = places[i];
                order[low + place] = int(found);       // too early, and overwritten, where outside
                x[kept] = found;
                places[kept] = place;
                kept += found >= n;
            }
            outside = kept;
        }
    }
}
