//! What a short training shows of a model: that it learns, or what keeps it from it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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
fn every_model_of_the_zoo_learns_in_each_of_its_branches() {
    let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(zoo)
        .expect("models")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "toml"))
        .collect();
    paths.sort();
    let mut wrong = Vec::new();
    let mut mixers = BTreeMap::new();
    for path in paths {
        let name = path.file_stem().expect("a name").to_string_lossy();
        // A recurrence by itself, from numbers to numbers.
        if name == "gated-scan" {
            let model = Model::open(&path, &Overrides::default()).expect("a model");
            let error = learns(&model.graph, Course::default()).expect_err("no tokens");
            assert!(error.to_string().contains("no language model"), "{error}");
            continue;
        }
        let overrides = Overrides {
            axes: BTreeMap::from([("L".to_owned(), 2)]),
            ..Overrides::default()
        };
        let model = Model::open(&path, &overrides).expect("a model");
        let course = Course {
            steps: 6,
            ..Course::default()
        };
        let learning = learns(&model.graph, course).expect("a language model");
        println!(
            "{name}: loss {:.3} to {:.3}, {:?}",
            learning.losses[0],
            learning.losses.last().unwrap_or(&f64::NAN),
            learning.mixers
        );
        let faults = learning.faults().into_iter();
        wrong.extend(faults.map(|fault| format!("{name}: {fault}")));
        let own = learning.mixers.iter().filter(|m| m.norm > Some(1e-6));
        mixers.insert(name.into_owned(), own.count());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (name, branches) in mixers {
        let least = if name.starts_with("hybrid") { 2 } else { 1 };
        assert!(branches >= least, "{name}: {branches} with a gradient");
    }
}
