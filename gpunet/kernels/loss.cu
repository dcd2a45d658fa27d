// Losses: a team of threads a row writes its loss, then one block adds the rows up in order.
// Between the two stages rows[i] holds the unweighted loss, and its sign says whether the row is right.

#define LOSS(name) \
    KERNEL name(const T* pred, const TARGET* target, const T* weight, const T* parameter, long long* clock, T* grad, \
                T* rows, double* totals, long long n, long long k)

#define TARGET T

// What the gradient of row i is multiplied by.
HD T row_scale(const T* weight, long long i, long long count) { return (weight ? weight[i] : T(1)) / T(count); }

HD long long batch_rows(const long long* clock) { return clock[VALID] > 1 ? clock[VALID] : 1; }

BLOCK void write_row(T* rows, long long i, T loss, bool right) { rows[i] = right ? -loss : loss; }

// The sign bit, which -0 has too; a row without a loss is not right.
HD bool is_right(T row) { return row == row && bits_of(row) >> (T_BITS - 1); }

// An elementwise loss: the row's loss is the sum over columns / divisor. `judged`: all columns are on
// the target's side of 1/2.
#define ELEMENTWISE(name, formula, divisor, count, judged) \
    LOSS(name) { \
        __shared__ T shared[THREADS]; \
        RowTeam team(k); \
        EACH_ROW(i, team, n) { \
            bool inside = i < n && i < clock[VALID]; \
            T loss = 0, wrong = 0, scale = inside ? row_scale(weight, i, count) / T(divisor) : T(0); \
            if (i < n) \
                for (long long j = i * k + team.lane; j < (i + 1) * k; j += team.lanes) { \
                    T p = pred[j], t = target[j]; \
                    loss += loss_##formula(p, t, parameter[0]); \
                    if (judged) wrong += (p > 0) != (t > T(0.5)); \
                    if (grad) grad[j] = inside ? loss_##formula##_grad(p, t, parameter[0]) * scale : T(0); \
                } \
            loss = team.sum(loss, shared) / T(divisor); \
            if (judged) wrong = team.sum(wrong, shared); \
            if (i < n && team.lane == 0) write_row(rows, i, inside ? loss : T(0), judged && inside && wrong == 0); \
        } \
    }

ELEMENTWISE(sigmoid_cross_entropy, sigmoid_cross_entropy, k, batch_rows(clock), true)
ELEMENTWISE(sum_squares, squares, 1, 1, false)
ELEMENTWISE(mean_squared, squares, k, batch_rows(clock), false)
ELEMENTWISE(mean_absolute, mean_absolute, k, batch_rows(clock), false)
ELEMENTWISE(huber, huber, k, batch_rows(clock), false)
ELEMENTWISE(pinball, pinball, k, batch_rows(clock), false)

// The largest element of a row and its first column.
struct Top { T value; long long column; };

HD Top higher(Top a, Top b) {
    return b.value > a.value || (b.value == a.value && b.column < a.column) ? b : a;
}

BLOCK Top highest(Top mine, const RowTeam& team, Top* shared) {
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

#undef TARGET
#define TARGET int

LOSS(softmax_cross_entropy) {
    __shared__ T shared[THREADS];
    __shared__ Top tops[THREADS];
    RowTeam team(k);
    T smoothing = parameter[0];
    EACH_ROW(i, team, n) {
        bool inside = i < n && i < clock[VALID];
        const T* row = pred + i * k;
        long long wanted = inside ? target[i] : -1;
        Top top = {-INFINITE, k};
        T total = 0, picked = 0, below = 0;
        if (inside)
            for (long long j = team.lane; j < k; j += team.lanes) top = higher(top, {row[j], j});
        top = highest(top, team, tops);
        if (inside)
            for (long long j = team.lane; j < k; j += team.lanes) {
                T shifted = row[j] - top.value;
                total += f_exp(shifted);
                below += shifted;
                if (j == wanted) picked = shifted;
            }
        total = team.sum(total, shared);
        picked = team.sum(picked, shared);
        if (smoothing != 0) picked = (1 - smoothing) * picked + smoothing * (team.sum(below, shared) / k);
        if (i < n && team.lane == 0)
            write_row(rows, i, inside ? f_log(total) - picked : T(0), inside && top.column == wanted);
        if (!grad || i >= n) continue;
        T scale = inside ? row_scale(weight, i, batch_rows(clock)) : T(0);
        for (long long j = team.lane; j < k; j += team.lanes)
            grad[i * k + j] =
                inside ? softmax_grad(f_exp(row[j] - top.value) / total, j == wanted, smoothing, T(k)) * scale : T(0);
    }
}

// Weigh the rows, add them up in float64, and report.
BLOCK void fold_rows(const T* weight, long long* clock, T* rows, double* totals, long long n,
                                          double count) {
    __shared__ double shared[THREADS];
    double loss = 0, right = 0;
    long long valid = clock[VALID] < n ? clock[VALID] : n;
    for (long long i = threadIdx.x; i < n; i += THREADS) {
        T row = rows[i], size = is_right(row) ? -row : row;
        right += is_right(row);
        rows[i] = weight && i < valid ? size * weight[i] : size;
        loss += rows[i];
    }
    loss = summed(loss, threadIdx.x, THREADS, 1, shared);
    right = summed(right, threadIdx.x, THREADS, 1, shared);
    if (threadIdx.x) return;
    totals[0] = loss / count;
    totals[1] += loss;
    totals[2] += right;
    totals[3] += valid < 0 ? 0.0 : (double)valid;
    if (!(totals[0] - totals[0] == 0)) clock[FAULT] |= FAULT_LOSS;
}

KERNEL fold_mean(const T* pred, const void* target, const T* weight, const T* parameter, long long* clock, T* grad,
                 T* rows, double* totals, long long n, long long k) {
    fold_rows(weight, clock, rows, totals, n, (double)batch_rows(clock));
}

KERNEL fold_sum(const T* pred, const void* target, const T* weight, const T* parameter, long long* clock, T* grad,
                T* rows, double* totals, long long n, long long k) {
    fold_rows(weight, clock, rows, totals, n, 1.0);
}
