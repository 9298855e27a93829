//@ fexp
// e^x, at most 2 ulp.
__device__ __forceinline__ float fexp(float x) { return expf(x); }

//@ fexp2
// 2^x, at most 2 ulp.
__device__ __forceinline__ float fexp2(float x) { return exp2f(x); }

//@ fexpm1
// e^x - 1 without cancellation near 0.
__device__ __forceinline__ float fexpm1(float x) { return expm1f(x); }

//@ flog
// Natural logarithm.
__device__ __forceinline__ float flog(float x) { return logf(x); }

//@ flog2
// Logarithm to base 2.
__device__ __forceinline__ float flog2(float x) { return log2f(x); }

//@ flog1p
// log(1 + x) without cancellation near 0.
__device__ __forceinline__ float flog1p(float x) { return log1pf(x); }

//@ ftanh
// Hyperbolic tangent.
__device__ __forceinline__ float ftanh(float x) { return tanhf(x); }

//@ fsin
// Sine, full range reduction.
__device__ __forceinline__ float fsin(float x) { return sinf(x); }

//@ fcos
// Cosine, full range reduction.
__device__ __forceinline__ float fcos(float x) { return cosf(x); }

//@ ferf
// Error function.
__device__ __forceinline__ float ferf(float x) { return erff(x); }

//@ fsqrt
// Square root, correctly rounded.
__device__ __forceinline__ float fsqrt(float x) { return sqrtf(x); }

//@ frsqrt
// 1 / sqrt(x), at most 2 ulp.
__device__ __forceinline__ float frsqrt(float x) { return rsqrtf(x); }

//@ frecip
// 1 / x, correctly rounded.
__device__ __forceinline__ float frecip(float x) { return 1.0f / x; }

//@ fpow
// x^y with the C library's special cases.
__device__ __forceinline__ float fpow(float x, float y) { return powf(x, y); }

//@ fsquare
// x * x.
__device__ __forceinline__ float fsquare(float x) { return x * x; }

//@ fabs32
// |x|.
__device__ __forceinline__ float fabs32(float x) { return fabsf(x); }

//@ fmin32
// The smaller of x and y; NaN when either is NaN.
__device__ __forceinline__ float fmin32(float x, float y) { return (x < y || x != x) ? x : y; }

//@ fmax32
// The larger of x and y; NaN when either is NaN.
__device__ __forceinline__ float fmax32(float x, float y) { return (x > y || x != x) ? x : y; }

//@ fmax_number
// The larger of x and y; the other one where one is NaN.
__device__ __forceinline__ float fmax_number(float x, float y) { return fmaxf(x, y); }

//@ frelu needs fmax32
// max(x, 0); NaN stays NaN.
__device__ __forceinline__ float frelu(float x) { return fmax32(x, 0.0f); }

//@ fless
// 1 if x < y, else 0.
__device__ __forceinline__ float fless(float x, float y) { return x < y ? 1.0f : 0.0f; }

//@ fless_equal
// 1 if x <= y, else 0.
__device__ __forceinline__ float fless_equal(float x, float y) { return x <= y ? 1.0f : 0.0f; }

//@ fequal
// 1 if x = y, else 0.
__device__ __forceinline__ float fequal(float x, float y) { return x == y ? 1.0f : 0.0f; }

//@ fwhen
// x if c is not 0, else 0: also where x is not finite.
__device__ __forceinline__ float fwhen(float c, float x) { return c == 0.0f ? 0.0f : x; }

//@ fsigmoid
// 1 / (1 + e^-x) on the special-function unit (ex2.approx, rcp.approx): absolute error below 2e-7. e^-x may
// overflow to infinity, which gives 0: no NaN for any non-NaN x.
__device__ __forceinline__ float fsigmoid(float x) {
    float e, y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(x * -1.4426950408889634f));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(1.0f + e));
    return y;
}

//@ fsilu needs fsigmoid
// x * sigmoid(x).
__device__ __forceinline__ float fsilu(float x) { return x * fsigmoid(x); }

//@ fgelu
// x * Phi(x), the exact (erf) form.
__device__ __forceinline__ float fgelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }

//@ flog1p_exp_neg
// log(1 + e^-a) for a >= 0, at most 5 ulp: with e = e^-a, 2 atanh(s) where s = e / (2 + e) is at most
// 1/3, by a polynomial in its square.
__device__ __forceinline__ float flog1p_exp_neg(float a) {
    const float e = expf(-a);
    float inverse;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(2.0f + e));
    const float s = e * inverse, z = s * s;
    const float p = 0.20012298f + z * (0.13982579f + z * 0.1407889f);
    return 2.0f * s * (1.0f + z * (0.33333161f + z * p));
}

//@ fsoftplus needs flog1p_exp_neg
// log(1 + e^x) = max(x, 0) + log(1 + e^-|x|): no overflow on either side.
__device__ __forceinline__ float fsoftplus(float x) { return fmaxf(x, 0.0f) + flog1p_exp_neg(fabsf(x)); }

//@ flogsigmoid needs flog1p_exp_neg
// log(sigmoid(x)) = min(x, 0) - log(1 + e^-|x|): no overflow on either side.
__device__ __forceinline__ float flogsigmoid(float x) { return fminf(x, 0.0f) - flog1p_exp_neg(fabsf(x)); }

//@ fexp2_step
// 2^x on the special-function unit: 2 ulp, results below 2^-126 are 0. The step of a recurrence takes e^x as 2^(x log2 e): that
// rounds the exponent, which moves a decay, e^x of x <= 0, by at most 2^-25.
__device__ __forceinline__ float fexp2_step(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

//@ fexp2_approx
// 2^x on the special-function unit: 2 ulp, denormal results kept.
__device__ __forceinline__ float fexp2_approx(float x) {
    float y;
    asm("ex2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

//@ fproduct
// x * y, rounded by itself: the compiler makes no fused multiply-add of it.
__device__ __forceinline__ float fproduct(float x, float y) { return __fmul_rn(x, y); }

//@ mul_high needs u64
// The upper 64 bits of a product of two numbers of 64 bits.
__device__ __forceinline__ u64 mul_high(u64 x, u64 y) { return __umul64hi(x, y); }
