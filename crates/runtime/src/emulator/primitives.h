// CPU bodies of the primitives prelude, under the names of crates/codegen/templates/prelude.

#define FUSEC_INF __builtin_huge_valf()
#define FUSEC_NAN __builtin_nanf("")
#define FUSEC_DYNAMIC_SMEM(name) char* const name = emulator::W->launch->smem

struct __align__(2) bf16_t { u16 bits; };
struct __align__(2) f16_t { u16 bits; };

static inline float to_f32(float x) { return x; }
static inline float to_f32(bf16_t x) { return __uint_as_float(u32(x.bits) << 16); }
static inline float to_f32(f16_t x) {
    u32 sign = u32(x.bits & 0x8000u) << 16, exponent = (x.bits >> 10) & 31u, mantissa = x.bits & 0x3ffu;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | mantissa << 13);
    if (exponent == 0) {
        float magnitude = float(mantissa) * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    return __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
}
template <class T> static inline T from_f32(float x);
template <> inline float from_f32<float>(float x) { return x; }
template <> inline bf16_t from_f32<bf16_t>(float x) {
    u32 u = __float_as_uint(x);
    u32 rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    return {u16((u & 0x7fffffffu) > 0x7f800000u ? 0x7fffu : rounded)};
}
template <> inline f16_t from_f32<f16_t>(float x) {
    u32 u = __float_as_uint(x), sign = (u >> 16) & 0x8000u;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return {0x7fffu};
    if (u >= 0x47800000u) return {u16(sign | 0x7c00u)};
    if (u < 0x38800000u) {
        // Below 2^-14 the spacing is 2^-24: adding 0.5, whose ulp is 2^-24, rounds there.
        float shifted = __uint_as_float(u) + 0.5f;
        return {u16(sign | (__float_as_uint(shifted) - 0x3f000000u))};
    }
    u32 rounded = u - (112u << 23) + 0xfffu + ((u >> 13) & 1u);
    return {u16(sign | rounded >> 13)};
}

namespace emulator {
constexpr int vec_alignment(int bytes) { return bytes == 4 || bytes == 8 || bytes == 16 ? bytes : bytes == 32 || bytes == 64 ? 16 : 0; }
}
template <class T, int V> static inline void load_vec(const T* p, float (&out)[V]) {
    constexpr int alignment = emulator::vec_alignment(V * int(sizeof(T)));
    if (alignment) emulator::aligned(p, alignment, "load_vec");
    for (int i = 0; i < V; ++i) out[i] = to_f32(p[i]);
}
template <class T, int V> static inline void load_vec_stream(const T* p, float (&out)[V]) { load_vec(p, out); }
template <class T, int V> static inline void store_vec(T* p, const float (&x)[V]) {
    constexpr int alignment = emulator::vec_alignment(V * int(sizeof(T)));
    if (alignment) emulator::aligned(p, alignment, "store_vec");
    for (int i = 0; i < V; ++i) p[i] = from_f32<T>(x[i]);
}
static inline void load_words(const void* p, u32 (&words)[4]) {
    emulator::aligned(p, 16, "load_words");
    __builtin_memcpy(words, p, 16);
}
static inline void store_words(void* p, const u32 (&words)[4]) {
    emulator::aligned(p, 16, "store_words");
    __builtin_memcpy(p, words, 16);
}
static inline void load_words_stream(const void* p, u32 (&words)[4]) { load_words(p, words); }
template <class T, int V, int STEP> static inline void load_component(const T* p, int j, float (&out)[V]) {
    for (int i = 0; i < V; ++i) {
        float group[STEP];
        load_vec<T, STEP>(p + i * STEP, group);
        out[i] = group[j];
    }
}
template <class T, int V, int C> static inline void load_chunks(const T* p, int apart, float (&out)[V]) {
    for (int i = 0; i < V / C; ++i) {
        float chunk[C];
        load_vec<T, C>(p + i * apart, chunk);
        for (int j = 0; j < C; ++j) out[i * C + j] = chunk[j];
    }
}
template <class T, int V, int C> static inline void store_chunks(T* p, int apart, const float (&x)[V]) {
    for (int i = 0; i < V / C; ++i) {
        float chunk[C];
        for (int j = 0; j < C; ++j) chunk[j] = x[i * C + j];
        store_vec<T, C>(p + i * apart, chunk);
    }
}
template <class T, int V> static inline void store_vec_stream(T* p, const float (&x)[V]) { store_vec(p, x); }
template <class T, int V> struct PendingEach {
    T elements[V];
    void load(const T* p, int step) {
        for (int i = 0; i < V; ++i) elements[i] = p[i * step];
    }
    float f32(int i) const { return to_f32(elements[i]); }
};
template <class T, int V> struct Pending {
    PendingEach<T, V> each;
    void load(const T* p) {
        constexpr int alignment = emulator::vec_alignment(V * int(sizeof(T)));
        if (alignment) emulator::aligned(p, alignment, "Pending");
        each.load(p, 1);
    }
    void load_stream(const T* p) { load(p); }
    float f32(int i) const { return each.f32(i); }
};
template <class T> static inline float load_f32(const T* p) { return to_f32(*p); }
template <class T> static inline void store_f32(T* p, float x) { *p = from_f32<T>(x); }

static inline float fexp(float x) { return expf(x); }
static inline float fexp2(float x) { return exp2f(x); }
static inline float fexp2_step(float x) {
    const float y = exp2f(x);
    return y < 1.17549435e-38f ? 0.0f : y;
}
static inline float fexp2_approx(float x) { return exp2f(x); }
static inline float fexpm1(float x) { return expm1f(x); }
static inline float flog(float x) { return logf(x); }
static inline float flog2(float x) { return log2f(x); }
static inline float flog1p(float x) { return log1pf(x); }
static inline float ftanh(float x) { return tanhf(x); }
static inline float fsin(float x) { return sinf(x); }
static inline float fcos(float x) { return cosf(x); }
static inline float ferf(float x) { return erff(x); }
static inline float fsqrt(float x) { return sqrtf(x); }
static inline float frsqrt(float x) { return 1.0f / sqrtf(x); }
static inline float frecip(float x) { return 1.0f / x; }
static inline float fproduct(float x, float y) { return x * y; }
static inline u64 mul_high(u64 x, u64 y) { return u64(static_cast<unsigned __int128>(x) * y >> 64); }
static inline float fpow(float x, float y) { return powf(x, y); }
static inline float fsquare(float x) { return x * x; }
static inline float fabs32(float x) { return fabsf(x); }
static inline float fmin32(float x, float y) { return (x < y || x != x) ? x : y; }
static inline float fmax32(float x, float y) { return (x > y || x != x) ? x : y; }
static inline float fmax_number(float x, float y) { return fmaxf(x, y); }
static inline float frelu(float x) { return fmax32(x, 0.0f); }
static inline float fless(float x, float y) { return x < y ? 1.0f : 0.0f; }
static inline float fless_equal(float x, float y) { return x <= y ? 1.0f : 0.0f; }
static inline float fequal(float x, float y) { return x == y ? 1.0f : 0.0f; }
static inline float fwhen(float c, float x) { return c == 0.0f ? 0.0f : x; }
static inline float fsigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
static inline float fsilu(float x) { return x / (1.0f + expf(-x)); }
static inline float fgelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }
static inline float flog1p_exp_neg(float a) { return log1pf(expf(-a)); }
static inline float fsoftplus(float x) { return fmaxf(x, 0.0f) + flog1p_exp_neg(fabsf(x)); }
static inline float flogsigmoid(float x) { return fminf(x, 0.0f) - flog1p_exp_neg(fabsf(x)); }

// Warp and block reductions meet once and then follow the order of the GPU bodies: butterfly inside a
// warp, warps in turn.
namespace emulator {
struct Sum { static float of(float a, float b) { return a + b; } };
struct Max { static float of(float a, float b) { return fmaxf(a, b); } };

template <class Op, int W> static inline void butterfly(float (&v)[32]) {
    for (int d = W / 2; d > 0; d >>= 1) {
        float next[32];
        for (int i = 0; i < 32; ++i) next[i] = Op::of(v[i], v[i ^ d]);
        for (int i = 0; i < 32; ++i) v[i] = next[i];
    }
}

// The lanes with equal lane % STRIDE: distances STRIDE, 2 STRIDE, ... 16.
template <class Op, int STRIDE> static inline void strided_butterfly(float (&v)[32]) {
    for (int d = STRIDE; d < 32; d *= 2) {
        float next[32];
        for (int i = 0; i < 32; ++i) next[i] = Op::of(v[i], v[i ^ d]);
        for (int i = 0; i < 32; ++i) v[i] = next[i];
    }
}

template <class Op, int W, bool STRIDED = false> static inline float lane_reduce(const char* what, float own, int line) {
    warp_collective(0xffffffffu, &own, what, line, [](void** lanes) {
        float v[32];
        for (int i = 0; i < 32; ++i) v[i] = lanes[i] ? *static_cast<float*>(lanes[i]) : __builtin_nanf("");
        if (STRIDED) strided_butterfly<Op, W>(v); else butterfly<Op, W>(v);
        for (int i = 0; i < 32; ++i)
            if (lanes[i]) *static_cast<float*>(lanes[i]) = v[i];
    });
    return own;
}

template <class Op, int NT, int V> static inline void block_reduce(const char* what, float (&own)[V], float* scratch, int line) {
    static_assert(NT % 32 == 0 && NT <= 1024, "a block reduction needs whole warps");
    Worker* w = W;
    if (w->threads != NT || w->block_dim.x != NT)
        FUSEC_EMU_FAIL(w, "%s<%d> at line %d in a block of (%u,%u,%u) threads", what, NT, line, w->block_dim.x, w->block_dim.y, w->block_dim.z);
    // The GPU body writes scratch before its first barrier and leaves partial sums behind.
    if (NT > 32 && w->cur->index % 32 == 0)
        for (int j = 0; j < V; ++j) scratch[j * (NT / 32) + w->cur->index / 32] = __builtin_nanf("");
    block_collective(&own, what, line, [](void** threads, u32) {
        float total[V];
        for (int j = 0; j < V; ++j) {
            for (int warp = 0; warp < NT / 32; ++warp) {
                float v[32];
                for (int i = 0; i < 32; ++i) v[i] = static_cast<float*>(threads[warp * 32 + i])[j];
                butterfly<Op, 32>(v);
                total[j] = warp == 0 ? v[0] : Op::of(total[j], v[0]);
            }
        }
        for (int i = 0; i < NT; ++i)
            for (int j = 0; j < V; ++j) static_cast<float*>(threads[i])[j] = total[j];
    });
}
}  // namespace emulator

template <int W> static inline float lane_sum(float v, int line = __builtin_LINE()) {
    return emulator::lane_reduce<emulator::Sum, W>("lane_sum", v, line);
}
template <int STRIDE> static inline float lane_sum_strided(float v, int line = __builtin_LINE()) {
    return emulator::lane_reduce<emulator::Sum, STRIDE, true>("lane_sum_strided", v, line);
}
template <int W> static inline float lane_max(float v, int line = __builtin_LINE()) {
    return emulator::lane_reduce<emulator::Max, W>("lane_max", v, line);
}
static inline u32 lanes_where(bool yes, int line = __builtin_LINE()) { return __ballot_sync(0xffffffffu, yes, line); }
static inline int from_lane(int v, int lane, int line = __builtin_LINE()) { return __shfl_sync(0xffffffffu, v, lane, 32, line); }
static inline int lowest_bit(u32 bits) { return __builtin_ctz(bits); }
static inline int count_bits(u32 bits) { return __builtin_popcount(bits); }
static inline float warp_sum(float v, int line = __builtin_LINE()) { return lane_sum<32>(v, line); }
template <int N> static inline float warp_sum_each(const float (&v)[N], int line = __builtin_LINE()) {
    const int own = int(threadIdx.x % 32) / (32 / N);
    float result = 0.0f;
    for (int n = 0; n < N; ++n) {
        const float sum = emulator::lane_reduce<emulator::Sum, 32>("warp_sum_each", v[n], line);
        if (n == own) result = sum;
    }
    return result;
}
static inline float warp_max(float v, int line = __builtin_LINE()) { return lane_max<32>(v, line); }
namespace emulator {
template <class Operation, int NT> static inline float block_reduce_one(const char* name, float v, float* scratch, int line) {
    float own[1] = {v};
    block_reduce<Operation, NT>(name, own, scratch, line);
    return own[0];
}
}
template <int NT> static inline float block_sum(float v, float* scratch, int line = __builtin_LINE()) {
    return emulator::block_reduce_one<emulator::Sum, NT>("block_sum", v, scratch, line);
}
template <int NT> static inline float block_max(float v, float* scratch, int line = __builtin_LINE()) {
    return emulator::block_reduce_one<emulator::Max, NT>("block_max", v, scratch, line);
}
template <int NT> static inline float block_sum_once(float v, float* scratch, int line = __builtin_LINE()) {
    return emulator::block_reduce_one<emulator::Sum, NT>("block_sum_once", v, scratch, line);
}
template <int NT> static inline float block_max_once(float v, float* scratch, int line = __builtin_LINE()) {
    return emulator::block_reduce_one<emulator::Max, NT>("block_max_once", v, scratch, line);
}
template <int NT, int V> static inline void block_sum_vec_once(float (&v)[V], float* scratch, int line = __builtin_LINE()) {
    emulator::block_reduce<emulator::Sum, NT>("block_sum_vec_once", v, scratch, line);
}
template <int NT, int V> static inline void block_max_vec_once(float (&v)[V], float* scratch, int line = __builtin_LINE()) {
    emulator::block_reduce<emulator::Max, NT>("block_max_vec_once", v, scratch, line);
}

// Matrix primitives. The product adds in the order k = 0, 1, ... in f32 to the accumulator; the tensor
// core adds in groups and truncates, so results agree to rounding, not to the bit.
namespace emulator {
template <int J> struct MatrixLane { u32* r; const char* row; };

template <int J, bool TRANS> static inline void ldmatrix(u32 (&r)[J], const void* row, const char* what, int line) {
    MatrixLane<J> own{r, static_cast<const char*>(row)};
    if (int(W->cur->index % 32) < 8 * J) aligned(row, 16, what);
    warp_collective(0xffffffffu, &own, what, line, [](void** lanes) {
        for (int j = 0; j < J; ++j) {
            u16 m[8][8];
            for (int i = 0; i < 8; ++i) memcpy(m[i], static_cast<MatrixLane<J>*>(lanes[8 * j + i])->row, 16);
            for (int l = 0; l < 32; ++l) {
                int a = l / 4, b = 2 * (l % 4);
                u16 lo = TRANS ? m[b][a] : m[a][b], hi = TRANS ? m[b + 1][a] : m[a][b + 1];
                static_cast<MatrixLane<J>*>(lanes[l])->r[j] = u32(lo) | u32(hi) << 16;
            }
        }
    });
}

struct MmaLane { float* c; const u32* a; const u32* b; };

// T the element type, K 8 or 16.
template <class T, int K> static inline void mma(float (&c)[4], const u32* a, const u32* b, const char* what, int line) {
    MmaLane own{c, a, b};
    warp_collective(0xffffffffu, &own, what, line, [](void** lanes) {
        float am[16][K], bm[K][8], cm[16][8];
        auto value = [](u32 word, int half) { return to_f32(T{u16(word >> (16 * half))}); };
        for (int l = 0; l < 32; ++l) {
            MmaLane* lane = static_cast<MmaLane*>(lanes[l]);
            int g = l / 4, t = 2 * (l % 4);
            for (int h = 0; h < 2; ++h) {
                for (int q = 0; q < K / 8; ++q) {
                    am[g][8 * q + t + h] = value(lane->a[2 * q], h);
                    am[g + 8][8 * q + t + h] = value(lane->a[2 * q + 1], h);
                    bm[8 * q + t + h][g] = value(lane->b[q], h);
                }
                cm[g][t + h] = lane->c[h];
                cm[g + 8][t + h] = lane->c[2 + h];
            }
        }
        for (int m = 0; m < 16; ++m)
            for (int k = 0; k < K; ++k)
                for (int n = 0; n < 8; ++n) cm[m][n] += am[m][k] * bm[k][n];
        for (int l = 0; l < 32; ++l) {
            MmaLane* lane = static_cast<MmaLane*>(lanes[l]);
            int g = l / 4, t = 2 * (l % 4);
            for (int h = 0; h < 2; ++h) {
                lane->c[h] = cm[g][t + h];
                lane->c[2 + h] = cm[g + 8][t + h];
            }
        }
    });
}
}  // namespace emulator

static inline u32 pack_bf16x2(float low, float high) {
    return u32(from_f32<bf16_t>(low).bits) | u32(from_f32<bf16_t>(high).bits) << 16;
}
static inline u32 pack_f16x2(float low, float high) {
    return u32(from_f32<f16_t>(low).bits) | u32(from_f32<f16_t>(high).bits) << 16;
}
template <class T> static inline u32 pack_x2(float low, float high) {
    return u32(from_f32<T>(low).bits) | u32(from_f32<T>(high).bits) << 16;
}
static inline u32 smem_u32(const void* p) { return u32(static_cast<const char*>(p) - emulator::W->launch->smem); }
static inline void ldmatrix_x4(u32 (&r)[4], const void* row, int line = __builtin_LINE()) { emulator::ldmatrix<4, false>(r, row, "ldmatrix_x4", line); }
static inline void ldmatrix_x2(u32 (&r)[2], const void* row, int line = __builtin_LINE()) { emulator::ldmatrix<2, false>(r, row, "ldmatrix_x2", line); }
static inline void ldmatrix_x4_trans(u32 (&r)[4], const void* row, int line = __builtin_LINE()) { emulator::ldmatrix<4, true>(r, row, "ldmatrix_x4_trans", line); }
static inline void ldmatrix_x2_trans(u32 (&r)[2], const void* row, int line = __builtin_LINE()) { emulator::ldmatrix<2, true>(r, row, "ldmatrix_x2_trans", line); }
static inline void mma_m16n8k16_bf16(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2], int line = __builtin_LINE()) {
    emulator::mma<bf16_t, 16>(c, a, b, "mma_m16n8k16_bf16", line);
}
static inline void mma_m16n8k16_f16(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2], int line = __builtin_LINE()) {
    emulator::mma<f16_t, 16>(c, a, b, "mma_m16n8k16_f16", line);
}
static inline void mma_m16n8k8_bf16(float (&c)[4], const u32 (&a)[2], const u32 (&b)[1], int line = __builtin_LINE()) {
    emulator::mma<bf16_t, 8>(c, a, b, "mma_m16n8k8_bf16", line);
}
static inline void mma_m16n8k8_f16(float (&c)[4], const u32 (&a)[2], const u32 (&b)[1], int line = __builtin_LINE()) {
    emulator::mma<f16_t, 8>(c, a, b, "mma_m16n8k8_f16", line);
}
template <class T> static inline void mma_k16(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2], int line = __builtin_LINE()) {
    emulator::mma<T, 16>(c, a, b, "mma_k16", line);
}

// Asynchronous copies. The destination is NaN from the issue to the wait: reading it early shows.
namespace emulator {
static inline void cp_async(void* dst, const void* src, u32 bytes, bool pred, const char* what) {
    Worker* w = W;
    Thread* t = w->cur;
    aligned(dst, bytes, what);
    if (pred) aligned(src, bytes, what);
    if (t->copies == MAX_COPIES)
        FUSEC_EMU_FAIL(w, "thread %u has %u asynchronous copies in flight, more than the emulator keeps", t->index, MAX_COPIES);
    memset(dst, 0xff, bytes);
    w->copy[t->index][t->copies++] = {dst, pred ? src : nullptr, bytes, t->groups};
}
static inline void cp_async_land(u32 in_flight) {
    Worker* w = W;
    Thread* t = w->cur;
    Copy* copies = w->copy[t->index];
    u32 kept = 0;
    for (u32 i = 0; i < t->copies; ++i) {
        Copy& c = copies[i];
        // Group numbers wrap, their distance does not; an open group has distance 0.
        u32 distance = t->groups - c.group;
        if (distance > in_flight) {
            if (c.src) memcpy(c.dst, c.src, c.bytes); else memset(c.dst, 0, c.bytes);
        } else {
            copies[kept++] = c;
        }
    }
    t->copies = kept;
}
}  // namespace emulator
static inline void cp_async_16(void* dst, const void* src, bool pred) { emulator::cp_async(dst, src, 16, pred, "cp_async_16"); }
static inline void cp_async_4(void* dst, const void* src, bool pred) { emulator::cp_async(dst, src, 4, pred, "cp_async_4"); }
static inline void cp_async_commit() { emulator::W->cur->groups++; }
template <int N> static inline void cp_async_wait() { emulator::cp_async_land(N); }

// There is one kind of memory here.
static inline void prefetch_l2(const void*) {}
template <u32 BLOCKS> static inline void prefetch_share(const void*, u32) {}

// What is relied on is checked here.
#define FUSEC_GIVEN(condition)                                                          \
    do {                                                                                \
        if (!(condition)) FUSEC_EMU_FAIL(emulator::W, "%s does not hold", #condition);  \
    } while (0)
#define FUSEC_PHASE(n) (emulator::W->launch->phase == (n))
static inline void grid_barrier(int line = __builtin_LINE()) {
    emulator::block_collective(nullptr, "grid_barrier", line, [](void**, u32) { emulator::W->launch->grid_barriers++; });
}

// Launches do not overlap here.
static inline void grid_dependency_wait() {}
static inline void grid_dependency_launch() {}
