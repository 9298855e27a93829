//! Results as they are recorded: read back to be put in tables and plots again, on any machine.

use std::path::{Path, PathBuf};

use fusec_fuse::Shape;
use fusec_ir::files;
use fusec_runtime::bench::Spread;
use fusec_runtime::executor::gpu::Clocks;
use fusec_runtime::limits::MAX_RECORD_BYTES;
use serde::Deserialize;
use serde_json::Value;

use super::report::Report;
use crate::failure::{self, Failure};

/// What a table of a sweep needs of a record.
#[derive(Debug, Deserialize)]
pub struct Recorded {
    /// How it was measured.
    pub protocol: Protocol,
    /// On what.
    pub provenance: Provenance,
    /// What was measured.
    pub subjects: Vec<Subject>,
}

/// Of the protocol.
#[derive(Debug, Deserialize)]
pub struct Protocol {
    /// Untimed runs before the first timed one.
    pub warmups: usize,
}

/// Of where it was taken.
#[derive(Debug, Deserialize)]
pub struct Provenance {
    /// The GPU's name, or `cpu`.
    pub device: String,
    /// Its driver.
    pub driver: Option<String>,
    /// What the program was built from.
    pub commit: String,
    /// When.
    pub date: String,
}

/// One thing that was timed.
#[derive(Debug, Deserialize)]
pub struct Subject {
    /// What tables call it.
    pub name: String,
    /// The model.
    pub model: String,
    /// How its kernels were chosen.
    pub plan: Option<String>,
    /// Numbers in all parameters; records of before it was counted have none.
    pub parameters: Option<usize>,
    /// Storage type.
    pub storage: Option<String>,
    /// What it was made with.
    pub config: Option<Config>,
    /// One per shape.
    pub measurements: Vec<Measurement>,
}

/// Of what it was made with.
#[derive(Debug, Deserialize)]
pub struct Config {
    /// A preset of the model text.
    pub preset: Option<String>,
}

/// Figures at one shape.
#[derive(Debug, Deserialize)]
pub struct Measurement {
    /// Sequences and tokens.
    pub shape: Shape,
    /// Milliseconds of a run.
    pub milliseconds: Spread,
    /// Tokens of all sequences.
    pub tokens_per_second: f64,
    /// Most memory, bytes.
    pub peak_bytes: Option<f64>,
    /// Share of the memory's speed.
    pub memory_fraction: Option<f64>,
    /// Mean cross-entropy.
    pub loss: Option<f64>,
    /// What the GPU ran at.
    pub clocks: Option<Clocks>,
}

impl Recorded {
    /// What was just measured, as it is recorded.
    pub fn of(report: &Report) -> Result<Self, Failure> {
        let value = serde_json::to_value(report).map_err(failure::input)?;
        serde_json::from_value(value).map_err(failure::input)
    }

    /// Reads files that `fusec bench --out` wrote, and puts them together. All have to be of one device.
    pub fn read(paths: &[PathBuf]) -> Result<Self, Failure> {
        let mut all: Option<Recorded> = None;
        for path in paths {
            for record in records(path)? {
                match &mut all {
                    None => all = Some(record),
                    Some(all) if all.provenance.device == record.provenance.device => {
                        all.subjects.extend(record.subjects);
                    }
                    Some(all) => {
                        return Err(failure::message(
                            format!(
                                "{} was taken on {}, and what is to stand beside it on {}",
                                path.display(),
                                record.provenance.device,
                                all.provenance.device
                            ),
                            "times are compared on one machine: draw them by themselves",
                        ));
                    }
                }
            }
        }
        all.ok_or_else(|| {
            failure::message(
                "there is nothing in these records",
                "give a file that `fusec bench --out FILE` wrote",
            )
        })
    }
}

fn records(path: &Path) -> Result<Vec<Recorded>, Failure> {
    let unread = |reason: String| {
        failure::message(
            format!("{} is no record of a measurement: {reason}", path.display()),
            "give a file that `fusec bench --out FILE` wrote",
        )
    };
    let text = files::read(path, MAX_RECORD_BYTES).map_err(|error| unread(error.to_string()))?;
    let value: Value = serde_json::from_slice(&text).map_err(|error| unread(error.to_string()))?;
    // One record, or several by name.
    let records = match value {
        Value::Object(records) if !records.contains_key("subjects") => {
            records.into_iter().map(|(_, record)| record).collect()
        }
        record => vec![record],
    };
    let record = |value| serde_json::from_value(value).map_err(|e| unread(e.to_string()));
    records.into_iter().map(record).collect()
}
