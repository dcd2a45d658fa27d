// Dropout: each thread draws a Philox block of 16 lanes; then the threads write side by side.

#define LANES 16

KERNEL dropout(const T* x, const T* rate, const double* hyper, const unsigned long long* key,
               const long long* clock, long long layer, T* y, long long n, long long m) {
    __shared__ unsigned long long words[4 * THREADS];
    double kept = rint((1.0 - (double)rate[0] * hyper[FADE]) * 65536.0);
    unsigned keep16 = (unsigned)kept;
    T scale = T(65536.0 / kept);
    unsigned long long step = clock[STEP], place = layer;
    long long stride = (long long)LANES * THREADS;
    for (long long first = blockIdx.x * stride; first < n * m; first += gridDim.x * stride) {
        unsigned long long block = first / LANES + threadIdx.x;
        Words drawn = philox({block + 1, 0, step, place}, key[0], key[1]);
        __syncthreads();
        words[4 * threadIdx.x] = drawn.a;
        words[4 * threadIdx.x + 1] = drawn.b;
        words[4 * threadIdx.x + 2] = drawn.c;
        words[4 * threadIdx.x + 3] = drawn.d;
        __syncthreads();
        for (int lane = threadIdx.x; lane < stride && first + lane < n * m; lane += THREADS) {
            unsigned random = (unsigned)(words[lane / 4] >> (lane % 4 * 16)) & 65535u;
            y[first + lane] = random < keep16 ? x[first + lane] * scale : T(0);
        }
    }
}
