// An activation with its bias.

#define VALUE JOINED(f_, VARIANT, )
#define GRADIENT JOINED(f_, VARIANT, _grad)

KERNEL forward(const T* z, const T* bias, T* y, T* work, long long n, long long m) {
    Tile tile(n, m, blockIdx.x, blockIdx.y);
    T offset = bias && tile.column < m ? bias[tile.column] : T(0);
    EACH_TILE_ROW(row, tile) {
        long long i = row * m + tile.column;
        y[i] = VALUE(z[i] + offset);
    }
}

// Where f' follows from y alone, z[i] + offset is not used and the compiler drops its loads.
KERNEL backward(const T* grad, const T* z, const T* bias, const T* y, T* dz, T* dbias, T* work,
                long long n, long long m) {
    __shared__ T shared[THREADS];
    Tile tile(n, m, blockIdx.x, blockIdx.y);
    T total = 0, offset = bias && tile.column < m ? bias[tile.column] : T(0);
    EACH_TILE_ROW(row, tile) {
        long long i = row * m + tile.column;
        T slope = GRADIENT(grad[i], z[i] + offset, y[i]);
        dz[i] = slope;
        total += slope;
    }
    if (!dbias) return;
    total = tile.sum(total, shared);
    if (tile.leads(m)) work[blockIdx.x * m + tile.column] = total;
}

KERNEL fold_bias_gradient(const T* grad, const T* z, const T* bias, const T* y, T* dz, T* dbias,
                          T* work, long long n, long long m) {
    __shared__ T shared[THREADS];
    if (dbias) fold_chunks(work, dbias, n, m, shared);
}
