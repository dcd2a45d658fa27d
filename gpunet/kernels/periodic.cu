// Numbers as waves: one thread a value forward; a block a wave backward, over all rows.

// cos(2 pi frequency x + phase) and the sine, of wave `at` in the flat (f, k).
BLOCK Wave wave_of(T x, const T* frequency, const T* phase, long long at) {
    return wave_at(half_turns(2 * frequency[at] * x + phase[at] / T(PI)));
}

// What one row's gradient says of a wave: grad @ weight, of e values.
BLOCK T wave_slope(const T* grad, const T* weight, long long e) {
    T slope = 0;
    for (long long q = 0; q < e; ++q) slope += grad[q] * weight[q];
    return slope;
}

KERNEL periodic_forward(const T* x, const T* frequency, const T* phase, const T* weight,
                        const T* bias, T* y, long long x_first, long long y_first, long long n,
                        long long d, long long m, long long f, long long k, long long e) {
    long long width = f * (e + 1);
    EACH(i, n * width) {
        long long row = i / width, column = i % width, j = column / (e + 1), q = column % (e + 1);
        T given = x[row * d + x_first + j], total = q < e ? bias[j * e + q] : given;
        for (long long h = j * k; q < e && h < (j + 1) * k; ++h)
            total += wave_of(given, frequency, phase, h).cos * weight[h * e + q];
        y[row * m + y_first + column] = total;
    }
}

// Block j (k + 1) + h: wave h of feature j; the last of each feature has its bias.
KERNEL periodic_backward(const T* grad, const T* x, const T* frequency, const T* phase,
                         const T* weight, T* dx, T* dfrequency, T* dphase, T* dweight, T* dbias,
                         long long x_first, long long y_first, long long n, long long d,
                         long long m, long long f, long long k, long long e) {
    __shared__ T shared[THREADS];
    long long j = blockIdx.x / (k + 1), h = blockIdx.x % (k + 1), at = j * k + h;
    x += x_first + j;
    grad += y_first + j * (e + 1);
    for (long long q = 0; q < e; ++q) {
        T total = 0;
        for (long long i = threadIdx.x; i < n; i += THREADS)
            total += grad[i * m + q] * (h < k ? wave_of(x[i * d], frequency, phase, at).cos : T(1));
        total = summed(total, threadIdx.x, THREADS, 1, shared);
        if (threadIdx.x == 0) (h < k ? dweight[at * e + q] : dbias[j * e + q]) = total;
    }
    if (h == k) return;
    T along = 0, total = 0;
    for (long long i = threadIdx.x; i < n; i += THREADS) {
        T sine = wave_of(x[i * d], frequency, phase, at).sin;
        T slope = -sine * wave_slope(grad + i * m, weight + at * e, e);
        along += slope * x[i * d];
        total += slope;
    }
    along = summed(along, threadIdx.x, THREADS, 1, shared);
    total = summed(total, threadIdx.x, THREADS, 1, shared);
    if (threadIdx.x) return;
    dfrequency[at] = 2 * T(PI) * along;
    dphase[at] = total;
}

KERNEL periodic_inputs(const T* grad, const T* x, const T* frequency, const T* phase,
                       const T* weight, T* dx, T* dfrequency, T* dphase, T* dweight, T* dbias,
                       long long x_first, long long y_first, long long n, long long d, long long m,
                       long long f, long long k, long long e) {
    EACH(i, n * f) {
        long long row = i / f, j = i % f;
        const T* given = grad + row * m + y_first + j * (e + 1);
        T total = 0;
        for (long long h = j * k; h < (j + 1) * k; ++h)
            total -= wave_of(x[row * d + x_first + j], frequency, phase, h).sin * frequency[h]
                * wave_slope(given, weight + h * e, e);
        dx[row * d + x_first + j] = 2 * T(PI) * total + given[e];
    }
}
