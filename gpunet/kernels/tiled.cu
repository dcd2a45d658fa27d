// A network trained for many steps in one launch. Its blocks stay on the GPU and meet between the
// parts of a step: a layer forward each; the last layer with the loss and, row by row, back through
// it; a layer back each; last all gradients, whose sums go straight into the update. Numbers that
// blocks hand to each other lie in `work`, weights where the list has them, in the flat vectors. The
// last block is a clerk: it has no tiles, but sums up losses and makes the rates of the next step
// while others work. The launch list is the reference.
//
// Given, beside what persistent.h wants: the sizes BATCH, INPUTS and LAST (units before the outputs);
// Layer<1> to Layer<LAYERS>; SLOTS of the optimiser and MOVE; ACT and SLOPE, and whether the slope
// READS_INPUT; whether products round to TF32.

// Chunks that are loaded before they are used: with more than two the compiler of newer GPUs spills.
#if TF32 && __CUDA_ARCH__ >= 1000
#define AHEAD _Pragma("unroll 2")
#elif TF32
#define AHEAD _Pragma("unroll 4")
#else
#define AHEAD _Pragma("unroll 1")
#endif

// A tile of a product, and the elements of its sums that are taken at once.
enum { TILE_M = 32, TILE_N = 16, TILE = TILE_M * TILE_N, CHUNK = 16 };
// Sums of a tile whose companions a lane loads before it writes any.
enum { TOGETHER = 4 };
// Values of a row that a lane holds, at most; of longer rows they are loaded twice.
enum { MOST_HELD = 8 };

#ifndef seen
BLOCK unsigned seen(const unsigned* place) {
    unsigned value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(place) : "memory");
    return value;
}
// What this thread knows of, by way of a barrier too, is seen by those that see the count.
BLOCK void count_in(unsigned* place) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" : : "l"(place) : "memory");
}
// Several at once, in whose steps others are on their way.
template <int count> BLOCK void lane_sums(T (&x)[count]) {
    for (int step = LANES / 2; step; step /= 2)
        _Pragma("unroll") for (int i = 0; i < count; ++i)
            x[i] += __shfl_xor_sync(0xFFFFFFFFu, x[i], step);
}
BLOCK T fresh(const T* place) { return __ldcg(place); }
BLOCK void fresh_four(T (&to)[4], const T* place) {
#if T_BITS == 32
    float4 found = __ldcg((const float4*)place);
    to[0] = found.x, to[1] = found.y, to[2] = found.z, to[3] = found.w;
#else
    for (int i = 0; i < 4; ++i) to[i] = __ldcg(place + i);
#endif
}
#endif

// ---- Meetings of blocks.

// A fault that some block found, in a gate's word; blocks that look for the one kind may already
// find the other.
#define FOUND(kind) (0x40000000u << (kind))
#define COUNTED 0x3FFFFFFFu

// Where all blocks meet. The word at `place` counts how many came so far.
struct Gate {
    unsigned *place, met;

    // What this block did so far is done for the next meeting.
    BLOCK void arrive() {
        met += gridDim.x;
        __syncthreads();
        if (threadIdx.x == 0) count_in(place);
    }
    // Wait until all have arrived; meanwhile warps other than the first do `more`. What was found,
    // by way of `shared`.
    template <class More> BLOCK unsigned await(unsigned* shared, const More& more) const {
        if (threadIdx.x == 0) {
            unsigned now = seen(place);
            for (int looks = 0; (now & COUNTED) < met; ++looks) {
                if (looks == MOST_LOOKS) __trap();
                now = seen(place);
            }
            *shared = now & ~COUNTED;
        } else if (threadIdx.x >= LANES) {
            more();
        }
        __syncthreads();
        return *shared;
    }
};

// What the judges and what the learners found.
enum { SPOILT = 0, STOPPED = 1 };

// What a thread knows: where things lie, and the batch of the step.
struct Here : Batch {
    const Input* x;
    const Target* y;
    const int* order;
    T *params, *first, *second, *work;
    Gate gate;
    int workers;                   // blocks but for the clerk
    double* hyper;                 // shared by a block, from here on
    Wide *scale, *shift;
    Rate* rates;                   // of each layer's weight, and of its bias
    T *sums, *head, *bias, *outs;  // (WARPS, TILE), (LAST, OUTPUTS), (OUTPUTS,), (WARPS, OUTPUTS)
    int *taken, *next;             // the batch's rows, those of the next
    unsigned* found;

    BLOCK Here(const long long* clock, Gate gate) : Batch(clock), gate(gate) {}
    BLOCK int row_of(long long place) const { return order ? order[place] : (int)place; }
    BLOCK T input(Input found, int column) const { return input_of(found, scale, shift, column); }
};

// ---- Operands. four(to, i, k): the elements k to k + 3 of the sum for row, or column, i. What lies
// beyond the last i is anything, beyond the last k zero.

// A matrix (SIZE, SUMMED).
template <int SIZE, int SUMMED> struct Along {
    const T* at;
    BLOCK void four(T (&to)[4], int i, int k) const {
        const T* from = at + inside(i, SIZE) * SUMMED + k;
        if constexpr (SUMMED % CHUNK == 0) {
            fresh_four(to, from);
        } else if constexpr (SUMMED % 4 == 0) {
            UNROLLED for (int j = 0; j < 4; ++j) to[j] = 0;
            if (k < SUMMED) fresh_four(to, from);
        } else {
            UNROLLED for (int j = 0; j < 4; ++j) to[j] = k + j < SUMMED ? fresh(from + j) : T(0);
        }
    }
};

// A matrix (SUMMED, SIZE). `one`: there is one column more, of ones, for the bias.
template <int SIZE, int SUMMED> struct Across {
    const T* at;
    bool one;
    BLOCK void four(T (&to)[4], int i, int k) const {
        const T* from = at + k * SIZE + inside(i, SIZE);
        UNROLLED for (int j = 0; j < 4; ++j)
            to[j] = SUMMED % CHUNK == 0 || k + j < SUMMED ? fresh(from + j * SIZE) : T(0);
        if (one && i >= SIZE) UNROLLED for (int j = 0; j < 4; ++j) to[j] = 1;
    }
};

// The inputs of the batch, by rows.
struct Inputs {
    const Here& here;
    BLOCK void four(T (&to)[4], int i, int k) const {
        const Input* from = here.x + here.taken[inside(i, BATCH)] * (long long)INPUTS + k;
        Four<Input> found = {};
        if constexpr (INPUTS % 4 == 0) {
            if (INPUTS % CHUNK == 0 || k < INPUTS) found = *(const Four<Input>*)from;
        } else {
            UNROLLED for (int j = 0; j < 4; ++j)
                if (k + j < INPUTS) found.of[j] = from[j];
        }
        UNROLLED for (int j = 0; j < 4; ++j)
            to[j] = INPUTS % CHUNK == 0 || k + j < INPUTS ? here.input(found.of[j], k + j) : T(0);
    }
};

// The same by columns, with a column of ones behind them; rows that are not valid are zero.
struct InputsAcross {
    const Here& here;
    BLOCK void four(T (&to)[4], int i, int k) const {
        int column = inside(i, INPUTS);
        UNROLLED for (int j = 0; j < 4; ++j) {
            bool is_valid = k + j < here.valid;
            int row = here.taken[is_valid ? k + j : 0];
            T found = here.input(here.x[row * (long long)INPUTS + column], column);
            to[j] = !is_valid ? T(0) : i < INPUTS ? found : T(1);
        }
    }
};

// ---- Products. A warp has a tile's sums over some of the chunks; the warps of a team add theirs up.

#if TF32

BLOCK unsigned rounded(float x) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
}

struct Sums {
    float of[2][2][4];

    BLOCK Sums() : of{} {}
    // A thread's four elements of a chunk serve two products of eight, in any order alike for both.
    template <class A, class B> BLOCK void add(const A& a, const B& b, int m, int n, int k) {
        int lane = threadIdx.x % LANES, row = lane / 4, column = lane % 4 * 4;
        float left[4][4], right[2][4];
        UNROLLED for (int i = 0; i < 4; ++i) a.four(left[i], m + row + 8 * i, k + column);
        UNROLLED for (int i = 0; i < 2; ++i) b.four(right[i], n + row + 8 * i, k + column);
        UNROLLED for (int i = 0; i < 2; ++i)
            UNROLLED for (int j = 0; j < 2; ++j)
                UNROLLED for (int half = 0; half < 4; half += 2)
                    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                        : "+f"(of[i][j][0]), "+f"(of[i][j][1]), "+f"(of[i][j][2]),
                          "+f"(of[i][j][3])
                        : "r"(rounded(left[2 * i][half])), "r"(rounded(left[2 * i + 1][half])),
                          "r"(rounded(left[2 * i][half + 1])),
                          "r"(rounded(left[2 * i + 1][half + 1])), "r"(rounded(right[j][half])),
                          "r"(rounded(right[j][half + 1])));
    }
    BLOCK void put(T* tile) const {
        int lane = threadIdx.x % LANES, row = lane / 4, column = lane % 4 * 2;
        UNROLLED for (int i = 0; i < 2; ++i)
            UNROLLED for (int j = 0; j < 2; ++j)
                UNROLLED for (int e = 0; e < 4; ++e)
                    tile[(16 * i + row + e / 2 * 8) * TILE_N + 8 * j + column + e % 2] = of[i][j][e];
    }
};

#else

struct Sums {
    enum { ROWS_EACH = LANES == 1 ? TILE_M : 4, COLUMNS_EACH = LANES == 1 ? TILE_N : 4 };
    T of[ROWS_EACH][COLUMNS_EACH];

    BLOCK Sums() : of{} {}
    BLOCK int row() const { return threadIdx.x % LANES / 4 * ROWS_EACH; }
    BLOCK int column() const { return threadIdx.x % LANES % 4 * COLUMNS_EACH; }
    template <class A, class B> BLOCK void add(const A& a, const B& b, int m, int n, int k) {
        _Pragma("unroll 1") for (int quarter = 0; quarter < CHUNK; quarter += 4) {
            T left[ROWS_EACH][4], right[COLUMNS_EACH][4];
            UNROLLED for (int i = 0; i < ROWS_EACH; ++i) a.four(left[i], m + row() + i, k + quarter);
            UNROLLED for (int j = 0; j < COLUMNS_EACH; ++j)
                b.four(right[j], n + column() + j, k + quarter);
            UNROLLED for (int i = 0; i < ROWS_EACH; ++i)
                UNROLLED for (int j = 0; j < COLUMNS_EACH; ++j)
                    UNROLLED for (int e = 0; e < 4; ++e) of[i][j] += left[i][e] * right[j][e];
        }
    }
    BLOCK void put(T* tile) const {
        UNROLLED for (int i = 0; i < ROWS_EACH; ++i)
            UNROLLED for (int j = 0; j < COLUMNS_EACH; ++j)
                tile[(row() + i) * TILE_N + column() + j] = of[i][j];
    }
};

#endif

// The warps of all blocks in teams, one for a tile at a time: as large as there are warps for.
struct Teams {
    int size, mine, count, me;
    BLOCK Teams(int tiles, int workers) {
        int warp = threadIdx.x / LANES;
        size = WARPS;
        while (size > 1 && tiles * size > workers * WARPS) size /= 2;
        me = warp % size;
        mine = warp / size * workers + blockIdx.x;
        count = WARPS / size * workers;
    }
};

// The share of one of a team's warps in the sums of the tile at (m, n).
template <int SUMMED, class A, class B>
BLOCK void add_up(Sums& sums, const A& a, const B& b, int m, int n, const Teams& teams) {
    AHEAD for (int k = teams.me * CHUNK; k < SUMMED; k += teams.size * CHUNK)
        sums.add(a, b, m, n, k);
}

// All tiles of a part: add(sums, tile, teams), then keep(tile, row, column, value, load(tile, row,
// column)) of each element.
template <class Add, class Load, class Keep>
BLOCK void products(const Here& here, int tiles, const Add& add, const Load& load,
                    const Keep& keep) {
    Teams teams(tiles, here.workers);
    int stride = teams.size * LANES;
    int warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    T* own = here.sums + (warp - teams.me) * TILE;
    for (int tile = teams.mine; tile - teams.mine < tiles; tile += teams.count) {
        if (tile < tiles) {
            Sums sums;
            add(sums, tile, teams);
            sums.put(here.sums + warp * TILE);
        }
        __syncthreads();
        for (int first = teams.me * LANES + lane; tile < tiles && first < TILE;
             first += TOGETHER * stride) {
            decltype(load(0, 0, 0)) beside[TOGETHER];
            UNROLLED for (int n = 0; n < TOGETHER; ++n) {
                int e = inside(first + n * stride, TILE);
                beside[n] = load(tile, e / TILE_N, e % TILE_N);
            }
            UNROLLED for (int n = 0; n < TOGETHER; ++n) {
                int e = first + n * stride;
                if (e >= TILE) break;
                T total = own[e];
                for (int other = 1; other < teams.size; ++other) total += own[other * TILE + e];
                keep(tile, e / TILE_N, e % TILE_N, total, beside[n]);
            }
        }
        __syncthreads();
    }
}

// ---- The parts of a step.

template <class More> BLOCK unsigned meet(Here& here, const More& more) {
    here.gate.arrive();
    return here.gate.await(here.found, more);
}

BLOCK unsigned meet(Here& here) {
    return meet(here, [] {});
}

template <int L> BLOCK void forward(const Here& here) {
    using Own = Layer<L>;
    constexpr int across = groups_of(Own::OUTS, TILE_N);
    Across<Own::OUTS, Own::INS> weight = {here.params + Own::WEIGHT, false};
    products(
        here, groups_of(BATCH, TILE_M) * across,
        [&](Sums& sums, int tile, const Teams& teams) {
            int m = tile / across * TILE_M, n = tile % across * TILE_N;
            if constexpr (L == 1) {
                add_up<Own::INS>(sums, Inputs{here}, weight, m, n, teams);
            } else {
                Along<BATCH, Own::INS> below = {here.work + Layer<L - 1>::Y};
                add_up<Own::INS>(sums, below, weight, m, n, teams);
            }
        },
        [&](int tile, int row, int column) {
            int n = tile % across * TILE_N + column;
            return Own::BIAS < 0 ? T(0) : fresh(here.params + Own::BIAS + inside(n, Own::OUTS));
        },
        [&](int tile, int row, int column, T total, T bias) {
            int m = tile / across * TILE_M + row, n = tile % across * TILE_N + column;
            if (m >= BATCH || n >= Own::OUTS) return;
            T z = total + bias;
            bool is_valid = m < here.valid;
            if (READS_INPUT) here.work[Own::Z + m * Own::OUTS + n] = is_valid ? z : T(0);
            here.work[Own::Y + m * Own::OUTS + n] = is_valid ? ACT(z) : T(0);
        });
}

// The sum and the value of a unit, of one row.
struct Unit {
    T z, y;
};

// From the gradient of layer L's sums that of the layer below.
template <int L> BLOCK void back(const Here& here) {
    using Own = Layer<L>;
    using Below = Layer<L - 1>;
    constexpr int across = groups_of(Own::INS, TILE_N);
    Along<BATCH, Own::OUTS> grad = {here.work + Own::DZ};
    Along<Own::INS, Own::OUTS> weight = {here.params + Own::WEIGHT};
    products(
        here, groups_of(BATCH, TILE_M) * across,
        [&](Sums& sums, int tile, const Teams& teams) {
            int m = tile / across * TILE_M, n = tile % across * TILE_N;
            add_up<Own::OUTS>(sums, grad, weight, m, n, teams);
        },
        [&](int tile, int row, int column) {
            int m = tile / across * TILE_M + row, n = tile % across * TILE_N + column;
            int i = inside(m, BATCH) * Own::INS + inside(n, Own::INS);
            T z = READS_INPUT ? fresh(here.work + Below::Z + i) : T(0);
            return Unit{z, fresh(here.work + Below::Y + i)};
        },
        [&](int tile, int row, int column, T total, Unit unit) {
            int m = tile / across * TILE_M + row, n = tile % across * TILE_N + column;
            if (m < BATCH && n < Own::INS)
                here.work[Below::DZ + m * Own::INS + n] = SLOPE(total, unit.z, unit.y);
        });
}

// The last layer, the loss and the gradients down to the sums of the layer below, a warp a row.
BLOCK void judge(const Here& here, const T* parameter) {
    using Own = Layer<LAYERS>;
    using Below = Layer<LAYERS - 1>;
    constexpr int each = groups_of(LAST, LANES);
    constexpr bool is_held = each <= MOST_HELD;
    constexpr int some = OUTPUTS < CHUNK ? OUTPUTS : CHUNK;
    int warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    T* outs = here.outs + warp * OUTPUTS;
    for (int r = warp * here.workers + blockIdx.x; r < BATCH; r += WARPS * here.workers) {
        bool is_valid = r < here.valid;
        const Target* target = here.y + (is_valid ? here.taken[r] : 0) * (long long)TARGETS;
        Target own = target[TARGETS > 1 && lane < TARGETS ? lane : 0];
        T held[is_held ? each : 1];
        if constexpr (is_held)
            UNROLLED for (int i = 0; i < each; ++i)
                held[i] = fresh(here.work + Below::Y + r * LAST + inside(lane + i * LANES, LAST));
        auto value_at = [&](int i) {
            if constexpr (is_held) return held[i];
            else return fresh(here.work + Below::Y + r * LAST + lane + i * LANES);
        };
        for (int first = 0; first < OUTPUTS; first += CHUNK) {
            T part[some] = {};
            SEVERAL for (int i = 0; i < each; ++i) {
                int k = lane + i * LANES;
                if (k >= LAST) break;
                T value = value_at(i);
                UNROLLED for (int j = 0; j < some; ++j)
                    if (first + j < OUTPUTS) part[j] += value * here.head[k * OUTPUTS + first + j];
            }
            lane_sums(part);
            UNROLLED for (int j = 0; j < some; ++j)
                if (first + j < OUTPUTS && j % LANES == lane)
                    outs[first + j] = part[j] + here.bias[first + j];
        }
        SYNC_LANES();
        T loss = 0;
        if (is_valid)
            loss = row_loss<LANES>(outs, target, own, parameter, T(1) / batch_rows(here.valid));
        SYNC_LANES();
        for (int j = lane; j < OUTPUTS; j += LANES)
            here.work[Own::DZ + r * OUTPUTS + j] = is_valid ? outs[j] : T(0);
        SEVERAL for (int i = 0; i < each; ++i) {
            int k = lane + i * LANES;
            if (k >= LAST) break;
            T grad = 0, y = value_at(i);
            SEVERAL for (int j = 0; j < OUTPUTS; ++j) grad += outs[j] * here.head[k * OUTPUTS + j];
            T z = READS_INPUT ? fresh(here.work + Below::Z + r * LAST + k) : T(0);
            T slope = SLOPE(grad, z, y);
            here.work[Below::DZ + r * LAST + k] = is_valid ? slope : T(0);
        }
        if (lane == 0) {
            here.work[LOSSES + r] = loss;
            if (!is_finite(loss)) atomicOr(here.gate.place, FOUND(SPOILT));
        }
        SYNC_LANES();
    }
}

template <int L> HD constexpr int rows_across() {
    return groups_of(Layer<L>::INS + (Layer<L>::BIAS >= 0), TILE_M);
}
template <int L> HD constexpr int gradient_tiles() {
    if constexpr (L == 0) return 0;
    else return rows_across<L>() * groups_of(Layer<L>::OUTS, TILE_N) + gradient_tiles<L - 1>();
}

// A tile of the gradients of layers 1 to L.
template <int L>
BLOCK void add_gradient(const Here& here, Sums& sums, int tile, const Teams& teams) {
    using Own = Layer<L>;
    constexpr int before = gradient_tiles<L - 1>(), across = groups_of(Own::OUTS, TILE_N);
    if constexpr (L > 1)
        if (tile < before) return add_gradient<L - 1>(here, sums, tile, teams);
    int m = (tile - before) / across * TILE_M, n = (tile - before) % across * TILE_N;
    Across<Own::OUTS, BATCH> grad = {here.work + Own::DZ, false};
    if constexpr (L == 1) {
        add_up<BATCH>(sums, InputsAcross{here}, grad, m, n, teams);
    } else {
        Across<Own::INS, BATCH> below = {here.work + Layer<L - 1>::Y, true};
        add_up<BATCH>(sums, below, grad, m, n, teams);
    }
}

// A parameter with what the optimiser keeps of it: place, -1 for none; the number of its rate.
struct Moving {
    long long place;
    int rate;
    T p, a, b;
};

template <int L> BLOCK Moving moving_at(const Here& here, int tile, int row, int column) {
    using Own = Layer<L>;
    constexpr int before = gradient_tiles<L - 1>(), across = groups_of(Own::OUTS, TILE_N);
    if constexpr (L > 1)
        if (tile < before) return moving_at<L - 1>(here, tile, row, column);
    int m = (tile - before) / across * TILE_M + row, n = (tile - before) % across * TILE_N + column;
    bool is_bias = m == Own::INS;
    if (m > Own::INS || n >= Own::OUTS || (is_bias && Own::BIAS < 0)) return {-1, 0, 0, 0, 0};
    long long i = is_bias ? Own::BIAS + n : Own::WEIGHT + m * Own::OUTS + n;
    return {i, 2 * (L - 1) + is_bias, fresh(here.params + i),
            SLOTS > 0 ? fresh(here.first + i) : T(0), SLOTS > 1 ? fresh(here.second + i) : T(0)};
}

BLOCK int learn(const Here& here) {
    int found = 0;
    products(
        here, gradient_tiles<LAYERS>(),
        [&](Sums& sums, int tile, const Teams& teams) {
            add_gradient<LAYERS>(here, sums, tile, teams);
        },
        [&](int tile, int row, int column) {
            return moving_at<LAYERS>(here, tile, row, column);
        },
        [&](int tile, int row, int column, T grad, Moving& it) {
            if (it.place < 0) return;
            found |= moved<MOVE>(here.rates[it.rate], it.p, grad, it.a, it.b);
            here.params[it.place] = it.p;
            if (SLOTS > 0) here.first[it.place] = it.a;
            if (SLOTS > 1) here.second[it.place] = it.b;
        });
    return found;
}

// Where the clerk leaves the rates of a step.
BLOCK Rate* published(const Here& here, long long step) {
    return (Rate*)(here.work + RATES) + step % 2 * 2 * LAYERS;
}

// Bring what the rest of a step needs into shared memory, by threads other than the first.
BLOCK void renew(const Here& here, bool has_rates) {
    using Last = Layer<LAYERS>;
    constexpr int words = 2 * LAYERS * sizeof(Rate) / sizeof(T), stride = THREADS - LANES;
    int me = threadIdx.x - LANES;
    SEVERAL for (int i = me; i < LAST * OUTPUTS; i += stride)
        here.head[i] = fresh(here.params + Last::WEIGHT + i);
    for (int j = me; j < OUTPUTS; j += stride)
        here.bias[j] = Last::BIAS < 0 ? T(0) : fresh(here.params + Last::BIAS + j);
    const T* from = (const T*)published(here, here.step);
    for (int i = me; has_rates && i < words; i += stride) ((T*)here.rates)[i] = fresh(from + i);
}

template <int L> BLOCK void all_forward(Here& here, bool has_rates) {
    forward<L>(here);
    if constexpr (L == 1) meet(here, [&] { renew(here, has_rates); });
    else meet(here);
    if constexpr (L + 1 < LAYERS) all_forward<L + 1>(here, has_rates);
}

template <int L> BLOCK void all_back(Here& here) {
    if constexpr (L > 1) {
        back<L>(here);
        meet(here);
        all_back<L - 1>(here);
    }
}

BLOCK void take_rows(const Here& here, int first, int stride) {
    Batch after = here;
    after.advance();
    for (int r = first; r < after.valid; r += stride) here.next[r] = here.row_of(after.start + r);
}

// The fault bits.
BLOCK int work_on(Here& here, const T* parameter, long long steps) {
    for (long long s = 0; s < steps; ++s) {
        here.advance();
        int* taken = here.next;
        here.next = here.taken, here.taken = taken;

        all_forward<1>(here, s > 0);
        judge(here, parameter);
        if (meet(here) & FOUND(SPOILT)) return 0;
        all_back<LAYERS - 1>(here);
        int found = learn(here);
        if (found) atomicOr(here.gate.place, FOUND(STOPPED));
        auto more = [&] { take_rows(here, threadIdx.x - LANES, THREADS - LANES); };
        if (meet(here, more) & FOUND(STOPPED)) return found;
    }
    return 0;
}

// The same of the clerk, who arrives early wherever nobody waits for what it does. Totals go on step
// by step: how many steps a launch has may not change their bits.
BLOCK int keep_books(Here& here, const Book& book, double* totals, long long steps) {
    double mean = 0, sum = totals[1], rows = totals[2], *shared = (double*)here.sums;
    auto nothing = [] {};
    bool is_spoilt = false, is_over = false;
    for (long long s = 0; s < steps && !is_over; ++s) {
        here.advance();
        here.gate.arrive();
        long long next = here.step + 1;
        if (threadIdx.x == 0) book.set_rates(here.hyper, next, published(here, next));
        here.gate.await(here.found, nothing);
        for (int layer = 2; layer < LAYERS; ++layer) meet(here);
        is_spoilt = meet(here) & FOUND(SPOILT);
        if (!is_spoilt) here.gate.arrive();
        double loss = 0;
        EACH_OF(r, here.valid) loss += fresh(here.work + LOSSES + r);
        loss = summed(loss, threadIdx.x, THREADS, 1, shared);
        mean = loss / batch_rows(here.valid);
        sum += loss, rows += here.valid;
        if (is_spoilt) break;
        unsigned found = here.gate.await(here.found, nothing);
        for (int layer = 2; layer < LAYERS; ++layer) found = meet(here);
        is_over = found & FOUND(STOPPED);
    }
    if (threadIdx.x == 0) {
        book.set_rates(here.hyper, here.step, here.rates);
        totals[0] = mean, totals[1] = sum, totals[2] = rows;
    }
    return is_spoilt ? FAULT_LOSS : 0;
}

KERNEL persistent_open(GIVEN) {
    if (threadIdx.x == 0) signs[0] = 0;
}

KERNEL persistent_train(GIVEN) {
    if (clock[FAULT]) return;
    DYNAMIC(memory);
    int workers = gridDim.x - 1;
    bool is_clerk = blockIdx.x == workers;
    Here here(clock, {signs, 0});
    here.x = x, here.y = y, here.order = order, here.work = work, here.workers = workers;
    here.params = params, here.first = first, here.second = second;
    here.hyper = memory;
    here.scale = (Wide*)(memory + 16);
    here.shift = here.scale + SCALED * INPUTS;
    here.rates = (Rate*)(here.shift + SCALED * INPUTS);
    here.sums = (T*)(here.rates + 2 * LAYERS);
    here.head = here.sums + WARPS * TILE;
    here.bias = here.head + LAST * OUTPUTS;
    here.outs = here.bias + OUTPUTS;
    here.taken = (int*)(here.outs + WARPS * OUTPUTS);
    here.next = here.taken + BATCH;
    here.found = (unsigned*)(here.next + BATCH);
    EACH_OF(i, 16) here.hyper[i] = hyper[i];
    EACH_OF(j, SCALED * INPUTS) {
        here.scale[j] = Wide(scale ? scale[j] : 1.0);
        here.shift[j] = Wide(shift ? shift[j] : 0.0);
    }
    EACH_OF(r, BATCH) here.taken[r] = here.next[r] = 0;
    __syncthreads();
    take_rows(here, threadIdx.x, THREADS);
    Book book = {table, paces, decays, entries};
    if (threadIdx.x == THREADS - 1) book.set_rates(here.hyper, here.step + 1, here.rates);
    __syncthreads();

    int fault = is_clerk ? keep_books(here, book, totals, steps) : work_on(here, parameter, steps);
    if (is_clerk && threadIdx.x == 0) {
        clock[STEP] = here.step, clock[START] = here.start, clock[VALID] = here.valid;
        for (int i = 0; i < 16; ++i) hyper[i] = here.hyper[i];
    }
    report(clock, fault);
}
