// CUDA's built-in functions and variables, as far as kernels may name them directly: shuffles, votes,
// thread indices, barriers, atomics, bit casts.

namespace emulator {

template <class T> struct ShuffleLane { T value; T out; int arg; };

enum ShuffleMode { SHUFFLE_IDX, SHUFFLE_UP, SHUFFLE_DOWN, SHUFFLE_XOR };

template <class T> static inline T shuffle(ShuffleMode mode, const char* what, u32 mask, T value, int arg, int width, int line) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    ShuffleLane<T> own{value, value, arg};
    warp_collective(mask, &own, what, line, [=](void** lanes) {
        for (int lane = 0; lane < 32; ++lane) {
            if (!(mask >> lane & 1) || !lanes[lane]) continue;
            ShuffleLane<T>* l = static_cast<ShuffleLane<T>*>(lanes[lane]);
            int first = lane & ~(width - 1), last = first + width - 1, from = lane;
            switch (mode) {
                case SHUFFLE_IDX: from = first | (l->arg & (width - 1)); break;
                case SHUFFLE_UP: from = lane - l->arg < first ? lane : lane - l->arg; break;
                case SHUFFLE_DOWN: from = lane + l->arg > last ? lane : lane + l->arg; break;
                case SHUFFLE_XOR: from = (lane ^ l->arg) > last ? lane : lane ^ l->arg; break;
            }
            // Reading a lane that does not take part is undefined on the GPU: make it visible.
            if ((mask >> from & 1) && lanes[from]) l->out = static_cast<ShuffleLane<T>*>(lanes[from])->value;
            else memset(&l->out, 0xff, sizeof(T));
        }
    });
    return own.out;
}

static inline u32 ballot(u32 mask, bool value, int line) {
    struct Lane { bool value; u32 out; } own{value, 0};
    warp_collective(mask, &own, "a warp vote", line, [=](void** lanes) {
        u32 bits = 0;
        for (int i = 0; i < 32; ++i)
            if ((mask >> i & 1) && lanes[i] && static_cast<Lane*>(lanes[i])->value) bits |= 1u << i;
        for (int i = 0; i < 32; ++i)
            if ((mask >> i & 1) && lanes[i]) static_cast<Lane*>(lanes[i])->out = bits;
    });
    return own.out;
}

[[noreturn]] static __attribute__((noinline)) void misaligned(u64 bytes, const char* what) {
    Worker* w = W;
    FUSEC_EMU_FAIL(w, "block (%u,%u,%u), thread %u: %s of %llu bytes at a misaligned address", w->block_idx.x, w->block_idx.y,
                       w->block_idx.z, w->cur->index, what, bytes);
}

static inline void aligned(const void* p, u64 bytes, const char* what) {
    if (reinterpret_cast<emulator_uptr>(p) % bytes) misaligned(bytes, what);
}

}  // namespace emulator

#define threadIdx (emulator::W->cur->tid)
#define blockIdx (emulator::W->block_idx)
#define blockDim (emulator::W->block_dim)
#define gridDim (emulator::W->grid_dim)
#define warpSize 32

#define __syncthreads() emulator::block_collective(nullptr, "__syncthreads", __LINE__, [](void**, u32) {})
static inline int __syncthreads_or(int value, int line = __builtin_LINE()) {
    emulator::block_collective(&value, "__syncthreads_or", line, [](void** threads, u32 n) {
        int any = 0;
        for (u32 i = 0; i < n; ++i) any |= *static_cast<int*>(threads[i]) != 0;
        for (u32 i = 0; i < n; ++i) *static_cast<int*>(threads[i]) = any;
    });
    return value;
}
static inline void __syncwarp(u32 mask = 0xffffffffu, int line = __builtin_LINE()) {
    emulator::warp_collective(mask, nullptr, "__syncwarp", line, [](void**) {});
}
template <class T> static inline T __shfl_sync(u32 m, T v, int a, int w = 32, int line = __builtin_LINE()) {
    return emulator::shuffle(emulator::SHUFFLE_IDX, "__shfl_sync", m, v, a, w, line);
}
template <class T> static inline T __shfl_up_sync(u32 m, T v, int a, int w = 32, int line = __builtin_LINE()) {
    return emulator::shuffle(emulator::SHUFFLE_UP, "__shfl_up_sync", m, v, a, w, line);
}
template <class T> static inline T __shfl_down_sync(u32 m, T v, int a, int w = 32, int line = __builtin_LINE()) {
    return emulator::shuffle(emulator::SHUFFLE_DOWN, "__shfl_down_sync", m, v, a, w, line);
}
template <class T> static inline T __shfl_xor_sync(u32 m, T v, int a, int w = 32, int line = __builtin_LINE()) {
    return emulator::shuffle(emulator::SHUFFLE_XOR, "__shfl_xor_sync", m, v, a, w, line);
}
static inline u32 __ballot_sync(u32 m, bool v, int line = __builtin_LINE()) { return emulator::ballot(m, v, line); }
static inline int __any_sync(u32 m, bool v, int line = __builtin_LINE()) { return emulator::ballot(m, v, line) != 0; }
static inline int __all_sync(u32 m, bool v, int line = __builtin_LINE()) { return emulator::ballot(m, !v, line) == 0; }

// Atomics: blocks run on several threads of the host.
template <class T> static inline T emulator_add(T* p, T v) {
    T old;
    __atomic_load(p, &old, __ATOMIC_RELAXED);
    for (;;) {
        T next = old + v;
        if (__atomic_compare_exchange(p, &old, &next, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) return old;
    }
}
static inline float atomicAdd(float* p, float v) { return emulator_add(p, v); }
static inline double atomicAdd(double* p, double v) { return emulator_add(p, v); }
static inline int atomicAdd(int* p, int v) { return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL); }
static inline u32 atomicAdd(u32* p, u32 v) { return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL); }
static inline u64 atomicAdd(u64* p, u64 v) { return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL); }
template <class T> static inline T atomicExch(T* p, T v) {
    T old;
    __atomic_exchange(p, &v, &old, __ATOMIC_ACQ_REL);
    return old;
}
template <class T> static inline T atomicCAS(T* p, T expected, T v) {
    __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    return expected;
}
template <class T> static inline T atomicMax(T* p, T v) {
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (old < v && !__atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {}
    return old;
}
template <class T> static inline T atomicMin(T* p, T v) {
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (v < old && !__atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {}
    return old;
}
static inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// CUDA built-ins that kernels may name directly.
static inline u32 __float_as_uint(float x) { return __builtin_bit_cast(u32, x); }
static inline int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
static inline float __uint_as_float(u32 x) { return __builtin_bit_cast(float, x); }
static inline float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
template <class T> static inline T __ldg(const T* p) { return *p; }
template <class T> static inline T __ldcs(const T* p) { return *p; }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline u32 min(u32 a, u32 b) { return a < b ? a : b; }
static inline u32 max(u32 a, u32 b) { return a > b ? a : b; }
static inline i64 min(i64 a, i64 b) { return a < b ? a : b; }
static inline i64 max(i64 a, i64 b) { return a > b ? a : b; }
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
