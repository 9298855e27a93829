//! `fusec eval`: how well a model predicts tokens, and whether fusion changes that.

use std::path::{Path, PathBuf};

use fusec_fuse::{Mode, Shape, Storage};
use fusec_ir::Graph;
use fusec_runtime::evaluate::{Evaluation, Sequences, evaluate};
use fusec_runtime::generation::LanguageModel;
use fusec_runtime::inputs::Data;
use fusec_runtime::weights::WeightSpec;
use serde::Serialize;

use crate::device::{self, Device, Memory};
use crate::exit::Exit;
use crate::failure::{self, Failure};
use crate::flags::{KernelArgs, ModelArgs, ToolchainArgs};
use crate::generate::tokenizer;
use crate::output::Output;
use crate::progress::Progress;
use crate::table::{Align, Table};
use crate::texts;
use crate::token_file::{self, TokenType};
use crate::{inputs, model};

/// Tells how well a model predicts a text: cross-entropy and perplexity, in chunks that carry the state.
///
/// On a GPU or the emulator each plan of --plan is run, and what it adds to the loss of the unfused one is
/// told. The interpreter of --device cpu has no plans.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fusec eval checkpoints/rwkv7 --tokens ids.safetensors
  fusec eval checkpoints/rwkv6 --text models/rwkv6.toml --length 512
  fusec eval models/mamba2.toml --axis L=1 --weights random:0 --tokens ids.safetensors --device emulator --json | jq .plans[].delta")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// A checkpoint, or random:SEED; by default those of the checkpoint that MODEL is.
    #[arg(long, value_name = "WEIGHTS")]
    weights: Option<WeightSpec>,
    #[command(flatten)]
    given: GivenArgs,
    /// How the numbers of a .bin lie: u16 or u32, little-endian; by default u16 where the model has at most
    /// 65536 tokens.
    #[arg(long, value_name = "TYPE")]
    token_type: Option<TokenType>,
    /// For --text: a tokenizer.json, or an RWKV World vocabulary; by default that of the checkpoint's
    /// directory.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Tokens of one run; the next goes on from its state.
    #[arg(long, value_name = "T", default_value_t = 1024, value_parser = length)]
    length: usize,
    /// Where it runs: auto, cpu, emulator, cuda:N.
    #[arg(long, default_value_t = Device::Auto)]
    device: Device,
    /// The plans to run: auto (least cost), greedy, unfused, random:SEED.
    #[arg(
        long,
        value_name = "PLANS",
        value_delimiter = ',',
        default_values_t = [Mode::Auto, Mode::Unfused],
        help_heading = "Kernels (--device emulator, cuda:N)"
    )]
    plan: Vec<Mode>,
    /// Storage type of activations and matrices: f32, bf16 or f16.
    #[arg(
        long,
        value_name = "TYPE",
        default_value_t = Storage::F32,
        help_heading = "Kernels (--device emulator, cuda:N)"
    )]
    dtype: Storage,
    /// The device whose costs are used: a profile's name, or the path of one.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "h200",
        help_heading = "Kernels (--device emulator, cuda:N)"
    )]
    device_profile: String,
    #[command(flatten)]
    toolchain: ToolchainArgs,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct GivenArgs {
    /// Token ids: a .bin of numbers, one sequence; or safetensors, [B, T], under the name of the model's
    /// input or as `input_ids`.
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// A text in UTF-8, one sequence.
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
}

fn length(text: &str) -> Result<usize, String> {
    let most = fusec_runtime::limits::MAX_TIME;
    match text.parse() {
        Ok(length) if (1..=most).contains(&length) => Ok(length),
        _ => Err(format!("`{text}` is not a whole number from 1 to {most}")),
    }
}

#[derive(Serialize)]
struct Answer {
    model: String,
    device: String,
    storage: Storage,
    sequences: usize,
    length: usize,
    plans: Vec<Plan>,
}

/// What a plan gives.
#[derive(Serialize)]
struct Plan {
    /// Nothing for the interpreter.
    plan: Option<String>,
    #[serde(flatten)]
    evaluation: Evaluation,
    /// Cross-entropy beside that of the unfused plan (the last one, without it), nats.
    delta: Option<f64>,
}

/// Runs the verb.
pub fn run(args: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let model = model::open(&args.model)?;
    output.assume(&model);
    let graph = &model.graph;
    let language = LanguageModel::of(graph).map_err(failure::input)?;
    let sequences = sequences(args, graph, language)?;
    let of_each = sequences.ids.len() / sequences.batch.max(1);
    let shape = Shape {
        batch: sequences.batch,
        time: args.length.min(of_each.saturating_sub(1)).max(1),
    };
    device::admit(args.device, graph, shape)?;
    let modes: Vec<Option<Mode>> = match args.device.resolved() {
        Device::Cpu | Device::Auto => vec![None],
        Device::Emulator | Device::Cuda(_) => args.plan.iter().copied().map(Some).collect(),
    };
    let mut answer = Answer {
        model: graph.name.clone(),
        device: String::new(),
        storage: args.dtype,
        sequences: sequences.batch,
        length: args.length,
        plans: Vec::new(),
    };
    for mode in &modes {
        let weights = model::weights(&model, args.weights.as_ref())?;
        let kernels = args.kernels(mode.unwrap_or(Mode::Auto));
        let started = device::start(
            args.device,
            graph,
            None,
            weights,
            &kernels,
            shape,
            Memory::AsFound,
        )?;
        let mut session = started.session;
        let runs = of_each.saturating_sub(1).div_ceil(args.length);
        let progress = Progress::new(format!("running on {}", session.device()), runs);
        let evaluated = evaluate(session.as_mut(), &sequences, args.length, &mut |_| {
            progress.step();
        });
        answer.device = session.device();
        answer.storage = started.storage;
        answer.plans.push(Plan {
            plan: mode.map(|mode| mode.to_string()),
            evaluation: evaluated.map_err(failure::input)?,
            delta: None,
        });
    }
    compare(&modes, &mut answer.plans);
    output.answer(&answer, || text(&answer))?;
    Ok(Exit::Success)
}

/// What each plan adds to the loss of the unfused one, or of the last.
fn compare(modes: &[Option<Mode>], plans: &mut [Plan]) {
    let unfused = modes.iter().position(|m| *m == Some(Mode::Unfused));
    let with = unfused.unwrap_or(plans.len().saturating_sub(1));
    let Some(base) = plans.get(with).map(|plan| plan.evaluation.cross_entropy) else {
        return;
    };
    for (number, plan) in plans.iter_mut().enumerate() {
        plan.delta = (number != with).then_some(plan.evaluation.cross_entropy - base);
    }
}

impl Args {
    fn kernels(&self, plan: Mode) -> KernelArgs {
        KernelArgs {
            dtype: self.dtype,
            plan,
            device_profile: self.device_profile.clone(),
            plan_dir: None,
            trust_foreign_code: false,
            emulator_seed: 0,
            toolchain: self.toolchain.clone(),
        }
    }
}

/// The tokens to predict.
fn sequences(args: &Args, graph: &Graph, language: LanguageModel) -> Result<Sequences, Failure> {
    if let Some(path) = &args.given.text {
        let text = texts::text(path).map_err(|error| unread(path, &error))?;
        let tokenizer = tokenizer(args.tokenizer.as_deref(), &args.model.model, language)?;
        let ids = tokenizer.encode(&text).map_err(failure::input)?;
        return Ok(one(ids));
    }
    let Some(path) = &args.given.tokens else {
        return Ok(one(Vec::new()));
    };
    if token_file::is_numbers(path) {
        return token_file::read(path, args.token_type, language.tokens).map(one);
    }
    let (shape, given) = inputs::read(graph, path)?;
    match given.into_data().pop() {
        Some(Data::Ids(ids)) => Ok(Sequences {
            batch: shape.batch,
            ids,
        }),
        _ => Ok(one(Vec::new())),
    }
}

/// One sequence. An id beyond 31 bits is beyond every vocabulary, and refused as such.
fn one(ids: Vec<u32>) -> Sequences {
    let ids = ids
        .into_iter()
        .map(|id| i32::try_from(id).unwrap_or(i32::MAX));
    Sequences {
        batch: 1,
        ids: ids.collect(),
    }
}

fn unread(path: &Path, error: &std::io::Error) -> Failure {
    failure::message(
        format!("cannot read {}: {error}", path.display()),
        "give --tokens a .bin or safetensors, and --text a text in UTF-8",
    )
}

fn text(answer: &Answer) -> String {
    let mut table = Table::new([
        ("plan", Align::Left),
        ("cross-entropy (nats)", Align::Right),
        ("perplexity", Align::Right),
        ("delta (nats)", Align::Right),
    ]);
    for plan in &answer.plans {
        table.row([
            plan.plan.clone().unwrap_or("interpreter".into()),
            format!("{:.6}", plan.evaluation.cross_entropy),
            format!("{:.4}", plan.evaluation.perplexity),
            plan.delta
                .map(|delta| format!("{delta:+.2e}"))
                .unwrap_or_default(),
        ]);
    }
    let predicted = answer
        .plans
        .first()
        .map_or(0, |plan| plan.evaluation.predicted);
    format!(
        "{} on {}, {}: {predicted} tokens predicted, {} a run\n{}",
        answer.model,
        answer.device,
        answer.storage,
        answer.length,
        table.text()
    )
}
