// An activation with its bias; behind mask.h with the dropout of its values, or of their gradients.

#define VALUE JOINED(f_, VARIANT, )
#define GRADIENT JOINED(f_, VARIANT, _grad)

template <class M>
BLOCK void values(const Tile& tile, const M& mask, const T* z, const T* bias, T* y, T* masked,
                  long long m) {
    T offset = bias && tile.column < m ? bias[tile.column] : T(0);
    EACH_SOME(round) {
        Some<T> sums = some(z, tile, round, m);
        EACH_OF_SOME(k, row, tile, round) {
            long long i = row * m + tile.column;
            T value = VALUE(sums.of[k] + offset);
            if (y) y[i] = value;
            masked[i] = mask.of(value, row);
        }
    }
}

// Where f' follows from y alone, the sums are not used and the compiler drops their loads.
template <class M>
BLOCK void gradients(const Tile& tile, const M& mask, const T* grad, const T* z, const T* bias,
                     const T* y, T* dz, T* dbias, T* work, long long m, T* shared) {
    T total = 0, offset = bias && tile.column < m ? bias[tile.column] : T(0);
    EACH_SOME(round) {
        Some<T> upstream = some(grad, tile, round, m), sums = some(z, tile, round, m);
        Some<T> values = some(y, tile, round, m);
        EACH_OF_SOME(k, row, tile, round) {
            T slope = GRADIENT(mask.of(upstream.of[k], row), sums.of[k] + offset, values.of[k]);
            dz[row * m + tile.column] = slope;
            total += slope;
        }
    }
    if (!dbias) return;
    total = tile.sum(total, shared);
    store_sum(tile, total, dbias, work, m);
}

#ifdef DROPOUT

KERNEL forward(const T* z, const T* bias, T* y, DROPOUT, T* dropped, T* work, long long n,
               long long m) {
    __shared__ unsigned long long words[4 * Mask::DRAWS * THREADS];
    Tile tile(n, m, blockIdx.x, blockIdx.y);
    Mask mask({rate, hyper, key, clock, layer}, tile, m, words);
    values(tile, mask, z, bias, y, dropped, m);
}

KERNEL backward(const T* grad, DROPOUT, const T* z, const T* bias, const T* y, T* dz, T* dbias,
                T* work, long long n, long long m) {
    __shared__ unsigned long long words[4 * Mask::DRAWS * THREADS];
    __shared__ T shared[THREADS];
    Tile tile(n, m, blockIdx.x, blockIdx.y);
    Mask mask({rate, hyper, key, clock, layer}, tile, m, words);
    gradients(tile, mask, grad, z, bias, y, dz, dbias, work, m, shared);
}

KERNEL fold_bias_gradient(const T* grad, DROPOUT, const T* z, const T* bias, const T* y, T* dz,
                          T* dbias, T* work, long long n, long long m) {
    __shared__ T shared[THREADS];
    fold_chunks(work, dbias, n, m, shared);
}

#else

KERNEL forward(const T* z, const T* bias, T* y, T* work, long long n, long long m) {
    Tile tile(n, m, blockIdx.x, blockIdx.y);
    values(tile, Whole(), z, bias, nullptr, y, m);
}

KERNEL backward(const T* grad, const T* z, const T* bias, const T* y, T* dz, T* dbias, T* work,
                long long n, long long m) {
    __shared__ T shared[THREADS];
    Tile tile(n, m, blockIdx.x, blockIdx.y);
    gradients(tile, Whole(), grad, z, bias, y, dz, dbias, work, m, shared);
}

KERNEL fold_bias_gradient(const T* grad, const T* z, const T* bias, const T* y, T* dz, T* dbias,
                          T* work, long long n, long long m) {
    __shared__ T shared[THREADS];
    fold_chunks(work, dbias, n, m, shared);
}

#endif
