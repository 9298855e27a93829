//! `fusec verify`: are the numbers right?

use crate::exit::Exit;
use crate::failure::{self, Failure};
use crate::flags::ModelArgs;
use crate::output::Output;

/// Runs a model and compares its logits with recorded ones.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
}

/// Runs the verb.
pub fn run(args: &Args, _output: &mut Output) -> Result<Exit, Failure> {
    Err(failure::message(
        format!("{} cannot be verified yet", args.model.model.display()),
        "this verb is being written",
    ))
}
