// Dropout: element i of a batch stays where lane i % LANES of Philox block i / LANES is below `kept`.

#define LANES 16
#define DROPOUT \
    const T* rate, const double* hyper, const unsigned long long* key, const long long* clock, \
        long long layer

struct Dropout {
    unsigned kept;
    T scale;
    unsigned long long step, layer, key0, key1;
    long long before;                                  // rows of the batch
    BLOCK Dropout(DROPOUT) {
        double lanes = rint((1.0 - (double)rate[0] * hyper[FADE]) * 65536.0);
        kept = (unsigned)lanes;
        scale = T(65536.0 / lanes);
        step = clock[STEP], this->layer = layer, key0 = key[0], key1 = key[1];
        before = clock[BEFORE];
    }
    BLOCK Words drawn(unsigned long long block) const {
        return philox({block + 1, 0, step, layer}, key0, key1);
    }
    BLOCK T of(T x, const unsigned long long* words, unsigned lane) const {
        unsigned random = (unsigned)(words[lane / 4] >> (lane % 4 * 16)) & 65535u;
        T scaled = x * scale;                          // a choice: a branch would hold back loads
        return random < kept ? scaled : T(0);
    }
};

// A block of lanes, number `at`, for all threads of this thread's own.
BLOCK void share(const Words& drawn, unsigned long long* words, int at) {
    unsigned long long* own = words + 4 * at;
    own[0] = drawn.a, own[1] = drawn.b, own[2] = drawn.c, own[3] = drawn.d;
}

// The dropout of a tile. Each of its rows is a run of lanes, within so many blocks; where the tile
// is as wide as the matrix, rows lie end to end and are one run. A thread draws DRAWS blocks at most.
struct Mask {
    enum { DRAWS = 2 };
    static_assert(2 * FEW_ROWS <= DRAWS * THREADS, "a narrow tile has two blocks a row");
    Dropout dropout;
    const unsigned long long* words;
    long long first;
    unsigned start, across, stride, drift;             // to the next row: in words, within a block
    BLOCK Mask(const Dropout& dropout, const Tile& tile, long long m, unsigned long long* words)
        : dropout(dropout), words(words), first(tile.first) {
        bool is_whole = m <= tile.columns;
        int runs = is_whole ? 1 : tile.rows, size = is_whole ? tile.rows * (int)m : tile.columns;
        int blocks = (size + LANES - 2) / LANES + 1;   // that a run may lie in
        across = threadIdx.x & (tile.columns - 1);
        stride = is_whole ? m : blocks * LANES;
        drift = is_whole ? 0 : m;
        long long place = (dropout.before + first) * m + tile.column - across;
        start = (unsigned)place;
        for (int at = threadIdx.x; at < runs * blocks; at += THREADS) {
            long long from = place + at / blocks * m, block = from / LANES + at % blocks;
            if (block * LANES < from + size) share(dropout.drawn(block), words, at);
        }
        __syncthreads();
    }
    BLOCK T of(T x, long long row) const {
        unsigned down = row - first, along = (start + down * drift) % LANES;
        return dropout.of(x, words, down * stride + along + across);
    }
};
