// Rows into batches: gather_<dtype of x>, gather_labels, gather_weights; column sums; windows.

HD long long source_row(const int* order, const long long* clock, long long i) {
    long long place = clock[START] + i;
    return order ? order[place] : place;
}

template <class X> BLOCK T taken(X found, const double* scale, const double* shift, long long j) {
    return scale || shift ? T(found * (scale ? scale[j] : 1.0) + (shift ? shift[j] : 0.0)) : T(found);
}

// Four columns at once where rows of both begin at multiples of that.
template <class X>
BLOCK void gather(const X* x, const double* scale, const double* shift, const int* order,
                  const long long* clock, T* out, long long n, long long d) {
    unsigned long long where = (unsigned long long)x | (unsigned long long)out;
    long long valid = clock[VALID], wide = d % 4 || where % 16 ? 1 : 4, across = d / wide;
    EACH(i, n * across) {
        long long row = i / across, j = (i - row * across) * wide, to = row * d + j;
        long long from = row < valid ? source_row(order, clock, row) * d + j : 0;
        if (wide == 1) {
            out[to] = row < valid ? taken(x[from], scale, shift, j) : T(0);
            continue;
        }
        Four<X> found = {};
        if (row < valid) found = *(const Four<X>*)(x + from);
        Four<T> kept = {};
        if (row < valid)
            _Pragma("unroll") for (int e = 0; e < 4; ++e)
                kept.of[e] = taken(found.of[e], scale, shift, j + e);
        *(Four<T>*)(out + to) = kept;
    }
}

#define GATHER(dtype, X) \
    KERNEL gather_##dtype(const X* x, const double* scale, const double* shift, const int* order, \
                          const long long* clock, T* out, long long n, long long d) { \
        gather(x, scale, shift, order, clock, out, n, d); \
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
    store_sum(tile, total, out, work, m);
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
