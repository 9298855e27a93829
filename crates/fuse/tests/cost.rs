//! The cost model says what is known of GPUs, and plans follow.

mod common;

use common::{Build, h200, model, options};
use fusec_fuse::context::Context;
use fusec_fuse::cost::cost;
use fusec_fuse::fit::fit;
use fusec_fuse::{Cost, Device, Kernel, Mode, Options, Shape, Storage, Template, plan};
use fusec_ir::*;

/// The cost of one operation as a kernel.
fn alone(
    graph: &Graph,
    name: &str,
    device: &Device,
    storage: Storage,
    shape: (usize, usize),
) -> Cost {
    let (batch, time) = shape;
    let ctx = Context::new(graph, Shape { batch, time }, storage, device, 1.0);
    let of = |id: &&OpId| graph.op(**id).name == name;
    let op = ctx.planned().iter().find(of).expect("planned");
    cost(&ctx, &fit(&ctx, &[*op]).expect("legal"))
}

fn kernel_of<'a>(kernels: &'a [Kernel], name: &str) -> &'a Kernel {
    let holds = |k: &&Kernel| k.names.iter().any(|n| n == name);
    kernels.iter().find(holds).expect("planned")
}

/// Numbers of the cost model's text that count something: all others stand in the device files.
const COUNTS: [(&str, &str); 9] = [
    ("0.0", "nothing"),
    ("1.0", "one, or all of it"),
    (
        "2.0",
        "a multiply-add, a state read and written, half of a triangle",
    ),
    ("3.0", "operations of a norm for an element"),
    ("4.0", "bytes of an f32"),
    ("32.0", "threads of a warp"),
    ("1024.0", "bytes of a KiB"),
    ("1e3", "from one unit to another"),
    ("1e6", "from one unit to another"),
];

#[test]
fn no_figure_of_a_device_stands_in_the_text_of_the_cost_model() {
    let of = |name: &str| {
        (
            name.to_owned(),
            format!("{}/src/{name}", env!("CARGO_MANIFEST_DIR")),
        )
    };
    let mut files = vec![of("cost.rs")];
    let folder = std::fs::read_dir(of("cost").1).expect("a folder").flatten();
    files.extend(folder.map(|f| of(&format!("cost/{}", f.file_name().display()))));
    assert!(files.len() >= 3);
    for (name, path) in files {
        let text = std::fs::read_to_string(path).expect("a file of the crate");
        for (number, line) in (1..).zip(text.lines()) {
            let code = line.split("//").next().unwrap_or("");
            let words = code.split(|c: char| c != '.' && c != '_' && !c.is_ascii_alphanumeric());
            for word in words.filter(|w| w.starts_with(|c: char| c.is_ascii_digit())) {
                let fraction = word.contains(['.', 'e']) && word.parse::<f64>().is_ok();
                let known = COUNTS.iter().any(|(count, _)| *count == word);
                assert!(
                    !fraction || known,
                    "{name}:{number}: `{word}` belongs in devices/*.toml"
                );
            }
        }
    }
}

#[test]
fn a_large_map_takes_the_time_of_its_bytes() {
    let mut b = Build::new();
    let c = b.axis("C", 2048);
    let x = b.input("x", &[c]);
    let y = b.unary("y", Unary::Relu, x);
    let g = b.output(&[y]);
    let device = h200();
    let cost = alone(&g, "y", &device, Storage::F32, (8, 2048));
    let bytes = 2.0 * 4.0 * 8.0 * 2048.0 * 2048.0;
    assert_eq!(cost.bytes, bytes);
    let memory_tbs = device.memory_tbs.value * device.fitted.memory_efficiency.value;
    assert!((cost.memory_us - bytes / memory_tbs / 1e6).abs() < 1e-6);
    assert!(cost.latency_us > 0.0);
    assert_eq!(
        cost.total_us,
        cost.memory_us + cost.launch_us + cost.latency_us
    );
}

#[test]
fn an_activation_that_fits_the_l2_is_read_there() {
    let mut b = Build::new();
    let c = b.axis("C", 2048);
    let x = b.input("x", &[c]);
    let y = b.unary("y", Unary::Relu, x);
    let g = b.output(&[y]);
    let device = h200();
    for (batch, cached) in [(1, true), (8, false)] {
        let cost = alone(&g, "y", &device, Storage::Bf16, (batch, 2048));
        assert_eq!(cost.l2_bytes > 0.0, cached, "B={batch}");
    }
}

#[test]
fn products_of_f32_pay_the_simt_rate() {
    let mut b = Build::new();
    let (c, f) = (b.axis("C", 2048), b.axis("F", 2048));
    let x = b.input("x", &[c]);
    let y = b.project("y", x, &[f]);
    let g = b.output(&[y]);
    let device = h200();
    let slow = alone(&g, "y", &device, Storage::F32, (8, 2048));
    let fast = alone(&g, "y", &device, Storage::Bf16, (8, 2048));
    assert_eq!((slow.tensor_flops, fast.simt_flops), (0.0, 0.0));
    assert_eq!(slow.simt_flops, fast.tensor_flops);
    assert!(slow.total_us > 4.0 * fast.total_us);
}

#[test]
fn a_scan_waits_for_its_steps_and_a_lone_block_for_itself() {
    let mut b = Build::new();
    let c = b.axis("C", 64);
    let x = b.input("x", &[c]);
    let h = b.ema("h", x, x);
    let g = b.output(&[h]);
    let device = h200();
    let long = alone(&g, "h", &device, Storage::Bf16, (1, 2048));
    assert_eq!(long.serial_steps, 2048.0);
    // Rows come in runs, so that a step is a part of one whose row arrives alone.
    let alone_us = 2048.0 * device.step_us.value;
    assert!(long.serial_us > 0.03 * alone_us && long.serial_us < 0.3 * alone_us);
    let mut b = Build::new();
    let c = b.axis("C", 64);
    let x = b.input("x", &[c]);
    let y = b.unary("y", Unary::Exp, x);
    let g = b.output(&[y]);
    assert!(alone(&g, "y", &device, Storage::Bf16, (1, 1)).underfill_us > 0.0);
}

#[test]
fn a_norm_and_its_six_shifts_are_one_kernel() {
    let mut b = Build::new();
    let c = b.axis("C", 2048);
    let x = b.input("x", &[c]);
    let n = b.norm("n", x, &[c]);
    let mut out = vec![];
    for i in 0..6 {
        let mu = b.param(&format!("mu{i}"), &[c]);
        let late = b.late(n, 1);
        let inputs = vec![b.read(n), late, b.read(mu)];
        let shifted = Expr::binary(Binary::Sub, Expr::Input(1), Expr::Input(0));
        let expr = Expr::binary(
            Binary::Add,
            Expr::Input(0),
            Expr::binary(Binary::Mul, shifted, Expr::Input(2)),
        );
        out.push(b.op(&format!("s{i}"), OpKind::Map { expr }, inputs, &[c]));
    }
    let g = b.output(&out);
    let device = h200();
    let planned = plan(&g, &options(&device, 8, 2048, Mode::Auto)).unwrap();
    assert_eq!(planned.plan.kernels.len(), 1);
}

#[test]
fn a_projection_of_one_row_takes_its_norm_as_a_prologue_and_one_of_many_rows_does_not() {
    let mut b = Build::new();
    let (c, f) = (b.axis("C", 2048), b.axis("F", 2048));
    let x = b.input("x", &[c]);
    let n = b.norm("n", x, &[c]);
    let y = b.project("y", n, &[f]);
    let z = b.unary("z", Unary::Silu, y);
    let g = b.output(&[z]);
    let device = h200();
    let one = plan(&g, &options(&device, 1, 1, Mode::Auto)).unwrap();
    assert_eq!(one.plan.kernels.len(), 1);
    let many = plan(&g, &options(&device, 8, 2048, Mode::Auto)).unwrap();
    let gemm = kernel_of(&many.plan.kernels, "y");
    assert_eq!(gemm.phases[0].lanes[0].template(), Template::Gemm);
    assert!(gemm.names.contains(&"z".to_string()));
    assert!(!gemm.names.contains(&"n".to_string()));
}

#[test]
fn the_product_stays_outside_the_loop() {
    let graph = model("gated-scan", None);
    for name in ["t4", "h200"] {
        let device = Device::find(name).unwrap();
        for batch in [1, 4, 8, 16] {
            for time in [512, 1024, 2048] {
                let options = Options {
                    storage: Storage::F16,
                    ..options(&device, batch, time, Mode::Auto)
                };
                let kernels = plan(&graph, &options).unwrap().plan.kernels;
                let templates: Vec<Template> = kernels
                    .iter()
                    .map(|k| k.phases[0].lanes[0].template())
                    .collect();
                // One launch of the recurrence, without products. Whether the gate is in it depends on
                // what a run of rows takes beside the steps; in any case its product is not.
                let scans = templates.iter().filter(|t| **t == Template::Scan);
                assert_eq!(scans.count(), 1, "{templates:?}");
                let case = format!("{name} B={batch} T={time}: {templates:?}");
                assert_eq!(templates[0], Template::Gemm, "{case}");
                assert!(templates.len() <= 3, "{case}");
            }
        }
    }
}

/// `h = a * h + x W` with the product before the recurrence, or inside its step.
fn recurrence_of_a_product(inside: bool) -> Graph {
    let mut b = Build::new();
    let (k, c) = (b.axis("K", 512), b.axis("C", 512));
    let x = b.input("x", &[k]);
    let gate = b.input("gate", &[c]);
    let a = b.unary("a", Unary::Sigmoid, gate);
    let h = if inside {
        let w = b.param("w", &[k, c]);
        let read = |item, axes: &[AxisId]| StepAccess {
            item,
            axes: axes.to_vec(),
        };
        let input = |name: &str, axes: &[AxisId]| StepInput {
            name: name.into(),
            axes: axes.to_vec(),
        };
        let mul = |x, y| Expr::binary(Binary::Mul, x, y);
        let step = Recurrence {
            name: "gemm_inside".into(),
            inputs: vec![input("a", &[c]), input("x", &[k]), input("w", &[k, c])],
            states: vec![StepState {
                name: "h".into(),
                axes: vec![c],
                init: 0.0,
                kept: true,
            }],
            ops: vec![
                StepOp {
                    places: fusec_ir::Places::default(),
                    name: "z".into(),
                    axes: vec![c],
                    kind: StepKind::Reduce {
                        combine: Combine::Sum,
                        axes: vec![k],
                    },
                    expr: mul(Expr::Input(0), Expr::Input(1)),
                    inputs: vec![
                        read(StepRef::Input(1), &[k]),
                        read(StepRef::Input(2), &[k, c]),
                    ],
                },
                StepOp {
                    places: fusec_ir::Places::default(),
                    name: "h".into(),
                    axes: vec![c],
                    kind: StepKind::Map,
                    expr: Expr::binary(
                        Binary::Add,
                        mul(Expr::Input(0), Expr::Input(1)),
                        Expr::Input(2),
                    ),
                    inputs: vec![
                        read(StepRef::Input(0), &[c]),
                        read(StepRef::State(0), &[c]),
                        read(StepRef::Op(0), &[c]),
                    ],
                },
            ],
            next: vec![StepRef::Op(1)],
            outputs: vec![StepRef::Op(1)],
            direction: fusec_ir::Direction::Forward,
        };
        let inputs = vec![b.read(a), b.read(x), b.read(w)];
        b.scan("h", step, inputs)
    } else {
        let z = b.project("z", x, &[c]);
        b.ema("h", a, z)
    };
    let y = b.add("y", &[h, gate]);
    b.output(&[y])
}

#[test]
fn a_product_inside_the_loop_loses() {
    let (inside, outside) = (
        recurrence_of_a_product(true),
        recurrence_of_a_product(false),
    );
    for name in ["t4", "h200"] {
        let device = Device::find(name).unwrap();
        for batch in [1, 4, 8, 16] {
            for time in [512, 1024, 2048] {
                let options = Options {
                    storage: Storage::F16,
                    ..options(&device, batch, time, Mode::Auto)
                };
                let us = |graph| plan(graph, &options).unwrap().plan.total_us;
                let (lost, won) = (us(&inside), us(&outside));
                println!("{name} B={batch} T={time}: {lost:.0} us inside, {won:.0} us outside");
                assert!(lost > won, "{name} B={batch} T={time}: {lost} us, {won} us");
            }
        }
    }
}

#[test]
fn a_shift_of_the_channel_mix_fused_alone_gains_nothing() {
    let shift = ["channel_mix.xx", "channel_mix.xk", "channel_mix.xr"];
    let graph = model("rwkv6", Some("1.6b"));
    for name in ["t4", "h200"] {
        let device = Device::find(name).unwrap();
        let options = Options {
            storage: Storage::F16,
            ..options(&device, 8, 2048, Mode::Unfused)
        };
        let unfused = plan(&graph, &options).unwrap().plan;
        let pinned = Options {
            pins: vec![Pin {
                kind: PinKind::Fuse,
                values: shift.map(String::from).to_vec(),
                span: None,
            }],
            ..options.clone()
        };
        let alone = plan(&graph, &pinned).unwrap().plan;
        assert_eq!(
            alone.kernels.len(),
            unfused.kernels.len() - 2 * graph.layers as usize
        );
        let auto = Options {
            mode: Mode::Auto,
            ..options
        };
        let best = plan(&graph, &auto).unwrap().plan;
        let gain = 1.0 - alone.total_us / unfused.total_us;
        let of_all = (unfused.total_us - alone.total_us) / (unfused.total_us - best.total_us);
        println!("{name}: {gain:.3} of the time, {of_all:.3} of what fusion gains");
        assert!(gain < 0.03, "{name}: {gain}");
        assert!(of_all < 0.15, "{name}: {of_all}");
    }
}

/// A gated FFN with a residual.
fn ffn() -> Graph {
    let mut b = Build::new();
    let (c, f) = (b.axis("C", 1024), b.axis("F", 4096));
    let x = b.input("x", &[c]);
    let (gate, up) = (b.project("gate", x, &[f]), b.project("up", x, &[f]));
    let act = b.unary("act", Unary::Silu, gate);
    let both = b.add("both", &[act, up]);
    let down = b.project("down", both, &[c]);
    let y = b.add("y", &[down, x]);
    b.output(&[y])
}

#[test]
fn a_product_of_a_product_waits_for_the_grid_where_that_is_cheaper_than_a_launch() {
    let graph = ffn();
    let mut device = Device::find("h100").expect("compiled in");
    // Rows that cost next to nothing to bring: launches and barriers alone decide.
    device.fitted.stage_slots.value = 1.0;
    device.fitted.stage_operation_slots.value = 1.0;
    let of = |device: &Device, batch: usize, time: usize, pins: Vec<Pin>| {
        let options = Options {
            pins,
            ..options(device, batch, time, Mode::Auto)
        };
        let plan = plan(&graph, &options).expect("planned").plan;
        assert!(plan.claim.starts_with("optimal"), "{}", plan.claim);
        plan
    };
    device.grid_barrier_us.value = 1e3;
    let launches = of(&device, 1, 1, vec![]);
    assert!(launches.kernels.iter().all(|k| k.phases.len() == 1));
    assert_eq!(launches.kernels.len(), 2);
    // Unless the user wants one.
    let pin = Pin {
        kind: PinKind::Fuse,
        values: vec!["up".into(), "down".into()],
        span: None,
    };
    let pinned = of(&device, 1, 1, vec![pin]);
    assert_eq!(pinned.kernels.len(), 1, "the rest joins it");
    device.grid_barrier_us.value = 1e-3;
    let barrier = of(&device, 1, 1, vec![]);
    assert_eq!(barrier.kernels.len(), 1);
    for plan in [&pinned, &barrier] {
        let kernel = &plan.kernels[0];
        assert_eq!(kernel.forms[0], "product-phases");
        let templates = kernel.phases.iter().map(|p| p.lanes[0].template());
        let templates: Vec<Template> = templates.collect();
        assert_eq!(templates, [Template::Gemv, Template::Gemv]);
    }
    assert_eq!(pinned.kernels[0].cost.barrier_us, 1e3);
    // Two kernels, one launch instead of two, and the barrier.
    let apart = launches.total_us - device.graph_launch_us.value + 1e-3;
    assert!((barrier.total_us - apart).abs() < 1e-9, "{apart}");
    let quick = plan(&graph, &options(&device, 1, 1, Mode::Greedy)).expect("planned");
    assert_eq!(quick.plan.kernels.len(), 1, "merging gets there as well");
    // Many rows are products of tiles, which have one phase.
    let long = of(&device, 8, 2048, vec![]);
    assert!(long.kernels.iter().all(|k| k.phases.len() == 1));
}
