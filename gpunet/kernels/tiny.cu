// A network of one hidden layer, trained for many steps in one launch. Each block keeps the weights
// of UNITS hidden units, and what the optimiser knows of them, in shared memory for all steps. The
// outputs are sums over all blocks: each writes its share, all meet once a step, and every block adds
// the shares up in the same order, so that all agree to the bit. The launch list is the reference.
//
// Given: UNITS, SLOTS of the optimiser, MOVE, ACT and SLOPE, the loss (SOFTMAX, or LOSS and
// LOSS_GRADIENT with CONSTANT), MEAN and JUDGED, Input and Target.

#ifndef LANES
#define LANES 32
BLOCK T lane_sum(T x) {
    for (int step = LANES / 2; step; step /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, step);
    return x;
}
BLOCK unsigned seen(const unsigned* place) {
    unsigned value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(place) : "memory");
    return value;
}
BLOCK T fresh(const T* place) { return __ldcg(place); }
#define DYNAMIC(name) extern __shared__ long long name[]
#endif

#define WARPS (THREADS / LANES)
#define EACH_OF(i, count) for (long long i = threadIdx.x; i < (count); i += THREADS)
#define UNROLLED _Pragma("unroll")

// Places in `gate`: how many blocks came to the meetings so far, and the first step with a fault.
#define MET 0
#define STOPPED 1

// The clock and the numbers of a step, as every block keeps them for itself.
struct Now {
    long long step, start, valid, rows, last_step, last_start, last_valid;
    double hyper[16];
    Rate rates[4];

    BLOCK void open(const long long* clock, const double* given) {
        step = clock[STEP], start = clock[START], valid = clock[VALID], rows = clock[ROWS];
        for (int i = 0; i < 16; ++i) hyper[i] = given[i];
    }
    BLOCK void advance(long long batch) {
        last_step = step, last_start = start, last_valid = valid;
        long long next = start + batch;
        start = next < rows ? next : 0;
        valid = rows - start < batch ? rows - start : batch;
        ++step;
    }
    BLOCK void take_back() { step = last_step, start = last_start, valid = last_valid; }
    BLOCK void set_rates(const double* table, long long entries, const double* paces,
                         const double* decays) {
        const double* now = table + 3 * (step < entries ? step : entries - 1);
        hyper[LR] = now[0] * hyper[SCALE];
        hyper[DECAY] = now[1];
        hyper[FADE] = now[2];
        hyper[CORRECTION1] = 1 - pow(hyper[BETA1], (double)step);
        hyper[CORRECTION2] = 1 - pow(hyper[BETA2], (double)step);
        for (int part = 0; part < 4; ++part)
            rates[part] = rate_of(hyper, paces[part], decays[part]);
    }
};

// A block's parameters side by side: w1 (UNITS, d), w2 (UNITS, c), b1 (UNITS,), b2 (c,), of which
// the units from `own` on are zero. `flat` tells where in the network's vectors one lies, or -1.
struct Parts {
    long long d, hidden, c, first, own, w2, b1, b2, size;
    const long long* places;

    BLOCK Parts(long long d, long long hidden, long long c, const long long* places)
        : d(d), hidden(hidden), c(c), first(blockIdx.x * (long long)UNITS), w2(UNITS * d),
          b1(w2 + UNITS * c), b2(b1 + UNITS), size(b2 + c), places(places) {
        own = hidden - first < UNITS ? hidden - first : UNITS;
    }
    BLOCK long long flat(long long i) const {
        if (i < w2) return i / d < own ? places[0] + i % d * hidden + first + i / d : -1;
        if (i < b1) {
            long long unit = (i - w2) / c;
            return unit < own ? places[1] + (first + unit) * c + (i - w2) % c : -1;
        }
        if (i < b2) return i - b1 < own && places[2] >= 0 ? places[2] + first + i - b1 : -1;
        return places[3] >= 0 ? places[3] + i - b2 : -1;
    }
};

BLOCK void carry_in(const Parts& parts, T* mine, const T* vector) {
    EACH_OF(i, parts.size) {
        long long at = parts.flat(i);
        mine[i] = at < 0 ? T(0) : vector[at];
    }
}

// The output's biases are the same in every block.
BLOCK void carry_out(const Parts& parts, const T* mine, T* vector) {
    EACH_OF(i, blockIdx.x ? parts.b2 : parts.size) {
        long long at = parts.flat(i);
        if (at >= 0) vector[at] = mine[i];
    }
}

// Move one parameter; the fault bits.
BLOCK int moved(T* mine, long long size, long long i, T g, const Rate& rate) {
    T a = SLOTS > 0 ? mine[size + i] : T(0), b = SLOTS > 1 ? mine[2 * size + i] : T(0);
    T p = MOVE(rate, mine[i], g, a, b);
    if (!is_finite(g * rate.clip)) return FAULT_GRADIENT;
    if (!is_finite(p)) return FAULT_PARAMETER;
    mine[i] = p;
    if (SLOTS > 0) mine[size + i] = a;
    if (SLOTS > 1) mine[2 * size + i] = b;
    return 0;
}

BLOCK T value_of(const Input* x, const double* scale, const double* shift, long long row,
                 long long d, long long j) {
    Input found = x[row * d + j];
    if (!scale && !shift) return T(found);
    return T(found * (scale ? scale[j] : 1.0) + (shift ? shift[j] : 0.0));
}

HD long long batch_rows(long long valid) { return MEAN && valid > 1 ? valid : 1; }

// The loss of a row from its outputs, which become their gradients; whether it is right.
#if SOFTMAX
BLOCK T row_loss(T* row, const Target* target, const T* parameter, T scale, long long c,
                 bool& right) {
    T smoothing = parameter[0], top = row[0], total = 0, below = 0;
    long long guess = 0, wanted = target[0];
    for (long long j = 1; j < c; ++j)
        if (row[j] > top) top = row[j], guess = j;
    for (long long j = 0; j < c; ++j) {
        total += f_exp(row[j] - top);
        below += row[j] - top;
    }
    T picked = row[wanted] - top;
    if (smoothing != 0) picked = (1 - smoothing) * picked + smoothing * (below / c);
    for (long long j = 0; j < c; ++j)
        row[j] = softmax_grad(f_exp(row[j] - top) / total, j == wanted, smoothing, c) * scale;
    right = guess == wanted;
    return f_log(total) - picked;
}
#define TARGETS 1
#else
BLOCK T row_loss(T* row, const Target* target, const T* parameter, T scale, long long c,
                 bool& right) {
    T divisor = MEAN ? T(c) : T(1), loss = 0;
    right = JUDGED;
    for (long long j = 0; j < c; ++j) {
        T p = row[j], t = target[j], constant = CONSTANT(j);
        loss += LOSS(p, t, constant);
        if ((p > 0) != (t > T(0.5))) right = false;
        row[j] = LOSS_GRADIENT(p, t, constant) * (scale / divisor);
    }
    return loss / divisor;
}
#define TARGETS c
#endif

// All blocks wait for each other; meanwhile one thread, of another warp, makes the step's rates.
BLOCK void meet(unsigned* gate, unsigned target, Now& now, const double* table, long long entries,
                const double* paces, const double* decays) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(gate + MET, 1u);
        while (seen(gate + MET) < target) {}
        __threadfence();
    }
    if (threadIdx.x == THREADS - 1) now.set_rates(table, entries, paces, decays);
    __syncthreads();
}

KERNEL tiny_open(unsigned* gate) {
    if (threadIdx.x == 0) gate[MET] = 0, gate[STOPPED] = ~0u;
}

KERNEL tiny_train(const Input* x, const Target* y, const double* scale, const double* shift,
                  const int* order, T* params, T* first, T* second, const long long* places,
                  const double* paces, const double* decays, double* hyper, const double* table,
                  long long* clock, const T* parameter, double* totals, T* shares, unsigned* gate,
                  long long steps, long long batch, long long d, long long hidden, long long c,
                  long long entries) {
    if (clock[FAULT]) return;
    DYNAMIC(memory);
    long long* rows = memory;
    double* sums = (double*)(rows + batch);
    Now& now = *(Now*)(sums + THREADS);
    T* mine = (T*)(&now + 1);
    Parts parts(d, hidden, c, places);
    T *h = mine + (1 + SLOTS) * parts.size, *z = h + batch * UNITS, *dz = z + batch * UNITS;
    T *out = dz + batch * UNITS, *w1 = mine, *w2 = mine + parts.w2;
    int lane = threadIdx.x % LANES, fault = 0;
    double totalled[3] = {0, 0, 0}, mean = 0;
    bool has_totals = false;

    carry_in(parts, mine, params);
    if (SLOTS > 0) carry_in(parts, mine + parts.size, first);
    if (SLOTS > 1) carry_in(parts, mine + 2 * parts.size, second);
    if (threadIdx.x == 0) now.open(clock, hyper);

    for (long long s = 0; s < steps; ++s) {
        __syncthreads();
        if (threadIdx.x == 0) now.advance(batch);
        __syncthreads();
        long long valid = now.valid;
        EACH_OF(r, valid) rows[r] = order ? order[now.start + r] : now.start + r;
        __syncthreads();

        for (long long r = threadIdx.x / LANES; r < batch; r += WARPS) {
            T part[UNITS];
            UNROLLED for (int k = 0; k < UNITS; ++k) part[k] = 0;
            for (long long j = lane; r < valid && j < d; j += LANES) {
                T value = value_of(x, scale, shift, rows[r], d, j);
                UNROLLED for (int k = 0; k < UNITS; ++k) part[k] += value * w1[k * d + j];
            }
            UNROLLED for (int k = 0; k < UNITS; ++k) {
                T sum = lane_sum(part[k]) + mine[parts.b1 + k];
                if (lane) continue;
                z[r * UNITS + k] = sum;
                h[r * UNITS + k] = r < valid ? ACT(sum) : T(0);
            }
        }
        __syncthreads();

        T* round = shares + (s & 1) * gridDim.x * batch * c;
        EACH_OF(i, batch * c) {
            T sum = 0;
            UNROLLED for (int k = 0; k < UNITS; ++k)
                sum += h[i / c * UNITS + k] * w2[k * c + i % c];
            round[blockIdx.x * batch * c + i] = sum;
        }
        meet(gate, (unsigned)((s + 1) * gridDim.x), now, table, entries, paces, decays);
        // A fault of this step, of a block that is ahead, does not count: else not all would stop.
        if (seen(gate + STOPPED) < (unsigned)s) {
            if (threadIdx.x == 0) now.take_back();
            break;
        }

        EACH_OF(i, batch * c) {
            T sum = 0;
            for (long long block = 0; block < gridDim.x; ++block)
                sum += fresh(round + block * batch * c + i);
            out[i] = sum + mine[parts.b2 + i % c];
        }
        __syncthreads();
        double loss = 0, hits = 0;
        EACH_OF(r, batch) {
            bool right = false;
            T found = 0;
            if (r < valid)
                found = row_loss(out + r * c, y + rows[r] * TARGETS, parameter,
                                 T(1) / batch_rows(valid), c, right);
            else
                for (long long j = 0; j < c; ++j) out[r * c + j] = 0;
            loss += found;
            hits += right && found == found;
        }
        loss = summed(loss, threadIdx.x, THREADS, 1, sums);
        hits = summed(hits, threadIdx.x, THREADS, 1, sums);
        mean = loss / batch_rows(valid);
        totalled[0] += loss, totalled[1] += hits, totalled[2] += valid;
        has_totals = true;
        if (!(mean - mean == 0)) {
            fault |= FAULT_LOSS;
            break;
        }

        EACH_OF(i, batch * UNITS) {
            T sum = 0;
            for (long long j = 0; j < c; ++j) sum += out[i / UNITS * c + j] * w2[i % UNITS * c + j];
            dz[i] = SLOPE(sum, z[i], h[i]);
        }
        __syncthreads();

        int found = 0;
        EACH_OF(i, parts.own * c) {
            T slope = 0;
            for (long long r = 0; r < valid; ++r)
                slope += h[r * UNITS + i / c] * out[r * c + i % c];
            found |= moved(mine, parts.size, parts.w2 + i, slope, now.rates[1]);
        }
        EACH_OF(k, places[2] < 0 ? 0 : parts.own) {
            T slope = 0;
            for (long long r = 0; r < valid; ++r) slope += dz[r * UNITS + k];
            found |= moved(mine, parts.size, parts.b1 + k, slope, now.rates[2]);
        }
        EACH_OF(j, places[3] < 0 ? 0 : c) {
            T slope = 0;
            for (long long r = 0; r < valid; ++r) slope += out[r * c + j];
            found |= moved(mine, parts.size, parts.b2 + j, slope, now.rates[3]);
        }
        EACH_OF(j, d) {
            T slope[UNITS];
            UNROLLED for (int k = 0; k < UNITS; ++k) slope[k] = 0;
            for (long long r = 0; r < valid; ++r) {
                T value = value_of(x, scale, shift, rows[r], d, j);
                UNROLLED for (int k = 0; k < UNITS; ++k) slope[k] += value * dz[r * UNITS + k];
            }
            UNROLLED for (int k = 0; k < UNITS; ++k)
                if (k < parts.own)
                    found |= moved(mine, parts.size, k * d + j, slope[k], now.rates[0]);
        }
        if (found) atomicMin(gate + STOPPED, (unsigned)s);
        fault |= found;
    }

    __syncthreads();
    carry_out(parts, mine, params);
    if (SLOTS > 0) carry_out(parts, mine + parts.size, first);
    if (SLOTS > 1) carry_out(parts, mine + 2 * parts.size, second);
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        clock[STEP] = now.step, clock[START] = now.start, clock[VALID] = now.valid;
        for (int i = 0; i < 16; ++i) hyper[i] = now.hyper[i];
        if (has_totals) totals[0] = mean;
        for (int i = 0; i < 3; ++i) totals[i + 1] += totalled[i];
    }
    report(clock, fault);
}
