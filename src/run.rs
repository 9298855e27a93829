//! `fusec run`: token ids in, logits out.

use crate::exit::Exit;
use crate::failure::{self, Failure};
use crate::flags::ModelArgs;
use crate::output::Output;

/// Runs a model on token ids.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
}

/// Runs the verb.
pub fn run(args: &Args, _output: &mut Output) -> Result<Exit, Failure> {
    Err(failure::message(
        format!("{} cannot be run yet", args.model.model.display()),
        "this verb is being written",
    ))
}
