//! `fusec explain`: why these kernels and no others.

use fusec_fuse::explain::{ExplainError, pair, why};

use crate::exit::Exit;
use crate::failure::{self, Failure};
use crate::flags::{ModelArgs, PlanArgs};
use crate::model;
use crate::output::Output;
use crate::pipeline::Planner;

/// Explains the kernels of an interior layer: what each costs and saves, which values could stay
/// on the chip for a price, and which rule keeps the others apart.
///
/// With two values A and B: are they computed in one kernel? If not, by which rule, or what one
/// kernel for both would cost and what it would force apart.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fusec explain models/hybrid.toml
  fusec explain models/hybrid.toml --shape B=1,T=1
  fusec explain models/rwkv6.toml time_mix.r time_mix.k
  fusec explain models/rwkv6.toml time_mix.r time_mix.k --json | jq .answer")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// A value of the model, by its name or the last part of it.
    #[arg(requires = "b")]
    a: Option<String>,
    /// Another one.
    b: Option<String>,
    #[command(flatten)]
    plan: PlanArgs,
}

/// Runs the verb.
pub fn run(args: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let model = model::open(&args.model)?;
    output.assume(&model);
    let planner = Planner::new(&args.plan)?;
    let (shape, mode) = (args.plan.shape.0, args.plan.plan);
    let planned = planner.plan(&model.graph, shape, mode)?;
    let options = planner.options(shape, mode);
    match (&args.a, &args.b) {
        (Some(a), Some(b)) => {
            let answer = pair(&model.graph, &planned, &options, a, b).map_err(report)?;
            output.answer(&answer, || answer.to_string())?;
        }
        _ => {
            let answer = why(&planned, &options).map_err(report)?;
            output.answer(&answer, || answer.to_string())?;
        }
    }
    Ok(Exit::Success)
}

fn report(error: ExplainError) -> Failure {
    failure::input(error)
}
