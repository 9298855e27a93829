//! Classes as sentences.

use super::{Class, Classified, Layout, Read};
use crate::{AxisId, Graph, Recurrence, StepRef};
use std::fmt::Write;

impl Classified {
    /// One sentence per state: how it is brought up to date and how it is read, or why it has no
    /// class.
    pub fn sentences(&self, graph: &Graph, step: &Recurrence) -> Vec<String> {
        let states = self.states.iter().zip(&step.states);
        states
            .map(|(class, state)| self.sentence(graph, step, class, &state.name))
            .collect()
    }

    fn sentence(&self, graph: &Graph, step: &Recurrence, class: &Class, name: &str) -> String {
        let axes = |item: StepRef| self.axes_of(step, item);
        let mut out = match class {
            Class::General { why } => return format!("{why}"),
            Class::Elementwise { decay, add, .. } => {
                let kept = match self.number(*decay) {
                    Some(1.0) => format!("{name} is kept"),
                    Some(c) => format!("{name} is multiplied by {c}"),
                    None => {
                        let names = names(graph, axes(*decay));
                        format!("{name} is multiplied by a decay{}", over(&names))
                    }
                };
                match self.number(*add) {
                    Some(0.0) => kept,
                    _ => format!("{kept} and a term is added, element by element"),
                }
            }
            Class::DiagonalOuter { layout, decay, .. } => {
                let kept = self.kept(step, name, layout, *decay);
                match layout.value.is_empty() {
                    true => format!("{kept} and a key is added"),
                    false => format!("{kept} and a key-value outer product is added"),
                }
            }
            Class::DiagonalRankOne { layout, decay, .. } => {
                let kept = self.kept(step, name, layout, *decay);
                format!(
                    "{kept}, corrected by a rank-one matrix along the key, and a key-value outer \
                     product is added"
                )
            }
            Class::Extremal { extreme, .. } => {
                let which = match extreme {
                    super::Extreme::Max => "larger",
                    super::Extreme::Min => "smaller",
                };
                format!(
                    "{name} becomes the {which} of itself plus a term and another term, element by element"
                )
            }
            Class::DiagonalLowRank {
                layout, updates, ..
            } => {
                let decays = updates.iter().map(|update| update.decay);
                let mut decays = decays.filter(|decay| self.number(*decay) != Some(1.0));
                let first = updates.first().map(|update| update.decay);
                let kept = match decays.next().or(first) {
                    Some(decay) => self.kept(step, name, layout, decay),
                    None => format!("{name} is kept"),
                };
                let factors = updates.iter().filter(|update| update.factor.is_some());
                let corrected = match factors.count() {
                    0 => String::new(),
                    1 => ", corrected by a rank-one matrix along the key".into(),
                    n => format!(", corrected by {n} rank-one matrices along the key"),
                };
                format!(
                    "{kept}{corrected}, and key-value outer products are added, in {} updates a token",
                    updates.len()
                )
            }
        };
        for read in class.reads() {
            // Writing to a String cannot fail.
            let _ = write!(out, "; {}", said(graph, read));
        }
        out
    }

    fn kept(&self, step: &Recurrence, name: &str, layout: &Layout, decay: StepRef) -> String {
        if let Some(c) = self.number(decay) {
            return match c {
                1.0 => format!("{name} is kept"),
                c => format!("{name} is multiplied by {c}"),
            };
        }
        let axes = self.axes_of(step, decay);
        let per = if axes.iter().any(|a| layout.key.contains(a)) {
            " per key channel"
        } else if axes.iter().any(|a| layout.heads.contains(a)) {
            " per head"
        } else {
            ""
        };
        format!("{name} is multiplied by a decay{per}")
    }

    /// Axes of a coefficient.
    fn axes_of<'a>(&'a self, step: &'a Recurrence, item: StepRef) -> &'a [AxisId] {
        match item {
            StepRef::Input(i) => step.inputs.get(i).map_or(&[], |i| &i.axes),
            _ => self.statement(item).map_or(&[], |op| &op.axes),
        }
    }

    /// The number that a coefficient is, if it is one.
    pub fn number(&self, coefficient: StepRef) -> Option<f64> {
        match &self.statement(coefficient)?.expr {
            crate::Expr::Const(c) => Some(*c),
            crate::Expr::Unary(crate::Unary::Neg, inner) => match inner.as_ref() {
                crate::Expr::Const(c) => Some(-c),
                _ => None,
            },
            _ => None,
        }
    }
}

fn names(graph: &Graph, axes: &[AxisId]) -> String {
    let names: Vec<&str> = axes.iter().map(|a| graph.axis_name(*a)).collect();
    names.join(", ")
}

fn over(names: &str) -> String {
    match names {
        "" => String::new(),
        names => format!(" over [{names}]"),
    }
}

fn said(graph: &Graph, read: &Read) -> String {
    let when = match read.before {
        true => "read before the update",
        false => "read after the update",
    };
    let how = match names(graph, &read.over).as_str() {
        "" => String::new(),
        names => format!(", summed over [{names}]"),
    };
    let bonus = match read.bonus {
        Some(_) => ", with a bonus on the current token",
        None => "",
    };
    format!("{when}{how}{bonus}")
}
