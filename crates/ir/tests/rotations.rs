//! The rewrite `rotating-basis`: turning states computed in the basis that turns with them are what the text says,
//! with states carried from run to run.

use fusec_ir::components::separate;
use fusec_ir::interpret::{Input, Interpreter, Keep, State, Tensor, check_graph};
use fusec_ir::language::{ModelSource, Overrides, compile, lower};
use fusec_ir::{Class, Graph, OpKind, ValueId, classify};
use std::collections::BTreeMap;

/// A model around a step; `inputs` and `state` are those of the recurrence, axes are H = 2, j over J = 4, i over I = 8.
fn text(inputs: &str, state: &str, step: &str, flow: &str) -> String {
    format!(
        "name = \"turning\"\n[axes]\nH = 2\nJ = 4\nI = 8\n\
         [input]\np = \"H, J\"\nq = \"H, J\"\nk = \"H, J\"\nm = \"H, J\"\nv = \"H, I\"\nd = \"H\"\nx = \"H, J\"\n\
         [recurrence.r]\ninputs = \"{inputs}\"\nstate = \"{state}\"\noutputs = \"y[H, i]\"\n\
         step = \"\"\"\n{step}\n\"\"\"\n[model]\nflow = \"\"\"\n{flow}\n\"\"\"\n"
    )
}

const INPUTS: &str = "p[H, j], q[H, j], k[H, j], m[H, j], v[H, i], d[H], x[H, j]";
const STATE: &str = "a[H, i = I, j = J], b[H, i = I, j = J]";
const FLOW: &str = "return r(p, q, k, m, v, sigmoid(d), x)";

/// What is written, and the classes that its recurrences have in the end; none is rewritten where `turn` is not
/// among their states.
fn cases() -> Vec<(&'static str, String, &'static str)> {
    let rotated = "a: diagonal-outer, b: diagonal-outer, turn turn_i: general";
    let step = |step: &str| text(INPUTS, STATE, step, FLOW);
    vec![
        (
            "angles in the step",
            step(
                "t = d * (cos(x) * a - sin(x) * b) + k * v\n\
                 b = d * (sin(x) * a + cos(x) * b) + m * v\n\
                 a = t\ny = sum(p * a, j) - sum(q * b, j)",
            ),
            rotated,
        ),
        (
            "the other way round, with reads before the update, of one state alone, and a skip",
            step(
                "y = sum(p * a, j) + 0.5 * v\n\
                 t = d * cos(x) * a + d * sin(x) * b + k * v\n\
                 b = cos(x) * (d * b) - d * (a * sin(x))\n\
                 a = t",
            ),
            rotated,
        ),
        (
            "reads before and after",
            step(
                "y = sum(p * a, j)\nc = cos(x)\ns = sin(x)\n\
                 t = d * (c * a - s * b) + k * v\nb = d * (s * a + c * b)\na = t\n\
                 y = y + sum(q * b, j)",
            ),
            rotated,
        ),
        (
            "cosines and sines as arguments",
            text(
                "p[H, j], q[H, j], k[H, j], m[H, j], v[H, i], c[H, j], s[H, j]",
                STATE,
                "t = c * a - s * b + k * v\nb = s * a + c * b + m * v\na = t\ny = sum(p * a + q * b, j)",
                "g = f32(0.5 * sigmoid(d))\nreturn r(p, q, k, m, v, g * cos(x), g * sin(x))",
            ),
            rotated,
        ),
        (
            "the trapezoidal rule, a normaliser, and a division after it",
            text(
                INPUTS,
                &format!("{STATE}, k0[H, j = J], v0[H, i = I], n[H, j = J]"),
                "t = d * (cos(x) * (a + k0 * v0) - sin(x) * b) + k * v\n\
                 b = d * (sin(x) * (a + k0 * v0) + cos(x) * b)\na = t\nk0 = k\nv0 = v\n\
                 n = d * n + abs(k)\ny = sum(p * a - q * b, j) / (1 + sum(n * abs(p), j))",
                FLOW,
            ),
            "a: diagonal-low-rank, b: diagonal-low-rank, n: diagonal-outer, turn turn_i: general",
        ),
        (
            "an angle for all heads, and initial values",
            text(
                "p[H, j], q[H, j], k[H, j], m[H, j], v[H, i], d[H], x[]",
                "a[H, i = I, j = J] = 0.5, b[H, i = I, j = J] = -1",
                "t = d * (cos(x) * a - sin(x) * b) + k * v\nb = d * (sin(x) * a + cos(x) * b)\na = t\n\
                 y = sum(p * a, j) - sum(q * b, j)",
                "return r(p, q, k, m, v, sigmoid(d), sum(x, H, J))",
            ),
            rotated,
        ),
        (
            "no rotation: one sign is another",
            step(
                "t = d * (cos(x) * a + sin(x) * b) + k * v\n\
                 b = d * (sin(x) * a + cos(x) * b)\na = t\ny = sum(p * a, j) - sum(q * b, j)",
            ),
            "a b: general",
        ),
        (
            "no rotation: sine and cosine of different angles",
            step(
                "t = d * (cos(x) * a - sin(2 * x) * b) + k * v\n\
                 b = d * (sin(2 * x) * a + cos(x) * b)\na = t\ny = sum(p * a, j) - sum(q * b, j)",
            ),
            "a b: general",
        ),
        (
            "an angle for every element: its product is as large as the state",
            text(
                "p[H, j], q[H, j], k[H, j], m[H, j], v[H, i], d[H], x[H, i, j]",
                STATE,
                "t = d * (cos(x) * a - sin(x) * b) + k * v\nb = d * (sin(x) * a + cos(x) * b)\na = t\n\
                 y = sum(p * a, j) - sum(q * b, j)",
                "return r(p, q, k, m, v, sigmoid(d), outer(v, x))",
            ),
            "a b: general",
        ),
    ]
}

fn sources(text: &str) -> (Graph, Graph) {
    let source = ModelSource::from_text("one", text.to_owned());
    let written = lower(&source, &Overrides::default());
    let turned = compile(&source, &Overrides::default());
    match (written, turned) {
        (Ok(written), Ok(turned)) => (written.graph, turned),
        (Err(error), _) | (_, Err(error)) => panic!("{text}\n{:?}", miette::Report::new(error)),
    }
}

fn classes(graph: &Graph) -> String {
    let apart = separate(graph, |_| true);
    let mut out: Vec<String> = Vec::new();
    for op in &apart.ops {
        if let OpKind::Scan { recurrence, .. } = op.kind {
            let step = apart.recurrence(recurrence);
            let states: Vec<&str> = step.states.iter().map(|s| s.name.as_str()).collect();
            let mut classes: Vec<&str> = classify(&apart, step)
                .states
                .iter()
                .map(Class::name)
                .collect();
            classes.dedup();
            out.push(format!("{}: {}", states.join(" "), classes.join(" ")));
        }
    }
    out.sort();
    out.join(", ")
}

/// Results of several runs, each from the states of the one before.
fn run(graph: &Graph, times: &[usize]) -> Vec<f64> {
    check_graph(graph).expect("a graph");
    let interpreter = Interpreter::<f64>::new(graph, vec![]).expect("a graph");
    let batch = 3;
    let mut state = State::<f64>::zero(graph, batch);
    let mut out = Vec::new();
    for (n, time) in times.iter().enumerate() {
        let given: Vec<(ValueId, Vec<f64>)> = graph
            .inputs
            .iter()
            .map(|id| {
                let seed = (n + 16 * id.index() + 1) as u64;
                (*id, noise(seed, batch * time * graph.row_elements(*id)))
            })
            .collect();
        let given: BTreeMap<ValueId, Input<'_, f64>> = given
            .iter()
            .map(|(id, data)| (*id, Input::Numbers(data.as_slice())))
            .collect();
        let run = interpreter
            .run(&mut state, batch, *time, &given, Keep::Outputs)
            .expect("a run");
        for id in &graph.outputs {
            match run.values.get(id) {
                Some(Tensor::Numbers(numbers)) => out.extend(numbers.iter().copied()),
                _ => panic!("no numbers"),
            }
        }
    }
    out
}

fn noise(seed: u64, n: usize) -> Vec<f64> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 11) as f64 / (1u64 << 51) as f64 - 2.0
    };
    (0..n).map(|_| next()).collect()
}

#[test]
fn turning_states_are_what_is_written() {
    for (name, text, expected) in cases() {
        let (written, turned) = sources(&text);
        assert_eq!(classes(&turned), expected, "{name}");
        let states = |graph: &Graph| {
            graph
                .states
                .iter()
                .map(|s| s.name.clone())
                .collect::<Vec<_>>()
        };
        // Rows that are kept for the next token are read from where they were.
        let is_row = |state: &String| state.ends_with(".k0") || state.ends_with(".v0");
        for state in states(&written).into_iter().filter(|state| !is_row(state)) {
            assert!(states(&turned).contains(&state), "{name}: {state}");
        }
        for times in [&[1][..], &[2, 37], &[65, 1, 2], &[300]] {
            let (want, got) = (run(&written, times), run(&turned, times));
            assert_eq!(want.len(), got.len(), "{name}");
            let size = want.iter().fold(1.0_f64, |m, x| m.max(x.abs()));
            for (x, y) in want.iter().zip(&got) {
                assert!(
                    (x - y).abs() <= 1e-12 * size,
                    "{name}, {times:?}: {x} and {y}"
                );
            }
        }
    }
}

#[test]
fn a_graph_is_rewritten_once() {
    for (name, text, _) in cases() {
        let (_, turned) = sources(&text);
        let again = fusec_ir::rotations::unrotated(turned.clone());
        assert_eq!(again, turned, "{name}");
    }
}
