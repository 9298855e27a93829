//! What a step computes beside elements and sums: norms, as in a flow, and blocks with arguments of the step.

use common::output;
use fusec_ir::Graph;

mod common;

fn model(step: &str, flow: &str) -> String {
    format!(
        r#"
name = "step"
[axes]
H = 2
N = 4
[settings]
kind = "soft"
[input]
x = "H, N"
[param]
g = {{ shape = "N" }}
b = {{ shape = "H, N" }}
[block.squashed]
args = ["u", "scale"]
flow = """
  if kind == "soft" {{ y = tanh(scale * u) }} else {{ y = relu(u) }}
  return y
"""
[block.twice]
args = ["u"]
flow = """
  v[H, N] = squashed(squashed(u, 2), scale = 0.5)
  return v, u - v
"""
[block.endless]
args = ["u"]
flow = "return endless(u)"
[recurrence.r]
inputs  = "u[H, N], g[N], b[H, N]"
state   = "S[H, N]"
outputs = "o[H, N]"
step    = """
{step}
"""
[model]
flow = """
{flow}
"""
"#
    )
}

fn graph(text: &str) -> Result<Graph, String> {
    common::graph("step.toml", text)
}

/// A step that does it to its input, and a flow that does the same to what the step is given.
const SAME: [(&str, &str); 8] = [
    (
        "layer_norm(u, N, eps = 0.01)",
        "layer_norm(x, N, eps = 0.01)",
    ),
    (
        "rms_norm(u + u, N, eps = 0.01, gain = g, bias = b)",
        "rms_norm(x + x, N, eps = 0.01, gain = g, bias = b)",
    ),
    (
        "l2_norm(u, H, N, eps = 0.01)",
        "l2_norm(x, H, N, eps = 0.01)",
    ),
    ("l2_norm_max(u, N, eps = 2)", "l2_norm_max(x, N, eps = 2)"),
    (
        "group_norm(u, H, eps = 0.01, gain = g)",
        "group_norm(x, H, eps = 0.01, gain = g)",
    ),
    (
        "group_rms_norm(u, H, eps = 0.01)",
        "group_rms_norm(x, H, eps = 0.01)",
    ),
    (
        "squashed(u, 2) + squashed(scale = 0.5, u = u)",
        "squashed(x, 2) + squashed(x, 0.5)",
    ),
    (
        "squashed(squashed(u, 2), 0.5)",
        "squashed(squashed(x, 2), 0.5)",
    ),
];

#[test]
fn in_a_step_functions_are_what_they_are_in_a_flow() {
    for (inside, outside) in SAME {
        let of = |step: &str, flow: &str| {
            let text = model(step, flow);
            output(&graph(&text).unwrap_or_else(|e| panic!("{text}\n{e}")))
        };
        let inside = of(
            &format!("t = {inside}\nS = 0.5 * S + t\no = S"),
            "return r(x, g, b)",
        );
        let outside = of(
            "S = 0.5 * S + u\no = S",
            &format!("return r({outside}, g, b)"),
        );
        for (a, b) in inside.iter().zip(&outside) {
            assert!((a - b).abs() < 1e-12, "{outside:?}: {a} and {b}");
        }
    }
}

#[test]
fn a_block_returns_several_tensors_to_a_step() {
    let of = |step: &str| {
        let text = model(step, "return r(x, g, b)");
        output(&graph(&text).unwrap_or_else(|e| panic!("{text}\n{e}")))
    };
    let called = of("S, rest = twice(u + 0.5 * S)\no = S + 2 * rest");
    let written = of("t = u + 0.5 * S\nS = tanh(0.5 * tanh(2 * t))\no = S + 2 * (t - S)");
    assert_eq!(called, written);
}

#[test]
fn what_a_step_cannot_do_with_blocks_is_said() {
    let message = |step: &str| graph(&model(step, "return r(x, g, b)")).expect_err("no step");
    for (step, expected) in [
        ("S = endless(S) + u\no = S", "endless -> endless"),
        ("S, t = squashed(S, 2)\no = S", "2 names for 1 tensors"),
        ("S = twice(S) + u\no = S", "several tensors"),
        ("u, S = twice(S)\no = S", "`u` is an input"),
        ("S = squashed(S) + u\no = S", "`scale`"),
    ] {
        let message = message(step);
        assert!(message.contains(expected), "{step}: {message}");
    }
}
