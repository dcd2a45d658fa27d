// Rows of a table by number, and the gradient of that; the numbers apart, or as columns of floats.

KERNEL take(const T* x, const int* index, T* y, long long n, long long m) {
    Tile tile(n, m, blockIdx.x, blockIdx.y);
    EACH_TILE_ROW(row, tile) y[row * m + tile.column] = x[index[row] * m + tile.column];
}

KERNEL clear_rows(const T* grad, const int* index, T* dx, long long n, long long m, long long v) {
    EACH(i, v * m) dx[i] = 0;
}

// Writes the sum of those rows of `grad` (n, m), `stride` apart, whose number row_of is that of row
// i; the first of them owns it, and for another row nothing happens. All threads of a block.
template <class Number>
BLOCK void add_alike(const Number& row_of, long long i, const T* grad, long long stride, T* table,
                     long long n, long long m, T* shared) {
    __shared__ int earlier;
    long long row = row_of(i);
    __syncthreads();
    if (threadIdx.x == 0) earlier = 0;
    __syncthreads();
    for (long long j = threadIdx.x; j < i; j += THREADS)
        if (row_of(j) == row) earlier = 1;
    __syncthreads();
    if (earlier) return;
    for (long long strip = blockIdx.y;; strip += gridDim.y) {
        Tile tile(n, m, 0, strip);
        if (strip * tile.columns >= m) break;
        T total = 0;
        if (tile.column < m)
            for (long long j = i + tile.lane; j < n; j += tile.lanes)
                if (row_of(j) == row) total += grad[j * stride + tile.column];
        total = tile.sum(total, shared);
        if (tile.leads(m)) table[row * m + tile.column] = total;
    }
}

struct Numbers {
    const int* index;
    BLOCK long long operator()(long long i) const { return index[i]; }
};

KERNEL scatter_add(const T* grad, const int* index, T* dx, long long n, long long m, long long v) {
    __shared__ T shared[THREADS];
    for (long long i = blockIdx.x; i < n; i += gridDim.x)
        add_alike(Numbers{index}, i, grad, m, dx, n, m, shared);
}

// The table's rows for one column of codes: `low` … `high`; a code outside counts as the nearest.
struct Codes {
    const T* x;
    long long stride, low, high;
    BLOCK Codes(const T* x, const int* starts, long long stride, long long j, long long c,
                long long v)
        : x(x + j), stride(stride), low(starts[j]), high((j + 1 < c ? starts[j + 1] : v) - 1) {}
    BLOCK long long operator()(long long i) const {
        T code = x[i * stride], most = T(high - low);
        return low + (long long)(code > 0 ? (code < most ? code : most) : T(0));
    }
};

KERNEL embedding_forward(const T* x, const int* starts, const T* table, T* y, long long x_first,
                         long long y_first, long long n, long long d, long long m, long long c,
                         long long v, long long e) {
    EACH(i, n * c * e) {
        long long row = i / (c * e), column = i % (c * e);
        Codes row_of(x + x_first, starts, d, column / e, c, v);
        y[row * m + y_first + column] = table[row_of(row) * e + column % e];
    }
}

KERNEL clear_table(const T* grad, const T* x, const int* starts, T* dtable, long long x_first,
                   long long y_first, long long n, long long d, long long m, long long c,
                   long long v, long long e) {
    EACH(i, v * e) dtable[i] = 0;
}

KERNEL embedding_backward(const T* grad, const T* x, const int* starts, T* dtable,
                          long long x_first, long long y_first, long long n, long long d,
                          long long m, long long c, long long v, long long e) {
    __shared__ T shared[THREADS];
    for (long long i = blockIdx.x; i < n * c; i += gridDim.x) {
        long long j = i % c;
        add_alike(Codes(x + x_first, starts, d, j, c, v), i / c, grad + y_first + j * e, m, dtable,
                  n, e, shared);
    }
}
