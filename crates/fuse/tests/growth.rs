//! Planning grows with what is new in a model, not with how often it is repeated: steps are counted.

mod common;

use common::{h200, model, options};
use fusec_fuse::{Mode, plan_watched};
use fusec_ir::Graph;
use fusec_ir::language::{ModelSource, Overrides, compile};
use std::time::{Duration, Instant};

/// Steps that planning tells of, and how long it took.
fn steps(graph: &Graph) -> (usize, Duration) {
    let device = h200();
    let start = Instant::now();
    let mut steps = 0;
    let planned = plan_watched(graph, &options(&device, 8, 2048, Mode::Auto), &mut |_| {
        steps += 1;
    });
    let planned = planned.expect("planned");
    assert!(
        planned.plan.claim.starts_with("optimal"),
        "{}",
        planned.plan.claim
    );
    (steps, start.elapsed())
}

/// A layer that calls a block so often, one after the other.
fn repeated(times: usize) -> Graph {
    let calls = "  x = x + mix(rms_norm(x, C, eps = 1e-5))\n".repeat(times);
    let text = format!(
        "name = \"repeated\"\n[axes]\nC = 256\nF = 512\n[input]\nx = \"C\"\n\
         [block.mix]\nargs = [\"x\"]\nflow = \"\"\"\n  h = silu(x @ w_in)\n  \
         g = sigmoid(x @ w_gate)\n  return (h * g) @ w_out\n\"\"\"\n\
         [block.mix.param]\nw_in = {{ shape = \"F, C\" }}\nw_gate = {{ shape = \"F, C\" }}\n\
         w_out = {{ shape = \"C, F\" }}\n[model]\nflow = \"\"\"\n{calls}  return x\n\"\"\"\n"
    );
    let source = ModelSource::from_text("repeated", text.clone());
    match compile(&source, &Overrides::default()) {
        Ok(graph) => graph,
        Err(error) => panic!("{error}\n{text}"),
    }
}

#[test]
fn layers_are_planned_once_however_many_there_are() {
    let of = |layers: usize| {
        let mut overrides = Overrides::default();
        overrides.axes.insert("L".into(), layers);
        let path = common::models().join("mamba2.toml");
        let source = ModelSource::from_path(&path).expect("a model of the repository");
        steps(&compile(&source, &overrides).expect("compiled"))
    };
    let (few, _) = of(8);
    let (many, took) = of(256);
    assert_eq!(few, many);
    assert!(took < Duration::from_secs(60), "{took:?}");
}

#[test]
fn a_block_that_is_repeated_inside_a_layer_costs_no_more_than_in_proportion() {
    let (some, _) = steps(&repeated(40));
    let (many, took) = steps(&repeated(160));
    assert!(
        many <= 4 * some + 100,
        "{some} steps for 40, {many} for 160"
    );
    assert!(took < Duration::from_secs(60), "{took:?}");
}

#[test]
fn the_length_of_an_axis_costs_nothing() {
    let start = Instant::now();
    for size in [1usize << 30, 1 << 35, (1 << 35) - 31] {
        let text = format!(
            "name = \"long\"\n[axes]\nC = {size}\n[input]\nx = \"C\"\n[model]\nflow = \"return silu(x)\"\n"
        );
        let source = ModelSource::from_text("long", text);
        let graph = compile(&source, &Overrides::default()).expect("compiled");
        // Whether there is a plan is another matter.
        let _ = plan_watched(&graph, &options(&h200(), 1, 1, Mode::Auto), &mut |_| {});
    }
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[test]
fn the_prefill_of_the_hybrid_is_proven_optimal() {
    let (_, took) = steps(&model("hybrid", None));
    assert!(took < Duration::from_secs(60), "{took:?}");
}
