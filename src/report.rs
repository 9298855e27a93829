//! `fusec report`: a plan as one page to look at.

mod made;
mod measured;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::str::FromStr;

use fusec_fuse::{Mode, Plan};
use fusec_report::{Subject, collect, page};
use fusec_runtime::executor::gpu::gpu;
use fusec_runtime::toolchain::Toolchain;
use fusec_runtime::weights::WeightSpec;
use serde::Serialize;

use crate::device::{Device, arch_of};
use crate::exit::Exit;
use crate::failure::{self, Failure};
use crate::flags::{ArchArgs, LogitsArg, ModelArgs, PlanArgs, ToolchainArgs};
use crate::model;
use crate::output::Output;
use crate::overview::Sums;
use crate::pipeline::Planner;
use crate::place;
use crate::progress::Progress;
use crate::table;
use made::{Made, Maker};

/// Writes a page that shows a plan: the kernels of each layer as a graph, with what each costs, how it
/// is run, why its neighbours are no part of it, and its source; before and after; roofline, timeline
/// and memory. The page is one file and needs no network.
///
/// Kernels are compiled for registers and spills; without a CUDA compiler the page says that they are
/// not, and the exit status is 3.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fusec report models/rwkv6.toml -o report.html
  fusec report models/mamba2.toml --against unfused --out both.html
  fusec report models/gated-scan.toml --against out/before --shape B=8,T=512 -o report.html
  fusec report models/gla.toml --dtype bf16 --axis L=48 -o report.html --json | jq .bytes")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The file to write; by default the name of MODEL's file, with .html.
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Another plan to show beside it: unfused, greedy, random:SEED, or a directory that
    /// `fusec compile` wrote.
    #[arg(long, value_name = "PLAN")]
    against: Option<Against>,
    /// Time the plans on a GPU, each kernel too, by the protocol of `fusec bench`.
    #[arg(long)]
    bench: bool,
    /// The GPU to time on: cuda:N.
    #[arg(long, default_value_t = Device::Cuda(0), requires = "bench")]
    device: Device,
    /// For --bench: a checkpoint, or random:SEED; by default those of the checkpoint that MODEL is,
    /// else random:1.
    #[arg(long, value_name = "WEIGHTS", requires = "bench")]
    weights: Option<WeightSpec>,
    #[command(flatten)]
    logits: LogitsArg,
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    arch: ArchArgs,
    #[command(flatten)]
    toolchain: ToolchainArgs,
}

/// A plan to compare with.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Against {
    /// Another choice of kernels.
    Mode(Mode),
    /// A compiled directory.
    Dir(PathBuf),
}

impl FromStr for Against {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A misspelt plan is a path that does not exist, which `run` says.
        Ok(match text.parse() {
            Ok(mode) => Against::Mode(mode),
            Err(_) => Against::Dir(PathBuf::from(text)),
        })
    }
}

/// The answer as JSON.
#[derive(Serialize)]
struct Answer {
    out: PathBuf,
    /// Size of the page.
    bytes: usize,
    /// Plans shown.
    plans: Vec<Shown>,
    /// Why no kernel is compiled.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_compiled: Option<String>,
}

#[derive(Serialize)]
struct Shown {
    plan: String,
    regimes: Vec<ShownRegime>,
}

#[derive(Serialize)]
struct ShownRegime {
    regime: String,
    #[serde(flatten)]
    sums: Sums,
    unfused: Sums,
}

/// Runs the verb.
pub fn run(args: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let model = model::open(&args.model)?;
    output.assume(&model);
    let out = match &args.out {
        Some(out) => out.clone(),
        None => PathBuf::from(format!("{}.html", model::short_name(&args.model.model))),
    };
    place::check(&out, args.model.read(args.weights.as_ref()))?;
    if let Some(Against::Dir(path)) = &args.against
        && !path.exists()
    {
        return Err(failure::message(
            format!(
                "`{}` is no plan, and there is no such directory",
                path.display()
            ),
            "give --against unfused, greedy, random:SEED, or a directory that `fusec compile` wrote",
        ));
    }
    let info = match (args.bench, args.device) {
        (false, _) => None,
        (true, Device::Cuda(ordinal)) => Some(gpu(ordinal).map_err(failure::input)?),
        (true, _) => {
            return Err(failure::message(
                "kernels are timed on a GPU only",
                "choose --device cuda:N, or leave --bench out",
            ));
        }
    };
    let planner = Planner::new(&args.plan)?;
    let arch = match (&info, args.arch.arch) {
        (Some(info), None) => arch_of(info)?,
        _ => planner.arch(&args.arch)?,
    };
    let planner = planner.compiled_for(arch);
    let toolchain = match Toolchain::discover(&args.toolchain.options()) {
        Ok(toolchain) => Ok(toolchain),
        Err(error) if error.is_unavailable() && !args.bench => Err(error.to_string()),
        Err(error) => return Err(failure::input(error)),
    };
    let last = args.logits.logits.asked(&model.graph);
    let maker = Maker {
        graph: &model.graph,
        last: last.as_ref(),
        plan: &args.plan,
        arch,
        toolchain: toolchain.as_ref(),
    };
    let mut plans = vec![maker.planned(args.plan.plan)?];
    match &args.against {
        Some(Against::Mode(mode)) => plans.push(maker.planned(*mode)?),
        Some(Against::Dir(path)) => plans.push(maker.carried(path)?),
        None => {}
    }
    let unfused = plans
        .iter()
        .map(|made| {
            let regimes = made.planned.iter().zip(&made.manifest.regimes);
            let plans = regimes.map(|(planned, regime)| {
                let graph = maker.graph_of(regime.max_time);
                planner.unfused(graph, planned.plan.shape)
            });
            plans.collect::<Result<Vec<Plan>, _>>()
        })
        .collect::<Result<Vec<_>, _>>()?;
    let timed = match &info {
        Some(info) => Some(measured::all(args, info, &model, &maker, &plans)?),
        None => None,
    };
    let progress = Progress::line("looking at what else could be");
    let subjects: Vec<Subject<'_>> = plans
        .iter()
        .enumerate()
        .map(|(at, made)| made.subject(&planner, &unfused[at], timed.as_ref(), at))
        .collect();
    let source = args.model.model.display().to_string();
    let report = collect(&source, &model.sources, planner.device(), &subjects);
    let text = page(&report.map_err(failure::input)?).map_err(failure::input)?;
    drop(progress);
    place::write(&out, text.as_bytes())?;
    let answer = Answer {
        out,
        bytes: text.len(),
        plans: plans.iter().zip(&unfused).map(shown).collect(),
        not_compiled: toolchain.as_ref().err().cloned(),
    };
    output.answer(&answer, || words(&answer))?;
    match &answer.not_compiled {
        None => Ok(Exit::Success),
        Some(reason) => {
            output.finish()?;
            failure::message(
                format!("the page is without registers and spills: {reason}"),
                "write it again once there is a compiler",
            )
            .print();
            Ok(Exit::NoToolchain)
        }
    }
}

fn shown((made, unfused): (&Made, &Vec<Plan>)) -> Shown {
    let regimes = made.planned.iter().zip(&made.manifest.regimes).zip(unfused);
    Shown {
        plan: made.label.clone(),
        regimes: regimes
            .map(|((planned, regime), unfused)| ShownRegime {
                regime: regime.name.clone(),
                sums: Sums::of(&planned.plan),
                unfused: Sums::of(unfused),
            })
            .collect(),
    }
}

/// What was written, in words.
fn words(answer: &Answer) -> String {
    let mut text = format!(
        "{}: {}\n",
        answer.out.display(),
        table::bytes(answer.bytes as f64)
    );
    for shown in &answer.plans {
        for regime in &shown.regimes {
            let Sums {
                launches, total_us, ..
            } = regime.sums;
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "  plan {}, {}: {launches} launches, {} predicted; unfused {} launches, {}",
                shown.plan,
                regime.regime,
                table::microseconds(total_us),
                regime.unfused.launches,
                table::microseconds(regime.unfused.total_us),
            );
        }
    }
    text
}
