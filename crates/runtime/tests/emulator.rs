//! The emulator runs kernels as a GPU would: right numbers from right kernels, and an error or a wrong
//! number from kernels with a race, a divergent barrier or a misaligned access.

use std::collections::BTreeSet;
use std::path::Path;

use fusec_codegen::prelude::{primitives, with_prelude};
use fusec_runtime::emulator::{
    EmulatedModule, Emulator, EmulatorError, EmulatorOptions, KernelArg, LaunchShape,
};

fn emulator() -> Emulator {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulator");
    Emulator::new(&cache, EmulatorOptions::default()).expect("g++ is installed where the tests run")
}

/// The entry of a kernel of these tests, which are written under short names.
fn entry(name: &str) -> String {
    format!("fusec_{name}")
}

fn build(name: &str, body: &str) -> EmulatedModule {
    let entry = entry(name);
    let source = body.replace(&format!("void {name}("), &format!("void {entry}("));
    emulator()
        .build(&[(&entry, &with_prelude(&source))], "")
        .unwrap_or_else(|error| panic!("{error}"))
}

fn shape(grid: u32, block: u32, smem_bytes: u32, seed: u64) -> LaunchShape {
    LaunchShape {
        grid: [grid, 1, 1],
        block: [block, 1, 1],
        smem_bytes,
        seed,
    }
}

fn launch(
    module: &EmulatedModule,
    kernel: &str,
    shape: LaunchShape,
    args: &[KernelArg],
) -> Result<u32, EmulatorError> {
    // SAFETY: every test passes buffers of the sizes its kernel addresses.
    unsafe { module.launch(&entry(kernel), shape, args) }
}

fn pointer<T>(buffer: &mut [T]) -> KernelArg {
    KernelArg::Ptr(buffer.as_mut_ptr().cast())
}

/// Reproducible values in [-1, 1).
fn values(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
        })
        .collect()
}

const LAYER_NORM: &str = r#"
extern "C" __global__ void layer_norm(const float* __restrict__ x, bf16_t* __restrict__ y, const int C, float eps) {
    FUSEC_DYNAMIC_SMEM(smem);
    float* scratch = reinterpret_cast<float*>(smem);
    const float* row = x + i64(blockIdx.x) * C;
    float sum = 0.0f;
    for (int c = threadIdx.x; c < C; c += 128) sum += row[c];
    float mean = block_sum<128>(sum, scratch) / C;
    float square = 0.0f;
    for (int c = threadIdx.x; c < C; c += 128) square += (row[c] - mean) * (row[c] - mean);
    float scale = frsqrt(block_sum<128>(square, scratch) / C + eps);
    for (int c = threadIdx.x; c < C; c += 128) y[i64(blockIdx.x) * C + c] = from_f32<bf16_t>((row[c] - mean) * scale);
}
"#;

#[test]
fn a_layer_norm_gives_the_right_numbers_in_every_order() {
    let module = build("layer_norm", LAYER_NORM);
    let (rows, c) = (37usize, 300usize);
    let mut x = values(rows * c, 1);
    for seed in 0..6 {
        let mut y = vec![half::bf16::ZERO; rows * c];
        let args = [
            pointer(&mut x),
            pointer(&mut y),
            KernelArg::I32(c as i32),
            KernelArg::F32(1e-5),
        ];
        launch(
            &module,
            "layer_norm",
            shape(rows as u32, 128, 16, seed),
            &args,
        )
        .expect("runs");
        for row in 0..rows {
            let values = &x[row * c..][..c];
            let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / c as f64;
            let variance = values
                .iter()
                .map(|v| (f64::from(*v) - mean).powi(2))
                .sum::<f64>()
                / c as f64;
            for (got, v) in y[row * c..][..c].iter().zip(values) {
                let expected = (f64::from(*v) - mean) / (variance + 1e-5).sqrt();
                assert!(
                    (got.to_f64() - expected).abs() <= 0.004 * expected.abs() + 1e-5,
                    "{got} {expected} seed {seed}"
                );
            }
        }
    }
}

/// Each block adds up what all blocks wrote before the barrier.
const PHASES: &str = r#"
extern "C" __global__ void phases(float* made, float* sums, i64 n) {
    if (FUSEC_PHASE(0)) {
        for (i64 turn = blockIdx.x; turn < n; turn += gridDim.x) made[turn] = float(turn + 1);
    }
    grid_barrier();
    if (FUSEC_PHASE(1)) {
        for (i64 turn = blockIdx.x; turn < n; turn += gridDim.x) {
            float sum = 0.0f;
            for (i64 i = 0; i < n; ++i) sum += made[i];
            sums[turn] = sum;
        }
    }
    grid_barrier();
    if (FUSEC_PHASE(2) && threadIdx.x == 0) made[blockIdx.x] += sums[n - 1 - blockIdx.x];
}
"#;

#[test]
fn a_barrier_of_the_grid_is_one_for_all_blocks() {
    let n = 24usize;
    let run = |source: &str, blocks: u32, seed: u64| {
        let module = build("phases", source);
        let (mut made, mut sums) = (vec![f32::NAN; n], vec![f32::NAN; n]);
        let args = [
            pointer(&mut made),
            pointer(&mut sums),
            KernelArg::I64(n as i64),
        ];
        let barriers = launch(&module, "phases", shape(blocks, 64, 0, seed), &args)?;
        Ok::<_, EmulatorError>((barriers, made, sums))
    };
    let total = (n * (n + 1) / 2) as f32;
    for blocks in [1, 7, 24] {
        for seed in 0..4 {
            let (barriers, made, sums) = run(PHASES, blocks, seed).expect("runs");
            assert_eq!(barriers, 2);
            assert_eq!(sums, vec![total; n], "{blocks} blocks, seed {seed}");
            for (i, got) in made.iter().enumerate() {
                let more = if i < blocks as usize { total } else { 0.0 };
                assert_eq!(*got, (i + 1) as f32 + more);
            }
        }
    }
    // Without the first barrier nobody gets as far as the last phase, and its results are missing.
    let missing = PHASES.replacen("grid_barrier();", "", 1);
    let (barriers, made, _) = run(&missing, 7, 1).expect("runs");
    assert_eq!(barriers, 1);
    assert_eq!(made[0], 1.0);
    // Some blocks leave, or only some threads arrive.
    let uneven = PHASES.replacen("grid_barrier();", "if (blockIdx.x > 2) grid_barrier();", 1);
    let error = run(&uneven, 7, 1).expect_err("uneven").to_string();
    assert!(
        error.contains("met 1 barriers") && error.contains("others 2"),
        "{error}"
    );
    let diverging = PHASES.replacen("grid_barrier();", "if (tid > 2) grid_barrier();", 1);
    let diverging = diverging.replacen("{", "{ const int tid = threadIdx.x;", 1);
    let error = run(&diverging, 7, 1).expect_err("divergent").to_string();
    assert!(error.contains("divergent barrier"), "{error}");
}

const SHUFFLES: &str = r#"
extern "C" __global__ void shuffles(int* out) {
    int lane = threadIdx.x & 31, at = threadIdx.x * 8;
    out[at + 0] = __shfl_sync(0xffffffffu, int(threadIdx.x), 5);
    out[at + 1] = __shfl_sync(0xffffffffu, int(threadIdx.x), lane + 3, 8);
    out[at + 2] = __shfl_up_sync(0xffffffffu, int(threadIdx.x), 2);
    out[at + 3] = __shfl_down_sync(0xffffffffu, int(threadIdx.x), 3, 16);
    out[at + 4] = __shfl_xor_sync(0xffffffffu, int(threadIdx.x), 9);
    out[at + 5] = int(__ballot_sync(0xffffffffu, lane % 3 == 0));
    // Halves of a warp may go separate ways with masks of their own.
    if (lane < 16) out[at + 6] = __shfl_xor_sync(0x0000ffffu, lane, 1);
    else out[at + 6] = __shfl_down_sync(0xffff0000u, lane, 1, 16);
    out[at + 7] = int(lane_sum<8>(float(lane)) + warp_max(float(lane)) * 1000.0f);
}
"#;

#[test]
fn shuffles_and_votes_follow_cuda() {
    let module = build("shuffles", SHUFFLES);
    for seed in 0..4 {
        let mut out = vec![-1i32; 64 * 8];
        launch(
            &module,
            "shuffles",
            shape(1, 64, 0, seed),
            &[pointer(&mut out)],
        )
        .expect("runs");
        for t in 0..64i32 {
            let (warp, lane) = (t / 32 * 32, t % 32);
            let group = lane / 8 * 8;
            let expected = [
                warp + 5,
                warp + group + (lane + 3) % 8,
                if lane < 2 { t } else { t - 2 },
                if lane % 16 + 3 > 15 { t } else { t + 3 },
                warp + (lane ^ 9),
                0b0100_1001_0010_0100_1001_0010_0100_1001,
                if lane < 16 {
                    lane ^ 1
                } else {
                    (lane + 1).min(31)
                },
                (group..group + 8).sum::<i32>() + 31_000,
            ];
            assert_eq!(
                out[t as usize * 8..][..8],
                expected,
                "thread {t}, seed {seed}"
            );
        }
    }
}

/// One 64 x 32 tile of Y = X W^T from K-contiguous bf16 operands: cp.async in two stages, ldmatrix, mma.
const GEMM_TILE: &str = r#"
extern "C" __global__ void gemm_tile(const bf16_t* __restrict__ x, const bf16_t* __restrict__ w, float* __restrict__ y, i64 K) {
    FUSEC_DYNAMIC_SMEM(smem);
    constexpr int LD = 24;  // 16 columns and 16 bytes of padding against bank conflicts
    bf16_t* xs = reinterpret_cast<bf16_t*>(smem);
    bf16_t* ws = xs + 2 * 64 * LD;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    auto stage = [&](int s, i64 k) {
        for (int i = threadIdx.x; i < 128; i += 128)
            cp_async_16(xs + (s * 64 + i / 2) * LD + i % 2 * 8, x + (i / 2) * K + k + i % 2 * 8, k < K);
        if (threadIdx.x < 64) {
            int i = threadIdx.x;
            cp_async_16(ws + (s * 32 + i / 2) * LD + i % 2 * 8, w + (i / 2) * K + k + i % 2 * 8, k < K);
        }
        cp_async_commit();
    };
    float c[4][4] = {};
    stage(0, 0);
    for (i64 k = 0; k < K; k += 16) {
        int s = int(k / 16) & 1;
        stage(s ^ 1, k + 16);
        cp_async_wait<1>();
        __syncthreads();
        u32 a[4];
        ldmatrix_x4(a, xs + (s * 64 + warp * 16 + lane % 16) * LD + lane / 16 * 8);
        for (int n = 0; n < 4; ++n) {
            u32 b[2];
            ldmatrix_x2(b, ws + (s * 32 + n * 8 + lane % 8) * LD + (lane / 8 % 2) * 8);
            mma_m16n8k16_bf16(c[n], a, b);
        }
        __syncthreads();
    }
    for (int n = 0; n < 4; ++n)
        for (int i = 0; i < 4; ++i)
            y[(warp * 16 + lane / 4 + i / 2 * 8) * 32 + n * 8 + lane % 4 * 2 + i % 2] = c[n][i];
}
"#;

fn run_gemm_tile(module: &EmulatedModule, seed: u64) -> (Vec<f32>, Vec<f32>) {
    let k = 80usize;
    let round = |v: Vec<f32>| v.into_iter().map(half::bf16::from_f32).collect::<Vec<_>>();
    let (mut x, mut w) = (round(values(64 * k, 2)), round(values(32 * k, 3)));
    let mut y = vec![0f32; 64 * 32];
    let args = [
        pointer(&mut x),
        pointer(&mut w),
        pointer(&mut y),
        KernelArg::I64(k as i64),
    ];
    launch(
        module,
        "gemm_tile",
        shape(1, 128, 2 * 96 * 24 * 2, seed),
        &args,
    )
    .expect("runs");
    let expected = (0..64 * 32)
        .map(|i| {
            (0..k)
                .map(|j| x[i / 32 * k + j].to_f32() * w[i % 32 * k + j].to_f32())
                .sum()
        })
        .collect();
    (y, expected)
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(
            0.0,
            |m, d| if d.is_nan() { f32::INFINITY } else { m.max(d) },
        )
}

#[test]
fn a_tensor_core_tile_with_asynchronous_copies() {
    let module = build("gemm_tile", GEMM_TILE);
    for seed in 0..6 {
        let (y, expected) = run_gemm_tile(&module, seed);
        assert!(largest_difference(&y, &expected) < 1e-4, "seed {seed}");
    }
}

#[test]
fn a_missing_barrier_or_wait_shows_in_the_numbers() {
    let second_barrier = GEMM_TILE
        .rfind("        __syncthreads();\n")
        .expect("it is there");
    let mut without_last = GEMM_TILE.to_owned();
    without_last.replace_range(
        second_barrier..,
        &GEMM_TILE[second_barrier..].replacen("        __syncthreads();\n", "\n", 1),
    );
    let cases = [
        (
            "without the first barrier",
            GEMM_TILE.replacen("        __syncthreads();\n", "\n", 1),
        ),
        (
            "without the barrier before the buffer is reused",
            without_last,
        ),
        (
            "with a wait for the wrong stage",
            GEMM_TILE.replace("cp_async_wait<1>", "cp_async_wait<2>"),
        ),
        (
            "without a wait",
            GEMM_TILE.replace("cp_async_wait<1>();", ""),
        ),
    ];
    for (what, source) in cases {
        assert_ne!(source, GEMM_TILE);
        let module = build("gemm_tile", &source);
        let wrong = (0..6).filter(|seed| {
            let (y, expected) = run_gemm_tile(&module, *seed);
            largest_difference(&y, &expected) > 1e-3
        });
        assert!(
            wrong.count() >= 4,
            "a tile {what} must be caught by most seeds"
        );
    }
}

#[test]
fn an_unwritten_shared_word_is_nan_and_blocks_do_not_see_each_other() {
    let module = build(
        "fresh",
        r#"extern "C" __global__ void fresh(float* y) {
            FUSEC_DYNAMIC_SMEM(smem);
            float* s = reinterpret_cast<float*>(smem);
            y[blockIdx.x * 32 + threadIdx.x] = s[threadIdx.x];
            s[threadIdx.x] = 1.0f;
        }"#,
    );
    let mut y = vec![0f32; 128];
    launch(&module, "fresh", shape(4, 32, 128, 1), &[pointer(&mut y)]).expect("runs");
    assert!(y.iter().all(|v| v.is_nan()));
}

#[test]
fn illegal_kernels_end_in_an_error_that_names_them() {
    let cases = [
        (
            "if (threadIdx.x < 40) __syncthreads();",
            0,
            "ended while others wait|has already ended",
            "a barrier some skip",
        ),
        (
            "if (threadIdx.x < 32) { __syncthreads(); }\n else { __syncthreads(); }",
            0,
            "divergent barrier: thread",
            "two barriers in two branches",
        ),
        (
            "if (threadIdx.x % 32 < 7) __syncwarp();\n else __syncthreads();",
            0,
            "no thread can go on",
            "a warp barrier against a block barrier",
        ),
        (
            "if (threadIdx.x % 2) y[0] = __shfl_sync(0xffffffffu, y[0], 0);",
            0,
            "divergent warp|has already ended",
            "half a shuffle",
        ),
        (
            "y[0] = __shfl_sync(2u, y[0], 0);",
            0,
            "which leaves it out",
            "a mask without the caller",
        ),
        (
            "float v[4]; load_vec(y + 1, v); y[0] = v[0];",
            0,
            "misaligned",
            "a misaligned vector",
        ),
        (
            "FUSEC_DYNAMIC_SMEM(s); s[64] = 1;",
            64,
            "behind its 64 bytes",
            "a shared memory overrun",
        ),
        (
            "FUSEC_DYNAMIC_SMEM(s); y[0] = block_sum<32>(1.0f, (float*)s);",
            64,
            "block_sum<32>",
            "a wrong block size",
        ),
    ];
    for (body, smem, message, what) in cases {
        let module = build(
            "bad",
            &format!("extern \"C\" __global__ void bad(float* y) {{\n{body}\n}}"),
        );
        for seed in 0..5 {
            #[repr(align(16))]
            struct Aligned([f32; 16]);
            let mut y = Aligned([0.0; 16]);
            let error = launch(
                &module,
                "bad",
                shape(2, 64, smem, seed),
                &[pointer(&mut y.0)],
            )
            .expect_err(what)
            .to_string();
            assert!(error.contains("kernel `bad`"), "{error}");
            assert!(
                message.split('|').any(|part| error.contains(part)),
                "{what}: {error}"
            );
        }
    }
}

#[test]
fn wrong_calls_are_refused() {
    let module = build("layer_norm", LAYER_NORM);
    let mut x = [0f32; 4];
    let one = LaunchShape {
        grid: [1, 1, 1],
        block: [128, 1, 1],
        smem_bytes: 16,
        seed: 0,
    };
    let good = [
        pointer(&mut x),
        pointer(&mut x),
        KernelArg::I32(4),
        KernelArg::F32(0.0),
    ];
    let error = launch(&module, "layer_norms", one, &good)
        .expect_err("unknown")
        .to_string();
    assert!(
        error.contains("`layer_norms`") && error.contains("it has layer_norm"),
        "{error}"
    );
    let error = launch(&module, "layer_norm", one, &good[..3])
        .expect_err("too few")
        .to_string();
    assert!(
        error.contains("takes (pointer, pointer, i32, f32)")
            && error.contains("(pointer, pointer, i32)"),
        "{error}"
    );
    for (grid, block, smem) in [
        ([0, 1, 1], [32, 1, 1], 0),
        ([1, 1, 1], [1025, 1, 1], 0),
        ([1, 1, 1], [32, 64, 1], 0),
        ([1, 1, 1], [32, 1, 1], 1 << 20),
    ] {
        let bad = LaunchShape {
            grid,
            block,
            smem_bytes: smem,
            seed: 0,
        };
        assert!(matches!(
            launch(&module, "layer_norm", bad, &good),
            Err(EmulatorError::Shape { .. })
        ));
    }
}

#[test]
fn sources_that_do_not_build_are_reported() {
    let emulator = emulator();
    let error = emulator
        .build(
            &[(
                "fusec_k",
                "extern \"C\" __global__ void fusec_k() {\n  nonsense();\n}",
            )],
            "",
        )
        .expect_err("no such function");
    assert!(error.to_string().contains("\nk.cu:2"), "{error}");
    let error = emulator
        .build(
            &[(
                "fusec_k",
                "extern \"C\" __global__ void fusec_k() { __shared__ float s[4]; }",
            )],
            "",
        )
        .expect_err("static");
    assert!(
        error.to_string().contains("use_FUSEC_DYNAMIC_SMEM"),
        "{error}"
    );
    for sources in [
        &[("fusec_a b", "")][..],
        &[("fusec_a", "1"), ("fusec_a", "2")],
        &[("free", "extern \"C\" __global__ void free(void*) {}")],
    ] {
        let built = emulator.build(sources, "");
        assert!(matches!(built, Err(EmulatorError::Name { .. })));
    }
    let missing = EmulatorOptions {
        compiler: "/nonexistent/g++".into(),
        ..EmulatorOptions::default()
    };
    let error =
        Emulator::new(Path::new(env!("CARGO_TARGET_TMPDIR")), missing).expect_err("no compiler");
    assert!(error.to_string().contains("apt install g++"), "{error}");
}

#[test]
fn without_a_cache_kernels_are_built_all_the_same() {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    let emulator = Emulator::new(&file.path().join("cache"), EmulatorOptions::default())
        .expect("a cache that cannot be is no reason to stop");
    let module = emulator.build(&[SEVEN], "").expect("builds");
    assert_eq!(seven(&module), 7);
}

/// A kernel that writes 7.
const SEVEN: (&str, &str) = (
    "fusec_seven",
    "extern \"C\" __global__ void fusec_seven(int* y) { y[0] = 7; }",
);

fn seven(module: &EmulatedModule) -> i32 {
    let mut y = [0i32];
    launch(module, "seven", shape(1, 1, 0, 0), &[pointer(&mut y)]).expect("runs");
    y[0]
}

#[test]
fn a_damaged_library_is_never_loaded() {
    let cache = tempfile::tempdir().expect("temporary directory");
    let emulator =
        Emulator::new(cache.path(), EmulatorOptions::default()).expect("g++ is installed");
    emulator.build(&[SEVEN], "").expect("builds");
    let entry = std::fs::read_dir(cache.path())
        .expect("readable")
        .map(|entry| entry.expect("an entry").path())
        .next()
        .expect("one entry");
    let sound = std::fs::read(&entry).expect("readable");
    // A flipped bit in the code, in the tables of the loader, in the header; a file cut short.
    let flips = [100, 1000, sound.len() / 2, sound.len() - 40];
    let damaged = flips.iter().map(|at| {
        let mut bytes = sound.clone();
        bytes[*at] ^= 0x41;
        bytes
    });
    let cut = [0, 64, sound.len() / 3].map(|length| sound[..length].to_vec());
    for bytes in damaged.chain(cut) {
        std::fs::write(&entry, bytes).expect("writable");
        let module = emulator.build(&[SEVEN], "").expect("built anew");
        assert_eq!(seven(&module), 7);
        assert_eq!(
            std::fs::read(&entry).expect("readable")[..8],
            sound[..8],
            "the entry is whole again"
        );
    }
}

#[test]
fn a_kernel_is_compiled_once() {
    let cache = tempfile::tempdir().expect("temporary directory");
    let emulator =
        Emulator::new(cache.path(), EmulatorOptions::default()).expect("g++ is installed");
    emulator.build(&[SEVEN], "").expect("builds");
    let objects = || {
        std::fs::read_dir(cache.path())
            .expect("readable")
            .flatten()
            .map(|e| (e.path(), e.metadata().and_then(|m| m.modified()).ok()))
            .collect::<Vec<_>>()
    };
    let before = objects();
    assert_eq!(before.len(), 1, "one object and no temporary file");
    let module = emulator.build(&[SEVEN], "").expect("builds");
    assert_eq!(objects(), before);
    assert_eq!(seven(&module), 7);
}

#[test]
fn every_primitive_has_a_body_of_the_same_name() {
    // Names that only organise the GPU bodies of load_vec and store_vec, and of products of warpgroups.
    let internal = BTreeSet::from([
        "RawVec",
        "unpack_f32",
        "pack_f32",
        "VecIsRaw",
        "VecIo",
        "stores_bf16",
        "wgmma_takes_f16",
        "FUSEC_WGMMA",
        "FUSEC_WGMMA_HELD",
        "FUSEC_ACC_8",
        "FUSEC_ACC_32",
        "FUSEC_D_64",
        "FUSEC_D_128",
        "FUSEC_D_32",
        "FUSEC_D_192",
        "FUSEC_D_256",
    ]);
    let body: String = primitives()
        .filter(|name| !internal.contains(name))
        .map(|name| match name {
            "FUSEC_INF" | "FUSEC_NAN" => format!("float {}_ = {name};\n", name.to_lowercase()),
            "FUSEC_DYNAMIC_SMEM" => "FUSEC_DYNAMIC_SMEM(smem);\n".to_owned(),
            "FUSEC_GIVEN" => "FUSEC_GIVEN(gridDim.x > 0);\n".to_owned(),
            "FUSEC_PHASE" => "bool phase = FUSEC_PHASE(0);\n".to_owned(),
            _ => format!("using ::{name};\n"),
        })
        .collect();
    let source = format!("extern \"C\" __global__ void fusec_names() {{\n{body}\n}}");
    emulator()
        .build(&[("fusec_names", &source)], "")
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn storage_conversions_round_to_nearest_even() {
    let module = build(
        "convert",
        r#"extern "C" __global__ void convert(const float* x, bf16_t* b, f16_t* h, float* back, int n) {
            int i = blockIdx.x * 256 + threadIdx.x;
            if (i >= n) return;
            b[i] = from_f32<bf16_t>(x[i]);
            h[i] = from_f32<f16_t>(x[i]);
            back[2 * i] = to_f32(b[i]);
            back[2 * i + 1] = to_f32(h[i]);
        }"#,
    );
    // Ties in both directions, overflow, denormals of both formats, infinities, NaNs; then all sorts.
    let mut x: Vec<f32> = [
        0x0000_0000u32,
        0x8000_0000,
        0x3f80_8000,
        0x3f81_8000,
        0x3f80_8001,
        0x3f80_7fff,
        0x7f7f_ffff,
        0xff7f_ffff,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000,
        0x7f80_0001,
        0xffff_ffff,
        0x0000_0001,
        0x0000_8000,
        0x0001_8000,
        0x007f_ffff,
        0x3380_0000,
        0x3300_0000,
        0x3300_0001,
        0x33c0_0000,
        0x387f_ffff,
        0x3880_0000,
        0x477f_efff,
        0x477f_f000,
        0x4780_0000,
        0x3f80_1000,
        0x3f80_3000,
    ]
    .map(f32::from_bits)
    .to_vec();
    x.extend((0..200_000u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761))));
    let n = x.len();
    let (mut b, mut h, mut back) = (
        vec![half::bf16::ZERO; n],
        vec![half::f16::ZERO; n],
        vec![0f32; 2 * n],
    );
    let args = [
        pointer(&mut x),
        pointer(&mut b),
        pointer(&mut h),
        pointer(&mut back),
        KernelArg::I32(n as i32),
    ];
    launch(
        &module,
        "convert",
        shape(n.div_ceil(256) as u32, 256, 0, 3),
        &args,
    )
    .expect("runs");
    for i in 0..n {
        if x[i].is_nan() {
            assert_eq!(
                (b[i].to_bits(), h[i].to_bits()),
                (0x7fff, 0x7fff),
                "NaN is canonical"
            );
        } else {
            assert_eq!(b[i], half::bf16::from_f32(x[i]), "{:08x}", x[i].to_bits());
            assert_eq!(h[i], half::f16::from_f32(x[i]), "{:08x}", x[i].to_bits());
            assert_eq!(
                (back[2 * i], back[2 * i + 1]),
                (b[i].to_f32(), h[i].to_f32())
            );
        }
    }
}

#[test]
fn activations_are_accurate_and_survive_extreme_arguments() {
    type Reference = fn(f64) -> f64;
    let cases: [(&str, Reference); 9] = [
        ("fexp", f64::exp),
        ("ftanh", f64::tanh),
        ("fsigmoid", |x| 1.0 / (1.0 + (-x).exp())),
        ("fsilu", |x| x / (1.0 + (-x).exp())),
        ("fsoftplus", |x| x.max(0.0) + (-x.abs()).exp().ln_1p()),
        ("flogsigmoid", |x| x.min(0.0) - (-x.abs()).exp().ln_1p()),
        ("fsin", f64::sin),
        ("frsqrt", |x| 1.0 / x.sqrt()),
        ("frelu", |x| x.max(0.0)),
    ];
    let calls: String = cases
        .iter()
        .enumerate()
        .map(|(j, (name, _))| format!("y[{} * i + {j}] = {name}(x[i]);\n", cases.len()))
        .collect();
    let module = build(
        "activations",
        &format!(
            "extern \"C\" __global__ void activations(const float* x, float* y) {{\nint i = threadIdx.x;\n{calls}}}"
        ),
    );
    let mut x: Vec<f32> = (-110..=110).map(|i| i as f32 * 0.75 + 0.01).collect();
    let mut y = vec![0f32; x.len() * cases.len()];
    let n = x.len() as u32;
    launch(
        &module,
        "activations",
        shape(1, n, 0, 0),
        &[pointer(&mut x), pointer(&mut y)],
    )
    .expect("runs");
    for (i, x) in x.iter().enumerate() {
        for (j, (name, reference)) in cases.iter().enumerate() {
            let (got, expected) = (f64::from(y[i * cases.len() + j]), reference(f64::from(*x)));
            if expected.is_nan() {
                assert!(got.is_nan(), "{name}({x})");
            } else {
                // Results below the smallest normal number may flush.
                assert!(
                    (got - expected).abs() <= 5e-7 * expected.abs() + 1.2e-38,
                    "{name}({x}) = {got}, not {expected}"
                );
            }
        }
    }
}
