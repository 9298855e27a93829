//! `fusec import`: a checkpoint's model as a text to read and change, and its weight map.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fusec_runtime::import::{ImportError, WeightMap, import};
use fusec_runtime::plan_dir::write_whole;
use serde::Serialize;

use crate::exit::Exit;
use crate::failure::{self, Failure};
use crate::flags::ModelArgs;
use crate::model;
use crate::output::Output;

/// Name of the text in a directory.
const TEXT: &str = "model.toml";

/// Writes the model of a checkpoint as one text with the sizes found, and beside it which tensor
/// becomes which parameter (`.weights.json`). Run the text with `--weights CHECKPOINT`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fusec import checkpoints/rwkv7 --out mine
  fusec run mine/model.toml --weights checkpoints/rwkv7")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Where it goes: a file that ends in .toml, or a directory for a model.toml; by default
    /// NAME.toml in the current one.
    #[arg(long, value_name = "FILE|DIR")]
    out: Option<PathBuf>,
}

#[derive(Serialize)]
struct Answer<'a> {
    /// The text.
    file: String,
    /// The weight map.
    weights_file: String,
    /// Sizes found.
    axes: BTreeMap<&'a str, usize>,
    #[serde(flatten)]
    weights: &'a WeightMap,
}

/// Runs the verb.
pub fn run(args: &Args, output: &mut Output) -> Result<Exit, Failure> {
    if args.model.preset.is_some() {
        return Err(failure::message(
            "--preset gives sizes, and so does the checkpoint",
            "leave --preset out",
        ));
    }
    let model = model::open(&args.model)?;
    output.assume(&model);
    let imported = import(&model).map_err(|error| match error {
        ImportError::Model(error) => model::report(error),
        error => failure::input(error),
    })?;
    let file = match &args.out {
        None => PathBuf::from(format!("{}.toml", model::short_name(&args.model.model))),
        Some(out) if out.extension().is_some_and(|e| e == "toml") => out.clone(),
        Some(out) => out.join(TEXT),
    };
    let map_file = file.with_extension("weights.json");
    let map = serde_json::to_vec_pretty(&imported.weights).map_err(failure::input)?;
    if let Some(directory) = file.parent().filter(|d| !d.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory).map_err(|e| cannot_write(directory, &e))?;
    }
    for (path, bytes) in [(&file, imported.text.as_bytes()), (&map_file, &map)] {
        write_whole(path, bytes).map_err(|e| cannot_write(path, &e))?;
    }
    let axes = model.overrides.axes.iter().map(|(a, n)| (a.as_str(), *n));
    let answer = Answer {
        file: file.display().to_string(),
        weights_file: map_file.display().to_string(),
        axes: axes.collect(),
        weights: &imported.weights,
    };
    output.answer(&answer, || text(&answer, &args.model.model))?;
    Ok(Exit::Success)
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    failure::message(
        format!("cannot write {}: {error}", path.display()),
        "give another place with --out",
    )
}

fn text(answer: &Answer<'_>, checkpoint: &Path) -> String {
    let sizes: Vec<String> = (answer.axes.iter())
        .map(|(name, size)| format!("{name}={size}"))
        .collect();
    let mut out = format!(
        "{}: {} parameters; {}\n",
        answer.weights.model,
        answer.weights.parameters.len(),
        sizes.join(", ")
    );
    let unused = answer.weights.unused.iter();
    let unused = unused.map(|tensor| (tensor, "unused, as the model allows"));
    let skipped = answer.weights.skipped.iter();
    for (name, why) in unused.chain(skipped.map(|(name, why)| (name, why.as_str()))) {
        out.push_str(&format!("  not read: '{name}' ({why})\n"));
    }
    out.push_str(&format!(
        "wrote {} and {}\nrun it with: fusec run {} --weights {}\n",
        answer.file,
        answer.weights_file,
        answer.file,
        checkpoint.display()
    ));
    out
}
