// A network of one hidden layer, trained for many steps in one launch by blocks that stay on the GPU.
// Each has a strip of UNITS hidden units and a share of SHARE inputs for its own; the parameters
// between them, and what the optimiser keeps of them, stay in its shared memory from the first step
// to the last. The blocks of a strip hand each other what their inputs add to its units; strips, what
// their units add to the outputs. Then every block has the whole loss, and all that its own gradients
// want. What several blocks hold, the biases and the weights behind a strip, they move alike. The
// launch list is the reference.
//
// Blocks do not meet: what they hand over goes in packets, each of a word and of a sign that says
// which step it is of, so that who waits for a number waits for nothing else. A packet is written
// again when all have read it: that of a strip after the next outputs, for which each block has given
// a part; of outputs there are two, in turn.
//
// Given, beside what persistent.h wants: the sizes BATCH, INPUTS, HIDDEN; STRIPS, UNITS, SHARES, SHARE;
// PARTS, how many sums single warps and threads make; whether rows CHANGE from step to step; Layer<1>
// and Layer<2>; PACKETS in `signs`, and where LOGITS begin among them; SLOTS of the optimiser and
// MOVE; ACT and SLOPE, and whether the slope READS_INPUT. `work` has the rates of all steps.

HD constexpr int whole_fours(int size) { return 4 * groups_of(size, 4); }
HD constexpr int at_least(int least, int n) { return n < least ? least : n; }

enum {
    PADDED = whole_fours(UNITS),
    FOURS = groups_of(BATCH, 4),           // of rows
    HEIGHT = 4 * (FOURS | 1),              // of a column of inputs: odd fours, which are in other banks
    COLUMNS = SHARE + 1,                   // of inputs, the last of ones
    WIDTH = OUTPUTS | 1,                   // of a row of outputs
    BESIDE = (UNITS + 1) * OUTPUTS,        // weights behind a strip, and the bias of the outputs
    WORDS = T_BITS / 32,                   // of a number
    FEW = 2 / WORDS,                       // numbers that are handed over at once
    SUMS = BATCH * PADDED / FEW,
    RESULTS = whole_fours(BATCH * OUTPUTS) / FEW,
    WAITED = STRIPS < 16 ? STRIPS : 16,    // strips, and results, that a thread waits for at once
    ROUNDS = groups_of(RESULTS, THREADS) < 32 / WAITED ? groups_of(RESULTS, THREADS) : 32 / WAITED,
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
    RATE_WORDS = 2 * LAYERS * sizeof(Rate) / sizeof(T),
    HELD_WORDS = groups_of(RATE_WORDS, THREADS),
};
static_assert(FORWARD_SUMS <= PARTS && BACK_SUMS <= PARTS, "no room for sums");

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

// ---- What blocks hand over.

// Two packets, of as many words of numbers.
struct alignas(16) Packets { unsigned long long of[2]; };
struct alignas(8) Few { T of[FEW]; };
#define STOPPED 0x80000000u                // in a sign: something was not finite

#ifndef received
BLOCK Packets received(const Packets* place) {
    Packets found;
    asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
                 : "=l"(found.of[0]), "=l"(found.of[1]) : "l"(place) : "memory");
    return found;
}
BLOCK void post(Packets* place, Packets packets) {
    asm volatile("st.relaxed.gpu.global.v2.u64 [%0], {%1, %2};"
                 : : "l"(place), "l"(packets.of[0]), "l"(packets.of[1]) : "memory");
}
BLOCK void post(unsigned long long* place, unsigned long long packet) {
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" : : "l"(place), "l"(packet) : "memory");
}
#endif

BLOCK unsigned long long packet(unsigned word, unsigned sign) {
    return word | (unsigned long long)sign << 32;
}

#if T_BITS == 32
BLOCK Packets packed(Few few, unsigned sign) {
    return {packet(bits_of(few.of[0]), sign), packet(bits_of(few.of[1]), sign)};
}
BLOCK Few unpacked(Packets from) {
    return {from_bits((unsigned)from.of[0]), from_bits((unsigned)from.of[1])};
}
BLOCK void post_one(Packets* from, int i, T value, unsigned sign) {
    post((unsigned long long*)from + i, packet(bits_of(value), sign));
}
#else
BLOCK Packets packed(Few few, unsigned sign) {
    unsigned long long bits = bits_of(few.of[0]);
    return {packet((unsigned)bits, sign), packet((unsigned)(bits >> 32), sign)};
}
BLOCK Few unpacked(Packets from) {
    return {from_bits((from.of[1] << 32) | (from.of[0] & 0xFFFFFFFFull))};
}
BLOCK void post_one(Packets* from, int i, T value, unsigned sign) {
    post(from + i, packed({value}, sign));
}
#endif

BLOCK bool is_of(Packets packets, unsigned step) {
    return ((unsigned)(packets.of[0] >> 32) & ~STOPPED) == step &&
           ((unsigned)(packets.of[1] >> 32) & ~STOPPED) == step;
}

// Wait for the packets of a step at(0) to at(count - 1), looking at all that are missing at once: each
// look takes as long. Whether one of them tells to stop.
template <int count, class At> BLOCK bool receive(Few (&to)[count], unsigned step, const At& at) {
    Packets found[count];
    unsigned signs = 0;
    UNROLLED for (int i = 0; i < count; ++i) found[i] = received(at(i));
    bool is_waiting;
    int looks = 0;
    do {
        is_waiting = false;
        UNROLLED for (int i = 0; i < count; ++i) {
            if (is_of(found[i], step)) continue;
            found[i] = received(at(i));
            is_waiting = true;
        }
        if (++looks == MOST_LOOKS) __trap();
    } while (is_waiting);
    UNROLLED for (int i = 0; i < count; ++i) {
        signs |= (unsigned)(found[i].of[0] >> 32);
        to[i] = unpacked(found[i]);
    }
    return signs & STOPPED;
}

// What a thread knows.
struct Own : Batch {
    const Input* x;
    const Target* y;
    const int* order;
    Packets* packets;
    int strip, share, units, inputs;       // the units and the inputs that there are of its own
    unsigned now;                          // the step, counted from the launch's first, 1
    Wide *scale, *shift;                   // shared by a block, from here on
    Rate* rates;                           // of each layer's weight, and of its bias
    Held weight, bias, head, last;         // (SHARE, PADDED), (PADDED,), (UNITS, OUTPUTS), (OUTPUTS,)
    T *columns, *other;                    // (COLUMNS, HEIGHT) of this step's rows, and of the next's
    T *sums, *hidden, *grads, *outs;       // (BATCH, PADDED) twice, (HEIGHT, PADDED), (BATCH, WIDTH)
    T *losses, *parts;                     // (BATCH,) of rows; sums of single warps and threads
    Target *targets, *other_targets;
    int* rows;                             // of the step that is fetched
    int *is_faulty, *is_spoilt, *is_over;  // this block's weights; the loss; some block's weights

    BLOCK explicit Own(const long long* clock) : Batch(clock), now(0) {}
    BLOCK unsigned sign() const { return *is_faulty ? now | STOPPED : now; }
};

BLOCK Packets* at_sums(const Own& own, int share) {
    return own.packets + (own.strip * SHARES + share) * SUMS;
}
BLOCK Packets* at_logits(const Own& own, int strip) {
    return own.packets + LOGITS + (own.now % 2 * STRIPS + strip) * RESULTS;
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

BLOCK void find_rows(const Own& own, const Batch& of) {
    EACH_OF(r, BATCH) {
        long long place = of.start + (r < of.valid ? r : 0);
        own.rows[r] = own.order ? own.order[place] : (int)place;
    }
}

// Four neighbouring inputs of a row. A warp has four of them in each of eight rows, so that its loads
// fill whole sectors and its stores take a bank twice at most.
enum {
    BAND = 8,
    ACROSS = 4,
    PATCH = BAND * ACROSS,
    BANDS = groups_of(BATCH, BAND),
    SPOTS = PATCH * BANDS * groups_of(SHARE, 4 * ACROSS),
};
struct Spot {
    int row, column;
    BLOCK explicit Spot(int i)
        : row(i / PATCH % BANDS * BAND + i % BAND),
          column((i / PATCH / BANDS * ACROSS + i / BAND % ACROSS) * 4) {}
    BLOCK bool is_there() const { return row < BATCH && column < SHARE; }
};

// Bring this block's inputs of those rows, and all targets, into shared memory. Of rows that are not
// valid, and behind the last input, there are zeros.
BLOCK void fetch(const Own& own, const Batch& of, T* columns, Target* targets) {
    _Pragma("unroll 1") for (int start = threadIdx.x; start < SPOTS; start += AT_ONCE * THREADS) {
        Four<Input> found[AT_ONCE] = {};
        UNROLLED for (int n = 0; n < AT_ONCE; ++n) {
            Spot spot(start + n * THREADS);
            if (!spot.is_there()) continue;
            int column = own.share * SHARE + spot.column;
            const Input* from = own.x + own.rows[spot.row] * (long long)INPUTS + column;
            if constexpr (INPUTS % 4 == 0) {
                if (column < INPUTS) found[n] = *(const Four<Input>*)from;
            } else {
                UNROLLED for (int j = 0; j < 4; ++j)
                    if (column + j < INPUTS) found[n].of[j] = from[j];
            }
        }
        UNROLLED for (int n = 0; n < AT_ONCE; ++n) {
            Spot spot(start + n * THREADS);
            if (!spot.is_there()) continue;
            UNROLLED for (int j = 0; j < 4; ++j) {
                int k = spot.column + j;
                bool is_there = spot.row < of.valid && own.share * SHARE + k < INPUTS;
                T value = input_of(found[n].of[j], own.scale, own.shift, k);
                columns[k * HEIGHT + spot.row] = is_there ? value : T(0);
            }
        }
    }
    constexpr int judged = BATCH * TARGETS;
    _Pragma("unroll 1") for (int start = threadIdx.x; start < judged; start += AT_ONCE * THREADS) {
        Target found[AT_ONCE];
        UNROLLED for (int n = 0; n < AT_ONCE; ++n) {
            int i = inside(start + n * THREADS, judged);
            found[n] = own.y[own.rows[i / TARGETS] * (long long)TARGETS + i % TARGETS];
        }
        UNROLLED for (int n = 0; n < AT_ONCE; ++n)
            if (start + n * THREADS < judged) targets[start + n * THREADS] = found[n];
    }
}

BLOCK void fetch_now(Own& own) {
    find_rows(own, own);
    __syncthreads();
    fetch(own, own, own.columns, own.targets);
    __syncthreads();
}

// ---- The parts of a step.

// What this block's inputs add to its units, of every row. A lane has two rows; the warps of a team
// take its inputs in turn.
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

BLOCK Few of_team(const Own& own, int i) {
    Few total = ((const Few*)own.parts)[i];
    UNROLLED for (int part = 1; part < TEAM; ++part) {
        Few other = ((const Few*)own.parts)[part * SUMS + i];
        UNROLLED for (int e = 0; e < FEW; ++e) total.of[e] += other.of[e];
    }
    return total;
}

BLOCK Few of_shares(const Own& own, int i) {
    Few found[SHARES], total = {};
    receive(found, own.now, [&](int share) { return at_sums(own, share) + i; });
    UNROLLED for (int share = 0; share < SHARES; ++share)
        UNROLLED for (int e = 0; e < FEW; ++e) total.of[e] += found[share].of[e];
    return total;
}

// Some units of a row, from their sums.
BLOCK void activate(const Own& own, int i, Few z) {
    Few y;
    int row = FEW * i / PADDED, unit = FEW * i % PADDED;
    UNROLLED for (int e = 0; e < FEW; ++e) {
        z.of[e] += own.bias.at[unit + e];
        T value = ACT(z.of[e]);
        y.of[e] = unit + e < own.units && row < own.valid ? value : T(0);
    }
    if (READS_INPUT) ((Few*)own.sums)[i] = z;
    ((Few*)own.hidden)[i] = y;
}

// What this strip's units add to the outputs: of every row, but each block of the strip has some.
BLOCK void add_units(const Own& own, unsigned sign) {
    constexpr int each = groups_of(BATCH, SHARES);
    Packets* to = at_logits(own, own.strip);
    EACH_OF(i, each * OUTPUTS) {
        int row = own.share * each + i / OUTPUTS, j = i % OUTPUTS;
        if (row >= BATCH) continue;
        T total = 0;
        UNROLLED for (int unit = 0; unit < UNITS; ++unit)
            total += own.hidden[row * PADDED + unit] * own.head.at[unit * OUTPUTS + j];
        post_one(to, row * OUTPUTS + j, total, sign);
    }
    if (own.share == 0)                    // behind the last row there is nothing
        EACH_OF(i, FEW * RESULTS - BATCH * OUTPUTS) post_one(to, BATCH * OUTPUTS + i, T(0), sign);
}

BLOCK void add_strips(const Own& own) {
    bool is_over = false;
    for (int start = threadIdx.x; start < RESULTS; start += ROUNDS * THREADS) {
        Few totals[ROUNDS] = {};
        _Pragma("unroll 1") for (int first = 0; first < STRIPS; first += WAITED) {
            Few found[ROUNDS * WAITED];
            is_over |= receive(found, own.now, [&](int n) {
                return at_logits(own, inside(first + n % WAITED, STRIPS)) +
                       inside(start + n / WAITED * THREADS, RESULTS);
            });
            UNROLLED for (int n = 0; n < ROUNDS * WAITED; ++n)
                if (first + n % WAITED < STRIPS)
                    UNROLLED for (int e = 0; e < FEW; ++e)
                        totals[n / WAITED].of[e] += found[n].of[e];
        }
        UNROLLED for (int n = 0; n < ROUNDS; ++n)
            UNROLLED for (int e = 0; e < FEW; ++e) {
                int i = FEW * (start + n * THREADS) + e, j = i % OUTPUTS;
                if (i < BATCH * OUTPUTS)
                    own.outs[i / OUTPUTS * WIDTH + j] = totals[n].of[e] + own.last.at[j];
            }
    }
    if (is_over) *own.is_over = 1;
}

// Outputs become their gradients.
BLOCK void judge(const Own& own, const T* parameter) {
    EACH_OF(r, BATCH) {
        T* outs = own.outs + r * WIDTH;
        if (r >= own.valid) {
            for (int j = 0; j < OUTPUTS; ++j) outs[j] = 0;
            own.losses[r] = 0;
            continue;
        }
        const Target* target = own.targets + r * TARGETS;
        T scale = T(1) / batch_rows(own.valid);
        T loss = row_loss<1>(outs, target, target[0], parameter, scale);
        if (!is_finite(loss)) *own.is_spoilt = 1;
        own.losses[r] = loss;
    }
}

// Of the last step, and of all and their rows, which go on step by step from launch to launch: how
// many steps a launch has may not change their bits.
struct Losses {
    double now, sum, rows;
    long long fresh;                       // rows that are not counted yet

    // By the first warp of the one block that keeps them, while it would wait for others.
    BLOCK void count(const Own& own) {
        if (!fresh || blockIdx.x || threadIdx.x >= LANES) return;
        double mine = 0;
        for (int r = threadIdx.x; r < BATCH; r += LANES) mine += own.losses[r];
        now = lane_sum(mine);
        sum += now, rows += fresh;
        fresh = 0;
    }
};

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

// The rates of a step, on their way to shared memory: they are loaded a step before.
struct Coming {
    T words[HELD_WORDS];

    BLOCK void load(const T* work, long long step) {
        UNROLLED for (int n = 0; n < HELD_WORDS; ++n)
            words[n] = work[step * RATE_WORDS + inside(threadIdx.x + n * THREADS, RATE_WORDS)];
    }
    BLOCK void put(Rate* rates) const {
        UNROLLED for (int n = 0; n < HELD_WORDS; ++n)
            if (threadIdx.x + n * THREADS < RATE_WORDS)
                ((T*)rates)[threadIdx.x + n * THREADS] = words[n];
    }
};

template <class X> BLOCK void swap(X& a, X& b) {
    X was = a;
    a = b, b = was;
}

// A fault of one step is seen by all in the outputs of the next, which is then given up: nothing of it
// has been kept.
BLOCK int work_on(Own& own, const T* work, const T* parameter, long long steps, Losses& losses) {
    int fault = 0;
    Coming rates;
    rates.load(work, 0);
    for (long long s = 0; s < steps; ++s) {
        Batch before = own;
        own.advance();
        ++own.now;
        Batch after = own;
        after.advance();
        if (s && CHANGE) {
            swap(own.columns, own.other);
            swap(own.targets, own.other_targets);
        } else if (s == 0 || own.start != before.start || own.valid != before.valid) {
            fetch_now(own);
        }
        rates.put(own.rates);
        rates.load(work, s + 1 < steps ? s + 1 : s);
        unsigned sign = own.sign();
        add_inputs(own);
        __syncthreads();
        if constexpr (SHARES == 1) {
            EACH_OF(i, SUMS) activate(own, i, of_team(own, i));
            if (CHANGE) find_rows(own, after);
        } else {
            EACH_OF(i, SUMS) post(at_sums(own, own.share) + i, packed(of_team(own, i), sign));
            if (CHANGE) find_rows(own, after);
            EACH_OF(i, SUMS) activate(own, i, of_shares(own, i));
        }
        __syncthreads();
        add_units(own, sign);
        if (CHANGE) fetch(own, after, own.other, own.other_targets);
        losses.count(own);
        add_strips(own);
        __syncthreads();
        if (*own.is_over) {
            (Batch&)own = before;
            return fault;
        }
        judge(own, parameter);
        losses.fresh = own.valid;
        __syncthreads();
        if (*own.is_spoilt) return FAULT_LOSS;
        back(own);
        __syncthreads();
        add_gradients(own);
        __syncthreads();
        fault = learn(own);
        if (fault) *own.is_faulty = 1;
        __syncthreads();
    }
    return fault;
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
    own.scale = (Wide*)memory;
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
    own.losses = laid(end, BATCH);
    own.parts = laid(end, PARTS);
    own.targets = (Target*)laid(end, BATCH * TARGETS);
    own.other_targets = CHANGE ? (Target*)laid(end, BATCH * TARGETS) : own.targets;
    own.rows = (int*)end;
    own.is_faulty = own.rows + BATCH;
    own.is_spoilt = own.is_faulty + 1;
    own.is_over = own.is_spoilt + 1;
    EACH_OF(i, end - start) start[i] = 0;
    if (threadIdx.x == 0) *own.is_faulty = *own.is_spoilt = *own.is_over = 0;
    __syncthreads();
    EACH_OF(r, BATCH) own.columns[SHARE * HEIGHT + r] = own.other[SHARE * HEIGHT + r] = 1;
}

// No packet is of any step; and the rates of all steps.
KERNEL persistent_open(GIVEN) {
    Book book = {table, paces, decays, entries};
    EACH(i, PACKETS) ((Packets*)signs)[i] = {};
    EACH(s, steps) {
        double own[16];
        for (int i = 0; i < 16; ++i) own[i] = hyper[i];
        book.set_rates(own, clock[STEP] + 1 + s, (Rate*)(work + s * RATE_WORDS));
    }
}

KERNEL persistent_train(GIVEN) {
    if (clock[FAULT]) return;
    DYNAMIC(memory);
    Own own(clock);
    own.x = x, own.y = y, own.order = order, own.packets = (Packets*)signs;
    own.strip = blockIdx.x / SHARES, own.share = blockIdx.x % SHARES;
    own.units = HIDDEN - own.strip * UNITS < UNITS ? HIDDEN - own.strip * UNITS : UNITS;
    own.inputs = INPUTS - own.share * SHARE < SHARE ? INPUTS - own.share * SHARE : SHARE;
    lay_out(own, memory);
    EACH_OF(k, SCALED * own.inputs) {
        own.scale[k] = Wide(scale ? scale[own.share * SHARE + k] : 1.0);
        own.shift[k] = Wide(shift ? shift[own.share * SHARE + k] : 0.0);
    }
    T* vectors[3] = {params, first, second};
    each_parameter(own, true, true, [&](const Held& held, int i, long long place) {
        UNROLLED for (int v = 0; v <= SLOTS; ++v) held.at[v * held.size + i] = vectors[v][place];
    });
    __syncthreads();

    Losses losses = {0, totals[1], totals[2], 0};
    int fault = work_on(own, work, parameter, steps, losses);
    losses.count(own);
    bool is_first = own.share == 0, is_one = blockIdx.x == 0;
    each_parameter(own, is_first, is_one, [&](const Held& held, int i, long long place) {
        UNROLLED for (int v = 0; v <= SLOTS; ++v) vectors[v][place] = held.at[v * held.size + i];
    });
    if (is_one && threadIdx.x == 0) {
        totals[0] = losses.now / batch_rows(own.valid);
        totals[1] = losses.sum, totals[2] = losses.rows;
        clock[STEP] = own.step, clock[START] = own.start, clock[VALID] = own.valid;
        Book book = {table, paces, decays, entries};
        book.set_rates(hyper, own.step, own.rates);
    }
    report(clock, fault);
}
