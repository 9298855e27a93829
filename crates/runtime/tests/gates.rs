//! The gates of `fusec check`: what passes, and what each is there to catch.

use fusec_fuse::{Shape, Storage};
use fusec_ir::Graph;
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_runtime::cpu::CpuSession;
use fusec_runtime::gates::{
    Gate, MOST_PARAMETERS, Verdict, balance, equal, joins, learning, sane, undecided,
};
use fusec_runtime::weights::Weights;
use std::path::Path;

const SHAPE: Shape = Shape { batch: 2, time: 9 };

fn built_in(name: &str) -> Graph {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    let source = ModelSource::from_path(&root.join(format!("{name}.toml"))).expect("a model");
    let overrides = Overrides {
        axes: [("L".to_owned(), 2)].into(),
        ..Overrides::default()
    };
    compile(&source, &overrides).expect("it compiles")
}

fn from_text(text: &str) -> Graph {
    let source = ModelSource::from_text("test.toml", text);
    compile(&source, &Overrides::default()).expect("it compiles")
}

/// A small language model; `head` is the standard deviation of its last matrix.
fn language_model(flow: &str, head: f64) -> Graph {
    from_text(&format!(
        r#"
name = "small"
[axes]
V = 32
C = 16
[param]
emb  = {{ shape = "V, C", init = "normal(1)" }}
gain = {{ shape = "C", init = 1 }}
none = {{ shape = "C", init = 0 }}
head = {{ shape = "V, C", init = "normal({head})" }}
a    = {{ shape = "C", init = "uniform(0.1, 0.9)" }}
b    = {{ shape = "C", init = "uniform(0.1, 0.9)" }}
[recurrence.ema]
inputs  = "x[C], a[C]"
state   = "S[C]"
outputs = "y[C]"
step    = """
  S = a * S + (1 - a) * x
  y = S
"""
[model]
flow = """
  x = gather(emb, ids)
  {flow}
  logits = rms_norm(x, C, eps = 1e-5) @ head
  return logits
"""
"#
    ))
}

fn verdict(gate: &Gate) -> (&'static str, Verdict) {
    (gate.gate, gate.verdict)
}

#[test]
fn branches_are_found_wherever_results_of_recurrences_meet() {
    // For each model: the joins of a layer, and how many of them are sums.
    for (name, of_layer, sums) in [
        ("hybrid", 1, 1),
        ("hybrid-ws", 1, 1),
        ("hybrid-rf", 1, 1),
        // The gate between the branches reads both, and is no sum of them.
        ("hybrid-gf", 2, 1),
        // Queries of one, keys and values of the other.
        ("hybrid-cp", 1, 0),
        ("rwkv6", 0, 0),
        ("mamba2", 0, 0),
        ("gla", 0, 0),
    ] {
        let graph = built_in(name);
        let found = joins(&graph);
        let in_first = found
            .iter()
            .filter(|join| graph.op(join.op).layer == Some(0));
        let in_first: Vec<_> = in_first.collect();
        assert_eq!(in_first.len(), of_layer, "{name}: {in_first:?}");
        let added = in_first.iter().filter(|join| join.is_sum).count();
        assert_eq!(added, sums, "{name}");
        assert_eq!(found.len(), 2 * of_layer, "{name}: both layers alike");
        for join in found {
            assert_eq!(join.branches.len(), 2, "{name}");
            assert_ne!(join.branches[0].mixers, join.branches[1].mixers, "{name}");
        }
    }
}

#[test]
fn branches_have_to_be_of_like_size_and_to_differ() {
    let two = "x = x + ema(x, a) * gain + ema(x * x, b) * SECOND";
    for (second, expected) in [
        ("gain", Verdict::Pass),
        // Drowned, dead, and the same as the first.
        ("gain * 0.001", Verdict::Warn),
        ("none", Verdict::Fail),
    ] {
        let graph = language_model(&two.replace("SECOND", second), 0.05);
        let weights = Weights::initial(&graph, 1).expect("weights");
        let (gate, pairs) = balance(&graph, &weights, SHAPE, 1).expect("it runs");
        assert_eq!(verdict(&gate), ("G4", expected), "{second}: {gate:?}");
        assert_eq!(pairs.len(), 1, "{pairs:?}");
    }
    let same = language_model("x = x + ema(x, a) * gain + ema(x, a) * gain", 0.05);
    let weights = Weights::initial(&same, 1).expect("weights");
    let (gate, pairs) = balance(&same, &weights, SHAPE, 1).expect("it runs");
    assert_eq!(verdict(&gate), ("G4", Verdict::Warn), "{gate:?} {pairs:?}");
    assert!((pairs[0].ratio - 1.0).abs() < 1e-5 && pairs[0].cosine > Some(0.999));

    let alone = built_in("rwkv6");
    let weights = Weights::random(&alone, 1).expect("weights");
    let (gate, _) = balance(&alone, &weights, SHAPE, 1).expect("it runs");
    assert_eq!(gate.verdict, Verdict::NotAvailable);
}

#[test]
fn a_model_has_to_learn_in_each_of_its_branches_and_says_why_it_was_not_tried() {
    let two = "x = x + ema(x, a) * gain + ema(x * x, b) * SECOND";
    let numbers =
        "name = \"n\"\n[axes]\nC = 4\n[input]\nx = \"C\"\n[model]\nflow = \"return x * x\"\n";
    for (graph, most, expected, said) in [
        (
            language_model(&two.replace("SECOND", "gain"), 0.05),
            MOST_PARAMETERS,
            Verdict::Pass,
            "16 steps of AdamW on one batch of B=2 T=48",
        ),
        (
            language_model(&two.replace("SECOND", "0"), 0.05),
            MOST_PARAMETERS,
            Verdict::Fail,
            "nothing flows back to `x.4`: the gradient by its parameter is 0",
        ),
        (
            language_model("x = x + log(ema(x, a) - 100)", 0.05),
            MOST_PARAMETERS,
            Verdict::Fail,
            "step 1: the loss is NaN",
        ),
        // 32 * 16 of each table, and the rate of the average; what is not used is no parameter.
        (
            language_model("x = x + ema(x, a)", 0.05),
            1039,
            Verdict::NotAvailable,
            "1040 parameters, tried with at most 1039",
        ),
        (
            from_text(numbers),
            MOST_PARAMETERS,
            Verdict::NotAvailable,
            "cannot be trained",
        ),
    ] {
        let gate = learning(&graph, 1, most).expect("an answer");
        assert_eq!(verdict(&gate), ("G3", expected), "{gate:?}");
        let all = [
            &[gate.figure.as_str()][..],
            &gate.details.iter().map(String::as_str).collect::<Vec<_>>(),
        ]
        .concat();
        assert!(
            all.iter().any(|line| line.contains(said)),
            "{said}: {all:?}"
        );
    }
}

#[test]
fn a_model_that_is_sure_of_itself_before_it_has_learnt_is_warned_of() {
    for (head, expected) in [(0.05, Verdict::Pass), (5.0, Verdict::Warn)] {
        let graph = language_model("x = x + ema(x, a)", head);
        let weights = Weights::initial(&graph, 1).expect("weights");
        let mut session = CpuSession::<f32>::new(&graph, weights).expect("a session");
        let gate = undecided(&mut session, SHAPE, 1).expect("it runs");
        assert_eq!(verdict(&gate), ("G2", expected), "{gate:?}");
    }
    let numbers = from_text(
        "name = \"n\"\n[axes]\nC = 4\n[input]\nx = \"C\"\n[model]\nflow = \"return x * x\"\n",
    );
    let weights = Weights::initial(&numbers, 1).expect("weights");
    let mut session = CpuSession::<f32>::new(&numbers, weights).expect("a session");
    let gate = undecided(&mut session, SHAPE, 1).expect("it runs");
    assert_eq!(gate.verdict, Verdict::NotAvailable);
}

#[test]
fn a_forward_pass_has_to_be_finite() {
    for (flow, expected) in [
        ("x = x + ema(x, a)", Verdict::Pass),
        ("x = x + log(ema(x, a) - 100)", Verdict::Fail),
    ] {
        let graph = language_model(flow, 0.05);
        let weights = Weights::random(&graph, 1).expect("weights");
        let mut session = CpuSession::<f32>::new(&graph, weights).expect("a session");
        let gate = sane(&mut session, SHAPE, 1, "random:1", Storage::F32).expect("it runs");
        assert_eq!(verdict(&gate), ("G1", expected), "{gate:?}");
    }
}

#[test]
fn another_model_is_not_taken_for_the_same() {
    let graph = language_model("x = x + ema(x, a)", 0.5);
    let session = |seed| {
        let weights = Weights::random(&graph, seed).expect("weights");
        CpuSession::<f32>::new(&graph, weights).expect("a session")
    };
    for (seed, expected) in [(1, Verdict::Pass), (2, Verdict::Fail)] {
        let (mut one, mut other) = (session(1), session(seed));
        let gate = equal(&mut one, &mut other, SHAPE, 6, 1, Storage::F32).expect("it runs");
        assert_eq!(verdict(&gate), ("G5", expected), "{gate:?}");
    }
}
