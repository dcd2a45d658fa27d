// Numbers as shares of bins: one thread a share forward; one a number backward, over its bins.

KERNEL piecewise_forward(const T* x, const int* feature, const T* low, const T* slope, T* y,
                         long long x_first, long long y_first, long long n, long long d,
                         long long m, long long bins) {
    EACH(i, n * bins) {
        long long row = i / bins, q = i % bins;
        T given = x[row * d + x_first + feature[q]];
        y[row * m + y_first + q] = bin_share(given, low[q], slope[q]);
    }
}

KERNEL piecewise_backward(const T* grad, const T* x, const int* feature, const T* low,
                          const T* slope, T* dx, long long x_first, long long y_first,
                          long long features, long long n, long long d, long long m,
                          long long bins) {
    EACH(i, n * features) {
        long long row = i / features, j = i % features, at = row * d + x_first + j;
        T total = 0;
        for (long long q = 0; q < bins; ++q)
            if (feature[q] == j)
                total += bin_share_grad(grad[row * m + y_first + q], x[at], low[q], slope[q]);
        dx[at] = total;
    }
}
