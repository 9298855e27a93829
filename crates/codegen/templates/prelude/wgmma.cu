//@ warpgroup_fence arch 90a
// Orders what this warp wrote to accumulators and shared memory before the products that it starts next.
// All threads of a warpgroup (four warps, the first a multiple of four) execute it together, as they
// do everything named warpgroup_ or wgmma_.
__device__ __forceinline__ void warpgroup_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

//@ warpgroup_commit arch 90a
// Closes the current group of products.
__device__ __forceinline__ void warpgroup_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

//@ warpgroup_wait arch 90a
// Waits until at most N groups of products are still under way.
template <int N> __device__ __forceinline__ void warpgroup_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(N) : "memory"); }

//@ untold arch 90a
// x, of which the compiler knows nothing: a loop up to it stays one.
__device__ __forceinline__ int untold(int x) {
    asm volatile("" : "+r"(x));
    return x;
}

//@ shared_fence arch 90a
// Shows what this thread has written to shared memory to products of warpgroups that start after a barrier
// behind it. What copies by tensor maps bring needs none.
__device__ __forceinline__ void shared_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

//@ registers_release arch 90a
// Gives registers of each thread of the warpgroup back, so that it keeps N (a multiple of 8).
template <int N> __device__ __forceinline__ void registers_release() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(N)); }

//@ registers_claim arch 90a
// Waits until each thread of the warpgroup can have N registers (a multiple of 8).
template <int N> __device__ __forceinline__ void registers_claim() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(N)); }

//@ operand_tile needs smem_u32, u64 arch 90a
// Describes a tile of 16-bit elements in shared memory to the tensor cores, as tensor_load puts it there:
// lines of 128 bytes, their 16-byte pieces swizzled by the line's place among eight. `first`: 16-byte
// aligned, inside a tile that begins at a multiple of 1,024 bytes. `apart`: bytes from one column of
// lines to the next, for tiles whose lines run across the sum; any other has one column.
__device__ __forceinline__ u64 operand_tile(const void* first, u32 apart) {
    return u64((smem_u32(first) & 0x3ffffu) >> 4) | u64(apart >> 4) << 16 | u64(1024 >> 4) << 32 | u64(1) << 62;
}

//@ FUSEC_WGMMA, wgmma_takes_f16, FUSEC_ACC_8, FUSEC_ACC_32 needs f16_t
// One product on the tensor cores by its shape and the text of its operands. KEEP: "1" adds to the accumulators.
template <typename T> constexpr bool wgmma_takes_f16 = false;
template <> constexpr bool wgmma_takes_f16<f16_t> = true;
#define FUSEC_WGMMA(SHAPE, TYPE, ACC, A, B, KEEP, ACROSS, ...) \
    asm volatile("wgmma.mma_async.sync.aligned." SHAPE ".f32." TYPE "." TYPE " {" ACC "}, " A ", " B ", " KEEP ", 1, 1, 0, " ACROSS ";" \
                 : __VA_ARGS__ : "l"(a), "l"(b), "n"(int(ACROSS_K)) : "memory")
#define FUSEC_ACC_8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define FUSEC_ACC_32(i) FUSEC_ACC_8(i), FUSEC_ACC_8(i + 8), FUSEC_ACC_8(i + 16), FUSEC_ACC_8(i + 24)

//@ FUSEC_D_64
// The 32 accumulators of a thread as the text of an instruction.
#define FUSEC_D_64 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"

//@ wgmma_n64 needs FUSEC_WGMMA, FUSEC_D_64, u64 arch 90a
// d[64, 64] += a[64, 16] b[16, 64] for a warpgroup, T in, f32 accumulators; under way until
// warpgroup_wait, from warpgroup_commit on. a's lines run along the sum; b's as well, or, with ACROSS_K, along
// the columns. Warp w has rows 16w ..; with g = lane/4, t = lane%4, j = 0 .. 7: d[4j] d[4j+1] (g, 8j+2t ..),
// d[4j+2] d[4j+3] (g+8, 8j+2t ..).
#define FUSEC_WGMMA_N64(TYPE) FUSEC_WGMMA("m64n64k16", TYPE, FUSEC_D_64, "%32", "%33", "1", "%34", FUSEC_ACC_32(0))
template <typename T, bool ACROSS_K> __device__ __forceinline__ void wgmma_n64(float (&d)[32], u64 a, u64 b) {
    if constexpr (wgmma_takes_f16<T>) FUSEC_WGMMA_N64("f16"); else FUSEC_WGMMA_N64("bf16");
}

//@ wgmma_n64_first needs FUSEC_WGMMA, FUSEC_D_64, u64 arch 90a
// As wgmma_n64, d = a b: what is in d is not read.
#define FUSEC_WGMMA_N64_FIRST(TYPE) FUSEC_WGMMA("m64n64k16", TYPE, FUSEC_D_64, "%32", "%33", "0", "%34", FUSEC_ACC_32(0))
template <typename T, bool ACROSS_K> __device__ __forceinline__ void wgmma_n64_first(float (&d)[32], u64 a, u64 b) {
    if constexpr (wgmma_takes_f16<T>) FUSEC_WGMMA_N64_FIRST("f16"); else FUSEC_WGMMA_N64_FIRST("bf16");
}

//@ FUSEC_D_128
// The 64 accumulators of a thread as the text of an instruction.
#define FUSEC_D_128 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

//@ wgmma_n128 needs FUSEC_WGMMA, FUSEC_D_128, u64 arch 90a
// d[64, 128] += a[64, 16] b[16, 128] for a warpgroup, T in, f32 accumulators; under way until
// warpgroup_wait, from warpgroup_commit on. a's lines run along the sum; b's as well, or, with ACROSS_K, along
// the columns. Warp w has rows 16w ..; with g = lane/4, t = lane%4, j = 0 .. 15: d[4j] d[4j+1] (g, 8j+2t ..),
// d[4j+2] d[4j+3] (g+8, 8j+2t ..).
#define FUSEC_WGMMA_N128(TYPE) FUSEC_WGMMA("m64n128k16", TYPE, FUSEC_D_128, "%64", "%65", "1", "%66", FUSEC_ACC_32(0), FUSEC_ACC_32(32))
template <typename T, bool ACROSS_K> __device__ __forceinline__ void wgmma_n128(float (&d)[64], u64 a, u64 b) {
    if constexpr (wgmma_takes_f16<T>) FUSEC_WGMMA_N128("f16"); else FUSEC_WGMMA_N128("bf16");
}

//@ FUSEC_D_192
// The 96 accumulators of a thread as the text of an instruction.
#define FUSEC_D_192 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"

//@ wgmma_n192 needs FUSEC_WGMMA, FUSEC_D_192, u64 arch 90a
// d[64, 192] += a[64, 16] b[16, 192] for a warpgroup, T in, f32 accumulators; under way until
// warpgroup_wait, from warpgroup_commit on. a's lines run along the sum; b's as well, or, with ACROSS_K, along
// the columns. Warp w has rows 16w ..; with g = lane/4, t = lane%4, j = 0 .. 23: d[4j] d[4j+1] (g, 8j+2t ..),
// d[4j+2] d[4j+3] (g+8, 8j+2t ..).
#define FUSEC_WGMMA_N192(TYPE) FUSEC_WGMMA("m64n192k16", TYPE, FUSEC_D_192, "%96", "%97", "1", "%98", FUSEC_ACC_32(0), FUSEC_ACC_32(32), FUSEC_ACC_32(64))
template <typename T, bool ACROSS_K> __device__ __forceinline__ void wgmma_n192(float (&d)[96], u64 a, u64 b) {
    if constexpr (wgmma_takes_f16<T>) FUSEC_WGMMA_N192("f16"); else FUSEC_WGMMA_N192("bf16");
}

//@ FUSEC_D_256
// The 128 accumulators of a thread as the text of an instruction.
#define FUSEC_D_256 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

//@ wgmma_n256 needs FUSEC_WGMMA, FUSEC_D_256, u64 arch 90a
// d[64, 256] += a[64, 16] b[16, 256] for a warpgroup, T in, f32 accumulators; under way until
// warpgroup_wait, from warpgroup_commit on. a's lines run along the sum; b's as well, or, with ACROSS_K, along
// the columns. Warp w has rows 16w ..; with g = lane/4, t = lane%4, j = 0 .. 31: d[4j] d[4j+1] (g, 8j+2t ..),
// d[4j+2] d[4j+3] (g+8, 8j+2t ..).
#define FUSEC_WGMMA_N256(TYPE) FUSEC_WGMMA("m64n256k16", TYPE, FUSEC_D_256, "%128", "%129", "1", "%130", FUSEC_ACC_32(0), FUSEC_ACC_32(32), FUSEC_ACC_32(64), FUSEC_ACC_32(96))
template <typename T, bool ACROSS_K> __device__ __forceinline__ void wgmma_n256(float (&d)[128], u64 a, u64 b) {
    if constexpr (wgmma_takes_f16<T>) FUSEC_WGMMA_N256("f16"); else FUSEC_WGMMA_N256("bf16");
}

//@ FUSEC_WGMMA_HELD needs FUSEC_WGMMA
// The same with the first operand in registers.
#define FUSEC_WGMMA_HELD(SHAPE, TYPE, D, A, B, ACROSS, ...) \
    asm volatile("wgmma.mma_async.sync.aligned." SHAPE ".f32." TYPE "." TYPE " {" D "}, {" A "}, " B ", 1, 1, 1, " ACROSS ";" \
                 : __VA_ARGS__ : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(int(ACROSS_K)) : "memory")

//@ FUSEC_D_32
// The 16 accumulators of a thread as the text of an instruction.
#define FUSEC_D_32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"

//@ wgmma_n32_held needs FUSEC_WGMMA_HELD, FUSEC_D_32, u32, u64 arch 90a
// d[64, 32] += a[64, 16] b[16, 32] for a warpgroup, as wgmma_n64, with a in registers, as mma_m16n8k16_bf16 takes it: a[0]
// (g, 2t ..), a[1] (g+8, 2t ..), a[2] (g, 2t+8 ..), a[3] (g+8, 2t+8 ..) of the warp's rows. They stay as they are
// until warpgroup_wait.
#define FUSEC_WGMMA_N32_HELD(TYPE) FUSEC_WGMMA_HELD("m64n32k16", TYPE, FUSEC_D_32, "%16, %17, %18, %19", "%20", "%21", FUSEC_ACC_8(0), FUSEC_ACC_8(8))
template <typename T, bool ACROSS_K> __device__ __forceinline__ void wgmma_n32_held(float (&d)[16], const u32 (&a)[4], u64 b) {
    if constexpr (wgmma_takes_f16<T>) FUSEC_WGMMA_N32_HELD("f16"); else FUSEC_WGMMA_N32_HELD("bf16");
}

//@ wgmma_n64_held needs FUSEC_WGMMA_HELD, FUSEC_D_64, u32, u64 arch 90a
// As wgmma_n64, with a in registers, as mma_m16n8k16_bf16 takes it: a[0] (g, 2t ..), a[1] (g+8, 2t ..), a[2]
// (g, 2t+8 ..), a[3] (g+8, 2t+8 ..) of the warp's rows. They stay as they are until warpgroup_wait.
#define FUSEC_WGMMA_N64_HELD(TYPE) FUSEC_WGMMA_HELD("m64n64k16", TYPE, FUSEC_D_64, "%32, %33, %34, %35", "%36", "%37", FUSEC_ACC_32(0))
template <typename T, bool ACROSS_K> __device__ __forceinline__ void wgmma_n64_held(float (&d)[32], const u32 (&a)[4], u64 b) {
    if constexpr (wgmma_takes_f16<T>) FUSEC_WGMMA_N64_HELD("f16"); else FUSEC_WGMMA_N64_HELD("bf16");
}

//@ wgmma_n128_held needs FUSEC_WGMMA_HELD, FUSEC_D_128, u32, u64 arch 90a
// As wgmma_n128, with a in registers, as mma_m16n8k16_bf16 takes it: a[0] (g, 2t ..), a[1] (g+8, 2t ..), a[2]
// (g, 2t+8 ..), a[3] (g+8, 2t+8 ..) of the warp's rows. They stay as they are until warpgroup_wait.
#define FUSEC_WGMMA_N128_HELD(TYPE) FUSEC_WGMMA_HELD("m64n128k16", TYPE, FUSEC_D_128, "%64, %65, %66, %67", "%68", "%69", FUSEC_ACC_32(0), FUSEC_ACC_32(32))
template <typename T, bool ACROSS_K> __device__ __forceinline__ void wgmma_n128_held(float (&d)[64], const u32 (&a)[4], u64 b) {
    if constexpr (wgmma_takes_f16<T>) FUSEC_WGMMA_N128_HELD("f16"); else FUSEC_WGMMA_N128_HELD("bf16");
}

//@ wgmma_n192_held needs FUSEC_WGMMA_HELD, FUSEC_D_192, u32, u64 arch 90a
// As wgmma_n192, with a in registers, as mma_m16n8k16_bf16 takes it: a[0] (g, 2t ..), a[1] (g+8, 2t ..), a[2]
// (g, 2t+8 ..), a[3] (g+8, 2t+8 ..) of the warp's rows. They stay as they are until warpgroup_wait.
#define FUSEC_WGMMA_N192_HELD(TYPE) FUSEC_WGMMA_HELD("m64n192k16", TYPE, FUSEC_D_192, "%96, %97, %98, %99", "%100", "%101", FUSEC_ACC_32(0), FUSEC_ACC_32(32), FUSEC_ACC_32(64))
template <typename T, bool ACROSS_K> __device__ __forceinline__ void wgmma_n192_held(float (&d)[96], const u32 (&a)[4], u64 b) {
    if constexpr (wgmma_takes_f16<T>) FUSEC_WGMMA_N192_HELD("f16"); else FUSEC_WGMMA_N192_HELD("bf16");
}

//@ wgmma_n256_held needs FUSEC_WGMMA_HELD, FUSEC_D_256, u32, u64 arch 90a
// As wgmma_n256, with a in registers, as mma_m16n8k16_bf16 takes it: a[0] (g, 2t ..), a[1] (g+8, 2t ..), a[2]
// (g, 2t+8 ..), a[3] (g+8, 2t+8 ..) of the warp's rows. They stay as they are until warpgroup_wait.
#define FUSEC_WGMMA_N256_HELD(TYPE) FUSEC_WGMMA_HELD("m64n256k16", TYPE, FUSEC_D_256, "%128, %129, %130, %131", "%132", "%133", FUSEC_ACC_32(0), FUSEC_ACC_32(32), FUSEC_ACC_32(64), FUSEC_ACC_32(96))
template <typename T, bool ACROSS_K> __device__ __forceinline__ void wgmma_n256_held(float (&d)[128], const u32 (&a)[4], u64 b) {
    if constexpr (wgmma_takes_f16<T>) FUSEC_WGMMA_N256_HELD("f16"); else FUSEC_WGMMA_N256_HELD("bf16");
}
