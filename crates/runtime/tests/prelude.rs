//! The primitives prelude compiles, whole, for every generation of GPU, and leaves out what a
//! generation does not have.

use fusec_codegen::prelude::{prelude_for, primitives_on};
use fusec_runtime::toolchain::{Options, Source, Toolchain};

/// Uses what an unused template would hide from the compiler.
const USES: &str = r#"
template <typename T> __device__ void vectors(const T* x, T* y) {
    float one[1], three[3], four[4], eight[8], sixteen[16];
    load_vec(x, one), load_vec(x + 4, three), load_vec_stream(x + 16, four), load_vec(x + 32, eight), load_vec_stream(x + 64, sixteen);
    store_vec(y, one), store_vec(y + 4, three), store_vec(y + 16, four), store_vec(y + 32, eight), store_vec(y + 64, sixteen);
    store_f32(y + 1, load_f32(x + 1) + FUSEC_INF);
}
extern "C" __global__ void uses(const float* x, float* y, const bf16_t* b, bf16_t* c, const f16_t* h, f16_t* g) {
    FUSEC_DYNAMIC_SMEM(smem);
    float* scratch = reinterpret_cast<float*>(smem);
    vectors(x, y), vectors(b, c), vectors(h, g);
    prefetch_l2(x), prefetch_share<8>(x, 512);
    grid_dependency_wait();
    float pair[2] = {x[0], x[1]};
    block_sum_vec_once<128>(pair, scratch);
    y[0] = block_sum<128>(pair[0], scratch) + block_max<64>(pair[1], scratch) + lane_sum<8>(x[2]) + lane_sum_strided<4>(x[3]);
    u32 r[4], s[2];
    ldmatrix_x4(r, smem), ldmatrix_x2(s, smem), ldmatrix_x4_trans(r, smem), ldmatrix_x2_trans(s, smem);
    float acc[4] = {};
    u32 a[2] = {r[0], r[1]}, w[1] = {s[0]};
    mma_m16n8k8_f16(acc, a, w);
#if __CUDA_ARCH__ >= 800
    r[0] = pack_bf16x2(x[10], x[11]), r[1] = pack_x2<bf16_t>(x[10], x[11]), r[2] = pack_x2<f16_t>(x[10], x[11]);
    mma_k16<bf16_t>(acc, r, s), mma_k16<f16_t>(acc, r, s);
    cp_async_16(smem, x, true), cp_async_4(smem, x, x[0] > 0.0f), cp_async_commit(), cp_async_wait<1>();
#endif
    y[1] = acc[0] + acc[1] + acc[2] + acc[3];
    y[2] = fexp2_approx(fpow(fsilu(x[4]), fgelu(x[5]))) + flogsigmoid(x[6]) + fsoftplus(x[7]) + fmax32(fmin32(x[8], x[9]), fmax_number(x[8], FUSEC_NAN));
    y[3] = fproduct(x[0], x[1]) + float(mul_high(u64(gridDim.x), ~0ull));
    FUSEC_GIVEN(gridDim.x > 0);
    if (FUSEC_PHASE(0)) grid_barrier();
    grid_dependency_launch();
}
#if __CUDA_ARCH__ >= 900
extern "C" __global__ void copies(const __grid_constant__ tensor_map map, bf16_t* y, f16_t* z, float* u) {
    FUSEC_DYNAMIC_SMEM(smem);
    u64* barrier = reinterpret_cast<u64*>(smem);
    mbarrier_init(barrier, 1), mbarrier_init_fence();
    mbarrier_arrive_expecting(barrier, 128), mbarrier_arrive(barrier), mbarrier_wait(barrier, 0);
    tensor_load_2d(smem + 1024, map, barrier, 0, 64), tensor_load_5d(smem + 2048, map, barrier, 64, 1);
    float eight[8] = {}, one[1] = {};
    store_vec_global(y, eight), store_vec_global(z, eight), store_vec_global(u, eight), store_vec_global(y, one);
}
#endif
#if __CUDA_ARCH__ == 900
template <typename T, bool ACROSS_K> __device__ void products(char* smem, float* y) {
    float d64[32] = {}, d128[64] = {}, d192[96] = {}, d256[128] = {};
    const u64 a = operand_tile(smem, 16), b = operand_tile(smem + 8192, 8192);
    warpgroup_fence();
    static_assert(sizeof(untold(1)) == 4, "");
    wgmma_n64<T, ACROSS_K>(d64, a, b), wgmma_n128<T, ACROSS_K>(d128, a, b), warpgroup_commit(), warpgroup_wait<0>();
    y[threadIdx.x] = d64[3] + d128[5];
    warpgroup_fence();
    wgmma_n192<T, ACROSS_K>(d192, a, b), warpgroup_commit(), warpgroup_wait<0>();
    y[threadIdx.x] += d192[7];
    warpgroup_fence();
    wgmma_n256<T, ACROSS_K>(d256, a, b), warpgroup_commit(), warpgroup_wait<0>();
    y[threadIdx.x] += d256[9];
}
extern "C" __global__ void __launch_bounds__(256, 1) warpgroups(float* y) {
    FUSEC_DYNAMIC_SMEM(smem);
    if (threadIdx.x < 128) {
        registers_release<40>();
    } else {
        registers_claim<232>();
        products<bf16_t, false>(smem, y), products<bf16_t, true>(smem, y), products<f16_t, false>(smem, y), products<f16_t, true>(smem, y);
    }
}
#endif
"#;

#[test]
fn the_prelude_compiles_for_every_generation() {
    if std::env::var("FUSEC_OFFLINE_TESTS").is_ok_and(|value| value == "1") {
        return;
    }
    let toolchain = Toolchain::discover(&Options::from_env()).expect("NVRTC is found or fetched");
    for (arch, number) in [
        ("sm_75", 75),
        ("sm_80", 80),
        ("sm_89", 89),
        ("sm_90a", 90),
        ("sm_100", 100),
        ("sm_120", 120),
    ] {
        let names = primitives_on(number);
        assert_eq!(names.contains("cp_async_16"), number >= 80);
        let text = format!(
            "{}{USES}",
            prelude_for(&names).expect("names of the prelude itself")
        );
        let artifact = toolchain
            .compile(
                &Source {
                    name: "prelude.cu",
                    text: &text,
                    headers: &[],
                },
                arch.parse().expect("known"),
            )
            .unwrap_or_else(|error| panic!("{arch}: {error}"));
        assert!(artifact.resources.contains_key("uses"));
    }
}
