//! What a verb writes: text or JSON on stdout, the log on stderr.

use std::fmt::Display;
use std::io::{self, BufWriter, Stdout, Write};

use serde::Serialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::failure::{self, Failure};
use crate::timings::Timings;

/// Stdout, and in which form.
pub struct Output {
    json: bool,
    stdout: BufWriter<Stdout>,
}

impl Output {
    /// JSON or text.
    pub fn new(json: bool) -> Self {
        Output {
            json,
            stdout: BufWriter::new(io::stdout()),
        }
    }

    /// Writes a line (or several) of text.
    pub fn line(&mut self, text: impl Display) -> Result<(), Failure> {
        writeln!(self.stdout, "{text}").map_err(failure::stdout)
    }

    /// Writes the answer: `value` as JSON, or what `text` gives.
    pub fn answer<T: Serialize>(
        &mut self,
        value: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if self.json {
            let json = serde_json::to_string_pretty(value).map_err(failure::input)?;
            self.line(json)
        } else {
            write!(self.stdout, "{}", text()).map_err(failure::stdout)
        }
    }

    /// Hands everything over to the system.
    pub fn finish(&mut self) -> Result<(), Failure> {
        self.stdout.flush().map_err(failure::stdout)
    }
}

/// Logs warnings to stderr; `RUST_LOG` and `--verbose` ask for more. Spans are timed if asked for.
pub fn start_log(verbose: u8, timings: Option<Timings>) {
    let default = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    let filter = EnvFilter::builder()
        .with_default_directive(default.into())
        .from_env_lossy();
    let log = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(failure::colour(&io::stderr()))
        .without_time()
        .with_target(verbose > 1)
        .with_filter(filter);
    tracing_subscriber::registry()
        .with(log)
        .with(timings)
        .init();
}
