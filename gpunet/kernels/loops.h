// The kernels as loops over a lane's rows, for one T. Entries: name_float32 or name_float64.
// Included by one file a type, which has defined T, T_BITS and TYPE.

#include "native.h"
#include "formulas.h"

#define JOIN(a, b) JOIN_AS_GIVEN(a, b)
#define JOIN_AS_GIVEN(a, b) a##_##b
#define ENTRY(name) extern "C" void JOIN(name, TYPE)(const Call& call, Lane& lane)
#define EVERY(i, count) _Pragma("GCC ivdep") for (long long i = 0; i < (count); ++i)

// ---- The clock: every lane advances its own copy. (clock, hyper, table, batch | entries)

ENTRY(tick) {
    if (lane.clock[FAULT]) return;
    long long step = ++lane.clock[STEP], batch = call.sizes[0], entries = call.sizes[1];
    lane.clock[START] += batch;
    if (lane.clock[START] >= lane.clock[ROWS]) lane.clock[START] = 0;
    long long left = lane.clock[ROWS] - lane.clock[START];
    lane.clock[VALID] = left < batch ? left : batch;
    const double* now = call.at<double>(2) + 3 * (step < entries ? step : entries - 1);
    lane.hyper[LR] = now[0] * lane.hyper[SCALE];
    lane.hyper[DECAY] = now[1];
    lane.hyper[FADE] = now[2];
    lane.hyper[CORRECTION1] = 1 - __builtin_pow(lane.hyper[BETA1], (double)step);
    lane.hyper[CORRECTION2] = 1 - __builtin_pow(lane.hyper[BETA2], (double)step);
}

ENTRY(micro_batch) {                                   // (clock | rows, batch)
    long long before = lane.clock[BEFORE], rows = call.sizes[0];
    long long by = before + rows < call.sizes[1] ? rows : -before;
    lane.clock[START] += by;
    lane.clock[VALID] -= by;
    lane.clock[BEFORE] = before + by;
}

// ---- Rows into the batch. (x, scale, shift, order, clock, out | n, d)
// Bytes are scaled in T, which they fit; other numbers in double, as a shift may be far from small.

enum { LINE = 64, AHEAD = 8192 };                      // bytes: of a cache line, to fetch beforehand

template <class X, class S>
static inline void gather_row(const X* x, const S* scale, const S* shift, T* out, long long d) {
    if (scale && shift) EVERY(j, d) out[j] = T(S(x[j]) * scale[j] + shift[j]);
    else if (scale) EVERY(j, d) out[j] = T(S(x[j]) * scale[j]);
    else if (shift) EVERY(j, d) out[j] = T(S(x[j]) + shift[j]);
    else EVERY(j, d) out[j] = T(x[j]);
}

static inline const double* numbers(const double* given, double*, long long) { return given; }

static inline const float* numbers(const double* given, float* room, long long d) {
    if (!given) return nullptr;
    EVERY(j, d) room[j] = float(given[j]);
    return room;
}

static inline long long source_row(const int* order, const Lane& lane, long long i) {
    long long place = lane.clock[START] + lane.first + i;
    return order ? order[place] : place;
}

static inline void fetch(const void* from, long long bytes) {
    for (long long at = 0; at < bytes; at += LINE) __builtin_prefetch((const char*)from + at);
}

#define GATHER(dtype, X, S) \
    static CLONES void gather_rows_##dtype(const X* x, const S* scale, const S* shift, \
                                           const int* order, const Lane& lane, T* out, long long d) { \
        long long bytes = d * sizeof(X), ahead = order ? AHEAD / (bytes + 1) : 0, valid = lane.valid(); \
        for (long long i = 0; i < ahead && i < valid; ++i) \
            fetch(x + source_row(order, lane, i) * d, bytes); \
        for (long long i = 0; i < valid; ++i) { \
            if (ahead && i + ahead < valid) fetch(x + source_row(order, lane, i + ahead) * d, bytes); \
            gather_row(x + source_row(order, lane, i) * d, scale, shift, out + i * d, d); \
        } \
        EVERY(j, (lane.rows() - valid) * d) out[valid * d + j] = 0; \
    } \
    ENTRY(gather_##dtype) { \
        long long d = call.sizes[1]; \
        S* room = (S*)lane.scratch; \
        gather_rows_##dtype(call.at<X>(0), numbers(call.at<double>(1), room, d), \
                            numbers(call.at<double>(2), room + d, d), call.at<int>(3), lane, \
                            lane.row<T>(call, 5, d), d); \
    }

GATHER(uint8, unsigned char, T)
GATHER(float32, float, double)
GATHER(float64, double, double)

#define GATHER_EACH(name, Y)                           /* (y, order, clock, out | n) */ \
    ENTRY(name) { \
        const Y* y = call.at<Y>(0); \
        const int* order = call.at<int>(1); \
        Y* out = lane.row<Y>(call, 3, 1); \
        for (long long i = 0; i < lane.rows(); ++i) \
            out[i] = i < lane.valid() ? y[source_row(order, lane, i)] : Y(0); \
    }

GATHER_EACH(gather_labels, int)
GATHER_EACH(gather_weights, T)

// ---- Matrix products. (a, b, out | m, n, k, flips: 1 a, 2 b; 4: by columns)

enum { COLUMNS = 16, ROWS_OF_WEIGHT = 4 };              // a share of a product: multiples of these

static void product(const Lane& lane, long long flips, long long m, long long n, long long k,
                    const T* a, long long lda, const T* b, long long ldb, T* out, long long ldo) {
    enum { ROW_MAJOR = 101, PLAIN = 111, FLIPPED = 112 };
    int ta = flips & 1 ? FLIPPED : PLAIN, tb = flips & 2 ? FLIPPED : PLAIN;
    void* gemm = lane.shared->gemm[T_BITS == 64];
    if (lane.shared->wide)
        ((void (*)(int, int, int, long long, long long, long long, T, const T*, long long, const T*,
                   long long, T, T*, long long))gemm)(ROW_MAJOR, ta, tb, m, n, k, T(1), a, lda, b,
                                                      ldb, T(0), out, ldo);
    else
        ((void (*)(int, int, int, int, int, int, T, const T*, int, const T*, int, T, T*, int))gemm)(
            ROW_MAJOR, ta, tb, m, n, k, T(1), a, lda, b, ldb, T(0), out, ldo);
}

static void rows_of_product(const Call& call, const Lane& lane) {
    long long n = call.sizes[1], k = call.sizes[2], flips = call.sizes[3];
    if (lane.rows())
        product(lane, flips, lane.rows(), n, k, lane.row<T>(call, 0, k), k, call.at<T>(1),
                flips & 2 ? k : n, lane.row<T>(call, 2, n), n);
}

static void columns_of_product(const Call& call, const Lane& lane) {
    long long n = call.sizes[1], k = call.sizes[2], flips = call.sizes[3];
    long long low = lane.share(n, COLUMNS), high = lane.share_end(n, COLUMNS);
    if (high > low)
        product(lane, flips, lane.batch, high - low, k, call.at<T>(0), k,
                call.at<T>(1) + low * (flips & 2 ? k : 1), flips & 2 ? k : n, call.at<T>(2) + low, n);
}

// This lane's slab of a weight's gradient, over all rows of the batch. Where an update is at hand
// it follows block by block, while a block's gradient is in the cache, and the gradient itself is
// kept nowhere.
static void weight_gradient(const Call& call, Lane& lane) {
    enum { UNIT = ROWS_OF_WEIGHT };
    if (lane.clock[FAULT]) return;
    long long m = call.sizes[0], n = call.sizes[1], flips = call.sizes[3];
    long long low = lane.share(m, UNIT), rows = lane.share_end(m, UNIT) - low;
    const Shared* shared = lane.shared;
    long long most = shared->block / (n * (long long)sizeof(T)) / UNIT * UNIT;
    long long blocks = shared->move ? (rows - 1) / (most > UNIT ? most : UNIT) + 1 : 1;
    for (long long block = 0; block < blocks; ++block) {
        long long first = low + part(rows, UNIT, block, blocks);
        long long last = low + part(rows, UNIT, block + 1, blocks);
        if (first == last) continue;
        T* out = shared->move ? (T*)lane.scratch : call.at<T>(2) + first * n;
        product(lane, flips, last - first, n, lane.batch, call.at<T>(0) + first, m, call.at<T>(1),
                n, out, n);
        if (!shared->move) continue;
        long long start = call.at<T>(2) - shared->moved->at<T>(1);
        shared->move(*shared->moved, lane, start + first * n, start + last * n, out);
    }
}

ENTRY(gemm) {
    long long flips = call.sizes[3];
    if (flips & 1) weight_gradient(call, lane);
    else if (flips & 4) columns_of_product(call, lane);
    else rows_of_product(call, lane);
}

// ---- Sums over rows: SPAN rows at a time, then over the spans, as what a sum in T loses grows with
// its length.

enum { SPAN = 256 };

struct Sums {
    T *a, *b;
    long long width;

    void add(const Sums& other) const {
        if (a) EVERY(j, width) a[j] += other.a[j];
        if (b) EVERY(j, width) b[j] += other.b[j];
    }
};

// add(first, rows, sums) makes the sums of some rows.
template <class Add>
static void add_spans(const Lane& lane, long long rows, Sums total, long long span, Add add) {
    T* room = (T*)lane.scratch;
    Sums own = {total.a ? room : nullptr, total.b ? room + total.width : nullptr, total.width};
    add(0, rows < span ? rows : span, total);
    for (long long first = span; first < rows; first += span) {
        add(first, rows - first < span ? rows - first : span, own);
        total.add(own);
    }
}

// ---- Activations. (z, bias, y), (grad, z, bias, y, dz, dbias) | n, m

#define ACTIVATION(name, reads_input) \
    static CLONES void name##_values(const T* z, const T* bias, T* y, long long n, long long m) { \
        for (long long i = 0; i < n; ++i, z += m, y += m) { \
            if (bias) EVERY(j, m) y[j] = f_##name(z[j] + bias[j]); \
            else EVERY(j, m) y[j] = f_##name(z[j]); \
        } \
    } \
    ENTRY(name##_forward) { \
        long long m = call.sizes[1]; \
        name##_values(lane.row<T>(call, 0, m), call.at<T>(1), lane.row<T>(call, 2, m), lane.rows(), m); \
    } \
    static CLONES void name##_slopes(const T* grad, const T* z, const T* bias, const T* y, T* dz, \
                                     T* dbias, long long n, long long m) { \
        if (dbias) EVERY(j, m) dbias[j] = 0; \
        for (long long i = 0; i < n; ++i, grad += m, z += m, y += m, dz += m) { \
            if (reads_input && bias) EVERY(j, m) dz[j] = f_##name##_grad(grad[j], z[j] + bias[j], y[j]); \
            else EVERY(j, m) dz[j] = f_##name##_grad(grad[j], reads_input ? z[j] : T(0), y[j]); \
            if (dbias) EVERY(j, m) dbias[j] += dz[j]; \
        } \
    } \
    ENTRY(name##_backward) { \
        long long m = call.sizes[1]; \
        const T *grad = lane.row<T>(call, 0, m), *z = lane.row<T>(call, 1, m); \
        const T* y = lane.row<T>(call, 3, m); \
        T* dz = lane.row<T>(call, 4, m); \
        Sums sums = {lane.copy<T>(call, 5), nullptr, m}; \
        add_spans(lane, lane.rows(), sums, SPAN, [&](long long first, long long rows, Sums to) { \
            long long at = first * m; \
            name##_slopes(grad + at, z + at, call.at<T>(2), y + at, dz + at, to.a, rows, m); \
        }); \
    }

ACTIVATION(identity, false)
ACTIVATION(sigmoid, false)
ACTIVATION(tanh, false)
ACTIVATION(relu, false)
ACTIVATION(selu, false)
ACTIVATION(gelu, true)
ACTIVATION(silu, true)
ACTIVATION(mish, true)

// Each column takes a share of the activation: y = u + share * (f(u) - u), u = z + bias.
// (z, bias, share, y), (grad, z, bias, share, dz, dbias, dshare) | n, m

#define PARAMETRIC(name) \
    static CLONES void name##_mixed(const T* z, const T* bias, const T* share, T* y, long long n, \
                                    long long m) { \
        for (long long i = 0; i < n; ++i, z += m, y += m) EVERY(j, m) { \
            T u = bias ? z[j] + bias[j] : z[j]; \
            y[j] = u + share[j] * (f_##name(u) - u); \
        } \
    } \
    ENTRY(parametric_##name##_forward) { \
        long long m = call.sizes[1]; \
        name##_mixed(lane.row<T>(call, 0, m), call.at<T>(1), call.at<T>(2), lane.row<T>(call, 3, m), \
                     lane.rows(), m); \
    } \
    static CLONES void name##_mixed_slopes(const T* grad, const T* z, const T* bias, const T* share, \
                                           T* dz, T* dbias, T* dshare, long long n, long long m) { \
        if (dbias) EVERY(j, m) dbias[j] = 0; \
        EVERY(j, m) dshare[j] = 0; \
        for (long long i = 0; i < n; ++i, grad += m, z += m, dz += m) { \
            EVERY(j, m) { \
                T g = grad[j], u = bias ? z[j] + bias[j] : z[j], value = f_##name(u); \
                dshare[j] += g * (value - u); \
                dz[j] = g + share[j] * (f_##name##_grad(g, u, value) - g); \
            } \
            if (dbias) EVERY(j, m) dbias[j] += dz[j]; \
        } \
    } \
    ENTRY(parametric_##name##_backward) { \
        long long m = call.sizes[1]; \
        const T *grad = lane.row<T>(call, 0, m), *z = lane.row<T>(call, 1, m); \
        T* dz = lane.row<T>(call, 4, m); \
        Sums sums = {lane.copy<T>(call, 5), lane.copy<T>(call, 6), m}; \
        add_spans(lane, lane.rows(), sums, SPAN, [&](long long first, long long rows, Sums to) { \
            long long at = first * m; \
            name##_mixed_slopes(grad + at, z + at, call.at<T>(2), call.at<T>(3), dz + at, to.a, \
                                to.b, rows, m); \
        }); \
    }

PARAMETRIC(sigmoid)
PARAMETRIC(tanh)
PARAMETRIC(relu)
PARAMETRIC(selu)
PARAMETRIC(gelu)
PARAMETRIC(silu)
PARAMETRIC(mish)

// ---- A factor a column. (x, scale, y), (grad, x, scale, dx, dscale) | n, m

static CLONES void scale_rows(const T* x, const T* scale, T* y, long long n, long long m) {
    for (long long i = 0; i < n; ++i) EVERY(j, m) y[i * m + j] = x[i * m + j] * scale[j];
}

ENTRY(scale_forward) {
    long long m = call.sizes[1];
    scale_rows(lane.row<T>(call, 0, m), call.at<T>(1), lane.row<T>(call, 2, m), lane.rows(), m);
}

static CLONES void add_products(const T* grad, const T* x, T* out, long long n, long long m) {
    EVERY(j, m) out[j] = 0;
    for (long long i = 0; i < n; ++i) EVERY(j, m) out[j] += grad[i * m + j] * x[i * m + j];
}

ENTRY(scale_backward) {
    long long m = call.sizes[1];
    const T *grad = lane.row<T>(call, 0, m), *x = lane.row<T>(call, 1, m);
    Sums sums = {lane.copy<T>(call, 4), nullptr, m};
    add_spans(lane, lane.rows(), sums, SPAN, [&](long long first, long long rows, Sums to) {
        add_products(grad + first * m, x + first * m, to.a, rows, m);
    });
    if (T* dx = lane.row<T>(call, 3, m)) scale_rows(grad, call.at<T>(2), dx, lane.rows(), m);
}

static CLONES void add_rows(const T* x, T* out, long long n, long long m) {
    EVERY(j, m) out[j] = 0;
    for (long long i = 0; i < n; ++i) EVERY(j, m) out[j] += x[i * m + j];
}

ENTRY(column_sums) {                                   // (x, out | n, m)
    long long m = call.sizes[1];
    const T* x = lane.row<T>(call, 0, m);
    Sums sums = {lane.copy<T>(call, 1), nullptr, m};
    add_spans(lane, lane.rows(), sums, SPAN, [&](long long first, long long rows, Sums to) {
        add_rows(x + first * m, to.a, rows, m);
    });
}

// ---- Windows of columns. Waves go feature by feature over a group of rows at once; `values` has
// room for e columns of it. (x, frequency, phase, weight, bias, y), (grad, x, frequency, phase,
// weight, dx, dfrequency, dphase, dweight, dbias) | x_first, y_first, n, d, m, f, k, e

enum { GROUP = 128 };                                  // rows at once

#define TOTAL(i, count, term) \
    T total = 0; \
    _Pragma("omp simd reduction(+ : total)") for (long long i = 0; i < (count); ++i) total += term; \
    return total;

static inline T sum_of(const T* a, long long size) { TOTAL(i, size, a[i]) }
static inline T sum_of_products(const T* a, const T* b, long long size) { TOTAL(i, size, a[i] * b[i]) }

static inline void take_column(const T* x, long long stride, T* out, long long rows) {
    for (long long i = 0; i < rows; ++i) out[i] = x[i * stride];
}

static inline void put_column(const T* x, long long stride, T* out, long long rows) {
    for (long long i = 0; i < rows; ++i) out[i * stride] = x[i];
}

static CLONES void wave_values(const T* x, long long d, const T* frequency, const T* phase,
                               const T* weight, const T* bias, T* y, long long m, T* values,
                               long long rows, long long k, long long e) {
    T given[GROUP], wave[GROUP];
    take_column(x, d, given, rows);
    for (long long q = 0; q < e; ++q) EVERY(i, rows) values[q * GROUP + i] = bias[q];
    for (long long h = 0; h < k; ++h, weight += e) {
        T pace = 2 * frequency[h], start = phase[h] / T(PI);
        EVERY(i, rows) wave[i] = f_cospi(pace * given[i] + start);
        for (long long q = 0; q < e; ++q) EVERY(i, rows) values[q * GROUP + i] += weight[q] * wave[i];
    }
    for (long long q = 0; q < e; ++q) put_column(values + q * GROUP, m, y + q, rows);
    put_column(given, m, y + e, rows);
}

ENTRY(periodic_forward) {
    const long long *s = call.sizes, d = s[3], m = s[4], f = s[5], k = s[6], e = s[7];
    const T* x = lane.row<T>(call, 0, d) + s[0];
    T* y = lane.row<T>(call, 5, m) + s[1];
    for (long long first = 0, rows; (rows = lane.rows() - first) > 0; first += GROUP)
        for (long long j = 0; j < f; ++j)
            wave_values(x + first * d + j, d, call.at<T>(1) + j * k, call.at<T>(2) + j * k,
                        call.at<T>(3) + j * k * e, call.at<T>(4) + j * e,
                        y + first * m + j * (e + 1), m, (T*)lane.scratch,
                        rows < GROUP ? rows : (long long)GROUP, k, e);
}

struct Slopes { T *dx, *frequency, *phase, *weight, *bias; };

static CLONES void wave_slopes(const T* grad, long long m, const T* x, long long d,
                               const T* frequency, const T* phase, const T* weight, Slopes to,
                               T* values, long long rows, long long k, long long e) {
    T given[GROUP], sine[GROUP], cosine[GROUP], slope[GROUP], along[GROUP];
    take_column(x, d, given, rows);
    take_column(grad + e, m, along, rows);
    for (long long q = 0; q < e; ++q) {
        take_column(grad + q, m, values + q * GROUP, rows);
        to.bias[q] += sum_of(values + q * GROUP, rows);
    }
    for (long long h = 0; h < k; ++h, weight += e, to.weight += e) {
        T pace = 2 * frequency[h], start = phase[h] / T(PI);
        EVERY(i, rows) {
            Wave wave = wave_at(half_turns(pace * given[i] + start));
            sine[i] = -wave.sin;
            cosine[i] = wave.cos;
            slope[i] = 0;
        }
        for (long long q = 0; q < e; ++q) {
            EVERY(i, rows) slope[i] += weight[q] * values[q * GROUP + i];
            to.weight[q] += sum_of_products(cosine, values + q * GROUP, rows);
        }
        EVERY(i, rows) slope[i] *= sine[i];
        to.phase[h] += sum_of(slope, rows);
        to.frequency[h] += 2 * T(PI) * sum_of_products(slope, given, rows);
        if (to.dx) EVERY(i, rows) along[i] += T(PI) * pace * slope[i];
    }
    if (to.dx) put_column(along, d, to.dx, rows);
}

ENTRY(periodic_backward) {
    const long long *s = call.sizes, d = s[3], m = s[4], f = s[5], k = s[6], e = s[7];
    const T *grad = lane.row<T>(call, 0, m) + s[1], *x = lane.row<T>(call, 1, d) + s[0];
    T* dx = call.pointers[5] ? lane.row<T>(call, 5, d) + s[0] : nullptr;
    Slopes to = {dx, lane.copy<T>(call, 6), lane.copy<T>(call, 7), lane.copy<T>(call, 8),
                 lane.copy<T>(call, 9)};
    EVERY(i, f * k) to.frequency[i] = to.phase[i] = 0;
    EVERY(i, f * k * e) to.weight[i] = 0;
    EVERY(i, f * e) to.bias[i] = 0;
    for (long long first = 0, rows; (rows = lane.rows() - first) > 0; first += GROUP)
        for (long long j = 0; j < f; ++j)
            wave_slopes(grad + first * m + j * (e + 1), m, x + first * d + j, d,
                        call.at<T>(2) + j * k, call.at<T>(3) + j * k, call.at<T>(4) + j * k * e,
                        {dx ? dx + first * d + j : nullptr, to.frequency + j * k, to.phase + j * k,
                         to.weight + j * k * e, to.bias + j * e},
                        (T*)lane.scratch, rows < GROUP ? rows : (long long)GROUP, k, e);
}

// (x, feature, low, slope, y | x_first, y_first, n, d, m, q)

static CLONES void bin_shares(const T* x, const int* feature, const T* low, const T* slope, T* y,
                              long long bins) {
    EVERY(q, bins) y[q] = bin_share(x[feature[q]], low[q], slope[q]);
}

ENTRY(piecewise_forward) {
    const long long *s = call.sizes, d = s[3], m = s[4], bins = s[5];
    const T* x = lane.row<T>(call, 0, d) + s[0];
    T* y = lane.row<T>(call, 4, m) + s[1];
    for (long long i = 0; i < lane.rows(); ++i, x += d, y += m)
        bin_shares(x, call.at<int>(1), call.at<T>(2), call.at<T>(3), y, bins);
}

// (grad, x, feature, low, slope, dx | x_first, y_first, features, n, d, m, q)

ENTRY(piecewise_backward) {
    const long long *s = call.sizes, f = s[2], d = s[4], m = s[5], bins = s[6];
    const T *grad = lane.row<T>(call, 0, m) + s[1], *x = lane.row<T>(call, 1, d) + s[0];
    const int* feature = call.at<int>(2);
    const T *low = call.at<T>(3), *slope = call.at<T>(4);
    T* dx = lane.row<T>(call, 5, d) + s[0];
    for (long long i = 0; i < lane.rows(); ++i, x += d, grad += m, dx += d) {
        EVERY(j, f) dx[j] = 0;
        for (long long q = 0; q < bins; ++q)
            dx[feature[q]] += bin_share_grad(grad[q], x[feature[q]], low[q], slope[q]);
    }
}

// (x, starts, table, y), (grad, x, starts, dtable) | x_first, y_first, n, d, m, c, v, e

static inline long long table_row(T code, const int* starts, long long j, long long c, long long v) {
    long long low = starts[j], high = (j + 1 < c ? starts[j + 1] : v) - 1;
    T most = T(high - low);
    return low + (long long)(code > 0 ? (code < most ? code : most) : T(0));
}

ENTRY(embedding_forward) {
    const long long *s = call.sizes, d = s[3], m = s[4], c = s[5], v = s[6], e = s[7];
    const T *x = lane.row<T>(call, 0, d) + s[0], *table = call.at<T>(2);
    T* y = lane.row<T>(call, 3, m) + s[1];
    for (long long i = 0; i < lane.rows(); ++i, x += d, y += m)
        for (long long j = 0; j < c; ++j) {
            const T* row = table + table_row(x[j], call.at<int>(1), j, c, v) * e;
            EVERY(q, e) y[j * e + q] = row[q];
        }
}

ENTRY(embedding_backward) {
    const long long *s = call.sizes, d = s[3], m = s[4], c = s[5], v = s[6], e = s[7];
    const T *grad = lane.row<T>(call, 0, m) + s[1], *x = lane.row<T>(call, 1, d) + s[0];
    Sums sums = {lane.copy<T>(call, 3), nullptr, v * e};
    long long span = v > SPAN ? v : SPAN;              // or clearing a table would cost the most
    add_spans(lane, lane.rows(), sums, span, [&](long long first, long long rows, Sums to) {
        EVERY(i, v * e) to.a[i] = 0;
        for (long long i = first; i < first + rows; ++i)
            for (long long j = 0; j < c; ++j) {
                T* row = to.a + table_row(x[i * d + j], call.at<int>(2), j, c, v) * e;
                EVERY(q, e) row[q] += grad[i * m + j * e + q];
            }
    });
}

ENTRY(copy_columns) {                                  // (x, y, …) | x_first, y_first, width, n, d, m
    const long long *s = call.sizes, width = s[2], d = s[4], m = s[5];
    const T* x = lane.row<T>(call, 0, d) + s[0];
    T* y = lane.row<T>(call, 1, m) + s[1];
    for (long long i = 0; i < lane.rows(); ++i, x += d, y += m) EVERY(j, width) y[j] = x[j];
}

// ---- Dropout. (x, rate, hyper, key, clock, layer, y | layer, n, m)
// Random lanes are drawn before they are used, so that the loop that uses them has no branch. x and
// y are elements low … high of the batch.

enum { LANES = 16, BLOCKS = 64 };                      // lanes a Philox block, blocks drawn at once

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words are taken for lanes, low first");

static CLONES void drop(const T* x, T* y, long long low, long long high, unsigned keep, T scale,
                        const unsigned long long* key, Words counter) {
    unsigned short lanes[LANES * BLOCKS];
    for (long long first = low / LANES * LANES; first < high; first += LANES * BLOCKS) {
        for (int i = 0; i < BLOCKS; ++i) {
            counter.a = first / LANES + i + 1;
            Words drawn = philox(counter, key[0], key[1]);
            unsigned long long words[4] = {drawn.a, drawn.b, drawn.c, drawn.d};
            __builtin_memcpy(lanes + LANES * i, words, sizeof words);
        }
        long long begin = low > first ? low : first, end = first + LANES * BLOCKS;
        const unsigned short* own = lanes + (begin - first);
        EVERY(i, (end < high ? end : high) - begin)
            y[begin - low + i] = own[i] < keep ? x[begin - low + i] * scale : T(0);
    }
}

ENTRY(dropout) {
    long long m = call.sizes[2];
    double kept = __builtin_rint((1.0 - (double)call.at<T>(1)[0] * lane.hyper[FADE]) * 65536.0);
    Words counter = {0, 0, (unsigned long long)lane.clock[STEP], (unsigned long long)call.sizes[0]};
    long long before = lane.clock[BEFORE];
    drop(lane.row<T>(call, 0, m), lane.row<T>(call, 6, m), (before + lane.first) * m,
         (before + lane.last) * m, (unsigned)kept, T(65536.0 / kept),
         call.at<unsigned long long>(3), counter);
}

// ---- Layer norm. (x, gain, bias, y, mean, rstd), (grad, x, gain, mean, rstd, dx, dgain, dbias) | n, m

static CLONES void normalise(const T* x, const T* gain, const T* bias, T* y, T* mean, T* rstd,
                             long long n, long long m) {
    for (long long i = 0; i < n; ++i, x += m, y += m) {
        T total = 0, spread = 0;
        for (long long j = 0; j < m; ++j) total += x[j];
        T middle = total / m;
        for (long long j = 0; j < m; ++j) spread += (x[j] - middle) * (x[j] - middle);
        T scale = norm_scale(spread / m);
        EVERY(j, m) y[j] = (x[j] - middle) * scale * gain[j] + bias[j];
        mean[i] = middle;
        rstd[i] = scale;
    }
}

ENTRY(layer_norm_forward) {
    long long m = call.sizes[1];
    normalise(lane.row<T>(call, 0, m), call.at<T>(1), call.at<T>(2), lane.row<T>(call, 3, m),
              lane.row<T>(call, 4, 1), lane.row<T>(call, 5, 1), lane.rows(), m);
}

static CLONES void normalise_back(const T* grad, const T* x, const T* gain, const T* mean,
                                  const T* rstd, T* dx, T* dgain, T* dbias, long long n,
                                  long long m) {
    EVERY(j, m) dgain[j] = dbias[j] = 0;
    for (long long i = 0; i < n; ++i, grad += m, x += m, dx += m) {
        T along = 0, total = 0, middle = mean[i], scale = rstd[i];
        for (long long j = 0; j < m; ++j) {
            T h = (x[j] - middle) * scale, g = grad[j] * gain[j];
            dgain[j] += grad[j] * h;
            dbias[j] += grad[j];
            total += g;
            along += g * h;
        }
        EVERY(j, m) {
            T h = (x[j] - middle) * scale;
            dx[j] = (grad[j] * gain[j] - total / m - h * (along / m)) * scale;
        }
    }
}

ENTRY(layer_norm_backward) {
    long long m = call.sizes[1];
    const T *grad = lane.row<T>(call, 0, m), *x = lane.row<T>(call, 1, m);
    const T *mean = lane.row<T>(call, 3, 1), *rstd = lane.row<T>(call, 4, 1);
    T* dx = lane.row<T>(call, 5, m);
    Sums sums = {lane.copy<T>(call, 6), lane.copy<T>(call, 7), m};
    add_spans(lane, lane.rows(), sums, SPAN, [&](long long first, long long rows, Sums to) {
        long long at = first * m;
        normalise_back(grad + at, x + at, call.at<T>(2), mean + first, rstd + first, dx + at, to.a,
                       to.b, rows, m);
    });
}

// ---- Batch norm. The lanes' own statistics first, then after a barrier every lane merges all of
// them alike. (x, gain, bias, running_mean, running_var, clock, y, mean, rstd, parts),
// (grad, x, gain, mean, rstd, clock, dx, dgain, dbias), (x, gain, bias, mean, variance, y) | n, m

static CLONES void add_distances(const T* x, const T* mean, T* spread, long long n, long long m) {
    EVERY(j, m) spread[j] = 0;
    for (long long i = 0; i < n; ++i, x += m)
        EVERY(j, m) spread[j] += (x[j] - mean[j]) * (x[j] - mean[j]);
}

ENTRY(batch_norm_statistics) {
    long long m = call.sizes[1], n = lane.valid();
    const T* x = lane.row<T>(call, 0, m);
    T *mean = call.at<T>(9) + 2 * m * lane.index, *spread = mean + m;
    add_spans(lane, n, {mean, nullptr, m}, SPAN, [&](long long first, long long rows, Sums to) {
        add_rows(x + first * m, to.a, rows, m);
    });
    EVERY(j, m) mean[j] = n ? mean[j] / n : T(0);
    add_spans(lane, n, {spread, nullptr, m}, SPAN, [&](long long first, long long rows, Sums to) {
        add_distances(x + first * m, mean, to.a, rows, m);
    });
}

// Chan, Golub and LeVeque, 1979: sums of squared distances of parts, from their means.
static CLONES void merge_statistics(const Lane& lane, const T* parts, T* mean, T* spread,
                                    long long rows, long long m) {
    EVERY(j, m) mean[j] = spread[j] = 0;
    for (int each = 0; each < lane.count; ++each) {
        T share = rows ? T(lane.valid_of(each)) / rows : T(0);
        EVERY(j, m) mean[j] += share * parts[2 * m * each + j];
    }
    for (int each = 0; each < lane.count; ++each) {
        const T* middle = parts + 2 * m * each;
        T count = T(lane.valid_of(each));
        EVERY(j, m) spread[j] += middle[m + j] + count * (middle[j] - mean[j]) * (middle[j] - mean[j]);
    }
}

static CLONES void normalise_columns(const T* x, const T* gain, const T* bias, const T* mean,
                                     const T* rstd, T* y, long long n, long long m) {
    for (long long i = 0; i < n; ++i, x += m, y += m)
        EVERY(j, m) y[j] = (x[j] - mean[j]) * rstd[j] * gain[j] + bias[j];
}

static void keep_statistics(const Call& call, const T* mean, const T* spread, const T* rstd,
                            bool renews, long long rows, long long m) {
    T *running_mean = call.at<T>(3), *running_var = call.at<T>(4);
    for (long long j = 0; j < m; ++j) {
        call.at<T>(7)[j] = mean[j];
        call.at<T>(8)[j] = rstd[j];
        if (!renews) continue;
        running_mean[j] = renewed(running_mean[j], mean[j]);
        running_var[j] = renewed(running_var[j], spread[j] / (rows - 1));
    }
}

ENTRY(batch_norm_forward) {
    long long m = call.sizes[1], rows = lane.valid_of(0, lane.batch);
    T *mean = (T*)lane.scratch, *spread = mean + m, *rstd = spread + m;
    merge_statistics(lane, call.at<T>(9), mean, spread, rows, m);
    for (long long j = 0; j < m; ++j) rstd[j] = norm_scale(spread[j] / (rows > 1 ? rows : 1));
    if (lane.index == 0)
        keep_statistics(call, mean, spread, rstd, rows > 1 && !lane.clock[FAULT], rows, m);
    normalise_columns(lane.row<T>(call, 0, m), call.at<T>(1), call.at<T>(2), mean, rstd,
                      lane.row<T>(call, 6, m), lane.rows(), m);
}

static CLONES void column_slopes(const T* grad, const T* x, const T* mean, const T* rstd, T* dgain,
                                 T* dbias, long long n, long long m) {
    EVERY(j, m) dgain[j] = dbias[j] = 0;
    for (long long i = 0; i < n; ++i, grad += m, x += m) EVERY(j, m) {
        dgain[j] += grad[j] * ((x[j] - mean[j]) * rstd[j]);
        dbias[j] += grad[j];
    }
}

ENTRY(batch_norm_sums) {
    long long m = call.sizes[1];
    const T *grad = lane.row<T>(call, 0, m), *x = lane.row<T>(call, 1, m);
    Sums sums = {lane.copy<T>(call, 7), lane.copy<T>(call, 8), m};
    add_spans(lane, lane.valid(), sums, SPAN, [&](long long first, long long rows, Sums to) {
        column_slopes(grad + first * m, x + first * m, call.at<T>(3), call.at<T>(4), to.a, to.b,
                      rows, m);
    });
}

static CLONES void add_copies(const Lane& lane, const T* first, T* out, long long m) {
    EVERY(j, m) out[j] = 0;
    for (int each = 0; each < lane.count; ++each) {
        const T* copy = (const T*)((const char*)first + each * lane.stride);
        EVERY(j, m) out[j] += copy[j];
    }
}

static CLONES void normalise_columns_back(const T* grad, const T* x, const T* gain, const T* mean,
                                          const T* rstd, const T* dgain, const T* dbias, T* dx,
                                          long long valid, long long n, long long m) {
    for (long long i = 0; i < n; ++i, grad += m, x += m, dx += m) EVERY(j, m) {
        T h = (x[j] - mean[j]) * rstd[j];
        T away = grad[j] - dbias[j] / valid - h * (dgain[j] / valid);
        dx[j] = gain[j] * rstd[j] * away;
    }
}

ENTRY(batch_norm_backward) {
    long long m = call.sizes[1], rows = lane.valid();
    T *dgain = (T*)lane.scratch, *dbias = dgain + m, *dx = lane.row<T>(call, 6, m);
    add_copies(lane, call.at<T>(7), dgain, m);
    add_copies(lane, call.at<T>(8), dbias, m);
    normalise_columns_back(lane.row<T>(call, 0, m), lane.row<T>(call, 1, m), call.at<T>(2),
                           call.at<T>(3), call.at<T>(4), dgain, dbias, dx,
                           lane.valid_of(0, lane.batch), rows, m);
    EVERY(j, (lane.rows() - rows) * m) dx[rows * m + j] = 0;
}

ENTRY(batch_norm_apply) {
    long long m = call.sizes[1];
    T* rstd = (T*)lane.scratch;
    for (long long j = 0; j < m; ++j) rstd[j] = norm_scale(call.at<T>(4)[j]);
    normalise_columns(lane.row<T>(call, 0, m), call.at<T>(1), call.at<T>(2), call.at<T>(3), rstd,
                      lane.row<T>(call, 5, m), lane.rows(), m);
}

// ---- Losses: rows first, then after a barrier every lane adds all rows up alike.
// (pred, target, weight, parameter, clock, grad, rows, totals | n, k, mean)

static T row_scale(const Call& call, const Lane& lane, long long i) {
    T weight = call.pointers[2] ? lane.row<T>(call, 2, 1)[i] : T(1);
    long long rows = lane.batch_rows();
    return call.sizes[2] && rows > 1 ? weight / T(rows) : weight;
}

static void close_rows(const Call& call, const Lane& lane) {
    long long k = call.sizes[1];
    T *rows = lane.row<T>(call, 6, 1), *grad = lane.row<T>(call, 5, k);
    for (long long i = 0; i < lane.rows(); ++i) {
        if (i >= lane.valid()) {
            rows[i] = 0;
            if (grad) EVERY(j, k) grad[i * k + j] = 0;
        } else if (call.pointers[2]) {
            rows[i] *= lane.row<T>(call, 2, 1)[i];
        }
    }
}

// each: whether every column has a constant of its own.
#define LOSS(name, each) \
    static CLONES void name##_rows(const T* pred, const T* target, const T* constants, T* grad, \
                                   T* rows, const Call& call, const Lane& lane, long long k) { \
        T divisor = call.sizes[2] ? T(k) : T(1), constant = constants[0]; \
        for (long long i = 0; i < lane.valid(); ++i, pred += k, target += k) { \
            T loss = 0, scale = row_scale(call, lane, i) / divisor; \
            for (long long j = 0; j < k; ++j) \
                loss += loss_##name(pred[j], target[j], each ? constants[j] : constant); \
            if (grad) EVERY(j, k) \
                grad[i * k + j] = scale * \
                    loss_##name##_grad(pred[j], target[j], each ? constants[j] : constant); \
            rows[i] = loss / divisor; \
        } \
    } \
    ENTRY(name) { \
        long long k = call.sizes[1]; \
        name##_rows(lane.row<T>(call, 0, k), lane.row<T>(call, 1, k), call.at<T>(3), \
                    lane.row<T>(call, 5, k), lane.row<T>(call, 6, 1), call, lane, k); \
        close_rows(call, lane); \
    }

LOSS(sigmoid_cross_entropy, false)
LOSS(sum_squares, false)
LOSS(mean_squared, false)
LOSS(mean_absolute, false)
LOSS(huber, false)
LOSS(pinball, true)
LOSS(poisson, false)

static CLONES void softmax_rows(const T* pred, const int* target, T smoothing, T* grad, T* rows,
                                const Call& call, const Lane& lane, long long k) {
    for (long long i = 0; i < lane.valid(); ++i, pred += k) {
        long long hit = target[i];
        T highest = pred[0], total = 0, below = 0;
        for (long long j = 1; j < k; ++j) highest = pred[j] > highest ? pred[j] : highest;
        for (long long j = 0; j < k; ++j) {
            total += f_exp(pred[j] - highest);
            below += pred[j] - highest;
        }
        T picked = (1 - smoothing) * (pred[hit] - highest) + smoothing * (below / k);
        rows[i] = f_log(total) - picked;
        if (!grad) continue;
        T scale = row_scale(call, lane, i);
        EVERY(j, k) grad[i * k + j] =
            softmax_grad(f_exp(pred[j] - highest) / total, j == hit, smoothing, T(k)) * scale;
    }
}

ENTRY(softmax_cross_entropy) {
    long long k = call.sizes[1];
    softmax_rows(lane.row<T>(call, 0, k), lane.row<int>(call, 1, 1), call.at<T>(3)[0],
                 lane.row<T>(call, 5, k), lane.row<T>(call, 6, 1), call, lane, k);
    close_rows(call, lane);
}

ENTRY(fold_rows) {
    long long n = call.sizes[0], valid = lane.clock[VALID], all = lane.batch_rows();
    double sum = 0, *totals = call.at<double>(7);
    const T* rows = call.at<T>(6);
    for (long long i = 0; i < n; ++i) sum += rows[i];
    double loss = call.sizes[2] && all > 1 ? sum / all : sum;
    if (!(loss - loss == 0)) lane.clock[FAULT] |= FAULT_LOSS;
    if (lane.index) return;
    totals[0] = (lane.clock[BEFORE] ? totals[0] : 0) + loss;
    totals[1] += sum;
    totals[2] += valid < 0 ? 0 : valid < n ? valid : n;
}

// ---- The update: each lane adds its share of the slices' gradients up and moves its parameters.

enum { TILE = 1024 };

static CLONES void add_slices(const Call& call, const Lane& lane, int which, long long low,
                              long long size, T* out) {
    const T* mine = call.at<T>(which) + low;
    EVERY(i, size) out[i] = mine[i];
    for (int slice = 1; low >= call.sizes[2] && slice < lane.count; ++slice) {
        const T* other = (const T*)((const char*)mine + slice * lane.stride);
        EVERY(i, size) out[i] += other[i];
    }
}

#define EACH_TILE(low, high) \
    for (int piece = 0; piece < lane.piece_count; ++piece) \
        for (long long low = lane.pieces[2 * piece], end = lane.pieces[2 * piece + 1], \
                       high = low + TILE < end ? low + TILE : end; \
             low < end; low = high, high = low + TILE < end ? low + TILE : end)

static CLONES double squares(const T* x, long long size) {
    double total = 0;
    for (long long i = 0; i < size; ++i) total += (double)x[i] * (double)x[i];
    return total;
}

static CLONES void add_to(const T* x, T* total, bool is_first, long long size) {
    if (is_first) EVERY(i, size) total[i] = x[i];
    else EVERY(i, size) total[i] += x[i];
}

ENTRY(accumulate) {                                    // (grad, total, clock | size, -, matrices)
    T tile[TILE];
    EACH_TILE(low, high) {
        add_slices(call, lane, 0, low, high - low, tile);
        add_to(tile, call.at<T>(1) + low, lane.clock[BEFORE] == 0, high - low);
    }
}

ENTRY(squared_norm) {                                  // (grad, out | size, -, matrices)
    T tile[TILE];
    double total = 0;
    EACH_TILE(low, high) {
        add_slices(call, lane, 0, low, high - low, tile);
        total += squares(tile, high - low);
    }
    lane.shared->parts[lane.index].value = total;
}

ENTRY(clip) {                                          // after a barrier, alike in every lane
    double total = 0;
    for (int each = 0; each < lane.count; ++each) total += lane.shared->parts[each].value;
    double factor = lane.hyper[LIMIT] / __builtin_sqrt(total);
    lane.hyper[CLIP] = factor < 1 ? factor : 1;
}

static Rate segment_rate(const Lane& lane, double rate, double decays) {
    const double* hyper = lane.hyper;
    T lr = T(hyper[LR] * rate), decay = T(hyper[DECAY] * decays);
    return {lr, decay, T(hyper[CLIP]), T(hyper[BETA1]), T(1 - hyper[BETA1]), T(hyper[BETA2]),
            T(1 - hyper[BETA2]), T(hyper[EPSILON]), lr / T(hyper[CORRECTION1]),
            1 / f_sqrt(T(hyper[CORRECTION2]))};
}

// Selection by bits: as `yes ? a : b` it would become a masked store, which is slower.
static inline Bits mask_of(bool yes) { return -(Bits)yes; }
static inline T chosen(Bits mask, T a, T b) {
    return from_bits((bits_of(a) & mask) | (bits_of(b) & ~mask));
}

// (param, grad, slots…, starts, rates, decays, hyper, clock | size, segments, matrices)
// name_move: parameters low … high by their gradient.
#define UPDATE(name, slots) \
    static CLONES int name##_tile(Rate rate, T* param, const T* grad, T* first, T* second, \
                                  long long size) { \
        Bits bad_gradient = 0, bad_parameter = 0; \
        T unused = 0; \
        EVERY(i, size) { \
            T old = param[i], a = slots > 0 ? first[i] : unused, b = slots > 1 ? second[i] : unused; \
            T new_a = a, new_b = b, p = name##_step(rate, old, grad[i], new_a, new_b); \
            Bits sound = mask_of(is_finite(grad[i] * rate.clip)); \
            Bits good = sound & mask_of(is_finite(p)) & mask_of(is_finite(new_a + new_b)); \
            bad_gradient |= ~sound; \
            bad_parameter |= sound & ~good; \
            param[i] = chosen(good, p, old); \
            if (slots > 0) first[i] = chosen(good, new_a, a); \
            if (slots > 1) second[i] = chosen(good, new_b, b); \
        } \
        return (bad_gradient ? FAULT_GRADIENT : 0) | (bad_parameter ? FAULT_PARAMETER : 0); \
    } \
    extern "C" void JOIN(name##_move, TYPE)(const Call& call, Lane& lane, long long low, \
                                            long long high, const void* given) { \
        const long long* starts = call.at<long long>(2 + slots); \
        const T* grad = (const T*)given; \
        T *param = call.at<T>(0), *first = call.at<T>(2), *second = call.at<T>(3); \
        int fault = 0; \
        for (int segment = 0; low < high; ++segment) { \
            long long end = starts[segment + 1] < high ? starts[segment + 1] : high, size = end - low; \
            if (size <= 0) continue; \
            Rate rate = segment_rate(lane, call.at<double>(3 + slots)[segment], \
                                     call.at<double>(4 + slots)[segment]); \
            fault |= name##_tile(rate, param + low, grad, first + low, second + low, size); \
            grad += size; \
            low = end; \
        } \
        if (fault) __atomic_fetch_or(&lane.shared->fault, fault, __ATOMIC_RELAXED); \
    } \
    ENTRY(name) { \
        if (lane.clock[FAULT]) return; \
        T tile[TILE]; \
        EACH_TILE(low, high) { \
            add_slices(call, lane, 1, low, high - low, tile); \
            JOIN(name##_move, TYPE)(call, lane, low, high, tile); \
        } \
    }

UPDATE(sgd, 0)
UPDATE(momentum, 1)
UPDATE(nesterov, 1)
UPDATE(rmsprop, 1)
UPDATE(adam, 2)
UPDATE(adamw, 2)
UPDATE(lion, 1)
