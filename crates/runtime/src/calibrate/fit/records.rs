//! Results of `fusec bench` as far as a fit needs them.

use crate::limits;
use fusec_fuse::cost::Work;
use fusec_fuse::{Shape, Storage};
use fusec_ir::files;
use fusec_ir::language::{LONGEST_MESSAGE, readable};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Why a file of results cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is something else.
    #[error("{path} holds no results of `fusec bench`: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why, with the place.
        reason: String,
    },
}

/// A measured run.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The GPU.
    pub device: String,
    /// The day, year first.
    pub date: String,
    /// The model.
    pub model: String,
    /// Plan, storage type and shape.
    pub run: String,
    /// Median of the run, microseconds.
    pub measured_us: f64,
    /// Its kernels.
    pub kernels: Vec<KernelRecord>,
}

/// A kernel of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelRecord {
    /// Its name.
    pub name: String,
    /// Launches of a run.
    pub launches: usize,
    /// Of a launch, microseconds, where kernels were timed.
    pub measured_us: Option<f64>,
    /// For each phase the work of its subkernels. `None` where it was recorded in terms that no template
    /// has any more: what the kernel took then stands for itself.
    pub phases: Option<Vec<Vec<Work>>>,
}

/// The usable runs of some files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Records {
    /// The files.
    pub files: Vec<String>,
    /// The runs, in order.
    pub list: Vec<Record>,
    /// Measurements without recorded work, or with a kernel that was neither timed nor can be priced.
    pub skipped: usize,
}

impl Records {
    /// Reads files of results.
    pub fn read(paths: &[PathBuf]) -> Result<Records, RecordError> {
        let mut records = Records::default();
        for path in paths {
            let text = files::read_text(path, limits::MAX_RECORD_BYTES).map_err(|source| {
                RecordError::Read {
                    path: path.clone(),
                    source,
                }
            })?;
            records.add(path, &text)?;
        }
        Ok(records)
    }

    /// Adds the runs of one file's text.
    pub fn add(&mut self, path: &Path, text: &str) -> Result<(), RecordError> {
        let report: Report = serde_json::from_str(text).map_err(|error| RecordError::Parse {
            path: path.to_path_buf(),
            reason: readable(&error.to_string(), LONGEST_MESSAGE),
        })?;
        self.files.push(path.display().to_string());
        let date = report.provenance.date.chars().take(10);
        let date: String = date.collect();
        for subject in report.subjects {
            for measurement in &subject.measurements {
                match record(&report.provenance.device, &date, &subject, measurement) {
                    Some(record) => self.list.push(record),
                    None => self.skipped += 1,
                }
            }
        }
        Ok(())
    }
}

fn record(
    device: &str,
    date: &str,
    subject: &Subject,
    measurement: &Measurement,
) -> Option<Record> {
    let measured_us = measurement.milliseconds.median * 1e3;
    let launches: usize = measurement.work.iter().map(|w| w.launches).sum();
    let is_time = |us: f64| us.is_finite() && us > 0.0;
    if launches == 0 || launches != measurement.launches || !is_time(measured_us) {
        return None;
    }
    let kernels = measurement.kernels.iter();
    let timed: BTreeMap<&str, f64> = kernels
        .map(|k| (k.kernel.as_str(), k.milliseconds * 1e3))
        .filter(|(_, us)| is_time(*us))
        .collect();
    let kernels = measurement.work.iter().map(|of| KernelRecord {
        name: of.kernel.clone(),
        launches: of.launches,
        // A run of one kernel is a measurement of it.
        measured_us: match launches {
            1 => Some(measured_us),
            _ => timed.get(of.kernel.as_str()).copied(),
        },
        phases: serde_json::from_value(of.phases.clone()).ok(),
    });
    let kernels: Vec<KernelRecord> = kernels.collect();
    let known = |kernel: &KernelRecord| kernel.phases.is_some() || kernel.measured_us.is_some();
    if !kernels.iter().all(known) {
        return None;
    }
    let Shape { batch, time } = measurement.shape;
    let storage = subject.storage.map_or_else(String::new, |s| s.to_string());
    let plan = subject.plan.as_deref().unwrap_or_default();
    Some(Record {
        device: device.to_owned(),
        date: date.to_owned(),
        model: subject.model.clone(),
        run: format!("{plan} {storage} B{batch} T{time}"),
        measured_us,
        kernels,
    })
}

#[derive(Deserialize)]
struct Report {
    provenance: Provenance,
    subjects: Vec<Subject>,
}

#[derive(Deserialize)]
struct Provenance {
    device: String,
    date: String,
}

#[derive(Deserialize)]
struct Subject {
    model: String,
    plan: Option<String>,
    storage: Option<Storage>,
    measurements: Vec<Measurement>,
}

#[derive(Deserialize)]
struct Measurement {
    shape: Shape,
    launches: usize,
    milliseconds: Spread,
    kernels: Vec<KernelTime>,
    #[serde(default)]
    work: Vec<KernelWork>,
}

#[derive(Deserialize)]
struct Spread {
    median: f64,
}

#[derive(Deserialize)]
struct KernelTime {
    kernel: String,
    milliseconds: f64,
}

#[derive(Deserialize)]
struct KernelWork {
    kernel: String,
    launches: usize,
    phases: serde_json::Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULTS: &str = r#"{
      "protocol": {},
      "provenance": { "device": "NVIDIA X", "date": "2026-01-02T03:04:05Z" },
      "subjects": [{
        "name": "a", "model": "m", "plan": "auto", "storage": "bf16",
        "measurements": [
          { "shape": { "batch": 2, "time": 3 }, "launches": 3, "milliseconds": { "median": 0.03, "runs": 5 },
            "kernels": [{ "kernel": "p", "milliseconds": 0.01, "launches": 2 }],
            "work": [
              { "kernel": "p", "launches": 2, "phases": [[{ "blocks": 4, "threads": 64, "reads": [], "moved_bytes": 1e3, "trips": 1 }]] },
              { "kernel": "q", "launches": 1, "phases": [] }] },
          { "shape": { "batch": 2, "time": 3 }, "launches": 3, "milliseconds": { "median": 0.03 }, "kernels": [] }
        ]
      }]
    }"#;

    #[test]
    fn results_are_read_and_those_without_work_are_counted() {
        let mut records = Records::default();
        records.add(Path::new("x.json"), RESULTS).expect("results");
        assert_eq!((records.list.len(), records.skipped), (1, 1));
        let record = &records.list[0];
        assert_eq!(record.device, "NVIDIA X");
        assert_eq!(record.run, "auto bf16 B2 T3");
        assert_eq!(record.date, "2026-01-02");
        let measured: Vec<Option<f64>> = record.kernels.iter().map(|k| k.measured_us).collect();
        assert_eq!(measured, [Some(10.0), None]);
        let phases = record.kernels[0].phases.as_ref().expect("known terms");
        assert_eq!(phases[0][0].moved_bytes, 1e3);
    }

    #[test]
    fn work_in_terms_of_an_earlier_template_is_left_to_its_time() {
        let known =
            "{ \"blocks\": 4, \"threads\": 64, \"reads\": [], \"moved_bytes\": 1e3, \"trips\": 1 }";
        let other = "{ \"folds\": 1 }";
        let of_p = RESULTS.replace(known, other);
        let of_q = RESULTS.replace("\"phases\": []", &format!("\"phases\": [[{other}]]"));
        let mut records = Records::default();
        records.add(Path::new("x.json"), &of_p).expect("results");
        assert_eq!(records.list[0].kernels[0].phases, None);
        // What was not timed either leaves nothing of its run.
        let mut records = Records::default();
        records.add(Path::new("x.json"), &of_q).expect("results");
        assert_eq!((records.list.len(), records.skipped), (0, 2));
    }

    #[test]
    fn something_else_is_refused_with_its_place() {
        let mut records = Records::default();
        let error = records
            .add(Path::new("x.json"), "{ \"a\": 1 }")
            .expect_err("no results");
        assert!(error.to_string().contains("x.json"), "{error}");
    }
}
