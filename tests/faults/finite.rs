//! Numbers that are not finite are an error that names where they arise.

use std::path::Path;

use crate::command::{Answer, answer, fusec};

/// Every layer squares what it is given: the first one's result is beyond f16, the fourth one's beyond
/// f32. A product stores it.
const GROWING: &str = r#"
name = "growing"
[axes]
V = 8
C = 8
[param]
emb = { shape = "V, C", init = "uniform(90, 100)" }
[block.layer]
args = ["x"]
flow = """
  grown = x * x
  y = grown @ w
  return y
"""
[block.layer.param]
w = { shape = "C, C", init = "uniform(0.9, 1.0)" }
[model]
flow = """
  x = gather(emb, ids)
  repeat l in L {
    x = layer(x)
  }
  logits = x @ emb
  return logits
"""
"#;

fn run(dir: &Path, layers: usize, more: &[&str]) -> Answer {
    let path = dir.join("growing.toml");
    let text = GROWING.replace("[axes]", &format!("[axes]\nL = {layers}"));
    std::fs::write(&path, text).expect("written");
    let path = path.to_str().expect("a path");
    let mut arguments = vec!["run", path, "--weights", "random:1", "--shape", "T=3"];
    arguments.extend(more);
    answer(&mut fusec(&dir.join("cache"), &arguments))
}

#[test]
fn the_first_number_that_is_not_finite_is_named_on_every_device() {
    let dir = tempfile::tempdir().expect("a directory");
    let run = |layers, more: &[&str]| run(dir.path(), layers, more);
    run(1, &["--device", "cpu"]).expect(0, &[]);
    run(1, &["--device", "emulator"]).expect(0, &[]);
    let says = [
        "not finite",
        "layer",
        "inf",
        "[B=0, T=0",
        "--allow-nonfinite",
    ];
    run(6, &["--device", "cpu"]).expect(2, &says);
    run(6, &["--device", "emulator"]).expect(2, &says);
    run(2, &["--device", "emulator"]).expect(0, &[]);
    run(2, &["--device", "emulator", "--dtype", "f16"]).expect(2, &says);
}

#[test]
fn they_are_given_to_those_who_ask() {
    let dir = tempfile::tempdir().expect("a directory");
    for device in ["cpu", "emulator"] {
        run(dir.path(), 6, &["--device", device, "--allow-nonfinite"]).expect(0, &[]);
    }
}
