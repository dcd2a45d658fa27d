// One step of each optimiser over flat vectors, a thread an element.

// The segment that an element is in, and what its step needs. Elements come in rising order.
struct Segment {
    long long index, last;
    Rate rate;
    BLOCK Segment() : index(-1), last(-1) {}
    BLOCK void find(long long i, const long long* starts, const double* rates, const double* decays,
                    const double* hyper, long long segments) {
        if (i < last) return;
        long long low = index + 1, high = segments;
        while (low + 1 < high) {
            long long middle = (low + high) / 2;
            if (starts[middle] <= i) low = middle; else high = middle;
        }
        index = low;
        last = starts[index + 1];
        T lr = T(hyper[LR] * rates[index]), decay = T(hyper[DECAY] * decays[index]);
        rate = {lr, decay, T(hyper[CLIP]), T(hyper[BETA1]), T(1 - hyper[BETA1]), T(hyper[BETA2]),
                T(1 - hyper[BETA2]), T(hyper[EPSILON]), lr / T(hyper[CORRECTION1]),
                1 / f_sqrt(T(hyper[CORRECTION2]))};
    }
};

// The last block to arrive shows the faults of all, so that none stops a block of its own launch.
BLOCK void report(long long* clock, int fault) {
    unsigned long long* shared_clock = (unsigned long long*)clock;
    if (fault) atomicOr(shared_clock + PENDING, (unsigned long long)fault);
    __threadfence();
    __syncthreads();
    if (threadIdx.x || atomicAdd(shared_clock + ARRIVED, 1ull) + 1 < gridDim.x) return;
    __threadfence();
    clock[FAULT] |= (long long)atomicExch(shared_clock + PENDING, 0ull);
    clock[ARRIVED] = 0;
}

typedef T Step(const Rate& rate, T p, T g, T& first, T& second);

#define FLAT const long long* starts, const double* rates, const double* decays, \
    const double* hyper, long long* clock, T* work, long long size, long long segments

// first and second: the optimiser's slots, null where it has none. shadow: the parameters in bfloat16
// where products take those, else null.
template <Step step>
BLOCK void update(T* param, const T* grad, T* first, T* second, unsigned short* shadow, FLAT) {
    if (clock[FAULT]) return;
    int fault = 0;
    Segment segment;
    EACH(i, size) {
        segment.find(i, starts, rates, decays, hyper, segments);
        T a = first ? first[i] : T(0), b = second ? second[i] : T(0), g = grad[i];
        T p = step(segment.rate, param[i], g, a, b);
        if (!is_finite(g * segment.rate.clip)) {
            fault |= FAULT_GRADIENT;
        } else if (!is_finite(p)) {
            fault |= FAULT_PARAMETER;
        } else {
            param[i] = p;
            if (shadow) shadow[i] = narrowed((float)p);
            if (first) first[i] = a;
            if (second) second[i] = b;
        }
    }
    report(clock, fault);
}

#define UPDATE(name, first, second, shadow) \
    { update<name##_step>(param, grad, first, second, shadow, starts, rates, decays, hyper, clock, \
                          work, size, segments); }
#define OPTIMISER(name, slots, first, second) \
    KERNEL name(T* param, const T* grad, slots FLAT) UPDATE(name, first, second, nullptr) \
    KERNEL name##_narrow(T* param, const T* grad, slots unsigned short* shadow, FLAT) \
        UPDATE(name, first, second, shadow)
#define NONE
#define ONE(name) T* name,
#define TWO T* first, T* second,

OPTIMISER(sgd, NONE, nullptr, nullptr)
OPTIMISER(momentum, ONE(velocity), velocity, nullptr)
OPTIMISER(nesterov, ONE(velocity), velocity, nullptr)
OPTIMISER(rmsprop, ONE(square), square, nullptr)
OPTIMISER(adam, TWO, first, second)
OPTIMISER(adamw, TWO, first, second)
OPTIMISER(lion, ONE(first), first, nullptr)
