//! A sweep over T and B: what the tables, the CSV and the plots of it say.

use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use fusec_fuse::Shape;
use fusec_report::plot::{Line, Plot};
use fusec_runtime::plan_dir::write_whole;
use serde::Serialize;

use super::beside::Timed;
use super::recorded::Recorded;
use crate::failure::Failure;
use crate::place;
use crate::table::{Align, Table, bytes, count, microseconds, percent};

/// The lengths of the mission's protocol.
pub const USUAL: &str = "256,512,1024,2048,4096";

/// The file of the table.
const TABLE: &str = "sweep.csv";

/// Numbers of tokens or of sequences, growing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts(pub Vec<usize>);

impl FromStr for Counts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let counts: Result<Vec<usize>, String> = text
            .split(',')
            .map(|one| match one.trim().parse() {
                Ok(0) | Err(_) => Err(format!("`{one}` is no number from 1 on")),
                Ok(count) => Ok(count),
            })
            .collect();
        let mut counts = counts?;
        counts.sort_unstable();
        counts.dedup();
        Ok(Counts(counts))
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<String> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&counts.join(","))
    }
}

/// One thing that was timed at one shape.
#[derive(Serialize)]
pub struct Row {
    /// What is timed, and how.
    name: String,
    model: String,
    /// How its kernels were chosen, or what else computes it.
    plan: Option<String>,
    storage: String,
    preset: Option<String>,
    /// Numbers in all parameters of the model.
    parameters: Option<usize>,
    shape: Shape,
    tokens_per_second: f64,
    /// Milliseconds: the median, a tenth below, a tenth above.
    times: [f64; 3],
    runs: usize,
    peak_bytes: Option<f64>,
    /// The fewest bytes that the run moves over its time, of the memory's bandwidth.
    memory_fraction: Option<f64>,
    /// How many times faster than the plan without fusion at the same shape.
    speed_up: Option<f64>,
    /// Of what somebody else computes: how many times faster the planner's choice is at the same shape.
    ahead: Option<f64>,
    /// Mean cross-entropy of the next token, nats.
    loss: Option<f64>,
    /// By how much it is above that of the plan without fusion.
    loss_delta: Option<f64>,
    sm_mhz: Option<u32>,
    memory_mhz: Option<u32>,
}

impl Row {
    fn kb_per_token(&self) -> Option<f64> {
        let tokens = (self.shape.batch * self.shape.time) as f64;
        self.peak_bytes.map(|peak| peak / 1e3 / tokens)
    }

    /// Tokens a second for each parameter of the model.
    fn per_parameter(&self) -> Option<f64> {
        let parameters = self.parameters.filter(|n| *n > 0)?;
        Some(self.tokens_per_second / parameters as f64)
    }
}

/// What was timed here, and of the others what computes the same models at the same shapes.
pub fn rows(report: &Recorded, others: &[Timed]) -> Vec<Row> {
    let mut rows = Vec::new();
    for subject in &report.subjects {
        for measured in &subject.measurements {
            let ms = measured.milliseconds;
            let clocks = measured.clocks.as_ref();
            rows.push(Row {
                name: subject.name.clone(),
                model: subject.model.clone(),
                plan: subject.plan.clone(),
                storage: subject.storage.clone().unwrap_or_default(),
                preset: subject.config.as_ref().and_then(|of| of.preset.clone()),
                parameters: subject.parameters,
                shape: measured.shape,
                tokens_per_second: measured.tokens_per_second,
                times: [ms.median, ms.p10, ms.p90],
                runs: ms.runs,
                peak_bytes: measured.peak_bytes,
                memory_fraction: measured.memory_fraction,
                speed_up: None,
                ahead: None,
                loss: measured.loss,
                loss_delta: None,
                sm_mhz: clocks.map(|clocks| clocks.sm_mhz),
                memory_mhz: clocks.map(|clocks| clocks.memory_mhz),
            });
        }
    }
    let mut theirs = Vec::new();
    for other in others {
        let Some(measured) = other.measured else {
            continue;
        };
        let shape = Shape {
            batch: other.batch,
            time: other.time,
        };
        let Some(own) = at(&rows, &other.model, shape, None) else {
            continue;
        };
        let ms = measured.milliseconds;
        let chosen = at(&rows, &other.model, shape, Some("auto"));
        theirs.push(Row {
            name: format!("{} {}", other.model, other.way),
            model: other.model.clone(),
            plan: Some(other.way.clone()),
            storage: other.dtype.clone(),
            preset: own.preset.clone(),
            parameters: own.parameters,
            shape,
            tokens_per_second: measured.tokens_per_second,
            times: [ms.median, ms.p10, ms.p90],
            runs: ms.runs,
            peak_bytes: measured.peak_bytes,
            memory_fraction: None,
            speed_up: None,
            ahead: chosen.map(|chosen| ms.median / chosen.times[0]),
            loss: None,
            loss_delta: None,
            sm_mhz: None,
            memory_mhz: None,
        });
    }
    rows.extend(theirs);
    let beside_unfused = |of: &Row| {
        let unfused = at(&rows, &of.model, of.shape, Some("unfused"));
        let speed_up = unfused.map(|unfused| unfused.times[0] / of.times[0]);
        let delta = unfused.and_then(|unfused| Some(of.loss? - unfused.loss?));
        (speed_up, delta)
    };
    let found: Vec<_> = rows.iter().map(beside_unfused).collect();
    for (row, (speed_up, loss_delta)) in rows.iter_mut().zip(found) {
        row.speed_up = speed_up;
        row.loss_delta = loss_delta;
    }
    rows
}

/// The first row of a model at a shape, with kernels chosen in a certain way if one is named.
fn at<'r>(rows: &'r [Row], model: &str, shape: Shape, plan: Option<&str>) -> Option<&'r Row> {
    let same = |row: &&Row| row.model == model && row.shape == shape;
    let way = |row: &&Row| plan.is_none() || row.plan.as_deref() == plan;
    rows.iter().find(|row| same(row) && way(row))
}

/// The table of a sweep.
pub fn text(report: &Recorded, others: &[Timed]) -> String {
    let mut table = Table::new([
        ("", Align::Left),
        ("B", Align::Right),
        ("T", Align::Right),
        ("tokens/s", Align::Right),
        ("a parameter", Align::Right),
        ("median", Align::Right),
        ("p10", Align::Right),
        ("p90", Align::Right),
        ("peak", Align::Right),
        ("peak a token", Align::Right),
        ("of memory speed", Align::Right),
        ("of unfused", Align::Right),
        ("loss delta", Align::Right),
    ]);
    for row in rows(report, others) {
        let [median, p10, p90] = row.times;
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        table.row([
            row.name.clone(),
            row.shape.batch.to_string(),
            row.shape.time.to_string(),
            count(row.tokens_per_second),
            or_dash(row.per_parameter().map(|of| match of {
                of if of < 0.01 => format!("{of:.1e}"),
                of => format!("{of:.3}"),
            })),
            microseconds(median * 1e3),
            microseconds(p10 * 1e3),
            microseconds(p90 * 1e3),
            or_dash(row.peak_bytes.map(bytes)),
            or_dash(row.kb_per_token().map(|kb| bytes(kb * 1e3))),
            or_dash(row.memory_fraction.map(percent)),
            or_dash(row.speed_up.map(|times| format!("{times:.2} x"))),
            or_dash(row.loss_delta.map(|delta| format!("{delta:+.1e}"))),
        ]);
    }
    format!(
        "\nsweep over T and B\n{}peak a token: peak memory, weights included, over the tokens of a run; of \
         memory speed: weights, inputs\nand outputs once, states read and written, over the time; of \
         unfused: how many times faster than\none kernel per operation; loss delta: cross-entropy of the next token above \
         that, nats\n",
        table.text()
    )
}

/// The same as comma-separated values, with what they were taken on in every line.
fn csv(report: &Recorded, others: &[Timed]) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let mut out = String::from(
        "subject,model,preset,plan,storage,device,driver,commit,date,sm_mhz,memory_mhz,warmups,runs,batch,time,\
         parameters,tokens_per_second,tokens_per_second_per_parameter,median_ms,p10_ms,p90_ms,peak_bytes,\
         kb_per_token,memory_fraction,speed_up,loss,loss_delta\n",
    );
    let number = |x: Option<f64>| x.map_or(String::new(), |x| format!("{x}"));
    let provenance = &report.provenance;
    for row in rows(report, others) {
        let [median, p10, p90] = row.times;
        let cells = [
            quoted(&row.name),
            quoted(&row.model),
            row.preset.clone().unwrap_or_default(),
            row.plan.clone().unwrap_or_default(),
            row.storage.clone(),
            quoted(&provenance.device),
            quoted(provenance.driver.as_deref().unwrap_or_default()),
            quoted(&provenance.commit),
            provenance.date.clone(),
            number(row.sm_mhz.map(f64::from)),
            number(row.memory_mhz.map(f64::from)),
            report.protocol.warmups.to_string(),
            row.runs.to_string(),
            row.shape.batch.to_string(),
            row.shape.time.to_string(),
            number(row.parameters.map(|n| n as f64)),
            number(Some(row.tokens_per_second)),
            number(row.per_parameter()),
            number(Some(median)),
            number(Some(p10)),
            number(Some(p90)),
            number(row.peak_bytes),
            number(row.kb_per_token()),
            number(row.memory_fraction),
            number(row.speed_up),
            number(row.loss),
            number(row.loss_delta),
        ];
        out.push_str(&cells.join(","));
        out.push('\n');
    }
    out
}

/// What goes to the right in a plot.
#[derive(Clone, Copy, PartialEq)]
enum Over {
    Time,
    Batch,
}

impl Over {
    /// A shape's place to the right, and what stays the same along a line.
    fn split(self, shape: Shape) -> (usize, usize) {
        match self {
            Over::Time => (shape.time, shape.batch),
            Over::Batch => (shape.batch, shape.time),
        }
    }

    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Over::Time => ("T, tokens of a sequence", "B", ""),
            Over::Batch => ("B, sequences", "T", "-over-batch"),
        }
    }
}

/// A figure that is drawn: the file and the title of its plot, what goes up, and where it is from.
type Drawn = (
    &'static str,
    &'static str,
    &'static str,
    fn(&Row) -> Option<f64>,
);

const DRAWN: [Drawn; 5] = [
    ("throughput", "Throughput", "tokens a second", |row| {
        Some(row.tokens_per_second)
    }),
    (
        "memory-speed",
        "Share of the memory's speed",
        "percent",
        |row| row.memory_fraction.map(|of| of * 100.0),
    ),
    (
        "speed-up",
        "Speed-up by fusion",
        "times as fast as unfused",
        |row| row.speed_up,
    ),
    (
        "over-others",
        "Speed-up over others",
        "their time over that of the chosen plan",
        |row| row.ahead,
    ),
    ("peak-memory", "Peak memory", "MB", |row| {
        row.peak_bytes.map(|peak| peak / 1e6)
    }),
];

/// The plots by the names of their files, over T, and over B where there are several. What was measured for
/// nothing is not drawn.
fn plots(report: &Recorded, others: &[Timed]) -> Vec<(String, Plot)> {
    let rows = rows(report, others);
    let device = &report.provenance.device;
    let mut out = Vec::new();
    for over in [Over::Time, Over::Batch] {
        let (x, kept, suffix) = over.words();
        let mut places: Vec<(usize, usize)> =
            rows.iter().map(|row| over.split(row.shape)).collect();
        places.sort_unstable_by_key(|(_, same)| *same);
        places.dedup_by_key(|(_, same)| *same);
        // Where it is the same for all lines the title says it.
        let one = places.len() == 1;
        let several = |row: &Row| {
            rows.iter()
                .any(|of| over.split(of.shape).0 != over.split(row.shape).0)
        };
        // Of steps at several numbers of sequences, there is one length only.
        let others = rows.iter().any(|of| of.shape.batch != rows[0].shape.batch);
        let one_place = !rows.iter().any(several);
        if one_place && (over == Over::Batch || others) {
            continue;
        }
        for (file, title, y, figure) in DRAWN {
            let mut lines: Vec<Line> = Vec::new();
            for row in &rows {
                let Some(value) = figure(row) else { continue };
                let (at, same) = over.split(row.shape);
                let name = match one {
                    true => row.name.clone(),
                    false => format!("{}, {kept}={same}", row.name),
                };
                let point = (at as f64, value);
                match lines.iter_mut().find(|line| line.name == name) {
                    Some(line) => line.points.push(point),
                    None => lines.push(Line {
                        name,
                        points: vec![point],
                    }),
                }
            }
            for line in &mut lines {
                line.points.sort_by(|a, b| a.0.total_cmp(&b.0));
            }
            let title = match places.first() {
                Some((_, same)) if one => format!("{title}, {device}, {kept}={same}"),
                _ => format!("{title}, {device}"),
            };
            if !lines.is_empty() {
                let plot = Plot {
                    title,
                    x: x.into(),
                    y: y.into(),
                    lines,
                };
                out.push((format!("{file}{suffix}.svg"), plot));
            }
        }
    }
    out
}

/// Writes the plots, and the table as `sweep.csv`, into a directory.
pub fn save(report: &Recorded, others: &[Timed], dir: &Path) -> Result<(), Failure> {
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(dir)?;
        write_whole(&dir.join(TABLE), csv(report, others).as_bytes())?;
        for (name, plot) in plots(report, others) {
            write_whole(&dir.join(name), plot.svg().as_bytes())?;
        }
        Ok(())
    };
    write().map_err(|error| place::unwritable(dir, &error))
}

/// Makes the directory of plots before anything is timed, and tries whether files can be written there.
pub fn check(dir: &Path) -> Result<(), Failure> {
    fs::create_dir_all(dir).map_err(|error| place::unwritable(dir, &error))?;
    place::check(&dir.join(TABLE), [])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_sorted_and_each_is_taken_once() {
        assert_eq!("64, 16,64".parse(), Ok(Counts(vec![16, 64])));
        assert!("16,0".parse::<Counts>().is_err());
        assert!("16,x".parse::<Counts>().is_err());
        assert!(USUAL.parse::<Counts>().is_ok());
    }
}
