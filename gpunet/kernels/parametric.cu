// An activation of which each column takes a share: y = u + share * (f(u) - u), u = z + bias; behind
// mask.h with the dropout of its values, or of their gradients.

#define VALUE JOINED(f_, VARIANT, )
#define GRADIENT JOINED(f_, VARIANT, _grad)

template <class M>
BLOCK void values(const Tile& tile, const M& mask, const T* z, const T* bias, const T* share, T* y,
                  T* masked, long long m) {
    T offset = bias && tile.column < m ? bias[tile.column] : T(0);
    T part = tile.column < m ? share[tile.column] : T(0);
    EACH_SOME(round) {
        Some<T> sums = some(z, tile, round, m);
        EACH_OF_SOME(k, row, tile, round) {
            long long i = row * m + tile.column;
            T u = sums.of[k] + offset, value = u + part * (VALUE(u) - u);
            if (y) y[i] = value;
            masked[i] = mask.of(value, row);
        }
    }
}

template <class M>
BLOCK void gradients(const Tile& tile, const M& mask, const T* grad, const T* z, const T* bias,
                     const T* share, T* dz, T* dbias, T* dshare, T* work, long long m, T* shared) {
    T offset = bias && tile.column < m ? bias[tile.column] : T(0);
    T part = tile.column < m ? share[tile.column] : T(0), total = 0, along = 0;
    EACH_SOME(round) {
        Some<T> upstream = some(grad, tile, round, m), sums = some(z, tile, round, m);
        EACH_OF_SOME(k, row, tile, round) {
            T g = mask.of(upstream.of[k], row), u = sums.of[k] + offset, value = VALUE(u);
            T slope = g + part * (GRADIENT(g, u, value) - g);
            dz[row * m + tile.column] = slope;
            total += slope;
            along += g * (value - u);
        }
    }
    total = tile.sum(total, shared);
    store_pair(tile, total, tile.sum(along, shared), dbias, dshare, work, m);
}

BLOCK void fold(T* dbias, T* dshare, const T* work, long long n, long long m, T* shared) {
    Tile tile(n, m, 0, blockIdx.x);
    if (dbias) fold_chunks(work, dbias, n, m, shared);
    fold_chunks(work + tile.chunks * m, dshare, n, m, shared);
}

#ifdef DROPOUT

KERNEL forward(const T* z, const T* bias, const T* share, T* y, DROPOUT, T* dropped, T* work,
               long long n, long long m) {
    __shared__ unsigned long long words[4 * Mask::DRAWS * THREADS];
    Tile tile(n, m, blockIdx.x, blockIdx.y);
    Mask mask({rate, hyper, key, clock, layer}, tile, m, words);
    values(tile, mask, z, bias, share, y, dropped, m);
}

KERNEL backward(const T* grad, DROPOUT, const T* z, const T* bias, const T* share, T* dz, T* dbias,
                T* dshare, T* work, long long n, long long m) {
    __shared__ unsigned long long words[4 * Mask::DRAWS * THREADS];
    __shared__ T shared[THREADS];
    Tile tile(n, m, blockIdx.x, blockIdx.y);
    Mask mask({rate, hyper, key, clock, layer}, tile, m, words);
    gradients(tile, mask, grad, z, bias, share, dz, dbias, dshare, work, m, shared);
}

KERNEL fold_gradients(const T* grad, DROPOUT, const T* z, const T* bias, const T* share, T* dz,
                      T* dbias, T* dshare, T* work, long long n, long long m) {
    __shared__ T shared[THREADS];
    fold(dbias, dshare, work, n, m, shared);
}

#else

KERNEL forward(const T* z, const T* bias, const T* share, T* y, T* work, long long n, long long m) {
    Tile tile(n, m, blockIdx.x, blockIdx.y);
    values(tile, Whole(), z, bias, share, nullptr, y, m);
}

KERNEL backward(const T* grad, const T* z, const T* bias, const T* share, T* dz, T* dbias, T* dshare,
                T* work, long long n, long long m) {
    __shared__ T shared[THREADS];
    Tile tile(n, m, blockIdx.x, blockIdx.y);
    gradients(tile, Whole(), grad, z, bias, share, dz, dbias, dshare, work, m, shared);
}

KERNEL fold_gradients(const T* grad, const T* z, const T* bias, const T* share, T* dz, T* dbias,
                      T* dshare, T* work, long long n, long long m) {
    __shared__ T shared[THREADS];
    fold(dbias, dshare, work, n, m, shared);
}

#endif
