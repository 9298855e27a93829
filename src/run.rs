//! `fusec run`: token ids in, logits out, the state in and out of files.

use std::path::{Path, PathBuf};
use std::time::Instant;

use fusec_fuse::Shape;
use fusec_ir::interpret::Tensor;
use fusec_ir::{Graph, ValueId};
use fusec_runtime::checkpoint::Checkpoint;
use fusec_runtime::executor::HostState;
use fusec_runtime::inputs::RunInputs;
use fusec_runtime::layout::tuned_state;
use fusec_runtime::session::run_finite;
use fusec_runtime::tensor_file;
use fusec_runtime::weights::WeightSpec;
use serde::Serialize;

use crate::device::{self, Device, Memory};
use crate::exit::Exit;
use crate::failure::{self, Failure};
use crate::flags::{KernelArgs, LogitsArg, ModelArgs, ShapeArg};
use crate::inputs;
use crate::model;
use crate::output::Output;
use crate::place;
use crate::progress::Progress;
use crate::table::{Align, Table};

/// Runs a model on token ids, or on the numbers that it takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fusec run models/hybrid.toml --weights random:0 --shape B=1,T=256
  fusec run models/hybrid.toml --weights random:0 --shape B=2,T=64 --logits last
  fusec run checkpoints/rwkv6 --input ids.safetensors --output logits.safetensors --state-out s.safetensors")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// A checkpoint, or random:SEED; by default those of the checkpoint that MODEL is.
    #[arg(long, value_name = "WEIGHTS")]
    weights: Option<WeightSpec>,
    /// The model's inputs by name, [B, T, ...], and nothing else but an `attention_mask` of ones
    /// (safetensors; token ids also as `input_ids`). Without it, random tokens and numbers.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Where the model's outputs go, by name, f32 (safetensors).
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The state to go on from, as --state-out wrote it; or a tuned initial state of RWKV
    /// (`blocks.N.att.time_state`).
    #[arg(long, value_name = "FILE")]
    state_in: Option<PathBuf>,
    /// Where the state goes after the run.
    #[arg(long, value_name = "FILE")]
    state_out: Option<PathBuf>,
    /// Where it runs: auto, cpu, emulator, cuda:N.
    #[arg(long, default_value_t = Device::Auto)]
    device: Device,
    #[command(flatten)]
    logits: LogitsArg,
    /// Take numbers that are not finite for an answer; without it they are an error, which names
    /// the value in which the first of them arises.
    #[arg(long)]
    allow_nonfinite: bool,
    #[command(flatten)]
    kernels: KernelArgs,
    /// Without --input: sequences, and tokens of each.
    #[arg(
        long,
        value_name = "B=N,T=N",
        default_value = "B=1,T=256",
        conflicts_with = "input"
    )]
    shape: ShapeArg,
    /// Without --input: seed of the inputs.
    #[arg(long, default_value_t = 0, conflicts_with = "input")]
    seed: u64,
}

#[derive(Serialize)]
struct Answer {
    model: String,
    device: String,
    batch: usize,
    time: usize,
    /// Position of the next token.
    position: i64,
    milliseconds: f64,
    outputs: Vec<Summary>,
}

/// An output in a few numbers.
#[derive(Serialize)]
struct Summary {
    name: String,
    shape: Vec<usize>,
    mean: f64,
    deviation: f64,
    smallest: f64,
    largest: f64,
}

/// Runs the verb.
pub fn run(args: &Args, output: &mut Output) -> Result<Exit, Failure> {
    for path in args.output.iter().chain(&args.state_out) {
        let read = args.model.read(args.weights.as_ref());
        place::check(path, read.chain(args.input.as_deref()))?;
    }
    let model = model::open(&args.model)?;
    output.assume(&model);
    let graph = &model.graph;
    let last = args.logits.logits.asked(graph);
    let asked = last.as_ref().unwrap_or(graph);
    let (shape, given) = match &args.input {
        Some(path) => {
            let (shape, given) = inputs::read(graph, path)?;
            device::admit(args.device, asked, shape)?;
            (shape, given)
        }
        None => {
            let ShapeArg(shape) = args.shape;
            device::admit(args.device, asked, shape)?;
            (shape, RunInputs::random(graph, shape, args.seed))
        }
    };
    let weights = model::weights(&model, args.weights.as_ref())?;
    let started = device::start(
        args.device,
        graph,
        last.as_ref(),
        weights,
        &args.kernels,
        shape,
        Memory::AsFound,
    )?;
    let mut session = started.session;
    match &args.state_in {
        None => session.reset(shape.batch).map_err(failure::input)?,
        Some(path) => {
            let state = read_state(graph, path, shape.batch)?;
            if state.batch != shape.batch {
                return Err(failure::message(
                    format!(
                        "{} holds {} sequences, the input has {}",
                        path.display(),
                        state.batch,
                        shape.batch
                    ),
                    "give an input with as many sequences as the state",
                ));
            }
            session.set_state(&state).map_err(failure::input)?;
        }
    }
    let inputs = given.given();
    let progress = Progress::line(format!("running on {}", session.device()));
    let start = Instant::now();
    let outputs = match args.allow_nonfinite {
        true => session.run(shape.time, &inputs),
        false => run_finite(session.as_mut(), shape.time, &inputs),
    }
    .map_err(failure::input)?;
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    drop(progress);
    let state = session.state().map_err(failure::input)?;
    if let Some(path) = &args.output {
        write_outputs(graph, shape, &outputs, path)?;
    }
    if let Some(path) = &args.state_out {
        state.save(graph, path).map_err(failure::input)?;
    }
    let named = graph.outputs.iter().zip(&outputs);
    let answer = Answer {
        model: graph.name.clone(),
        device: session.device(),
        batch: shape.batch,
        time: shape.time,
        position: state.position,
        milliseconds,
        outputs: named
            .map(|(id, tensor)| summary(graph, shape, *id, tensor))
            .collect(),
    };
    output.answer(&answer, || text(&answer))?;
    Ok(Exit::Success)
}

/// A state that a run left, or one that was tuned.
pub fn read_state(graph: &Graph, path: &Path, batch: usize) -> Result<HostState, Failure> {
    let file = Checkpoint::open(path).map_err(failure::input)?;
    match tuned_state(graph, &file, batch) {
        Some(state) => state.map_err(failure::input),
        None => HostState::load(graph, path).map_err(failure::input),
    }
}

/// `[B, T, axes...]`, or `[B, 1, axes...]` where only last rows were asked for.
fn extents(graph: &Graph, shape: Shape, id: ValueId, tensor: &Tensor<f32>) -> Vec<usize> {
    let axes = graph.value(id).axes.iter().map(|axis| graph.size(*axis));
    let rows = tensor.len() / graph.row_elements(id).max(1);
    let time = rows / shape.batch.max(1);
    [shape.batch, time].into_iter().chain(axes).collect()
}

fn write_outputs(
    graph: &Graph,
    shape: Shape,
    outputs: &[Tensor<f32>],
    path: &Path,
) -> Result<(), Failure> {
    let named = graph.outputs.iter().zip(outputs);
    let tensors = named.filter_map(|(id, tensor)| {
        Some((
            graph.value(*id).name.as_str(),
            extents(graph, shape, *id, tensor),
            tensor.numbers()?,
        ))
    });
    tensor_file::write(path, tensors).map_err(failure::input)
}

fn summary(graph: &Graph, shape: Shape, id: ValueId, tensor: &Tensor<f32>) -> Summary {
    let numbers = tensor.numbers().unwrap_or_default();
    let n = numbers.len().max(1) as f64;
    let mean = numbers.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    let square = |x: &f32| (f64::from(*x) - mean).powi(2);
    let fold = |start: f64, f: fn(f64, f64) -> f64| {
        let all = numbers.iter().map(|x| f64::from(*x));
        all.reduce(f).unwrap_or(start)
    };
    Summary {
        name: graph.value(id).name.clone(),
        shape: extents(graph, shape, id, tensor),
        mean,
        deviation: (numbers.iter().map(square).sum::<f64>() / n).sqrt(),
        smallest: fold(0.0, f64::min),
        largest: fold(0.0, f64::max),
    }
}

fn text(answer: &Answer) -> String {
    let mut table = Table::new([
        ("output", Align::Left),
        ("shape", Align::Left),
        ("mean", Align::Right),
        ("deviation", Align::Right),
        ("smallest", Align::Right),
        ("largest", Align::Right),
    ]);
    for output in &answer.outputs {
        let number = |x: f64| format!("{x:.4}");
        table.row([
            output.name.clone(),
            format!("{:?}", output.shape),
            number(output.mean),
            number(output.deviation),
            number(output.smallest),
            number(output.largest),
        ]);
    }
    format!(
        "{} on {}: B={}, T={} in {:.1} ms, next position {}\n{}",
        answer.model,
        answer.device,
        answer.batch,
        answer.time,
        answer.milliseconds,
        answer.position,
        table.text()
    )
}
