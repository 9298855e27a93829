//! Two values: together or apart, and the price of the contrary.

use super::diff::{self, Change};
use super::ground::{Ground, Joint};
use super::name::{computed, resolve};
use super::why::{home, value_names};
use super::{ExplainError, Reason, op_names};
use crate::board::nanoseconds;
use crate::context::Context;
use crate::error::PlanError;
use crate::forms;
use crate::planner::{Options, Planned, plan};
use crate::print::{interior, template};
use crate::segment::{Segment, segments};
use fusec_ir::{Graph, OpId, Pin, PinKind};
use serde::Serialize;
use std::collections::BTreeSet;

/// The answer about two values.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// The first value.
    pub a: String,
    /// The second.
    pub b: String,
    /// The layers that the answer is for; empty outside the layers.
    pub layers: Vec<u32>,
    /// The answer.
    pub answer: Answer,
    /// How good the selection is that prices are taken from.
    pub claim: String,
}

/// Together or apart, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum Answer {
    /// One kernel computes both.
    Together {
        /// The kernel.
        kernel: At,
        /// What keeping them apart would cost.
        apart: Price,
    },
    /// Two kernels compute them, though one could.
    Dearer {
        /// The kernel of the first.
        a: At,
        /// The kernel of the second.
        b: At,
        /// The smallest legal group with both.
        group: Vec<String>,
        /// What one kernel would cost.
        together: Price,
    },
    /// No kernel can compute both.
    Illegal {
        /// The kernel of the first.
        a: At,
        /// The kernel of the second.
        b: At,
        /// The rule.
        reason: Reason,
        /// The smallest group with both.
        group: Vec<String>,
        /// Whether no larger group was left to examine.
        complete: bool,
    },
    /// They are planned separately.
    Elsewhere {
        /// The layers of the first; `None` is outside the layers.
        a: Vec<Option<u32>>,
        /// The layers of the second.
        b: Vec<Option<u32>>,
    },
    /// The form that was chosen does not compute one of them.
    Folded {
        /// Which.
        values: Vec<String>,
        /// The rules of that form.
        rules: Vec<String>,
        /// What one kernel for both would cost, in the cheapest form that computes them.
        together: Price,
    },
}

/// A kernel of the plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct At {
    /// Its name.
    pub kernel: String,
    /// Its templates.
    pub template: String,
    /// Its predicted microseconds.
    pub us: f64,
    /// How many operations it computes.
    pub ops: usize,
}

/// The result of planning again with one more wish.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Price {
    /// There is such a plan.
    Plan {
        /// Predicted time of the chosen plan, microseconds.
        from_us: f64,
        /// Predicted time of the plan with the wish.
        to_us: f64,
        /// Launches of both.
        launches: (usize, usize),
        /// Forms of the new plan, where they are others.
        forms: Option<Vec<String>>,
        /// What changes in the layers that the answer is for, swaps of equals left out.
        changes: Vec<Change>,
        /// Launches of what changes beside that, in all layers.
        elsewhere: (usize, usize),
    },
    /// There is none.
    Refused {
        /// Why.
        why: String,
    },
}

/// Explains why `graph`, planned as `planned` with `options`, has two values in one kernel or
/// in two. Names are those of values, or their unambiguous last parts.
pub fn pair(
    graph: &Graph,
    planned: &Planned,
    options: &Options<'_>,
    a: &str,
    b: &str,
) -> Result<Pair, ExplainError> {
    let ctx = options.context(&planned.graph);
    let written = forms::canonical(graph);
    let of_written = computed(&options.context(&written));
    let of_form = computed(&ctx);
    let all: BTreeSet<String> = of_written.union(&of_form).cloned().collect();
    let a = resolve(&all, &written, a)?;
    let b = resolve(&all, &written, b)?;
    if a == b {
        return Err(ExplainError::Same(a));
    }
    // Names that only the chosen form has mean nothing to the others.
    let in_written = of_written.contains(&a) && of_written.contains(&b);
    let asked = Asked {
        ctx: &ctx,
        graph: if in_written { graph } else { &planned.graph },
        planned,
        options,
        a: &a,
        b: &b,
    };
    let folded: Vec<String> = [&a, &b]
        .into_iter()
        .filter(|name| !of_form.contains(*name))
        .cloned()
        .collect();
    let (layers, answer) = if folded.is_empty() {
        asked.answer()?
    } else {
        let pin = asked.pin(PinKind::Fuse, vec![a.clone(), b.clone()]);
        let answer = Answer::Folded {
            values: folded,
            rules: planned.plan.forms.clone(),
            together: asked.price(pin, None)?,
        };
        (vec![], answer)
    };
    Ok(Pair {
        layers,
        answer,
        claim: planned.plan.claim.clone(),
        a,
        b,
    })
}

/// A question.
struct Asked<'a> {
    ctx: &'a Context<'a>,
    /// What is planned again.
    graph: &'a Graph,
    planned: &'a Planned,
    options: &'a Options<'a>,
    a: &'a str,
    b: &'a str,
}

impl Asked<'_> {
    fn answer(&self) -> Result<(Vec<u32>, Answer), ExplainError> {
        let segments = segments(self.ctx);
        let Some((segment, a, b)) = self.common(&segments) else {
            let answer = Answer::Elsewhere {
                a: self.layers_of(&segments, self.a),
                b: self.layers_of(&segments, self.b),
            };
            return Ok((vec![], answer));
        };
        let equal = segments.iter().filter(|s| s.class == segment.class);
        let layers: Vec<u32> = equal.filter_map(|s| s.layer).collect();
        let (Some(at_a), Some(at_b)) = (self.at(a), self.at(b)) else {
            // Every planned operation is in a kernel.
            return Err(PlanError::Selection("an operation is in no kernel".into()).into());
        };
        let names = vec![self.a.to_string(), self.b.to_string()];
        if at_a.0 == at_b.0 {
            let pin = self.pin(PinKind::Split, names);
            let answer = Answer::Together {
                kernel: at_a.1,
                apart: self.price(pin, segment.layer)?,
            };
            return Ok((layers, answer));
        }
        let ground = Ground::new(self.ctx, &segment.ops);
        let (Some(i), Some(j)) = (ground.at(a), ground.at(b)) else {
            return Err(PlanError::Selection("an operation is in no segment".into()).into());
        };
        let answer = match ground.joint(i, j) {
            Joint::Illegal {
                group,
                reject,
                complete,
            } => Answer::Illegal {
                a: at_a.1,
                b: at_b.1,
                reason: Reason::new(self.ctx, reject),
                group: op_names(self.ctx, &group),
                complete,
            },
            Joint::Legal(group) => {
                let pin = self.pin(PinKind::Fuse, value_names(self.ctx, &group));
                Answer::Dearer {
                    a: at_a.1,
                    b: at_b.1,
                    group: op_names(self.ctx, &group),
                    together: self.price(pin, segment.layer)?,
                }
            }
        };
        Ok((layers, answer))
    }

    /// The operation of a segment that makes a value.
    fn maker(&self, segment: &Segment, name: &str) -> Option<OpId> {
        let graph = self.ctx.graph;
        let makes = |id: &OpId| {
            let outputs = &graph.op(*id).outputs;
            outputs.iter().any(|v| graph.value(*v).name == name)
        };
        segment.ops.iter().copied().find(makes)
    }

    /// The segment that makes both: that of the interior layers if it does, else the first.
    fn common<'s>(&self, segments: &'s [Segment]) -> Option<(&'s Segment, OpId, OpId)> {
        let both = |s: &'s Segment| Some((s, self.maker(s, self.a)?, self.maker(s, self.b)?));
        let inner = home(segments, interior(&self.planned.plan)).and_then(both);
        inner.or_else(|| segments.iter().find_map(both))
    }

    fn layers_of(&self, segments: &[Segment], name: &str) -> Vec<Option<u32>> {
        let with = segments.iter().filter(|s| self.maker(s, name).is_some());
        with.map(|s| s.layer).collect()
    }

    fn at(&self, op: OpId) -> Option<(usize, At)> {
        let kernels = &self.planned.plan.kernels;
        let k = kernels
            .iter()
            .position(|k| k.ops.binary_search(&op).is_ok())?;
        let kernel = &kernels[k];
        let at = At {
            kernel: kernel.name.clone(),
            template: template(kernel),
            us: kernel.cost.total_us,
            ops: kernel.ops.len(),
        };
        Some((k, at))
    }

    fn pin(&self, kind: PinKind, values: Vec<String>) -> Pin {
        Pin {
            kind,
            values,
            span: None,
        }
    }

    /// Whether a change has a price or moves the two values; others swap equals.
    fn concerns(&self, change: &Change) -> bool {
        let sides = [&change.before, &change.after];
        let us = sides.map(|side| side.iter().map(|part| part.us).sum::<f64>());
        let holds = |part: &diff::Part| part.ops.iter().any(|op| op == self.a || op == self.b);
        nanoseconds(us[0] - us[1]) != 0 || change.before.iter().any(holds)
    }

    /// Plans again with one more pin. `layer` is the one whose changes are told.
    fn price(&self, pin: Pin, layer: Option<u32>) -> Result<Price, ExplainError> {
        let mut options = self.options.clone();
        options.pins.push(pin);
        let forced = match plan(self.graph, &options) {
            Ok(forced) => forced.plan,
            Err(PlanError::PinRefused { reject, .. }) => {
                return Ok(Price::Refused {
                    why: reject.to_string(),
                });
            }
            Err(error) => return Err(error.into()),
        };
        let now = &self.planned.plan;
        let changes = diff::changes(&now.kernels, &forced.kernels);
        let is_told =
            |c: &Change| layer.is_none_or(|layer| c.layers.contains(&layer)) && self.concerns(c);
        let mut told: Vec<Change> = vec![];
        let mut elsewhere = (0, 0);
        for change in changes {
            // Of a change in several layers, one is told.
            let layers = change.layers.len().max(1);
            let others = layers - usize::from(is_told(&change));
            elsewhere.0 += others * change.before.len();
            elsewhere.1 += others * change.after.len();
            told.extend(Some(change).filter(is_told));
        }
        Ok(Price::Plan {
            from_us: now.total_us,
            to_us: forced.total_us,
            launches: (now.kernels.len(), forced.kernels.len()),
            changes: told,
            elsewhere,
            forms: (now.forms != forced.forms).then_some(forced.forms),
        })
    }
}
