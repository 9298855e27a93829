//! What goes wrong around a program: it is killed, told to stop, run many times at once, short of memory,
//! of room and of rights, or given a directory of somebody else's.

mod cache;
mod command;
mod driver;
mod ending;
mod endless;
mod finite;
mod foreign;
mod memory;
mod together;

/// A model of numbers, small.
const NUMBERS: &str = "models/gated-scan.toml";

/// A model of token ids, so that it runs without an input.
const TOKENS: &str = r#"
name = "tokens"

[axes]
V = 32
C = 16

[param]
emb = { shape = "V, C", init = "normal(1)" }
w_a = { shape = "C, C", init = "normal(0.2)" }

[recurrence.average]
inputs  = "v[C], a[C]"
state   = "S[C]"
outputs = "s[C]"
step    = """
  S = a * S + (1 - a) * v
  s = S
"""

[model]
flow = """
  x = gather(emb, ids)
  a = f32(sigmoid(x @ w_a))
  y = average(x, a)
  logits = y @ emb
  return logits
"""
"#;

/// Writes [`TOKENS`] to a directory and gives its path.
fn tokens(dir: &std::path::Path) -> String {
    let path = dir.join("tokens.toml");
    std::fs::write(&path, TOKENS).expect("written");
    path.display().to_string()
}
