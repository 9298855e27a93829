//@ cp_async_16 needs u32, smem_u32 arch 80
// Starts copying 16 bytes from global `src` to shared `dst` (both 16-byte aligned); writes zeros and
// reads nothing when `pred` is false. Visible to this thread after cp_async_wait, to others after a
// barrier that follows.
__device__ __forceinline__ void cp_async_16(void* dst, const void* src, bool pred) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(smem_u32(dst)), "l"(src), "r"(pred ? 16u : 0u) : "memory");
}

//@ cp_async_4 needs u32, smem_u32 arch 80
// As cp_async_16 for 4 bytes.
__device__ __forceinline__ void cp_async_4(void* dst, const void* src, bool pred) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" :: "r"(smem_u32(dst)), "l"(src), "r"(pred ? 4u : 0u) : "memory");
}

//@ cp_async_commit arch 80
// Closes the current group of copies of this thread.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

//@ cp_async_wait arch 80
// Waits until at most N of this thread's groups are still in flight.
template <int N> __device__ __forceinline__ void cp_async_wait() { asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory"); }

//@ prefetch_l2
// Starts bringing the line of memory around p to the L2 cache.
__device__ __forceinline__ void prefetch_l2(const void* p) { asm volatile("prefetch.global.L2 [%0];" :: "l"(p)); }

//@ prefetch_share needs u32, prefetch_l2
// Starts bringing `bytes` of memory from p on to the L2 cache, each thread of the first BLOCKS blocks its share of
// the lines.
template <u32 BLOCKS> __device__ __forceinline__ void prefetch_share(const void* p, u32 bytes) {
    const u32 threads = (gridDim.x < BLOCKS ? gridDim.x : BLOCKS) * blockDim.x;
    for (u32 line = blockIdx.x * blockDim.x + threadIdx.x; line * 128 < bytes; line += threads)
        prefetch_l2(static_cast<const char*>(p) + line * 128);
}

//@ grid_dependency_wait
// Waits for the results of the kernel before this one (programmatic dependent launch). Nothing to wait
// for below sm_90, where launches do not overlap.
__device__ __forceinline__ void grid_dependency_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

//@ grid_dependency_launch
// Lets the kernel after this one start. No effect below sm_90.
__device__ __forceinline__ void grid_dependency_launch() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
