//! Failures: an exit status and a report that says what, where, why and what to do.

use std::error::Error;
use std::io::{self, IsTerminal, Write};

use fusec_ir::language::{LONGEST_MESSAGE, readable};
use miette::{Diagnostic, MietteHandlerOpts, Report};

use crate::exit::Exit;

/// Why a verb could not do its work.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    report: Report,
    /// The reader of stdout went away (`fusec plan M | head`), which is nobody's fault.
    reader_gone: bool,
}

/// A message of the binary's own, with what to do about it.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("{message}")]
struct Message {
    message: String,
    #[help]
    help: Option<String>,
}

impl<E: Diagnostic + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure {
            exit: Exit::Input,
            report: Report::new(error),
            reader_gone: false,
        }
    }
}

/// The failure of an error that carries its advice in its message. For `map_err`.
pub fn input(error: impl Error + Send + Sync + 'static) -> Failure {
    let text = error.to_string();
    let shown = readable(&text, LONGEST_MESSAGE);
    let report = match shown == text {
        true => Report::from_err(error),
        false => Report::new(Message {
            message: shown,
            help: None,
        }),
    };
    Failure {
        exit: Exit::Input,
        report,
        reader_gone: false,
    }
}

/// A failure in words: what happened, and what to do.
pub fn message(message: impl Into<String>, help: impl Into<String>) -> Failure {
    Failure::from(Message {
        message: readable(&message.into(), LONGEST_MESSAGE),
        help: Some(help.into()),
    })
}

/// The failure of writing to stdout.
pub fn stdout(error: io::Error) -> Failure {
    let reader_gone = error.kind() == io::ErrorKind::BrokenPipe;
    Failure {
        reader_gone,
        ..message(
            format!("cannot write to stdout: {error}"),
            "redirect it to where there is room",
        )
    }
}

impl Failure {
    /// The same with another exit status.
    pub fn with_exit(self, exit: Exit) -> Self {
        Failure { exit, ..self }
    }

    /// The status to exit with.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// What happened, in one line, for a record.
    pub fn message(&self) -> String {
        self.report.to_string()
    }

    /// Whether the reader of stdout went away.
    pub fn is_reader_gone(&self) -> bool {
        self.reader_gone
    }

    /// Writes the report to stderr. That stderr cannot be written is no reason to panic.
    pub fn print(&self) {
        let _ = writeln!(io::stderr().lock(), "{:?}", self.report);
    }
}

/// Makes reports coloured and framed on a terminal, and plain elsewhere.
pub fn install_handler() -> Result<(), miette::InstallError> {
    let colour = colour(&io::stderr());
    miette::set_hook(Box::new(move |_| {
        Box::new(
            MietteHandlerOpts::new()
                .color(colour)
                .unicode(colour)
                .terminal_links(false)
                .wrap_lines(colour)
                // Messages of the crates already say their cause.
                .without_cause_chain()
                .build(),
        )
    }))
}

/// Whether to colour what goes to a stream.
pub fn colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}
