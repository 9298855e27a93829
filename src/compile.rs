//! `fusec compile`: plans, sources, cubins and a manifest in a directory.

mod kept;
mod tune;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fusec_codegen::Manifest;
use fusec_fuse::{Known, Plan, Planned};
use fusec_ir::Graph;
use fusec_runtime::model::Model;
use fusec_runtime::plan_dir::{self, PlanDir};
use fusec_runtime::standalone::{self, Standalone};
use fusec_runtime::toolchain::{Arch, Artifact, Toolchain, ToolchainError};
use fusec_runtime::tune::Tuned;
use fusec_runtime::weights::{WeightSpec, Weights};
use serde::Serialize;

use crate::exit::Exit;
use crate::failure::{self, Failure};
use crate::flags::{
    ArchArgs, LogitsArg, ModelArgs, PlanArgs, ToolchainArgs, TrainingArg, TunedArg,
};
use crate::output::Output;
use crate::overview::{self, Overview};
use crate::pipeline::{Planner, Regime};
use crate::{kernels, model};
use tune::TuneArgs;

/// Compiles a model into a directory: plan.txt and plan.json (the kernels and what each fuses),
/// manifest.json (every launch with its arguments), kernels/*.cu and kernels/*.cubin.
///
/// Two plans are made: one for single steps (decode, T = 1) and one for everything longer
/// (prefill), at the batch of --shape. With T = 1 in --shape the plan for single steps serves all
/// lengths. Without a CUDA compiler the cubins are missing and the exit status is 3.
///
/// With --standalone, the directory standalone in it has the same as a program: one C++ file with a CMakeLists.txt,
/// which g++ compiles without anything of CUDA and which needs the driver alone where it runs.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fusec compile models/hybrid.toml --dtype bf16
  fusec compile models/mamba2.toml --shape B=1,T=512 --dtype bf16 --out out/small
  fusec compile models/rwkv7.toml --logits last --out out/last
  fusec compile models/rwkv6.toml --arch sm_80 --device-profile a100
  fusec compile models/hybrid.toml --axis L=2 --split time_mix.y,mixer.y --offline
  fusec compile models/rwkv7.toml --dtype bf16 --standalone --weights random:0
  fusec compile models/mamba2.toml --tune --within 10% --out out/tuned
  fusec compile models/mamba2.toml --tuned out/tuned --out out/again")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The directory to write; by default out/ and the name of MODEL's file, without an ending.
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Stay, and whenever the model's text is saved plan it again, say what changed, and write the
    /// directory anew. What does not compile is said, and waited for.
    #[arg(long, conflicts_with_all = ["tune", "tuned"])]
    watch: bool,
    /// Write a C++ program of the model as well, which launches its kernels with nothing but the driver.
    #[arg(long, conflicts_with = "training")]
    standalone: bool,
    /// With --standalone, the weights that are written beside the program: a checkpoint, or random:SEED; by
    /// default those of the checkpoint that MODEL is.
    #[arg(long, value_name = "WEIGHTS", requires = "standalone")]
    weights: Option<WeightSpec>,
    #[command(flatten)]
    logits: LogitsArg,
    #[command(flatten)]
    training: TrainingArg,
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    tune: TuneArgs,
    #[command(flatten)]
    tuned: TunedArg,
    #[command(flatten)]
    arch: ArchArgs,
    #[command(flatten)]
    toolchain: ToolchainArgs,
}

/// The answer as JSON.
#[derive(Serialize)]
struct Report<'a> {
    out: PathBuf,
    arch: Arch,
    regimes: Vec<RegimeReport<'a>>,
    /// Distinct kernels of all regimes.
    kernels: usize,
    cubins: Cubins,
    /// The program of its own, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    standalone: Option<Program>,
    seconds: Seconds,
    /// What the plans were chosen by, if they were measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    tuned: Option<&'a Tuned>,
}

#[derive(Serialize)]
struct RegimeReport<'a> {
    regime: &'a str,
    #[serde(flatten)]
    plan: Overview<'a>,
}

/// What became of the sources.
#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
enum Cubins {
    /// They are compiled.
    Written {
        /// By this call.
        compiled: usize,
        /// Before, and kept.
        cached: usize,
        /// The compiler.
        nvrtc: String,
    },
    /// There is no compiler.
    Missing {
        /// Why not, and how to get one.
        reason: String,
    },
}

/// A program of its own.
#[derive(Serialize)]
struct Program {
    /// Its source.
    source: PathBuf,
    /// Whether its weights were written.
    weights: bool,
}

/// Where the time went.
#[derive(Serialize)]
struct Seconds {
    plan: f64,
    generate: f64,
    compile: f64,
}

/// Runs the verb.
pub fn run(args: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let mut model = model::open(&args.model)?;
    output.assume(&model);
    args.training.apply_beside(args.logits, &mut model)?;
    // Before the work, not after it.
    plan_dir::check_place(&place(args)).map_err(failure::input)?;
    tune::check_place(args)?;
    let known = Arc::default();
    let made = planned(args, &model, &known)?;
    let exit = write(args, &model, &made, true, output)?;
    match args.watch {
        true => watch::follow(args, &model, made, &known, output),
        false => Ok(exit),
    }
}

/// The directory that is written.
fn place(args: &Args) -> PathBuf {
    match &args.out {
        Some(out) => out.clone(),
        None => PathBuf::from("out").join(model::short_name(&args.model.model)),
    }
}

/// A model's plans, and what they were made with.
struct Made {
    planner: Planner,
    arch: Arch,
    /// The model with the last rows of its outputs, where those are asked for.
    last: Option<Graph>,
    regimes: Vec<Regime>,
    /// What they were chosen by, if they were measured.
    tuned: Option<Tuned>,
    /// How long it took.
    took: Duration,
}

fn planned(args: &Args, model: &Model, known: &Arc<Known>) -> Result<Made, Failure> {
    let began = Instant::now();
    let (planner, arch) = planner(args, known)?;
    let last = args.logits.logits.asked(&model.graph);
    let (regimes, tuned) = tune::regimes(args, &planner, arch, (&model.graph, last.as_ref()))?;
    Ok(Made {
        planner,
        arch,
        last,
        regimes,
        tuned,
        took: began.elapsed(),
    })
}

/// What plans are made with, and for which GPUs.
fn planner(args: &Args, known: &Arc<Known>) -> Result<(Planner, Arch), Failure> {
    let planner = Planner::new(&args.plan)?.knowing(known);
    let arch = planner.arch(&args.arch)?;
    Ok((planner.compiled_for(arch), arch))
}

/// Generates, compiles and writes the directory of a model that is planned; says everything of it if
/// `full`, else only what was written.
fn write(
    args: &Args,
    model: &Model,
    made: &Made,
    full: bool,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let Made {
        planner,
        arch,
        last,
        regimes,
        tuned,
        took,
    } = made;
    let weights = weights(args, model)?;
    let (arch, out, began) = (*arch, place(args), Instant::now());
    let unfused = regimes
        .iter()
        .map(|regime| {
            let graph = match regime.max_time {
                Some(1) => &model.graph,
                _ => last.as_ref().unwrap_or(&model.graph),
            };
            planner.unfused(graph, regime.planned.plan.shape)
        })
        .collect::<Result<Vec<Plan>, _>>()?;
    let planned = *took + began.elapsed();
    let began = Instant::now();
    let manifest = planner.manifest(&model.graph.name, regimes)?;
    let generated = began.elapsed();
    let (artifacts, cubins) = cubins(args, &manifest, arch)?;
    let compiled = began.elapsed();
    let measured = tuned.as_ref().map_or(String::new(), |of| format!("\n{of}"));
    let dir = PlanDir {
        plans: regimes.iter().map(|r| r.planned.plan.clone()).collect(),
        text: plan_text(regimes, &unfused, overview::text) + &measured,
        device: planner.device().clone(),
        cubins: by_image(arch, artifacts),
        tuned: tuned.clone(),
        manifest,
    };
    let name = arch.to_string();
    let program = match args.standalone {
        true => Standalone::new(&dir.manifest, &name, weights.as_ref()).map(Some),
        false => Ok(None),
    };
    let program = program.map_err(failure::input)?;
    let written = program.as_ref().map(|program| (program, name.as_str()));
    plan_dir::write_with(&out, &dir, written).map_err(failure::input)?;

    let exit = match &cubins {
        Cubins::Written { .. } => Exit::Success,
        Cubins::Missing { .. } => Exit::NoToolchain,
    };
    let report = Report {
        out,
        arch,
        regimes: regimes
            .iter()
            .zip(&unfused)
            .map(|(regime, unfused)| RegimeReport {
                regime: regime.name,
                plan: Overview::new(&regime.planned, unfused),
            })
            .collect(),
        kernels: dir.manifest.kernels.len(),
        cubins,
        standalone: program.as_ref().map(|program| Program {
            source: place(args)
                .join(standalone::FOLDER)
                .join(format!("{}.cpp", program.name())),
            weights: !program.lacks_weights(),
        }),
        seconds: Seconds {
            plan: planned.as_secs_f64(),
            generate: generated.as_secs_f64(),
            compile: (compiled - generated).as_secs_f64(),
        },
        tuned: tuned.as_ref(),
    };
    let verbose = output.is_verbose();
    output.answer(&report, || {
        if !full {
            return closing(&report);
        }
        let plans = match verbose {
            true => dir.text.clone(),
            false => plan_text(regimes, &unfused, overview::brief) + &measured,
        };
        format!("{plans}\n{}", closing(&report))
    })?;
    if let (Cubins::Missing { reason }, true) = (&report.cubins, full) {
        output.finish()?;
        failure::message(
            format!("no cubins were written: {reason}"),
            format!(
                "plan, sources and manifest are in {}; run the same command again once there is \
                 a compiler",
                report.out.display()
            ),
        )
        .print();
    }
    Ok(exit)
}

/// The weights of a program of its own: those asked for, or those of a checkpoint.
fn weights(args: &Args, model: &Model) -> Result<Option<Weights>, Failure> {
    match (&args.weights, model.checkpoint.is_some()) {
        _ if !args.standalone => Ok(None),
        (None, false) => Ok(None),
        (spec, _) => model::weights(model, spec.as_ref()).map(Some),
    }
}

/// Compiles, unless there is nothing to compile with.
fn cubins(
    args: &Args,
    manifest: &Manifest,
    arch: Arch,
) -> Result<(Option<BTreeMap<String, Artifact>>, Cubins), Failure> {
    let toolchain = match Toolchain::discover(&args.toolchain.options()) {
        Ok(toolchain) => toolchain,
        Err(error) => return missing(error),
    };
    let artifacts = kernels::compile(&toolchain, manifest, arch)?;
    let cached = artifacts
        .values()
        .filter(|artifact| artifact.cached)
        .count();
    let cubins = Cubins::Written {
        compiled: artifacts.len() - cached,
        cached,
        nvrtc: toolchain.info().nvrtc.version.to_string(),
    };
    Ok((Some(artifacts), cubins))
}

/// The cubins under the names of their images; none if nothing was compiled.
fn by_image(arch: Arch, artifacts: Option<BTreeMap<String, Artifact>>) -> plan_dir::Cubins {
    let images = |artifacts: BTreeMap<String, Artifact>| {
        let images = artifacts.into_iter();
        let images = images.map(|(name, artifact)| (name, artifact.cubin));
        (arch.to_string(), images.collect())
    };
    artifacts.map(images).into_iter().collect()
}

fn missing(error: ToolchainError) -> Result<(Option<BTreeMap<String, Artifact>>, Cubins), Failure> {
    if !error.is_unavailable() {
        return Err(failure::input(error));
    }
    let reason = error.to_string();
    Ok((None, Cubins::Missing { reason }))
}

/// The readable plan of all regimes.
fn plan_text(regimes: &[Regime], unfused: &[Plan], text: fn(&Planned, &Plan) -> String) -> String {
    let mut shown: Vec<&Regime> = Vec::new();
    let mut texts = Vec::new();
    for (regime, unfused) in regimes.iter().zip(unfused) {
        let alike = |other: &&&Regime| other.planned.plan == regime.planned.plan;
        texts.push(match shown.iter().find(alike) {
            Some(other) => format!("{}: as {}\n", regime.name, other.name),
            None => format!("{}: {}", regime.name, text(&regime.planned, unfused)),
        });
        shown.push(regime);
    }
    texts.join("\n")
}

/// The last lines: what was written, and how long it took.
fn closing(report: &Report<'_>) -> String {
    let cubins = match &report.cubins {
        Cubins::Written {
            compiled,
            cached,
            nvrtc,
        } => format!("{compiled} cubins compiled, {cached} from the cache (NVRTC {nvrtc})"),
        Cubins::Missing { .. } => "no cubins".to_string(),
    };
    let Seconds {
        plan,
        generate,
        compile,
    } = report.seconds;
    let program = report.standalone.as_ref().map_or(String::new(), |program| {
        let weights = match program.weights {
            true => "",
            false => ", without weights: --weights writes them",
        };
        format!(
            "program of its own: {}{weights}\n",
            program.source.display()
        )
    });
    format!(
        "{}: {} kernels for {}; {cubins}\n{program}planned in {plan:.2} s, generated in {generate:.2} s, \
         compiled in {compile:.2} s\n",
        report.out.display(),
        report.kernels,
        report.arch,
    )
}
