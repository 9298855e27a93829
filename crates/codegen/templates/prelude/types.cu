//@ u8, u16, u32, u64, i8, i16, i32, i64
// Fixed-width integers: no header is available under NVRTC.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char i8;
typedef short i16;
typedef int i32;
typedef long long i64;

//@ FUSEC_INF
// Positive infinity, f32.
#define FUSEC_INF __int_as_float(0x7f800000)

//@ FUSEC_NAN
// A quiet NaN, f32.
#define FUSEC_NAN __int_as_float(0x7fffffff)

//@ FUSEC_DYNAMIC_SMEM
// Declares `name`, the block's dynamic shared memory as bytes, 128-byte aligned.
#define FUSEC_DYNAMIC_SMEM(name) extern __shared__ __align__(128) char name[]

//@ bf16_t needs u16
// bfloat16 storage. Arithmetic happens in f32.
struct __align__(2) bf16_t { u16 bits; };

//@ f16_t needs u16
// IEEE binary16 storage. Arithmetic happens in f32.
struct __align__(2) f16_t { u16 bits; };

//@ to_f32 needs bf16_t, f16_t, u32
// Storage to f32; exact.
__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(bf16_t x) { return __uint_as_float(u32(x.bits) << 16); }
__device__ __forceinline__ float to_f32(f16_t x) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(x.bits));
    return f;
}

//@ from_f32 needs bf16_t, f16_t, u32
// f32 to storage, round to nearest even; overflow goes to infinity, NaN to 0x7fff.
template <typename T> __device__ __forceinline__ T from_f32(float x);
template <> __device__ __forceinline__ float from_f32<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16_t from_f32<bf16_t>(float x) {
    bf16_t r;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(x));
#else
    u32 u = __float_as_uint(x);
    u32 rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    r.bits = u16((u & 0x7fffffffu) > 0x7f800000u ? 0x7fffu : rounded);
#endif
    return r;
}
template <> __device__ __forceinline__ f16_t from_f32<f16_t>(float x) {
    f16_t r;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r.bits) : "f"(x));
    return r;
}
