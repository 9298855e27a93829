//! What a verb writes: text or JSON on stdout, the log on stderr.

use std::fmt::Display;
use std::io::{self, BufWriter, Stdout, Write};

use fusec_runtime::layout::Assumed;
use fusec_runtime::model::Model;
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
    assumed: Vec<Assumed>,
    stdout: BufWriter<Stdout>,
}

/// An answer and what it rests on.
#[derive(Serialize)]
struct Assuming<'a, T> {
    #[serde(flatten)]
    answer: &'a T,
    assumed: &'a [Assumed],
}

impl Output {
    /// JSON or text.
    pub fn new(json: bool) -> Self {
        Output {
            json,
            assumed: Vec::new(),
            stdout: BufWriter::new(io::stdout()),
        }
    }

    /// Writes a line (or several) of text.
    pub fn line(&mut self, text: impl Display) -> Result<(), Failure> {
        writeln!(self.stdout, "{text}").map_err(failure::stdout)
    }

    /// Has the answer, if it is JSON, name the settings that the model's checkpoint leaves open.
    pub fn assume(&mut self, model: &Model) {
        self.assumed.clone_from(&model.assumed);
    }

    /// Writes the answer: `value` as JSON, or what `text` gives.
    pub fn answer<T: Serialize>(
        &mut self,
        value: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if self.json {
            let json = match &self.assumed[..] {
                [] => serde_json::to_string_pretty(value),
                assumed => serde_json::to_string_pretty(&Assuming {
                    answer: value,
                    assumed,
                }),
            };
            self.line(json.map_err(failure::input)?)
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
