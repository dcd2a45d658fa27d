// Dropout: each thread draws a Philox block of 16 lanes; then the threads write side by side. The
// rows of x are rows of a batch: they begin `skipped` lanes behind the start of a block.

#define LANES 16

KERNEL dropout(const T* x, const T* rate, const double* hyper, const unsigned long long* key,
               const long long* clock, long long layer, T* y, long long n, long long m) {
    __shared__ unsigned long long words[4 * THREADS];
    double kept = rint((1.0 - (double)rate[0] * hyper[FADE]) * 65536.0);
    unsigned keep16 = (unsigned)kept;
    T scale = T(65536.0 / kept);
    unsigned long long step = clock[STEP], place = layer;
    long long stride = (long long)LANES * THREADS, before = clock[BEFORE] * m;
    long long skipped = before % LANES, size = n * m + skipped;
    for (long long first = blockIdx.x * stride; first < size; first += gridDim.x * stride) {
        unsigned long long block = before / LANES + first / LANES + threadIdx.x;
        Words drawn = philox({block + 1, 0, step, place}, key[0], key[1]);
        __syncthreads();
        words[4 * threadIdx.x] = drawn.a;
        words[4 * threadIdx.x + 1] = drawn.b;
        words[4 * threadIdx.x + 2] = drawn.c;
        words[4 * threadIdx.x + 3] = drawn.d;
        __syncthreads();
        for (int lane = threadIdx.x; lane < stride && first + lane < size; lane += THREADS) {
            unsigned random = (unsigned)(words[lane / 4] >> (lane % 4 * 16)) & 65535u;
            long long i = first + lane - skipped;
            if (i >= 0) y[i] = random < keep16 ? x[i] * scale : T(0);
        }
    }
}
