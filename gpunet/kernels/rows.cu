// Rows in and out of batches. Batches: entries gather_<dtype of x>, gather_labels. Embeddings: take, scatter_add.

HD long long source_row(const int* order, const long long* clock, long long i) {
    long long place = clock[START] + i;
    return order ? order[place] : place;
}

#define GATHER(dtype, X) \
    KERNEL gather_##dtype(const X* x, const double* scale, const double* shift, const int* order, \
                          const long long* clock, T* out, long long n, long long d) { \
        Tile tile(n, d, blockIdx.x, blockIdx.y); \
        long long j = tile.column, valid = clock[VALID]; \
        double factor = scale && j < d ? scale[j] : 1.0, offset = shift && j < d ? shift[j] : 0.0; \
        EACH_TILE_ROW(row, tile) { \
            X found = row < valid ? x[source_row(order, clock, row) * d + j] : (X)0; \
            T value = scale || shift ? T(found * factor + offset) : T(found); \
            out[row * d + j] = row < valid ? value : T(0); \
        } \
    }

GATHER(uint8, unsigned char)
GATHER(float32, float)
GATHER(float64, double)

KERNEL gather_labels(const int* y, const int* order, const long long* clock, int* out, long long n) {
    EACH(i, n) out[i] = i < clock[VALID] ? y[source_row(order, clock, i)] : 0;
}

KERNEL take(const T* x, const int* index, T* y, long long n, long long m) {
    Tile tile(n, m, blockIdx.x, blockIdx.y);
    EACH_TILE_ROW(row, tile) y[row * m + tile.column] = x[index[row] * m + tile.column];
}

KERNEL clear_rows(const T* grad, const int* index, T* dx, long long n, long long m, long long v) {
    EACH(i, v * m) dx[i] = 0;
}

// The first row of grad with an index owns it: its block adds up all rows with that index.
KERNEL scatter_add(const T* grad, const int* index, T* dx, long long n, long long m, long long v) {
    __shared__ T shared[THREADS];
    __shared__ int earlier;
    for (long long i = blockIdx.x; i < n; i += gridDim.x) {
        __syncthreads();
        if (threadIdx.x == 0) earlier = 0;
        __syncthreads();
        for (long long j = threadIdx.x; j < i; j += THREADS)
            if (index[j] == index[i]) earlier = 1;
        __syncthreads();
        if (earlier) continue;
        for (long long strip = blockIdx.y; strip * TILE_COLUMNS < m; strip += gridDim.y) {
            Tile tile(n, m, 0, strip);
            T total = 0;
            if (tile.column < m)
                for (long long j = i + tile.lane; j < n; j += tile.lanes)
                    if (index[j] == index[i]) total += grad[j * m + tile.column];
            total = tile.sum(total, shared);
            if (tile.leads(m)) dx[index[i] * m + tile.column] = total;
        }
    }
}

KERNEL column_sums(const T* x, T* out, T* work, long long n, long long m) {
    __shared__ T shared[THREADS];
    Tile tile(n, m, blockIdx.x, blockIdx.y);
    T total = 0;
    EACH_TILE_ROW(row, tile) total += x[row * m + tile.column];
    total = tile.sum(total, shared);
    if (tile.leads(m)) work[blockIdx.x * m + tile.column] = total;
}

KERNEL fold_columns(const T* x, T* out, T* work, long long n, long long m) {
    __shared__ T shared[THREADS];
    fold_chunks(work, out, n, m, shared);
}
