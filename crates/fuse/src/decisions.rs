//! What the planner looked at before it decided.

use crate::planner::RuleUse;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

/// What a form must save, as a part of the total, to take the place of one with fewer rules:
/// less than this is less than the cost model knows, and every rule moves rounding errors.
pub(crate) const FORM_MARGIN: f64 = 0.005;

/// What was examined, beside what was chosen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Decisions {
    /// Launches of the model as written with one kernel per operation: for each run of
    /// operations of one layer (or of none), in order.
    pub unfused: Vec<(Option<u32>, usize)>,
    /// One entry per class of equal segments.
    pub segments: Vec<Segment>,
    /// The forms of the model that were planned, the chosen one among them.
    pub forms: Vec<Form>,
    /// Why the search for forms ended.
    pub stop: String,
}

/// A class of equal segments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Layers it stands for; empty for a segment outside the layers.
    pub layers: Vec<u32>,
    /// Operations: the launches of the unfused plan.
    pub operations: usize,
    /// Kernels chosen.
    pub kernels: usize,
    /// Legal groups examined.
    pub legal: usize,
    /// Illegal groups examined, by rule.
    pub rejected: BTreeMap<String, usize>,
    /// Whether all legal groups were examined.
    pub complete: bool,
}

/// A form that was planned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Form {
    /// Global rules applied, each with the values it concerns; empty for the model as written.
    pub rules: Vec<String>,
    /// The same for a recipe: which rules in which blocks, of forms that were searched for.
    #[serde(skip)]
    pub uses: Vec<RuleUse>,
    /// Predicted time of its plan, microseconds.
    pub total_us: f64,
    /// Whether the plan is of exact selection; a form that promises nothing is planned greedily.
    pub exact: bool,
    /// Whether it was chosen.
    pub chosen: bool,
}

impl Form {
    /// What became of a form among others, in words.
    pub fn verdict(&self, all: &[Form]) -> String {
        let how = match self.exact {
            true => "",
            false => " when planned greedily",
        };
        match all.iter().find(|form| form.chosen) {
            _ if self.chosen => "chosen".into(),
            Some(chosen) if self.total_us < chosen.total_us => {
                let least = FORM_MARGIN * 100.0;
                format!("passed over (saves less than {least} %{how})")
            }
            _ => format!("dearer{how}"),
        }
    }
}

impl Segment {
    /// The groups that were examined, in words.
    fn examined(&self) -> String {
        let illegal: usize = self.rejected.values().sum();
        let mut text = format!("{} legal groups, {illegal} illegal", self.legal);
        let mut rules: Vec<_> = self.rejected.iter().collect();
        rules.sort_by_key(|(rule, n)| (std::cmp::Reverse(**n), rule.as_str()));
        for (i, (rule, n)) in rules.into_iter().take(4).enumerate() {
            // Writing to a string cannot fail.
            let _ = write!(text, "{} {rule} {n}", if i == 0 { ":" } else { "," });
        }
        text
    }
}

impl Decisions {
    /// Launches of the unfused plan of the model as written.
    pub fn unfused_launches(&self) -> usize {
        self.unfused.iter().map(|(_, n)| n).sum()
    }

    /// Those of a layer, or of everything outside the layers.
    pub fn unfused_launches_of(&self, layer: Option<u32>) -> usize {
        let runs = self.unfused.iter().filter(|(of, _)| *of == layer);
        runs.map(|(_, n)| n).sum()
    }
}

impl fmt::Display for Decisions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Classes of layers that were examined alike are told in one line.
        let mut told: Vec<(String, Vec<&Segment>)> = vec![];
        for segment in &self.segments {
            let text = segment.examined();
            let alike = told.iter_mut().find(|(of, with)| {
                *of == text
                    && with
                        .iter()
                        .all(|s| s.layers.is_empty() == segment.layers.is_empty())
            });
            match alike {
                Some((_, with)) if !segment.layers.is_empty() => with.push(segment),
                _ => told.push((text, vec![segment])),
            }
        }
        for (text, segments) in told {
            let layers: Vec<u32> = segments.iter().flat_map(|s| &s.layers).copied().collect();
            match (&layers[..], segments.len()) {
                ([], _) => write!(f, "examined outside the layers: ")?,
                ([one], _) => write!(f, "examined for layer {one}: ")?,
                ([first, .., last], 1) => write!(f, "examined for layers {first}..{last}: ")?,
                (_, n) => write!(
                    f,
                    "examined for each of {n} kinds of layers ({} layers): ",
                    layers.len()
                )?,
            }
            writeln!(f, "{text}")?;
        }
        for form in &self.forms {
            let what = if form.rules.is_empty() {
                "as written".to_string()
            } else {
                form.rules.join(", ")
            };
            let verdict = form.verdict(&self.forms);
            writeln!(f, "form {verdict}: {:.1} us, {what}", form.total_us)?;
        }
        if !self.stop.is_empty() {
            writeln!(f, "search for forms: {}", self.stop)?;
        }
        Ok(())
    }
}
