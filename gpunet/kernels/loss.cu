// A loss: a team of threads a row writes its loss, then one block adds the rows up in order: of few
// rows the only one there is. Between the two, rows[i] is not weighted yet.

#if IS_sum_squares || IS_formula_sum
#define MEAN 0
#else
#define MEAN 1                                  // over the columns, and over the valid rows
#endif
#if IS_pinball
#define CONSTANT(column) parameter[column]
#else
#define CONSTANT(column) parameter[0]
#endif
#if IS_softmax_cross_entropy
typedef int Target;
#else
typedef T Target;
#endif

// What a batch's loss is divided by.
HD long long batch_rows(const long long* clock) {
    long long rows = clock[VALID] + clock[BEFORE];
    return MEAN && rows > 1 ? rows : 1;
}

// Weigh the rows, add them up in float64, and report. One block.
BLOCK void add_up(const T* weight, long long* clock, T* rows, double* totals, long long n,
                  double* shared) {
    double loss = 0;
    __syncthreads();
    long long valid = clock[VALID] < n ? clock[VALID] : n;
    for (long long i = threadIdx.x; i < n; i += THREADS) {
        if (weight && i < valid) rows[i] *= weight[i];
        loss += rows[i];
    }
    loss = summed(loss, threadIdx.x, THREADS, 1, shared);
    if (threadIdx.x) return;
    totals[0] = (clock[BEFORE] ? totals[0] : 0.0) + loss / batch_rows(clock);
    totals[1] += loss;
    totals[2] += valid < 0 ? 0.0 : (double)valid;
    if (!(totals[0] - totals[0] == 0)) clock[FAULT] |= FAULT_LOSS;
}

// What the gradient of row i is multiplied by.
HD T row_scale(const T* weight, const long long* clock, long long i) {
    return (weight ? weight[i] : T(1)) / batch_rows(clock);
}

#if IS_softmax_cross_entropy

HD T higher(T a, T b) { return b > a ? b : a; }

// The largest element of a row.
BLOCK T highest(T mine, const RowTeam& team, T* shared) {
    int me = threadIdx.x;
    __syncthreads();
    shared[me] = mine;
    for (int half = team.lanes / 2; half; half /= 2) {
        __syncthreads();
        if (team.lane < half) shared[me] = higher(shared[me], shared[me + half]);
    }
    __syncthreads();
    return shared[me - team.lane];
}

KERNEL row_losses(const T* pred, const Target* target, const T* weight, const T* parameter,
                  long long* clock, T* grad, T* rows, double* totals, long long n, long long k) {
    __shared__ T shared[THREADS];
    __shared__ double sums[THREADS];
    RowTeam team(k);
    T smoothing = parameter[0];
    EACH_ROW(i, team, n) {
        bool inside = i < n && i < clock[VALID];
        const T* row = pred + i * k;
        long long wanted = inside ? target[i] : -1;
        T top = -INFINITE, total = 0, picked = 0, below = 0;
        if (inside)
            for (long long j = team.lane; j < k; j += team.lanes) top = higher(top, row[j]);
        top = highest(top, team, shared);
        if (inside)
            for (long long j = team.lane; j < k; j += team.lanes) {
                T shifted = row[j] - top;
                total += f_exp(shifted);
                below += shifted;
                if (j == wanted) picked = shifted;
            }
        total = team.sum(total, shared);
        picked = team.sum(picked, shared);
        if (smoothing != 0)
            picked = (1 - smoothing) * picked + smoothing * (team.sum(below, shared) / k);
        if (i < n && team.lane == 0) rows[i] = inside ? f_log(total) - picked : T(0);
        if (!grad || i >= n) continue;
        T scale = inside ? row_scale(weight, clock, i) : T(0);
        for (long long j = team.lane; j < k; j += team.lanes) {
            T share = f_exp(row[j] - top) / total;
            T slope = softmax_grad(share, j == wanted, smoothing, k) * scale;
            grad[i * k + j] = inside ? slope : T(0);
        }
    }
    if (n * team.lanes > LOSS_ROUNDS * THREADS) return;
    add_up(weight, clock, rows, totals, n, sums);
}

#else

#define VALUE JOINED(loss_, VARIANT, )
#define GRADIENT JOINED(loss_, VARIANT, _grad)

KERNEL row_losses(const T* pred, const Target* target, const T* weight, const T* parameter,
                  long long* clock, T* grad, T* rows, double* totals, long long n, long long k) {
    __shared__ T shared[THREADS];
    __shared__ double sums[THREADS];
    RowTeam team(k);
    T divisor = MEAN ? T(k) : T(1);
    EACH_ROW(i, team, n) {
        bool inside = i < n && i < clock[VALID];
        T loss = 0, scale = inside ? row_scale(weight, clock, i) / divisor : T(0);
        for (long long j = i * k + team.lane; i < n && j < (i + 1) * k; j += team.lanes) {
            T p = pred[j], t = target[j], constant = CONSTANT(j - i * k);
            loss += VALUE(p, t, constant);
            if (grad) grad[j] = inside ? GRADIENT(p, t, constant) * scale : T(0);
        }
        loss = team.sum(loss, shared) / divisor;
        if (i < n && team.lane == 0) rows[i] = inside ? loss : T(0);
    }
    if (n * team.lanes > LOSS_ROUNDS * THREADS) return;
    add_up(weight, clock, rows, totals, n, sums);
}

#endif

KERNEL fold_rows(const T* pred, const Target* target, const T* weight, const T* parameter,
                 long long* clock, T* grad, T* rows, double* totals, long long n, long long k) {
    __shared__ double sums[THREADS];
    add_up(weight, clock, rows, totals, n, sums);
}
