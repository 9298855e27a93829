//! `fusec explain`: why these kernels and no others.

use std::path::PathBuf;

use fusec_fuse::explain::{ExplainError, pair, why};

use crate::exit::Exit;
use crate::failure::{self, Failure};
use crate::flags::{Assignment, AxisSize, ModelArgs, PlanArgs, TrainingArg, TunedArg, ZerosArg};
use crate::measured::Measured;
use crate::output::Output;
use crate::pipeline::Planner;
use crate::progress::Progress;
use crate::{glossary, model};

/// Explains the kernels of an interior layer: what each costs and saves, which values could stay
/// on the chip for a price, and which rule keeps the others apart.
///
/// With two values A and B: are they computed in one kernel? If not, by which rule, or what one
/// kernel for both would cost and what it would force apart.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fusec explain models/rwkv6.toml
  fusec explain models/mamba2.toml --shape B=1,T=1
  fusec explain models/rwkv6.toml time_mix.r time_mix.k
  fusec explain models/rwkv6.toml time_mix.r time_mix.k --json | jq .answer
  fusec explain models/mamba2.toml --tuned out/tuned --json | jq .measured.candidates
  fusec explain --terms")]
pub struct Args {
    /// A model.toml, or a directory with one; or a checkpoint.
    #[arg(required_unless_present = "terms")]
    model: Option<PathBuf>,
    /// A value of the model, by its name or the last part of it.
    #[arg(requires = "b")]
    a: Option<String>,
    /// Another one.
    b: Option<String>,
    /// A preset of the model text, such as one of its sizes.
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    preset: Option<String>,
    /// Another size for an axis of the model. May be repeated.
    #[arg(long = "axis", value_name = "AXIS=SIZE", help_heading = "Model")]
    axes: Vec<AxisSize>,
    /// Another value for a setting of the model. May be repeated.
    #[arg(long = "set", value_name = "SETTING=VALUE", help_heading = "Model")]
    settings: Vec<Assignment>,
    /// Tensors of the checkpoint that no parameter has to read; `*` stands for anything. May be
    /// repeated.
    #[arg(long, value_name = "PATTERN", help_heading = "Model")]
    allow_unused: Vec<String>,
    #[command(flatten)]
    zeros: ZerosArg,
    #[command(flatten)]
    training: TrainingArg,
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    tuned: TunedArg,
    /// Says what the words of plans and explanations mean, and nothing else.
    #[arg(long, conflicts_with = "model")]
    terms: bool,
}

/// Runs the verb.
pub fn run(args: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let Some(path) = &args.model else {
        let terms = glossary::terms();
        output.answer(&terms, || glossary::text(&terms))?;
        return Ok(Exit::Success);
    };
    let mut model = model::open(&ModelArgs {
        model: path.clone(),
        preset: args.preset.clone(),
        axes: args.axes.clone(),
        settings: args.settings.clone(),
        allow_unused: args.allow_unused.clone(),
        zeros: args.zeros,
    })?;
    output.assume(&model);
    args.training.apply(&mut model)?;
    let planner = Planner::new(&args.plan)?;
    let (shape, mode) = (args.plan.shape.0, args.plan.plan);
    let tuned = args.tuned.read(&args.plan)?;
    let planned = planner.plan_or_tuned(&model.graph, shape, tuned.as_ref())?;
    let measured = Measured::new(tuned.as_ref(), shape)?;
    let options = planner.options(shape, mode);
    let progress = Progress::line("looking at what else could be");
    match (&args.a, &args.b) {
        (Some(a), Some(b)) => {
            let answer = pair(&model.graph, &planned, &options, a, b).map_err(report)?;
            drop(progress);
            measured.answer(&answer, output)?;
        }
        _ => {
            let answer = why(&planned, &options).map_err(report)?;
            drop(progress);
            measured.answer(&answer, output)?;
        }
    }
    Ok(Exit::Success)
}

fn report(error: ExplainError) -> Failure {
    failure::input(error)
}
