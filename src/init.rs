//! `fusec init`: a model of one's own to start from.

use std::path::PathBuf;

use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_runtime::import::standalone;
use fusec_runtime::plan_dir::write_whole;
use serde::Serialize;

use crate::exit::Exit;
use crate::failure::{self, Failure};
use crate::output::Output;
use crate::{model, models};

/// A model around a recurrence to be changed.
const RECURRENCE: &str = include_str!("init/recurrence.toml");

/// Writes NAME.toml, a model that compiles and runs as it is, with comments on what to change: a
/// built-in model with all it includes (--from), or a small one around a recurrence of your own
/// (--recurrence, the default).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fusec init idea
  fusec init mine --from gla
  fusec run idea.toml --weights random:0
  fusec verify idea.toml --weights random:0 --device emulator")]
pub struct Args {
    /// The name of the model, and of its file.
    name: String,
    /// A built-in model, as `fusec models` lists them.
    #[arg(long, value_name = "MODEL", conflicts_with = "recurrence")]
    from: Option<String>,
    /// A language model whose layers mix time by a recurrence written out in the text.
    #[arg(long)]
    recurrence: bool,
    /// Where it goes; by default NAME.toml in the current directory.
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Serialize)]
struct Answer<'a> {
    model: &'a str,
    file: String,
    lines: usize,
}

/// Runs the verb.
pub fn run(args: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let name = args.name.as_str();
    let text = match &args.from {
        Some(from) => standalone(models::built_in(from)?, name).map_err(model::report)?,
        None => RECURRENCE.replacen("name = \"recurrence\"", &format!("name = {name:?}"), 1),
    };
    let usual = PathBuf::from(format!("{name}.toml"));
    let file = args.out.as_ref().unwrap_or(&usual);
    // What is written compiles: above all, the name is one.
    let source = ModelSource::from_text(file.display().to_string(), text.as_str());
    compile(&source, &Overrides::default())?;
    if file.exists() {
        return Err(failure::message(
            format!("{} exists already", file.display()),
            "choose another name, give --out, or remove the file",
        ));
    }
    write_whole(file, text.as_bytes()).map_err(|error| {
        failure::message(
            format!("cannot write {}: {error}", file.display()),
            "give another place with --out",
        )
    })?;
    let answer = Answer {
        model: name,
        file: file.display().to_string(),
        lines: text.lines().count(),
    };
    output.answer(&answer, || {
        let Answer { file, lines, .. } = &answer;
        format!(
            "wrote {file} ({lines} lines)\nrun it:    fusec run {file} --weights random:0\n\
             plan it:   fusec plan {file}\ncheck it:  fusec check {file}\n"
        )
    })?;
    Ok(Exit::Success)
}
