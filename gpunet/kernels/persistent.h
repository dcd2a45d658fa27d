// What the kernels share whose blocks stay on the GPU for many steps of training: lanes, inputs, the
// loss of a row, the rates of a step, and what they are given.
//
// Given: OUTPUTS, LAYERS; the loss (SOFTMAX, or LOSS and LOSS_GRADIENT with CONSTANT) and MEAN; whether
// inputs are SCALED; Input and Target.

#ifndef LANES
#define LANES 32
template <class V> BLOCK V lane_sum(V x) {
    for (int step = LANES / 2; step; step /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, step);
    return x;
}
#define DYNAMIC(name) extern __shared__ double name[]
#define SYNC_LANES() __syncwarp()
#endif

#define WARPS (THREADS / LANES)
#define EACH_OF(i, count) for (int i = threadIdx.x; i < (count); i += THREADS)
#define UNROLLED _Pragma("unroll")
#define SEVERAL _Pragma("unroll 4")
// Values that a thread loads before it writes any: the compiler does not know what they share. Looks
// at what other blocks write, which take seconds: behind them an error is better than no end.
enum { AT_ONCE = 8, MOST_LOOKS = 1 << 24 };

HD constexpr int inside(int i, int size) { return i < size ? i : size - 1; }
HD constexpr int groups_of(int size, int group) { return (size + group - 1) / group; }

// ---- Rows.

// The batch of a step, as the clock has it.
struct Batch {
    long long step, start, valid, rows;

    BLOCK explicit Batch(const long long* clock)
        : step(clock[STEP]), start(clock[START]), valid(clock[VALID]), rows(clock[ROWS]) {}

    BLOCK void advance() {
        long long after = start + BATCH;
        start = after < rows ? after : 0;
        valid = rows - start < BATCH ? rows - start : BATCH;
        ++step;
    }
};

#ifdef BYTES
typedef T Wide;                    // what inputs are scaled in: bytes have few bits to lose
#else
typedef double Wide;
#endif

BLOCK T input_of(Input found, const Wide* scale, const Wide* shift, int column) {
#if SCALED
    return T(found * scale[column] + shift[column]);
#else
    return T(found);
#endif
}

HD long long batch_rows(long long valid) { return MEAN && valid > 1 ? valid : 1; }

// Of a warp's lanes, or of a thread by itself.
template <int lanes> BLOCK T summed_by(T x) {
    if constexpr (lanes > 1) return lane_sum(x);
    return x;
}
template <int lanes> BLOCK void sync_by() {
    if constexpr (lanes > 1) SYNC_LANES();
}

// The loss of a row from its outputs, which become their gradients. By so many lanes, each of which
// has its `own` target.
#if SOFTMAX
#define TARGETS 1
template <int lanes>
BLOCK T row_loss(T* outs, const Target* target, Target own, const T* parameter, T scale) {
    T smoothing = parameter[0], top = outs[0], total = 0, below = 0;
    int lane = threadIdx.x % lanes, wanted = own;
    for (int j = 1; j < OUTPUTS; ++j)
        if (outs[j] > top) top = outs[j];
    for (int j = lane; j < OUTPUTS; j += lanes) {
        total += f_exp(outs[j] - top);
        below += outs[j] - top;
    }
    total = summed_by<lanes>(total);
    below = summed_by<lanes>(below);
    T picked = outs[wanted] - top;
    if (smoothing != 0) picked = (1 - smoothing) * picked + smoothing * (below / OUTPUTS);
    sync_by<lanes>();
    for (int j = lane; j < OUTPUTS; j += lanes)
        outs[j] = softmax_grad(f_exp(outs[j] - top) / total, j == wanted, smoothing, OUTPUTS) * scale;
    return f_log(total) - picked;
}
#else
#define TARGETS OUTPUTS
template <int lanes>
BLOCK T row_loss(T* outs, const Target* target, Target own, const T* parameter, T scale) {
    T divisor = MEAN ? T(OUTPUTS) : T(1), loss = 0;
    int lane = threadIdx.x % lanes;
    constexpr int each = (OUTPUTS + lanes - 1) / lanes, some = each < AT_ONCE ? each : AT_ONCE;
    for (int first = lane; first < OUTPUTS; first += some * lanes) {
        T outputs[some], targets[some];
        UNROLLED for (int n = 0; n < some; ++n) {
            int j = inside(first + n * lanes, OUTPUTS);
            outputs[n] = outs[j], targets[n] = j == lane ? own : target[j];
        }
        UNROLLED for (int n = 0; n < some; ++n) {
            int j = first + n * lanes;
            if (j >= OUTPUTS) break;
            T p = outputs[n], t = targets[n], constant = CONSTANT(j);
            loss += LOSS(p, t, constant);
            outs[j] = LOSS_GRADIENT(p, t, constant) * (scale / divisor);
        }
    }
    return summed_by<lanes>(loss) / divisor;
}
#endif

// ---- What moves parameters in a step, by one thread: from the schedule, like `tick`.

struct Book {
    const double *table, *paces, *decays;
    long long entries;

    BLOCK void set_rates(double* hyper, long long step, Rate* rates) const {
        set_hyper(hyper, table, entries, step);
        for (int i = 0; i < 2 * LAYERS; ++i) rates[i] = rate_of(hyper, paces[i], decays[i]);
    }
};

// What both kernels of a source are given, the one that opens the way and the one that trains.
#define GIVEN const Input *x, const Target *y, const double *scale, const double *shift, \
    const int *order, T *params, T *first, T *second, const double *paces, const double *decays, \
    double *hyper, const double *table, long long *clock, const T *parameter, double *totals, \
    T *work, unsigned *signs, long long steps, long long entries
