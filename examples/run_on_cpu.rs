//! A model that is run on the CPU: all tokens at once, then one more from the state that this leaves.
//!
//!     cargo run --example run_on_cpu

use std::error::Error;

use fusec_fuse::Shape;
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_runtime::cpu::CpuSession;
use fusec_runtime::inputs::RunInputs;
use fusec_runtime::session::{Session, run_finite};
use fusec_runtime::weights::Weights;

const MODEL: &str = r#"
name = "tiny"
[axes]
V = 32
C = 16
[param]
emb  = { shape = "V, C", init = "normal(1)" }
rate = { shape = "C", init = "uniform(-1, 1)" }
head = { shape = "V, C" }
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
  logits = (x + ema(x, sigmoid(rate))) @ head
  return logits
"""
"#;

pub fn main() -> Result<(), Box<dyn Error>> {
    let source = ModelSource::from_text("tiny.toml", MODEL);
    let graph = compile(&source, &Overrides::default())?;
    let weights = Weights::random(&graph, 0)?;
    let mut session = CpuSession::<f32>::new(&graph, weights)?;

    // Two sequences of eight tokens.
    let shape = Shape { batch: 2, time: 8 };
    session.reset(shape.batch)?;
    let prompt = RunInputs::random(&graph, shape, 1);
    let outputs = run_finite(&mut session, shape.time, &prompt.given())?;
    let logits = outputs[0].numbers().ok_or("logits are numbers")?;
    println!("{} logits on {}", logits.len(), session.device());

    // The likeliest token of each goes on from the state.
    let vocabulary = logits.len() / (shape.batch * shape.time);
    let last_rows = logits.chunks(shape.time * vocabulary);
    let next = last_rows.map(|rows| {
        let last = &rows[rows.len() - vocabulary..];
        let best = (0..vocabulary).max_by(|a, b| last[*a].total_cmp(&last[*b]));
        best.unwrap_or(0) as i32
    });
    let step = RunInputs::ids(next.collect());
    let outputs = run_finite(&mut session, 1, &step.given())?;
    let logits = outputs[0].numbers().ok_or("logits are numbers")?;
    println!("{} logits of one more token", logits.len());
    Ok(())
}
