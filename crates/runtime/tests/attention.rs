//! Every schedule of softmax attention, forced: emulated kernels against the f64 interpreter, from an empty
//! state and from rows that earlier runs kept.

use fusec_codegen::{Planned, generate};
use fusec_fuse::context::Context;
use fusec_fuse::fit::forms;
use fusec_fuse::schedule::{AttendTile, launch};
use fusec_fuse::{Device, Mode, Options, Plan, Schedule, Shape, Storage, Submit, accept, plan};
use fusec_ir::interpret::{Input, Interpreter, Keep, State};
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::{Graph, ValueId};
use fusec_runtime::emulator::{Emulator, EmulatorOptions};
use fusec_runtime::executor::{EmulatedDevice, Executor, Fetch};
use fusec_runtime::weights::Weights;

use common::{Given, difference, inputs, interpret, root};

mod common;

/// Attention as a model: axes, inputs, and what is returned.
fn attention(axes: &str, inputs: &str, flow: &str) -> Graph {
    let text = format!(
        "name = \"attention\"\n[axes]\n{axes}\n[input]\n{inputs}\n[model]\nflow = \"return {flow}\"\n"
    );
    let source = ModelSource::from_text("attention", text.clone());
    compile(&source, &Overrides::default()).unwrap_or_else(|e| panic!("{text}\n{e:?}"))
}

const HEADS: &str = "q = \"H, N\"\nk = \"H, N\"\nv = \"H, N\"";
const GROUPS: &str = "q = \"G, H, N\"\nk = \"G, N\"\nv = \"G, M\"";

/// A schedule in words: what units, rows and heads of a block, keys at a time.
fn described(schedule: &Schedule) -> String {
    match schedule {
        Schedule::Attend(AttendTile::Simt(tile)) => format!("fp32 {}x{}", tile.rows, tile.keys),
        Schedule::Attend(AttendTile::Mma(tile)) => {
            let (group, rows, keys) = (tile.group, tile.rows, tile.keys);
            let held = if tile.held {
                ""
            } else {
                " queries in shared memory"
            };
            format!("mma {group}x{rows}x{keys}{held}")
        }
        other => panic!("{other:?}"),
    }
}

/// The plan of one kernel whose schedule is form number `form`, or None if there are not so many.
fn forced(graph: &Graph, storage: Storage, shape: Shape, form: usize) -> Option<(Graph, Plan)> {
    let device = Device::find("h200").expect("profile");
    let options = Options {
        shape,
        storage,
        mode: Mode::Unfused,
        device: &device,
        launch: Submit::Graph,
        pins: vec![],
    };
    let mut planned = plan(graph, &options).expect("planned");
    let ctx = Context::new(&planned.graph, shape, storage, &device, 0.0);
    let kernels = &mut planned.plan.kernels;
    let mut attends = kernels
        .iter_mut()
        .filter(|k| matches!(k.phases[0].lanes[0].schedule, Schedule::Attend(_)));
    let kernel = attends.next().expect("a kernel that attends");
    assert!(attends.next().is_none(), "one kernel");
    kernel.phases = forms(&ctx, &kernel.ops)
        .expect("legal")
        .into_iter()
        .nth(form)?;
    kernel.launch = launch(&ctx, &kernel.phases);
    accept(&planned.graph, &planned.plan, &device).expect("a plan that the planner makes");
    Some((planned.graph.clone(), planned.plan))
}

fn rounded(given: Vec<Given>, storage: Storage) -> Vec<Given> {
    let round = |x: f32| match storage {
        Storage::F32 => x,
        Storage::Bf16 => half::bf16::from_f32(x).to_f32(),
        Storage::F16 => half::f16::from_f32(x).to_f32(),
    };
    let of = |given| match given {
        Given::Numbers(x) => Given::Numbers(x.into_iter().map(round).collect()),
        ids => ids,
    };
    given.into_iter().map(of).collect()
}

/// Largest difference from the f64 interpreter: the rounding of results and, on tensor cores, of weights.
fn bound(storage: Storage) -> f64 {
    match storage {
        Storage::F32 => 1e-5,
        Storage::F16 => 2e-3,
        Storage::Bf16 => 1.2e-2,
    }
}

struct Runs {
    executor: Executor<EmulatedDevice>,
    /// For messages: the schedule of longer runs.
    schedule: String,
}

fn emulated(
    graph: &Graph,
    storage: Storage,
    (batch, time): (usize, usize),
    form: usize,
) -> Option<Runs> {
    let of = |time| forced(graph, storage, Shape { batch, time }, form);
    let ((decode_graph, decode), (prefill_graph, prefill)) = (of(1)?, of(time)?);
    let attends = prefill
        .kernels
        .iter()
        .map(|k| &k.phases[0].lanes[0].schedule);
    let schedule = attends
        .filter(|s| matches!(s, Schedule::Attend(_)))
        .map(described)
        .collect();
    let regimes = [
        Planned {
            name: "decode",
            min_time: 1,
            max_time: Some(1),
            graph: &decode_graph,
            plan: &decode,
        },
        Planned {
            name: "prefill",
            min_time: 2,
            max_time: None,
            graph: &prefill_graph,
            plan: &prefill,
        },
    ];
    let manifest = generate("attention", storage, &regimes).expect("generated");
    let emulator = Emulator::new(
        &root().join("target/emulator-cache"),
        EmulatorOptions::default(),
    )
    .expect("g++");
    let device =
        EmulatedDevice::new(&emulator, &manifest, 11).unwrap_or_else(|e| panic!("{schedule}: {e}"));
    let weights = Weights::random(graph, 7).expect("weights");
    let executor =
        Executor::new(device, manifest, &weights, Shape { batch, time }).expect("executor");
    Some(Runs { executor, schedule })
}

/// The results of runs after each other, as the kernels and the f64 interpreter have them.
fn results_of(
    graph: &Graph,
    runs: &mut Runs,
    storage: Storage,
    batch: usize,
    times: &[usize],
    spoil: impl Fn(&mut Vec<Given>, usize),
) -> Vec<(Vec<f32>, Vec<f64>)> {
    runs.executor.reset(batch).expect("reset");
    let weights = Weights::random(graph, 7).expect("weights");
    let exact = Interpreter::<f64>::new(graph, weights.to_f64()).expect("interpreter");
    let mut state = State::zero(graph, batch);
    let mut out = Vec::new();
    for (run, time) in times.iter().enumerate() {
        let mut given = rounded(inputs(graph, batch, *time, run as u64 + 1), storage);
        spoil(&mut given, *time);
        let as_inputs: Vec<Input<'_, f32>> = given.iter().map(Given::input).collect();
        let got = runs.executor.run(*time, &as_inputs, Fetch::All);
        let got = got.unwrap_or_else(|e| panic!("{} T={time}: {e}", runs.schedule));
        let want = interpret(&exact, &mut state, batch, *time, &given, Keep::Outputs);
        let id: ValueId = graph.outputs[0];
        out.push((
            got.outputs[0].numbers().expect("numbers").to_vec(),
            want[&id].numbers().expect("numbers").to_vec(),
        ));
    }
    out
}

fn check(
    name: &str,
    graph: &Graph,
    storage: Storage,
    batch: usize,
    first: usize,
    sequences: &[&[usize]],
) -> Vec<String> {
    let longest = sequences
        .iter()
        .copied()
        .flatten()
        .copied()
        .max()
        .unwrap_or(1);
    let mut schedules = Vec::new();
    for form in first.. {
        let Some(mut runs) = emulated(graph, storage, (batch, longest), form) else {
            break;
        };
        for times in sequences {
            let results = results_of(graph, &mut runs, storage, batch, times, |_, _| {});
            for ((got, want), time) in results.iter().zip(*times) {
                let d = difference(got, want);
                assert!(
                    d <= bound(storage),
                    "{name} {storage} {}: B={batch} T={time} of {times:?} differs by {d:.2e}",
                    runs.schedule
                );
            }
        }
        schedules.push(runs.schedule.clone());
    }
    schedules
}

const LENGTHS: [&[usize]; 7] = [&[1], &[15], &[16], &[17], &[64], &[65], &[130]];

#[test]
fn lengths_around_the_edges_of_tiles() {
    let graph = attention(
        "H = 2\nN = 64",
        HEADS,
        "attention(q, k, v, N, window = 4096)",
    );
    for (storage, batch, first) in [
        (Storage::Bf16, 1, 0),
        (Storage::Bf16, 3, 1),
        (Storage::F16, 1, 1),
        (Storage::F32, 3, 0),
    ] {
        let schedules = check("heads of 64", &graph, storage, batch, first, &LENGTHS);
        // In f32 there is no form on tensor cores.
        let all = ["fp32 16x32", "mma 1x64x64", "mma 1x128x64"];
        let last = if storage == Storage::F32 { 1 } else { 3 };
        assert_eq!(schedules, all[first..last]);
    }
}

#[test]
fn runs_go_on_from_the_rows_that_are_kept() {
    let after: [&[usize]; 3] = [&[37, 1, 65, 1, 1], &[1, 1, 63, 2], &[130, 3, 64, 17]];
    for window in [17, 100] {
        let flow = format!("attention(q, k, v, N, window = {window}, scale = -0.3)");
        let graph = attention("H = 3\nN = 32", HEADS, &flow);
        let name = format!("window {window}");
        check(&name, &graph, Storage::Bf16, 2, 1, &after);
    }
}

#[test]
fn heads_of_any_size() {
    // Elements of a key, of a value, window; the schedules on tensor cores.
    for (depth, width, window, expected) in [
        (20, 12, 4096, &["mma 1x64x64", "mma 1x128x64"][..]),
        (5, 7, 1, &["mma 1x64x16", "mma 1x128x16"]),
        (
            128,
            128,
            4096,
            &["mma 1x64x64", "mma 1x128x32 queries in shared memory"],
        ),
        (96, 256, 4096, &["mma 1x64x32 queries in shared memory"]),
        (64, 600, 4096, &[]),
    ] {
        let axes = format!("H = 2\nN = {depth}\nM = {width}");
        let sides = "q = \"H, N\"\nk = \"H, N\"\nv = \"H, M\"";
        let flow = format!("attention(q, k, v, N, window = {window})");
        let graph = attention(&axes, sides, &flow);
        let name = format!("{depth} x {width}");
        let schedules = check(&name, &graph, Storage::F16, 1, 1, &[&[65, 1, 2]]);
        assert_eq!(schedules, expected, "{name}");
    }
}

#[test]
fn heads_that_share_keys_and_values() {
    let graph = attention(
        "G = 2\nH = 6\nN = 32\nM = 48",
        GROUPS,
        "attention(q, k, v, N, window = 50)",
    );
    let sequences: [&[usize]; 4] = [&[1, 1], &[9], &[37, 1, 65], &[22]];
    let schedules = check("groups", &graph, Storage::Bf16, 2, 1, &sequences);
    assert_eq!(
        schedules,
        ["mma 1x64x64", "mma 1x128x64", "mma 6x10x64", "mma 6x21x64"]
    );
    // Keys of one head for all and values of each; two axes in a product, and one column of values.
    for (sides, flow) in [
        (
            "q = \"H, N\"\nk = \"N\"\nv = \"H, N\"",
            "attention(q, k, v, N, window = 40)",
        ),
        (HEADS, "attention(q, k, v[N = 1], H, N, window = 40)"),
    ] {
        let graph = attention("H = 3\nN = 8", sides, flow);
        let schedules = check(flow, &graph, Storage::Bf16, 2, 1, &[&[65, 1, 3]]);
        assert_eq!(schedules.len(), 2, "{flow}: {schedules:?}");
    }
}

/// What a later row holds must not matter, not even a NaN; what a row that is seen holds must show.
#[test]
fn rows_that_are_not_finite_spoil_those_that_see_them_and_no_other() {
    let graph = attention("H = 2\nN = 32", HEADS, "attention(q, k, v, N, window = 20)");
    let row = 64;
    for (storage, form) in [(Storage::Bf16, 0), (Storage::Bf16, 1), (Storage::F16, 2)] {
        let mut runs = emulated(&graph, storage, (1, 90), form).expect("a schedule");
        // Which input, at which row, with what.
        for (side, at, with) in [
            (2, 70, f32::NAN),
            (2, 3, f32::INFINITY),
            (1, 40, f32::NAN),
            (2, 89, f32::NEG_INFINITY),
        ] {
            let spoil = |given: &mut Vec<Given>, _: usize| {
                if let Given::Numbers(x) = &mut given[side] {
                    x[at * row + 5] = with;
                }
            };
            let clean = results_of(&graph, &mut runs, storage, 1, &[90], |_, _| {});
            let spoiled = results_of(&graph, &mut runs, storage, 1, &[90], spoil);
            let ((clean, _), (got, want)) = (&clean[0], &spoiled[0]);
            for (i, (got, want)) in got.iter().zip(want).enumerate() {
                let (got, want) = (f64::from(*got), *want);
                let right = match want.is_finite() {
                    true => got == f64::from(clean[i]),
                    false => got == want || got.is_nan() && want.is_nan(),
                };
                let (t, e) = (i / row, i % row);
                assert!(
                    right,
                    "{}: {with} in {side} at {at}: row {t}, element {e}: {got}, not {want}",
                    runs.schedule
                );
            }
        }
    }
}
