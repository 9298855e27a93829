//! The matrix-product templates against a plain loop, in the emulator: every template, both weight
//! layouts, storage types, hooks, and sizes that divide nothing.

use fusec_codegen::Element;
use fusec_codegen::prelude::with_prelude;
use fusec_codegen::projection::{
    GemmTile, GemvTile, MmaTile, NonZeroTile, Product, Projection, ProjectionTile, Run, SimtTile,
    StreamTile, ThinTile, WeightLayout,
};
use fusec_runtime::emulator::{Emulator, KernelArg, LaunchShape};
use kernels::{c_type, compiled, emulator, matrix, nvrtc};

mod kernels;

const SIMT: ProjectionTile = ProjectionTile::Gemm(GemmTile::Simt(SimtTile {
    rows: 64,
    columns: 64,
}));
const SIMT_WIDE: ProjectionTile = ProjectionTile::Gemm(GemmTile::Simt(SimtTile {
    rows: 128,
    columns: 64,
}));
const SIMT_SMALL: ProjectionTile = ProjectionTile::Gemm(GemmTile::Simt(SimtTile {
    rows: 32,
    columns: 32,
}));
const MMA: ProjectionTile = mma(64, 64, 2, 2, 3, Element::Bf16);
const GEMV: ProjectionTile = gemv(1, 16, 4, 1);

const fn mma(
    rows: usize,
    columns: usize,
    warps_m: usize,
    warps_n: usize,
    stages: usize,
    operand: Element,
) -> ProjectionTile {
    ProjectionTile::Gemm(GemmTile::Mma(MmaTile {
        rows,
        columns,
        warps_m,
        warps_n,
        depth: 32,
        stages,
        operand,
    }))
}

/// A tile as large models get it: few warps, 64 along k.
fn deep(rows: usize, columns: usize, operand: Element) -> ProjectionTile {
    ProjectionTile::Gemm(GemmTile::Mma(MmaTile {
        rows,
        columns,
        warps_m: 2,
        warps_n: 2,
        depth: 64,
        stages: 3,
        operand,
    }))
}

const fn gemv(rows: usize, columns: usize, warps: usize, split: usize) -> ProjectionTile {
    ProjectionTile::Gemv(GemvTile {
        rows,
        columns,
        warps,
        split,
        unroll: 4,
        ring: split > 1,
    })
}

const fn stream(columns: usize, together: usize, warps: usize, in_flight: usize) -> ProjectionTile {
    ProjectionTile::Stream(StreamTile {
        rows: 1,
        columns,
        together,
        warps,
        in_flight,
        operand: None,
        brought: false,
    })
}

const fn nonzero(columns: usize, warps: usize, in_flight: usize) -> ProjectionTile {
    ProjectionTile::NonZero(NonZeroTile {
        columns,
        warps,
        in_flight,
    })
}

/// A stream of so many rows on tensor cores.
const fn stream_of(
    rows: usize,
    columns: usize,
    together: usize,
    warps: usize,
    in_flight: usize,
    operand: Element,
) -> ProjectionTile {
    ProjectionTile::Stream(StreamTile {
        rows,
        columns,
        together,
        warps,
        in_flight,
        operand: Some(operand),
        brought: false,
    })
}

/// The same, with rows in shared memory.
fn brought(tile: ProjectionTile) -> ProjectionTile {
    match tile {
        ProjectionTile::Stream(tile) => ProjectionTile::Stream(StreamTile {
            brought: true,
            ..tile
        }),
        other => other,
    }
}

fn on_tensor_cores(tile: ProjectionTile) -> bool {
    operand(tile).is_some()
}

/// What tensor cores multiply, where they do.
fn operand(tile: ProjectionTile) -> Option<Element> {
    match tile {
        ProjectionTile::Gemm(GemmTile::Mma(MmaTile { operand, .. }))
        | ProjectionTile::Thin(ThinTile { operand, .. }) => Some(operand),
        ProjectionTile::Stream(tile) => tile.operand,
        _ => None,
    }
}

fn thin(rows: usize, warps: usize, split: usize, operand: Element) -> ProjectionTile {
    ProjectionTile::Thin(ThinTile {
        rows,
        columns: warps / split * 16,
        warps,
        split,
        unroll: 2,
        operand,
    })
}

/// One case of the table.
#[derive(Clone, Copy, Debug)]
struct Case {
    tile: ProjectionTile,
    /// Rows, columns, depth.
    size: (usize, usize, usize),
    x: Element,
    w: Element,
    layout: WeightLayout,
    /// Elements added to each row of x and w: strides above the extents.
    padding: usize,
    hooks: Hooks,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Hooks {
    None,
    /// a = x * gain[k] + m, an epilogue that scales and adds a residual.
    Prologue,
    /// GEMV's block-wide section: a = x minus the mean of its row.
    Stage,
    /// Eight columns at a time: a bias is read and y written for all of them.
    Run,
    /// Two products, the second of x squared with other weights: y = first / (1 + second^2).
    Two,
}

const CASE: Case = Case {
    tile: SIMT,
    size: (1, 1, 1),
    x: Element::F32,
    w: Element::F32,
    layout: WeightLayout::Nk,
    padding: 0,
    hooks: Hooks::None,
};

fn projection(case: Case) -> Projection {
    let (_, columns, depth) = case.size;
    let w_stride = case.padding
        + if case.layout == WeightLayout::Nk {
            depth
        } else {
            columns
        };
    let first = Product {
        name: "sum".into(),
        depth,
        x: Some("x".into()),
        x_element: case.x,
        x_stride: depth + case.padding,
        x_offset: 0,
        prologue: String::new(),
        stage: String::new(),
        w: "w".into(),
        w_element: case.w,
        w_stride,
        w_offset: 0,
        w_layout: case.layout,
        rows_of: None,
        x_map: "x_map".into(),
        w_map: "w_map".into(),
    };
    let mut projection = Projection {
        products: vec![first.clone()],
        columns,
        rows: "M".into(),
        block: "blockIdx.x".into(),
        early: case.size.0 % 2 == 1,
        setup: String::new(),
        row_prologue: String::new(),
        epilogue: format!("y[row * {columns} + column] = sum;"),
        run: Run::default(),
    };
    match case.hooks {
        Hooks::None => {}
        Hooks::Prologue => {
            projection.products[0].prologue =
                "activation = activation * gain[inner] + float(row);".into();
            projection.setup = "const float half = 0.5f;".into();
            projection.row_prologue = "const float shift = float(row);".into();
            projection.epilogue = format!(
                "const float halved = sum * half;\ny[row * {columns} + column] = halved + shift + float(column);"
            );
        }
        Hooks::Run => {
            projection.run = Run {
                columns: 8,
                before: "float bias[8], all[8];\nload_vec<float, 8>(gain + column_first, bias);"
                    .into(),
                after: format!("store_vec<float, 8>(y + row * {columns} + column_first, all);"),
            };
            projection.epilogue = "all[nth] = sum + bias[nth] + float(column);".into();
        }
        Hooks::Stage => {
            let stride = depth + case.padding;
            // How rows lie in shared memory.
            let (pitch, store) = match operand(case.tile) {
                Some(operand) => {
                    let store = format!("from_f32<{}>", c_type(operand));
                    (fusec_fuse::schedule::thin::pitch(depth), store)
                }
                None => (depth, String::new()),
            };
            let tile_rows = case.tile.rows();
            projection.products[0].stage = format!(
                "for (int r = warp; r < {tile_rows}; r += WARPS) {{\n    const i64 m = row0 + r;\n    float total = 0.0f;\n    \
                 for (int k = lane; k < {depth}; k += 32) total += m < rows ? to_f32(x[m * {stride} + k]) : 0.0f;\n    \
                 const float mean = warp_sum(total) / {depth}.0f;\n    \
                 for (int k = lane; k < {depth}; k += 32) xs[r * {pitch} + k] = {store}(m < rows ? to_f32(x[m * {stride} + k]) - mean : 0.0f);\n}}"
            );
        }
        Hooks::Two => {
            projection.products.push(Product {
                name: "gate".into(),
                prologue: "activation = activation * activation;".into(),
                w: "w2".into(),
                ..first
            });
            projection.epilogue =
                format!("y[row * {columns} + column] = sum / (1.0f + gate * gate);");
        }
    }
    projection
}

fn source(case: Case) -> String {
    let body = case
        .tile
        .render(&projection(case))
        .unwrap_or_else(|error| panic!("{case:?}: {error}"));
    with_prelude(&format!(
        "extern \"C\" __global__ void __launch_bounds__({}) fusec_product(const {x}* __restrict__ x, const {w}* __restrict__ w, \
         const {w}* __restrict__ w2, const float* __restrict__ gain, float* __restrict__ y, i64 M) {{\n    \
         FUSEC_DYNAMIC_SMEM(smem);\n{body}}}\n",
        case.tile.threads(),
        x = c_type(case.x),
        w = c_type(case.w),
    ))
}

fn check(emulator: &Emulator, case: Case, seed: u64) {
    let (rows, columns, depth) = case.size;
    let projection = projection(case);
    let (x_stride, w_stride) = (
        projection.products[0].x_stride,
        projection.products[0].w_stride,
    );
    let w_rows = if case.layout == WeightLayout::Nk {
        columns
    } else {
        depth
    };
    let mut x = matrix(rows * x_stride, case.x, 1);
    let mut w = matrix(w_rows * w_stride, case.w, 2);
    let mut w2 = matrix(w_rows * w_stride, case.w, 3);
    let mut gain = matrix(depth, Element::F32, 4);
    // One row of guard values behind the result: nothing may be written there.
    let mut y = vec![f32::from_bits(0x7fc0_1234); (rows + 1) * columns];

    let module = emulator
        .build(&[("fusec_product", &source(case))], "")
        .unwrap_or_else(|error| panic!("{case:?}: {error}"));
    let blocks = case.tile.column_tiles(&projection) * rows.div_ceil(case.tile.rows());
    let shape = LaunchShape {
        grid: [blocks as u32, 1, 1],
        block: [case.tile.threads() as u32, 1, 1],
        smem_bytes: case.tile.shared_bytes(&projection) as u32,
        seed,
    };
    let args = [
        KernelArg::Ptr(x.bytes.as_mut_ptr()),
        KernelArg::Ptr(w.bytes.as_mut_ptr()),
        KernelArg::Ptr(w2.bytes.as_mut_ptr()),
        KernelArg::Ptr(gain.bytes.as_mut_ptr()),
        KernelArg::Ptr(y.as_mut_ptr().cast()),
        KernelArg::I64(rows as i64),
    ];
    // SAFETY: the buffers have the sizes that the projection states.
    unsafe { module.launch("fusec_product", shape, &args) }
        .unwrap_or_else(|error| panic!("{case:?}: {error}"));

    // The tensor cores see operands rounded to their type.
    let operand = |a: f64| match operand(case.tile) {
        Some(Element::Bf16) => half::bf16::from_f32(a as f32).to_f64(),
        Some(_) => half::f16::from_f32(a as f32).to_f64(),
        None => a,
    };
    for m in 0..rows {
        let row = &x.values[m * x_stride..][..depth];
        let mean = row.iter().sum::<f64>() / depth as f64;
        for n in 0..columns {
            let (mut sum, mut gate, mut scale) = (0.0, 0.0, 0.0);
            for (k, value) in row.iter().enumerate() {
                let at = if case.layout == WeightLayout::Nk {
                    n * w_stride + k
                } else {
                    k * w_stride + n
                };
                let a = match case.hooks {
                    Hooks::None | Hooks::Run | Hooks::Two => *value,
                    Hooks::Prologue => value * gain.values[k] + m as f64,
                    Hooks::Stage => value - mean,
                };
                sum += operand(a) * operand(w.values[at]);
                gate += operand(value * value) * operand(w2.values[at]);
                scale += (a * w.values[at]).abs();
            }
            let expected = match case.hooks {
                Hooks::None | Hooks::Stage => sum,
                Hooks::Prologue => sum * 0.5 + m as f64 + n as f64,
                Hooks::Run => sum + gain.values[n] + n as f64,
                Hooks::Two => sum / (1.0 + gate * gate),
            };
            let got = f64::from(y[m * columns + n]);
            // Operands in f32 and their rounding to 16 bits may differ by one step from the f64 loop's.
            let slack = if on_tensor_cores(case.tile) && case.hooks != Hooks::None {
                2e-4
            } else {
                2e-6
            };
            let bound = slack * (scale + expected.abs()) + 1e-6;
            assert!(
                (got - expected).abs() <= bound,
                "{case:?} seed {seed}: y[{m}, {n}] = {got}, not {expected}"
            );
        }
    }
    assert!(
        y[rows * columns..]
            .iter()
            .all(|v| v.to_bits() == 0x7fc0_1234),
        "{case:?}: wrote behind the result"
    );
}

fn cases() -> Vec<Case> {
    use Element::{Bf16, F16, F32};
    use Hooks::{None as Plain, Prologue, Run, Stage, Two};
    use WeightLayout::{Kn, Nk};
    let mut cases = Vec::new();
    let mut add = |tile, size, x, w, layout, padding, hooks| {
        cases.push(Case {
            tile,
            size,
            x,
            w,
            layout,
            padding,
            hooks,
        })
    };
    // FP32 units.
    add(SIMT, (1, 1, 1), F32, F32, Nk, 0, Plain);
    add(SIMT, (37, 65, 33), F32, F32, Nk, 0, Plain);
    add(SIMT, (65, 70, 47), F32, F32, Kn, 1, Plain);
    add(SIMT, (130, 64, 64), F32, F32, Nk, 4, Prologue);
    add(SIMT, (74, 131, 36), F32, F32, Kn, 0, Prologue);
    add(SIMT, (33, 40, 24), Bf16, F16, Nk, 0, Two);
    add(SIMT_WIDE, (150, 66, 30), F32, F32, Nk, 2, Plain);
    add(SIMT_WIDE, (129, 64, 20), F32, Bf16, Kn, 0, Two);
    add(SIMT_SMALL, (40, 33, 17), F32, F32, Nk, 0, Prologue);
    // Tensor cores.
    add(MMA, (1, 1, 1), Bf16, Bf16, Nk, 0, Plain);
    add(MMA, (64, 64, 128), Bf16, Bf16, Nk, 0, Plain);
    add(MMA, (70, 72, 72), Bf16, Bf16, Nk, 8, Plain);
    add(MMA, (65, 67, 33), Bf16, Bf16, Nk, 0, Plain);
    add(MMA, (37, 80, 40), Bf16, Bf16, Kn, 0, Plain);
    add(MMA, (37, 83, 45), Bf16, Bf16, Kn, 3, Plain);
    add(MMA, (66, 64, 96), Bf16, Bf16, Nk, 0, Prologue);
    add(MMA, (66, 65, 35), F32, F32, Nk, 0, Prologue);
    add(MMA, (20, 64, 64), Bf16, Bf16, Kn, 0, Two);
    add(
        mma(128, 128, 2, 4, 2, F16),
        (130, 136, 160),
        F16,
        F16,
        Nk,
        0,
        Plain,
    );
    add(
        mma(128, 64, 4, 2, 4, F16),
        (129, 65, 24),
        F16,
        F16,
        Kn,
        0,
        Two,
    );
    add(
        mma(16, 32, 1, 2, 5, Bf16),
        (17, 33, 200),
        Bf16,
        Bf16,
        Nk,
        0,
        Plain,
    );
    // Eight columns of a thread, and long tiles.
    add(MMA, (37, 80, 96), Bf16, Bf16, Nk, 0, Run);
    add(deep(128, 128, F16), (130, 136, 200), F16, F16, Nk, 0, Run);
    add(deep(64, 64, Bf16), (65, 72, 96), Bf16, Bf16, Kn, 0, Run);
    add(deep(64, 64, Bf16), (65, 70, 40), Bf16, Bf16, Kn, 0, Plain);
    add(deep(128, 64, Bf16), (129, 64, 130), Bf16, Bf16, Nk, 0, Two);
    // Few rows.
    add(GEMV, (1, 1, 1), F32, F32, Nk, 0, Plain);
    add(GEMV, (1, 70, 2048), F32, Bf16, Nk, 0, Plain);
    add(GEMV, (1, 33, 77), Bf16, Bf16, Nk, 0, Plain);
    add(gemv(4, 16, 8, 2), (3, 50, 264), F32, F32, Nk, 4, Prologue);
    add(gemv(8, 8, 4, 4), (13, 20, 136), Bf16, F16, Nk, 0, Stage);
    add(gemv(1, 16, 8, 2), (1, 50, 2048), F32, Bf16, Nk, 0, Plain);
    add(gemv(1, 8, 8, 2), (1, 41, 264), F32, F32, Nk, 0, Two);
    add(
        gemv(2, 16, 8, 2),
        (3, 24, 1032),
        Bf16,
        Bf16,
        Nk,
        8,
        Prologue,
    );
    add(gemv(2, 32, 4, 1), (2, 40, 130), F32, F32, Nk, 0, Two);
    add(gemv(1, 32, 4, 1), (1, 64, 300), F32, Bf16, Kn, 0, Plain);
    add(gemv(4, 64, 8, 2), (5, 72, 61), F32, F32, Kn, 0, Prologue);
    add(gemv(3, 16, 2, 1), (3, 19, 40), Bf16, Bf16, Kn, 2, Two);
    add(gemv(2, 16, 4, 2), (1, 24, 96), F32, F32, Kn, 0, Stage);
    // One row: sums that several warps share, columns and steps past the end, no work for some warps.
    add(stream(1, 1, 4, 4), (1, 1, 8), F32, F32, Nk, 0, Plain);
    add(stream(1, 1, 8, 4), (2, 3, 4096), Bf16, Bf16, Nk, 0, Plain);
    add(stream(16, 4, 8, 1), (1, 33, 2048), F32, Bf16, Nk, 0, Plain);
    add(stream(7, 4, 4, 2), (3, 20, 264), F32, F32, Nk, 8, Prologue);
    add(stream(50, 4, 16, 1), (1, 70, 72), Bf16, F16, Nk, 0, Plain);
    add(stream(9, 2, 8, 3), (2, 20, 520), F32, Bf16, Nk, 0, Stage);
    add(stream(12, 4, 8, 2), (2, 41, 776), F32, F32, Nk, 0, Two);
    // One row whose zeros are left out: none are there, but lists are as long as they get.
    add(nonzero(16, 4, 2), (1, 40, 264), F32, Bf16, Kn, 0, Plain);
    add(
        nonzero(64, 16, 8),
        (2, 72, 2048),
        Bf16,
        F16,
        Kn,
        8,
        Prologue,
    );
    add(nonzero(8, 8, 1), (3, 20, 77), F32, F32, Kn, 0, Stage);
    add(nonzero(8, 1, 4), (1, 4, 3), F32, F32, Kn, 4, Plain);
    // Few rows on tensor cores: rows and columns past the end, sums that end inside a run.
    for (rows, size) in [
        (1, (1, 16, 64)),
        (1, (1, 70, 200)),
        (2, (3, 40, 8)),
        (8, (8, 64, 576)),
        (8, (13, 20, 136)),
        (32, (33, 48, 520)),
        (64, (64, 33, 96)),
    ] {
        add(thin(rows, 8, 8, Bf16), size, Bf16, Bf16, Nk, 0, Plain);
        add(thin(rows, 8, 2, F16), size, F32, F16, Nk, 8, Plain);
    }
    for (rows, size) in [(2, (2, 40, 64)), (8, (7, 65, 2056)), (4, (5, 24, 264))] {
        add(
            stream_of(rows, 24, 8, 4, 2, Bf16),
            size,
            Bf16,
            Bf16,
            Nk,
            0,
            Plain,
        );
        let tile = brought(stream_of(rows, 16, 8, 8, 1, Bf16));
        add(tile, size, Bf16, Bf16, Nk, 0, Plain);
        add(
            stream_of(rows, 8, 8, 16, 1, F16),
            size,
            F32,
            F16,
            Nk,
            8,
            Plain,
        );
    }
    add(
        stream_of(4, 16, 8, 8, 2, F16),
        (5, 40, 264),
        F32,
        F16,
        Nk,
        0,
        Prologue,
    );
    add(
        stream_of(8, 16, 8, 4, 1, Bf16),
        (13, 24, 136),
        Bf16,
        Bf16,
        Nk,
        0,
        Stage,
    );
    add(
        stream_of(8, 24, 8, 8, 2, Bf16),
        (9, 72, 128),
        Bf16,
        Bf16,
        Nk,
        0,
        Two,
    );
    add(thin(4, 8, 4, F16), (5, 40, 264), F32, F16, Nk, 0, Prologue);
    add(thin(8, 4, 4, Bf16), (13, 24, 136), Bf16, Bf16, Nk, 0, Stage);
    add(thin(16, 8, 2, Bf16), (9, 72, 128), Bf16, Bf16, Nk, 0, Two);
    cases
}

#[test]
fn products_equal_a_plain_loop() {
    let emulator = emulator();
    for case in cases() {
        for seed in [0, 1, 2, 7] {
            check(&emulator, case, seed);
        }
    }
}

#[test]
fn tiles_that_do_not_fit_are_refused() {
    let tiles = [
        ProjectionTile::Gemm(GemmTile::Simt(SimtTile {
            rows: 48,
            columns: 64,
        })),
        mma(40, 64, 2, 2, 3, Element::Bf16),
        mma(64, 64, 2, 2, 1, Element::Bf16),
        mma(64, 64, 0, 2, 2, Element::Bf16),
        mma(64, 64, 2, 2, 3, Element::F32),
        gemv(9, 16, 4, 1),
        gemv(1, 24, 4, 1),
        gemv(1, 16, 4, 3),
        gemv(1, 2, 4, 1),
        stream(0, 1, 8, 4),
        stream(4, 8, 8, 4),
        stream(4, 4, 0, 4),
        stream(4, 4, 8, 0),
        nonzero(16, 4, 2),
        stream_of(3, 8, 8, 4, 1, Element::Bf16),
        stream_of(8, 12, 8, 4, 1, Element::Bf16),
        stream_of(8, 12, 4, 4, 1, Element::Bf16),
        stream_of(8, 8, 8, 4, 1, Element::F32),
    ];
    for tile in tiles {
        let error = tile
            .render(&projection(Case {
                size: (8, 8, 8),
                ..CASE
            }))
            .expect_err("does not fit");
        assert!(error.to_string().contains(tile.template()), "{error}");
    }
    for (size, layout) in [
        ((1, 8, 12), WeightLayout::Nk),
        ((1, 8, 16), WeightLayout::Kn),
    ] {
        let case = Case {
            size,
            layout,
            ..CASE
        };
        stream(8, 4, 4, 1)
            .render(&projection(case))
            .expect_err("weights that are not read 16 bytes at a time");
    }
    let empty = Projection {
        products: Vec::new(),
        ..projection(CASE)
    };
    assert!(SIMT.render(&empty).is_err());
}

#[test]
fn products_compile_for_every_architecture_that_has_them() {
    let Some(toolchain) = nvrtc() else { return };
    for case in cases() {
        let copies = matches!(
            case.tile,
            ProjectionTile::Gemv(GemvTile { ring: true, .. })
                | ProjectionTile::Stream(_)
                | ProjectionTile::NonZero(_)
        );
        let archs = if copies || on_tensor_cores(case.tile) {
            ["sm_80", "sm_90a"]
        } else {
            ["sm_75", "sm_90a"]
        };
        for arch in archs {
            let text = source(case);
            compiled(&toolchain, "product", &text, arch, &format!("{case:?}"));
        }
    }
}
