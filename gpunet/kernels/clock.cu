// The clock of a run of steps, a gradient's sum over micro-batches, and its norm.

KERNEL tick(long long* clock, double* hyper, const double* table, long long batch, long long size) {
    if (threadIdx.x || clock[FAULT]) return;
    long long step = clock[STEP] + 1, next = clock[START] + batch;
    long long start = next < clock[ROWS] ? next : 0, left = clock[ROWS] - start;
    clock[STEP] = step;
    clock[START] = start;
    clock[VALID] = left < batch ? left : batch;
    set_hyper(hyper, table, size, step);
}

KERNEL micro_batch(long long* clock, long long rows, long long batch) {
    if (threadIdx.x) return;
    long long before = clock[BEFORE], by = before + rows < batch ? rows : -before;
    clock[START] += by;
    clock[VALID] -= by;
    clock[BEFORE] = before + by;
}

KERNEL show_faults(long long* found, long long* clock, long long size) {
    if (threadIdx.x) return;
    for (long long i = 0; i < size; ++i) {
        clock[FAULT] |= found[i];
        found[i] = 0;
    }
}

KERNEL accumulate(const T* grad, T* total, const long long* clock, long long size) {
    bool is_first = clock[BEFORE] == 0;
    EACH(i, size) total[i] = is_first ? grad[i] : total[i] + grad[i];
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
