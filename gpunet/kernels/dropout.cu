// Dropout: each thread draws a Philox block; then the threads write side by side. The rows of x are
// rows of a batch: they begin `skipped` lanes behind the start of a block.

KERNEL dropout(const T* x, DROPOUT, T* y, long long n, long long m) {
    __shared__ unsigned long long words[4 * THREADS];
    Dropout dropout(rate, hyper, key, clock, layer);
    long long stride = (long long)LANES * THREADS, before = dropout.before * m;
    long long skipped = before % LANES, size = n * m + skipped;
    for (long long first = blockIdx.x * stride; first < size; first += gridDim.x * stride) {
        Words drawn = dropout.drawn(before / LANES + first / LANES + threadIdx.x);
        __syncthreads();
        share(drawn, words, threadIdx.x);
        __syncthreads();
        for (int lane = threadIdx.x; lane < stride && first + lane < size; lane += THREADS) {
            long long i = first + lane - skipped;
            if (i >= 0) y[i] = dropout.of(x[i], words, lane);
        }
    }
}
