//! What holds for every plan, however it was chosen.

mod common;

use common::{Build, h200, options};
use fusec_fuse::{Mode, PlanError, plan};
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
