// Batch norm: tiles of columns, their moments merged in order.

HD long long within(long long valid, long long n) {
    return valid < 0 ? 0 : (valid < n ? valid : n);
}

// Count, mean and sum of squared distances of some numbers; merging two is Chan et al., 1979.
struct Moments { T count, mean, spread; };

HD Moments merged(Moments a, Moments b) {
    T count = a.count + b.count, share = count > 0 ? b.count / count : T(0), away = b.mean - a.mean;
    return {count, a.mean + away * share, a.spread + b.spread + away * away * (a.count * share)};
}

BLOCK Moments merged_lanes(Moments mine, const Tile& tile, Moments* shared) {
    int me = threadIdx.x;
    shared[me] = mine;
    for (int half = tile.lanes / 2; half; half /= 2) {
        __syncthreads();
        if (tile.lane < half) shared[me] = merged(shared[me], shared[me + half * tile.columns]);
    }
    return shared[me];
}

// Mean and spread of each tile's columns over the valid rows: work (2, chunks, m).
KERNEL batch_norm_statistics(const T* x, const T* gain, const T* bias, T* running_mean,
                             T* running_var, const long long* clock, T* y, T* mean, T* rstd,
                             T* work, long long n, long long m) {
    __shared__ Moments shared[THREADS];
    Tile tile(n, m, blockIdx.x, blockIdx.y);
    long long valid = within(clock[VALID], n);
    Moments mine = {0, 0, 0};
    EACH_TILE_ROW(row, tile) {
        if (row >= valid) break;
        mine = merged(mine, {1, x[row * m + tile.column], 0});
    }
    mine = merged_lanes(mine, tile, shared);
    if (!tile.leads(m)) return;
    work[blockIdx.x * m + tile.column] = mine.mean;
    work[(tile.chunks + blockIdx.x) * m + tile.column] = mine.spread;
}

KERNEL batch_norm_settle(const T* x, const T* gain, const T* bias, T* running_mean, T* running_var,
                         const long long* clock, T* y, T* mean, T* rstd, T* work, long long n,
                         long long m) {
    __shared__ Moments shared[THREADS];
    Tile tile(n, m, 0, blockIdx.x);
    long long valid = within(clock[VALID], n), j = tile.column;
    Moments all = {0, 0, 0};
    if (j < m)
        for (long long chunk = tile.lane; chunk < tile.chunks; chunk += tile.lanes) {
            T count = T(within(valid - chunk * tile.rows, tile.rows));
            all = merged(all, {count, work[chunk * m + j], work[(tile.chunks + chunk) * m + j]});
        }
    all = merged_lanes(all, tile, shared);
    if (!tile.leads(m)) return;
    mean[j] = all.mean;
    rstd[j] = norm_scale(all.spread / (valid > 1 ? valid : 1));
    if (valid < 2 || clock[FAULT]) return;
    running_mean[j] = renewed(running_mean[j], all.mean);
    running_var[j] = renewed(running_var[j], all.spread / (valid - 1));
}

// y = (x - middle) * scale * gain + bias, middle and scale by column. y may be x.
BLOCK void normalise(const T* x, const T* gain, const T* bias, const T* mean, const T* rstd,
                     const T* variance, T* y, long long n, long long m) {
    Tile tile(n, m, blockIdx.x, blockIdx.y);
    long long j = tile.column;
    if (j >= m) return;
    T middle = mean[j], scale = variance ? norm_scale(variance[j]) : rstd[j];
    T g = gain[j], b = bias[j];
    EACH_SOME(round) {
        Some<T> given = some(x, tile, round, m);
        EACH_OF_SOME(k, row, tile, round)
            y[row * m + j] = (given.of[k] - middle) * scale * g + b;
    }
}

KERNEL batch_norm_forward(const T* x, const T* gain, const T* bias, T* running_mean, T* running_var,
                          const long long* clock, T* y, T* mean, T* rstd, T* work, long long n,
                          long long m) {
    normalise(x, gain, bias, mean, rstd, nullptr, y, n, m);
}

KERNEL batch_norm_apply(const T* x, const T* gain, const T* bias, const T* running_mean,
                        const T* running_var, T* y, long long n, long long m) {
    normalise(x, gain, bias, running_mean, nullptr, running_var, y, n, m);
}

KERNEL batch_norm_sums(const T* grad, const T* x, const T* gain, const T* mean, const T* rstd,
                       const long long* clock, T* dx, T* dgain, T* dbias, T* work, long long n,
                       long long m) {
    __shared__ T shared[THREADS];
    Tile tile(n, m, blockIdx.x, blockIdx.y);
    bool inside = tile.column < m;
    T middle = inside ? mean[tile.column] : T(0), scale = inside ? rstd[tile.column] : T(0);
    T products = 0, total = 0;
    EACH_TILE_ROW(row, tile) {
        if (row >= clock[VALID]) break;
        long long i = row * m + tile.column;
        total += grad[i];
        products += grad[i] * ((x[i] - middle) * scale);
    }
    products = tile.sum(products, shared);
    store_pair(tile, products, tile.sum(total, shared), dgain, dbias, work, m);
}

KERNEL batch_norm_fold(const T* grad, const T* x, const T* gain, const T* mean, const T* rstd,
                       const long long* clock, T* dx, T* dgain, T* dbias, T* work, long long n,
                       long long m) {
    __shared__ T shared[THREADS];
    fold_pair(work, dgain, dbias, n, m, shared);
}

KERNEL batch_norm_backward(const T* grad, const T* x, const T* gain, const T* mean, const T* rstd,
                           const long long* clock, T* dx, T* dgain, T* dbias, T* work, long long n,
                           long long m) {
    Tile tile(n, m, blockIdx.x, blockIdx.y);
    long long valid = within(clock[VALID], n), j = tile.column;
    if (j >= m) return;
    T middle = mean[j], scale = rstd[j], factor = gain[j] * scale;
    T along = dgain[j] / valid, total = dbias[j] / valid;
    EACH_SOME(round) {
        Some<T> upstream = some(grad, tile, round, m), given = some(x, tile, round, m);
        EACH_OF_SOME(k, row, tile, round) {
            T shared_part = total + (given.of[k] - middle) * scale * along;
            dx[row * m + j] = row < valid ? factor * (upstream.of[k] - shared_part) : T(0);
        }
    }
}
