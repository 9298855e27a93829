//! `fusec bench`: how fast is it, and how far from the prediction and from the memory's speed?

mod beside;
mod recorded;
mod report;
mod subject;
mod sweep;

use std::path::PathBuf;
use std::str::FromStr;
use std::thread;

use fusec_fuse::{Mode, Shape, Storage};
use fusec_runtime::bench::{Protocol, Provenance};
use fusec_runtime::executor::gpu::gpu;
use fusec_runtime::limits;
use fusec_runtime::weights::WeightSpec;

use crate::device::Device;
use crate::exit::Exit;
use crate::failure::{self, Failure};
use crate::flags::{
    Assignment, AxisSize, LogitsArg, ModelArgs, ShapeArg, ToolchainArgs, TrainingArg, ZerosArg,
    file_of, seconds,
};
use crate::output::Output;
use crate::place;
use crate::progress::Progress;
use recorded::Recorded;
use report::Report;
use subject::{Prepared, Subject, Weighed};
use sweep::Counts;

/// Times a model: the planner's choice, other plans beside it, or directories that were compiled
/// before. Device times are taken with events; the protocol is that of bench/README.md.
///
/// On the CPU the interpreter is timed, which runs no kernels; the first line says so.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("swept").args(["sweep", "batch", "recorded"]).multiple(true)))]
#[command(after_help = "\
Examples:
  fusec bench models/rwkv7.toml --device cuda --preset 1.5b --dtype bf16 --per-kernel
  fusec bench models/gla.toml --device cuda --mode decode --shape B=1 --against unfused,greedy
  fusec bench models/rwkv7.toml --device cuda --preset 1.5b --dtype bf16 --mode decode --batch 1,2,4,8,16,32,64,128 --plots out/decode
  fusec bench --plan-dir out/a --plan-dir out/b --flush-l2 --out result.json
  fusec bench models/hybrid.toml --device cuda --sweep --plots out/sweep --out result.json
  fusec bench --recorded bench/results/h200/whole/2026-11-30-segments.json --plots out/again
  fusec bench models/gated-scan.toml --device cpu --shape B=1,T=64 --check
  fusec bench models/gated-scan.toml --device cpu --sweep=16,32,64 --batch 1,2 --runs 5 --plots plots")]
pub struct Args {
    /// A model.toml, one of bench/cases, a checkpoint, or a directory that `fusec compile` wrote.
    #[arg(required_unless_present_any = ["plan_dir", "recorded"])]
    model: Option<PathBuf>,
    /// A preset of the model text, such as one of its sizes.
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    preset: Option<String>,
    /// Another size for an axis of the model. May be repeated.
    #[arg(long = "axis", value_name = "AXIS=SIZE", help_heading = "Model")]
    axes: Vec<AxisSize>,
    /// Another value for a setting of the model. May be repeated.
    #[arg(long = "set", value_name = "SETTING=VALUE", help_heading = "Model")]
    settings: Vec<Assignment>,
    #[command(flatten)]
    zeros: ZerosArg,
    /// A checkpoint, or random:SEED; by default those of the checkpoint that MODEL is, else
    /// random:1.
    #[arg(long, value_name = "WEIGHTS", help_heading = "Model")]
    weights: Option<WeightSpec>,
    /// A compiled directory to time. May be repeated; all are timed in one run.
    #[arg(long, value_name = "DIR")]
    plan_dir: Vec<PathBuf>,
    /// Run whatever the compiled directories hold, unchecked, and their cubins as they are. It is the
    /// code of whoever wrote them.
    #[arg(long)]
    trust_foreign_code: bool,
    /// The runs to time; by default the one a directory was compiled for, and B=8,T=2048 for a
    /// model. May be repeated.
    #[arg(long, value_name = "B=N,T=N")]
    shape: Vec<ShapeArg>,
    /// Time runs of these lengths, by default 256, 512, 1024, 2048 and 4096 tokens, and on a GPU the
    /// plan without fusion beside the chosen one.
    #[arg(
        long,
        value_name = "T,T..",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = sweep::USUAL,
        conflicts_with_all = ["shape", "mode"]
    )]
    sweep: Option<Counts>,
    /// Numbers of sequences to time, each with every length of a sweep (there it is 8 by default), else with
    /// single steps (--mode decode) or T=2048.
    #[arg(long, value_name = "B,B..", conflicts_with = "shape")]
    batch: Option<Counts>,
    /// Write plots over T and B where there are several (SVG: throughput, share of the memory's speed,
    /// speed-up, peak memory) and sweep.csv into a directory.
    #[arg(long, value_name = "DIR", requires = "swept")]
    plots: Option<PathBuf>,
    /// Put what others were timed at beside a sweep: a record that bench/peers/hybrid.py wrote on this
    /// machine. May be repeated.
    #[arg(long, value_name = "FILE", requires = "swept")]
    beside: Vec<PathBuf>,
    /// Time nothing: put what was recorded with --out in the tables and plots of a sweep. May be repeated, for
    /// records of one device.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["model", "plan_dir", "sweep", "batch", "shape", "out"]
    )]
    recorded: Vec<PathBuf>,
    /// decode: single steps (T = 1), whatever T the shape has; prefill: the shape as it is.
    #[arg(long, value_name = "MODE")]
    mode: Option<RunMode>,
    /// Plans of MODEL to time beside the planner's choice: unfused, greedy, random:N (N plans).
    #[arg(long, value_name = "PLANS", value_delimiter = ',')]
    against: Vec<Against>,
    #[command(flatten)]
    logits: LogitsArg,
    #[command(flatten)]
    training: TrainingArg,
    /// Storage type of activations and matrices of MODEL: f32, bf16 or f16.
    #[arg(long, value_name = "TYPE", default_value_t = Storage::F32)]
    dtype: Storage,
    /// The profile of the GPU: its costs are planned with, its bandwidth is what fractions are of.
    #[arg(long, value_name = "NAME", default_value = "h200")]
    device_profile: String,
    /// Where it runs: auto, cpu, cuda:N.
    #[arg(long, default_value_t = Device::Auto)]
    device: Device,
    /// Untimed runs before the first timed one.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 10,
        help_heading = "Protocol"
    )]
    warmup: usize,
    /// Timed runs.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100,
        help_heading = "Protocol"
    )]
    runs: usize,
    /// Time fewer runs where they would take longer than this in all; never fewer than five.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 60.0,
        value_parser = seconds,
        help_heading = "Protocol"
    )]
    most_seconds: f64,
    /// Time a run once only, after a single one before it, where it takes longer than this.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = "Protocol")]
    longest: Option<f64>,
    /// Overwrite the L2 cache before each run.
    #[arg(long, help_heading = "Protocol")]
    flush_l2: bool,
    /// Time each kernel too, beside its prediction.
    #[arg(long, help_heading = "Protocol")]
    per_kernel: bool,
    /// Before the first timed run, compare a short run with the f64 interpreter. The exit status
    /// is 1 where they differ. Slow for large models.
    #[arg(long, help_heading = "Protocol")]
    check: bool,
    /// Write the results as JSON to a file too.
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The commit to record; by default the one this program was built from, if that is known.
    #[arg(long, value_name = "HASH")]
    commit: Option<String>,
    #[command(flatten)]
    toolchain: ToolchainArgs,
}

/// What a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RunMode {
    Prefill,
    Decode,
}

impl FromStr for RunMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "prefill" => Ok(RunMode::Prefill),
            "decode" => Ok(RunMode::Decode),
            _ => Err(format!("`{text}` is neither prefill nor decode")),
        }
    }
}

/// Plans to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Against {
    One(Mode),
    /// So many random ones.
    Random(u64),
}

impl FromStr for Against {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(Mode::Random(count)) if (1..=1000).contains(&count) => Ok(Against::Random(count)),
            Ok(mode @ (Mode::Unfused | Mode::Greedy)) => Ok(Against::One(mode)),
            _ => Err(format!(
                "`{text}` is none of unfused, greedy, random:N with N from 1 to 1000"
            )),
        }
    }
}

impl Args {
    fn model_args(&self, model: PathBuf) -> ModelArgs {
        ModelArgs {
            model,
            preset: self.preset.clone(),
            axes: self.axes.clone(),
            settings: self.settings.clone(),
            allow_unused: Vec::new(),
            zeros: self.zeros,
        }
    }

    fn protocol(&self) -> Protocol {
        Protocol {
            warmups: self.warmup,
            runs: self.runs.max(1),
            most_seconds: self.most_seconds,
            longest_seconds: self.longest,
            flush_l2: self.flush_l2,
            per_kernel: self.per_kernel,
            seed: 1,
        }
    }

    /// The plans of MODEL to time, the planner's choice first.
    fn modes(&self) -> Vec<Mode> {
        let mut modes = vec![Mode::Auto];
        if self.sweep.is_some() && !self.against.contains(&Against::One(Mode::Unfused)) {
            modes.push(Mode::Unfused);
        }
        for against in &self.against {
            match *against {
                Against::One(mode) => modes.push(mode),
                Against::Random(count) => modes.extend((1..=count).map(Mode::Random)),
            }
        }
        modes
    }

    /// Whether runs of several shapes are timed to be put beside each other.
    fn swept(&self) -> bool {
        self.sweep.is_some() || self.batch.is_some()
    }

    /// The shapes asked for, or `usual`.
    fn shapes(&self, usual: Shape) -> Vec<Shape> {
        let mut shapes: Vec<Shape> = self.shape.iter().map(|shape| shape.0).collect();
        if self.swept() {
            let lengths = self
                .sweep
                .as_ref()
                .map_or(vec![usual.time], |of| of.0.clone());
            let batches = self
                .batch
                .as_ref()
                .map_or(vec![usual.batch], |of| of.0.clone());
            for batch in batches {
                shapes.extend(lengths.iter().map(|time| Shape { batch, time: *time }));
            }
        }
        if shapes.is_empty() {
            shapes.push(usual);
        }
        if self.mode == Some(RunMode::Decode) {
            shapes.iter_mut().for_each(|shape| shape.time = 1);
        }
        let mut seen = Vec::new();
        shapes.retain(|shape| {
            let new = !seen.contains(shape);
            seen.push(*shape);
            new
        });
        shapes
    }
}

/// Draws what was recorded.
fn draw(args: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let recorded = Recorded::read(&args.recorded)?;
    let others = beside::read(&args.beside, &recorded.provenance.device)?;
    if let Some(dir) = &args.plots {
        sweep::check(dir)?;
        sweep::save(&recorded, &others, dir)?;
    }
    output.answer(&sweep::rows(&recorded, &others), || {
        let provenance = &recorded.provenance;
        let (device, date) = (&provenance.device, &provenance.date);
        format!(
            "recorded on {device}, {date}\n{}",
            sweep::text(&recorded, &others)
        )
    })?;
    Ok(Exit::Success)
}

/// Runs the verb.
pub fn run(args: &Args, output: &mut Output) -> Result<Exit, Failure> {
    if !args.recorded.is_empty() {
        return draw(args, output);
    }
    let ordinal = match args.device.resolved() {
        Device::Cuda(ordinal) => Some(ordinal),
        Device::Emulator => {
            return Err(failure::message(
                "times of the emulator say nothing about a GPU",
                "choose --device cuda:N, or cpu for the interpreter",
            ));
        }
        Device::Cpu | Device::Auto => None,
    };
    let info = ordinal.map(gpu).transpose().map_err(failure::input)?;
    if args.swept() {
        for shape in args.shapes(subject::USUAL) {
            limits::shape(shape).map_err(failure::input)?;
        }
    }
    if let Some(path) = &args.out {
        let beside = args.beside.iter().map(PathBuf::as_path);
        let read = args.model.as_deref().into_iter().chain(beside);
        place::check(path, read.chain(file_of(args.weights.as_ref())))?;
    }
    if let Some(dir) = &args.plots {
        sweep::check(dir)?;
    }
    let commit = args.commit.clone();
    let built = option_env!("FUSEC_COMMIT").filter(|commit| !commit.is_empty());
    let provenance = Provenance::new(info.clone(), commit.or(built.map(str::to_owned)));
    let others = beside::read(&args.beside, &provenance.device)?;
    let subjects = subject::subjects(args, info.as_ref())?;
    let mut report = Report {
        protocol: args.protocol(),
        provenance,
        subjects: Vec::new(),
    };
    let parts = subjects.iter().map(|subject| subject.shapes.len()).sum();
    let progress = Progress::new("timing", parts);
    let mut weighed = Weighed::default();
    let (mut failed, mut wrong) = (false, false);
    // Each is planned by two threads, and all that are planned together lie in memory.
    let together = thread::available_parallelism().map_or(1, |n| n.get().div_ceil(2));
    for some in subjects.chunks(together) {
        let prepared = subject::prepare(args, some);
        for (subject, prepared) in some.iter().zip(prepared) {
            let timed = time(args, subject, prepared, &mut weighed, &progress);
            failed |= timed.error.is_some();
            wrong |= timed.check.as_ref().is_some_and(|check| !check.passed);
            report.subjects.push(timed);
            // After each subject: what was timed stays if the program is stopped.
            if let Some(path) = &args.out {
                report.save(path)?;
            }
        }
    }
    drop(progress);
    let recorded = Recorded::of(&report)?;
    if let Some(dir) = &args.plots {
        sweep::save(&recorded, &others, dir)?;
    }
    output.answer(&report, || match args.swept() {
        true => format!("{}{}", report.text(), sweep::text(&recorded, &others)),
        false => report.text(),
    })?;
    // What could be timed is reported; that something could not is the status.
    Ok(match (failed, wrong) {
        (true, _) => Exit::Input,
        (false, true) => Exit::ToleranceExceeded,
        (false, false) => Exit::Success,
    })
}

/// Times one subject. A failure is part of the report: the other subjects are timed all the same.
fn time(
    args: &Args,
    subject: &Subject,
    prepared: Option<Result<Prepared, Failure>>,
    weighed: &mut Weighed,
    progress: &Progress,
) -> report::SubjectReport {
    let mut timed = subject.report();
    if let Err(failure) = subject.time(args, prepared, weighed, progress, &mut timed) {
        timed.error = Some(failure.message());
        failure.print();
    }
    timed
}
