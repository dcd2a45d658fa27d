// Every scalar formula once, for both devices: NVRTC builds it for CUDA, a C++ compiler for CPUs.
// It needs T (float or double), T_BITS (32 or 64) and the names of slots.py, and includes nothing.
// Nothing branches on data, so loops become vector code (gcc: -O3 -fno-math-errno
// -fno-trapping-math). Never build it with -ffast-math, which drops NaN, infinities and subnormals.
// CuPy builds with -ftz=true: on CUDA a float's subnormals are zero.
//
// Largest errors measured against exact values, in units in the last place (ULP):
//            exp    expm1   log    tanh   sigmoid   softplus   sinpi   cospi
//   float    1.04   1.7     0.82   2.5    2.4       1.7        3.1     3.2
//   double   1.04   2.2     0.82   2.5    2.4       1.7        3.4     3.5

#ifdef __CUDACC__
#define HD __device__ __forceinline__
HD unsigned bits_of(float x) { return __float_as_uint(x); }
HD float from_bits(unsigned bits) { return __uint_as_float(bits); }
HD unsigned long long bits_of(double x) { return (unsigned long long)__double_as_longlong(x); }
HD double from_bits(unsigned long long bits) { return __longlong_as_double((long long)bits); }
HD unsigned long long high_product(unsigned long long a, unsigned long long b) {
    return __umul64hi(a, b);
}
#define BUILTIN(name) name
#else
#define HD static inline
template <class To, class From> HD To same_bits(From from) {
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}
HD unsigned bits_of(float x) { return same_bits<unsigned>(x); }
HD float from_bits(unsigned bits) { return same_bits<float>(bits); }
HD unsigned long long bits_of(double x) { return same_bits<unsigned long long>(x); }
HD double from_bits(unsigned long long bits) { return same_bits<double>(bits); }
HD unsigned long long high_product(unsigned long long a, unsigned long long b) {
    return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}
#if T_BITS == 32
#define BUILTIN(name) __builtin_##name##f
#else
#define BUILTIN(name) __builtin_##name
#endif
#endif

// ---- exp and log: x = k * ln 2 + r, |r| <= ln 2 / 2; x = 2^k * m, sqrt(1/2) <= m < sqrt(2).

#if T_BITS == 32
typedef unsigned Bits;
enum { MANTISSA = 23, BIAS = 127, LIFT = 25 };
#define TWO_LIFT 33554432.0f                           // 2^LIFT makes a subnormal normal
#define TWO_MANTISSA 8388608.0f
#define SMALLEST_NORMAL 1.17549435e-38f
#define EXP_LOW -105.0f                                // exp is 0 below, infinity above
#define EXP_HIGH 89.0f
#define EXPM1_LOW -18.0f                               // expm1 is -1 below
#define LN2_HIGH 0.693115234375f                       // few bits: k * LN2_HIGH is exact
#define LN2_LOW 3.19461849e-5f
#define SQRT_HALF_BITS 0x3f3504f3u
// Minimax: (exp(r) - 1 - r) / r^2, and (log((1 + s) / (1 - s)) - 2 s) / s^3 in z = s^2.
#define EXP_TAIL(r) (0.500000010f + r * (0.166665129f + r * (0.0416661873f \
    + r * (0.00836959841f + r * 0.00139517173f))))
#define LOG_TAIL(z) (0.666667781f + z * (0.399773096f + z * 0.298784891f))
// Minimax: (sin(pi u) - pi u) / u^3 in z = u^2, 0 <= u <= 1/2.
#define PI 3.14159274f
#define SINPI_TAIL(z) (-5.16771057f + z * (2.55008231f \
    + z * (-0.598308095f + z * 0.0776759739f)))
#else
typedef unsigned long long Bits;
enum { MANTISSA = 52, BIAS = 1023, LIFT = 54 };
#define TWO_LIFT 18014398509481984.0
#define TWO_MANTISSA 4503599627370496.0
#define SMALLEST_NORMAL 2.2250738585072014e-308
#define EXP_LOW -746.0
#define EXP_HIGH 710.0
#define EXPM1_LOW -38.0
#define LN2_HIGH 0.6931471805592082091607153
#define LN2_LOW 7.37100256516779890183404e-13
#define SQRT_HALF_BITS 0x3fe6a09e667f3bcdull
#define EXP_TAIL(r) (0.50000000000000141085 + r * (0.16666666666666699441 \
    + r * (0.041666666666502721287 + r * (0.0083333333333067385033 \
    + r * (0.0013888888950617110691 + r * (0.00019841269918733251718 \
    + r * (0.000024801485974814731503 + r * (2.7557214869461689941e-6 \
    + r * (2.7632769408925152449e-7 + r * 2.511837013557065305e-8)))))))))
#define LOG_TAIL(z) (0.66666666666667368618 + z * (0.39999999999396547071 \
    + z * (0.28571428746802122255 + z * (0.22222198083891163004 \
    + z * (0.1818359152122951972 + z * (0.15313312109835133165 + z * 0.14803743989342486015))))))
#define PI 3.141592653589793116
#define SINPI_TAIL(z) (-5.1677127800499702559 + z * (2.5501640398773401941 \
    + z * (-0.59926452932034601773 + z * (0.082145886596829725823 \
    + z * (-0.0073704307205099918107 + z * (0.00046630087916602389444 \
    + z * (-2.1906216283642573054e-5 + z * 7.7259117739889163063e-7)))))))
#endif
#define LOG2_E T(1.442695040888963407)
#define ROUNDER (T(1.5) * TWO_MANTISSA)                // adding it rounds to an integer
#define ONE_BITS (Bits(BIAS) << MANTISSA)
#define INFINITE from_bits(Bits(2 * BIAS + 1) << MANTISSA)
#define NOT_A_NUMBER from_bits((Bits(2 * BIAS + 1) << MANTISSA) | (Bits(1) << (MANTISSA - 1)))

HD bool is_finite(T x) { return x - x == 0; }
HD T magnitude(T x) { return x < 0 ? -x : x; }
HD T with_sign(T size, T x) { return x < 0 ? -size : size; }
HD T positive_part(T x) { return x < 0 ? T(0) : x; }

HD T clamped(T x, T low, T high) {                     // NaN stays NaN
    x = x < low ? low : x;
    return x > high ? high : x;
}

HD T reduced(T x, T k) { return (x - k * LN2_HIGH) - k * LN2_LOW; }
HD T expm1_near_zero(T r) { return r + r * r * EXP_TAIL(r); }

HD T f_exp(T a) {
    T x = clamped(a, EXP_LOW, EXP_HIGH), rounded = x * LOG2_E + ROUNDER;
    T y = 1 + expm1_near_zero(reduced(x, rounded - ROUNDER));
    Bits k = bits_of(rounded) - bits_of(ROUNDER) + 4 * BIAS;
    Bits half = k >> 1, rest = k - half;               // 2^k in two factors: k may be no exponent
    return y * from_bits((half - BIAS) << MANTISSA) * from_bits((rest - BIAS) << MANTISSA);
}

HD T f_expm1(T a) {
    T x = clamped(a, EXPM1_LOW, EXP_HIGH), rounded = x * LOG2_E + ROUNDER, k = rounded - ROUNDER;
    T y = expm1_near_zero(reduced(x, k));
    T half = from_bits((bits_of(rounded) - bits_of(ROUNDER) + BIAS - 1) << MANTISSA);   // 2^(k - 1)
    return k == 0 ? y : 2 * (y * half + (half - T(0.5)));
}

// log(x * 2^(BIAS - lift)) + correction, x normal and positive; the correction is small against 1.
HD T log_normal(T x, T lift, T correction) {
    Bits bits = bits_of(x) + (ONE_BITS - SQRT_HALF_BITS);
    T k = from_bits((bits >> MANTISSA) | bits_of(TWO_MANTISSA)) - (TWO_MANTISSA + lift);
    T f = from_bits((bits & ((Bits(1) << MANTISSA) - 1)) + SQRT_HALF_BITS) - 1;
    T s = f / (2 + f), z = s * s, h = T(0.5) * f * f;
    T rest = s * (h + z * LOG_TAIL(z)) + (k * LN2_LOW + correction);
    return k * LN2_HIGH - ((h - rest) - f);
}

HD T f_log(T a) {
    bool subnormal = a < SMALLEST_NORMAL;
    T x = subnormal ? a * TWO_LIFT : a, lift = subnormal ? BIAS + LIFT : BIAS;
    T y = log_normal(x, lift, 0), special = a == 0 ? -INFINITE : (a < 0 ? NOT_A_NUMBER : a);
    return a > 0 && a < INFINITE ? y : special;
}

HD T log1p_share(T a) {                                // log(1 + a), 0 <= a <= 1
    T u = 1 + a;
    return log_normal(u, BIAS, (a - (u - 1)) / u);     // what rounding 1 + a lost
}

// ---- sin(pi a) and cos(pi a): in half turns every step before the polynomial is exact, for any a.

HD T half_arch(T u) {                                  // sin(pi u), |u| <= 1/2
    T z = u * u;
    return u * (PI + z * SINPI_TAIL(z));
}

HD T half_turns(T a) {                                 // less whole turns: -1 <= a <= 1
    return a - 2 * BUILTIN(rint)(T(0.5) * a);
}

struct Wave { T sin, cos; };
HD Wave wave_at(T r) {                                 // of half_turns
    T away = magnitude(r), near = away < T(0.5) ? away : 1 - away;
    return {with_sign(half_arch(near), r), half_arch(T(0.5) - away)};
}

HD T f_sinpi(T a) { return wave_at(half_turns(a)).sin; }
HD T f_cospi(T a) { return wave_at(half_turns(a)).cos; }

// ---- How much of a bin lies below a: 0 to 1; slope = 1 / its width. NaN counts as below the bin.

HD T bin_share(T a, T low, T slope) {
    T share = (a - low) * slope;
    return share > 0 ? (share < 1 ? share : T(1)) : T(0);
}

HD T bin_share_grad(T g, T a, T low, T slope) {
    T share = (a - low) * slope;
    return share > 0 && share < 1 ? g * slope : T(0);
}

// ---- Elementwise operations. Value: y = f_op(a) or f_op(a, b). Gradient, with g = dL/dy:
// f_op_grad(g, a, y) = dL/da, or f_op_grad0(g, a, b, y) = dL/da and f_op_grad1(g, a, b, y) = dL/db.

HD T f_identity(T a) { return a; }
HD T f_identity_grad(T g, T a, T y) { return g; }

HD T f_add(T a, T b) { return a + b; }
HD T f_add_grad0(T g, T a, T b, T y) { return g; }
HD T f_add_grad1(T g, T a, T b, T y) { return g; }

HD T f_subtract(T a, T b) { return a - b; }
HD T f_subtract_grad0(T g, T a, T b, T y) { return g; }
HD T f_subtract_grad1(T g, T a, T b, T y) { return -g; }

HD T f_multiply(T a, T b) { return a * b; }
HD T f_multiply_grad0(T g, T a, T b, T y) { return g * b; }
HD T f_multiply_grad1(T g, T a, T b, T y) { return g * a; }

HD T f_divide(T a, T b) { return a / b; }
HD T f_divide_grad0(T g, T a, T b, T y) { return g / b; }
HD T f_divide_grad1(T g, T a, T b, T y) { return -g * y / b; }

HD T f_negate(T a) { return -a; }
HD T f_negate_grad(T g, T a, T y) { return -g; }

HD T f_power(T a, T b) { return BUILTIN(pow)(a, b); }
HD T f_power_grad0(T g, T a, T b, T y) { return b == 0 ? T(0) : g * b * BUILTIN(pow)(a, b - 1); }
HD T f_power_grad1(T g, T a, T b, T y) { return a == 0 && b >= 0 ? T(0) : g * y * f_log(a); }

HD T f_exp_grad(T g, T a, T y) { return g * y; }
HD T f_log_grad(T g, T a, T y) { return g / a; }

HD T f_sqrt(T a) { return BUILTIN(sqrt)(a); }
HD T f_sqrt_grad(T g, T a, T y) { return T(0.5) * g / y; }

HD T f_abs(T a) { return magnitude(a); }
HD T f_abs_grad(T g, T a, T y) { return a > 0 ? g : (a < 0 ? -g : a * 0); }  // NaN stays one

HD T f_maximum(T a, T b) { return a >= b || a != a ? a : b; }
HD T f_maximum_grad0(T g, T a, T b, T y) {
    return a > b ? g : (a < b ? T(0) : (a == b ? T(0.5) * g : y));  // y is NaN where a or b is
}
HD T f_maximum_grad1(T g, T a, T b, T y) { return f_maximum_grad0(g, b, a, y); }

HD T f_minimum(T a, T b) { return a <= b || a != a ? a : b; }
HD T f_minimum_grad0(T g, T a, T b, T y) { return f_maximum_grad0(g, b, a, y); }
HD T f_minimum_grad1(T g, T a, T b, T y) { return f_maximum_grad0(g, a, b, y); }

HD T f_sin(T a) { return BUILTIN(sin)(a); }
HD T f_sin_grad(T g, T a, T y) { return g * BUILTIN(cos)(a); }

HD T f_cos(T a) { return BUILTIN(cos)(a); }
HD T f_cos_grad(T g, T a, T y) { return -g * BUILTIN(sin)(a); }

struct Logistic { T share, rest; };                    // sigmoid(a) and 1 - sigmoid(a)
HD Logistic logistic(T a) {
    T e = f_exp(-magnitude(a)), inverse = 1 / (1 + e);
    return {(a < 0 ? e : T(1)) * inverse, (a < 0 ? T(1) : e) * inverse};
}

HD T f_sigmoid(T a) {
    T e = f_exp(-magnitude(a));
    return (a < 0 ? e : T(1)) / (1 + e);
}
HD T f_sigmoid_grad(T g, T a, T y) { return g * (y * (1 - y)); }

HD T f_tanh(T a) {
    T e = f_expm1(-2 * magnitude(a));
    return with_sign(-e / (2 + e), a);
}
HD T f_tanh_grad(T g, T a, T y) { return g * (1 - y * y); }

HD T f_relu(T a) { return positive_part(a); }
HD T f_relu_grad(T g, T a, T y) { return y > 0 ? g : T(0); }

#define SELU_SCALE T(1.0507009873554805)
#define SELU_SLOPE T(1.7580993408473768)               // scale * alpha
HD T f_selu(T a) { return a > 0 ? SELU_SCALE * a : SELU_SLOPE * f_expm1(a); }
HD T f_selu_grad(T g, T a, T y) { return g * (y > 0 ? SELU_SCALE : y + SELU_SLOPE); }

#define GELU_SCALE T(0.7978845608028654)               // sqrt(2 / pi)
#define GELU_CUBE T(0.044715)
HD T gelu_inner(T a) { return 2 * GELU_SCALE * a * (1 + GELU_CUBE * a * a); }
HD T f_gelu(T a) { return a * f_sigmoid(gelu_inner(a)); }     // (1 + tanh(u)) / 2 = sigmoid(2 u)
HD T f_gelu_grad(T g, T a, T y) {
    Logistic part = logistic(gelu_inner(a));
    T slope = 2 * GELU_SCALE * (1 + 3 * GELU_CUBE * a * a);
    return g * (part.share + a * (slope * (part.share * part.rest)));
}

HD T f_silu(T a) { return a * f_sigmoid(a); }
HD T f_silu_grad(T g, T a, T y) {
    Logistic part = logistic(a);
    return g * (part.share * (1 + a * part.rest));
}

HD T f_softplus(T a) { return positive_part(a) + log1p_share(f_exp(-magnitude(a))); }
HD T f_softplus_grad(T g, T a, T y) { return g * f_sigmoid(a); }

// tanh(softplus(a)) = over / under, with e = exp(-|a|); missing is under - over.
struct Mish { T over, missing, under, e; };
HD Mish mish_parts(T a) {
    T e = f_exp(-magnitude(a));
    T over = a < 0 ? e * (e + 2) : 1 + 2 * e, missing = a < 0 ? T(2) : 2 * e * e;
    return {over, missing, over + missing, e};
}
HD T f_mish(T a) {
    Mish parts = mish_parts(a);
    return a * (parts.over / parts.under);
}
HD T f_mish_grad(T g, T a, T y) {
    Mish parts = mish_parts(a);
    T t = parts.over / parts.under, sigmoid = (a < 0 ? parts.e : T(1)) / (1 + parts.e);
    return g * (t + a * (1 + t) * (parts.missing / parts.under) * sigmoid);
}

// ---- Norms: the factor for a variance; running statistics with a batch's, if that leaves them finite.

HD T norm_scale(T variance) { return 1 / f_sqrt(variance + T(NORM_EPSILON)); }
HD T renewed(T running, T batch) {
    T now = running * T(1 - NORM_MOMENTUM) + batch * T(NORM_MOMENTUM);
    return is_finite(now) ? now : running;
}

// ---- Losses: loss_name(p, t, parameter) of one element, and its derivative by p.

HD T loss_sigmoid_cross_entropy(T p, T t, T smoothing) {
    T target = t * (1 - smoothing) + T(0.5) * smoothing;
    return (positive_part(p) - p * target) + log1p_share(f_exp(-magnitude(p)));
}
HD T loss_sigmoid_cross_entropy_grad(T p, T t, T smoothing) {
    return f_sigmoid(p) - (t * (1 - smoothing) + T(0.5) * smoothing);
}

HD T loss_sum_squares(T p, T t, T) { return (p - t) * (p - t); }
HD T loss_sum_squares_grad(T p, T t, T) { return 2 * (p - t); }

HD T loss_mean_squared(T p, T t, T) { return loss_sum_squares(p, t, 0); }
HD T loss_mean_squared_grad(T p, T t, T) { return loss_sum_squares_grad(p, t, 0); }

HD T loss_mean_absolute(T p, T t, T) { return magnitude(p - t); }
HD T loss_mean_absolute_grad(T p, T t, T) { return f_abs_grad(T(1), p - t, 0); }

HD T loss_huber(T p, T t, T delta) {
    T near = clamped(p - t, -delta, delta);
    return near * ((p - t) - T(0.5) * near);
}
HD T loss_huber_grad(T p, T t, T delta) { return clamped(p - t, -delta, delta); }

HD T loss_pinball(T p, T t, T quantile) {
    return f_maximum(quantile * (t - p), (quantile - 1) * (t - p));
}
HD T loss_pinball_grad(T p, T t, T quantile) {
    return p < t ? -quantile : (p > t ? 1 - quantile : T(0));
}

HD T loss_poisson(T p, T t, T) { return f_exp(p) - t * p; }
HD T loss_poisson_grad(T p, T t, T) { return f_exp(p) - t; }

// Softmax cross-entropy by one column; share = softmax(p)[column], `hit` where it is the target.
HD T softmax_grad(T share, bool hit, T smoothing, T columns) {
    return share - smoothing / columns - (hit ? 1 - smoothing : T(0));
}

// ---- Optimisers: name_step(rate, p, g, first, second) returns the new parameter and renews those
// slots that the optimiser has.

struct Rate {
    T lr, decay, clip, beta1, rest1, beta2, rest2, epsilon;    // rest = 1 - beta
    T corrected_lr, second_scale;                  // lr / correction1, 1 / sqrt(correction2)
};

HD T coupled(const Rate& rate, T p, T g) { return g * rate.clip + rate.decay * p; }
HD T decoupled(const Rate& rate, T p) { return p * (1 - rate.lr * rate.decay); }

HD T sgd_step(const Rate& rate, T p, T g, T&, T&) { return p - rate.lr * coupled(rate, p, g); }

HD T momentum_step(const Rate& rate, T p, T g, T& velocity, T&) {
    velocity = rate.beta1 * velocity + coupled(rate, p, g);
    return p - rate.lr * velocity;
}

HD T nesterov_step(const Rate& rate, T p, T g, T& velocity, T&) {
    g = coupled(rate, p, g);
    velocity = rate.beta1 * velocity + g;
    return p - rate.lr * (g + rate.beta1 * velocity);
}

HD T rmsprop_step(const Rate& rate, T p, T g, T& square, T&) {
    g = coupled(rate, p, g);
    square = rate.beta2 * square + rate.rest2 * (g * g);
    return p - rate.lr * (g / (f_sqrt(square) + rate.epsilon));
}

HD T adam_moments(const Rate& rate, T p, T g, T& first, T& second) {
    first = rate.beta1 * first + rate.rest1 * g;
    second = rate.beta2 * second + rate.rest2 * (g * g);
    return p - rate.corrected_lr * (first / (f_sqrt(second) * rate.second_scale + rate.epsilon));
}

HD T adam_step(const Rate& rate, T p, T g, T& first, T& second) {
    return adam_moments(rate, p, coupled(rate, p, g), first, second);
}

HD T adamw_step(const Rate& rate, T p, T g, T& first, T& second) {
    return adam_moments(rate, decoupled(rate, p), g * rate.clip, first, second);
}

HD T lion_step(const Rate& rate, T p, T g, T& first, T&) {
    g = g * rate.clip;
    T mixed = rate.beta1 * (first - g) + g;
    first = rate.beta2 * first + rate.rest2 * g;
    return decoupled(rate, p) - rate.lr * f_abs_grad(T(1), mixed, 0);
}

// ---- Random numbers: Philox4x64-10 (Salmon et al., SC 2011), a permutation as a Feistel network.

struct Words { unsigned long long a, b, c, d; };

HD Words philox(Words x, unsigned long long key0, unsigned long long key1) {
    for (int round = 0; round < 10; ++round) {
        unsigned long long left = 0xD2E7470EE14C6C93ull, right = 0xCA5A826395121157ull;
        unsigned long long a = high_product(right, x.c) ^ x.b ^ key0;
        unsigned long long c = high_product(left, x.a) ^ x.d ^ key1;
        x = {a, right * x.c, c, left * x.a};
        key0 += 0x9E3779B97F4A7C15ull;
        key1 += 0xBB67AE8584CAA73Bull;
    }
    return x;
}

// The bits of the bfloat16 nearest to x, of two the even one; NaN stays NaN.
HD unsigned short narrowed(float x) {
    unsigned bits = bits_of(x), even = bits >> 16 & 1;
    return (unsigned short)((x == x ? bits + 0x7FFFu + even : bits | 0x400000u) >> 16);
}

HD unsigned feistel_mix(unsigned x) {
    x *= 0x85EBCA6Bu;
    x ^= x >> 13;
    x *= 0xC2B2AE35u;
    return x ^ (x >> 16);
}

// A permutation of 0 ... 4^half - 1.
HD unsigned feistel(unsigned i, unsigned half, const unsigned* keys) {
    unsigned mask = (1u << half) - 1, left = i >> half, right = i & mask;
    for (int round = 0; round < 8; ++round) {
        unsigned next = (left ^ feistel_mix(right ^ keys[round])) & mask;
        left = right;
        right = next;
    }
    return left << half | right;
}

// Element i of a permutation of 0 ... n - 1: the network is walked until it is back below n.
HD unsigned shuffled(unsigned i, unsigned n, unsigned half, const unsigned* keys) {
    do i = feistel(i, half, keys);
    while (i >= n);
    return i;
}
