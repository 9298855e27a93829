//! Recurrences: user-written step equations over carried states.
//!
//! A [`Recurrence`] is concrete: its axes are the model's atoms, so one written
//! definition used with two shapes gives two of them. Nothing here knows a
//! recurrence by name; what class it belongs to is found by analysis.

use crate::{AxisId, Combine, Expr, Places};
use serde::{Deserialize, Serialize};

/// One step of a recurrence: `(states, inputs at t) -> (states', outputs at t)`.
///
/// The step is a straight-line program of [`StepOp`]s, evaluated in order for
/// each batch row and each t in the order of `direction`. States are f32 and start at
/// their `init` unless carried in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recurrence {
    /// Name of its definition in the model text (for people, never for decisions).
    pub name: String,
    /// What a step reads beside the states.
    pub inputs: Vec<StepInput>,
    /// What is carried from step to step.
    pub states: Vec<StepState>,
    /// The statements, in order; each may read inputs, states *before* the step and earlier statements.
    pub ops: Vec<StepOp>,
    /// For each state, the value it has after the step (axes equal to the state's).
    pub next: Vec<StepRef>,
    /// What the step returns; `axes` of the outputs are those of the referenced items.
    pub outputs: Vec<StepRef>,
    /// Which row comes first.
    #[serde(default, skip_serializing_if = "Direction::is_forward")]
    pub direction: Direction,
}

/// The order in which a recurrence visits the rows of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Increasing t: what a model text says.
    #[default]
    Forward,
    /// Decreasing t: what the transpose of a recurrence is. Its states start at the last row of
    /// a run and are never carried to another.
    Reverse,
}

impl Direction {
    /// Whether rows come in increasing order.
    pub fn is_forward(&self) -> bool {
        *self == Direction::Forward
    }
}

/// A formal input of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepInput {
    /// Formal name.
    pub name: String,
    /// Axes, in storage order of the formal (the argument is read through an [`crate::Access`]).
    pub axes: Vec<AxisId>,
}

/// A carried state, `[B, axes...]`, f32.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepState {
    /// Name in the definition.
    pub name: String,
    /// Axes, in storage order.
    pub axes: Vec<AxisId>,
    /// Value of every element before the first token; may be infinite.
    #[serde(with = "initial")]
    pub init: f64,
    /// Whether what it is after a run is carried to the next one. Otherwise another recurrence of the same
    /// state keeps it, which runs after this one; this one takes it up as it was before the run.
    #[serde(default = "kept", skip_serializing_if = "is_kept")]
    pub kept: bool,
}

fn kept() -> bool {
    true
}

fn is_kept(kept: &bool) -> bool {
    *kept
}

/// What a step statement may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepRef {
    /// `inputs[.0]` at this t.
    Input(usize),
    /// `states[.0]` before the step.
    State(usize),
    /// The result of `ops[.0]`.
    Op(usize),
}

/// A read inside a step: the item, and for each of its axes the axis of the
/// reading statement that indexes it (equal to the item's own axes unless renamed).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepAccess {
    /// What is read.
    pub item: StepRef,
    /// One index variable per axis of the item.
    pub axes: Vec<AxisId>,
}

/// What a step statement does with its expression.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// Evaluates it at every point of the statement's axes.
    Map,
    /// Combines it over extra axes: `out[axes] = combine over reduce of expr[axes, reduce]`.
    Reduce {
        /// How.
        combine: Combine,
        /// Over which axes (disjoint from the statement's own).
        axes: Vec<AxisId>,
    },
}

/// A statement of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepOp {
    /// Name on its left-hand side, or a derived one.
    pub name: String,
    /// Axes of the result, in order.
    pub axes: Vec<AxisId>,
    /// Map or reduction.
    pub kind: StepKind,
    /// The scalar expression; `Input(i)` is `inputs[i]`.
    pub expr: Expr,
    /// What the expression reads.
    pub inputs: Vec<StepAccess>,
    /// Where it stands in the model text. Part of no comparison and of no file.
    #[serde(skip)]
    pub places: Places,
}

impl Recurrence {
    /// The axes of an item of the step.
    pub fn axes_of(&self, item: StepRef) -> &[AxisId] {
        match item {
            StepRef::Input(i) => &self.inputs[i].axes,
            StepRef::State(i) => &self.states[i].axes,
            StepRef::Op(i) => &self.ops[i].axes,
        }
    }

    /// The same recurrence with some of its outputs, and with the statements that these and the states need.
    pub fn with_outputs(&self, outputs: &[usize]) -> Recurrence {
        let outputs: Vec<StepRef> = outputs.iter().map(|o| self.outputs[*o]).collect();
        let mut needed = vec![false; self.ops.len()];
        let mark = |needed: &mut Vec<bool>, item: StepRef| {
            if let StepRef::Op(i) = item {
                needed[i] = true;
            }
        };
        let ends = self.next.iter().chain(&outputs);
        ends.for_each(|item| mark(&mut needed, *item));
        for i in (0..self.ops.len()).rev() {
            if needed[i] {
                let reads = self.ops[i].inputs.iter();
                reads.for_each(|access| mark(&mut needed, access.item));
            }
        }
        let mut places: Vec<usize> = Vec::with_capacity(self.ops.len());
        let mut ops: Vec<StepOp> = Vec::new();
        let moved = |item: StepRef, places: &[usize]| match item {
            StepRef::Op(i) => StepRef::Op(places[i]),
            item => item,
        };
        for (op, needed) in self.ops.iter().zip(&needed) {
            places.push(ops.len());
            if *needed {
                let inputs = op.inputs.iter().map(|access| StepAccess {
                    item: moved(access.item, &places),
                    axes: access.axes.clone(),
                });
                let inputs = inputs.collect();
                ops.push(StepOp {
                    inputs,
                    ..op.clone()
                });
            }
        }
        let all = |items: &[StepRef]| items.iter().map(|item| moved(*item, &places)).collect();
        Recurrence {
            next: all(&self.next),
            outputs: all(&outputs),
            ops,
            ..self.clone()
        }
    }

    /// Leaves out the inputs that nothing reads. Returns the numbers of those that stay, in order.
    pub fn drop_unused_inputs(&mut self) -> Vec<usize> {
        let mut used = vec![false; self.inputs.len()];
        let reads = self.ops.iter().flat_map(|op| &op.inputs);
        let items = reads.map(|access| &access.item);
        for item in items.chain(&self.next).chain(&self.outputs) {
            if let StepRef::Input(i) = item {
                used[*i] = true;
            }
        }
        let stay: Vec<usize> = (0..used.len()).filter(|i| used[*i]).collect();
        let moved = |item: &mut StepRef| {
            if let StepRef::Input(i) = item {
                *i = used.iter().take(*i).filter(|used| **used).count();
            }
        };
        let reads = self.ops.iter_mut().flat_map(|op| &mut op.inputs);
        let items = reads.map(|access| &mut access.item);
        let ends = self.next.iter_mut().chain(&mut self.outputs);
        items.chain(ends).for_each(moved);
        self.inputs = stay.iter().map(|i| self.inputs[*i].clone()).collect();
        stay
    }
}

/// Initial values in files: JSON has no infinite numbers, so they are words there.
pub(crate) mod initial {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(f64),
        Infinite(Infinite),
    }

    #[derive(Serialize, Deserialize)]
    enum Infinite {
        #[serde(rename = "inf")]
        Above,
        #[serde(rename = "-inf")]
        Below,
    }

    pub fn serialize<S: Serializer>(init: &f64, to: S) -> Result<S::Ok, S::Error> {
        let written = match *init {
            f64::INFINITY => Written::Infinite(Infinite::Above),
            f64::NEG_INFINITY => Written::Infinite(Infinite::Below),
            number => Written::Number(number),
        };
        written.serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        Ok(match Written::deserialize(from)? {
            Written::Number(number) => number,
            Written::Infinite(Infinite::Above) => f64::INFINITY,
            Written::Infinite(Infinite::Below) => f64::NEG_INFINITY,
        })
    }
}
