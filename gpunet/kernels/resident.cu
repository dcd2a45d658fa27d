// A network of one hidden layer, trained for many steps in one launch by blocks that stay on the GPU.
// Each has a strip of UNITS hidden units and a share of SHARE inputs for its own; the parameters
// between them, and what the optimiser keeps of them, stay in its shared memory from the first step
// to the last. The blocks of a strip hand each other what their inputs add to its units; strips, what
// their units add to the outputs. Then every block has the whole loss, and all that its own gradients
// want. What several blocks hold, the biases and the weights behind a strip, they move alike. The last
// block is a clerk: it makes the rates of the next step while others work. The launch list is the
// reference.
//
// Given, beside what meetings.h wants: the sizes BATCH, INPUTS, HIDDEN; STRIPS, UNITS, SHARES, SHARE;
// PARTS, how many sums single warps and threads make; whether rows CHANGE from step to step; GATES,
// words, and how far APART strips meet; Layer<1> and Layer<2>; where RATES, SUMS and LOGITS lie in
// `work`; SLOTS of the optimiser and MOVE; ACT and SLOPE, and whether the slope READS_INPUT.

HD constexpr int groups_of(int size, int group) { return (size + group - 1) / group; }
HD constexpr int whole_fours(int size) { return 4 * groups_of(size, 4); }
HD constexpr int at_least(int least, int n) { return n < least ? least : n; }

enum {
    PADDED = whole_fours(UNITS),
    PAIRS_OF_UNITS = BATCH * PADDED / 2,
    FOURS = groups_of(BATCH, 4),           // of rows
    HEIGHT = 4 * (FOURS | 1),              // of a column of inputs: odd fours, which are in other banks
    COLUMNS = SHARE + 1,                   // of inputs, the last of ones
    WIDTH = OUTPUTS | 1,                   // of a row of outputs
    BESIDE = (UNITS + 1) * OUTPUTS,        // weights behind a strip, and the bias of the outputs
    RESULTS = whole_fours(BATCH * OUTPUTS),
    // Rows that a warp takes at once, and how many warps divide the inputs of each among them.
    TILE_ROWS = 2 * LANES,
    ROW_TILES = groups_of(BATCH, TILE_ROWS),
    TEAM = at_least(1, WARPS / ROW_TILES),
    // Two columns' gradients are a thread's; so many threads divide the rows of each among them.
    PAIRS = groups_of(COLUMNS, 2),
    CREW = at_least(1, THREADS / PAIRS),
    HANDS = at_least(1, THREADS / BESIDE),
    FORWARD_SUMS = TEAM * BATCH * PADDED,
    BACK_SUMS = CREW * COLUMNS * PADDED + HANDS * BESIDE,
    DOUBLES = THREADS * sizeof(double) / sizeof(T),
};
static_assert(FORWARD_SUMS <= PARTS && BACK_SUMS <= PARTS && DOUBLES <= PARTS, "no room for sums");

// Parameters that a block holds, and behind them what the optimiser keeps of each.
struct Held {
    T* at;
    int size;

    BLOCK int move(int i, T g, const Rate& rate) const {
        T a = SLOTS > 0 ? at[size + i] : T(0), b = SLOTS > 1 ? at[2 * size + i] : T(0);
        int fault = moved<MOVE>(rate, at[i], g, a, b);
        if (SLOTS > 0) at[size + i] = a;
        if (SLOTS > 1) at[2 * size + i] = b;
        return fault;
    }
    // Four at once, of which so many are there.
    BLOCK int move_four(int i, int there, const Four<T>& g, const Rate& rate) const {
        Four<T> p = *(Four<T>*)(at + i), a = {}, b = {};
        if (SLOTS > 0) a = *(Four<T>*)(at + size + i);
        if (SLOTS > 1) b = *(Four<T>*)(at + 2 * size + i);
        int fault = 0;
        UNROLLED for (int e = 0; e < 4; ++e)
            if (e < there) fault |= moved<MOVE>(rate, p.of[e], g.of[e], a.of[e], b.of[e]);
        *(Four<T>*)(at + i) = p;
        if (SLOTS > 0) *(Four<T>*)(at + size + i) = a;
        if (SLOTS > 1) *(Four<T>*)(at + 2 * size + i) = b;
        return fault;
    }
};

// What a thread knows.
struct Own : Batch {
    const Input* x;
    const Target* y;
    const int* order;
    T* work;
    Gate all, near;                        // meetings of all blocks, and of those of a strip
    int strip, share, units, inputs;       // the units and the inputs that there are of its own
    double* hyper;                         // shared by a block, from here on
    Wide *scale, *shift;
    Rate* rates;                           // of each layer's weight, and of its bias
    Held weight, bias, head, last;         // (SHARE, PADDED), (PADDED,), (UNITS, OUTPUTS), (OUTPUTS,)
    T *columns, *other;                    // (COLUMNS, HEIGHT) of this step's rows, and of the next's
    T *sums, *hidden, *grads, *outs;       // (BATCH, PADDED) twice, (HEIGHT, PADDED), (BATCH, WIDTH)
    T* parts;                              // sums of single warps and threads
    Target *targets, *other_targets;
    int* rows;                             // of the step that is fetched
    unsigned *found, *spoilt;

    BLOCK Own(const long long* clock, Gate all, Gate near) : Batch(clock), all(all), near(near) {}
};

BLOCK T* at_sums(const Own& own, int share) {
    return own.work + SUMS + (own.strip * SHARES + share) * (BATCH * PADDED);
}
BLOCK T* at_logits(const Own& own, int strip) {
    return own.work + LOGITS + (own.step % 2 * STRIPS + strip) * RESULTS;
}
BLOCK Rate* published(const Own& own, long long step) {
    return (Rate*)(own.work + RATES) + step % 2 * 2 * LAYERS;
}

// act(held, i, place): every parameter of this block and its place in the flat vectors; of those that
// others hold too, only where asked for.
template <class Act>
BLOCK void each_parameter(const Own& own, bool strip_s, bool network_s, const Act& act) {
    using First = Layer<1>;
    using Last = Layer<2>;
    long long column = own.strip * UNITS;
    EACH_OF(i, own.inputs * PADDED) {
        int k = i / PADDED, unit = i % PADDED;
        if (unit < own.units)
            act(own.weight, i, First::WEIGHT + (own.share * SHARE + k) * (long long)HIDDEN + column + unit);
    }
    if (strip_s) {
        if (First::BIAS >= 0) EACH_OF(i, own.units) act(own.bias, i, First::BIAS + column + i);
        EACH_OF(i, own.units * OUTPUTS) act(own.head, i, Last::WEIGHT + column * OUTPUTS + i);
    }
    if (network_s && Last::BIAS >= 0) EACH_OF(i, OUTPUTS) act(own.last, i, Last::BIAS + i);
}

// ---- The rows of a step.

BLOCK void find_rows(const Own& own, const Batch& of, int first, int stride) {
    for (int r = first; r < BATCH; r += stride) {
        long long place = of.start + (r < of.valid ? r : 0);
        own.rows[r] = own.order ? own.order[place] : (int)place;
    }
}

// Bring this block's inputs of those rows, and all targets, into shared memory. Of rows that are not
// valid, and behind the last input, there are zeros.
BLOCK void fetch(const Own& own, const Batch& of, T* columns, Target* targets, int first, int stride) {
    constexpr int fours = BATCH * (SHARE / 4);
    _Pragma("unroll 1") for (int start = first; start < fours; start += AT_ONCE * stride) {
        Four<Input> found[AT_ONCE] = {};
        UNROLLED for (int n = 0; n < AT_ONCE; ++n) {
            int i = start + n * stride, column = own.share * SHARE + i / BATCH * 4;
            if (i >= fours) continue;
            const Input* from = own.x + own.rows[i % BATCH] * (long long)INPUTS + column;
            if constexpr (INPUTS % 4 == 0) {
                if (column < INPUTS) found[n] = *(const Four<Input>*)from;
            } else {
                UNROLLED for (int j = 0; j < 4; ++j)
                    if (column + j < INPUTS) found[n].of[j] = from[j];
            }
        }
        UNROLLED for (int n = 0; n < AT_ONCE; ++n) {
            int i = start + n * stride, r = i % BATCH, k = i / BATCH * 4;
            if (i >= fours) continue;
            UNROLLED for (int j = 0; j < 4; ++j) {
                bool is_there = r < of.valid && own.share * SHARE + k + j < INPUTS;
                T value = input_of(found[n].of[j], own.scale, own.shift, k + j);
                columns[(k + j) * HEIGHT + r] = is_there ? value : T(0);
            }
        }
    }
    constexpr int judged = BATCH * TARGETS;
    _Pragma("unroll 1") for (int start = first; start < judged; start += AT_ONCE * stride) {
        Target found[AT_ONCE];
        UNROLLED for (int n = 0; n < AT_ONCE; ++n) {
            int i = inside(start + n * stride, judged);
            found[n] = own.y[own.rows[i / TARGETS] * (long long)TARGETS + i % TARGETS];
        }
        UNROLLED for (int n = 0; n < AT_ONCE; ++n)
            if (start + n * stride < judged) targets[start + n * stride] = found[n];
    }
}

BLOCK void fetch_now(Own& own) {
    find_rows(own, own, threadIdx.x, THREADS);
    __syncthreads();
    fetch(own, own, own.columns, own.targets, threadIdx.x, THREADS);
    __syncthreads();
}

// ---- The parts of a step.

// What this block's inputs add to its units, of every row. A lane has two rows, a warp of a team
// every so manieth input.
BLOCK void add_inputs(const Own& own) {
    int warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    for (int job = warp; job < ROW_TILES * TEAM; job += WARPS) {
        int part = job % TEAM, row = job / TEAM * TILE_ROWS + lane;
        int rows[2] = {inside(row, BATCH), inside(row + LANES, BATCH)};
        Four<T> sums[2][PADDED / 4] = {};
        SEVERAL for (int k = part; k < SHARE; k += TEAM) {
            const Four<T>* weights = (const Four<T>*)(own.weight.at + k * PADDED);
            T values[2];
            UNROLLED for (int i = 0; i < 2; ++i) values[i] = own.columns[k * HEIGHT + rows[i]];
            UNROLLED for (int f = 0; f < PADDED / 4; ++f) {
                Four<T> weight = weights[f];
                UNROLLED for (int i = 0; i < 2; ++i)
                    UNROLLED for (int e = 0; e < 4; ++e)
                        sums[i][f].of[e] += values[i] * weight.of[e];
            }
        }
        UNROLLED for (int i = 0; i < 2; ++i)
            if (row + i * LANES < BATCH)
                UNROLLED for (int f = 0; f < PADDED / 4; ++f)
                    ((Four<T>*)own.parts)[(part * BATCH + rows[i]) * (PADDED / 4) + f] = sums[i][f];
    }
}

BLOCK Two of_team(const Own& own, int pair) {
    Two total = ((const Two*)own.parts)[pair];
    UNROLLED for (int part = 1; part < TEAM; ++part) {
        Two other = ((const Two*)own.parts)[part * (BATCH * PADDED / 2) + pair];
        total.of[0] += other.of[0], total.of[1] += other.of[1];
    }
    return total;
}

BLOCK Two of_shares(const Own& own, int pair) {
    Two found[SHARES], total = {};
    UNROLLED for (int share = 0; share < SHARES; ++share)
        found[share] = fresh_two((const Two*)at_sums(own, share) + pair);
    UNROLLED for (int share = 0; share < SHARES; ++share)
        total.of[0] += found[share].of[0], total.of[1] += found[share].of[1];
    return total;
}

// Two units of a row, from their sums.
BLOCK void activate(const Own& own, int pair, Two z) {
    Two y;
    int row = 2 * pair / PADDED, unit = 2 * pair % PADDED;
    UNROLLED for (int e = 0; e < 2; ++e) {
        z.of[e] += own.bias.at[unit + e];
        T value = ACT(z.of[e]);
        y.of[e] = unit + e < own.units && row < own.valid ? value : T(0);
    }
    if (READS_INPUT) ((Two*)own.sums)[pair] = z;
    ((Two*)own.hidden)[pair] = y;
}

// What this strip's units add to the outputs: of every row, but each block of the strip has some.
BLOCK void add_units(const Own& own) {
    constexpr int each = groups_of(BATCH, SHARES);
    T* to = at_logits(own, own.strip);
    EACH_OF(i, each * OUTPUTS) {
        int row = own.share * each + i / OUTPUTS, j = i % OUTPUTS;
        if (row >= BATCH) continue;
        T total = 0;
        UNROLLED for (int unit = 0; unit < UNITS; ++unit)
            total += own.hidden[row * PADDED + unit] * own.head.at[unit * OUTPUTS + j];
        to[row * OUTPUTS + j] = total;
    }
}

BLOCK void add_strips(const Own& own) {
    EACH_OF(f, RESULTS / 4) {
        T total[4] = {};
        _Pragma("unroll 16") for (int strip = 0; strip < STRIPS; ++strip) {
            T found[4];
            fresh_four(found, at_logits(own, strip) + 4 * f);
            UNROLLED for (int e = 0; e < 4; ++e) total[e] += found[e];
        }
        UNROLLED for (int e = 0; e < 4; ++e) {
            int i = 4 * f + e, j = i % OUTPUTS;
            if (i < BATCH * OUTPUTS) own.outs[i / OUTPUTS * WIDTH + j] = total[e] + own.last.at[j];
        }
    }
}

// Of a thread's rows: in the last step, and in all; and how many rows there were.
struct Losses {
    double now, sum, hits;
    long long valid, rows;
};

// Outputs become their gradients.
BLOCK void judge(const Own& own, const T* parameter, Losses& losses) {
    losses.now = 0;
    losses.valid = own.valid;
    losses.rows += own.valid;
    EACH_OF(r, BATCH) {
        T* outs = own.outs + r * WIDTH;
        if (r >= own.valid) {
            for (int j = 0; j < OUTPUTS; ++j) outs[j] = 0;
            continue;
        }
        bool right = false;
        const Target* target = own.targets + r * TARGETS;
        T scale = T(1) / batch_rows(own.valid);
        T loss = row_loss<1>(outs, target, target[0], parameter, scale, right);
        if (!is_finite(loss)) *own.spoilt = 1;
        losses.now += loss;
        losses.hits += right && loss == loss;
    }
    losses.sum += losses.now;
}

BLOCK void back(const Own& own) {
    EACH_OF(i, BATCH * PADDED) {
        int row = i / PADDED, unit = i % PADDED;
        if (unit >= own.units) continue;
        T grad = 0;
        UNROLLED for (int j = 0; j < OUTPUTS; ++j)
            grad += own.outs[row * WIDTH + j] * own.head.at[unit * OUTPUTS + j];
        T slope = SLOPE(grad, READS_INPUT ? own.sums[i] : T(0), own.hidden[i]);
        own.grads[i] = row < own.valid ? slope : T(0);
    }
}

BLOCK T* beside(const Own& own) { return own.parts + CREW * COLUMNS * PADDED; }

// The gradients of this block's parameters, each summed by several threads in parts.
BLOCK void add_gradients(const Own& own) {
    for (int job = threadIdx.x; job < PAIRS * CREW; job += THREADS) {
        int part = job / PAIRS, columns[2] = {job % PAIRS, inside(job % PAIRS + PAIRS, COLUMNS)};
        Four<T> sums[2][PADDED / 4] = {};
        for (int four = part; four < FOURS; four += CREW) {
            Four<T> values[2];
            UNROLLED for (int i = 0; i < 2; ++i)
                values[i] = ((const Four<T>*)(own.columns + columns[i] * HEIGHT))[four];
            UNROLLED for (int r = 0; r < 4; ++r)
                UNROLLED for (int f = 0; f < PADDED / 4; ++f) {
                    Four<T> grad = ((const Four<T>*)own.grads)[(4 * four + r) * (PADDED / 4) + f];
                    UNROLLED for (int i = 0; i < 2; ++i)
                        UNROLLED for (int e = 0; e < 4; ++e)
                            sums[i][f].of[e] += values[i].of[r] * grad.of[e];
                }
        }
        UNROLLED for (int i = 0; i < 2; ++i)
            UNROLLED for (int f = 0; f < PADDED / 4; ++f)
                ((Four<T>*)own.parts)[(part * COLUMNS + columns[i]) * (PADDED / 4) + f] = sums[i][f];
    }
    for (int job = threadIdx.x; job < BESIDE * HANDS; job += THREADS) {
        int part = job / BESIDE, unit = job % BESIDE / OUTPUTS, j = job % OUTPUTS;
        T total = 0;
        _Pragma("unroll 16") for (int n = 0; n < groups_of(BATCH, HANDS); ++n) {
            int r = part + n * HANDS;
            if (BATCH % HANDS && r >= BATCH) break;
            total += (unit < UNITS ? own.hidden[r * PADDED + unit] : T(1)) * own.outs[r * WIDTH + j];
        }
        beside(own)[job] = total;
    }
}

// Those sums go straight into the update. The fault bits.
BLOCK int learn(const Own& own) {
    int found = 0;
    EACH_OF(f, COLUMNS * PADDED / 4) {
        int k = 4 * f / PADDED, unit = 4 * f % PADDED;
        bool is_bias = k == SHARE;
        if (is_bias ? Layer<1>::BIAS < 0 : k >= own.inputs) continue;
        Four<T> grad = {};
        UNROLLED for (int part = 0; part < CREW; ++part) {
            Four<T> one = ((const Four<T>*)own.parts)[part * (COLUMNS * PADDED / 4) + f];
            UNROLLED for (int e = 0; e < 4; ++e) grad.of[e] += one.of[e];
        }
        const Held& held = is_bias ? own.bias : own.weight;
        Rate rate = own.rates[is_bias];
        found |= held.move_four(is_bias ? unit : 4 * f, own.units - unit, grad, rate);
    }
    EACH_OF(i, BESIDE) {
        int unit = i / OUTPUTS;
        bool is_bias = unit == UNITS;
        if (is_bias ? Layer<2>::BIAS < 0 : unit >= own.units) continue;
        T grad = 0;
        UNROLLED for (int part = 0; part < HANDS; ++part) grad += beside(own)[part * BESIDE + i];
        if (is_bias) found |= own.last.move(i % OUTPUTS, grad, own.rates[3]);
        else found |= own.head.move(i, grad, own.rates[2]);
    }
    return found;
}

BLOCK void renew_rates(const Own& own, int first, int stride) {
    constexpr int words = 2 * LAYERS * sizeof(Rate) / sizeof(T);
    const T* from = (const T*)published(own, own.step);
    for (int i = first; i < words; i += stride) ((T*)own.rates)[i] = fresh(from + i);
}

template <class X> BLOCK void swap(X& a, X& b) {
    X was = a;
    a = b, b = was;
}

// A fault of one step is found at the meeting of all in the next, which is then given up: nothing of
// it has been kept.
BLOCK int work_on(Own& own, const T* parameter, long long steps, Losses& losses) {
    int fault = 0;
    for (long long s = 0; s < steps; ++s) {
        Batch before = own;
        own.advance();
        Batch after = own;
        after.advance();
        if (s && CHANGE) {
            swap(own.columns, own.other);
            swap(own.targets, own.other_targets);
        } else if (s == 0 || own.start != before.start || own.valid != before.valid) {
            fetch_now(own);
        }
        int me = threadIdx.x - LANES, others = THREADS - LANES;      // while the first warp waits
        auto get_ready = [&] {
            if (s) renew_rates(own, me, others);
            if (CHANGE) find_rows(own, after, me, others);
        };
        add_inputs(own);
        __syncthreads();
        if constexpr (SHARES == 1) {
            EACH_OF(pair, PAIRS_OF_UNITS) activate(own, pair, of_team(own, pair));
            if (threadIdx.x >= LANES) get_ready();
        } else {
            Two* to = (Two*)at_sums(own, own.share);
            EACH_OF(pair, PAIRS_OF_UNITS) to[pair] = of_team(own, pair);
            own.near.arrive();
            own.near.await(own.found, get_ready);
            EACH_OF(pair, PAIRS_OF_UNITS) activate(own, pair, of_shares(own, pair));
        }
        __syncthreads();
        add_units(own);
        own.all.arrive();
        auto fetch_next = [&] {
            if (CHANGE) fetch(own, after, own.other, own.other_targets, me, others);
        };
        if (own.all.await(own.found, fetch_next) & FOUND(before.step & 1)) return fault;

        add_strips(own);
        __syncthreads();
        judge(own, parameter, losses);
        __syncthreads();
        if (*own.spoilt) {
            if (threadIdx.x == 0) atomicOr(own.all.place, FOUND(own.step & 1));
            if (s + 1 < steps) own.all.arrive();
            return FAULT_LOSS;
        }
        back(own);
        __syncthreads();
        add_gradients(own);
        __syncthreads();
        fault = learn(own);
        if (fault) atomicOr(own.all.place, FOUND(own.step & 1));
        __syncthreads();
    }
    return fault;
}

BLOCK void keep_books(Own& own, const Book& book, long long steps) {
    for (long long s = 0; s < steps; ++s) {
        Batch next = own;
        next.advance();
        if (threadIdx.x == 0)
            book.set_rates(own.hyper, next.step + 1, published(own, next.step + 1));
        own.all.arrive();
        if (own.all.await(own.found, [] {}) & FOUND(own.step & 1)) break;
        (Batch&)own = next;
    }
    if (threadIdx.x == 0) book.set_rates(own.hyper, own.step, own.rates);
}

// ---- Shared memory, as a chain of arrays.

BLOCK T* laid(T*& end, int size) {
    T* at = end;
    end += whole_fours(size);
    return at;
}
BLOCK Held held(T*& end, int size) {
    Held made = {end, whole_fours(size)};
    end += (1 + SLOTS) * made.size;
    return made;
}

BLOCK void lay_out(Own& own, double* memory) {
    own.hyper = memory;
    own.scale = (Wide*)(memory + 16);
    own.shift = own.scale + SCALED * SHARE;
    own.rates = (Rate*)(own.shift + SCALED * SHARE);
    T *start = (T*)(own.rates + 2 * LAYERS), *end = start;
    own.weight = held(end, SHARE * PADDED);
    own.bias = held(end, PADDED);
    own.head = held(end, UNITS * OUTPUTS);
    own.last = held(end, OUTPUTS);
    own.columns = laid(end, COLUMNS * HEIGHT);
    own.other = CHANGE ? laid(end, COLUMNS * HEIGHT) : own.columns;
    own.sums = laid(end, READS_INPUT * BATCH * PADDED);
    own.hidden = laid(end, BATCH * PADDED);
    own.grads = laid(end, 4 * FOURS * PADDED);
    own.outs = laid(end, BATCH * WIDTH);
    own.parts = laid(end, PARTS);
    own.targets = (Target*)laid(end, BATCH * TARGETS);
    own.other_targets = CHANGE ? (Target*)laid(end, BATCH * TARGETS) : own.targets;
    own.rows = (int*)end;
    own.found = (unsigned*)(own.rows + BATCH);
    own.spoilt = own.found + 1;
    EACH_OF(i, end - start) start[i] = 0;
    if (threadIdx.x == 0) *own.spoilt = 0;
    __syncthreads();
    EACH_OF(r, BATCH) own.columns[SHARE * HEIGHT + r] = own.other[SHARE * HEIGHT + r] = 1;
}

KERNEL persistent_open(unsigned* gates) {
    EACH_OF(i, GATES) gates[i] = 0;
}

KERNEL persistent_train(const Input* x, const Target* y, const double* scale, const double* shift,
                        const int* order, T* params, T* first, T* second, const double* paces,
                        const double* decays, double* hyper, const double* table, long long* clock,
                        const T* parameter, double* totals, T* work, unsigned* gates,
                        long long steps, long long entries) {
    if (clock[FAULT]) return;
    DYNAMIC(memory);
    bool is_clerk = blockIdx.x == STRIPS * SHARES;
    int strip = blockIdx.x / SHARES;
    Own own(clock, {gates, gridDim.x, 0}, {gates + (1 + strip) * APART, SHARES, 0});
    own.x = x, own.y = y, own.order = order, own.work = work;
    own.strip = strip, own.share = blockIdx.x % SHARES;
    own.units = HIDDEN - strip * UNITS < UNITS ? HIDDEN - strip * UNITS : UNITS;
    own.inputs = INPUTS - own.share * SHARE < SHARE ? INPUTS - own.share * SHARE : SHARE;
    lay_out(own, memory);
    EACH_OF(i, 16) own.hyper[i] = hyper[i];
    __syncthreads();
    Book book = {table, paces, decays, entries};
    if (is_clerk) {
        keep_books(own, book, steps);
        if (threadIdx.x == 0) {
            clock[STEP] = own.step, clock[START] = own.start, clock[VALID] = own.valid;
            for (int i = 0; i < 16; ++i) hyper[i] = own.hyper[i];
        }
        report(clock, 0);
        return;
    }
    T* vectors[3] = {params, first, second};
    EACH_OF(k, SCALED * own.inputs) {
        own.scale[k] = Wide(scale ? scale[own.share * SHARE + k] : 1.0);
        own.shift[k] = Wide(shift ? shift[own.share * SHARE + k] : 0.0);
    }
    each_parameter(own, true, true, [&](const Held& held, int i, long long place) {
        UNROLLED for (int v = 0; v <= SLOTS; ++v) held.at[v * held.size + i] = vectors[v][place];
    });
    if (threadIdx.x == 0) book.set_rates(own.hyper, own.step + 1, own.rates);
    __syncthreads();

    Losses losses = {};
    int fault = work_on(own, parameter, steps, losses);
    bool is_first = own.share == 0;
    each_parameter(own, is_first, is_first && strip == 0, [&](const Held& held, int i, long long place) {
        UNROLLED for (int v = 0; v <= SLOTS; ++v) vectors[v][place] = held.at[v * held.size + i];
    });
    if (blockIdx.x == 0) {
        double* shared = (double*)own.parts;
        __syncthreads();
        double now = summed(losses.now, threadIdx.x, THREADS, 1, shared);
        double sum = summed(losses.sum, threadIdx.x, THREADS, 1, shared);
        double hits = summed(losses.hits, threadIdx.x, THREADS, 1, shared);
        if (threadIdx.x == 0) {
            totals[0] = now / batch_rows(losses.valid);
            totals[1] += sum, totals[2] += hits, totals[3] += losses.rows;
        }
    }
    report(clock, fault);
}
