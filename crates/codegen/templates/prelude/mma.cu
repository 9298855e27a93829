//@ smem_u32 needs u32
// The address of generic pointer `p` inside the shared-memory window.
__device__ __forceinline__ u32 smem_u32(const void* p) { return u32(__cvta_generic_to_shared(p)); }

//@ ldmatrix_x4 needs smem_u32
// Four 8x8 matrices of 16-bit elements from shared memory. Lane l gives the address of row l%8 of
// matrix l/8 (16 bytes, 16-byte aligned); r[j] receives row l/4, columns 2(l%4) and +1 of matrix j.
__device__ __forceinline__ void ldmatrix_x4(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(smem_u32(row)) : "memory");
}

//@ ldmatrix_x2 needs smem_u32
// Two matrices: lanes 0..15 give the addresses.
__device__ __forceinline__ void ldmatrix_x2(u32 (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1]) : "r"(smem_u32(row)) : "memory");
}

//@ ldmatrix_x4_trans needs smem_u32
// As ldmatrix_x4, each matrix transposed: r[j] receives rows 2(l%4) and +1, column l/4.
__device__ __forceinline__ void ldmatrix_x4_trans(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(smem_u32(row)) : "memory");
}

//@ ldmatrix_x2_trans needs smem_u32
// As ldmatrix_x2, each matrix transposed.
__device__ __forceinline__ void ldmatrix_x2_trans(u32 (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1]) : "r"(smem_u32(row)) : "memory");
}

//@ pack_bf16x2 needs u32 arch 80
// Two f32 numbers rounded to bf16 (nearest even) in one word: `low` in bits 0..15.
__device__ __forceinline__ u32 pack_bf16x2(float low, float high) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

//@ pack_f16x2 needs u32 arch 80
// As pack_bf16x2 for f16.
__device__ __forceinline__ u32 pack_f16x2(float low, float high) {
    u32 packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

//@ pack_x2 needs pack_bf16x2, pack_f16x2, bf16_t, f16_t, u32 arch 80
// Two f32 numbers rounded to storage type T in one word.
template <typename T> __device__ __forceinline__ u32 pack_x2(float low, float high);
template <> __device__ __forceinline__ u32 pack_x2<bf16_t>(float low, float high) { return pack_bf16x2(low, high); }
template <> __device__ __forceinline__ u32 pack_x2<f16_t>(float low, float high) { return pack_f16x2(low, high); }

//@ mma_m16n8k16_bf16 needs u32 arch 80
// c[16,8] += a[16,16] b[16,8], bf16 in, f32 accumulate. With g = lane/4, t = lane%4:
// a0 (g, 2t..) a1 (g+8, 2t..) a2 (g, 2t+8..) a3 (g+8, 2t+8..); b0 (k 2t.., n g) b1 (k 2t+8.., n g);
// c0 c1 (g, 2t..) c2 c3 (g+8, 2t..).
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

//@ mma_m16n8k16_f16 needs u32 arch 80
// As mma_m16n8k16_bf16 with f16 operands.
__device__ __forceinline__ void mma_m16n8k16_f16(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

//@ mma_m16n8k8_bf16 needs u32 arch 80
// c[16,8] += a[16,8] b[8,8], bf16 in, f32 accumulate.
// a0 (g, 2t..) a1 (g+8, 2t..); b0 (k 2t.., n g); c as above.
__device__ __forceinline__ void mma_m16n8k8_bf16(float (&c)[4], const u32 (&a)[2], const u32 (&b)[1]) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(b[0]));
}

//@ mma_m16n8k8_f16 needs u32
// c[16,8] += a[16,8] b[8,8], f16 in, f32 accumulate; the shape that sm_75 has.
// a0 (g, 2t..) a1 (g+8, 2t..); b0 (k 2t.., n g); c as above.
__device__ __forceinline__ void mma_m16n8k8_f16(float (&c)[4], const u32 (&a)[2], const u32 (&b)[1]) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(b[0]));
}

//@ mma_k16 needs mma_m16n8k16_bf16, mma_m16n8k16_f16, bf16_t, f16_t arch 80
// The m16n8k16 product chosen by storage type T.
template <typename T> __device__ __forceinline__ void mma_k16(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]);
template <> __device__ __forceinline__ void mma_k16<bf16_t>(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) { mma_m16n8k16_bf16(c, a, b); }
template <> __device__ __forceinline__ void mma_k16<f16_t>(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) { mma_m16n8k16_f16(c, a, b); }
