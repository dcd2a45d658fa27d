// A loss: a team of threads a row writes its loss, then one block adds the rows up in order.
// Between the two, rows[i] is not weighted yet; its sign tells a right row (judged losses are never
// negative).

#if IS_sum_squares || IS_formula_sum
#define MEAN 0
#else
#define MEAN 1                                  // over the columns, and over the valid rows
#endif
#if IS_softmax_cross_entropy || IS_sigmoid_cross_entropy
#define JUDGED 1                                // a row is right or wrong
#else
#define JUDGED 0
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

// What the gradient of row i is multiplied by.
HD T row_scale(const T* weight, const long long* clock, long long i) {
    return (weight ? weight[i] : T(1)) / batch_rows(clock);
}

HD T marked(T loss, bool right) { return JUDGED && right ? -loss : loss; }
// The sign bit, which -0 has too; a row whose loss is NaN is not right.
HD bool is_marked(T row) { return JUDGED && row == row && bits_of(row) >> (T_BITS - 1); }

#if IS_softmax_cross_entropy

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

KERNEL row_losses(const T* pred, const Target* target, const T* weight, const T* parameter,
                  long long* clock, T* grad, T* rows, double* totals, long long n, long long k) {
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
        if (smoothing != 0)
            picked = (1 - smoothing) * picked + smoothing * (team.sum(below, shared) / k);
        if (i < n && team.lane == 0)
            rows[i] = inside ? marked(f_log(total) - picked, top.column == wanted) : T(0);
        if (!grad || i >= n) continue;
        T scale = inside ? row_scale(weight, clock, i) : T(0);
        for (long long j = team.lane; j < k; j += team.lanes) {
            T share = f_exp(row[j] - top.value) / total;
            T slope = softmax_grad(share, j == wanted, smoothing, k) * scale;
            grad[i * k + j] = inside ? slope : T(0);
        }
    }
}

#else

#define VALUE JOINED(loss_, VARIANT, )
#define GRADIENT JOINED(loss_, VARIANT, _grad)

KERNEL row_losses(const T* pred, const Target* target, const T* weight, const T* parameter,
                  long long* clock, T* grad, T* rows, double* totals, long long n, long long k) {
    __shared__ T shared[THREADS];
    RowTeam team(k);
    T divisor = MEAN ? T(k) : T(1);
    EACH_ROW(i, team, n) {
        bool inside = i < n && i < clock[VALID];
        T loss = 0, wrong = 0, scale = inside ? row_scale(weight, clock, i) / divisor : T(0);
        for (long long j = i * k + team.lane; i < n && j < (i + 1) * k; j += team.lanes) {
            T p = pred[j], t = target[j], constant = CONSTANT(j - i * k);
            loss += VALUE(p, t, constant);
            wrong += (p > 0) != (t > T(0.5));
            if (grad) grad[j] = inside ? GRADIENT(p, t, constant) * scale : T(0);
        }
        loss = team.sum(loss, shared) / divisor;
        bool right = JUDGED && team.sum(wrong, shared) == 0;
        if (i < n && team.lane == 0) rows[i] = inside ? marked(loss, right) : T(0);
    }
}

#endif

// Weigh the rows, add them up in float64, and report.
KERNEL fold_rows(const T* pred, const Target* target, const T* weight, const T* parameter,
                 long long* clock, T* grad, T* rows, double* totals, long long n, long long k) {
    __shared__ double shared[THREADS];
    double loss = 0, right = 0;
    long long valid = clock[VALID] < n ? clock[VALID] : n;
    for (long long i = threadIdx.x; i < n; i += THREADS) {
        T row = rows[i], size = is_marked(row) ? -row : row;
        right += is_marked(row);
        rows[i] = weight && i < valid ? size * weight[i] : size;
        loss += rows[i];
    }
    loss = summed(loss, threadIdx.x, THREADS, 1, shared);
    right = summed(right, threadIdx.x, THREADS, 1, shared);
    if (threadIdx.x) return;
    totals[0] = (clock[BEFORE] ? totals[0] : 0.0) + loss / batch_rows(clock);
    totals[1] += loss;
    totals[2] += right;
    totals[3] += valid < 0 ? 0.0 : (double)valid;
    if (!(totals[0] - totals[0] == 0)) clock[FAULT] |= FAULT_LOSS;
}
