//! The transpose of a recurrence: another that runs from the last row to the first, and the same
//! recurrence as before that also hands out its states.
//!
//! The states before each row are kept, all of them, as far as the transposed step reads them: an
//! additional output of the recurrence, `[B, T, axes of the state]`. Keeping fewer and computing the
//! others again is a choice of whoever executes a graph.

use super::GradientError;
use super::step::{self, Operand, Transposed};
use super::transposer::{Origin, Transposer};
use crate::{
    AxisId, Def, Expr, Op, OpId, OpKind, Precision, RecurrenceId, State, StateId, StateKind,
    StepRef, ValueId,
};

/// Steps that were made, so that equal layers share them.
#[derive(Default)]
pub(super) struct Steps {
    transposed: Vec<(Key, RecurrenceId, Transposed)>,
    /// A recurrence, the states it hands out, and the recurrence that does.
    handing: Vec<(RecurrenceId, Vec<usize>, RecurrenceId)>,
    /// States of the graph, and their cotangents.
    pub states: Vec<(StateId, StateId)>,
}

/// A recurrence, its inputs that get a cotangent, its outputs that have one.
type Key = (RecurrenceId, Vec<bool>, Vec<bool>);

impl Transposer {
    /// Operation `at`, a recurrence, with the cotangents of its outputs.
    pub fn scan(
        &mut self,
        at: OpId,
        op: &Op,
        (recurrence, states): (RecurrenceId, &[StateId]),
        cotangents: &[Option<ValueId>],
    ) -> Result<(), GradientError> {
        let wanted: Vec<bool> = op.inputs.iter().map(|access| self.wants(access)).collect();
        let given: Vec<bool> = cotangents.iter().map(Option::is_some).collect();
        let (back, transposed) = self.transposed((recurrence, wanted, given));
        let before = transposed.operands.iter().filter_map(|o| match o {
            Operand::Before(k) => Some(*k),
            _ => None,
        });
        let before: Vec<usize> = before.collect();
        let kept = self.keep_states(at, op, recurrence, states, &before);
        let mut inputs = Vec::new();
        for operand in &transposed.operands {
            inputs.push(match *operand {
                Operand::Input(i) => op.inputs[i].clone(),
                Operand::Before(k) => {
                    let place = before.iter().position(|b| *b == k);
                    self.read(kept[place.expect("every state that is read was kept")])
                }
                Operand::Cotangent(o) => {
                    self.read(cotangents[o].expect("only outputs that have one are read"))
                }
            });
        }
        let origin = Origin::of(op);
        let mut own = Vec::new();
        for state in states {
            let of = self.graph.state(*state);
            let cotangent = State {
                name: format!("d.{}", of.name),
                kind: StateKind::Scan { init: 0.0 },
                ..of.clone()
            };
            let id = StateId(self.graph.states.len() as u32);
            self.graph.states.push(cotangent);
            self.steps.states.push((*state, id));
            own.push(id);
        }
        let id = OpId(self.graph.ops.len() as u32);
        let handed = transposed.recurrence.outputs.iter();
        let axes_of = |item: &StepRef| transposed.recurrence.axes_of(*item).to_vec();
        let axes: Vec<Vec<AxisId>> = handed.map(axes_of).collect();
        let mut outputs = Vec::new();
        for (k, axes) in axes.iter().enumerate() {
            let origin = Origin {
                name: format!("{}.{}", op.name, transposed.results[k]),
                ..origin.clone()
            };
            let def = Def::Op(id, k as u32);
            outputs.push(self.value(&origin, true, axes, Precision::F32, def));
        }
        if outputs.is_empty() {
            // Nothing that is wanted is reached: the states' cotangents are then of no use.
            let graph = &mut self.graph;
            graph.states.truncate(graph.states.len() - own.len());
            let list = &mut self.steps.states;
            list.truncate(list.len() - own.len());
            return Ok(());
        }
        let kind = OpKind::Scan {
            recurrence: back,
            states: own,
        };
        self.append(&origin, kind, inputs, outputs.clone());
        for ((i, value), axes) in transposed.results.iter().zip(outputs).zip(axes) {
            let access = &op.inputs[*i];
            let along = self.along(access);
            let whole = axes.iter().all(|a| along.contains(a));
            match whole && self.graph.value(access.value).rows {
                true => self.add(&origin, access, value)?,
                false => {
                    let read = [self.read(value)];
                    self.contribute(&origin, access, (Expr::Input(0), &read), &axes, true)?;
                }
            }
        }
        Ok(())
    }

    fn transposed(&mut self, key: Key) -> (RecurrenceId, Transposed) {
        if let Some((_, id, made)) = self.steps.transposed.iter().find(|(k, ..)| *k == key) {
            return (*id, made.clone());
        }
        let of = self.graph.recurrence(key.0).clone();
        let made = step::transpose(&mut self.graph.axes, &of, &key.1, &key.2);
        let id = RecurrenceId(self.graph.recurrences.len() as u32);
        self.graph.recurrences.push(made.recurrence.clone());
        self.steps.transposed.push((key, id, made.clone()));
        (id, made)
    }

    /// Makes operation `at` hand out its states before each row.
    fn keep_states(
        &mut self,
        at: OpId,
        op: &Op,
        recurrence: RecurrenceId,
        states: &[StateId],
        kept: &[usize],
    ) -> Vec<ValueId> {
        if kept.is_empty() {
            return Vec::new();
        }
        let found = self.steps.handing.iter();
        let mut found = found.filter(|(of, states, _)| *of == recurrence && states == kept);
        let handing = match found.next() {
            Some((.., id)) => *id,
            None => {
                let mut step = self.graph.recurrence(recurrence).clone();
                step.outputs.extend(kept.iter().map(|k| StepRef::State(*k)));
                let id = RecurrenceId(self.graph.recurrences.len() as u32);
                self.graph.recurrences.push(step);
                self.steps.handing.push((recurrence, kept.to_vec(), id));
                id
            }
        };
        let first = op.outputs.len();
        let mut values = Vec::new();
        for (i, k) in kept.iter().enumerate() {
            let axes = self.graph.state(states[*k]).axes.clone();
            let name = self.graph.recurrence(recurrence).states[*k].name.clone();
            let def = Def::Op(at, (first + i) as u32);
            let origin = Origin::of(op);
            let value = self.value(&origin, true, &axes, Precision::F32, def);
            self.graph.values[value.index()].name = format!("{}.{name}.before", op.name);
            values.push(value);
        }
        let own = &mut self.graph.ops[at.index()];
        own.outputs.extend(&values);
        if let OpKind::Scan { recurrence, .. } = &mut own.kind {
            *recurrence = handing;
        }
        values
    }
}
