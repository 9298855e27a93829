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
    verbose: bool,
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
    /// JSON or text, and whether the text says more.
    pub fn new(json: bool, verbose: bool) -> Self {
        Output {
            json,
            verbose,
            assumed: Vec::new(),
            stdout: BufWriter::new(io::stdout()),
        }
    }

    /// Whether more than the essential is asked for.
    pub fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// Whether the answer is JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Hands a piece of an answer over at once: whoever reads it waits for it.
    pub fn piece(&mut self, text: &str) -> Result<(), Failure> {
        let written = self.stdout.write_all(text.as_bytes());
        written.map_err(failure::stdout)?;
        self.finish()
    }

    /// Writes a line (or several) of text.
    pub fn line(&mut self, text: impl Display) -> Result<(), Failure> {
        writeln!(self.stdout, "{text}").map_err(failure::stdout)
    }

    /// Writes a remark, at once; it is no part of the answer.
    pub fn note(&mut self, text: impl Display) -> Result<(), Failure> {
        self.finish()?;
        // That stderr cannot be written is no reason to stop.
        let _ = writeln!(io::stderr().lock(), "{text}");
        Ok(())
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

/// The crates whose log `--verbose` shows; that of others is for `RUST_LOG`.
const LOGGED: [&str; 5] = [
    "fusec",
    "fusec_ir",
    "fusec_fuse",
    "fusec_codegen",
    "fusec_runtime",
];

/// Logs warnings to stderr; `RUST_LOG` and `--verbose` ask for more. Spans are timed if asked for.
pub fn start_log(verbose: u8, timings: Option<Timings>) {
    let mut filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::WARN.into())
        .from_env_lossy();
    let level = match verbose {
        0 => None,
        1 => Some("info"),
        _ => Some("debug"),
    };
    for own in level
        .iter()
        .flat_map(|level| LOGGED.map(|of| format!("{of}={level}")))
    {
        if let Ok(directive) = own.parse() {
            filter = filter.add_directive(directive);
        }
    }
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
