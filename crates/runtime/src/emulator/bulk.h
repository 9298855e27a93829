// CPU bodies of the primitives of sm_90a: barriers with phases, copies by tensor maps, products of
// warpgroups. Names and meaning are those of crates/codegen/templates/prelude.

typedef emulator::TensorMap tensor_map;

namespace emulator {

// Bytes that a barrier waits for, beside arrivals; a barrier is known from its first announcement on.
static inline i32& announced(Worker* w, const Mbarrier* barrier) {
    for (u32 i = 0; i < MAX_TENSOR_COPIES; ++i) {
        if (!w->announced_to[i]) {
            w->announced_to[i] = barrier;
            w->announced[i] = 0;
        }
        if (w->announced_to[i] == barrier) return w->announced[i];
    }
    FUSEC_EMU_FAIL(w, "block (%u,%u,%u) has more than %u barriers that copies arrive at", w->block_idx.x, w->block_idx.y, w->block_idx.z, MAX_TENSOR_COPIES);
}

static inline Mbarrier* made(u64* word, const char* what) {
    aligned(word, 8, what);
    Mbarrier* barrier = reinterpret_cast<Mbarrier*>(word);
    if (barrier->expected == 0 || barrier->parity > 1)
        FUSEC_EMU_FAIL(W, "thread %u: %s of a barrier that was not made", W->cur->index, what);
    return barrier;
}

// Ends the phase if nothing is missing, and lets those go on that wait for it.
static inline void end_phase(Worker* w, Mbarrier* barrier) {
    if (barrier->pending || announced(w, barrier)) return;
    barrier->pending = barrier->expected;
    barrier->parity ^= 1;
    for (u32 i = 0; i < w->threads; ++i)
        if (w->thread[i].state == AT_PHASE && w->thread[i].phase_of == barrier) release(w, i);
}

static inline void arrive(u64* word, i32 bytes, const char* what) {
    Worker* w = W;
    Mbarrier* barrier = made(word, what);
    if (barrier->pending == 0) FUSEC_EMU_FAIL(w, "thread %u: %s beyond the arrivals that its barrier was made for", w->cur->index, what);
    announced(w, barrier) += bytes;
    barrier->pending--;
    end_phase(w, barrier);
}

// 16-byte pieces of a 128-byte line are swizzled by the line's place among eight.
static inline u32 swizzled(u32 at) { return at ^ ((at >> 7 & 7) << 4); }

// Memory that no kernel has written yet, and no caller, is filled with these bits.
static inline bool never_written(const char* element, u32 bytes) {
    for (u32 i = 0; i < bytes; ++i)
        if (u8(element[i]) != 0xff) return false;
    return true;
}

static bool land_tensor_copy(Worker* w) {
    if (w->tensor_copies == 0) return false;
    const u32 at = w->launch->seed ? u32(next_random(w) >> 32) % w->tensor_copies : 0;
    const TensorCopy copy = w->tensor_copy[at];
    for (u32 i = at + 1; i < w->tensor_copies; ++i) w->tensor_copy[i - 1] = w->tensor_copy[i];
    w->tensor_copies--;
    const TensorMap& map = copy.map;
    i64 first[5] = {};
    first[0] = copy.x;
    first[map.axes - 1] = copy.y;
    const u32 base = u32(copy.to - w->launch->smem), lines = copy.bytes / 128, per_line = 128 / map.element_bytes;
    for (u32 line = 0; line < lines; ++line) {
        u64 from = map.address;
        bool inside = true;
        u32 rest = line;
        for (u32 axis = 1; axis < map.axes; ++axis) {
            const i64 place = first[axis] + rest % map.span[axis];
            rest /= map.span[axis];
            inside &= place >= 0 && u64(place) < map.extent[axis];
            from += u64(place) * map.stride_bytes[axis];
        }
        for (u32 i = 0; i < per_line; ++i) {
            const i64 place = first[0] + i;
            char* const to = w->launch->smem + swizzled(base + line * 128 + i * map.element_bytes);
            if (!inside || place < 0 || u64(place) >= map.extent[0]) {
                memset(to, 0, map.element_bytes);
                continue;
            }
            memcpy(to, reinterpret_cast<const char*>(from) + place * map.element_bytes, map.element_bytes);
            // Products hide it: what is not a number meets zeros, or columns that nobody looks at.
            if (never_written(to, map.element_bytes))
                FUSEC_EMU_FAIL(w, "block (%u,%u,%u): a copy at (%d, %d) brings an element that nobody wrote, %d along the line and %u lines on",
                               w->block_idx.x, w->block_idx.y, w->block_idx.z, copy.x, copy.y, int(i), line);
        }
    }
    announced(w, copy.barrier) -= i32(copy.bytes);
    end_phase(w, copy.barrier);
    return true;
}

static inline void tensor_load(void* to, const TensorMap& map, u64* barrier, int x, int y, u32 axes, const char* what) {
    Worker* w = W;
    u32 bytes = map.element_bytes;
    for (u32 axis = 0; axis < map.axes && axis < 5; ++axis) bytes *= map.span[axis];
    const u64 at = u64(static_cast<char*>(to) - w->launch->smem);
    const char* wrong = nullptr;
    if (map.axes != axes) wrong = "a map with another number of axes";
    else if (map.span[0] * map.element_bytes != 128) wrong = "a box whose lines are not of 128 bytes";
    else if (map.address % 16) wrong = "a tensor that is not 16-byte aligned";
    else if (at % 1024) wrong = "a destination that is not 1,024-byte aligned";
    else if (at + bytes > w->launch->smem_bytes) wrong = "a destination beyond shared memory";
    else if (w->tensor_copies == MAX_TENSOR_COPIES) wrong = "more copies under way than the emulator keeps";
    for (u32 axis = 1; axis < axes && !wrong; ++axis)
        if (map.stride_bytes[axis] % 16 || map.span[axis] == 0 || map.span[axis] > 256) wrong = "an axis that no map has";
    if (wrong) FUSEC_EMU_FAIL(w, "thread %u: %s with %s", w->cur->index, what, wrong);
    memset(to, 0xff, bytes);
    w->tensor_copy[w->tensor_copies++] = {static_cast<char*>(to), map, made(barrier, what), x, y, bytes};
}

static inline u32 start_of(u64 tile) { return u32(tile & 0x3fff) << 4; }

template <class T> static inline float operand_element(u32 at) {
    u16 bits;
    memcpy(&bits, W->launch->smem + swizzled(at), 2);
    return to_f32(T{bits});
}

// A thread's part of d[64, N] += a[64, 16] b[16, N]: two rows, and two of each eight columns.
template <class T, int N, bool ACROSS_K> static void multiply_rows(float* d, const float (&am)[2][16], u64 b) {
    const u32 lane = W->cur->index % 32;
    const u32 apart = u32(b >> 16 & 0x3fff) << 4;
    for (int j = 0; j < N / 8; ++j)
        for (int v = 0; v < 2; ++v) {
            const u32 n = 8 * j + lane % 4 * 2 + v;
            float column[16];
            for (u32 k = 0; k < 16; ++k)
                column[k] = operand_element<T>(start_of(b) + (ACROSS_K ? n / 64 * apart + n % 64 * 2 + k / 8 * 1024 + k % 8 * 128 : n / 8 * 1024 + n % 8 * 128 + k * 2));
            for (int half = 0; half < 2; ++half)
                for (int k = 0; k < 16; ++k) d[4 * j + 2 * half + v] += am[half][k] * column[k];
        }
}

template <class T, int N, bool ACROSS_K> static void multiply(float* d, u64 a, u64 b) {
    const u32 lane = W->cur->index % 32, warp = W->cur->index / 32 % 4;
    float am[2][16];
    for (int half = 0; half < 2; ++half)
        for (int k = 0; k < 16; ++k) am[half][k] = operand_element<T>(start_of(a) + (2 * warp + half) * 1024 + lane / 4 * 128 + k * 2);
    multiply_rows<T, N, ACROSS_K>(d, am, b);
}

template <class T, int N, bool ACROSS_K> static void multiply_first(float* d, u64 a, u64 b) {
    for (int i = 0; i < N / 2; ++i) d[i] = 0.0f;
    multiply<T, N, ACROSS_K>(d, a, b);
}

template <class T, int N, bool ACROSS_K> static void multiply_held(float* d, u64 a, u64 b) {
    const Held* held = reinterpret_cast<const Held*>(a);
    float am[2][16];
    for (int half = 0; half < 2; ++half)
        for (int k = 0; k < 16; ++k) am[half][k] = to_f32(T{held->row[half][k]});
    multiply_rows<T, N, ACROSS_K>(d, am, b);
}

template <class T, int N, bool ACROSS_K, bool FIRST = false> static inline void wgmma(float* d, u64 a, u64 b, const char* what, int line) {
    Worker* w = W;
    Thread* t = w->cur;
    // All threads of a warp at the same product.
    warp_collective(0xffffffffu, nullptr, what, line, [](void**) {});
    if (t->products == MAX_PRODUCTS)
        FUSEC_EMU_FAIL(w, "thread %u has %u products under way, more than the emulator keeps", t->index, MAX_PRODUCTS);
    w->product[t->index][t->products++] = {FIRST ? multiply_first<T, N, ACROSS_K> : multiply<T, N, ACROSS_K>, d, a, b, t->product_groups, false};
}

// A row of the first operand lies in the registers of four lanes.
template <class T, int N, bool ACROSS_K> static inline void wgmma_held(float* d, const u32 (&a)[4], u64 b, const char* what, int line) {
    Worker* w = W;
    Thread* t = w->cur;
    Held* own = &w->held[t->index][t->held++ % MAX_HELD];
    struct Lane { const u32* a; Held* held; } lane{a, own};
    warp_collective(0xffffffffu, &lane, what, line, [](void** lanes) {
        for (int to = 0; to < 32; ++to)
            for (int from = to / 4 * 4; from < to / 4 * 4 + 4; ++from)
                for (int word = 0; word < 4; ++word)
                    for (int side = 0; side < 2; ++side) {
                        const u32 bits = static_cast<Lane*>(lanes[from])->a[word] >> (16 * side);
                        static_cast<Lane*>(lanes[to])->held->row[word % 2][word / 2 * 8 + from % 4 * 2 + side] = u16(bits);
                    }
    });
    u32 under_way = 0;
    for (u32 i = 0; i < t->products; ++i) under_way += w->product[t->index][i].held;
    if (t->products == MAX_PRODUCTS || under_way == MAX_HELD)
        FUSEC_EMU_FAIL(w, "thread %u has %u products under way, more than the emulator keeps", t->index, t->products);
    w->product[t->index][t->products++] = {multiply_held<T, N, ACROSS_K>, d, reinterpret_cast<u64>(own), b, t->product_groups, true};
}

static inline void finish_products(u32 under_way) {
    Worker* w = W;
    Thread* t = w->cur;
    Product* products = w->product[t->index];
    u32 kept = 0;
    for (u32 i = 0; i < t->products; ++i) {
        if (t->product_groups - products[i].group > under_way) products[i].multiply(products[i].d, products[i].a, products[i].b);
        else products[kept++] = products[i];
    }
    t->products = kept;
}

}  // namespace emulator

static inline void mbarrier_init(u64* word, u32 arrivals) {
    emulator::aligned(word, 8, "mbarrier_init");
    *reinterpret_cast<emulator::Mbarrier*>(word) = {u16(arrivals), u16(arrivals), 0};
}
static inline void mbarrier_init_fence() {}
static inline void mbarrier_arrive_expecting(u64* word, u32 bytes) { emulator::arrive(word, i32(bytes), "mbarrier_arrive_expecting"); }
static inline void mbarrier_arrive(u64* word) { emulator::arrive(word, 0, "mbarrier_arrive"); }
static inline void mbarrier_wait(u64* word, u32 parity, int line = __builtin_LINE()) {
    emulator::Worker* w = emulator::W;
    emulator::Mbarrier* barrier = emulator::made(word, "mbarrier_wait");
    while (barrier->parity == parity) {
        w->cur->phase_of = barrier;
        emulator::park(w, emulator::AT_PHASE, line);
    }
}
static inline void tensor_load_2d(void* to, const tensor_map& map, u64* barrier, int x, int y) { emulator::tensor_load(to, map, barrier, x, y, 2, "tensor_load_2d"); }
static inline void tensor_load_5d(void* to, const tensor_map& map, u64* barrier, int x, int y) { emulator::tensor_load(to, map, barrier, x, y, 5, "tensor_load_5d"); }
template <class T, int V> static inline void store_vec_global(T* p, const float (&x)[V]) { store_vec<T, V>(p, x); }

static inline void warpgroup_fence() {}
static inline int untold(int x) { return x; }
static inline void shared_fence() {}
static inline void warpgroup_commit() { emulator::W->cur->product_groups++; }
template <int N> static inline void warpgroup_wait() { emulator::finish_products(N); }
// Registers are not counted here.
template <int N> static inline void registers_release() {}
template <int N> static inline void registers_claim() {}
static inline u64 operand_tile(const void* first, u32 apart) {
    return u64((smem_u32(first) & 0x3ffffu) >> 4) | u64(apart >> 4) << 16 | u64(1024 >> 4) << 32 | u64(1) << 62;
}
template <class T, bool ACROSS_K> static inline void wgmma_n64(float (&d)[32], u64 a, u64 b, int line = __builtin_LINE()) { emulator::wgmma<T, 64, ACROSS_K>(d, a, b, "wgmma_n64", line); }
template <class T, bool ACROSS_K> static inline void wgmma_n128(float (&d)[64], u64 a, u64 b, int line = __builtin_LINE()) { emulator::wgmma<T, 128, ACROSS_K>(d, a, b, "wgmma_n128", line); }
template <class T, bool ACROSS_K> static inline void wgmma_n192(float (&d)[96], u64 a, u64 b, int line = __builtin_LINE()) { emulator::wgmma<T, 192, ACROSS_K>(d, a, b, "wgmma_n192", line); }
template <class T, bool ACROSS_K> static inline void wgmma_n256(float (&d)[128], u64 a, u64 b, int line = __builtin_LINE()) { emulator::wgmma<T, 256, ACROSS_K>(d, a, b, "wgmma_n256", line); }
template <class T, bool ACROSS_K> static inline void wgmma_n32_held(float (&d)[16], const u32 (&a)[4], u64 b, int line = __builtin_LINE()) { emulator::wgmma_held<T, 32, ACROSS_K>(d, a, b, "wgmma_n32_held", line); }
template <class T, bool ACROSS_K> static inline void wgmma_n64_held(float (&d)[32], const u32 (&a)[4], u64 b, int line = __builtin_LINE()) { emulator::wgmma_held<T, 64, ACROSS_K>(d, a, b, "wgmma_n64_held", line); }
template <class T, bool ACROSS_K> static inline void wgmma_n128_held(float (&d)[64], const u32 (&a)[4], u64 b, int line = __builtin_LINE()) { emulator::wgmma_held<T, 128, ACROSS_K>(d, a, b, "wgmma_n128_held", line); }
template <class T, bool ACROSS_K> static inline void wgmma_n192_held(float (&d)[96], const u32 (&a)[4], u64 b, int line = __builtin_LINE()) { emulator::wgmma_held<T, 192, ACROSS_K>(d, a, b, "wgmma_n192_held", line); }
template <class T, bool ACROSS_K> static inline void wgmma_n256_held(float (&d)[128], const u32 (&a)[4], u64 b, int line = __builtin_LINE()) { emulator::wgmma_held<T, 256, ACROSS_K>(d, a, b, "wgmma_n256_held", line); }
template <class T, bool ACROSS_K> static inline void wgmma_n64_first(float (&d)[32], u64 a, u64 b, int line = __builtin_LINE()) { emulator::wgmma<T, 64, ACROSS_K, true>(d, a, b, "wgmma_n64_first", line); }
