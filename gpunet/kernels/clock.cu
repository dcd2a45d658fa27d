// The clock of a run of steps, and the gradient's norm.

KERNEL tick(long long* clock, double* hyper, const double* table, long long batch, long long size) {
    if (threadIdx.x || clock[FAULT]) return;
    long long step = clock[STEP] + 1, next = clock[START] + batch;
    long long start = next < clock[ROWS] ? next : 0, left = clock[ROWS] - start;
    clock[STEP] = step;
    clock[START] = start;
    clock[VALID] = left < batch ? left : batch;
    set_hyper(hyper, table, size, step);
}

KERNEL squared_norm(const T* grad, double* out, T* work, long long size) {
    __shared__ double shared[THREADS];
    double total = 0;
    EACH(i, size) total += (double)grad[i] * (double)grad[i];
    total = summed(total, threadIdx.x, THREADS, 1, shared);
    if (threadIdx.x == 0) ((double*)work)[blockIdx.x] = total;
}

KERNEL fold_norm(const T* grad, double* out, T* work, long long size) {
    __shared__ double shared[THREADS];
    double total = 0;
    long long partials = (size + THREADS - 1) / THREADS;
    if (partials > PARTIALS) partials = PARTIALS;
    for (int i = threadIdx.x; i < partials; i += THREADS) total += ((double*)work)[i];
    total = summed(total, threadIdx.x, THREADS, 1, shared);
    if (threadIdx.x == 0) out[0] = total;
}

KERNEL clip(const double* squared, double* hyper) {
    double factor = hyper[LIMIT] / sqrt(squared[0]);
    if (threadIdx.x == 0) hyper[CLIP] = factor >= 1 ? 1.0 : factor;         // NaN stays NaN
}
