//! Sums over all rows, as the transposes of models have them: emulated kernels against the interpreter
//! under every kind of plan, with sizes that divide no tile.

use fusec_fuse::schedule::RowSumTile;
use fusec_fuse::{Device, Mode, Options, Plan, PlanError, Schedule, Shape, Storage, Submit, plan};
use fusec_ir::gradient::differentiate;
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::{Access, Def, Expr, Graph, Op, OpId, OpKind, Precision, Value, ValueId};
use fusec_runtime::executor::Fetch;
use fusec_runtime::weights::Weights;

use common::{Case, Given, check, emulate, inputs};

mod common;

/// What is summed, and a model whose transpose sums it: axes, inputs, parameters and flow.
const MODELS: [(&str, &str, &str, &str, &str); 13] = [
    (
        "a projection and its bias",
        "M = 33\nN = 70",
        "x = \"M\"",
        "w = { shape = \"N, M\" }\nb = { shape = \"N\" }",
        "return tanh(x @ w + b)",
    ),
    (
        "two projections of one activation",
        "M = 96\nN = 72",
        "x = \"M\"",
        "w = { shape = \"N, M\" }\nu = { shape = \"N, M\" }",
        "return silu(x @ w) * (x @ u)",
    ),
    (
        "gain and bias of a norm",
        "M = 48",
        "x = \"M\"",
        "g = { shape = \"M\", init = 1 }\nb = { shape = \"M\" }",
        "return layer_norm(x, M, eps = 1e-5, gain = g, bias = b)",
    ),
    (
        "gains of heads",
        "H = 3\nN = 21",
        "x = \"H, N\"",
        "g = { shape = \"N\", init = 1 }\nr = { shape = \"H\" }\ns = { shape = \"\", init = 1 }",
        "return (rms_norm(x, N, eps = 1e-5, gain = g) + r) * s",
    ),
    (
        "weights of heads",
        "H = 3\nN = 40\nM = 24",
        "x = \"H, N\"",
        "w = { shape = \"H, M, N\" }",
        "return sigmoid(x @ w)",
    ),
    (
        "a matrix that all heads share",
        "H = 3\nN = 40\nM = 24",
        "x = \"H, N\"",
        "w = { shape = \"M, N\" }",
        "return silu(x @ w)",
    ),
    (
        "narrow matrices",
        "M = 33\nN = 3",
        "x = \"M\"",
        "w = { shape = \"N, M\" }\nu = { shape = \"M, N\" }",
        "return (x @ w) @ u",
    ),
    (
        "taps of a convolution",
        "M = 20\nK = 4",
        "x = \"M\"",
        "w = { shape = \"M, K\", init = \"uniform(-0.5, 0.5)\" }",
        "return silu(conv(x, w))",
    ),
    (
        "a matrix of earlier rows",
        "M = 40\nN = 24",
        "x = \"M\"",
        "w = { shape = \"N, M\" }\nu = { shape = \"N, M\" }\nmu = { shape = \"M\" }",
        "return delay(x, 3) @ w + (x + (shift(x) - x) * mu) @ u",
    ),
    (
        "a parameter in slices, and backwards",
        "A = 24\nD = 16\nE = 40\nM = 33",
        "x = \"M\"\ny = \"A\"",
        "w = { shape = \"E, M\" }\nv = { shape = \"A, K\" }",
        "a, b = split(w, E -> A, D)\n\
         return (x @ a) * v[K = 1] + reverse(y, A) * v[K = 0], x @ b",
    ),
    (
        "an activation in slices",
        "A = 24\nD = 16\nE = 40\nN = 10",
        "x = \"E\"",
        "w = { shape = \"N, A\" }\nu = { shape = \"N, D\" }",
        "a, b = split(x, E -> A, D)\nreturn (a @ w) * (reverse(b, D) @ u)",
    ),
    (
        "what is kept in f32, and what knows its place",
        "M = 33\nN = 40",
        "x = \"M\"",
        "w = { shape = \"N, M\" }\nd = { shape = \"N\", precision = \"f32\" }",
        "y = f32(x @ w)\nreturn exp(-exp(d) * softplus(y)) * (1 + d * index(N) / (2 + position()))",
    ),
    (
        "a table",
        "V = 50\nM = 70\nN = 24",
        "",
        "emb = { shape = \"V, M\" }\nw = { shape = \"N, M\" }",
        "return gather(emb, ids) @ w",
    ),
];

fn graph(name: &str, axes: &str, input: &str, param: &str, flow: &str) -> Graph {
    let axes = match param.contains("K]") || param.contains("K\"") {
        true if !axes.contains("K =") => format!("{axes}\nK = 2"),
        _ => axes.to_string(),
    };
    let input = match input.is_empty() {
        true => String::new(),
        false => format!("[input]\n{input}\n"),
    };
    let text = format!(
        "name = \"sums\"\n[axes]\n{axes}\n{input}[param]\n{param}\n[model]\nflow = \"\"\"\n{flow}\n\"\"\"\n"
    );
    let source = ModelSource::from_text(name, text.clone());
    compile(&source, &Overrides::default()).unwrap_or_else(|e| panic!("{name}: {e:?}\n{text}"))
}

/// The transposes of the models.
fn gradients() -> impl Iterator<Item = (&'static str, Graph)> {
    MODELS.into_iter().map(|(name, axes, input, param, flow)| {
        let graph = graph(name, axes, input, param, flow);
        let gradient = differentiate(&graph, &graph.outputs, &[]).expect("differentiable");
        assert!(!gradient.sums.is_empty(), "{name}");
        (name, gradient.graph)
    })
}

fn bound(storage: Storage) -> f64 {
    match storage {
        Storage::F32 => 2e-4,
        Storage::F16 => 1e-2,
        Storage::Bf16 => 5e-2,
    }
}

fn planned(graph: &Graph, storage: Storage, mode: Mode, shape: (usize, usize)) -> Plan {
    let device = Device::find("h200").expect("profile");
    let options = Options {
        shape: Shape {
            batch: shape.0,
            time: shape.1,
        },
        storage,
        mode,
        device: &device,
        launch: Submit::Graph,
        pins: vec![],
    };
    plan(graph, &options).expect("a plan").plan
}

fn tiles(plan: &Plan) -> Vec<RowSumTile> {
    let lanes = plan.kernels.iter().flat_map(|kernel| &kernel.phases);
    let lanes = lanes.flat_map(|phase| &phase.lanes);
    let tile = |schedule: &Schedule| match schedule {
        Schedule::RowSum(tile) => Some(*tile),
        _ => None,
    };
    lanes.filter_map(|body| tile(&body.schedule)).collect()
}

#[test]
fn kernels_sum_what_the_interpreter_sums() {
    let mut failed = Vec::new();
    for (name, graph) in gradients() {
        for (storage, mode, batch, times) in [
            (Storage::F32, Mode::Unfused, 3, &[37, 1, 2, 65][..]),
            (Storage::F32, Mode::Auto, 1, &[2, 1, 65, 37]),
            (Storage::F32, Mode::Random(5), 3, &[130, 1]),
            (Storage::Bf16, Mode::Auto, 3, &[37, 1, 2, 65]),
            (Storage::Bf16, Mode::Random(2), 3, &[1, 190, 2]),
            (Storage::F16, Mode::Random(9), 3, &[130, 1, 65]),
        ] {
            let case = Case {
                name: "row-sums",
                graph: &graph,
                storage,
                mode,
                batch,
                times,
                bound: bound(storage),
            };
            if let Err(why) = check(&case) {
                failed.push(format!("{name}, {storage}: {why}"));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Which tiles the sums of a model have in a plan that was drawn.
#[test]
fn plans_have_every_kind_of_tile_and_cut_rows_into_parts() {
    let (mut whole, mut parts) = ([0; 5], [0; 5]);
    for (_, graph) in gradients() {
        for (storage, seed) in [
            (Storage::F32, 0),
            (Storage::Bf16, 1),
            (Storage::F32, 2),
            (Storage::Bf16, 3),
        ] {
            let plan = planned(&graph, storage, Mode::Random(seed), (3, 190));
            for tile in tiles(&plan) {
                let kind = match tile {
                    RowSumTile::Mma(_) => 0,
                    RowSumTile::Simt(_) => 1,
                    RowSumTile::Elements(_) => 2,
                    RowSumTile::Entries(_) => 3,
                    RowSumTile::Parts(_) => 4,
                };
                if tile.parts() > 1 {
                    parts[kind] += 1;
                } else {
                    whole[kind] += 1;
                }
            }
        }
    }
    assert!(whole[..4].iter().all(|n| *n > 0), "{whole:?}");
    assert!(parts[..3].iter().all(|n| *n > 0), "{parts:?}");
    assert_eq!(parts[4], parts[..3].iter().sum::<usize>());
}

/// Small results of many rows: blocks that see all of them would leave most multiprocessors without work.
#[test]
fn few_tiles_and_many_rows_are_cut_into_parts_and_large_results_are_not() {
    let of = |m: usize, n: usize| {
        let graph = graph(
            "sizes",
            &format!("M = {m}\nN = {n}"),
            "x = \"M\"",
            "w = { shape = \"N, M\" }",
            "return x @ w",
        );
        let gradient = differentiate(&graph, &graph.outputs, &[]).expect("differentiable");
        tiles(&planned(
            &gradient.graph,
            Storage::Bf16,
            Mode::Auto,
            (8, 2048),
        ))
    };
    let small = of(256, 256);
    assert!(
        matches!(small[..], [RowSumTile::Mma(_), RowSumTile::Parts(_)]),
        "{small:?}"
    );
    let large = of(2048, 8192);
    assert!(matches!(large[..], [RowSumTile::Mma(_)]), "{large:?}");
}

#[test]
fn entries_that_nobody_asks_for_are_zero_and_others_have_all_their_rows() {
    let graph = graph(
        "table",
        "V = 70\nM = 37",
        "",
        "emb = { shape = \"V, M\" }",
        "return gather(emb, ids)",
    );
    let gradient = differentiate(&graph, &graph.outputs, &[]).expect("differentiable");
    let (batch, time) = (3, 65);
    let case = Case {
        name: "table",
        graph: &gradient.graph,
        storage: Storage::F32,
        mode: Mode::Auto,
        batch,
        times: &[time],
        bound: 0.0,
    };
    let weights = Weights::random(&gradient.graph, 3).expect("weights");
    let mut executor = emulate(&case, &weights).expect("kernels");
    executor.reset(batch).expect("states");
    let ids: Vec<i32> = (0..(batch * time) as i32)
        .map(|i| [0, 69, 31, 32, 33][(i * i % 5) as usize])
        .collect();
    let cotangent: Vec<f32> = (0..batch * time * 37)
        .map(|i| (i % 97) as f32 - 40.0)
        .collect();
    let given: Vec<Given> = gradient
        .graph
        .inputs
        .iter()
        .map(|id| match gradient.graph.value(*id).precision {
            Precision::Index => Given::Ids(ids.clone()),
            _ => Given::Numbers(cotangent.clone()),
        })
        .collect();
    let given: Vec<_> = given.iter().map(Given::input).collect();
    let result = executor.run(time, &given, Fetch::All).expect("a run");
    let sums = result.outputs[1].numbers().expect("numbers");
    let mut want = vec![0f32; 70 * 37];
    for (row, id) in ids.iter().enumerate() {
        for c in 0..37 {
            want[*id as usize * 37 + c] += cotangent[row * 37 + c];
        }
    }
    assert_eq!(sums, &want[..]);
}

#[test]
fn two_runs_give_the_same_bits() {
    for (name, graph) in gradients() {
        let case = Case {
            name: "row-sums",
            graph: &graph,
            storage: Storage::Bf16,
            mode: Mode::Random(2),
            batch: 3,
            times: &[190],
            bound: 0.0,
        };
        let weights = Weights::random(&graph, 3).expect("weights");
        let mut executor = emulate(&case, &weights).expect("kernels");
        let given = inputs(&graph, 3, 190, 5);
        let given: Vec<_> = given.iter().map(Given::input).collect();
        let mut runs = [(); 2].map(|()| {
            executor.reset(3).expect("states");
            let result = executor.run(190, &given, Fetch::All).expect("a run");
            let numbers = result
                .outputs
                .iter()
                .flat_map(|t| t.numbers().expect("numbers").to_vec());
            numbers.map(f32::to_bits).collect::<Vec<u32>>()
        });
        let [first, second] = &mut runs;
        assert!(first == second, "{name}");
    }
}

/// What has no kernels says so by name.
#[test]
fn what_no_kernel_does_is_refused() {
    let (_, mut graph) = gradients().next().expect("a model");
    let sum = *graph.outputs.last().expect("a sum");
    let id = ValueId(graph.values.len() as u32);
    graph.values.push(Value {
        name: "doubled".into(),
        def: Def::Op(OpId(graph.ops.len() as u32), 0),
        ..graph.value(sum).clone()
    });
    let axes = graph.value(sum).axes.clone();
    graph.ops.push(Op {
        name: "doubled".into(),
        kind: OpKind::Map {
            expr: Expr::Input(0),
        },
        inputs: vec![Access::plain(sum, &axes)],
        outputs: vec![id],
        tails: vec![],
        layer: None,
        span: None,
    });
    graph.outputs.push(id);
    let device = Device::find("h200").expect("profile");
    let options = Options {
        shape: Shape { batch: 1, time: 8 },
        storage: Storage::F32,
        mode: Mode::Auto,
        device: &device,
        launch: Submit::Graph,
        pins: vec![],
    };
    let refused = plan(&graph, &options);
    assert!(
        matches!(&refused, Err(PlanError::NoKernels { op, .. }) if op == "doubled"),
        "{refused:?}"
    );
}
