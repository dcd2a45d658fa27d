// Activations with their bias. Entries: name_forward, name_backward, fold_bias_gradient.

#define ACTIVATION(name, reads_input) \
    KERNEL name##_forward(const T* z, const T* bias, T* y, T* work, long long n, long long m) { \
        Tile tile(n, m, blockIdx.x, blockIdx.y); \
        T offset = bias && tile.column < m ? bias[tile.column] : T(0); \
        EACH_TILE_ROW(row, tile) { \
            long long i = row * m + tile.column; \
            y[i] = f_##name(z[i] + offset); \
        } \
    } \
    KERNEL name##_backward(const T* grad, const T* z, const T* bias, const T* y, T* dz, T* dbias, \
                           T* work, long long n, long long m) { \
        __shared__ T shared[THREADS]; \
        Tile tile(n, m, blockIdx.x, blockIdx.y); \
        T total = 0, offset = reads_input && bias && tile.column < m ? bias[tile.column] : T(0); \
        EACH_TILE_ROW(row, tile) { \
            long long i = row * m + tile.column; \
            T slope = f_##name##_grad(grad[i], reads_input ? z[i] + offset : T(0), y[i]); \
            dz[i] = slope; \
            total += slope; \
        } \
        if (!dbias) return; \
        total = tile.sum(total, shared); \
        if (tile.leads(m)) work[blockIdx.x * m + tile.column] = total; \
    }

ACTIVATION(identity, false)
ACTIVATION(sigmoid, false)
ACTIVATION(tanh, false)
ACTIVATION(relu, false)
ACTIVATION(selu, false)
ACTIVATION(gelu, true)
ACTIVATION(silu, true)
ACTIVATION(mish, true)

KERNEL fold_bias_gradient(const T* grad, const T* z, const T* bias, const T* y, T* dz, T* dbias,
                          T* work, long long n, long long m) {
    __shared__ T shared[THREADS];
    if (dbias) fold_chunks(work, dbias, n, m, shared);
}
