// Work that a whole block shares: sums in a fixed order, over rows or over columns, without atomics.
// Every function with `shared` must be called by all threads of the block.

#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)
#define EACH(i, count) \
    for (long long i = blockIdx.x * (long long)THREADS + threadIdx.x; i < (count); \
         i += gridDim.x * (long long)THREADS)

// Row and column of element i of a matrix with m columns; 32-bit division is several times cheaper.
HD long long row_of(long long i, long long m) {
    return i >> 32 | m >> 32 ? i / m : (long long)((unsigned)i / (unsigned)m);
}
HD long long column_of(long long i, long long m) { return i - row_of(i, m) * m; }

__device__ __forceinline__ int power_of_two(long long n, int limit) {
    int power = 1;
    while (power < limit && power < n) power *= 2;
    return power;
}

// The sum of x over the `lanes` threads that are `stride` apart, given to all of them. lanes is a power of two;
// the threads of one sum lie within lanes * stride neighbours. shared: THREADS elements.
template <class V>
__device__ __forceinline__ V summed(V x, int lanes, int stride, V* shared) {
    int me = threadIdx.x, lane = me / stride % lanes;
    __syncthreads();
    shared[me] = x;
    for (int half = lanes / 2; half; half /= 2) {
        __syncthreads();
        if (lane < half) shared[me] += shared[me + half * stride];
    }
    __syncthreads();
    return shared[me - lane * stride];
}

// Rows: as many threads a row as it has columns, at most a block. `rows` rows fit a block.
struct RowTeam {
    int lanes, lane, rows, row;
    __device__ __forceinline__ RowTeam(long long columns) {
        lanes = power_of_two(columns, THREADS);
        lane = threadIdx.x % lanes;
        rows = THREADS / lanes;
        row = threadIdx.x / lanes;
    }
};
// All threads of a block make the same number of rounds; `i` may be n or more in the last one.
#define EACH_ROW(i, team, n) \
    for (long long i##_first = blockIdx.x * (long long)(team).rows, i = i##_first + (team).row; i##_first < (n); \
         i##_first += gridDim.x * (long long)(team).rows, i += gridDim.x * (long long)(team).rows)

// Columns: a tile is `columns` wide and `rows` high, a thread adds up TILE_ROUNDS rows of its column.
// Grids: (chunks of rows, strips of columns) to sum the tiles, (strips) to fold the chunks.
struct ColumnTile {
    int columns, lanes, lane, rows;
    long long column, first, last, chunks;
    __device__ __forceinline__ ColumnTile(long long n, long long m, long long chunk, long long strip) {
        columns = power_of_two(m, TILE_COLUMNS);
        lanes = THREADS / columns;
        lane = threadIdx.x / columns;
        rows = lanes * TILE_ROUNDS;
        column = strip * columns + threadIdx.x % columns;
        first = chunk * rows;
        last = first + rows < n ? first + rows : n;
        chunks = (n + rows - 1) / rows;
    }
    __device__ __forceinline__ T sum(T x, T* shared) const { return summed(x, lanes, columns, shared); }
    // The sum of column `column` of parts (chunks, m).
    __device__ __forceinline__ T fold(const T* parts, long long m, T* shared) const {
        T total = 0;
        if (column < m)
            for (long long chunk = lane; chunk < chunks; chunk += lanes) total += parts[chunk * m + column];
        return sum(total, shared);
    }
};

// out (m,) = the sum of parts (chunks, m), the tile sums of n rows. Grid: strips.
__device__ __forceinline__ void fold_chunks(const T* parts, T* out, long long n, long long m, T* shared) {
    ColumnTile tile(n, m, 0, blockIdx.x);
    T total = tile.fold(parts, m, shared);
    if (tile.lane == 0 && tile.column < m) out[tile.column] = total;
}
