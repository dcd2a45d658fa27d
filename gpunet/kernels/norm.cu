// Layer norm: a team of threads a row. Batch norm: tiles of columns, their statistics merged in order.

#define NORM_EPSILON T(1e-5)
#define MOMENTUM T(0.1)

HD T reciprocal_root(T variance) { return 1 / f_sqrt(variance + NORM_EPSILON); }

KERNEL layer_norm_forward(const T* x, const T* gain, const T* bias, T* y, T* mean, T* rstd, long long n, long long m) {
    __shared__ T shared[THREADS];
    RowTeam team(m);
    EACH_ROW(i, team, n) {
        const T* row = x + i * m;
        T total = 0, spread = 0;
        if (i < n)
            for (long long j = team.lane; j < m; j += team.lanes) total += row[j];
        T middle = summed(total, team.lanes, 1, shared) / m;
        if (i < n)
            for (long long j = team.lane; j < m; j += team.lanes) spread += (row[j] - middle) * (row[j] - middle);
        T scale = reciprocal_root(summed(spread, team.lanes, 1, shared) / m);
        if (i >= n) continue;
        for (long long j = team.lane; j < m; j += team.lanes)
            y[i * m + j] = (row[j] - middle) * scale * gain[j] + bias[j];
        if (team.lane == 0) mean[i] = middle, rstd[i] = scale;
    }
}

KERNEL layer_norm_backward(const T* grad, const T* x, const T* gain, const T* mean, const T* rstd, T* dx, T* dgain,
                           T* dbias, T* work, long long n, long long m) {
    __shared__ T shared[THREADS];
    RowTeam team(m);
    EACH_ROW(i, team, n) {
        T middle = i < n ? mean[i] : T(0), scale = i < n ? rstd[i] : T(0), total = 0, along = 0;
        if (i < n)
            for (long long j = team.lane; j < m; j += team.lanes) {
                T g = grad[i * m + j] * gain[j];
                total += g;
                along += g * ((x[i * m + j] - middle) * scale);
            }
        total = summed(total, team.lanes, 1, shared) / m;
        along = summed(along, team.lanes, 1, shared) / m;
        if (i >= n) continue;
        for (long long j = team.lane; j < m; j += team.lanes) {
            T h = (x[i * m + j] - middle) * scale;
            dx[i * m + j] = scale * (grad[i * m + j] * gain[j] - total - h * along);
        }
    }
}

// The tile sums of grad * h and of grad over the first `valid` rows: work (2, chunks, m). The statistics
// belong to rows or to columns.
__device__ __forceinline__ void sum_products(const T* grad, const T* x, const T* mean, const T* rstd, bool by_row,
                                             T* work, long long valid, long long n, long long m, T* shared) {
    ColumnTile tile(n, m, blockIdx.x, blockIdx.y);
    T products = 0, total = 0;
    if (tile.column < m)
        for (long long row = tile.first + tile.lane; row < tile.last && row < valid; row += tile.lanes) {
            long long i = row * m + tile.column, place = by_row ? row : tile.column;
            total += grad[i];
            products += grad[i] * ((x[i] - mean[place]) * rstd[place]);
        }
    products = tile.sum(products, shared);
    total = tile.sum(total, shared);
    if (tile.lane || tile.column >= m) return;
    work[blockIdx.x * m + tile.column] = products;
    work[(tile.chunks + blockIdx.x) * m + tile.column] = total;
}

__device__ __forceinline__ void fold_products(const T* work, T* dgain, T* dbias, long long n, long long m, T* shared) {
    ColumnTile tile(n, m, 0, blockIdx.x);
    fold_chunks(work, dgain, n, m, shared);
    fold_chunks(work + tile.chunks * m, dbias, n, m, shared);
}

KERNEL layer_norm_sums(const T* grad, const T* x, const T* gain, const T* mean, const T* rstd, T* dx, T* dgain,
                       T* dbias, T* work, long long n, long long m) {
    __shared__ T shared[THREADS];
    sum_products(grad, x, mean, rstd, true, work, n, n, m, shared);
}

KERNEL layer_norm_fold(const T* grad, const T* x, const T* gain, const T* mean, const T* rstd, T* dx, T* dgain,
                       T* dbias, T* work, long long n, long long m) {
    __shared__ T shared[THREADS];
    fold_products(work, dgain, dbias, n, m, shared);
}

// Count, mean and sum of squared distances of some numbers; merging them is Chan et al., 1979.
struct Moments { T count, mean, spread; };

HD Moments merged(Moments a, Moments b) {
    T count = a.count + b.count, share = count > 0 ? b.count / count : T(0), away = b.mean - a.mean;
    return {count, a.mean + away * share, a.spread + b.spread + away * away * (a.count * share)};
}

__device__ __forceinline__ Moments merged_lanes(Moments mine, const ColumnTile& tile, Moments* shared) {
    int me = threadIdx.x;
    shared[me] = mine;
    for (int half = tile.lanes / 2; half; half /= 2) {
        __syncthreads();
        if (tile.lane < half) shared[me] = merged(shared[me], shared[me + half * tile.columns]);
    }
    return shared[me];
}

HD long long within(long long valid, long long n) { return valid < 0 ? 0 : (valid < n ? valid : n); }

// Mean and spread of each tile's columns over the valid rows: work (2, chunks, m).
KERNEL batch_norm_statistics(const T* x, const T* gain, const T* bias, T* running_mean, T* running_var,
                             const long long* clock, T* y, T* mean, T* rstd, T* work, long long n, long long m) {
    __shared__ Moments shared[THREADS];
    ColumnTile tile(n, m, blockIdx.x, blockIdx.y);
    long long valid = within(clock[VALID], n);
    Moments mine = {0, 0, 0};
    if (tile.column < m)
        for (long long row = tile.first + tile.lane; row < tile.last && row < valid; row += tile.lanes)
            mine = merged(mine, {1, x[row * m + tile.column], 0});
    mine = merged_lanes(mine, tile, shared);
    if (tile.lane || tile.column >= m) return;
    work[blockIdx.x * m + tile.column] = mine.mean;
    work[(tile.chunks + blockIdx.x) * m + tile.column] = mine.spread;
}

KERNEL batch_norm_settle(const T* x, const T* gain, const T* bias, T* running_mean, T* running_var,
                         const long long* clock, T* y, T* mean, T* rstd, T* work, long long n, long long m) {
    __shared__ Moments shared[THREADS];
    ColumnTile tile(n, m, 0, blockIdx.x);
    long long valid = within(clock[VALID], n), j = tile.column;
    Moments all = {0, 0, 0};
    if (j < m)
        for (long long chunk = tile.lane; chunk < tile.chunks; chunk += tile.lanes) {
            long long count = within(valid - chunk * tile.rows, tile.rows);
            all = merged(all, {T(count), work[chunk * m + j], work[(tile.chunks + chunk) * m + j]});
        }
    all = merged_lanes(all, tile, shared);
    if (tile.lane || j >= m) return;
    mean[j] = all.mean;
    rstd[j] = reciprocal_root(all.spread / (valid > 1 ? valid : 1));
    if (valid == 0 || clock[FAULT]) return;
    running_mean[j] = running_mean[j] * (1 - MOMENTUM) + all.mean * MOMENTUM;
    running_var[j] = running_var[j] * (1 - MOMENTUM) + all.spread / (valid > 2 ? valid - 1 : 1) * MOMENTUM;
}

KERNEL batch_norm_forward(const T* x, const T* gain, const T* bias, T* running_mean, T* running_var,
                          const long long* clock, T* y, T* mean, T* rstd, T* work, long long n, long long m) {
    EACH(i, n * m) {
        long long j = column_of(i, m);
        y[i] = (x[i] - mean[j]) * rstd[j] * gain[j] + bias[j];
    }
}

KERNEL batch_norm_sums(const T* grad, const T* x, const T* gain, const T* mean, const T* rstd, const long long* clock,
                       T* dx, T* dgain, T* dbias, T* work, long long n, long long m) {
    __shared__ T shared[THREADS];
    sum_products(grad, x, mean, rstd, false, work, clock[VALID], n, m, shared);
}

KERNEL batch_norm_fold(const T* grad, const T* x, const T* gain, const T* mean, const T* rstd, const long long* clock,
                       T* dx, T* dgain, T* dbias, T* work, long long n, long long m) {
    __shared__ T shared[THREADS];
    fold_products(work, dgain, dbias, n, m, shared);
}

KERNEL batch_norm_backward(const T* grad, const T* x, const T* gain, const T* mean, const T* rstd,
                           const long long* clock, T* dx, T* dgain, T* dbias, T* work, long long n, long long m) {
    long long valid = within(clock[VALID], n);
    EACH(i, n * m) {
        long long j = column_of(i, m);
        T h = (x[i] - mean[j]) * rstd[j];
        T slope = gain[j] * rstd[j] * (grad[i] - (dbias[j] / valid + h * (dgain[j] / valid)));
        dx[i] = i < valid * m ? slope : T(0);
    }
}

KERNEL batch_norm_apply(const T* x, const T* gain, const T* bias, const T* running_mean, const T* running_var, T* y,
                        long long n, long long m) {
    EACH(i, n * m) {
        long long j = column_of(i, m);
        y[i] = (x[i] - running_mean[j]) * reciprocal_root(running_var[j]) * gain[j] + bias[j];
    }
}
