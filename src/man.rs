//! `fusec man`: what a package of fusec carries beside the program.

use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use fusec_runtime::plan_dir::write_whole;
use serde::Serialize;

use crate::Cli;
use crate::exit::Exit;
use crate::failure::{self, Failure};
use crate::output::Output;

/// The shells that completions are written for, each with the name that it looks for.
const SHELLS: [(Shell, &str); 3] = [
    (Shell::Bash, "fusec.bash"),
    (Shell::Fish, "fusec.fish"),
    (Shell::Zsh, "_fusec"),
];

/// Writes the manual pages of all verbs (man/*.1) and completions for bash, fish and zsh
/// (completions/*) into a directory.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fusec man share")]
pub struct Args {
    /// The directory; it is created.
    dir: PathBuf,
}

#[derive(Serialize)]
struct Answer {
    files: Vec<String>,
}

/// Runs the verb.
pub fn run(args: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let mut command = Cli::command();
    command.build();
    let mut files = Vec::new();
    for (shell, name) in SHELLS {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command.clone(), "fusec", &mut script);
        files.push((Path::new("completions").join(name), script));
    }
    let verbs = command
        .get_subcommands()
        .filter(|verb| verb.get_name() != "help");
    for of in std::iter::once(&command).chain(verbs) {
        files.push(page(of).map_err(failure::input)?);
    }
    for (file, bytes) in &files {
        write(&args.dir.join(file), bytes)?;
    }
    let answer = Answer {
        files: files
            .iter()
            .map(|(file, _)| file.display().to_string())
            .collect(),
    };
    output.answer(&answer, || {
        let dir = args.dir.display();
        format!("wrote {} files below {dir}\n", answer.files.len())
    })?;
    Ok(Exit::Success)
}

/// The manual page of the program or of a verb.
fn page(of: &Command) -> std::io::Result<(PathBuf, Vec<u8>)> {
    let name = of.get_display_name().unwrap_or(of.get_name()).to_owned();
    let mut bytes = Vec::new();
    Man::new(of.clone()).render(&mut bytes)?;
    Ok((Path::new("man").join(format!("{name}.1")), bytes))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let above = path.parent().unwrap_or(Path::new("."));
    let written = std::fs::create_dir_all(above).and_then(|()| write_whole(path, bytes));
    written.map_err(|error| {
        failure::message(
            format!("cannot write {}: {error}", path.display()),
            "give a directory that can be written to",
        )
    })
}
