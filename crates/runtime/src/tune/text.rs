//! The record for people: what was predicted, what was measured, which won.

use super::{Candidate, Outcome, Tuned, TunedRegime};
use fusec_ir::language::readable;
use std::fmt;

/// Longest text of a record in a line, bytes: records come from files.
const LINE: usize = 400;

impl fmt::Display for Tuned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.head())?;
        self.regimes
            .iter()
            .try_for_each(|regime| write!(f, "{regime}"))
    }
}

impl Tuned {
    /// What is said of all regimes, and one of them.
    pub fn text_of(&self, regime: &TunedRegime) -> String {
        format!("{}{regime}", self.head())
    }

    fn head(&self) -> String {
        let machine = &self.machine;
        format!(
            "measured on {}, {}, {}: plans predicted to take at most {:.0} % more than the least, {} of them at most\n",
            readable(&machine.device, LINE),
            readable(machine.driver.as_deref().unwrap_or("driver unknown"), LINE),
            readable(&machine.date, LINE),
            self.within * 100.0,
            self.most,
        )
    }
}

impl fmt::Display for TunedRegime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = match self.left_out {
            0 => String::new(),
            n => format!(", {n} more were within the share and not timed"),
        };
        writeln!(
            f,
            "{}, B={} T={}: {} plans timed{left}",
            readable(&self.name, LINE),
            self.shape.batch,
            self.shape.time,
            self.candidates.len(),
        )?;
        writeln!(f, "       measured    predicted  ratio")?;
        for (at, candidate) in self.candidates.iter().enumerate() {
            let mark = if at == self.chosen { '*' } else { ' ' };
            let predicted = milliseconds(candidate.predicted_us / 1e3);
            let (measured, ratio) = match candidate.median_ms() {
                Some(ms) => (
                    milliseconds(ms),
                    format!("{:.2}", candidate.predicted_us / 1e3 / ms),
                ),
                None => ("failed".into(), "-".into()),
            };
            writeln!(
                f,
                "{mark} {at:2} {measured:>11} {predicted:>12} {ratio:>6}  {}",
                told(candidate)
            )?;
        }
        Ok(())
    }
}

fn told(candidate: &Candidate) -> String {
    let mut text = match candidate.on {
        Some(on) => format!("{on} with {}", candidate.what),
        None => candidate.what.clone(),
    };
    if let Outcome::Failed(why) = &candidate.outcome {
        text.push_str(&format!(": {why}"));
    }
    readable(&text, LINE)
}

fn milliseconds(ms: f64) -> String {
    match ms {
        ms if ms >= 100.0 => format!("{ms:.1} ms"),
        ms if ms >= 1.0 => format!("{ms:.3} ms"),
        ms => format!("{:.2} us", ms * 1e3),
    }
}
