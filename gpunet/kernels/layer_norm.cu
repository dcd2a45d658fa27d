// Layer norm: a team of threads a row.

KERNEL layer_norm_forward(const T* x, const T* gain, const T* bias, T* y, T* mean, T* rstd,
                          long long n, long long m) {
    __shared__ T shared[THREADS];
    RowTeam team(m);
    EACH_ROW(i, team, n) {
        const T* row = x + i * m;
        long long end = i < n ? m : 0;
        T total = 0, spread = 0;
        for (long long j = team.lane; j < end; j += team.lanes) total += row[j];
        T middle = team.sum(total, shared) / m;
        for (long long j = team.lane; j < end; j += team.lanes)
            spread += (row[j] - middle) * (row[j] - middle);
        T scale = norm_scale(team.sum(spread, shared) / m);
        for (long long j = team.lane; j < end; j += team.lanes)
            y[i * m + j] = (row[j] - middle) * scale * gain[j] + bias[j];
        if (i < n && team.lane == 0) {
            mean[i] = middle;
            rstd[i] = scale;
        }
    }
}

KERNEL layer_norm_backward(const T* grad, const T* x, const T* gain, const T* mean, const T* rstd,
                           T* dx, T* dgain, T* dbias, T* work, long long n, long long m) {
    __shared__ T shared[THREADS];
    RowTeam team(m);
    EACH_ROW(i, team, n) {
        long long end = i < n ? m : 0;
        T middle = i < n ? mean[i] : T(0), scale = i < n ? rstd[i] : T(0), total = 0, along = 0;
        for (long long j = team.lane; j < end; j += team.lanes) {
            T g = grad[i * m + j] * gain[j];
            total += g;
            along += g * ((x[i * m + j] - middle) * scale);
        }
        total = team.sum(total, shared) / m;
        along = team.sum(along, shared) / m;
        for (long long j = team.lane; j < end; j += team.lanes) {
            T h = (x[i * m + j] - middle) * scale;
            dx[i * m + j] = scale * (grad[i * m + j] * gain[j] - total - h * along);
        }
    }
}

KERNEL layer_norm_sums(const T* grad, const T* x, const T* gain, const T* mean, const T* rstd,
                       T* dx, T* dgain, T* dbias, T* work, long long n, long long m) {
    __shared__ T shared[THREADS];
    Tile tile(n, m, blockIdx.x, blockIdx.y);
    T products = 0, total = 0;
    EACH_TILE_ROW(row, tile) {
        long long i = row * m + tile.column;
        total += grad[i];
        products += grad[i] * ((x[i] - mean[row]) * rstd[row]);
    }
    products = tile.sum(products, shared);
    store_pair(tile, products, tile.sum(total, shared), dgain, dbias, work, m);
}

KERNEL layer_norm_fold(const T* grad, const T* x, const T* gain, const T* mean, const T* rstd,
                       T* dx, T* dgain, T* dbias, T* work, long long n, long long m) {
    __shared__ T shared[THREADS];
    fold_pair(work, dgain, dbias, n, m, shared);
}
