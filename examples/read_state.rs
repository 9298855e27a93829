//! The state of a recurrence: read by name, and taken over by another session.
//!
//!     cargo run --example read_state

use std::error::Error;

use fusec_fuse::Shape;
use fusec_ir::StateId;
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_runtime::cpu::CpuSession;
use fusec_runtime::inputs::RunInputs;
use fusec_runtime::session::Session;
use fusec_runtime::weights::Weights;

const MODEL: &str = r#"
name = "memory"
[axes]
H = 2
N = 8
C = "H * N"
[input]
x = "C"
[param]
w_q = { shape = "C, C" }
w_k = { shape = "C, C" }
w_d = { shape = "C, C" }
[recurrence.memory]
inputs  = "q[H, j], k[H, j], v[H, i], d[H, j]"
state   = "S[H, i = N, j = N]"
outputs = "y[H, i]"
step    = """
  S = d * S + k * v
  y = sum(q * S, j)
"""
[model]
flow = "return memory(x @ w_q, x @ w_k, x, sigmoid(x @ w_d))"
"#;

pub fn main() -> Result<(), Box<dyn Error>> {
    let source = ModelSource::from_text("memory.toml", MODEL);
    let graph = compile(&source, &Overrides::default())?;
    let weights = Weights::random(&graph, 0)?;
    let mut session = CpuSession::<f32>::new(&graph, weights.clone())?;
    let shape = Shape { batch: 1, time: 20 };
    session.reset(shape.batch)?;
    session.run(shape.time, &RunInputs::random(&graph, shape, 1).given())?;

    // f32, in the order of the state's axes, whatever ran the model.
    let state = session.state()?;
    for (at, declared) in graph.states.iter().enumerate() {
        let numbers = &state.tensors[&StateId(at as u32)];
        let sizes: Vec<usize> = declared.axes.iter().map(|axis| graph.size(*axis)).collect();
        let norm = numbers.iter().map(|x| x * x).sum::<f32>().sqrt();
        println!("{} {sizes:?}: norm {norm:.3}", declared.name);
    }

    // Another session goes on where this one stopped.
    let mut other = CpuSession::<f32>::new(&graph, weights)?;
    other.set_state(&state)?;
    let token = Shape { batch: 1, time: 1 };
    let token = RunInputs::random(&graph, token, 2);
    let (one, two) = (
        session.run(1, &token.given())?,
        other.run(1, &token.given())?,
    );
    assert_eq!(one, two, "the same state gives the same answer");
    println!("after {} tokens, both give the same", state.position + 1);
    Ok(())
}
