//! The pieces of a step compute what the step does, bit for bit, with the same states.

use fusec_ir::components::{is_separable, separate};
use fusec_ir::interpret::{Input, Interpreter, Keep, Real, State, Tensor, check_graph};
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::{Class, Graph, OpKind, ValueId, classify};
use std::collections::BTreeMap;
use std::path::PathBuf;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/recurrences")
}

/// Name and graph of every recurrence of `tests/recurrences`.
fn all() -> Vec<(String, Graph)> {
    let mut out: Vec<(String, Graph)> = Vec::new();
    for entry in std::fs::read_dir(directory()).expect("the recurrences") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy();
        let source = ModelSource::from_path(&path).expect("a model");
        match compile(&source, &Overrides::default()) {
            Ok(graph) => out.push((name.into_owned(), graph)),
            Err(error) => panic!("{name}: {:?}", miette::Report::new(error)),
        }
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(out.len() >= 10, "{}", out.len());
    out
}

fn of(text: &str) -> Graph {
    let source = ModelSource::from_text("one", text.to_owned());
    match compile(&source, &Overrides::default()) {
        Ok(graph) => graph,
        Err(error) => panic!("{text}\n{:?}", miette::Report::new(error)),
    }
}

/// The pieces of a graph: scans with their states and classes, and how many operations there are beside.
fn pieces(graph: &Graph) -> String {
    let mut out = Vec::new();
    for op in &graph.ops {
        if let OpKind::Scan { recurrence, .. } = &op.kind {
            let step = graph.recurrence(*recurrence);
            let states: Vec<&str> = step.states.iter().map(|s| s.name.as_str()).collect();
            let found = classify(graph, step);
            let mut classes: Vec<&str> = found.states.iter().map(Class::name).collect();
            classes.dedup();
            out.push(format!("{}: {}", states.join(" "), classes.join(" ")));
        }
    }
    let others = graph
        .ops
        .iter()
        .filter(|op| !matches!(op.kind, OpKind::Scan { .. }));
    format!("{}; {} beside", out.join(", "), others.count())
}

fn noise<F: Real>(seed: u64, n: usize) -> Vec<F> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..n).map(|_| F::from_f64(next())).collect()
}

/// Outputs of two runs, the second from the states of the first, and the states after it.
fn run<F: Real>(graph: &Graph) -> Vec<Vec<F>> {
    let interpreter = Interpreter::<F>::new(graph, vec![]).expect("a graph");
    let batch = 2;
    let mut state = State::<F>::zero(graph, batch);
    let mut out = Vec::new();
    for (seed, time) in [(1, 5), (2, 3)] {
        let given: Vec<(ValueId, Vec<F>)> = graph
            .inputs
            .iter()
            .map(|id| {
                let n = batch * time * graph.row_elements(*id);
                (*id, noise(seed + 16 * u64::from(id.0), n))
            })
            .collect();
        let given: BTreeMap<ValueId, Input<'_, F>> = given
            .iter()
            .map(|(id, data)| (*id, Input::Numbers(data.as_slice())))
            .collect();
        let run = interpreter
            .run(&mut state, batch, time, &given, Keep::Outputs)
            .expect("a run");
        for id in &graph.outputs {
            match run.values.get(id) {
                Some(Tensor::Numbers(numbers)) => out.push(numbers.to_vec()),
                _ => panic!("no numbers"),
            }
        }
    }
    out.extend(state.buffers);
    out
}

#[test]
fn pieces_compute_the_same_numbers_in_the_same_states() {
    for (name, graph) in all() {
        let apart = separate(&graph, |_| true);
        if let Err(error) = check_graph(&apart) {
            panic!("{name}: {error}\n{apart:#?}");
        }
        assert_eq!(graph.states, apart.states, "{name}");
        assert_eq!(graph.outputs, apart.outputs, "{name}");
        let bits = |of: Vec<Vec<f64>>| -> Vec<Vec<u64>> {
            let of = of.into_iter();
            of.map(|x| x.into_iter().map(f64::to_bits).collect())
                .collect()
        };
        assert_eq!(bits(run(&graph)), bits(run(&apart)), "{name}");
        let bits = |of: Vec<Vec<f32>>| -> Vec<Vec<u32>> {
            let of = of.into_iter();
            of.map(|x| x.into_iter().map(f32::to_bits).collect())
                .collect()
        };
        assert_eq!(bits(run(&graph)), bits(run(&apart)), "{name}");
        // What is in pieces is in pieces.
        assert_eq!(
            pieces(&separate(&apart, |_| true)),
            pieces(&apart),
            "{name}"
        );
    }
}

#[test]
fn nothing_changes_that_is_not_wanted() {
    for (name, graph) in all() {
        assert_eq!(separate(&graph, |_| false), graph, "{name}");
        let separable = graph.ops.iter().any(|op| match &op.kind {
            OpKind::Scan { recurrence, .. } => is_separable(&graph, graph.recurrence(*recurrence)),
            _ => false,
        });
        assert_eq!(separable, separate(&graph, |_| true) != graph, "{name}");
    }
}

#[test]
fn each_recurrence_falls_apart_as_expected() {
    let mut text = String::new();
    for (name, graph) in all() {
        let apart = separate(&graph, |_| true);
        text += &format!(
            "{name}\n  whole:  {}\n  pieces: {}\n",
            pieces(&graph),
            pieces(&apart)
        );
    }
    insta::assert_snapshot!("components", text);
}

/// A state that nothing reads is carried all the same.
#[test]
fn a_component_without_a_reader_keeps_its_scan_whole() {
    let model = |returned: &str| {
        of(&format!(
            r#"
            name = "one"
            [axes]
            C = 4
            [input]
            x = "C"
            [recurrence.r]
            inputs  = "x[C]"
            state   = "a[C], b[C]"
            outputs = "y[C], z[C]"
            step = """
              a = 0.5 * a + x
              b = 0.25 * b + x
              y = a
              z = b
            """
            [model]
            flow = """
              y, z = r(x)
              return {returned}
            """
            "#
        ))
    };
    let (both, one) = (model("y, z"), model("y"));
    assert!(is_separable(&one, &one.recurrences[0]));
    assert_ne!(separate(&both, |_| true), both);
    assert_eq!(separate(&one, |_| true), one);
}
