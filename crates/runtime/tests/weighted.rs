//! Recurrences whose rows are weighted by decays in a phase of their own equal the interpreter: decays of 0 and of 1,
//! one to four lines of keys, results before and after the step, bonuses, values with factors, segments, states
//! carried from run to run, blocks and threads in more than one order.

use common::{Case, Conditions};
use fusec_codegen::{Manifest, Planned, generate};
use fusec_fuse::context::Context;
use fusec_fuse::fit::forms;
use fusec_fuse::schedule::launch;
use fusec_fuse::{Device, Mode, Options, Phase, Shape, Storage, Submit, plan};
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::{Graph, OpKind};

mod common;

/// Rows that plans are made for: enough for several segments.
const PLANNED: usize = 512;
/// Runs one after the other: of the states that one leaves the next begins.
const TIMES: &[usize] = &[300, 37, 1, 2, 65, 32, 15];

/// What differs between recurrences: name, keys, values, operands, the step, the flow.
const CASES: &[(&str, usize, usize, &str, &str)] = &[
    (
        "after the step",
        64,
        64,
        "S = w * S + v * k\\ny = sum(S * q, j)",
        "return r(q, k, v, f32(sigmoid(w)))",
    ),
    (
        "after the step, two lines of keys, two warpgroups, a norm and a gate",
        128,
        128,
        "S = w * S + v * k\\ny = sum(S * q, j)",
        "y = r(q, silu(k), v, f32(exp(-exp(w)))); return rms_norm(y, M, eps = 1e-3) * silu(v)",
    ),
    (
        "before the step, with a bonus",
        64,
        64,
        "y = sum((S + u * v * k) * q, j)\\nS = w * S + v * k",
        "return r(q, k, v, f32(exp(-exp(w))), u)",
    ),
    (
        "four lines of keys, values with a factor",
        256,
        128,
        "S = w * S + v * k\\ny = sum(S * q, j)",
        "return r(q, k, v * sigmoid(d), f32(sigmoid(w * 3)))",
    ),
    (
        "three lines of keys, decays of 0 and 1",
        192,
        64,
        "S = w * S + v * k\\ny = sum(S * q, j)",
        "return r(q, k, v, f32(min(max(w * 2, 0), 1)))",
    ),
];

fn written(name: &str, keys: usize, values: usize, step: &str, flow: &str) -> Graph {
    // Inputs and operands that only some have.
    let factor = if flow.contains("sigmoid(d)") {
        "d = \"H\"\n"
    } else {
        ""
    };
    let (param, operand) = match flow.contains(", u)") {
        true => ("[param]\nu = { shape = \"H, N\" }\n", ", u[H, j]"),
        false => ("", ""),
    };
    let text = format!(
        "name = \"case\"\n[axes]\nH = 2\nN = {keys}\nM = {values}\n[input]\nq = \"H, N\"\nk = \"H, N\"\nv = \"H, M\"\nw = \"H, N\"\n\
         {factor}{param}[recurrence.r]\ninputs = \"q[H, j], k[H, j], v[H, i], w[H, j]{operand}\"\nstate = \"S[H, i = M, j = N]\"\n\
         outputs = \"y[H, i]\"\nstep = \"{step}\"\n[model]\nflow = \"\"\"\n{flow}\n\"\"\"\n"
    );
    let source = ModelSource::from_text(name, text.clone());
    compile(&source, &Overrides::default()).unwrap_or_else(|e| panic!("{text}\n{e:?}"))
}

/// Kernels of a plan in which the recurrence has weighted rows, in so many phases.
fn in_phases(case: &Case<'_>, device: &Device, phases: usize, first: bool) -> Option<Manifest> {
    let shape = Shape {
        batch: case.batch,
        time: PLANNED,
    };
    let options = Options {
        shape,
        storage: case.storage,
        mode: case.mode,
        device,
        launch: Submit::Graph,
        pins: vec![],
    };
    let mut planned = plan(case.graph, &options).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    let launch_us = device.graph_launch_us.value;
    let ctx = Context::new(&planned.graph, shape, case.storage, device, launch_us);
    let is_scan = |id| matches!(planned.graph.op(id).kind, OpKind::Scan { .. });
    let mut kernels = planned.plan.kernels.iter_mut();
    let kernel = kernels.find(|kernel| kernel.ops.iter().any(|id| is_scan(*id)))?;
    let weighted = |of: &Vec<Phase>| {
        let mut lanes = of.iter().flat_map(|phase| &phase.lanes);
        of.len() == phases && lanes.any(|lane| lane.schedule.weighted().is_some())
    };
    let mut ways = forms(&ctx, &kernel.ops).expect("a kernel").into_iter();
    let mut ways = ways.by_ref().filter(weighted);
    // They differ in how value columns are spread over blocks.
    let phases = if first { ways.next() } else { ways.last() }?;
    kernel.launch = launch(&ctx, &phases);
    kernel.phases = phases;
    let regime = Planned {
        name: "any",
        min_time: 1,
        max_time: None,
        graph: &planned.graph,
        plan: &planned.plan,
    };
    let manifest = generate(case.name, case.storage, &[regime]);
    Some(manifest.unwrap_or_else(|e| panic!("{}: {e}", case.name)))
}

#[test]
fn weighted_rows_equal_the_interpreter() {
    let mut device = Device::find("h200").expect("a device");
    // Lanes hold all they can.
    device.graph_launch_us.value = 100.0;
    let ways = [
        (Mode::Auto, 1, 2, 11, true),
        (Mode::Unfused, 3, 2, 0, false),
        (Mode::Auto, 1, 3, 3, false),
    ];
    for (n, (name, keys, values, step, flow)) in CASES.iter().enumerate() {
        let graph = written(name, *keys, *values, step, flow);
        // All ways of the first, one of each other.
        let own = ways.iter().enumerate();
        let own = own.filter(|(way, _)| n == 0 || n % ways.len() == *way);
        for (_, (mode, batch, phases, order, first)) in own {
            let case = Case {
                name,
                graph: &graph,
                storage: Storage::Bf16,
                mode: *mode,
                batch: *batch,
                times: TIMES,
                bound: 6e-2,
            };
            let manifest = in_phases(&case, &device, *phases, *first)
                .unwrap_or_else(|| panic!("{name} {mode}: no form in {phases} phases"));
            let conditions = Conditions {
                order: *order,
                ..Conditions::on(&device)
            };
            common::compare(&case, manifest, conditions)
                .unwrap_or_else(|why| panic!("{name} {mode}, {phases} phases: {why}"));
        }
    }
}
