//! What a short training shows of a model: that it learns, or what keeps it from it.

use std::path::Path;

use fusec_ir::Graph;
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_runtime::model::Model;
use fusec_runtime::train::learns::{Course, Learning, learns};

fn shown(graph: &Graph) -> Learning {
    learns(graph, Course::default()).expect("a language model")
}

/// Two branches, of which `join` says how they meet, and a head.
fn two_branches(join: &str, head: &str) -> Graph {
    let text = format!(
        r#"
name = "two"
[axes]
V = 40
C = 12
[param]
emb = {{ shape = "V, C", init = "normal(0.5)" }}
a   = {{ shape = "C, C" }}
b   = {{ shape = "C, C" }}
out = {{ shape = "V, C" }}
[recurrence.slow]
inputs  = "x[c]"
state   = "h[c]"
outputs = "h[c]"
step    = "h = 0.9 * h + 0.1 * x"
[recurrence.fast]
inputs  = "x[c]"
state   = "h[c]"
outputs = "h[c]"
step    = "h = 0.3 * h + 0.7 * x"
[model]
flow = """
  u = gather(emb, ids)
  s = slow(u @ a)
  f = fast(u @ b)
  y = {join}
  return {head}
"""
"#
    );
    let source = ModelSource::from_text("two", &text);
    compile(&source, &Overrides::default()).expect("a model")
}

#[test]
fn what_keeps_a_model_from_learning_is_said() {
    for (join, head, faults) in [
        ("u + s + f", "y @ out", &[][..]),
        // Nothing flows through what is multiplied by 0.
        ("u + s + 0 * f", "y @ out", &["nothing flows back to `f"]),
        (
            "u + s * f",
            "0 * (y @ out)",
            &["the loss fell by 0.0 %", "`s", "`f"],
        ),
        // 10^60 is beyond f32.
        (
            "u + s + f",
            "exp(1000 + y @ out)",
            &["step 1: the loss is NaN"],
        ),
    ] {
        let learning = shown(&two_branches(join, head));
        let said = learning.faults();
        assert_eq!(said.len(), faults.len(), "{join}, {head}: {said:?}");
        for (said, fault) in said.iter().zip(faults) {
            assert!(said.contains(fault), "{join}, {head}: {said}");
        }
    }
}

#[test]
fn each_branch_of_a_hybrid_learns_by_parameters_of_its_own() {
    let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/hybrid.toml");
    let sizes = [("L", 2)].map(|(axis, size)| (axis.to_owned(), size));
    let overrides = Overrides {
        axes: sizes.into_iter().collect(),
        ..Overrides::default()
    };
    let model = Model::open(&at, &overrides).expect("a model");
    let learning = shown(&model.graph);
    assert!(learning.faults().is_empty(), "{:?}", learning.faults());
    assert_eq!(learning.losses.len(), 17);
    assert_eq!(learning.mixers.len(), 2, "{:?}", learning.mixers);
    for mixer in &learning.mixers {
        let norm = mixer.norm.expect("parameters of its own");
        assert!(norm > 1e-4 && mixer.params > 4, "{mixer:?}");
    }
    assert!(learning.untouched.is_empty(), "{:?}", learning.untouched);
}
