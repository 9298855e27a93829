//! The pieces of a step: recurrences and statements, each after those that it reads.

use super::partition::{Partition, Place};
use super::readers;
use crate::{Graph, Recurrence, RecurrenceId, StepAccess, StepInput, StepOp, StepRef};
use std::collections::{BTreeMap, BTreeSet};

/// A step in pieces.
#[derive(Clone, Debug)]
pub(super) struct Pieces {
    /// In an order in which every one comes after those that it reads.
    pub parts: Vec<Part>,
}

/// A piece.
#[derive(Clone, Debug)]
pub(super) enum Part {
    /// A recurrence of its own.
    Component(Box<Component>),
    /// A statement of the step, an operation of its own.
    Statement(usize),
}

/// A component as a recurrence. Items are those of the whole step.
#[derive(Clone, Debug)]
pub(super) struct Component {
    /// What it is called beside others of the step.
    pub name: String,
    /// The states of the step that are this one's, in order.
    pub states: Vec<usize>,
    /// What each formal input stands for.
    pub inputs: Vec<StepRef>,
    /// What each output is; none is twice.
    pub outputs: Vec<StepRef>,
    /// The definition.
    pub recurrence: Recurrence,
    /// Its number in the graph.
    pub id: RecurrenceId,
}

impl Pieces {
    /// The pieces of a step; `None` if it is one.
    pub fn of(graph: &Graph, step: &Recurrence) -> Option<Pieces> {
        let partition = Partition::of(graph, step);
        let outside = |place: &Place| *place == Place::Outside;
        let wanted = wanted(step, &partition);
        let built = |of: usize| Builder::new(step, &partition, of).build(&wanted);
        if partition.components.len() < 2
            && !partition.places.iter().any(outside)
            && !(0..partition.components.len()).any(|of| readers::are_several(graph, &built(of)))
        {
            return None;
        }
        let mut parts: Vec<Part> = Vec::new();
        let mut written = vec![false; step.ops.len()];
        let mut there: BTreeSet<usize> = BTreeSet::new();
        for of in 0..=partition.components.len() {
            for (i, done) in written.iter_mut().enumerate() {
                let ready = partition.depends[i].is_subset(&there);
                let last = of == partition.components.len();
                if !*done && partition.places[i] == Place::Outside && (ready || last) {
                    *done = true;
                    parts.push(Part::Statement(i));
                }
            }
            if let Some(states) = partition.components.get(of) {
                let components = readers::apart(graph, step, built(of));
                parts.extend(components.into_iter().map(|c| Part::Component(Box::new(c))));
                there.extend(states);
            }
        }
        Some(Pieces { parts })
    }

    /// The same, with its recurrences added to those of a graph.
    pub fn numbered(mut self, recurrences: &mut Vec<Recurrence>) -> Self {
        for part in &mut self.parts {
            if let Part::Component(component) = part {
                let known = recurrences.iter().position(|r| *r == component.recurrence);
                component.id = RecurrenceId(known.unwrap_or_else(|| {
                    recurrences.push(component.recurrence.clone());
                    recurrences.len() - 1
                }) as u32);
            }
        }
        self
    }
}

/// The items of components that are read outside of them.
fn wanted(step: &Recurrence, partition: &Partition) -> BTreeSet<StepRef> {
    let mut wanted: BTreeSet<StepRef> = BTreeSet::new();
    let mut note = |item: StepRef, reader: Option<usize>| {
        if let Some(of) = partition.inside(item)
            && reader != Some(of)
        {
            wanted.insert(item);
        }
    };
    for (i, op) in step.ops.iter().enumerate() {
        for access in &op.inputs {
            note(access.item, partition.inside(StepRef::Op(i)));
        }
    }
    step.outputs.iter().for_each(|item| note(*item, None));
    wanted
}

/// A component under construction.
struct Builder<'a> {
    step: &'a Recurrence,
    partition: &'a Partition,
    of: usize,
    inputs: Vec<StepRef>,
    ops: Vec<StepOp>,
    /// Where statements of the step are among `ops`.
    at: BTreeMap<usize, usize>,
}

impl<'a> Builder<'a> {
    fn new(step: &'a Recurrence, partition: &'a Partition, of: usize) -> Self {
        Builder {
            step,
            partition,
            of,
            inputs: vec![],
            ops: vec![],
            at: BTreeMap::new(),
        }
    }

    fn build(mut self, wanted: &BTreeSet<StepRef>) -> Component {
        let step = self.step;
        let states = self.partition.components[self.of].clone();
        for i in 0..step.ops.len() {
            if self.partition.places[i] == Place::Inside(self.of) {
                self.item(StepRef::Op(i));
            }
        }
        let next: Vec<StepRef> = states.iter().map(|s| self.item(step.next[*s])).collect();
        let is_mine = |item: &&StepRef| self.partition.inside(**item) == Some(self.of);
        let outputs: Vec<StepRef> = wanted.iter().filter(is_mine).copied().collect();
        let returned = outputs.iter().map(|item| self.item(*item)).collect();
        let names: Vec<&str> = states
            .iter()
            .map(|s| step.states[*s].name.as_str())
            .collect();
        let formals: Vec<StepInput> = self
            .inputs
            .iter()
            .map(|item| StepInput {
                name: name(step, *item).to_owned(),
                axes: step.axes_of(*item).to_vec(),
            })
            .collect();
        Component {
            name: names.join("_"),
            recurrence: Recurrence {
                name: format!("{}.{}", step.name, names.join("_")),
                direction: step.direction,
                inputs: formals,
                states: states.iter().map(|s| step.states[*s].clone()).collect(),
                ops: self.ops,
                next,
                outputs: returned,
            },
            states,
            inputs: self.inputs,
            outputs,
            id: RecurrenceId(0),
        }
    }

    /// An item of the step as one of the component.
    fn item(&mut self, item: StepRef) -> StepRef {
        let mine = self.partition.inside(item) == Some(self.of);
        match item {
            StepRef::State(s) if mine => {
                let states = &self.partition.components[self.of];
                StepRef::State(states.iter().position(|of| *of == s).unwrap_or(0))
            }
            StepRef::Op(i) if mine || self.partition.places[i] == Place::Copied => {
                if let Some(at) = self.at.get(&i) {
                    return StepRef::Op(*at);
                }
                let op = &self.step.ops[i];
                let inputs = op.inputs.iter().map(|access| StepAccess {
                    item: self.item(access.item),
                    axes: access.axes.clone(),
                });
                let inputs = inputs.collect();
                self.ops.push(StepOp {
                    inputs,
                    ..op.clone()
                });
                self.at.insert(i, self.ops.len() - 1);
                StepRef::Op(self.ops.len() - 1)
            }
            item => {
                let known = self.inputs.iter().position(|of| *of == item);
                StepRef::Input(known.unwrap_or_else(|| {
                    self.inputs.push(item);
                    self.inputs.len() - 1
                }))
            }
        }
    }
}

/// The name of an item of a step.
pub(super) fn name(step: &Recurrence, item: StepRef) -> &str {
    match item {
        StepRef::Input(i) => &step.inputs[i].name,
        StepRef::State(i) => &step.states[i].name,
        StepRef::Op(i) => &step.ops[i].name,
    }
}
