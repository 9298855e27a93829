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
//
// Copies by tensor maps leave NaN where they go and land only when no thread can go on without one;
// products of a warpgroup read their operands when they are waited for. What is used or overwritten too
// early shows as a wrong number.
//
// Barriers of the grid: blocks do not wait for each other, so the whole grid runs once for each phase,
// and does in each run what belongs to that phase only. A block counts the barriers that it meets.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char i8;
typedef short i16;
typedef int i32;
typedef long long i64;
typedef unsigned long emulator_uptr;
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
//
// What does not depend on a type is a function of its own, which is never inlined: a kernel meets its
// threads at dozens of places, and most of the time of building one would go into copies.

// emulator_switch(save, load): pushes the callee-saved registers, stores the stack pointer to *save,
// takes `load` as the stack pointer and returns into that fiber.
asm(R"(
.text
.p2align 4
.type emulator_switch, @function
emulator_switch:
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
.size emulator_switch, .-emulator_switch
)");
extern "C" __attribute__((visibility("hidden"))) void emulator_switch(void** save, void* load) asm("emulator_switch");

namespace emulator {

constexpr u32 MAX_THREADS = 1024;
constexpr u32 MAX_COPIES = 256;          // cp.async copies of one thread in flight
constexpr u64 STACK_BYTES = 256 * 1024;
constexpr u64 HEADER_BYTES = 10 << 20;
constexpr u32 MAX_PRODUCTS = 32;         // products of a warpgroup under way, of one thread
constexpr u32 MAX_HELD = 16;             // the same whose first operand is in registers
constexpr u32 MAX_TENSOR_COPIES = 64;    // copies by tensor maps under way, of one block
constexpr u32 SMEM_GUARD = 256;          // bytes of known pattern behind the dynamic shared memory

enum State : u32 { NOT_STARTED, RUNNABLE, AT_BARRIER, AT_COLLECTIVE, AT_PHASE, ENDED };

struct Copy { void* dst; const void* src; u32 bytes; u32 group; };

// A product of a warpgroup, from its start to the wait for it. `a`: a tile in shared memory, or the address of
// the Held.
struct Product { void (*multiply)(float* d, u64 a, u64 b); float* d; u64 a, b; u32 group; bool held; };

// The first operand of a product where it is in registers: a thread's two rows of 16 elements.
struct Held { u16 row[2][16]; };

// A barrier in shared memory, as mbarrier_init makes it: 8 bytes.
struct Mbarrier { u16 expected; u16 pending; u32 parity; };

// A tensor map: what the driver encodes for a GPU, in the clear. Field order and types must match the
// Rust side's `TensorMapArg`.
struct __align__(64) TensorMap { u64 address; u32 element_bytes; u32 axes; u64 extent[5]; u64 stride_bytes[5]; u32 span[5]; };

// A copy by a tensor map, from its start until no thread can go on without it.
struct TensorCopy { char* to; TensorMap map; Mbarrier* barrier; int x, y; u32 bytes; };

struct Thread {
    void* sp;
    uint3 tid;
    u32 index;
    u32 stack;
    u32 state;
    int line;         // source line of the barrier or collective it waits at
    u32 copies;       // pending cp.async copies
    u32 groups;       // cp.async groups committed so far
    u32 products;         // pending products of its warpgroup
    u32 product_groups;   // groups of products committed so far
    u32 held;             // products so far whose first operand is in registers
    const Mbarrier* phase_of;   // the barrier whose phase it waits for
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
    u32 phase;            // of the kernel, that this run is for
    u32 grid_barriers;    // that the block met
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
    u32 tensor_copies;
    i32 announced[MAX_TENSOR_COPIES];   // bytes that barriers still wait for
    const Mbarrier* announced_to[MAX_TENSOR_COPIES];
    TensorCopy tensor_copy[MAX_TENSOR_COPIES];
    Product product[MAX_THREADS][MAX_PRODUCTS];
    Held held[MAX_THREADS][MAX_HELD];
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
    emulator_switch(&dead, w->main_sp);
    __builtin_unreachable();
}

#define FUSEC_EMU_FAIL(w, ...)                                                        \
    do {                                                                              \
        snprintf((w)->launch->error, (w)->launch->error_bytes, __VA_ARGS__);          \
        emulator::abort_launch(w);                                                   \
    } while (0)

static const char* state_name(u32 s) {
    return s == AT_BARRIER ? "waits at a block barrier" : s == AT_COLLECTIVE ? "waits at a warp collective" : s == AT_PHASE ? "waits for a phase of a barrier" : s == ENDED ? "has ended" : "can run";
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

extern "C" __attribute__((visibility("hidden"))) void emulator_fiber();

static inline void switch_to(Worker* w, void** save, Thread* to) {
    if (to->state == NOT_STARTED) {
        to->stack = w->stacks[--w->free_stacks];
        // Tops of stacks are staggered: otherwise all fibers would compete for the same cache sets.
        char* top = w->launch->arena + HEADER_BYTES + (u64(to->stack) + 1) * STACK_BYTES - (to->stack % 61) * 192 - 256;
        void** sp = reinterpret_cast<void**>(reinterpret_cast<emulator_uptr>(top) & ~emulator_uptr(63));
        *--sp = nullptr;  // return address of the fiber: never used, keeps the ABI's alignment
        *--sp = reinterpret_cast<void*>(&emulator_fiber);
        for (int i = 0; i < 6; ++i) *--sp = nullptr;
        to->sp = sp;
        to->state = RUNNABLE;
    }
    w->cur = to;
    emulator_switch(save, to->sp);
}

// Lets one copy by a tensor map land; false when none is under way. Defined with the primitives.
static bool land_tensor_copy(Worker* w);

// The next thread that can run: copies land only when no other can.
static inline Thread* next_ready(Worker* w) {
    Thread* next = pop(w);
    while (!next && land_tensor_copy(w)) next = pop(w);
    return next;
}

// Parks the current thread until somebody releases it.
static __attribute__((noinline)) void park(Worker* w, u32 state, int line) {
    Thread* t = w->cur;
    t->state = state;
    t->line = line;
    Thread* next = next_ready(w);
    if (!next) deadlock(w);
    if (next != t) switch_to(w, &t->sp, next);
}

static inline void release(Worker* w, u32 t) {
    w->thread[t].state = RUNNABLE;
    if (w->run_ahead) push_front(w, t); else push_back(w, t);
}

// All threads of the block meet: true in the last one, once all are there; false in the others, once the
// last one has let them go on.
static __attribute__((noinline)) bool meet_in_block(Worker* w, void* payload, const char* what, int line) {
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
        return false;
    }
    w->arrived = 0;
    return true;
}

// Called by the last thread of the block that meets the others.
static __attribute__((noinline)) void leave_block_meeting(Worker* w) {
    Thread* t = w->cur;
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

// All threads of the block meet; the last one runs f(payloads, count) before anyone goes on.
template <class F> static inline void block_collective(void* payload, const char* what, int line, F f) {
    Worker* w = W;
    if (!meet_in_block(w, payload, what, line)) return;
    f(w->barrier_payload, w->threads);
    leave_block_meeting(w);
}

// The lanes of `mask` meet: their rendezvous in the last one, once all are there; null in the others, once
// the last one has let them go on.
static __attribute__((noinline)) Rendezvous* meet_in_warp(Worker* w, u32 mask, void* payload, const char* what, int line) {
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
        return nullptr;
    }
    arrived = 0;
    w->warp_pending[warp]--;
    return r;
}

// Called by the last lane of `mask` that meets the others.
static __attribute__((noinline)) void leave_warp_meeting(Worker* w, u32 mask) {
    u32 own = w->cur->index, first = own / 32 * 32, in_warp = w->threads - first;
    u32 present = in_warp >= 32 ? 0xffffffffu : (1u << in_warp) - 1;
    for (u32 rest = mask & present & ~(1u << own % 32); rest; rest &= rest - 1) release(w, first + __builtin_ctz(rest));
}

// The lanes of `mask` meet; the last one runs f(payloads) before anyone goes on. Absent lanes of the
// mask (a block that is no multiple of 32) have a null payload.
template <class F> static inline void warp_collective(u32 mask, void* payload, const char* what, int line, F f) {
    Worker* w = W;
    Rendezvous* r = meet_in_warp(w, mask, payload, what, line);
    if (!r) return;
    f(r->payload);
    leave_warp_meeting(w, mask);
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

// One byte per parameter: 'p' pointer, 'l' 8-byte integer, 'i' 4-byte integer, 'f' float, 't' tensor map, '?' anything else.
template <class T> struct Kind { static constexpr char value = '?'; };
template <class T> struct Kind<T*> { static constexpr char value = 'p'; };
template <> struct Kind<long long> { static constexpr char value = 'l'; };
template <> struct Kind<unsigned long long> { static constexpr char value = 'l'; };
template <> struct Kind<long> { static constexpr char value = 'l'; };
template <> struct Kind<unsigned long> { static constexpr char value = 'l'; };
template <> struct Kind<int> { static constexpr char value = 'i'; };
template <> struct Kind<unsigned int> { static constexpr char value = 'i'; };
template <> struct Kind<float> { static constexpr char value = 'f'; };
template <> struct Kind<TensorMap> { static constexpr char value = 't'; };
template <> struct Kind<const TensorMap> { static constexpr char value = 't'; };
template <class... A> static inline const char* signature(void (*)(A...)) {
    static const char kinds[] = {Kind<A>::value..., 0};
    return kinds;
}

}  // namespace emulator
