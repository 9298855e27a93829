//! The worked examples of the language's page are whole models: they compile without warnings, and
//! the graph as written and the merged one compute the same, in one pass and token by token.

use fusec_ir::interpret::{Input, Interpreter, Keep, State};
use fusec_ir::language::{Compiled, ModelSource, Overrides, compile_with_warnings, lower};
use fusec_ir::{Graph, Init};
use std::path::PathBuf;

fn examples() -> Vec<String> {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/model-language.md");
    let page = std::fs::read_to_string(page).expect("the page is in the repository");
    page.split("```toml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap_or_default().to_owned())
        .collect()
}

/// Repeatable numbers in -1..1.
fn noise(seed: u64, n: usize) -> Vec<f64> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
        .collect()
}

fn params(graph: &Graph) -> Vec<Vec<f64>> {
    graph
        .params
        .iter()
        .enumerate()
        .map(|(i, param)| {
            let draws = noise(i as u64 + 1, graph.row_elements(param.value));
            let to = |u: f64| match param.init {
                Init::Normal(sd) => sd * u * 3f64.sqrt(),
                Init::Uniform(a, b) => a + (b - a) * (u + 1.0) / 2.0,
                Init::LogUniform(a, b) => (a + (b - a) * (u + 1.0) / 2.0).ln(),
                Init::Constant(c) => c,
            };
            draws.into_iter().map(to).collect()
        })
        .collect()
}

/// The first output of runs over the given lengths, one after the other.
fn outputs(graph: &Graph, lengths: &[usize]) -> Vec<f64> {
    let interpreter = Interpreter::<f64>::new(graph, params(graph)).expect("a valid graph");
    let mut state = State::zero(graph, 1);
    let width = graph.row_elements(graph.inputs[0]);
    let all = noise(99, width * lengths.iter().sum::<usize>());
    let mut out = Vec::new();
    let mut at = 0;
    for length in lengths {
        let rows = &all[at * width..(at + length) * width];
        at += length;
        let inputs = [(graph.inputs[0], Input::Numbers(rows))].into();
        let run = interpreter
            .run(&mut state, 1, *length, &inputs, Keep::Outputs)
            .expect("a run");
        out.extend_from_slice(run.values[&graph.outputs[0]].numbers().expect("numbers"));
    }
    out
}

#[test]
fn worked_examples_run() {
    let examples = examples();
    assert_eq!(examples.len(), 6);
    for text in examples {
        let source = ModelSource::from_text("example", text);
        let both = [compile_with_warnings, lower].map(|f| f(&source, &Overrides::default()));
        let mut results: Vec<Vec<f64>> = Vec::new();
        for compiled in both {
            let Compiled {
                graph, warnings, ..
            } = compiled.unwrap_or_else(|e| panic!("{:?}", miette::Report::new(e)));
            assert_eq!(warnings, [], "{}", graph.name);
            results.push(outputs(&graph, &[9]));
            results.push(outputs(&graph, &[1; 9]));
            results.push(outputs(&graph, &[3, 1, 5]));
        }
        let (first, rest) = results.split_first().expect("six runs");
        assert!(
            first.iter().any(|x| x.abs() > 1e-3),
            "all zero says nothing"
        );
        for other in rest {
            let off = first
                .iter()
                .zip(other)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f64::max);
            assert!(first.len() == other.len() && off < 1e-12, "off by {off}");
        }
    }
}
