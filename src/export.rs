//! `fusec export`: weights as a file of tensors by the model's own names.

use std::path::PathBuf;

use fusec_runtime::tensor_file;
use fusec_runtime::weights::WeightSpec;
use serde::Serialize;

use crate::exit::Exit;
use crate::failure::{self, Failure};
use crate::flags::ModelArgs;
use crate::output::Output;
use crate::place;
use crate::progress::Progress;
use crate::{model, table};

/// Writes the weights of a model as a safetensors file: every parameter by its full name
/// (layers.3.time_mix.receptance), in the shape that the model declares, as f32. The file can be
/// given as --weights of the same model.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fusec export checkpoints/rwkv7 -o rwkv7.safetensors
  fusec export models/gla.toml --weights random:1 -o start.safetensors
  fusec verify models/gla.toml --weights start.safetensors")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// A checkpoint, or random:SEED; by default those of the checkpoint that MODEL is.
    #[arg(long, value_name = "WEIGHTS")]
    weights: Option<WeightSpec>,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Serialize)]
struct Answer<'a> {
    model: &'a str,
    file: String,
    tensors: usize,
    /// Numbers in all of them.
    parameters: usize,
}

/// Runs the verb.
pub fn run(args: &Args, output: &mut Output) -> Result<Exit, Failure> {
    place::check(&args.out, args.model.read(args.weights.as_ref()))?;
    let model = model::open(&args.model)?;
    let weights = model::weights(&model, args.weights.as_ref())?;
    let graph = &model.graph;
    let progress = Progress::line("writing the weights");
    let named = graph.params.iter().zip(weights.params());
    let tensors = named.map(|(param, numbers)| {
        let axes = graph.value(param.value).axes.iter();
        let shape = axes.map(|axis| graph.size(*axis)).collect();
        (param.name.as_str(), shape, numbers.as_slice())
    });
    tensor_file::write(&args.out, tensors).map_err(failure::input)?;
    drop(progress);
    let answer = Answer {
        model: &graph.name,
        file: args.out.display().to_string(),
        tensors: graph.params.len(),
        parameters: weights.params().iter().map(Vec::len).sum(),
    };
    output.answer(&answer, || {
        format!(
            "wrote {}: {} tensors, {} parameters of {}\n",
            answer.file,
            answer.tensors,
            table::count(answer.parameters as f64),
            answer.model,
        )
    })?;
    Ok(Exit::Success)
}
