//! Products by warpgroups in the emulator: the text that ships, against a plain loop, at sizes that divide
//! nothing, on any number of blocks; and what its primitives refuse.

use fusec_codegen::prelude::with_prelude;
use fusec_codegen::projection::{
    GemmTile, Product, Projection, ProjectionTile, Run, WeightLayout, WgmmaTile,
};
use fusec_codegen::{Element, MapAxis, MapExtent, wgmma};
use fusec_fuse::schedule::wgmma::TILE_ROWS;
use fusec_runtime::emulator::{Emulator, KernelArg, LaunchShape, TensorMapArg};
use kernels::{Tensor, compiled, emulator, matrix, nvrtc};

use Element::{Bf16, F16};
use Hooks::{Bias, Gated, Plain, RowShift};
use WeightLayout::{Kn, Nk};

mod kernels;

/// What becomes of a sum.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Hooks {
    /// One column at a time.
    Plain,
    /// A run of columns at a time, with a bias.
    Bias,
    /// What is the same for a row is computed once for it.
    RowShift,
    /// Two products: first / (1 + second^2).
    Gated,
}

/// Columns, layout of the weights, hooks, columns of the tile.
type Lane = (usize, WeightLayout, Hooks, usize);

#[derive(Clone, Debug)]
struct Case {
    rows: usize,
    depth: usize,
    /// Elements from one row of activations to the next beside `depth`; of weights likewise.
    padding: usize,
    stages: usize,
    operand: Element,
    lanes: Vec<Lane>,
    /// Rows of the tiles.
    tile_rows: usize,
}

fn cases() -> Vec<Case> {
    let case = |rows, depth, padding, stages, operand, lanes: &[Lane]| Case {
        rows,
        depth,
        padding,
        stages,
        operand,
        lanes: lanes.to_vec(),
        tile_rows: 64,
    };
    vec![
        case(1, 8, 0, 2, Bf16, &[(32, Nk, Bias, 64)]),
        case(64, 64, 0, 2, Bf16, &[(64, Nk, Plain, 64)]),
        // Rings that go round, tiles that are not whole, sums that are no multiple of a stage.
        case(130, 200, 0, 2, Bf16, &[(96, Nk, Bias, 64)]),
        case(300, 72, 8, 3, Bf16, &[(72, Nk, Bias, 128)]),
        case(65, 33, 7, 5, F16, &[(67, Nk, Bias, 64)]),
        case(37, 328, 0, 4, F16, &[(160, Nk, RowShift, 256)]),
        case(70, 136, 0, 3, Bf16, &[(224, Nk, Plain, 192)]),
        // Columns side by side.
        case(70, 33, 7, 2, Bf16, &[(80, Kn, Bias, 64)]),
        case(129, 130, 6, 4, F16, &[(200, Kn, Plain, 128)]),
        // Two products of one activation.
        case(66, 136, 0, 3, Bf16, &[(96, Nk, Gated, 128)]),
        case(20, 72, 0, 2, F16, &[(88, Kn, Gated, 256)]),
        // Lanes: narrow ones beside wide ones.
        case(
            150,
            136,
            0,
            3,
            Bf16,
            &[
                (288, Nk, Bias, 256),
                (24, Kn, Plain, 64),
                (64, Nk, RowShift, 128),
            ],
        ),
        case(
            3,
            40,
            0,
            2,
            Bf16,
            &[(32, Nk, Plain, 64), (32, Nk, Gated, 128)],
        ),
    ]
}

fn w_stride(case: &Case, lane: &Lane) -> usize {
    match lane.1 {
        Nk => case.depth + case.padding,
        Kn => lane.0.next_multiple_of(8),
    }
}

fn products(hooks: Hooks) -> usize {
    if hooks == Gated { 2 } else { 1 }
}

fn projection(case: &Case, at: usize) -> Projection {
    let (columns, w_layout, hooks, _) = case.lanes[at];
    let product = |which: usize| Product {
        name: ["sum", "gate"][which].into(),
        depth: case.depth,
        x: None,
        x_element: case.operand,
        x_stride: case.depth + case.padding,
        x_offset: 0,
        prologue: String::new(),
        stage: String::new(),
        w: String::new(),
        w_element: case.operand,
        w_stride: w_stride(case, &case.lanes[at]),
        w_offset: 0,
        w_layout,
        rows_of: None,
        x_map: "x_map".into(),
        w_map: format!("w{at}_{which}_map"),
    };
    let run = wgmma::run(columns, [w_layout]);
    let mut out = Projection {
        products: (0..products(hooks)).map(product).collect(),
        columns,
        rows: "M".into(),
        block: String::new(),
        early: false,
        setup: String::new(),
        row_prologue: String::new(),
        epilogue: format!("y{at}[row * {columns} + column] = sum;"),
        run: Run::default(),
    };
    match hooks {
        Plain => {}
        Bias if run > 1 => {
            out.run = Run {
                columns: run,
                before: format!(
                    "float bias[{run}], all[{run}];\nload_vec<float, {run}>(gain + column_first, bias);"
                ),
                after: format!(
                    "store_vec_global<float, {run}>(y{at} + row * {columns} + column_first, all);"
                ),
            };
            out.epilogue = "all[nth] = sum + bias[nth] + float(column);".into();
        }
        Bias => {
            out.epilogue =
                format!("y{at}[row * {columns} + column] = sum + gain[column] + float(column);")
        }
        RowShift => {
            out.setup = "const float first = float(row0);".into();
            out.row_prologue = "const float shift = float(row) - first;".into();
            out.epilogue = format!("y{at}[row * {columns} + column] = sum * 0.5f + shift + first;");
        }
        Gated => {
            out.epilogue = format!("y{at}[row * {columns} + column] = sum / (1.0f + gate * gate);");
        }
    }
    out
}

fn tile(case: &Case, at: usize) -> WgmmaTile {
    WgmmaTile {
        rows: case.tile_rows,
        columns: case.lanes[at].3,
        stages: case.stages,
        group: 2,
        operand: case.operand,
    }
}

fn source(case: &Case) -> String {
    let projections: Vec<Projection> = (0..case.lanes.len()).map(|i| projection(case, i)).collect();
    let lanes: Vec<(WgmmaTile, &Projection)> = projections
        .iter()
        .enumerate()
        .map(|(i, p)| (tile(case, i), p))
        .collect();
    let body = wgmma::render(&lanes).unwrap_or_else(|error| panic!("{case:?}: {error}"));
    let mut params = vec!["const __grid_constant__ tensor_map x_map".to_string()];
    for p in projections.iter().flat_map(|p| &p.products) {
        params.push(format!("const __grid_constant__ tensor_map {}", p.w_map));
    }
    params.extend((0..projections.len()).map(|i| format!("float* __restrict__ y{i}")));
    with_prelude(&format!(
        "extern \"C\" __global__ void __launch_bounds__({}, 1) fusec_product({}, const float* __restrict__ gain, i64 M) {{\n    \
         const int tid = threadIdx.x;\n    FUSEC_DYNAMIC_SMEM(smem);\n{body}}}\n",
        lanes[0].0.threads(),
        params.join(", ")
    ))
}

fn map(matrix: &Tensor, axes: &[MapAxis], rows: usize) -> KernelArg {
    let mut out = TensorMapArg {
        address: matrix.bytes.as_ptr().expose_provenance() as u64,
        element_bytes: 2,
        axes: axes.len() as u32,
        ..TensorMapArg::default()
    };
    for (i, axis) in axes.iter().enumerate() {
        out.extent[i] = match axis.extent {
            MapExtent::Fixed(n) => n as u64,
            MapExtent::Rows => rows as u64,
        };
        out.stride_bytes[i] = 2 * axis.stride as u64;
        out.span[i] = axis.span as u32;
    }
    KernelArg::TensorMap(out)
}

fn check(emulator: &Emulator, case: &Case, blocks: u32, seed: u64) {
    let projections: Vec<Projection> = (0..case.lanes.len()).map(|i| projection(case, i)).collect();
    let x_stride = case.depth + case.padding;
    let x = matrix(case.rows * x_stride, case.operand, 1);
    let mut weights = Vec::new();
    let mut results = Vec::new();
    let mut args = vec![map(
        &x,
        &wgmma::x_axes(tile(case, 0), &projections[0].products[0]),
        case.rows,
    )];
    for (i, lane) in case.lanes.iter().enumerate() {
        let rows = if lane.1 == Nk { lane.0 } else { case.depth };
        for (which, product) in projections[i].products.iter().enumerate() {
            let seed = 10 + 2 * i as u32 + which as u32;
            let w = matrix(rows * w_stride(case, lane), case.operand, seed);
            let axes = wgmma::w_axes(tile(case, i), &projections[i], product);
            args.push(map(&w, &axes, case.rows));
            weights.push(w);
        }
    }
    for lane in &case.lanes {
        // One row of guard values behind the result: nothing may be written there.
        results.push(vec![f32::from_bits(0x7fc0_1234); (case.rows + 1) * lane.0]);
    }
    for y in &mut results {
        args.push(KernelArg::Ptr(y.as_mut_ptr().cast()));
    }
    let widest = case.lanes.iter().map(|lane| lane.0).max().unwrap_or(0);
    let mut gain = matrix(widest, Element::F32, 4);
    args.push(KernelArg::Ptr(gain.bytes.as_mut_ptr()));
    args.push(KernelArg::I64(case.rows as i64));
    let module = emulator
        .build(&[("fusec_product", &source(case))], "")
        .unwrap_or_else(|error| panic!("{case:?}: {error}"));
    let bytes = (0..case.lanes.len()).map(|i| tile(case, i).shared_bytes());
    let shape = LaunchShape {
        grid: [blocks, 1, 1],
        block: [384, 1, 1],
        smem_bytes: bytes.max().unwrap_or(0) as u32,
        seed,
    };
    // SAFETY: the buffers have the sizes that the projections state.
    unsafe { module.launch("fusec_product", shape, &args) }
        .unwrap_or_else(|error| panic!("{case:?}, {blocks} blocks, seed {seed}: {error}"));

    let mut weights = weights.iter();
    for (i, lane) in case.lanes.iter().enumerate() {
        let (columns, layout, hooks, _) = *lane;
        let w: Vec<&Tensor> = weights.by_ref().take(products(hooks)).collect();
        let stride = w_stride(case, lane);
        let y = &results[i];
        for m in 0..case.rows {
            for n in 0..columns {
                let sum = |w: &Tensor| {
                    let at = |k| match layout {
                        Nk => n * stride + k,
                        Kn => k * stride + n,
                    };
                    let terms =
                        (0..case.depth).map(|k| x.values[m * x_stride + k] * w.values[at(k)]);
                    terms.fold((0.0, 0.0), |(s, a), t: f64| (s + t, a + t.abs()))
                };
                let (first, size) = sum(w[0]);
                let (expected, scale) = match hooks {
                    Plain => (first, size),
                    Bias => (first + gain.values[n] + n as f64, size + n as f64),
                    RowShift => (first * 0.5 + m as f64, size + m as f64),
                    Gated => {
                        let (gate, gate_size) = sum(w[1]);
                        (first / (1.0 + gate * gate), size + gate_size)
                    }
                };
                let got = f64::from(y[m * columns + n]);
                assert!(
                    (got - expected).abs() <= 4e-6 * (scale + 1.0),
                    "{case:?}, {blocks} blocks, seed {seed}, lane {i}: y[{m}, {n}] = {got}, not {expected}"
                );
            }
        }
        let guard = &y[case.rows * columns..];
        assert!(
            guard.iter().all(|v| v.to_bits() == 0x7fc0_1234),
            "{case:?}: wrote behind lane {i}"
        );
    }
}

#[test]
fn products_equal_a_plain_loop_on_any_number_of_blocks() {
    let emulator = emulator();
    for case in cases() {
        for tile_rows in TILE_ROWS {
            let case = Case {
                tile_rows,
                ..case.clone()
            };
            if !(0..case.lanes.len()).all(|at| tile(&case, at).has_accumulators()) {
                continue;
            }
            for (blocks, seed) in [(1, 0), (2, 1), (5, 2), (7, 3)] {
                check(&emulator, &case, blocks, seed);
            }
        }
    }
}

#[test]
fn tiles_and_operands_that_do_not_fit_are_refused() {
    let case = Case {
        rows: 8,
        depth: 16,
        padding: 0,
        stages: 3,
        operand: Bf16,
        lanes: vec![(32, Nk, Plain, 64)],
        tile_rows: 64,
    };
    let good = (tile(&case, 0), projection(&case, 0));
    let render = |(tile, projection): &(WgmmaTile, Projection)| {
        ProjectionTile::Gemm(GemmTile::Wgmma(*tile)).render(projection)
    };
    assert!(render(&good).is_ok());
    type Change = fn(&mut WgmmaTile, &mut Projection);
    let changes: [(&str, Change); 10] = [
        ("rows", |tile, _| tile.rows = 96),
        ("rows", |tile, _| (tile.rows, tile.columns) = (128, 256)),
        ("columns", |tile, _| tile.columns = 96),
        ("columns", |tile, _| tile.columns = 512),
        ("stages", |tile, _| tile.stages = 1),
        ("group", |tile, _| tile.group = 0),
        ("bf16 or f16", |tile, _| tile.operand = Element::F32),
        ("16 bytes", |_, p| p.products[0].x_stride = 12),
        ("16 bytes", |_, p| {
            p.products[0].prologue = "a = a * a;".into()
        }),
        ("runs", |_, p| p.run.columns = 4),
    ];
    for (reason, change) in changes {
        let mut bad = good.clone();
        change(&mut bad.0, &mut bad.1);
        let error = render(&bad).expect_err(reason).to_string();
        assert!(
            error.contains(reason) && error.contains("gemm_wgmma.cu"),
            "{error}"
        );
    }
    let other = WgmmaTile {
        stages: 2,
        ..good.0
    };
    let error = wgmma::render(&[(good.0, &good.1), (other, &good.1)]).expect_err("differ");
    assert!(error.to_string().contains("side by side"), "{error}");
}

#[test]
fn barriers_copies_and_products_that_a_gpu_would_hang_or_fail_on_are_refused() {
    let emulator = emulator();
    let x = matrix(64 * 64, Bf16, 1);
    let axes = |span| {
        let axis = |stride, span| MapAxis {
            extent: MapExtent::Fixed(64),
            stride,
            span,
        };
        [axis(1, span), axis(64, 64)]
    };
    let start = "u64* const barrier = reinterpret_cast<u64*>(smem + 16384);\n";
    let cases = [
        ("was not made", 64, "mbarrier_wait(barrier, 0);"),
        (
            "waits for a phase",
            64,
            "if (tid == 0) mbarrier_init(barrier, 2);\n__syncthreads();\nif (tid == 0) mbarrier_arrive(barrier);\nmbarrier_wait(barrier, 0);",
        ),
        (
            "waits for a phase",
            64,
            "if (tid == 0) mbarrier_init(barrier, 1);\n__syncthreads();\nif (tid == 0) mbarrier_arrive_expecting(barrier, 128);\nmbarrier_wait(barrier, 0);",
        ),
        (
            "beyond the arrivals",
            64,
            "if (tid == 0) { mbarrier_init(barrier, 1); mbarrier_arrive_expecting(barrier, 128); mbarrier_arrive(barrier); }",
        ),
        (
            "had landed",
            64,
            "if (tid == 0) { mbarrier_init(barrier, 1); mbarrier_arrive_expecting(barrier, 8192); tensor_load_2d(smem, x_map, barrier, 0, 0); }",
        ),
        (
            "1,024-byte aligned",
            64,
            "if (tid == 0) { mbarrier_init(barrier, 1); tensor_load_2d(smem + 128, x_map, barrier, 0, 0); }",
        ),
        (
            "lines are not of 128 bytes",
            32,
            "if (tid == 0) { mbarrier_init(barrier, 1); tensor_load_2d(smem, x_map, barrier, 0, 0); }",
        ),
        (
            "number of axes",
            64,
            "if (tid == 0) { mbarrier_init(barrier, 1); tensor_load_5d(smem, x_map, barrier, 0, 0); }",
        ),
    ];
    for (message, span, body) in cases {
        let text = with_prelude(&format!(
            "extern \"C\" __global__ void fusec_misuse(const __grid_constant__ tensor_map x_map) {{\n    \
             const int tid = threadIdx.x;\n    FUSEC_DYNAMIC_SMEM(smem);\n{start}{body}\n}}\n"
        ));
        let module = emulator
            .build(&[("fusec_misuse", &text)], "")
            .unwrap_or_else(|error| panic!("{body}: {error}"));
        let shape = LaunchShape {
            grid: [1, 1, 1],
            block: [64, 1, 1],
            smem_bytes: 16384 + 64,
            seed: 1,
        };
        // SAFETY: the map is of a matrix of 64 x 64.
        let error = unsafe { module.launch("fusec_misuse", shape, &[map(&x, &axes(span), 64)]) }
            .map_or_else(|error| error.to_string(), |_| "it ran".into());
        assert!(error.contains(message), "{body}: {error}");
    }
}

/// What a box has of its tensor has to have been written; what it has beside it is not read at all.
#[test]
fn copies_bring_nothing_that_nobody_wrote() {
    let emulator = emulator();
    let text = with_prelude(
        "extern \"C\" __global__ void fusec_copies(const __grid_constant__ tensor_map x_map) {\n    \
         const int tid = threadIdx.x;\n    FUSEC_DYNAMIC_SMEM(smem);\n    \
         u64* const barrier = reinterpret_cast<u64*>(smem + 16384);\n    \
         if (tid == 0) {\n        mbarrier_init(barrier, 1);\n        mbarrier_init_fence();\n        \
         mbarrier_arrive_expecting(barrier, 8192);\n        \
         tensor_load_2d(smem, x_map, barrier, 0, 0);\n    }\n    __syncthreads();\n    \
         mbarrier_wait(barrier, 0);\n}\n",
    );
    let module = emulator
        .build(&[("fusec_copies", &text)], "")
        .expect("it builds");
    let mut x = matrix(64 * 64, Bf16, 1);
    let (row, column) = (40, 7);
    let at = 2 * (64 * row + column);
    x.bytes[at..at + 2].fill(0xff);
    let axes = [
        MapAxis {
            extent: MapExtent::Fixed(64),
            stride: 1,
            span: 64,
        },
        MapAxis {
            extent: MapExtent::Rows,
            stride: 64,
            span: 64,
        },
    ];
    let shape = LaunchShape {
        grid: [1, 1, 1],
        block: [64, 1, 1],
        smem_bytes: 16384 + 64,
        seed: 1,
    };
    for (rows, finds) in [(64, true), (row + 1, true), (row, false), (1, false)] {
        // SAFETY: the map is of a matrix of 64 x 64, or of fewer rows of it.
        let ran = unsafe { module.launch("fusec_copies", shape, &[map(&x, &axes, rows)]) };
        let said = ran.map_or_else(|error| error.to_string(), |_| "it ran".into());
        let found = said.contains("an element that nobody wrote, 7 along the line and 40 lines on");
        assert_eq!(found, finds, "{rows} rows: {said}");
        assert!(finds || said == "it ran", "{rows} rows: {said}");
    }
}

#[test]
fn products_compile_for_sm_90a_and_overlap() {
    let Some(toolchain) = nvrtc() else { return };
    for case in cases() {
        let text = source(&case);
        let what = format!("{case:?}");
        let artifact = compiled(&toolchain, "product", &text, "sm_90a", &what);
        // A sum of one stage has no products to overlap.
        assert!(
            case.depth <= 64 || !artifact.log.contains("serialized"),
            "{case:?}: {}",
            artifact.log
        );
    }
}
