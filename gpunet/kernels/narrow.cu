// Numbers in bfloat16, four at once where rows begin at multiples of that.

BLOCK float widened(unsigned short x) { return from_bits((unsigned)x << 16); }

KERNEL narrow(const float* x, unsigned short* y, long long size) {
    long long fours = ((unsigned long long)x | 2 * (unsigned long long)y) & 15 ? 0 : size / 4;
    EACH(at, fours) {
        Four<float> found = ((const Four<float>*)x)[at];
        Four<unsigned short> kept;
        _Pragma("unroll") for (int e = 0; e < 4; ++e) kept.of[e] = narrowed(found.of[e]);
        ((Four<unsigned short>*)y)[at] = kept;
    }
    EACH(over, size - 4 * fours) y[4 * fours + over] = narrowed(x[4 * fours + over]);
}

KERNEL relu_narrow_forward(const float* z, const unsigned short* bias, unsigned short* y,
                           long long n, long long m) {
    Tile tile(n, m, blockIdx.x, blockIdx.y);
    float offset = bias && tile.column < m ? widened(bias[tile.column]) : 0;
    EACH_SOME(round) {
        Some<float> sums = some(z, tile, round, m);
        EACH_OF_SOME(k, row, tile, round)
            y[row * m + tile.column] = narrowed(f_relu(sums.of[k] + offset));
    }
}

KERNEL relu_narrow_backward(const float* grad, const unsigned short* y, unsigned short* dz,
                            T* dbias, T* work, long long n, long long m) {
    __shared__ T shared[THREADS];
    Tile tile(n, m, blockIdx.x, blockIdx.y);
    T total = 0;
    EACH_SOME(round) {
        Some<float> upstream = some(grad, tile, round, m);
        Some<unsigned short> values = some(y, tile, round, m);
        EACH_OF_SOME(k, row, tile, round) {
            float slope = f_relu_grad(upstream.of[k], 0, widened(values.of[k]));
            dz[row * m + tile.column] = narrowed(slope);
            total += slope;
        }
    }
    if (!dbias) return;
    total = tile.sum(total, shared);
    store_sum(tile, total, dbias, work, m);
}

KERNEL fold_narrow_gradient(const float* grad, const unsigned short* y, unsigned short* dz,
                            T* dbias, T* work, long long n, long long m) {
    __shared__ T shared[THREADS];
    fold_chunks(work, dbias, n, m, shared);
}
