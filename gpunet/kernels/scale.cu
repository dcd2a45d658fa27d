// A factor for each column.

KERNEL scale_forward(const T* x, const T* scale, T* y, long long n, long long m) {
    Tile tile(n, m, blockIdx.x, blockIdx.y);
    T factor = tile.column < m ? scale[tile.column] : T(0);
    EACH_SOME(round) {
        Some<T> given = some(x, tile, round, m);
        EACH_OF_SOME(k, row, tile, round) y[row * m + tile.column] = given.of[k] * factor;
    }
}

KERNEL scale_backward(const T* grad, const T* x, const T* scale, T* dx, T* dscale, T* work,
                      long long n, long long m) {
    __shared__ T shared[THREADS];
    Tile tile(n, m, blockIdx.x, blockIdx.y);
    T total = 0, factor = tile.column < m ? scale[tile.column] : T(0);
    EACH_SOME(round) {
        Some<T> upstream = some(grad, tile, round, m), given = some(x, tile, round, m);
        EACH_OF_SOME(k, row, tile, round) {
            total += upstream.of[k] * given.of[k];
            if (dx) dx[row * m + tile.column] = upstream.of[k] * factor;
        }
    }
    total = tile.sum(total, shared);
    store_sum(tile, total, dscale, work, m);
}

KERNEL fold_scale(const T* grad, const T* x, const T* scale, T* dx, T* dscale, T* work, long long n,
                  long long m) {
    __shared__ T shared[THREADS];
    fold_chunks(work, dscale, n, m, shared);
}
