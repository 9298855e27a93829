//! What holds for every plan, however it was chosen.

mod common;

use common::{Build, h200, options};
use fusec_fuse::{Mode, PlanError, launches_per_layer, plan};
use fusec_ir::*;

/// `layers` equal layers of: norm, shift, two projections, gated recurrence, projection, residual.
fn model(layers: u32) -> Graph {
    let mut b = Build::new();
    let (c, f) = (b.axis("C", 64), b.axis("F", 128));
    let mut x = b.input("x", &[c]);
    b.graph.layers = layers;
    for layer in 0..layers {
        b.layer = Some(layer);
        let n = b.norm("mix.n", x, &[c]);
        let late = b.late(n, 1);
        let now = b.read(n);
        let s = b.sum("mix.s", vec![now, late], &[c]);
        let v = b.project("mix.v", s, &[f]);
        let a = b.project("mix.a", n, &[f]);
        let a = b.unary("mix.gate", Unary::Sigmoid, a);
        let h = b.ema("mix.h", a, v);
        let o = b.unary("mix.act", Unary::Silu, h);
        let o = b.project("mix.out", o, &[c]);
        x = b.add("mix.x", &[x, o]);
    }
    b.layer = None;
    let y = b.norm("y", x, &[c]);
    b.output(&[y])
}

#[test]
fn unfused_has_one_kernel_per_operation_and_equal_layers_have_equal_names() {
    let device = h200();
    let graph = model(3);
    for (batch, time) in [(1, 1), (8, 2048)] {
        let planned = plan(&graph, &options(&device, batch, time, Mode::Unfused)).unwrap();
        assert_eq!(planned.plan.kernels.len(), graph.ops.len());
        let names = |layer: u32| -> Vec<&str> {
            let of = planned.plan.kernels.iter();
            of.filter(|k| k.layer == Some(layer))
                .map(|k| k.name.as_str())
                .collect()
        };
        assert_eq!(names(0), names(2));
        let distinct: std::collections::BTreeSet<_> = names(0).into_iter().collect();
        assert_eq!(distinct.len(), names(0).len());
    }
}

#[test]
fn values_that_nobody_needs_are_not_planned() {
    let mut b = Build::new();
    let c = b.axis("C", 64);
    let x = b.input("x", &[c]);
    let y = b.unary("y", Unary::Exp, x);
    b.unary("dead", Unary::Exp, y);
    let graph = b.output(&[y]);
    let planned = plan(&graph, &options(&h200(), 1, 1, Mode::Unfused)).unwrap();
    assert_eq!(planned.plan.kernels.len(), 1);
}

#[test]
fn a_malformed_graph_is_refused_with_the_place() {
    let good = model(1);
    type Breakage = (&'static str, fn(&mut Graph));
    let breakages: [Breakage; 5] = [
        ("an operand that does not exist", |g| {
            g.ops[1].inputs[0].value = ValueId(999)
        }),
        ("an operand made later", |g| {
            g.ops[0].inputs[0].value = g.ops[2].outputs[0]
        }),
        ("a missing index", |g| g.ops[1].inputs[0].index.clear()),
        ("an axis of size 0", |g| g.axes[0].size = 0),
        ("a state that does not exist", |g| {
            g.ops[1].tails = vec![StateId(77)]
        }),
    ];
    for (what, break_it) in breakages {
        let mut graph = good.clone();
        break_it(&mut graph);
        let result = plan(&graph, &options(&h200(), 1, 1, Mode::Unfused));
        assert!(matches!(result, Err(PlanError::Malformed { .. })), "{what}");
    }
}

fn pin(kind: PinKind, values: &[&str]) -> Pin {
    Pin {
        kind,
        values: values.iter().map(|v| v.to_string()).collect(),
        span: None,
    }
}

#[test]
fn pins_are_obeyed_in_every_mode() {
    let device = h200();
    let graph = model(2);
    let kernel_of = |planned: &fusec_fuse::Planned, name: &str, layer: u32| -> usize {
        let makes = |id: &OpId| {
            let op = planned.graph.op(*id);
            op.name == name && op.layer == Some(layer)
        };
        let found = planned
            .plan
            .kernels
            .iter()
            .position(|k| k.ops.iter().any(makes));
        found.expect("planned")
    };
    for mode in [Mode::Unfused, Mode::Greedy, Mode::Auto, Mode::Random(3)] {
        for (batch, time) in [(1, 1), (8, 2048)] {
            let mut options = options(&device, batch, time, mode);
            options.pins = vec![
                pin(PinKind::Fuse, &["mix.gate", "mix.act"]),
                pin(PinKind::Split, &["mix.n", "mix.s"]),
            ];
            let plan = plan(&graph, &options).unwrap();
            for layer in 0..2 {
                let at = |name| kernel_of(&plan, name, layer);
                assert_eq!(at("mix.gate"), at("mix.act"), "{mode}");
                assert_eq!(at("mix.gate"), at("mix.h"), "{mode}: what lies between");
                assert_ne!(at("mix.n"), at("mix.s"), "{mode}");
            }
        }
    }
}

#[test]
fn pins_that_cannot_be_obeyed_are_refused_with_the_rule() {
    let device = h200();
    let graph = model(2);
    for (kind, values, expected) in [
        (PinKind::Fuse, &["mix.v", "mix.out"][..], "mixed-anchors"),
        (PinKind::Fuse, &["mix.x", "y"], "segment"),
        (PinKind::Fuse, &["mix.h", "mix.out"], "mixed-anchors"),
    ] {
        let mut options = options(&device, 8, 2048, Mode::Auto);
        options.pins = vec![pin(kind, values)];
        match plan(&graph, &options) {
            Err(PlanError::PinRefused { reject, .. }) => assert_eq!(reject.rule, expected),
            other => panic!("{values:?}: {other:?}"),
        }
    }
    let mut options = options(&device, 8, 2048, Mode::Auto);
    options.pins = vec![pin(PinKind::Fuse, &["mix.h", "nothing"])];
    let error = plan(&graph, &options).unwrap_err();
    assert!(error.to_string().contains("`nothing`"), "{error}");
}

#[test]
fn a_plan_prints_as_a_table_that_a_stranger_understands() {
    let planned = plan(&model(4), &options(&h200(), 8, 2048, Mode::Auto)).unwrap();
    insta::assert_snapshot!("prefill", planned);
    let planned = plan(&model(4), &options(&h200(), 1, 1, Mode::Auto)).unwrap();
    insta::assert_snapshot!("decode", planned);
    assert!(launches_per_layer(&planned.plan) < 5);
}
