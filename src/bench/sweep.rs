//! A sweep over T: what the tables, the CSV and the plots of it say.

use std::fs;
use std::path::Path;
use std::str::FromStr;

use fusec_report::plot::{Line, Plot};
use fusec_runtime::bench::Measurement;
use fusec_runtime::plan_dir::write_whole;

use super::report::{Report, SubjectReport};
use crate::failure::Failure;
use crate::place;
use crate::table::{Align, Table, bytes, count, microseconds};

/// The lengths of the mission's protocol.
pub const USUAL: &str = "256,512,1024,2048,4096";

/// The file of the table.
const TABLE: &str = "sweep.csv";

/// Lengths of run, growing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lengths(pub Vec<usize>);

impl FromStr for Lengths {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lengths: Result<Vec<usize>, String> = text
            .split(',')
            .map(|one| match one.trim().parse() {
                Ok(0) | Err(_) => Err(format!("`{one}` is no number of tokens")),
                Ok(length) => Ok(length),
            })
            .collect();
        let mut lengths = lengths?;
        lengths.sort_unstable();
        lengths.dedup();
        Ok(Lengths(lengths))
    }
}

/// One thing that was timed at one length.
struct Row<'a> {
    /// What is timed, without the plan: what is compared with each other.
    subject: &'a SubjectReport,
    measured: &'a Measurement,
    /// How many times faster than the plan without fusion at the same shape.
    speed_up: Option<f64>,
}

impl Row<'_> {
    fn tokens(&self) -> f64 {
        (self.measured.shape.batch * self.measured.shape.time) as f64
    }

    fn kb_per_token(&self) -> Option<f64> {
        self.measured
            .peak_bytes
            .map(|peak| peak as f64 / 1e3 / self.tokens())
    }

    /// Tokens a second for each parameter of the model.
    fn per_parameter(&self) -> f64 {
        self.measured.tokens_per_second / self.subject.parameters.max(1) as f64
    }
}

fn rows(report: &Report) -> Vec<Row<'_>> {
    let unfused = |of: &SubjectReport, measured: &Measurement| {
        let same = |other: &&SubjectReport| {
            other.model == of.model && other.plan.as_deref() == Some("unfused")
        };
        let others = report.subjects.iter().filter(same);
        let mut all = others.flat_map(|other| &other.measurements);
        let found = all.find(|other| other.shape == measured.shape)?;
        Some(found.milliseconds.median / measured.milliseconds.median)
    };
    let pairs = report.subjects.iter().flat_map(|subject| {
        let measured = subject.measurements.iter();
        measured.map(move |measured| (subject, measured))
    });
    pairs
        .map(|(subject, measured)| Row {
            subject,
            measured,
            speed_up: unfused(subject, measured),
        })
        .collect()
}

/// The table of a sweep.
pub fn text(report: &Report) -> String {
    let mut table = Table::new([
        ("", Align::Left),
        ("T", Align::Right),
        ("tokens/s", Align::Right),
        ("a parameter", Align::Right),
        ("median", Align::Right),
        ("p10", Align::Right),
        ("p90", Align::Right),
        ("peak", Align::Right),
        ("kB a token", Align::Right),
        ("of unfused", Align::Right),
    ]);
    for row in rows(report) {
        let ms = row.measured.milliseconds;
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        table.row([
            row.subject.name.clone(),
            row.measured.shape.time.to_string(),
            count(row.measured.tokens_per_second),
            format!("{:.3}", row.per_parameter()),
            microseconds(ms.median * 1e3),
            microseconds(ms.p10 * 1e3),
            microseconds(ms.p90 * 1e3),
            or_dash(row.measured.peak_bytes.map(|peak| bytes(peak as f64))),
            or_dash(row.kb_per_token().map(|kb| format!("{kb:.2}"))),
            or_dash(row.speed_up.map(|times| format!("{times:.2} x"))),
        ]);
    }
    format!(
        "\nsweep over T\n{}kB a token: peak memory, weights included, over the tokens of a run; of \
         unfused: how many times\nfaster than one kernel per operation\n",
        table.text()
    )
}

/// The same as comma-separated values, with what they were taken on in every line.
fn csv(report: &Report) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let mut out = String::from(
        "subject,model,plan,storage,device,driver,commit,date,warmups,runs,batch,time,parameters,\
         tokens_per_second,median_ms,p10_ms,p90_ms,peak_bytes,kb_per_token,speed_up\n",
    );
    let number = |x: Option<f64>| x.map_or(String::new(), |x| format!("{x}"));
    let provenance = &report.provenance;
    for row in rows(report) {
        let Measurement {
            shape,
            milliseconds: ms,
            ..
        } = row.measured;
        let cells = [
            quoted(&row.subject.name),
            quoted(&row.subject.model),
            row.subject.plan.clone().unwrap_or_default(),
            row.subject
                .storage
                .map(|storage| storage.to_string())
                .unwrap_or_default(),
            quoted(&provenance.device),
            quoted(provenance.driver.as_deref().unwrap_or_default()),
            quoted(&provenance.commit),
            provenance.date.clone(),
            report.protocol.warmups.to_string(),
            ms.runs.to_string(),
            shape.batch.to_string(),
            shape.time.to_string(),
            row.subject.parameters.to_string(),
            number(Some(row.measured.tokens_per_second)),
            number(Some(ms.median)),
            number(Some(ms.p10)),
            number(Some(ms.p90)),
            number(row.measured.peak_bytes.map(|peak| peak as f64)),
            number(row.kb_per_token()),
            number(row.speed_up),
        ];
        out.push_str(&cells.join(","));
        out.push('\n');
    }
    out
}

/// The plots by the names of their files. What was measured for nothing is not drawn.
fn plots(report: &Report) -> Vec<(&'static str, Plot)> {
    let rows = rows(report);
    let batch = rows.first().map_or(0, |row| row.measured.shape.batch);
    let device = &report.provenance.device;
    let line = |figure: &dyn Fn(&Row<'_>) -> Option<f64>| -> Vec<Line> {
        let mut lines: Vec<Line> = Vec::new();
        for row in &rows {
            let Some(y) = figure(row) else { continue };
            let point = (row.measured.shape.time as f64, y);
            match lines.iter_mut().find(|line| line.name == row.subject.name) {
                Some(line) => line.points.push(point),
                None => lines.push(Line {
                    name: row.subject.name.clone(),
                    points: vec![point],
                }),
            }
        }
        lines
    };
    let plot = |title: &str, y: &str, lines| Plot {
        title: format!("{title}, {device}, B={batch}"),
        x: "T, tokens of a sequence".into(),
        y: y.into(),
        lines,
    };
    let all = [
        (
            "throughput.svg",
            plot(
                "Throughput",
                "tokens a second",
                line(&|row| Some(row.measured.tokens_per_second)),
            ),
        ),
        (
            "speed-up.svg",
            plot(
                "Speed-up by fusion",
                "times as fast as unfused",
                line(&|row| row.speed_up),
            ),
        ),
        (
            "peak-memory.svg",
            plot(
                "Peak memory",
                "MB",
                line(&|row| row.measured.peak_bytes.map(|peak| peak as f64 / 1e6)),
            ),
        ),
    ];
    let drawn = all.into_iter().filter(|(_, plot)| !plot.lines.is_empty());
    drawn.collect()
}

/// Writes the plots, and the table as `sweep.csv`, into a directory.
pub fn save(report: &Report, dir: &Path) -> Result<(), Failure> {
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(dir)?;
        write_whole(&dir.join(TABLE), csv(report).as_bytes())?;
        for (name, plot) in plots(report) {
            write_whole(&dir.join(name), plot.svg().as_bytes())?;
        }
        Ok(())
    };
    write().map_err(|error| place::unwritable(dir, &error))
}

/// Makes the directory of plots before anything is timed, and tries whether files can be written there.
pub fn check(dir: &Path) -> Result<(), Failure> {
    fs::create_dir_all(dir).map_err(|error| place::unwritable(dir, &error))?;
    place::check(&dir.join(TABLE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_sorted_and_each_is_taken_once() {
        assert_eq!("64, 16,64".parse(), Ok(Lengths(vec![16, 64])));
        assert!("16,0".parse::<Lengths>().is_err());
        assert!("16,x".parse::<Lengths>().is_err());
        assert!(USUAL.parse::<Lengths>().is_ok());
    }
}
