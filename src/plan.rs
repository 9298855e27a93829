//! `fusec plan`: which kernels, what each fuses, and what each costs.

use std::path::PathBuf;

use fusec_fuse::explain;
use serde::Serialize;
use tracing::debug_span;

use crate::classes::{self, RecurrenceClass};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::flags::{ModelArgs, PlanArgs, TrainingArg, TunedArg};
use crate::measured::Measured;
use crate::model;
use crate::output::Output;
use crate::overview::{self, Overview};
use crate::pipeline::Planner;
use crate::place;
use crate::timings;

/// Plans a model for one shape and shows the kernels, one a line: bytes and predicted time, beside
/// the plan with one kernel per operation; with -v also what each computes, and what was decided
/// on the way. Nothing is written but the pictures asked for.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fusec plan models/hybrid.toml
  fusec plan models/rwkv7.toml -v
  fusec plan models/mamba2.toml --shape B=1,T=1 --dtype bf16
  fusec plan models/rwkv6.toml --plan greedy --device-profile a100
  fusec plan models/rwkv7.toml --shape B=8,T=2048 --json | jq .launches_per_layer
  fusec plan models/mamba2.toml --svg plan.svg
  fusec plan models/gla.toml --training --dtype bf16
  fusec plan models/mamba2.toml --tuned out/tuned")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    training: TrainingArg,
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    tuned: TunedArg,
    /// Draws the kernels of an interior layer into an SVG file.
    #[arg(long, value_name = "FILE", help_heading = "Pictures")]
    svg: Option<PathBuf>,
    /// Writes the same graph for Graphviz.
    #[arg(long, value_name = "FILE", help_heading = "Pictures")]
    dot: Option<PathBuf>,
    /// Writes to stderr how long each phase of planning took.
    #[arg(long)]
    timings: bool,
}

impl Args {
    /// Whether phases are to be timed.
    pub fn timings(&self) -> bool {
        self.timings
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    overview: Overview<'a>,
    /// What the analysis of the recurrences found.
    recurrences: Vec<RecurrenceClass>,
    /// What the plan was chosen by, if it was measured.
    #[serde(flatten)]
    measured: Measured<'a>,
}

/// Runs the verb.
pub fn run(args: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let mut model = debug_span!("reading the model").in_scope(|| model::open(&args.model))?;
    output.assume(&model);
    args.training.apply(&mut model)?;
    for path in args.svg.iter().chain(&args.dot) {
        place::check(path, args.model.read(None))?;
    }
    let planner = Planner::new(&args.plan)?;
    let shape = args.plan.shape.0;
    let tuned = args.tuned.read(&args.plan)?;
    let planned = planner.plan_or_tuned(&model.graph, shape, tuned.as_ref())?;
    let measured = Measured::new(tuned.as_ref(), shape)?;
    let unfused = debug_span!("unfused plan").in_scope(|| planner.unfused(&model.graph, shape))?;
    if let Some(path) = &args.svg {
        place::write(path, explain::svg(&planned).as_bytes())?;
    }
    if let Some(path) = &args.dot {
        place::write(path, explain::dot(&planned).as_bytes())?;
    }
    let answer = Answer {
        overview: Overview::new(&planned, &unfused),
        recurrences: debug_span!("classes of recurrences")
            .in_scope(|| classes::of(&model.graph, &model.sources)),
        measured,
    };
    let verbose = output.is_verbose();
    output.answer(&answer, || {
        let plan = match verbose {
            true => overview::text(&planned, &unfused),
            false => overview::brief(&planned, &unfused),
        };
        let classes = classes::text(&answer.recurrences);
        format!("{plan}{}\n{classes}", answer.measured.text())
    })?;
    if args.timings {
        eprint!("{}", timings::text());
    }
    Ok(Exit::Success)
}
