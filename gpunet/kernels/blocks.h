// Work that a block of threads shares: sums over rows or columns, in a fixed order, no atomics.
// A function that takes `shared` must be called by all threads of the block.

#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS, 1)
#define BLOCK __device__ __forceinline__
#define JOINED(a, b, c) JOINED_AS_GIVEN(a, b, c)
#define JOINED_AS_GIVEN(a, b, c) a##b##c

// Element i of `count`, in strides of the grid.
#define EACH(i, count) \
    _Pragma("unroll 1") \
    for (long long i = blockIdx.x * (long long)THREADS + threadIdx.x; i < (count); \
         i += gridDim.x * (long long)THREADS)

// Elements that are loaded or stored at once, where they lie so that this can be.
template <class X> struct alignas(4 * sizeof(X) < 16 ? 4 * sizeof(X) : 16) Four { X of[4]; };

BLOCK int power_of_two(long long n, int limit) {
    int power = 1;
    while (power < limit && power < n) power *= 2;
    return power;
}

// The sum of x over the `lanes` threads that are `stride` apart, given to all of them; this one is
// number `lane`. lanes is a power of two; shared holds THREADS elements.
template <class V>
BLOCK V summed(V x, int lane, int lanes, int stride, V* shared) {
    int me = threadIdx.x;
    __syncthreads();
    shared[me] = x;
    for (int half = lanes / 2; half; half /= 2) {
        __syncthreads();
        if (lane < half) shared[me] += shared[me + half * stride];
    }
    __syncthreads();
    return shared[me - lane * stride];
}

// Rows: a team of as many threads as there are columns, at most a block; `rows` teams in a block.
struct RowTeam {
    int lanes, lane, rows, row;
    BLOCK RowTeam(long long columns) {
        lanes = power_of_two(columns, THREADS);
        lane = threadIdx.x & (lanes - 1);
        rows = THREADS / lanes;
        row = threadIdx.x / lanes;
    }
    template <class V>
    BLOCK V sum(V x, V* shared) const { return summed(x, lane, lanes, 1, shared); }
};
// All threads of a block make the same number of rounds; `i` may be n or more in the last one.
#define EACH_ROW(i, team, n) \
    for (long long i##_first = blockIdx.x * (long long)(team).rows, i = i##_first + (team).row; \
         i##_first < (n); \
         i##_first += gridDim.x * (long long)(team).rows, i += gridDim.x * (long long)(team).rows)

// Columns: a tile of a matrix (n, m) is `columns` wide and `rows` high; a thread has one column of
// it and TILE_ROUNDS rows. Grids: (chunks of rows, strips of columns), or (strips) to fold chunks,
// if there are several: FEW_ROWS rows are one, unless that would be more strips than a grid has.
struct Tile {
    int columns, lanes, lane, rows;
    long long column, first, last, chunks;
    BLOCK Tile(long long n, long long m, long long chunk, long long strip) {
        columns = power_of_two(m, TILE_COLUMNS);
        while (n <= FEW_ROWS && THREADS / columns * TILE_ROUNDS < n &&
               m <= columns / 2 * (long long)MOST_STRIPS)
            columns /= 2;
        lanes = THREADS / columns;
        lane = threadIdx.x / columns;
        rows = lanes * TILE_ROUNDS;
        column = strip * columns + (threadIdx.x & (columns - 1));
        first = chunk * rows;
        last = column >= m ? first : (first + rows < n ? first + rows : n);
        chunks = (n + rows - 1) / rows;
    }
    BLOCK long long row(int round) const { return first + lane + (long long)round * lanes; }
    BLOCK T sum(T x, T* shared) const { return summed(x, lane, lanes, columns, shared); }
    BLOCK bool leads(long long m) const { return lane == 0 && column < m; }
};
// The rows of `tile` that are this thread's, none where its column is outside.
#define EACH_TILE_ROW(row, tile) \
    _Pragma("unroll 4") \
    for (long long row = (tile).first + (tile).lane; row < (tile).last; row += (tile).lanes)

// The same, some rows at a time: EACH_SOME has the first round of each time. What is read of them is
// read before anything is written, since the compiler cannot know what shares memory.
enum { SOME = 4 };
static_assert(TILE_ROUNDS % SOME == 0, "rounds are taken by so many");
#define EACH_SOME(round) \
    _Pragma("unroll 1") for (int round = 0; round < TILE_ROUNDS; round += SOME)
#define EACH_OF_SOME(k, row, tile, round) \
    _Pragma("unroll") for (int k = 0; k < SOME; ++k) \
        if (long long row = (tile).row((round) + k); row < (tile).last)

template <class X> struct Some { X of[SOME]; };
template <class X> BLOCK Some<X> some(const X* x, const Tile& tile, int round, long long m) {
    Some<X> found = {};
    EACH_OF_SOME(k, row, tile, round) found.of[k] = x[row * m + tile.column];
    return found;
}

// What becomes of the numbers of a tile: no dropout, as in mask.h.
struct Whole {
    BLOCK T of(T x, long long row) const { return x; }
};

// The sum of a tile's column: of a single chunk it is out[column], if that is wanted; of several
// one of the parts that fold_chunks adds up.
BLOCK void store_sum(const Tile& tile, T sum, T* out, T* parts, long long m) {
    if (!tile.leads(m)) return;
    if (tile.chunks > 1) parts[blockIdx.x * m + tile.column] = sum;
    else if (out) out[tile.column] = sum;
}

// out (m,) = the sum of parts (chunks, m), the tile sums of n rows. Grid: strips.
BLOCK void fold_chunks(const T* parts, T* out, long long n, long long m, T* shared) {
    Tile tile(n, m, 0, blockIdx.x);
    T total = 0;
    if (tile.column < m)
        for (long long chunk = tile.lane; chunk < tile.chunks; chunk += tile.lanes)
            total += parts[chunk * m + tile.column];
    total = tile.sum(total, shared);
    if (tile.leads(m)) out[tile.column] = total;
}

// The same of two sums over the same columns: parts (2, chunks, m).
BLOCK void store_pair(const Tile& tile, T first, T second, T* first_out, T* second_out, T* parts,
                      long long m) {
    store_sum(tile, first, first_out, parts, m);
    store_sum(tile, second, second_out, parts + tile.chunks * m, m);
}

BLOCK void fold_pair(const T* parts, T* first, T* second, long long n, long long m, T* shared) {
    Tile tile(n, m, 0, blockIdx.x);
    fold_chunks(parts, first, n, m, shared);
    fold_chunks(parts + tile.chunks * m, second, n, m, shared);
}

// The numbers of a step, by the schedule (entries, 3), whose last entry holds on.
BLOCK void set_hyper(double* hyper, const double* table, long long entries, long long step) {
    const double* now = table + 3 * (step < entries ? step : entries - 1);
    hyper[LR] = now[0] * hyper[SCALE];
    hyper[DECAY] = now[1];
    hyper[FADE] = now[2];
    hyper[CORRECTION1] = 1 - pow(hyper[BETA1], (double)step);
    hyper[CORRECTION2] = 1 - pow(hyper[BETA2], (double)step);
}

// What an optimiser's step needs, of a segment with its share of the rate and of the decay.
BLOCK Rate rate_of(const double* hyper, double pace, double decays) {
    T lr = T(hyper[LR] * pace), decay = T(hyper[DECAY] * decays);
    return {lr, decay, T(hyper[CLIP]), T(hyper[BETA1]), T(1 - hyper[BETA1]), T(hyper[BETA2]),
            T(1 - hyper[BETA2]), T(hyper[EPSILON]), lr / T(hyper[CORRECTION1]),
            1 / f_sqrt(T(hyper[CORRECTION2]))};
}

// Move one parameter, unless its gradient, its new value or what is kept of it is not finite: a
// square that is infinite would hold it for ever. The fault bits.
typedef T Step(const Rate& rate, T p, T g, T& first, T& second);
template <Step step> BLOCK int moved(const Rate& rate, T& param, T g, T& first, T& second) {
    T a = first, b = second, p = step(rate, param, g, a, b);
    if (!is_finite(g * rate.clip)) return FAULT_GRADIENT;
    if (!is_finite(p) || !is_finite(a + b)) return FAULT_PARAMETER;
    param = p, first = a, second = b;
    return 0;
}

// The last block to arrive shows the faults of all, so that none stops a block of its own launch.
BLOCK void report(long long* clock, int fault) {
    unsigned long long* shared_clock = (unsigned long long*)clock;
    if (fault) atomicOr(shared_clock + PENDING, (unsigned long long)fault);
    __threadfence();
    __syncthreads();
    if (threadIdx.x || atomicAdd(shared_clock + ARRIVED, 1ull) + 1 < gridDim.x) return;
    __threadfence();
    clock[FAULT] |= (long long)atomicExch(shared_clock + PENDING, 0ull);
    clock[ARRIVED] = 0;
}
