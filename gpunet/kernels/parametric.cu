// An activation of which each column takes a share: y = u + share * (f(u) - u), u = z + bias.

#define VALUE JOINED(f_, VARIANT, )
#define GRADIENT JOINED(f_, VARIANT, _grad)

KERNEL forward(const T* z, const T* bias, const T* share, T* y, T* work, long long n, long long m) {
    Tile tile(n, m, blockIdx.x, blockIdx.y);
    T offset = bias && tile.column < m ? bias[tile.column] : T(0);
    T part = tile.column < m ? share[tile.column] : T(0);
    EACH_TILE_ROW(row, tile) {
        long long i = row * m + tile.column;
        T u = z[i] + offset;
        y[i] = u + part * (VALUE(u) - u);
    }
}

KERNEL backward(const T* grad, const T* z, const T* bias, const T* share, T* dz, T* dbias, T* dshare,
                T* work, long long n, long long m) {
    __shared__ T shared[THREADS];
    Tile tile(n, m, blockIdx.x, blockIdx.y);
    T offset = bias && tile.column < m ? bias[tile.column] : T(0);
    T part = tile.column < m ? share[tile.column] : T(0), total = 0, along = 0;
    EACH_TILE_ROW(row, tile) {
        long long i = row * m + tile.column;
        T g = grad[i], u = z[i] + offset, value = VALUE(u);
        T slope = g + part * (GRADIENT(g, u, value) - g);
        dz[i] = slope;
        total += slope;
        along += g * (value - u);
    }
    total = tile.sum(total, shared);
    store_pair(tile, total, tile.sum(along, shared), work, m);
}

KERNEL fold_gradients(const T* grad, const T* z, const T* bias, const T* share, T* dz, T* dbias,
                      T* dshare, T* work, long long n, long long m) {
    __shared__ T shared[THREADS];
    Tile tile(n, m, 0, blockIdx.x);
    if (dbias) fold_chunks(work, dbias, n, m, shared);
    fold_chunks(work + tile.chunks * m, dshare, n, m, shared);
}
