// Rows into batches: gather_<dtype of x>, gather_labels, gather_weights; column sums; windows.

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

#define GATHER_EACH(name, Y) \
    KERNEL name(const Y* y, const int* order, const long long* clock, Y* out, long long n) { \
        EACH(i, n) out[i] = i < clock[VALID] ? y[source_row(order, clock, i)] : (Y)0; \
    }

GATHER_EACH(gather_labels, int)
GATHER_EACH(gather_weights, T)

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

KERNEL copy_columns(const T* x, T* y, long long x_first, long long y_first, long long width,
                    long long n, long long d, long long m) {
    EACH(i, n * width) {
        long long row = i / width, j = i % width;
        y[row * m + y_first + j] = x[row * d + x_first + j];
    }
}
