// One step of each optimiser over flat vectors, a thread four elements.

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
        rate = rate_of(hyper, rates[index], decays[index]);
    }
};

#define FLAT const long long* starts, const double* rates, const double* decays, \
    const double* hyper, long long* clock, long long* found, T* work, long long size, \
    long long segments

BLOCK bool is_wide(const void* a, const void* b, const void* c, const void* d, const void* e) {
    return (((unsigned long long)a | (unsigned long long)b | (unsigned long long)c |
             (unsigned long long)d | 2 * (unsigned long long)e) & 15) == 0;
}

// first and second: the optimiser's slots, null where it has none. shadow: the parameters in bfloat16
// where products take those, else null.
template <Step step>
BLOCK void update(T* param, const T* grad, T* first, T* second, unsigned short* shadow, FLAT) {
    if (clock[FAULT]) return;
    int fault = 0;
    Segment segment;
    long long fours = is_wide(param, grad, first, second, shadow) ? size / 4 : 0;
    EACH(at, fours) {
        Four<T> p = ((const Four<T>*)param)[at], g = ((const Four<T>*)grad)[at], a = {}, b = {};
        if (first) a = ((const Four<T>*)first)[at];
        if (second) b = ((const Four<T>*)second)[at];
        _Pragma("unroll") for (int e = 0; e < 4; ++e) {
            segment.find(4 * at + e, starts, rates, decays, hyper, segments);
            fault |= moved<step>(segment.rate, p.of[e], g.of[e], a.of[e], b.of[e]);
        }
        ((Four<T>*)param)[at] = p;
        if (first) ((Four<T>*)first)[at] = a;
        if (second) ((Four<T>*)second)[at] = b;
        if (!shadow) continue;
        Four<unsigned short> narrow;
        _Pragma("unroll") for (int e = 0; e < 4; ++e) narrow.of[e] = narrowed((float)p.of[e]);
        ((Four<unsigned short>*)shadow)[at] = narrow;
    }
    EACH(over, size - 4 * fours) {
        long long i = 4 * fours + over;
        T p = param[i], a = first ? first[i] : T(0), b = second ? second[i] : T(0);
        segment.find(i, starts, rates, decays, hyper, segments);
        fault |= moved<step>(segment.rate, p, grad[i], a, b);
        param[i] = p;
        if (shadow) shadow[i] = narrowed((float)p);
        if (first) first[i] = a;
        if (second) second[i] = b;
    }
    if (!found) return report(clock, fault);
    if (fault) atomicOr((unsigned long long*)found, (unsigned long long)fault);
}

#define UPDATE(name, first, second, shadow) \
    { update<name##_step>(param, grad, first, second, shadow, starts, rates, decays, hyper, clock, \
                          found, work, size, segments); }
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
