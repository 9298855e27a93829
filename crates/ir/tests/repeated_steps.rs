//! Steps that repeat statements and pick parts of their inputs: the same values as written out, and
//! messages for what they cannot do. Letters of a string, by which layers differ.

use common::output;
use fusec_ir::Graph;

mod common;

/// A model of one recurrence of the inputs `q[H, j]`, `k[M, H, j]`, `v[M, H, i]`, and a flow.
fn model(step: &str, flow: &str) -> String {
    format!(
        r#"
name = "repeated"
[axes]
M = 3
H = 2
N = 4
C = "M * H * N"
[settings]
kinds = "ab"
[input]
x = "C"
[param]
g = {{ shape = "M * H * N" }}
[recurrence.several]
inputs  = "q[H, j], k[M, H, j], v[M, H, i]"
state   = "S[H, i = N, j = N]"
outputs = "o[H, i]"
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

const CALL: &str = "return several(sum(x, M), x * g, x)";

fn graph(text: &str) -> Result<Graph, String> {
    common::graph("repeated.toml", text)
}

#[test]
fn repeated_statements_are_what_they_are_written_out() {
    let repeated = "
  repeat m in M {
    a = k[M = m] * 0.25
    S = S - a * sum(S * a, j) + (m + 1) * v[M = m] * a
  }
  o = sum(q * S, j)";
    let written = "
  a = k[M = 0] * 0.25
  S = S - a * sum(S * a, j) + v[M = 0] * a
  b = k[M = 1] * 0.25
  S = S - b * sum(S * b, j) + 2 * v[M = 1] * b
  c = k[M = 2] * 0.25
  S = S - c * sum(S * c, j) + 3 * v[M = 2] * c
  o = sum(q * S, j)";
    let [one, other] = [repeated, written].map(|step| {
        let graph = graph(&model(step, CALL)).unwrap_or_else(|e| panic!("{e}"));
        // Three keys, three values, and no input that holds all of them.
        let inputs: Vec<&str> = graph.recurrences[0]
            .inputs
            .iter()
            .map(|input| input.name.as_str())
            .collect();
        assert_eq!(inputs, ["q", "k_0", "v_0", "k_1", "v_1", "k_2", "v_2"]);
        output(&graph)
    });
    let off = one.iter().zip(&other).map(|(a, b)| (a - b).abs());
    assert!(off.fold(0.0, f64::max) < 1e-12);
    assert!(one.iter().any(|x| x.abs() > 1e-3));
}

/// An input that is read as a whole beside its parts stays.
#[test]
fn parts_and_the_whole_of_an_input() {
    let parts = "
  S = 0.5 * S + sum(k, M) * v[M = 1]
  o = sum(q * S, j) + sum(S * k[M = 2], j)";
    let graph = graph(&model(parts, CALL)).unwrap_or_else(|e| panic!("{e}"));
    let names: Vec<&str> = graph.recurrences[0]
        .inputs
        .iter()
        .map(|input| input.name.as_str())
        .collect();
    assert_eq!(names, ["q", "k", "v_1", "k_2"]);
    assert!(output(&graph).iter().all(|x| x.is_finite()));
}

#[test]
fn letters_tell_layers_apart() {
    let step = "S = 0.5 * S + k[M = 0] * v[M = 0]\no = sum(q * S, j)";
    let flow = |kind: &str| {
        model(
            step,
            &format!("y = x\nif letter(kinds, {kind} % 2) == \"b\" {{ y = 2 * x }}\nreturn y"),
        )
    };
    let [first, second] = ["4", "7"].map(|at| {
        let graph = graph(&flow(at)).unwrap_or_else(|e| panic!("{e}"));
        output(&graph)
    });
    assert!(first.iter().zip(&second).all(|(a, b)| 2.0 * a == *b));
}

#[test]
fn what_cannot_be_repeated_picked_or_spelt_is_told() {
    let good = "S = 0.5 * S + k[M = 0] * v[M = 0]\no = sum(q * S, j)";
    for (step, flow, told) in [
        (
            "repeat m in 2 { m = 3 }\nS = S * 1\no = sum(q * S, j)",
            CALL,
            "counts the repetitions",
        ),
        (
            "repeat m in 300 { S = S * 1 }\no = sum(q * S, j)",
            CALL,
            "number of repetitions",
        ),
        (
            "repeat m in 200 { S = exp(S) + S\nS = tanh(S) }\no = sum(q * S, j)",
            CALL,
            "more than 256 operations",
        ),
        (
            "repeat m in q { S = S * 1 }\no = sum(q * S, j)",
            CALL,
            "number of repetitions",
        ),
        (
            "S = 0.5 * S + k[M = 3] * v[M = 0]\no = sum(q * S, j)",
            CALL,
            "index 3 is outside",
        ),
        (
            "S = 0.5 * S + k[M = 0] * v[M = 0]\no = sum(q * S, j) + S[j = 0]",
            CALL,
            "parts of its inputs only",
        ),
        (
            "S = 0.5 * S + k[M = 0] * reverse(v[M = 0], i)\no = sum(q * S, j)",
            CALL,
            "parts of its inputs only",
        ),
        (
            good,
            "if letter(kinds, 2) == \"a\" { return x }\nreturn x",
            "no letter 2",
        ),
        (
            good,
            "if letter(M, 2) == \"a\" { return x }\nreturn x",
            "a string",
        ),
        (
            good,
            "if letter(kinds, 0.5) == \"a\" { return x }\nreturn x",
            "not a whole number",
        ),
    ] {
        let message = graph(&model(step, flow)).map(|_| ()).expect_err(told);
        let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(message.contains(told), "{told}: {message}");
    }
}
