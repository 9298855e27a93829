//! The command line as a user meets it.

mod answers;
mod bad_input;
mod command;
mod examples;
mod first_hour;
mod plans;

/// A small model.
const MODEL: &str = "models/gated-scan.toml";
