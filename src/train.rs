//! `fusec train`: weights from a text of tokens.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fusec_fuse::{Mode, Shape, Storage};
use fusec_ir::Graph;
use fusec_ir::gradient::{Objective, WholeObjective};
use fusec_runtime::generation::LanguageModel;
use fusec_runtime::limits;
use fusec_runtime::train::adamw::{AdamW, Rates};
use fusec_runtime::train::compiled::Compiled;
use fusec_runtime::train::evaluator::Evaluator;
use fusec_runtime::train::interpreted::Interpreted;
use fusec_runtime::train::saved::{self, Saved, Settings};
use fusec_runtime::train::schedule::{self, Schedule};
use fusec_runtime::train::tokens::Tokens;
use fusec_runtime::train::trainer::Trainer;
use fusec_runtime::weights::{WeightSpec, Weights};
use fusec_text::Tokenizer;
use serde::{Deserialize, Serialize};

use crate::device::{self, Device};
use crate::exit::Exit;
use crate::failure::{self, Failure};
use crate::flags::{KernelArgs, ModelArgs, ToolchainArgs};
use crate::generate::tokenizer;
use crate::model;
use crate::output::Output;
use crate::texts;
use crate::token_file::{self, TokenType};

/// Name of the record of every step in the directory of a training.
const LOG: &str = "log.jsonl";

/// Trains a model on a text: AdamW on the cross-entropy of the next token, with weights in f32. On a GPU
/// the forward and the backward pass are planned, fused and compiled as any other run; on the CPU the
/// interpreter makes them, which is slow and meant for small models. Every step goes to DIR/log.jsonl, the
/// weights to DIR/step-N, whole or not at all; --resume goes on from the last of them, bit for bit.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fusec train models/gla.toml --tokens text.txt --steps 4 --batch 2 --length 32 --out run
  fusec train models/gla.toml --tokens text.txt --steps 4 --batch 2 --length 32 --out run --resume")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// What is trained on: a .bin of token ids, or a text in UTF-8.
    #[arg(long, value_name = "FILE")]
    tokens: PathBuf,
    /// Another such file, whose loss is told and which is never trained on.
    #[arg(long, value_name = "FILE")]
    valid: Option<PathBuf>,
    /// How the numbers of a .bin lie: u16 or u32, little-endian; by default u16 where the model has at most
    /// 65536 tokens.
    #[arg(long, value_name = "TYPE")]
    token_type: Option<TokenType>,
    /// For a text: a tokenizer.json, or an RWKV World vocabulary; by default that of the checkpoint's
    /// directory, and bytes for a model of 256 tokens that has none.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Where to begin: a checkpoint, or random:SEED with every parameter as its `init` says; by
    /// default those of the checkpoint that MODEL is, else random:0.
    #[arg(long, value_name = "WEIGHTS", conflicts_with = "resume")]
    weights: Option<WeightSpec>,
    /// Steps in all.
    #[arg(long, value_name = "N")]
    steps: u64,
    /// Sequences of a batch.
    #[arg(long, value_name = "B", default_value_t = 8)]
    batch: usize,
    /// Tokens of a sequence.
    #[arg(long, value_name = "T", default_value_t = 256)]
    length: usize,
    /// Batches whose gradients make one step.
    #[arg(long, value_name = "N", default_value_t = 1)]
    accumulate: u64,
    /// The largest learning rate.
    #[arg(long, value_name = "RATE", default_value_t = 1e-3)]
    lr: f64,
    /// The learning rate of the last step, for schedules that fall.
    #[arg(long, value_name = "RATE", default_value_t = 0.0)]
    min_lr: f64,
    /// How the learning rate falls after the warmup: constant, linear or cosine.
    #[arg(long, value_name = "SHAPE", default_value_t = schedule::Shape::Cosine)]
    schedule: schedule::Shape,
    /// Steps over which the learning rate rises.
    #[arg(long, value_name = "N", default_value_t = 0)]
    warmup: u64,
    /// Decay of the weights of projections and of tables; nothing else decays.
    #[arg(long, value_name = "RATE", default_value_t = 0.1)]
    weight_decay: f64,
    /// Largest L2 norm of a gradient; 0: it is not clipped.
    #[arg(long, value_name = "NORM", default_value_t = 1.0)]
    clip: f64,
    /// Seed of the pieces of the text that are trained on.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The directory of the training.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Go on from the latest checkpoint in DIR.
    #[arg(long)]
    resume: bool,
    /// Steps between checkpoints; the last step is always kept.
    #[arg(long, value_name = "N", default_value_t = 100)]
    save_every: u64,
    /// Steps between losses of --valid.
    #[arg(long, value_name = "N", default_value_t = 100)]
    valid_every: u64,
    /// Where it runs: auto, cpu (the interpreter), emulator (the generated kernels, on the CPU), cuda:N.
    #[arg(long, default_value_t = Device::Auto)]
    device: Device,
    #[command(flatten)]
    kernels: TrainingKernels,
}

/// How the kernels of a training are made.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Kernels")]
struct TrainingKernels {
    /// Storage type of activations, of matrices and of what is derived by activations: f32, bf16 or f16.
    /// The weights that are trained, their gradients, states, norms and decays are f32 always.
    #[arg(long, value_name = "TYPE", default_value_t = Storage::F32)]
    dtype: Storage,
    /// How kernels are chosen: auto (least cost), greedy, unfused, random:SEED.
    #[arg(long, value_name = "HOW", default_value_t = Mode::Auto)]
    plan: Mode,
    /// The device whose costs are used: a profile's name, or the path of one.
    #[arg(long, value_name = "NAME", default_value = "h200")]
    device_profile: String,
    /// Seed of the order in which the emulator runs blocks and threads.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    emulator_seed: u64,
    #[command(flatten)]
    toolchain: ToolchainArgs,
}

impl TrainingKernels {
    fn args(&self) -> KernelArgs {
        KernelArgs {
            dtype: self.dtype,
            plan: self.plan,
            device_profile: self.device_profile.clone(),
            plan_dir: None,
            trust_foreign_code: false,
            emulator_seed: self.emulator_seed,
            toolchain: self.toolchain.clone(),
        }
    }
}

/// One line of the record.
#[derive(Serialize, Deserialize)]
struct Line {
    step: u64,
    loss: f64,
    gradient_norm: f64,
    rate: f64,
    tokens: usize,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    valid_loss: Option<f64>,
}

#[derive(Serialize)]
struct Answer {
    model: String,
    device: String,
    storage: Storage,
    parameters: usize,
    begun_at: u64,
    steps: u64,
    /// Of the first step of this run; nothing where all were made before.
    first_loss: Option<f64>,
    /// Of the last.
    loss: Option<f64>,
    valid_loss: Option<f64>,
    /// While steps were made: without losses on --valid and checkpoints.
    tokens_per_second: f64,
    checkpoint: String,
}

/// Runs the verb.
pub fn run(args: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let model = model::open(&args.model)?;
    output.assume(&model);
    let graph = &model.graph;
    let shape = sizes(args)?;
    let language = LanguageModel::of(graph).map_err(failure::input)?;
    let objective = objective(args, graph, shape)?;
    let all_numbers = [Some(&args.tokens), args.valid.as_ref()];
    let all_numbers = all_numbers
        .into_iter()
        .flatten()
        .all(|p| token_file::is_numbers(p));
    let vocabulary = match all_numbers {
        true => None,
        false => Some(tokenizer(
            args.tokenizer.as_deref(),
            &args.model.model,
            language,
        )?),
    };
    let read = |path: &PathBuf| tokens(args, path, vocabulary.as_ref(), language);
    let text = read(&args.tokens)?;
    let valid = args.valid.as_ref().map(read).transpose()?;
    let settings = settings(args, graph, &text);
    let rates = Rates {
        weight_decay: args.weight_decay,
        ..Rates::default()
    };
    let begun = begin(args, &model, &settings, rates)?;
    let Begun {
        step: begun_at,
        params,
        optimizer,
    } = begun;
    let (evaluator, device) = evaluator(args, graph, &objective, &params, shape)?;
    let trainer = Trainer::on(graph, evaluator, params, rates);
    let mut trainer = trainer.map_err(failure::input)?;
    if let Some(optimizer) = optimizer {
        trainer.optimizer = optimizer;
    }
    let parameters = trainer.params.iter().map(Vec::len).sum();
    if begun_at < args.steps {
        eprintln!(
            "training {} ({parameters} parameters) on {device}{}: steps {} to {}",
            graph.name,
            match objective {
                Differentiated::InParts(_) => ", by the interpreter, which is slow",
                Differentiated::Whole(_) => "",
            },
            begun_at + 1,
            args.steps
        );
    }
    let schedule = Schedule {
        shape: args.schedule,
        rate: args.lr,
        least: args.min_lr,
        warmup: args.warmup,
        steps: args.steps,
    };
    let mut log = record(&args.out, begun_at)?;
    let (mut first_loss, mut last, mut valid_loss) = (None, None, None);
    let (started, mut spent, mut seen) = (Instant::now(), Duration::ZERO, 0);
    let mut kept = Kept::new(&args.out, begun_at);
    for step in begun_at + 1..=args.steps {
        // One batch at a time is in memory.
        let batches = (0..args.accumulate).map(|k| {
            let draw = (step - 1) * args.accumulate + k;
            text.drawn(args.batch, args.length, args.seed, draw)
        });
        let clip = Some(args.clip).filter(|most| *most > 0.0);
        let rate = schedule.rate(step);
        let begun = Instant::now();
        let stepped = trainer
            .step(step, batches, args.batch, rate, clip)
            .map_err(|error| kept.stopped(&error.to_string(), step))?;
        spent += begun.elapsed();
        kept.is_good();
        first_loss.get_or_insert(stepped.loss);
        (last, seen) = (Some(stepped.loss), seen + stepped.tokens);
        let looked = step % args.valid_every == 0 || step == args.steps;
        let valid_now = match valid.as_ref().filter(|_| looked) {
            Some(valid) => {
                let pieces = valid.pieces(args.length, MOST_VALID_PIECES);
                let loss = trainer.loss(pieces).map_err(failure::input)?;
                if !loss.is_finite() {
                    let what = format!("step {step}: after it the loss on --valid is {loss}");
                    return Err(kept.stopped(&what, step + 1));
                }
                Some(loss)
            }
            None => None,
        };
        valid_loss = valid_now.or(valid_loss);
        let line = Line {
            step,
            loss: stepped.loss,
            gradient_norm: stepped.norm,
            rate,
            tokens: stepped.tokens,
            seconds: started.elapsed().as_secs_f64(),
            valid_loss: valid_now,
        };
        append(&mut log, &args.out, &line)?;
        if step % args.save_every == 0 || step == args.steps {
            if let Some((name, at)) = not_finite(graph, &trainer.params) {
                let what = format!("step {step}: after it `{name}` is not finite at element {at}");
                return Err(kept.stopped(&what, step + 1));
            }
            let (params, optimizer) = (&trainer.params, &trainer.optimizer);
            let path = saved::write(&args.out, graph, step, &settings, params, optimizer)
                .map_err(failure::input)?;
            kept.keep(step, path);
        }
    }
    let answer = Answer {
        model: graph.name.clone(),
        device,
        storage: args.kernels.dtype,
        parameters,
        begun_at,
        steps: args.steps,
        first_loss,
        loss: last,
        valid_loss,
        tokens_per_second: seen as f64 / spent.as_secs_f64().max(1e-9),
        checkpoint: kept.latest.1.display().to_string(),
    };
    output.answer(&answer, || text_of(&answer))?;
    Ok(Exit::Success)
}

/// A model with its derivatives, as the device takes it.
enum Differentiated {
    InParts(Box<Objective>),
    Whole(Box<WholeObjective>),
}

/// Differentiates, and refuses what is beyond the limits or the memory of this machine.
fn objective(args: &Args, graph: &Graph, shape: Shape) -> Result<Differentiated, Failure> {
    if args.device.resolved() != Device::Cpu {
        let whole = WholeObjective::new(graph).map_err(failure::input)?;
        device::admit(args.device, &whole.gradient.graph, shape)?;
        return Ok(Differentiated::Whole(Box::new(whole)));
    }
    if args.kernels.dtype != Storage::F32 {
        return Err(failure::message(
            "the interpreter computes in f32 and runs no kernels",
            "leave --dtype out, or choose --device emulator or cuda:N",
        ));
    }
    let objective = Objective::new(graph).map_err(failure::input)?;
    device::admit(Device::Cpu, &objective.trunk.graph, shape)?;
    Ok(Differentiated::InParts(Box::new(objective)))
}

/// What evaluates it, and on what.
fn evaluator<'o>(
    args: &Args,
    graph: &'o Graph,
    objective: &'o Differentiated,
    params: &[Vec<f32>],
    shape: Shape,
) -> Result<(Box<dyn Evaluator + 'o>, String), Failure> {
    match objective {
        Differentiated::InParts(objective) => {
            let evaluator = Interpreted::new(graph, objective, params);
            Ok((Box::new(evaluator.map_err(failure::input)?), "cpu".into()))
        }
        Differentiated::Whole(whole) => {
            let weights = Compiled::weights(whole, params).map_err(failure::input)?;
            let kernels = args.kernels.args();
            let run = &whole.gradient.graph;
            let started = device::start_alike(args.device, run, &weights, &kernels, shape)?;
            let device = started.session.device();
            Ok((Box::new(Compiled::new(whole, started.session)), device))
        }
    }
}

/// Most steps, and most batches of one.
const MOST_STEPS: u64 = 1 << 30;

/// Most pieces of the text of --valid that one loss is the mean over.
const MOST_VALID_PIECES: usize = 64;

/// The first parameter that is not finite, and where.
fn not_finite<'g>(graph: &'g Graph, params: &[Vec<f32>]) -> Option<(&'g str, usize)> {
    let mut each = graph.params.iter().zip(params);
    each.find_map(|(param, x)| {
        let at = x.iter().position(|x| !x.is_finite())?;
        Some((param.name.as_str(), at))
    })
}

/// The checkpoints that are there, and of which a step has shown that they are good.
struct Kept {
    latest: (u64, PathBuf),
    good: Option<(u64, PathBuf)>,
}

impl Kept {
    fn new(out: &Path, begun_at: u64) -> Self {
        Kept {
            latest: (begun_at, saved::directory(out, begun_at)),
            good: None,
        }
    }

    fn keep(&mut self, step: u64, path: PathBuf) {
        self.latest = (step, path);
    }

    /// A step from the latest one on went well.
    fn is_good(&mut self) {
        self.good = Some(self.latest.clone()).filter(|(step, _)| *step > 0);
    }

    /// A failure in a step, with what is left of the training.
    fn stopped(&self, message: &str, step: u64) -> Failure {
        let advice = "a smaller --lr, a longer --warmup or a smaller --clip may help";
        let (latest, path) = &self.latest;
        // The weights that failed are no good, however whole their file is.
        let failed = *latest > 0 && latest + 1 == step;
        let of_failed = match failed {
            true => format!("{} holds the weights that gave this; ", path.display()),
            false => String::new(),
        };
        let good = match (&self.good, *latest > 0 && !failed) {
            (_, true) => Some(path),
            (Some((_, good)), false) if good != path => Some(good),
            _ => None,
        };
        let help = match good {
            Some(good) => format!(
                "{of_failed}the last good checkpoint is {}: begin from its {} as --weights with another --out; {advice}",
                good.display(),
                saved::WEIGHTS
            ),
            None => format!("{of_failed}there is no good checkpoint before it; {advice}"),
        };
        failure::message(message, help)
    }
}

/// The ids in a file.
fn tokens(
    args: &Args,
    path: &Path,
    vocabulary: Option<&Tokenizer>,
    language: LanguageModel,
) -> Result<Tokens, Failure> {
    let ids = match vocabulary.filter(|_| !token_file::is_numbers(path)) {
        None => token_file::read(path, args.token_type, language.tokens)?,
        Some(vocabulary) => {
            let text = texts::text(path).map_err(|error| {
                failure::message(
                    format!("cannot read {}: {error}", path.display()),
                    "give a text in UTF-8, or token ids in a file that ends in .bin",
                )
            })?;
            vocabulary.encode(&text).map_err(failure::input)?
        }
    };
    Tokens::checked(&ids, language.tokens, args.length).map_err(|error| {
        failure::message(
            format!("{}: {error}", path.display()),
            "the text has to be one for this model, in its vocabulary",
        )
    })
}

/// Refuses numbers that no training can have; the size of a batch.
fn sizes(args: &Args) -> Result<Shape, Failure> {
    for (name, size) in [
        ("--steps", args.steps),
        ("--accumulate", args.accumulate),
        ("--save-every", args.save_every),
        ("--valid-every", args.valid_every),
    ] {
        if !(1..=MOST_STEPS).contains(&size) {
            return Err(failure::message(
                format!("{name} is {size}"),
                format!("give a number from 1 to {MOST_STEPS}"),
            ));
        }
    }
    let shape = Shape {
        batch: args.batch,
        time: args.length,
    };
    limits::shape(shape).map_err(failure::input)?;
    for (name, rate) in [
        ("--lr", args.lr),
        ("--min-lr", args.min_lr),
        ("--weight-decay", args.weight_decay),
        ("--clip", args.clip),
    ] {
        if !rate.is_finite() || rate < 0.0 {
            let message = format!("{name} is {rate}");
            return Err(failure::message(message, "give a finite number from 0 on"));
        }
    }
    Ok(shape)
}

fn settings(args: &Args, graph: &Graph, text: &Tokens) -> Settings {
    Settings {
        model: graph.name.clone(),
        steps: args.steps,
        batch: args.batch,
        length: args.length,
        accumulate: args.accumulate,
        seed: args.seed,
        rate: args.lr,
        least_rate: args.min_lr,
        schedule: args.schedule.to_string(),
        warmup: args.warmup,
        weight_decay: args.weight_decay,
        clip: Some(args.clip).filter(|most| *most > 0.0),
        text: text.digest(),
        graph: saved::digest(graph),
    }
}

/// Where a training begins.
struct Begun {
    step: u64,
    params: Vec<Vec<f32>>,
    optimizer: Option<AdamW>,
}

fn begin(
    args: &Args,
    model: &fusec_runtime::model::Model,
    settings: &Settings,
    rates: Rates,
) -> Result<Begun, Failure> {
    let graph = &model.graph;
    if args.resume {
        let saved: Saved = saved::latest(&args.out, graph).map_err(failure::input)?;
        let other = saved.settings.differences(settings);
        if !other.is_empty() {
            return Err(failure::message(
                format!(
                    "{} was trained with other settings: {}",
                    args.out.display(),
                    other.join(", ")
                ),
                "give the same ones, or begin in another --out, from its weights as --weights if you like",
            ));
        }
        let [first, second] = saved.means;
        return Ok(Begun {
            step: saved.step,
            params: saved.params,
            optimizer: Some(AdamW {
                rates,
                steps: saved.step,
                first,
                second,
            }),
        });
    }
    let there = saved::latest_step(&args.out).map_err(failure::input)?;
    if there.is_some() {
        return Err(failure::message(
            format!("{} holds a training already", args.out.display()),
            "go on with --resume, or give another --out",
        ));
    }
    let weights = match (&args.weights, &model.checkpoint) {
        (Some(WeightSpec::Random(seed)), _) => {
            Weights::initial(graph, *seed).map_err(failure::input)?
        }
        (None, None) => Weights::initial(graph, 0).map_err(failure::input)?,
        (spec, _) => model::weights(model, spec.as_ref())?,
    };
    Ok(Begun {
        step: 0,
        params: weights.into_params(),
        optimizer: None,
    })
}

/// The record of every step, without what comes after `step`: that is done again. It is locked as long as
/// it is held, so that no two trainings write to one directory.
fn record(out: &Path, step: u64) -> Result<File, Failure> {
    let path = out.join(LOG);
    let failed = |error: std::io::Error| {
        let what = format!("cannot write {}: {error}", path.display());
        failure::message(what, "give another --out")
    };
    fs::create_dir_all(out).map_err(failed)?;
    let mut options = OpenOptions::new();
    let mut log = (options.read(true).append(true).create(true))
        .open(&path)
        .map_err(failed)?;
    // Where files cannot be locked, nobody is kept out.
    if let Err(TryLockError::WouldBlock) = log.try_lock() {
        return Err(failure::message(
            format!("another fusec train is at work in {}", out.display()),
            "wait for its end, or give another --out",
        ));
    }
    let mut bytes = Vec::new();
    log.read_to_end(&mut bytes).map_err(failed)?;
    // Steps ascend, so what stays is a beginning; a line that was cut off is of a step that is done again.
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let stays = lines.take_while(|line| {
        let of = serde_json::from_slice::<Line>(line);
        line.ends_with(b"\n") && of.is_ok_and(|of| of.step <= step)
    });
    let kept: usize = stays.map(<[u8]>::len).sum();
    log.set_len(kept as u64).map_err(failed)?;
    Ok(log)
}

fn append(log: &mut File, out: &Path, line: &Line) -> Result<(), Failure> {
    let text = serde_json::to_string(line).map_err(failure::input)?;
    writeln!(log, "{text}").map_err(|error| {
        let what = format!("cannot write {}: {error}", out.join(LOG).display());
        failure::message(what, "make room, and go on with --resume")
    })?;
    let valid = match line.valid_loss {
        Some(loss) => format!(", valid {loss:.4}"),
        None => String::new(),
    };
    eprintln!(
        "step {}: loss {:.4}, gradient norm {:.3}, rate {:.2e}{valid}",
        line.step, line.loss, line.gradient_norm, line.rate
    );
    Ok(())
}

fn text_of(answer: &Answer) -> String {
    let Answer {
        model,
        device,
        steps,
        checkpoint,
        ..
    } = answer;
    let (Some(first), Some(last)) = (answer.first_loss, answer.loss) else {
        return format!("all {steps} steps of {model} were made; weights are in {checkpoint}\n");
    };
    let valid = match answer.valid_loss {
        Some(loss) => format!(", on the other text {loss:.4}"),
        None => String::new(),
    };
    format!(
        "trained {model}: steps {} to {steps}, loss {first:.4} to {last:.4}{valid}, {:.0} tokens/s on {device}\nweights are in {checkpoint}\n",
        answer.begun_at + 1,
        answer.tokens_per_second,
    )
}
