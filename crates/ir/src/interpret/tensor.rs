//! What goes into a run, comes out of it, and is carried to the next.

use super::error::InterpretError;
use super::real::Real;
use crate::{Graph, StateId, StateKind, ValueId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Parameters in [`crate::ParamId`] order, each row-major over the axes of its value.
pub type Params<F> = Vec<Vec<F>>;

/// An input of a run, `[B, T, axes...]` (or `[axes...]` for an input without rows), row-major.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a, F> {
    /// Token ids.
    Ids(&'a [i32]),
    /// Numbers.
    Numbers(&'a [F]),
}

/// The elements of a value, shared so that keeping one costs nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Tensor<F> {
    /// Token ids.
    Ids(Arc<Vec<i32>>),
    /// Numbers.
    Numbers(Arc<Vec<F>>),
}

impl<F> Tensor<F> {
    /// The numbers, unless these are token ids.
    pub fn numbers(&self) -> Option<&[F]> {
        match self {
            Tensor::Numbers(x) => Some(x),
            Tensor::Ids(_) => None,
        }
    }

    /// How many there are.
    #[allow(clippy::len_without_is_empty, reason = "no value is empty")]
    pub fn len(&self) -> usize {
        match self {
            Tensor::Ids(x) => x.len(),
            Tensor::Numbers(x) => x.len(),
        }
    }

    /// The token ids, unless these are numbers.
    pub fn ids(&self) -> Option<&[i32]> {
        match self {
            Tensor::Ids(x) => Some(x),
            Tensor::Numbers(_) => None,
        }
    }
}

/// What a run hands back.
#[derive(Clone, Debug, PartialEq)]
pub struct Outputs<F> {
    /// Batch rows.
    pub batch: usize,
    /// Positions.
    pub time: usize,
    /// The graph's outputs, or every value with rows ([`super::Keep::All`]):
    /// `[B, T, axes...]`, row-major.
    pub values: BTreeMap<ValueId, Tensor<F>>,
}

/// Everything carried from one run to the next.
#[derive(Clone, Debug, PartialEq)]
pub struct State<F> {
    /// Batch rows.
    pub batch: usize,
    /// Position of the next token: how many were seen.
    pub position: i64,
    /// Per [`StateId`], `[B, elements]`: a scan's `[axes...]`, a tail's `[width, axes...]`.
    pub buffers: Vec<Vec<F>>,
}

impl<F: Real> State<F> {
    /// The state before the first token.
    pub fn zero(graph: &Graph, batch: usize) -> Self {
        let buffers = (0..graph.states.len()).map(|i| {
            let id = StateId(i as u32);
            let start = match graph.state(id).kind {
                StateKind::Scan { init } => init,
                StateKind::Tail { .. } => 0.0,
            };
            vec![F::from_f64(start); batch * graph.state_elements(id)]
        });
        State {
            batch,
            position: 0,
            buffers: buffers.collect(),
        }
    }

    /// Checks that this is a state of `graph` for `batch` rows.
    pub(super) fn check(&self, graph: &Graph, batch: usize) -> Result<(), InterpretError> {
        if self.batch != batch {
            return Err(InterpretError::StateBatch {
                got: self.batch,
                want: batch,
            });
        }
        if self.buffers.len() != graph.states.len() {
            return Err(InterpretError::StateCount {
                got: self.buffers.len(),
                want: graph.states.len(),
            });
        }
        for (i, buffer) in self.buffers.iter().enumerate() {
            let id = StateId(i as u32);
            let want = batch.saturating_mul(graph.state_elements(id));
            if buffer.len() != want {
                let state = graph.state(id);
                let mut shape = vec![format!("B={batch}")];
                if let StateKind::Tail { width, .. } = state.kind {
                    shape.push(format!("{width}"));
                }
                shape.extend(axes_text(graph, &state.axes));
                return Err(InterpretError::Elements {
                    what: "state",
                    name: state.name.clone(),
                    shape: format!("[{}]", shape.join(", ")),
                    got: buffer.len(),
                    want,
                });
            }
        }
        Ok(())
    }
}

fn axes_text(graph: &Graph, axes: &[crate::AxisId]) -> Vec<String> {
    axes.iter()
        .map(|a| format!("{}={}", graph.axis_name(*a), graph.size(*a)))
        .collect()
}

/// The shape of a value for people: `[B=2, T=37, H=4, N=16]`.
pub(super) fn shape_text(graph: &Graph, id: ValueId, batch: usize, time: usize) -> String {
    let value = graph.value(id);
    let mut shape = Vec::new();
    if value.rows {
        shape.push(format!("B={batch}"));
        shape.push(format!("T={time}"));
    }
    shape.extend(axes_text(graph, &value.axes));
    format!("[{}]", shape.join(", "))
}
