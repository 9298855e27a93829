// The CPU side of the CUDA dialect that generated kernels are written in. Compiled in front of one
// kernel source by g++ with FUSEC_EMULATOR defined; no system header is included, so that a kernel
// compiles in a fraction of a second and the names below stay free.
//
// Execution: one fiber per CUDA thread, blocks one at a time per worker. A fiber runs until it meets a
// barrier or a warp collective, or ends. The order is seeded, threads run as far ahead of each other as
// the barriers allow, and shared memory starts as NaN: a missing barrier shows as a wrong number.
//
// Collectives (shuffles, sums, mma, ldmatrix) park each lane with a pointer to its operands; the last
// lane to arrive computes the result for all. A thread that ends, or meets another barrier, while
// others wait for it aborts the launch with a message.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char i8;
typedef short i16;
typedef int i32;
typedef long long i64;
typedef unsigned long fusec_uptr;
#ifndef size_t
typedef __SIZE_TYPE__ size_t;
#endif

extern "C" {
float expf(float); float exp2f(float); float expm1f(float); float logf(float); float log2f(float);
float log10f(float); float log1pf(float); float tanhf(float); float sinf(float); float cosf(float);
float erff(float); float sqrtf(float); float powf(float, float); float fabsf(float); float fminf(float, float);
float fmaxf(float, float); float fmaf(float, float, float); float floorf(float); float ceilf(float);
float rintf(float); float truncf(float); float roundf(float); float sinhf(float); float coshf(float); float tanf(float);
float atanf(float); float ldexpf(float, int);
double exp(double); double log(double); double sqrt(double); double fabs(double); double pow(double, double);
int snprintf(char*, size_t, const char*, ...) __attribute__((format(printf, 3, 4)));
void* memcpy(void*, const void*, size_t) noexcept;
void* memset(void*, int, size_t) noexcept;
}

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __constant__ static const
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static_shared_memory_is_not_emulated__use_FUSEC_DYNAMIC_SMEM
#define __CUDA_ARCH__ 900

struct uint2 { u32 x, y; };
struct uint3 { u32 x, y, z; };
struct __align__(16) uint4 { u32 x, y, z, w; };
struct __align__(8) float2 { float x, y; };
struct __align__(16) float4 { float x, y, z, w; };
struct dim3 { u32 x, y, z; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
static inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }

// ------------------------------------------------------------------------------------------------
// Fibers and rendezvous
// ------------------------------------------------------------------------------------------------

// fusec_emu_switch(save, load): pushes the callee-saved registers, stores the stack pointer to *save,
// takes `load` as the stack pointer and returns into that fiber.
asm(R"(
.text
.p2align 4
.type fusec_emu_switch, @function
fusec_emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size fusec_emu_switch, .-fusec_emu_switch
)");
extern "C" __attribute__((visibility("hidden"))) void fusec_emu_switch(void** save, void* load) asm("fusec_emu_switch");

namespace fusec_emu {

constexpr u32 MAX_THREADS = 1024;
constexpr u32 MAX_COPIES = 128;          // cp.async copies of one thread in flight
constexpr u64 STACK_BYTES = 256 * 1024;
constexpr u64 HEADER_BYTES = 8 << 20;
constexpr u32 SMEM_GUARD = 256;          // bytes of known pattern behind the dynamic shared memory

enum State : u32 { NOT_STARTED, RUNNABLE, AT_BARRIER, AT_COLLECTIVE, ENDED };

struct Copy { void* dst; const void* src; u32 bytes; u32 group; };

struct Thread {
    void* sp;
    uint3 tid;
    u32 index;
    u32 stack;
    u32 state;
    int line;         // source line of the barrier or collective it waits at
    u32 copies;       // pending cp.async copies
    u32 groups;       // cp.async groups committed so far
};

struct Rendezvous {
    u32 mask;
    int line;
    const char* what;
    void* payload[32];
};

// Shared with the Rust side: field order and types must match `LaunchRecord`.
struct Launch {
    u32 grid[3];
    u32 block[3];
    u32 index[3];
    u32 smem_bytes;
    u64 seed;
    char* smem;       // smem_bytes + SMEM_GUARD bytes, 128-byte aligned
    char* arena;      // HEADER_BYTES + MAX_THREADS * STACK_BYTES, zero on first use
    void** args;
    char* error;
    u64 error_bytes;
};

struct Worker {
    Thread* cur;
    void* main_sp;
    Launch* launch;
    dim3 grid_dim, block_dim;
    uint3 block_idx;
    u32 threads;
    u32 ended;
    u32 first_ended;
    bool failed;
    bool run_ahead;   // released threads go to the front of the ready ring
    u64 random;
    // threads that can run
    u32 ready_head, ready_count;
    u16 ready[MAX_THREADS];
    u16 order[MAX_THREADS];
    u32 free_stacks;
    u16 stacks[MAX_THREADS];
    // block barrier
    u32 arrived;
    int barrier_line;
    const char* barrier_what;
    void* barrier_payload[MAX_THREADS];
    // warp collectives; diverged parts of a warp wait in slots of their own
    u32 warp_arrived[32][32];
    u32 warp_ended[32];
    u32 warp_pending[32];
    Rendezvous warp[32][32];
    Thread thread[MAX_THREADS];
    Copy copy[MAX_THREADS][MAX_COPIES];
};
static_assert(sizeof(Worker) <= HEADER_BYTES, "the worker's state must fit its header");

static __thread Worker* W;

static inline u64 next_random(Worker* w) {
    u64 z = (w->random += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static inline void push_back(Worker* w, u32 t) { w->ready[(w->ready_head + w->ready_count++) % MAX_THREADS] = u16(t); }
static inline void push_front(Worker* w, u32 t) {
    w->ready_head = (w->ready_head + MAX_THREADS - 1) % MAX_THREADS;
    w->ready[w->ready_head] = u16(t);
    w->ready_count++;
}
static inline Thread* pop(Worker* w) {
    if (w->ready_count == 0) return nullptr;
    Thread* t = &w->thread[w->ready[w->ready_head]];
    w->ready_head = (w->ready_head + 1) % MAX_THREADS;
    w->ready_count--;
    return t;
}

// Leaves the launch from inside a fiber. The other fibers are abandoned: they own nothing.
[[noreturn]] static __attribute__((noinline)) void abort_launch(Worker* w) {
    w->failed = true;
    void* dead;
    fusec_emu_switch(&dead, w->main_sp);
    __builtin_unreachable();
}

#define FUSEC_EMU_FAIL(w, ...)                                                        \
    do {                                                                              \
        snprintf((w)->launch->error, (w)->launch->error_bytes, __VA_ARGS__);          \
        fusec_emu::abort_launch(w);                                                   \
    } while (0)

static const char* state_name(u32 s) {
    return s == AT_BARRIER ? "waits at a block barrier" : s == AT_COLLECTIVE ? "waits at a warp collective" : s == ENDED ? "has ended" : "can run";
}

[[noreturn]] static __attribute__((noinline)) void deadlock(Worker* w) {
    // One thread of each kind of wait says where they parted.
    char text[512];
    int at = 0;
    for (u32 s = AT_BARRIER; s <= ENDED; ++s) {
        u32 count = 0, first = 0;
        for (u32 i = 0; i < w->threads; ++i)
            if (w->thread[i].state == s && count++ == 0) first = i;
        if (count && at < 400)
            at += snprintf(text + at, sizeof text - at, "%s%u thread(s), first thread %u, %s (line %d)", at ? "; " : "", count,
                           first, state_name(s), w->thread[first].line);
    }
    FUSEC_EMU_FAIL(w, "block (%u,%u,%u): divergent barrier, no thread can go on: %s", w->block_idx.x, w->block_idx.y, w->block_idx.z, text);
}

extern "C" __attribute__((visibility("hidden"))) void fusec_emu_fiber();

static inline void switch_to(Worker* w, void** save, Thread* to) {
    if (to->state == NOT_STARTED) {
        to->stack = w->stacks[--w->free_stacks];
        // Tops of stacks are staggered: otherwise all fibers would compete for the same cache sets.
        char* top = w->launch->arena + HEADER_BYTES + (u64(to->stack) + 1) * STACK_BYTES - (to->stack % 61) * 192 - 256;
        void** sp = reinterpret_cast<void**>(reinterpret_cast<fusec_uptr>(top) & ~fusec_uptr(63));
        *--sp = nullptr;  // return address of the fiber: never used, keeps the ABI's alignment
        *--sp = reinterpret_cast<void*>(&fusec_emu_fiber);
        for (int i = 0; i < 6; ++i) *--sp = nullptr;
        to->sp = sp;
        to->state = RUNNABLE;
    }
    w->cur = to;
    fusec_emu_switch(save, to->sp);
}

// Parks the current thread until somebody releases it.
static inline void park(Worker* w, u32 state, int line) {
    Thread* t = w->cur;
    t->state = state;
    t->line = line;
    Thread* next = pop(w);
    if (!next) deadlock(w);
    switch_to(w, &t->sp, next);
}

static inline void release(Worker* w, u32 t) {
    w->thread[t].state = RUNNABLE;
    if (w->run_ahead) push_front(w, t); else push_back(w, t);
}

// All threads of the block meet; the last one runs f(payloads, count) before anyone goes on.
template <class F> static inline void block_collective(void* payload, const char* what, int line, F f) {
    Worker* w = W;
    Thread* t = w->cur;
    if (w->ended)
        FUSEC_EMU_FAIL(w, "block (%u,%u,%u): thread %u reached %s at line %d, but thread %u has already ended", w->block_idx.x,
                       w->block_idx.y, w->block_idx.z, t->index, what, line, w->first_ended);
    if (w->arrived == 0) {
        w->barrier_line = line;
        w->barrier_what = what;
    } else if (w->barrier_line != line) {
        FUSEC_EMU_FAIL(w, "block (%u,%u,%u): divergent barrier: thread %u reached %s at line %d while others wait at %s at line %d",
                       w->block_idx.x, w->block_idx.y, w->block_idx.z, t->index, what, line, w->barrier_what, w->barrier_line);
    }
    w->barrier_payload[t->index] = payload;
    if (++w->arrived < w->threads) {
        park(w, AT_BARRIER, line);
        return;
    }
    w->arrived = 0;
    f(w->barrier_payload, w->threads);
    // A fresh order after each barrier: a rotation of the block's, forward or backward.
    u64 r = next_random(w);
    u32 n = w->threads, at = u32(r >> 32) % n, step = (r & 1) && w->launch->seed ? n - 1 : 1;
    if (!w->launch->seed) at = 0;
    for (u32 i = 0; i < n; ++i, at = (at + step) % n)
        if (w->order[at] != t->index) {
            w->thread[w->order[at]].state = RUNNABLE;
            push_back(w, w->order[at]);
        }
}

// The lanes of `mask` meet; the last one runs f(payloads) before anyone goes on. Absent lanes of the
// mask (a block that is no multiple of 32) have a null payload.
template <class F> static inline void warp_collective(u32 mask, void* payload, const char* what, int line, F f) {
    Worker* w = W;
    Thread* t = w->cur;
    u32 warp = t->index / 32, lane = t->index % 32;
    u32 in_warp = w->threads - warp * 32;
    u32 present = in_warp >= 32 ? 0xffffffffu : (1u << in_warp) - 1;
    if (!(mask >> lane & 1))
        FUSEC_EMU_FAIL(w, "thread %u calls %s at line %d with mask %08x, which leaves it out", t->index, what, line, mask);
    u32 expected = mask & present;
    if (w->warp_ended[warp] & expected)
        FUSEC_EMU_FAIL(w, "thread %u reached %s at line %d, but lane %d of its warp has already ended", t->index, what, line,
                       __builtin_ctz(w->warp_ended[warp] & expected));
    u32 at = __builtin_ctz(mask);
    if (w->warp_pending[warp] && !(w->warp_arrived[warp][at] && w->warp[warp][at].mask == mask)) {
        // Other lanes wait elsewhere: join those with the same mask, or open the next free slot.
        u32 open = 0;
        while (w->warp_arrived[warp][open] && open < 31) ++open;
        for (at = 0; at < 32 && !(w->warp_arrived[warp][at] && w->warp[warp][at].mask == mask); ++at) {}
        if (at == 32) at = open;
    }
    Rendezvous* r = &w->warp[warp][at];
    u32& arrived = w->warp_arrived[warp][at];
    if (arrived == 0) {
        r->mask = mask;
        r->line = line;
        r->what = what;
        w->warp_pending[warp]++;
        if (expected != mask)
            for (int i = 0; i < 32; ++i) r->payload[i] = nullptr;
    } else if (r->mask != mask || r->line != line || r->what != what) {
        FUSEC_EMU_FAIL(w, "divergent warp: thread %u reached %s (mask %08x) at line %d while lanes %08x wait at %s (mask %08x) at line %d",
                       t->index, what, mask, line, arrived, r->what, r->mask, r->line);
    }
    arrived |= 1u << lane;
    r->payload[lane] = payload;
    if (arrived != expected) {
        park(w, AT_COLLECTIVE, line);
        return;
    }
    arrived = 0;
    w->warp_pending[warp]--;
    f(r->payload);
    for (u32 rest = expected & ~(1u << lane); rest; rest &= rest - 1) release(w, warp * 32 + __builtin_ctz(rest));
}

static inline void end_thread(Worker* w, Thread* t) {
    u32 warp = t->index / 32, lane = t->index % 32;
    if (w->arrived)
        FUSEC_EMU_FAIL(w, "block (%u,%u,%u): divergent barrier: thread %u ended while others wait at %s at line %d", w->block_idx.x,
                       w->block_idx.y, w->block_idx.z, t->index, w->barrier_what, w->barrier_line);
    if (w->warp_pending[warp])
        for (int i = 0; i < 32; ++i)
            if (w->warp_arrived[warp][i] && (w->warp[warp][i].mask >> lane & 1))
                FUSEC_EMU_FAIL(w, "divergent warp: thread %u ended while lanes %08x wait at %s at line %d", t->index,
                               w->warp_arrived[warp][i], w->warp[warp][i].what, w->warp[warp][i].line);
    if (w->ended++ == 0) w->first_ended = t->index;
    w->warp_ended[warp] |= 1u << lane;
    t->state = ENDED;
}

// ------------------------------------------------------------------------------------------------
// Calling a kernel with CUDA's `void** args`
// ------------------------------------------------------------------------------------------------

template <int... I> struct Indices {};
template <class... A, int... I> static inline void call(void (*kernel)(A...), void** args, Indices<I...>) {
    kernel(*static_cast<A*>(args[I])...);
}
template <class... A> static inline void invoke(void (*kernel)(A...), void** args) {
    call(kernel, args, Indices<__integer_pack(int(sizeof...(A)))...>{});
}

// One byte per parameter: 'p' pointer, 'l' 8-byte integer, 'i' 4-byte integer, 'f' float, '?' anything else.
template <class T> struct Kind { static constexpr char value = '?'; };
template <class T> struct Kind<T*> { static constexpr char value = 'p'; };
template <> struct Kind<long long> { static constexpr char value = 'l'; };
template <> struct Kind<unsigned long long> { static constexpr char value = 'l'; };
template <> struct Kind<long> { static constexpr char value = 'l'; };
template <> struct Kind<unsigned long> { static constexpr char value = 'l'; };
template <> struct Kind<int> { static constexpr char value = 'i'; };
template <> struct Kind<unsigned int> { static constexpr char value = 'i'; };
template <> struct Kind<float> { static constexpr char value = 'f'; };
template <class... A> static inline const char* signature(void (*)(A...)) {
    static const char kinds[] = {Kind<A>::value..., 0};
    return kinds;
}

// ------------------------------------------------------------------------------------------------
// Shuffles and ballots
// ------------------------------------------------------------------------------------------------

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

static inline void aligned(const void* p, u64 bytes, const char* what) {
    Worker* w = W;
    if (reinterpret_cast<fusec_uptr>(p) % bytes)
        FUSEC_EMU_FAIL(w, "block (%u,%u,%u), thread %u: %s of %llu bytes at a misaligned address", w->block_idx.x, w->block_idx.y,
                       w->block_idx.z, w->cur->index, what, bytes);
}

}  // namespace fusec_emu

#define threadIdx (fusec_emu::W->cur->tid)
#define blockIdx (fusec_emu::W->block_idx)
#define blockDim (fusec_emu::W->block_dim)
#define gridDim (fusec_emu::W->grid_dim)
#define warpSize 32

#define __syncthreads() fusec_emu::block_collective(nullptr, "__syncthreads", __LINE__, [](void**, u32) {})
static inline void __syncwarp(u32 mask = 0xffffffffu, int line = __builtin_LINE()) {
    fusec_emu::warp_collective(mask, nullptr, "__syncwarp", line, [](void**) {});
}
template <class T> static inline T __shfl_sync(u32 m, T v, int a, int w = 32, int line = __builtin_LINE()) {
    return fusec_emu::shuffle(fusec_emu::SHUFFLE_IDX, "__shfl_sync", m, v, a, w, line);
}
template <class T> static inline T __shfl_up_sync(u32 m, T v, int a, int w = 32, int line = __builtin_LINE()) {
    return fusec_emu::shuffle(fusec_emu::SHUFFLE_UP, "__shfl_up_sync", m, v, a, w, line);
}
template <class T> static inline T __shfl_down_sync(u32 m, T v, int a, int w = 32, int line = __builtin_LINE()) {
    return fusec_emu::shuffle(fusec_emu::SHUFFLE_DOWN, "__shfl_down_sync", m, v, a, w, line);
}
template <class T> static inline T __shfl_xor_sync(u32 m, T v, int a, int w = 32, int line = __builtin_LINE()) {
    return fusec_emu::shuffle(fusec_emu::SHUFFLE_XOR, "__shfl_xor_sync", m, v, a, w, line);
}
static inline u32 __ballot_sync(u32 m, bool v, int line = __builtin_LINE()) { return fusec_emu::ballot(m, v, line); }
static inline int __any_sync(u32 m, bool v, int line = __builtin_LINE()) { return fusec_emu::ballot(m, v, line) != 0; }
static inline int __all_sync(u32 m, bool v, int line = __builtin_LINE()) { return fusec_emu::ballot(m, !v, line) == 0; }

// Atomics: blocks run on several threads of the host.
template <class T> static inline T fusec_emu_add(T* p, T v) {
    T old;
    __atomic_load(p, &old, __ATOMIC_RELAXED);
    for (;;) {
        T next = old + v;
        if (__atomic_compare_exchange(p, &old, &next, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) return old;
    }
}
static inline float atomicAdd(float* p, float v) { return fusec_emu_add(p, v); }
static inline double atomicAdd(double* p, double v) { return fusec_emu_add(p, v); }
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

// ------------------------------------------------------------------------------------------------
// CPU bodies of the primitives prelude, under the names of crates/codegen/templates/prelude
// ------------------------------------------------------------------------------------------------

#define FUSEC_INF __builtin_huge_valf()
#define FUSEC_NAN __builtin_nanf("")
#define FUSEC_DYNAMIC_SMEM(name) char* const name = fusec_emu::W->launch->smem

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

namespace fusec_emu {
constexpr int vec_alignment(int bytes) { return bytes == 4 || bytes == 8 || bytes == 16 ? bytes : bytes == 32 || bytes == 64 ? 16 : 0; }
}
template <class T, int V> static inline void load_vec(const T* p, float (&out)[V]) {
    constexpr int alignment = fusec_emu::vec_alignment(V * int(sizeof(T)));
    if (alignment) fusec_emu::aligned(p, alignment, "load_vec");
    for (int i = 0; i < V; ++i) out[i] = to_f32(p[i]);
}
template <class T, int V> static inline void load_vec_stream(const T* p, float (&out)[V]) { load_vec(p, out); }
template <class T, int V> static inline void store_vec(T* p, const float (&x)[V]) {
    constexpr int alignment = fusec_emu::vec_alignment(V * int(sizeof(T)));
    if (alignment) fusec_emu::aligned(p, alignment, "store_vec");
    for (int i = 0; i < V; ++i) p[i] = from_f32<T>(x[i]);
}
template <class T> static inline float load_f32(const T* p) { return to_f32(*p); }
template <class T> static inline void store_f32(T* p, float x) { *p = from_f32<T>(x); }

static inline float fexp(float x) { return expf(x); }
static inline float fexp2(float x) { return exp2f(x); }
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
static inline float fpow(float x, float y) { return powf(x, y); }
static inline float fsquare(float x) { return x * x; }
static inline float fabs32(float x) { return fabsf(x); }
static inline float fmin32(float x, float y) { return (x < y || x != x) ? x : y; }
static inline float fmax32(float x, float y) { return (x > y || x != x) ? x : y; }
static inline float frelu(float x) { return fmax32(x, 0.0f); }
static inline float fsigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
static inline float fsilu(float x) { return x / (1.0f + expf(-x)); }
static inline float fgelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }
static inline float fsoftplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }
static inline float flogsigmoid(float x) { return fminf(x, 0.0f) - log1pf(expf(-fabsf(x))); }

// Warp and block reductions meet once and then follow the order of the GPU bodies: butterfly inside a
// warp, warps in turn.
namespace fusec_emu {
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
}  // namespace fusec_emu

template <int W> static inline float lane_sum(float v, int line = __builtin_LINE()) {
    return fusec_emu::lane_reduce<fusec_emu::Sum, W>("lane_sum", v, line);
}
template <int STRIDE> static inline float lane_sum_strided(float v, int line = __builtin_LINE()) {
    return fusec_emu::lane_reduce<fusec_emu::Sum, STRIDE, true>("lane_sum_strided", v, line);
}
template <int W> static inline float lane_max(float v, int line = __builtin_LINE()) {
    return fusec_emu::lane_reduce<fusec_emu::Max, W>("lane_max", v, line);
}
static inline float warp_sum(float v, int line = __builtin_LINE()) { return lane_sum<32>(v, line); }
static inline float warp_max(float v, int line = __builtin_LINE()) { return lane_max<32>(v, line); }
template <int NT> static inline float block_sum(float v, float* scratch, int line = __builtin_LINE()) {
    float own[1] = {v};
    fusec_emu::block_reduce<fusec_emu::Sum, NT>("block_sum", own, scratch, line);
    return own[0];
}
template <int NT> static inline float block_max(float v, float* scratch, int line = __builtin_LINE()) {
    float own[1] = {v};
    fusec_emu::block_reduce<fusec_emu::Max, NT>("block_max", own, scratch, line);
    return own[0];
}
template <int NT, int V> static inline void block_sum_vec(float (&v)[V], float* scratch, int line = __builtin_LINE()) {
    fusec_emu::block_reduce<fusec_emu::Sum, NT>("block_sum_vec", v, scratch, line);
}

// Matrix primitives. The product adds in the order k = 0, 1, ... in f32 to the accumulator; the tensor
// core adds in groups and truncates, so results agree to rounding, not to the bit.
namespace fusec_emu {
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
}  // namespace fusec_emu

static inline u32 smem_u32(const void* p) { return u32(static_cast<const char*>(p) - fusec_emu::W->launch->smem); }
static inline void ldmatrix_x4(u32 (&r)[4], const void* row, int line = __builtin_LINE()) { fusec_emu::ldmatrix<4, false>(r, row, "ldmatrix_x4", line); }
static inline void ldmatrix_x2(u32 (&r)[2], const void* row, int line = __builtin_LINE()) { fusec_emu::ldmatrix<2, false>(r, row, "ldmatrix_x2", line); }
static inline void ldmatrix_x4_trans(u32 (&r)[4], const void* row, int line = __builtin_LINE()) { fusec_emu::ldmatrix<4, true>(r, row, "ldmatrix_x4_trans", line); }
static inline void ldmatrix_x2_trans(u32 (&r)[2], const void* row, int line = __builtin_LINE()) { fusec_emu::ldmatrix<2, true>(r, row, "ldmatrix_x2_trans", line); }
static inline void mma_m16n8k16_bf16(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2], int line = __builtin_LINE()) {
    fusec_emu::mma<bf16_t, 16>(c, a, b, "mma_m16n8k16_bf16", line);
}
static inline void mma_m16n8k16_f16(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2], int line = __builtin_LINE()) {
    fusec_emu::mma<f16_t, 16>(c, a, b, "mma_m16n8k16_f16", line);
}
static inline void mma_m16n8k8_f16(float (&c)[4], const u32 (&a)[2], const u32 (&b)[1], int line = __builtin_LINE()) {
    fusec_emu::mma<f16_t, 8>(c, a, b, "mma_m16n8k8_f16", line);
}
template <class T> static inline void mma_k16(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2], int line = __builtin_LINE()) {
    fusec_emu::mma<T, 16>(c, a, b, "mma_k16", line);
}

// Asynchronous copies. The destination is NaN from the issue to the wait: reading it early shows.
namespace fusec_emu {
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
}  // namespace fusec_emu
static inline void cp_async_16(void* dst, const void* src, bool pred) { fusec_emu::cp_async(dst, src, 16, pred, "cp_async_16"); }
static inline void cp_async_4(void* dst, const void* src, bool pred) { fusec_emu::cp_async(dst, src, 4, pred, "cp_async_4"); }
static inline void cp_async_commit() { fusec_emu::W->cur->groups++; }
template <int N> static inline void cp_async_wait() { fusec_emu::cp_async_land(N); }

// Launches do not overlap here.
static inline void grid_dependency_wait() {}
static inline void grid_dependency_launch() {}
