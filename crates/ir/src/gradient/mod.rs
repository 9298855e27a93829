//! Reverse-mode differentiation of a graph into a graph.
//!
//! [`differentiate`] appends to a graph the operations that compute, from a cotangent for each of some
//! of its values, the derivatives by its parameters, its number inputs and the states that it starts
//! from. What is differentiated is the scalar `sum of cotangent * value`, over all of these values.
//!
//! One file transposes each kind of operation; `expression` holds the derivatives of scalar functions
//! and the conventions where there is none; `step` transposes what a recurrence does at one row
//! (`spread`: which of its sums are left to others).
//! Nothing here knows a model or a recurrence by name, and nothing here chooses what is kept in memory.
//!
//! Rows become parameters in two parts. The transposed graph ends in *sums*: contributions to values
//! without rows, summed over B and T. What follows from them, through the operations that the graph
//! evaluates at load, is a graph of its own ([`Gradient::load`]), evaluated once after any number of
//! runs: it is linear in the sums.
//!
//! Rows carried in from an earlier run, in the tails of delayed reads and of attention, are constants:
//! the derivative is that of one segment. States of recurrences that were carried in get a cotangent.

mod attend;
mod check;
mod contract;
mod evaluate;
mod expression;
mod load;
mod lookup;
mod norm;
mod objective;
mod pointwise;
mod scan;
mod spread;
mod step;
mod transposer;

pub use check::{CheckError, Checked, GradientReport, Place, check, checked_graph};
pub use evaluate::{Backward, Differentiated};
pub use load::{Given, Load};
pub use objective::{Objective, WholeObjective};

use crate::{Def, Graph, OpId, OpKind, Precision, StateId, Value, ValueId};
use std::collections::BTreeMap;
use thiserror::Error;
use transposer::{Contribution, Inverse, Transposer};

/// A graph with its transpose.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// The graph that was differentiated, its values, states and inputs under their own ids, and after
    /// its operations the transposed ones. Its outputs are the graph's own, then `sums`, then the
    /// cotangents of number inputs.
    pub graph: Graph,
    /// How many operations are the graph's own.
    pub forward: usize,
    /// The values that are given a cotangent, and the input that is it.
    pub seeds: Vec<(ValueId, ValueId)>,
    /// Values without rows: what each read of a parameter, or of what follows from parameters,
    /// contributes to its cotangent.
    pub sums: Vec<ValueId>,
    /// From the sums to the derivatives by the parameters.
    pub load: Load,
    /// Number inputs that were asked for, and their cotangents.
    pub inputs: BTreeMap<ValueId, ValueId>,
    /// States of recurrences, and the state that holds the cotangent of its value before the first
    /// row once a run has ended.
    pub states: Vec<(StateId, StateId)>,
}

/// Why a graph has no derivative here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GradientError {
    /// A cotangent was asked for something that has none.
    #[error("`{name}` has no derivative: {why}")]
    NotDifferentiable {
        /// The value.
        name: String,
        /// What it is.
        why: &'static str,
    },
    /// An operation reads rows that come later; the rows before the first would have to be carried
    /// from a run that has not been.
    #[error("`{op}` reads {rows} rows ahead: only graphs that look back are differentiated")]
    LookAhead {
        /// The operation.
        op: String,
        /// How far.
        rows: u32,
    },
    /// A lookup in a table that differs from row to row.
    #[error(
        "`{op}` looks up in `{table}`, which is another at every row: only tables of parameters are differentiated"
    )]
    TableWithRows {
        /// The operation.
        op: String,
        /// The table.
        table: String,
    },
    /// A lookup whose ids differ along an axis that the table's entries do not have.
    #[error(
        "`{op}` looks up another id along an axis that its table lacks; that is not differentiated"
    )]
    LookupPerAxis {
        /// The operation.
        op: String,
    },
    /// An output that was asked for its last row only.
    #[error(
        "`{op}` keeps one row of each sequence: differentiate the model with all rows, and give cotangents of zero elsewhere"
    )]
    LastRow {
        /// The operation.
        op: String,
    },
    /// A recurrence that runs backwards already.
    #[error(
        "`{op}` runs from the last row to the first: only recurrences that run forward are differentiated"
    )]
    Backwards {
        /// The operation.
        op: String,
    },
}

/// Differentiates `sum of cotangent * value` over the values `of`, by all parameters, by the number
/// inputs `by`, and by the states of recurrences. Each value of `of` gets an input for its cotangent,
/// of its own shape.
pub fn differentiate(
    graph: &Graph,
    of: &[ValueId],
    by: &[ValueId],
) -> Result<Gradient, GradientError> {
    for id in of.iter().chain(by) {
        let value = graph.value(*id);
        let why = match value.precision {
            Precision::Index => "it is token ids",
            _ if !value.rows => "it is the same in every run",
            _ => continue,
        };
        return Err(GradientError::NotDifferentiable {
            name: value.name.clone(),
            why,
        });
    }
    let mut with = graph.clone();
    let mut seeds = Vec::new();
    for id in of {
        let value = graph.value(*id);
        let seed = ValueId(with.values.len() as u32);
        with.values.push(Value {
            name: format!("d.{}", value.name),
            def: Def::Input,
            ..value.clone()
        });
        with.inputs.push(seed);
        seeds.push((*id, seed));
    }
    Ok(Gradient {
        seeds: seeds.clone(),
        ..differentiate_from(&with, &seeds, by)?
    })
}

/// As [`differentiate`], of a graph that holds the cotangents of some of its values already.
pub(crate) fn differentiate_from(
    graph: &Graph,
    cotangents: &[(ValueId, ValueId)],
    by: &[ValueId],
) -> Result<Gradient, GradientError> {
    let mut transposer = Transposer::new(graph.clone(), wanted(graph, by));
    for (id, cotangent) in cotangents {
        let axes = &graph.value(*id).axes;
        let index = axes.iter().map(|a| crate::IndexExpr::axis(*a));
        let part = Contribution {
            value: *cotangent,
            ahead: 0,
            inverse: Inverse::Read(index.collect()),
        };
        transposer.pending.entry(*id).or_default().push(part);
    }
    for i in (0..graph.ops.len()).rev() {
        if !graph.is_load_time(OpId(i as u32)) {
            transposer.operation(OpId(i as u32))?;
        }
    }
    let mut inputs = BTreeMap::new();
    for id in by {
        if let Some(cotangent) = transposer.cotangent(*id) {
            inputs.insert(*id, cotangent);
        }
    }
    let states = std::mem::take(&mut transposer.steps.states);
    let pending = std::mem::take(&mut transposer.pending);
    let mut whole = transposer.graph;
    let without_rows = pending.into_iter().filter(|(id, _)| !graph.value(*id).rows);
    let parts: Vec<(ValueId, Contribution)> = without_rows
        .flat_map(|(id, list)| list.into_iter().map(move |part| (id, part)))
        .collect();
    let mut sums: Vec<ValueId> = Vec::new();
    for (_, part) in &parts {
        if !sums.contains(&part.value) {
            sums.push(part.value);
        }
    }
    let load = Load::new(graph, &whole, &sums, parts)?;
    for id in sums.iter().chain(inputs.values()) {
        if !whole.outputs.contains(id) {
            whole.outputs.push(*id);
        }
    }
    Ok(Gradient {
        graph: whole,
        forward: graph.ops.len(),
        seeds: Vec::new(),
        sums,
        load,
        inputs,
        states,
    })
}

/// Which values depend on a parameter, on one of the inputs, or on the state of a recurrence.
fn wanted(graph: &Graph, by: &[ValueId]) -> Vec<bool> {
    let mut wanted: Vec<bool> = graph
        .values
        .iter()
        .map(|value| matches!(value.def, Def::Param(_)))
        .collect();
    for id in by {
        wanted[id.index()] = true;
    }
    for op in &graph.ops {
        let carries = matches!(op.kind, OpKind::Scan { .. });
        if carries || op.inputs.iter().any(|a| wanted[a.value.index()]) {
            for id in &op.outputs {
                wanted[id.index()] = true;
            }
        }
    }
    wanted
}

impl Transposer {
    /// Transposes an operation, if a result of it has a cotangent.
    fn operation(&mut self, at: OpId) -> Result<(), GradientError> {
        let op = self.graph.op(at).clone();
        let cotangents: Vec<Option<ValueId>> =
            op.outputs.iter().map(|id| self.cotangent(*id)).collect();
        if let OpKind::Scan { recurrence, states } = &op.kind {
            return match cotangents.iter().any(Option::is_some) {
                true if !self.graph.recurrence(*recurrence).direction.is_forward() => {
                    Err(GradientError::Backwards { op: op.name })
                }
                true => self.scan(at, &op, (*recurrence, states), &cotangents),
                false => Ok(()),
            };
        }
        let Some(Some(cotangent)) = cotangents.first().copied() else {
            return Ok(());
        };
        match &op.kind {
            OpKind::Map { expr } => self.map(&op, expr, cotangent),
            OpKind::Reduce {
                expr,
                combine,
                axes,
            } => self.reduce(&op, (expr, *combine, axes), cotangent),
            OpKind::Norm {
                kind,
                axes,
                eps,
                gain,
                bias,
            } => {
                let norm = norm::Norm {
                    kind: *kind,
                    axes,
                    eps: *eps,
                    gain: *gain,
                    bias: *bias,
                };
                self.norm(&op, norm, cotangent)
            }
            OpKind::Contract { axes } => self.contraction(&op, axes, cotangent),
            OpKind::Gather => self.gather(&op, cotangent),
            OpKind::Attend {
                axes,
                window,
                scale,
            } => self.attention(&op, (axes, *window, *scale), cotangent),
            OpKind::CumSum { axis } => self.cumulative_sum(&op, *axis, cotangent),
            OpKind::Scatter { axes, index } => self.placed(&op, (axes, index), cotangent),
            OpKind::ScatterRows | OpKind::AttendBack { .. } => {
                Err(GradientError::Backwards { op: op.name })
            }
            OpKind::LastRow => Err(GradientError::LastRow { op: op.name }),
            OpKind::Scan { .. } => Ok(()),
        }
    }
}
