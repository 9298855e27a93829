//! The command line as a user meets it.

mod answers;
mod bad_input;
mod command;
mod eval;
mod examples;
mod first_hour;
mod generate;
mod look;
mod plans;
mod tuned;
#[path = "../common/tuning.rs"]
mod tuning;

/// A small model.
const MODEL: &str = "models/gated-scan.toml";
