//! What others were timed at, drawn beside a sweep: the records of `bench/peers`.

use std::path::{Path, PathBuf};

use fusec_ir::files;
use fusec_runtime::limits::MAX_RECORD_BYTES;
use serde::Deserialize;

use crate::failure::{self, Failure};

/// A record: what was timed, on one device.
#[derive(Debug, Deserialize)]
struct Record {
    device: String,
    rows: Vec<Timed>,
}

/// One thing at one shape.
#[derive(Clone, Debug, Deserialize)]
pub struct Timed {
    /// The model text whose equations it computes, without directory and ending.
    pub model: String,
    /// How: `eager`, `compiled`.
    pub way: String,
    /// Sequences.
    pub batch: usize,
    /// Tokens of each.
    pub time: usize,
    /// Type of its activations.
    pub dtype: String,
    /// What was measured; nothing where it could not be run.
    #[serde(flatten)]
    pub measured: Option<Figures>,
}

/// Its figures.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Figures {
    /// Of a run.
    pub milliseconds: Spread,
    /// Of all sequences.
    pub tokens_per_second: f64,
    /// At most.
    pub peak_bytes: Option<f64>,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Spread {
    /// Half are below.
    pub median: f64,
    /// A tenth are below.
    pub p10: f64,
    /// A tenth are above.
    pub p90: f64,
    /// How many measurements.
    pub runs: usize,
}

/// Reads records that were taken on a device. Those of another one say nothing beside what is timed here.
pub fn read(paths: &[PathBuf], device: &str) -> Result<Vec<Timed>, Failure> {
    let mut all = Vec::new();
    for path in paths {
        let record = record(path)?;
        if record.device != device {
            return Err(failure::message(
                format!(
                    "{} was taken on {}, and this runs on {device}",
                    path.display(),
                    record.device
                ),
                "times are compared on one machine: take the record here",
            ));
        }
        all.extend(record.rows);
    }
    Ok(all)
}

fn record(path: &Path) -> Result<Record, Failure> {
    let unread = |reason: String| {
        failure::message(
            format!("{} is no record of others: {reason}", path.display()),
            "give what `bench/peers/hybrid.py time --out FILE` wrote",
        )
    };
    let text = files::read(path, MAX_RECORD_BYTES).map_err(|error| unread(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| unread(error.to_string()))
}
