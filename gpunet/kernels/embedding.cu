// Rows of a table by number, and the gradient of that.

KERNEL take(const T* x, const int* index, T* y, long long n, long long m) {
    Tile tile(n, m, blockIdx.x, blockIdx.y);
    EACH_TILE_ROW(row, tile) y[row * m + tile.column] = x[index[row] * m + tile.column];
}

KERNEL clear_rows(const T* grad, const int* index, T* dx, long long n, long long m, long long v) {
    EACH(i, v * m) dx[i] = 0;
}

// The first row of grad with an index owns it: its block adds up all rows with that index.
KERNEL scatter_add(const T* grad, const int* index, T* dx, long long n, long long m, long long v) {
    __shared__ T shared[THREADS];
    __shared__ int earlier;
    for (long long i = blockIdx.x; i < n; i += gridDim.x) {
        __syncthreads();
        if (threadIdx.x == 0) earlier = 0;
        __syncthreads();
        for (long long j = threadIdx.x; j < i; j += THREADS)
            if (index[j] == index[i]) earlier = 1;
        __syncthreads();
        if (earlier) continue;
        for (long long strip = blockIdx.y; strip * TILE_COLUMNS < m; strip += gridDim.y) {
            Tile tile(n, m, 0, strip);
            T total = 0;
            if (tile.column < m)
                for (long long j = i + tile.lane; j < n; j += tile.lanes)
                    if (index[j] == index[i]) total += grad[j * m + tile.column];
            total = tile.sum(total, shared);
            if (tile.leads(m)) dx[index[i] * m + tile.column] = total;
        }
    }
}
