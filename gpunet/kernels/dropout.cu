// Dropout: a thread draws one Philox block of 16 lanes; then the block of threads writes side by side.

KERNEL dropout(const T* x, const T* rate, const unsigned long long* key, const long long* clock, long long layer,
               T* y, long long n, long long m) {
    __shared__ unsigned long long words[4 * THREADS];
    double kept = rint((1.0 - (double)rate[0]) * 65536.0);
    unsigned keep16 = (unsigned)kept;
    T scale = T(65536.0 / kept);
    long long size = n * m, draws = (size + 15) / 16;
    for (long long first = blockIdx.x * (long long)THREADS; first < draws; first += gridDim.x * (long long)THREADS) {
        Words drawn = philox({(unsigned long long)(first + threadIdx.x) + 1, 0, (unsigned long long)clock[STEP],
                              (unsigned long long)layer}, key[0], key[1]);
        unsigned long long* mine = words + 4 * threadIdx.x;
        __syncthreads();
        mine[0] = drawn.a, mine[1] = drawn.b, mine[2] = drawn.c, mine[3] = drawn.d;
        __syncthreads();
        for (int lane = threadIdx.x; lane < 16 * THREADS && 16 * first + lane < size; lane += THREADS) {
            unsigned random = (unsigned)(words[lane / 4] >> (lane % 4 * 16)) & 65535u;
            long long i = 16 * first + lane;
            y[i] = random < keep16 ? x[i] * scale : T(0);
        }
    }
}
