//@ FUSEC_GIVEN
// What holds in every launch of a kernel: the compiler may rely on it.
#define FUSEC_GIVEN(condition) __builtin_assume(condition)

//@ FUSEC_PHASE
// Whether a kernel is to run its phase `n`: on a GPU all of them, one after the other. The emulator,
// whose blocks do not wait for each other, runs the grid once for each.
#define FUSEC_PHASE(n) true

//@ grid_barrier needs u32
// A barrier of all threads of a one-dimensional grid, whose blocks must all be resident: what any thread
// wrote before it, every thread may read after it, unless through a pointer that is declared constant
// or restricted. All threads must call it.
//
// Blocks count in the lower bits of a word. The first block's part is what the others lack of the top
// bit, so that this bit changes when the last one arrives, and the lower bits are zero again: the word
// is ready for the next barrier, and for a launch with another grid.
static __device__ u32 grid_barrier_word;
__device__ __forceinline__ void grid_barrier() {
    __syncthreads();
    if (threadIdx.x == 0) {
        // What the block wrote, thread 0 has seen at the barrier above: its fence is for all of it.
        __threadfence();
        const u32 before = atomicAdd(&grid_barrier_word, blockIdx.x == 0 ? 0x80000000u - (gridDim.x - 1) : 1u);
        u32 now;
        do {
            asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(now) : "l"(&grid_barrier_word) : "memory");
        } while (((before ^ now) & 0x80000000u) == 0);
        __threadfence();
    }
    __syncthreads();
}
