//@ lane_sum
// Sum over groups of W neighbouring lanes (W a power of two, at most 32); every lane gets its group's
// sum. Butterfly order: distances W/2, W/4, ... 1. All 32 lanes of the warp must call it.
template <int W> __device__ __forceinline__ float lane_sum(float v) {
#pragma unroll
    for (int d = W / 2; d > 0; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}

//@ lane_sum_strided
// Sum over the lanes with equal lane % STRIDE (STRIDE a power of two, at most 32); every lane gets its
// set's sum. Butterfly order: distances STRIDE, 2 STRIDE, ... 16.
template <int STRIDE> __device__ __forceinline__ float lane_sum_strided(float v) {
#pragma unroll
    for (int d = STRIDE; d < 32; d *= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}

//@ lane_max
// Maximum over groups of W neighbouring lanes, as lane_sum.
template <int W> __device__ __forceinline__ float lane_max(float v) {
#pragma unroll
    for (int d = W / 2; d > 0; d >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
    return v;
}

//@ lanes_where needs u32
// A bit for each lane of the warp that says yes. All 32 lanes must call it.
__device__ __forceinline__ u32 lanes_where(bool yes) { return __ballot_sync(0xffffffffu, yes); }

//@ from_lane
// The number that one lane of the warp has. All 32 lanes must call it.
__device__ __forceinline__ int from_lane(int v, int lane) { return __shfl_sync(0xffffffffu, v, lane); }

//@ lowest_bit needs u32
// The place of the lowest bit that is set; one has to be.
__device__ __forceinline__ int lowest_bit(u32 bits) { return __ffs(int(bits)) - 1; }

//@ count_bits needs u32
// How many bits are set.
__device__ __forceinline__ int count_bits(u32 bits) { return __popc(bits); }

//@ warp_sum needs lane_sum
// Sum over the warp; every lane gets it.
__device__ __forceinline__ float warp_sum(float v) { return lane_sum<32>(v); }

//@ warp_sum_each
// Sums over the warp of the N numbers that each lane has (N a power of two, at most 32): lane l gets that
// of number l / (32 / N). N - 1 exchanges and, of one number each, those that are left; order: distances
// 16, 8, ... 1, the D of a call. Blocks are one-dimensional.
template <int N, int D = 16> __device__ __forceinline__ float warp_sum_each(const float (&v)[N]) {
    if constexpr (D == 0) {
        return v[0];
    } else if constexpr (N == 1) {
        const float sum[1] = {v[0] + __shfl_xor_sync(0xffffffffu, v[0], D)};
        return warp_sum_each<1, D / 2>(sum);
    } else {
        const bool upper = threadIdx.x & D;
        float sums[N / 2];
#pragma unroll
        for (int n = 0; n < N / 2; ++n) {
            const float low = v[n], high = v[n + N / 2];
            const float sent = upper ? low : high, kept = upper ? high : low;
            sums[n] = kept + __shfl_xor_sync(0xffffffffu, sent, D);
        }
        return warp_sum_each<N / 2, D / 2>(sums);
    }
}

//@ warp_max needs lane_max
// Maximum over the warp; every lane gets it.
__device__ __forceinline__ float warp_max(float v) { return lane_max<32>(v); }

//@ block_sum_vec_once needs warp_sum
// V independent sums over a one-dimensional block of NT threads (a multiple of 32); every thread gets
// them, and the order is fixed: butterfly inside warps, then warps in turn. `scratch`: V*NT/32 floats of
// shared memory, free again after the next barrier of the block, whatever it is for. Contains one
// barrier: all threads must call it.
template <int NT, int V> __device__ __forceinline__ void block_sum_vec_once(float (&v)[V], float* scratch) {
#pragma unroll
    for (int j = 0; j < V; ++j) v[j] = warp_sum(v[j]);
    if constexpr (NT > 32) {
        if ((threadIdx.x & 31) == 0) {
#pragma unroll
            for (int j = 0; j < V; ++j) scratch[j * (NT / 32) + (threadIdx.x >> 5)] = v[j];
        }
        __syncthreads();
#pragma unroll
        for (int j = 0; j < V; ++j) {
            v[j] = scratch[j * (NT / 32)];
#pragma unroll
            for (int i = 1; i < NT / 32; ++i) v[j] += scratch[j * (NT / 32) + i];
        }
    }
}

//@ block_max_vec_once needs warp_max
// V maxima over the block, as block_sum_vec_once.
template <int NT, int V> __device__ __forceinline__ void block_max_vec_once(float (&v)[V], float* scratch) {
#pragma unroll
    for (int j = 0; j < V; ++j) v[j] = warp_max(v[j]);
    if constexpr (NT > 32) {
        if ((threadIdx.x & 31) == 0) {
#pragma unroll
            for (int j = 0; j < V; ++j) scratch[j * (NT / 32) + (threadIdx.x >> 5)] = v[j];
        }
        __syncthreads();
#pragma unroll
        for (int j = 0; j < V; ++j) {
            v[j] = scratch[j * (NT / 32)];
#pragma unroll
            for (int i = 1; i < NT / 32; ++i) v[j] = fmaxf(v[j], scratch[j * (NT / 32) + i]);
        }
    }
}

//@ block_sum_once needs block_sum_vec_once
// Sum over the block, as block_sum_vec_once. `scratch`: NT/32 floats of shared memory.
template <int NT> __device__ __forceinline__ float block_sum_once(float v, float* scratch) {
    float one[1] = {v};
    block_sum_vec_once<NT>(one, scratch);
    return one[0];
}

//@ block_max_once needs block_max_vec_once
// Maximum over the block, as block_sum_once.
template <int NT> __device__ __forceinline__ float block_max_once(float v, float* scratch) {
    float one[1] = {v};
    block_max_vec_once<NT>(one, scratch);
    return one[0];
}

//@ block_sum needs block_sum_once
// block_sum_once that leaves `scratch` free.
template <int NT> __device__ __forceinline__ float block_sum(float v, float* scratch) {
    v = block_sum_once<NT>(v, scratch);
    if constexpr (NT > 32) __syncthreads();
    return v;
}

//@ block_max needs block_max_once
// block_max_once that leaves `scratch` free.
template <int NT> __device__ __forceinline__ float block_max(float v, float* scratch) {
    v = block_max_once<NT>(v, scratch);
    if constexpr (NT > 32) __syncthreads();
    return v;
}
