//! `fusec`: a model text goes in, fused CUDA kernels come out.
//!
//! The binary is glue: one file per verb, and what verbs share (arguments, output, failures). What
//! never lives here: anything that another program may want to call; that belongs to the crates.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod bench;
mod calibrate;
mod check;
mod classes;
mod compile;
mod device;
mod diff;
mod eval;
mod exit;
mod explain;
mod export;
mod failure;
mod flags;
mod generate;
mod glossary;
mod import;
mod init;
mod inputs;
mod inspect;
mod interrupt;
mod kernels;
mod man;
mod measured;
mod model;
mod models;
mod output;
mod overview;
mod pipeline;
mod place;
mod plan;
mod progress;
mod report;
mod run;
mod table;
mod texts;
mod timings;
mod token_file;
mod toolchain;
mod train;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use fusec_runtime::allocator::ExitWhenExhausted;
use fusec_runtime::threads;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::timings::Timings;

/// Where the system has no memory left the program ends as after any other error, and does not abort.
#[global_allocator]
static ALLOCATOR: ExitWhenExhausted = ExitWhenExhausted {
    status: exit::OUT_OF_MEMORY,
};

/// Compiles linear-recurrent sequence models into fused CUDA kernels, and runs them.
#[derive(Debug, Parser)]
#[command(name = "fusec", version, max_term_width = 100, after_help = exit::HELP)]
struct Cli {
    /// Write JSON to stdout instead of text.
    #[arg(long, global = true)]
    json: bool,
    /// Say more: what each kernel of a plan computes, and on stderr what is being done; twice for
    /// the whole log.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Compiles a model into a directory of plans, CUDA sources and cubins.
    Compile(compile::Args),
    /// Shows the kernels that a model becomes, what each fuses, and what each costs.
    Plan(plan::Args),
    /// Says why these kernels and no others, or why two values are together or apart.
    Explain(explain::Args),
    /// Shows what changed between two plans.
    Diff(diff::Args),
    /// Shows what kernels use and what they cost, and their source.
    Inspect(inspect::Args),
    /// Writes a page that shows a plan: graph, costs, reasons, sources.
    Report(report::Args),
    /// Shows the models that are built in: sizes, recurrences, checkpoints.
    Models(models::Args),
    /// Writes a model of one's own to start from.
    Init(init::Args),
    /// Writes a checkpoint's model as a text with the sizes found, and its weight map.
    Import(import::Args),
    /// Writes weights as a file of tensors by the model's own names.
    Export(export::Args),
    /// Tries a model: kernels, numbers, entropy, balance of branches, fused against unfused.
    Check(check::Args),
    /// Runs a model and compares its logits with recorded or reference ones.
    Verify(verify::Args),
    /// Runs a model on token ids or numbers.
    Run(run::Args),
    /// Goes on with a text: tokens are drawn one by one, and stream as text.
    Generate(generate::Args),
    /// Tells how well a model predicts a text, and whether fusion changes that.
    Eval(eval::Args),
    /// Trains a model on a text: by kernels on a GPU, or on the CPU by the interpreter, slowly.
    Train(train::Args),
    /// Times models and plans.
    Bench(bench::Args),
    /// Measures a GPU and writes a device profile.
    Calibrate(calibrate::Args),
    /// Shows the CUDA compiler that is used, and fetches it where there is none.
    Toolchain(toolchain::Args),
    /// Writes manual pages and shell completions.
    Man(man::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let timings = matches!(&cli.verb, Verb::Plan(args) if args.timings());
    output::start_log(cli.verbose, timings.then(Timings::default));
    let mut output = Output::new(cli.json, cli.verbose > 0);
    if let Err(error) = failure::install_handler() {
        // Reports are then printed without the source they point into, which is still a report.
        tracing::debug!("{error}");
    }
    if let Err(error) = interrupt::install_handler() {
        // A signal then ends the program as it would any other.
        tracing::debug!("{error}");
    }
    let started = threads::start().map_err(failure::input);
    let done = started.and_then(|()| dispatch(cli.verb, &mut output));
    match done.and_then(|exit| output.finish().map(|()| exit)) {
        Ok(exit) => exit.into(),
        Err(failure) if failure.is_reader_gone() => Exit::Success.into(),
        Err(failure) => {
            failure.print();
            failure.exit().into()
        }
    }
}

fn dispatch(verb: Verb, output: &mut Output) -> Result<Exit, Failure> {
    match verb {
        Verb::Compile(args) => compile::run(&args, output),
        Verb::Plan(args) => plan::run(&args, output),
        Verb::Explain(args) => explain::run(&args, output),
        Verb::Diff(args) => diff::run(&args, output),
        Verb::Inspect(args) => inspect::run(&args, output),
        Verb::Report(args) => report::run(&args, output),
        Verb::Models(args) => models::run(&args, output),
        Verb::Init(args) => init::run(&args, output),
        Verb::Import(args) => import::run(&args, output),
        Verb::Export(args) => export::run(&args, output),
        Verb::Check(args) => check::run(&args, output),
        Verb::Verify(args) => verify::run(&args, output),
        Verb::Run(args) => run::run(&args, output),
        Verb::Generate(args) => generate::run(&args, output),
        Verb::Eval(args) => eval::run(&args, output),
        Verb::Train(args) => train::run(&args, output),
        Verb::Bench(args) => bench::run(&args, output),
        Verb::Calibrate(args) => calibrate::run(&args, output),
        Verb::Toolchain(args) => toolchain::run(&args, output),
        Verb::Man(args) => man::run(&args, output),
    }
}
