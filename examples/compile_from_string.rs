//! A model text to a plan and to CUDA sources, in memory: no files, no GPU, no compiler.
//!
//!     cargo run --example compile_from_string

use std::error::Error;

use fusec_codegen::{Planned, generate};
use fusec_fuse::{Device, Mode, Options, Shape, Storage, Submit, plan};
use fusec_ir::language::{ModelSource, Overrides, compile};

const MODEL: &str = r#"
name = "ema"
[axes]
C = 64
[input]
x = "C"
[param]
gain = { shape = "C", init = 1 }
rate = { shape = "C", init = "uniform(-2, 2)" }
w    = { shape = "C, C" }
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
  u = rms_norm(x, C, eps = 1e-5, gain = gain)
  return x + silu(ema(u, sigmoid(rate))) @ w
"""
"#;

pub fn main() -> Result<(), Box<dyn Error>> {
    // What the model means: a typed graph. Errors point into the text.
    let source = ModelSource::from_text("ema.toml", MODEL);
    let graph = compile(&source, &Overrides::default())?;

    // Which operations share a kernel, for one GPU, shape and storage type.
    let device = Device::find("h200")?;
    let planned = plan(
        &graph,
        &Options {
            shape: Shape {
                batch: 8,
                time: 2048,
            },
            storage: Storage::Bf16,
            mode: Mode::Auto,
            device: &device,
            launch: Submit::Graph,
            pins: Vec::new(),
        },
    )?;
    println!("{}", planned.brief());

    // The sources, and everything needed to launch them.
    let regime = Planned {
        name: "prefill",
        min_time: 1,
        max_time: None,
        graph: &planned.graph,
        plan: &planned.plan,
    };
    let manifest = generate(&graph.name, Storage::Bf16, &[regime])?;
    for kernel in &manifest.kernels {
        let lines = kernel.source.lines().count();
        println!("{}: {lines} lines, {} threads", kernel.name, kernel.threads);
    }
    Ok(())
}
