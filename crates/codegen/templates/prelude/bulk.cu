//@ mbarrier_init needs smem_u32, u64 arch 90
// Makes `barrier` (shared memory) one whose phases end after `arrivals` arrivals and once the bytes that
// were announced have come. Phase 0 begins.
__device__ __forceinline__ void mbarrier_init(u64* barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(smem_u32(barrier)), "r"(arrivals) : "memory");
}

//@ mbarrier_init_fence arch 90
// Lets copies see the barriers that this thread made; a barrier of the block has to follow.
__device__ __forceinline__ void mbarrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

//@ mbarrier_arrive_expecting needs smem_u32, u64 arch 90
// Arrives, and announces `bytes` that copies will bring in this phase.
__device__ __forceinline__ void mbarrier_arrive_expecting(u64* barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(smem_u32(barrier)), "r"(bytes) : "memory");
}

//@ mbarrier_arrive needs smem_u32, u64 arch 90
// Arrives. It orders products and copies that were waited for, not what this thread wrote to memory.
__device__ __forceinline__ void mbarrier_arrive(u64* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(smem_u32(barrier)) : "memory");
}

//@ mbarrier_wait needs smem_u32, u64 arch 90
// Waits for the end of the phase of this parity: 0 for the first, third, ...
__device__ __forceinline__ void mbarrier_wait(u64* barrier, u32 parity) {
    asm volatile("{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra ready;\nbra again;\nready:\n}"
                 :: "r"(smem_u32(barrier)), "r"(parity) : "memory");
}

//@ tensor_map needs u64 arch 90
// A tensor in global memory and the box of it that one copy moves, as the driver encodes them. A kernel
// takes it by value: `const __grid_constant__ tensor_map`.
struct __align__(64) tensor_map { u64 words[16]; };

//@ tensor_load_2d needs tensor_map, smem_u32 arch 90
// Starts copying the box at (x, y) of a matrix to shared memory at `to` (1,024-byte aligned), x innermost;
// elements outside of the matrix come as zeros. `barrier` gets the bytes of the whole box. One thread calls it.
__device__ __forceinline__ void tensor_load_2d(void* to, const tensor_map& map, u64* barrier, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
                 :: "r"(smem_u32(to)), "l"(&map), "r"(smem_u32(barrier)), "r"(x), "r"(y) : "memory");
}

//@ tensor_load_5d needs tensor_map, smem_u32 arch 90
// As tensor_load_2d with five axes, of which the first and the last have a place.
__device__ __forceinline__ void tensor_load_5d(void* to, const tensor_map& map, u64* barrier, int x, int y) {
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %5, %5, %5, %4}], [%2];"
                 :: "r"(smem_u32(to)), "l"(&map), "r"(smem_u32(barrier)), "r"(x), "r"(y), "r"(0) : "memory");
}

//@ store_vec_global, stores_bf16 needs RawVec, VecIsRaw, pack_f32, store_vec, pack_bf16x2, bf16_t arch 80
// store_vec for global memory only, in stores that stay as wide as they are written here.
template <typename T> constexpr bool stores_bf16 = false;
template <> constexpr bool stores_bf16<bf16_t> = true;
template <typename T, int V> __device__ __forceinline__ void store_vec_global(T* p, const float (&x)[V]) {
    if constexpr (VecIsRaw<T, V>::value) {
        typedef RawVec<V * int(sizeof(T))> Raw;
        Raw r;
        if constexpr (stores_bf16<T>) {
#pragma unroll
            for (int i = 0; i < V / 2; ++i) r.w[i] = pack_bf16x2(x[2 * i], x[2 * i + 1]);
        } else {
            pack_f32<T, V>::into(r.w, x);
        }
#pragma unroll
        for (int i = 0; i < Raw::N; ++i) __stwb(reinterpret_cast<typename Raw::Access*>(p) + i, reinterpret_cast<const typename Raw::Access*>(r.w)[i]);
    } else {
        store_vec(p, x);
    }
}
