//! The results: a table for people, JSON for records.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fusec_fuse::Storage;
use fusec_runtime::bench::{Check, Measurement, Protocol, Provenance};
use serde::Serialize;

use crate::failure::{self, Failure};
use crate::place;
use crate::table::{Align, Table, bytes, count, microseconds, percent};

/// All results of one run of the program.
#[derive(Serialize)]
pub struct Report {
    /// How it was measured.
    pub protocol: Protocol,
    /// On what, by what, when.
    pub provenance: Provenance,
    /// What was measured.
    pub subjects: Vec<SubjectReport>,
}

/// The results of one subject.
#[derive(Serialize)]
pub struct SubjectReport {
    /// What the table calls it.
    pub name: String,
    /// The model.
    pub model: String,
    /// What it was made with; none where that was not reached.
    pub config: Option<Config>,
    /// How its kernels were chosen.
    pub plan: Option<String>,
    /// Numbers in all parameters of the model.
    pub parameters: usize,
    /// Storage type of its kernels; none for the interpreter.
    pub storage: Option<Storage>,
    /// Where the weights are from.
    pub weights: String,
    /// Version of the assembler, part of NVRTC, that made the cubins.
    pub assembler: Vec<String>,
    /// The source hash of each kernel.
    pub kernels: BTreeMap<String, String>,
    /// A short run against the f64 interpreter, if one was asked for.
    pub check: Option<Check>,
    /// One per shape.
    pub measurements: Vec<Measurement>,
    /// Why there are not as many as asked for.
    pub error: Option<String>,
}

/// What a subject was made with: enough to make it again.
#[derive(Debug, Default, Serialize)]
pub struct Config {
    /// The model text or checkpoint, as it was given; none for a compiled directory.
    pub text: Option<PathBuf>,
    /// Its preset.
    pub preset: Option<String>,
    /// Axes that were given another size: `AXIS=SIZE`.
    pub chosen: Vec<String>,
    /// Settings that were given another value: `SETTING=VALUE`.
    pub settings: Vec<String>,
    /// Whether `all` logits were computed or those of the `last` token.
    pub logits: Option<String>,
    /// The share of zeros of a relu that was expected, if any was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zeros: Option<f64>,
    /// Whether it is a training step.
    pub training: bool,
    /// The device profile that was planned with.
    pub profile: String,
    /// The sizes of all axes.
    pub axes: BTreeMap<String, usize>,
}

impl Report {
    /// Writes it to a file.
    pub fn save(&self, path: &Path) -> Result<(), Failure> {
        let mut text = serde_json::to_vec_pretty(self).map_err(failure::input)?;
        text.push(b'\n');
        place::write(path, &text)
    }

    /// The tables.
    pub fn text(&self) -> String {
        let mut out = match &self.provenance.gpu {
            Some(gpu) => format!("cuda:{} {}", gpu.ordinal, gpu.name),
            None => "on the CPU: the interpreter is timed, no kernels are run".into(),
        };
        let Protocol {
            warmups,
            runs,
            flush_l2,
            ..
        } = self.protocol;
        let cache = match flush_l2 {
            true => "the L2 cache overwritten before each",
            false => "back to back",
        };
        out.push_str(&format!(
            "\n{warmups} warm-ups, at most {runs} timed runs, {cache}\n"
        ));
        out.push_str(&self.runs());
        for subject in &self.subjects {
            for measured in &subject.measurements {
                out.push_str(&kernels(subject, measured));
            }
            if let Some(check) = &subject.check {
                out.push_str(&format!(
                    "{}: {} against the f64 interpreter: relative L2 error {:.2e} of `{}`, accepted {:.2e}\n",
                    subject.name,
                    if check.passed { "right" } else { "WRONG" },
                    check.error,
                    check.output,
                    check.accepted,
                ));
            }
            if let Some(error) = &subject.error {
                out.push_str(&format!("{}: FAILED: {error}\n", subject.name));
            }
        }
        out
    }

    fn runs(&self) -> String {
        let mut table = Table::new([
            ("", Align::Left),
            ("run", Align::Left),
            ("type", Align::Left),
            ("launches", Align::Right),
            ("median", Align::Right),
            ("p10", Align::Right),
            ("p90", Align::Right),
            ("tokens/s", Align::Right),
            ("peak", Align::Right),
            ("of memory speed", Align::Right),
            ("predicted", Align::Right),
            ("pred./meas.", Align::Right),
        ]);
        for subject in &self.subjects {
            for measured in &subject.measurements {
                let ms = measured.milliseconds;
                let ratio = measured.predicted_ms.map(|predicted| predicted / ms.median);
                table.row([
                    subject.name.clone(),
                    format!("B{} T{}", measured.shape.batch, measured.shape.time),
                    or_dash(subject.storage, |storage| storage.to_string()),
                    measured.launches.to_string(),
                    microseconds(ms.median * 1e3),
                    microseconds(ms.p10 * 1e3),
                    microseconds(ms.p90 * 1e3),
                    count(measured.tokens_per_second),
                    or_dash(measured.peak_bytes, |peak| bytes(peak as f64)),
                    or_dash(measured.memory_fraction, percent),
                    or_dash(measured.predicted_ms, |ms| microseconds(ms * 1e3)),
                    or_dash(ratio, |ratio| format!("{ratio:.2}")),
                ]);
            }
        }
        table.text()
    }
}

/// The kernels of one measurement; nothing if none were timed.
fn kernels(subject: &SubjectReport, measured: &Measurement) -> String {
    if measured.kernels.is_empty() {
        return String::new();
    }
    let mut table = Table::new([
        ("kernel", Align::Left),
        ("launches", Align::Right),
        ("each", Align::Right),
        ("all", Align::Right),
        ("of memory speed", Align::Right),
        ("predicted", Align::Right),
        ("pred./meas.", Align::Right),
    ]);
    for kernel in &measured.kernels {
        let us = kernel.milliseconds * 1e3;
        table.row([
            kernel.kernel.clone(),
            kernel.launches.to_string(),
            microseconds(us),
            microseconds(us * kernel.launches as f64),
            or_dash(kernel.memory_fraction, percent),
            or_dash(kernel.predicted_ms, |ms| microseconds(ms * 1e3)),
            or_dash(kernel.ratio, |ratio| format!("{ratio:.2}")),
        ]);
    }
    let shape = measured.shape;
    format!(
        "\n{} B{} T{}\n{}",
        subject.name,
        shape.batch,
        shape.time,
        table.text()
    )
}

fn or_dash<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".into(), text)
}
