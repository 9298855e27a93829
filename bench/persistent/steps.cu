// The products of single steps, as kernels in a CUDA graph and as the phases of one kernel with barriers of the grid between.
//
// Both run the same code for a product, that of gemv_stream.cu: 16 warps a block, two blocks a multiprocessor, each warp an equal
// stretch of the block's weights, two steps of copies on their way, the first of them before the inputs are there: in the graph by
// programmatic dependent launch, in the one kernel before its barrier. A product reads what the one before it wrote, staged in shared
// memory as f32. `plain` kernels start when the one before has ended, `early` ones may start before. The one kernel is timed as
// the launches are, with the rest of the next product's weights asked for in the L2 cache before the barrier, with one block of
// more copies a multiprocessor, and with its barriers alone.
//
// All with two blocks a multiprocessor have to give the same bits. Times: events around 20 graphs of 24 layers each, the median of
// 15.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <type_traits>
#include <vector>

#define CHECK(call)                                                                               \
    do {                                                                                          \
        cudaError_t error = (call);                                                               \
        if (error != cudaSuccess) {                                                               \
            fprintf(stderr, "%s:%d: %s\n", #call, __LINE__, cudaGetErrorString(error));           \
            exit(1);                                                                              \
        }                                                                                         \
    } while (0)

typedef __nv_bfloat16 bf16;
constexpr int WARPS = 16, THREADS = 32 * WARPS, TOGETHER = 4, VEC = 8, STEP = 32 * VEC, MOST_DEPTH = 8192, MOST_TILE = 96, LAYERS = 24, SMS = 132;

__device__ __forceinline__ unsigned shared_address(const void* p) { return unsigned(__cvta_generic_to_shared(p)); }
__device__ __forceinline__ void copy_16(void* to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// Every block adds one; a block goes on when all have, for the round that it is in.
__device__ __forceinline__ void grid_barrier(unsigned* counter, unsigned round) {
    __syncthreads();
    if (threadIdx.x == 0) {
        asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
        const unsigned all = gridDim.x * (round + 1);
        unsigned seen;
        do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
        while (seen < all);
    }
    __syncthreads();
}

// A product of N columns and K terms in BLOCKS blocks at most.
template <int N, int K, int BLOCKS, int IN_FLIGHT> struct Product {
    static constexpr int GROUPS = (N / TOGETHER + BLOCKS - 1) / BLOCKS, TILE = GROUPS * TOGETHER, TILES = (N + TILE - 1) / TILE;
    static constexpr int STEPS = (K + STEP - 1) / STEP, ALL = GROUPS * STEPS, STRETCH = (ALL + WARPS - 1) / WARPS;
    static_assert(K % STEP == 0 && N % TOGETHER == 0 && K <= MOST_DEPTH && TILE <= MOST_TILE, "whole steps that have room");

    const bf16* weights;
    bf16* ring;
    int tid, first, last, ahead, column0;

    __device__ Product(const bf16* w, bf16* smem_ring, int block) : weights(w), tid(threadIdx.x) {
        // What follows from the thread is computed anew for each product: kept for all of them, it would fill the registers.
        asm volatile("" : "+r"(tid));
        ring = smem_ring + tid * VEC;
        const int warp = tid / 32;
        column0 = block * TILE;
        const int all = block < TILES ? min(GROUPS, (N - column0) / TOGETHER) * STEPS : 0;
        first = min(warp * STRETCH, all);
        last = min(first + STRETCH, all);
        ahead = first;
    }
    __device__ void fetch(int slot) {
        if (ahead < last) {
            const int group = ahead / STEPS, inner = ahead % STEPS * STEP + tid % 32 * VEC;
#pragma unroll
            for (int own = 0; own < TOGETHER; ++own)
                copy_16(ring + (slot * TOGETHER + own) * THREADS * VEC, weights + (long long)(column0 + group * TOGETHER + own) * K + inner);
            ++ahead;
        }
        commit();
    }
    // They are under way.
    __device__ void begun() { ahead = min(first + IN_FLIGHT, last); }
    // Starts the copies; the ring is free.
    __device__ void begin() {
#pragma unroll
        for (int slot = 0; slot < IN_FLIGHT; ++slot) fetch(slot);
    }
    // Asks for what of the block's weights is not on its way yet.
    __device__ void prefetch() const {
        for (int at = ahead; at < last; ++at) {
            const int group = at / STEPS, inner = at % STEPS * STEP;
            if (tid % 32 < 4 * TOGETHER) {
                const int own = tid % 32 / 4, line = tid % 4;
                const bf16* p = weights + (long long)(column0 + group * TOGETHER + own) * K + inner + line * 64;
                asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
            }
        }
    }
    // The inputs are there. `trigger`: the next kernel may start once all copies are under way.
    __device__ void finish(const float* x, int x_size, float* row, float* sums, bool trigger) {
        for (int k = tid * 4; k < K; k += THREADS * 4) *reinterpret_cast<float4*>(row + k) = *reinterpret_cast<const float4*>(x + k % x_size);
        __syncthreads();
        const int lane = tid % 32, warp = tid / 32;
        float acc[TOGETHER] = {};
        int slot = 0;
        for (int at = first; at < last; ++at) {
            wait<IN_FLIGHT - 1>();
            uint4 words[TOGETHER];
#pragma unroll
            for (int own = 0; own < TOGETHER; ++own) words[own] = *reinterpret_cast<const uint4*>(ring + (slot * TOGETHER + own) * THREADS * VEC);
            fetch(slot);
            if (trigger && ahead >= last) asm volatile("griddepcontrol.launch_dependents;");
            slot = slot + 1 == IN_FLIGHT ? 0 : slot + 1;
            const int step = at % STEPS;
            const float* a = row + step * STEP + lane * VEC;
            float activations[VEC];
            *reinterpret_cast<float4*>(activations) = *reinterpret_cast<const float4*>(a);
            *reinterpret_cast<float4*>(activations + 4) = *reinterpret_cast<const float4*>(a + 4);
#pragma unroll
            for (int own = 0; own < TOGETHER; ++own) {
                const bf16* w = reinterpret_cast<const bf16*>(&words[own]);
#pragma unroll
                for (int nth = 0; nth < VEC; ++nth) acc[own] += activations[nth] * __bfloat162float(w[nth]);
            }
            if (step + 1 < STEPS && at + 1 < last) continue;
#pragma unroll
            for (int own = 0; own < TOGETHER; ++own) {
                float sum = acc[own];
#pragma unroll
                for (int d = 16; d > 0; d >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, d);
                if (lane == 0) sums[warp * TILE + at / STEPS * TOGETHER + own] = sum;
                acc[own] = 0.0f;
            }
        }
        wait<0>();
        __syncthreads();
    }
    __device__ void store(float* y, const float* sums) const {
        for (int element = tid; element < TILE; element += THREADS) {
            if (column0 + element >= N) continue;
            const int begin = element / TOGETHER * STEPS;
            float sum = 0.0f;
            for (int part = begin / STRETCH; part <= (begin + STEPS - 1) / STRETCH; ++part) sum += sums[part * TILE + element];
            // Bounded, so that layers after layers stay so.
            y[column0 + element] = sum / (1.0f + fabsf(sum));
        }
    }
};

template <int N, int K> struct Size { static constexpr int columns = N, depth = K; };

template <int IN_FLIGHT> __host__ __device__ constexpr int ring_bytes() { return IN_FLIGHT * TOGETHER * THREADS * VEC * 2; }
// The ring, the row, the sums.
template <int IN_FLIGHT> __host__ __device__ constexpr int shared_bytes() { return ring_bytes<IN_FLIGHT>() + 4 * MOST_DEPTH + 4 * WARPS * MOST_TILE; }

template <class S, bool EARLY> __global__ void __launch_bounds__(THREADS, 2) product(const bf16* w, const float* x, int x_size, float* y) {
    extern __shared__ __align__(128) char smem[];
    float* row = reinterpret_cast<float*>(smem + ring_bytes<2>());
    float* sums = row + MOST_DEPTH;
    Product<S::columns, S::depth, 2 * SMS, 2> own(w, reinterpret_cast<bf16*>(smem), blockIdx.x);
    own.begin();
    if (EARLY) asm volatile("griddepcontrol.wait;" ::: "memory");
    own.finish(x, x_size, row, sums, EARLY);
    own.store(y, sums);
}

// How the one kernel goes: blocks of a multiprocessor, steps on their way, whether L2 is asked for the rest, whether there are products.
template <int RESIDENT_, int IN_FLIGHT_, bool L2_, bool PRODUCTS_> struct Way {
    static constexpr int RESIDENT = RESIDENT_, IN_FLIGHT = IN_FLIGHT_;
    static constexpr bool L2 = L2_, PRODUCTS = PRODUCTS_;
    template <class S> using Of = Product<S::columns, S::depth, RESIDENT * SMS, IN_FLIGHT>;
};

struct Place {
    const bf16* weights;
    float *x, *y;
    int x_size;
    char* smem;
    unsigned* counter;
    unsigned round;
};

// The phases of a layer; the copies of the first are on their way. The last of the list is the first of the next layer.
template <class W, class Own, class Next, class... Rest> __device__ void phases(typename W::template Of<Own>& own, Place& at) {
    float* row = reinterpret_cast<float*>(at.smem + ring_bytes<W::IN_FLIGHT>());
    float* sums = row + MOST_DEPTH;
    grid_barrier(at.counter, at.round++);
    if (W::PRODUCTS) own.finish(at.x, at.x_size, row, sums, false);
    at.weights += (long long)Own::columns * Own::depth;
    typename W::template Of<Next> next(at.weights, reinterpret_cast<bf16*>(at.smem), blockIdx.x);
    if (W::PRODUCTS) {
        next.begin();
        if (W::L2) next.prefetch();
        own.store(at.y, sums);
    }
    float* t = at.x;
    at.x = at.y;
    at.y = t;
    at.x_size = Own::columns;
    if constexpr (sizeof...(Rest) > 0) phases<W, Next, Rest...>(next, at);
}

template <class W, class First, class... Rest>
__global__ void __launch_bounds__(THREADS, W::RESIDENT) one(const bf16* weights, float* x, float* y, int x_size, unsigned* counter) {
    extern __shared__ __align__(128) char smem[];
    Place at = {weights, x, y, x_size, smem, counter, 0};
    for (int layer = 0; layer < LAYERS; ++layer) {
        typename W::template Of<First> own(at.weights, reinterpret_cast<bf16*>(smem), blockIdx.x);
        if (W::PRODUCTS && layer == 0) own.begin();
        // Else the layer before began them.
        own.begun();
        phases<W, First, Rest..., First>(own, at);
    }
    wait<0>();
}

__global__ void fill(bf16* w, long long n, float scale) {
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x) {
        unsigned h = unsigned(i) * 2654435761u ^ unsigned(i >> 32) * 40503u;
        h ^= h >> 15; h *= 2246822519u; h ^= h >> 13; h *= 3266489917u; h ^= h >> 16;
        w[i] = __float2bfloat16((float(h >> 8) / 8388608.0f - 1.0f) * scale);
    }
}
__global__ void fill_floats(float* x, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] = (i * 37 % 101 - 50) / 50.0f;
}

struct Bench {
    cudaStream_t stream;
    bf16* weights;
    float *x, *y, *input;
    unsigned* counter;
    int x_size;

    template <class Launch> double time(Launch launch, std::vector<float>& result, const float* out, int size) {
        cudaGraph_t graph;
        cudaGraphExec_t exec;
        CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
        CHECK(cudaMemcpyAsync(x, input, 4 * x_size, cudaMemcpyDeviceToDevice, stream));
        CHECK(cudaMemsetAsync(counter, 0, 4, stream));
        launch();
        CHECK(cudaStreamEndCapture(stream, &graph));
        CHECK(cudaGraphInstantiate(&exec, graph, 0));
        cudaEvent_t begin, end;
        CHECK(cudaEventCreate(&begin));
        CHECK(cudaEventCreate(&end));
        std::vector<float> times;
        for (int run = 0; run < 20; ++run) {
            CHECK(cudaEventRecord(begin, stream));
            for (int i = 0; i < 20; ++i) CHECK(cudaGraphLaunch(exec, stream));
            CHECK(cudaEventRecord(end, stream));
            CHECK(cudaStreamSynchronize(stream));
            float ms;
            CHECK(cudaEventElapsedTime(&ms, begin, end));
            if (run >= 5) times.push_back(ms / 20);
        }
        std::sort(times.begin(), times.end());
        result.resize(size);
        CHECK(cudaMemcpy(result.data(), out, 4 * size, cudaMemcpyDeviceToHost));
        CHECK(cudaGraphExecDestroy(exec));
        CHECK(cudaGraphDestroy(graph));
        return times[times.size() / 2];
    }
};

template <class S, bool EARLY> void launch_product(Bench& b, const bf16*& w, float*& x, float*& y, int& x_size) {
    // The first comes after something that is no kernel.
    const bool first = w == b.weights;
    using P = Product<S::columns, S::depth, 2 * SMS, 2>;
    cudaLaunchConfig_t config = {};
    config.gridDim = P::TILES;
    config.blockDim = THREADS;
    config.dynamicSmemBytes = shared_bytes<2>();
    config.stream = b.stream;
    cudaLaunchAttribute early;
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &early;
    config.numAttrs = EARLY && !first ? 1 : 0;
    CHECK(cudaFuncSetAttribute(product<S, EARLY>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes<2>()));
    CHECK(cudaLaunchKernelEx(&config, product<S, EARLY>, w, (const float*)x, x_size, y));
    w += (long long)S::columns * S::depth;
    x_size = S::columns;
    std::swap(x, y);
}

template <class W, class... S> void launch_one(Bench& b) {
    auto kernel = one<W, S...>;
    constexpr int bytes = shared_bytes<W::IN_FLIGHT>();
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    int resident = 0;
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, THREADS, bytes));
    if (resident < W::RESIDENT) { fprintf(stderr, "%d blocks of %d are resident\n", resident, W::RESIDENT); exit(1); }
    const bf16* w = b.weights;
    float *x = b.x, *y = b.y;
    int size = b.x_size;
    unsigned* counter = b.counter;
    void* args[] = {&w, &x, &y, &size, &counter};
    CHECK(cudaLaunchCooperativeKernel((void*)kernel, dim3(W::RESIDENT * SMS), dim3(THREADS), args, bytes, b.stream));
}

template <class... S> void layer(const char* name) {
    const long long of_layer = (((long long)S::columns * S::depth) + ...);
    const int sizes[] = {S::columns...};
    const int phases = sizeof...(S), last = sizes[phases - 1];
    // The first product of one layer more is begun, and not used.
    const long long all = of_layer * LAYERS + (long long)12288 * 2048;
    Bench b;
    b.x_size = last;
    CHECK(cudaStreamCreate(&b.stream));
    CHECK(cudaMalloc(&b.weights, 2 * all));
    for (float** p : {&b.x, &b.y, &b.input}) CHECK(cudaMalloc(p, 4 * 16384));
    CHECK(cudaMalloc(&b.counter, 4));
    fill<<<1024, 256, 0, b.stream>>>(b.weights, all, 0.05f);
    fill_floats<<<1, 256, 0, b.stream>>>(b.input, last);
    const double floor_us = 2.0 * of_layer / 4.229e6;
    printf("%s: %d products a layer, %.1f MB, %.2f us at 4.229 TB/s\n", name, phases, 2.0 * of_layer / 1e6, floor_us);
    // After an odd number of products the result is in the other buffer.
    const float* out = phases * LAYERS % 2 ? b.y : b.x;
    std::vector<float> expected, got;
    auto launches = [&](auto early) {
        return [&b] {
            const bf16* w = b.weights;
            float *x = b.x, *y = b.y;
            int size = b.x_size;
            for (int l = 0; l < LAYERS; ++l) (launch_product<S, decltype(early)::value>(b, w, x, y, size), ...);
        };
    };
    auto report = [&](const char* what, double ms, bool same) {
        const double us = 1e3 * ms / LAYERS;
        printf("  %-28s %7.2f us a layer, %5.1f %% of the memory's speed, %5.2f us a product above it%s\n", what, us, 100 * floor_us / us, (us - floor_us) / phases, same ? "" : "  WRONG");
        fflush(stdout);
        if (!same) exit(1);
    };
    const double plain = b.time(launches(std::false_type()), expected, out, last);
    double magnitude = 0;
    for (float v : expected) magnitude = std::max(magnitude, (double)fabsf(v));
    if (!(magnitude > 1e-3 && magnitude <= 1.0)) { printf("results are no numbers\n"); exit(1); }
    report("kernels, plain", plain, true);
    const double early = b.time(launches(std::true_type()), got, out, last);
    report("kernels, early", early, got == expected);
    auto persistent = [&](const char* what, auto way) {
        using W = decltype(way);
        const double ms = b.time([&] { launch_one<W, S...>(b); }, got, out, last);
        // Sums are parted otherwise where blocks are.
        bool same = true;
        for (int i = 0; i < last; ++i) same &= W::RESIDENT == 2 ? got[i] == expected[i] : fabsf(got[i] - expected[i]) < 2e-3f;
        report(what, ms, same || !W::PRODUCTS);
    };
    persistent("one kernel", Way<2, 2, false, true>());
    persistent("one kernel, rest to L2", Way<2, 2, true, true>());
    persistent("one kernel, 1 block, 5 steps", Way<1, 5, false, true>());
    persistent("one kernel, barriers alone", Way<2, 2, false, false>());
    CHECK(cudaFree(b.weights));
}

int main() {
    cudaDeviceProp properties;
    CHECK(cudaGetDeviceProperties(&properties, 0));
    printf("%s, %d multiprocessors\n", properties.name, properties.multiProcessorCount);
    if (properties.multiProcessorCount < SMS) { printf("blocks are counted for %d multiprocessors\n", SMS); return 1; }
    // Products of a layer by columns and terms; low ranks are rounded up to 256, states are left out.
    layer<Size<6656, 2048>, Size<2048, 512>, Size<2048, 2048>, Size<8192, 2048>, Size<2048, 8192>>("rwkv7 1.5b");
    layer<Size<8192, 2048>, Size<256, 4096>, Size<4096, 256>, Size<2048, 4096>>("mamba1 1.4b");
    layer<Size<6144, 2048>, Size<2048, 2048>, Size<11264, 2048>, Size<2048, 5632>>("gla 1.3b");
    return 0;
}
