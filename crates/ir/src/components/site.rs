//! A scan of a graph, written as the pieces of its step.

use super::pieces::{Component, Part, Pieces, name};
use crate::{
    Access, AxisId, Def, Graph, IndexExpr, Op, OpId, OpKind, Precision, Recurrence, StateId,
    StateKind, StepKind, StepRef, Value, ValueId,
};
use std::collections::{BTreeMap, BTreeSet};

/// A graph under construction: the one it is made from, with some scans in pieces.
pub(super) struct Writer<'g> {
    from: &'g Graph,
    /// Per value of `from`, whether anything reads it.
    is_read: Vec<bool>,
    taken: BTreeSet<(String, Option<u32>)>,
    out: Graph,
}

/// A scan that is being written.
struct Site<'a> {
    scan: &'a Op,
    step: &'a Recurrence,
    states: &'a [StateId],
    /// The values of items that are no inputs.
    values: BTreeMap<StepRef, ValueId>,
    ops: Vec<Op>,
    made: Vec<Value>,
}

impl<'g> Writer<'g> {
    pub fn new(from: &'g Graph, recurrences: Vec<Recurrence>) -> Self {
        let mut is_read: Vec<bool> = from.consumers().iter().map(|of| !of.is_empty()).collect();
        from.outputs.iter().for_each(|v| is_read[v.index()] = true);
        let taken = from.values.iter().map(|v| (v.name.clone(), v.layer));
        Writer {
            is_read,
            taken: taken.collect(),
            out: Graph {
                recurrences,
                ops: Vec::with_capacity(from.ops.len()),
                ..from.clone()
            },
            from,
        }
    }

    /// The graph, with no recurrence added if no scan is in pieces.
    pub fn finish(self) -> Graph {
        match self.out.ops.len() == self.from.ops.len() {
            true => self.from.clone(),
            false => self.out,
        }
    }

    /// Takes an operation over.
    pub fn keep(&mut self, op: &Op) {
        let id = OpId(self.out.ops.len() as u32);
        for (n, value) in op.outputs.iter().enumerate() {
            self.out.values[value.index()].def = Def::Op(id, n as u32);
        }
        self.out.ops.push(op.clone());
    }

    /// Writes a scan in pieces; whole, if one of them would be of no use.
    pub fn scan(&mut self, scan: &Op, pieces: &Pieces) {
        let (from, first) = (self.from, self.out.values.len());
        let OpKind::Scan { recurrence, states } = &scan.kind else {
            return self.keep(scan);
        };
        let mut site = Site {
            scan,
            step: from.recurrence(*recurrence),
            states,
            values: BTreeMap::new(),
            ops: vec![],
            made: vec![],
        };
        site.write(self, pieces, first);
        let is_made = |v: &ValueId| v.index() >= first;
        let mut used: BTreeSet<ValueId> = BTreeSet::new();
        for op in site.ops.iter().rev() {
            let needed = |v: &ValueId| match is_made(v) {
                true => used.contains(v),
                false => self.is_read[v.index()],
            };
            let live = op.outputs.iter().any(needed);
            if !live && matches!(op.kind, OpKind::Scan { .. }) {
                return self.keep(scan);
            }
            if live {
                used.extend(op.inputs.iter().map(|access| access.value));
            }
        }
        // A tail is brought up to date by an operation that reads what it is of.
        let mut ops = site.ops;
        for tail in &scan.tails {
            let StateKind::Tail { value, .. } = from.state(*tail).kind else {
                continue;
            };
            let reads = |op: &&mut Op| op.inputs.iter().any(|access| access.value == value);
            match ops.iter_mut().find(reads) {
                Some(op) => op.tails.push(*tail),
                None => return self.keep(scan),
            }
        }
        for value in &mut site.made {
            value.name = self.unique(&value.name, value.layer);
        }
        self.out.values.append(&mut site.made);
        ops.iter().for_each(|op| self.keep(op));
    }

    fn unique(&mut self, name: &str, layer: Option<u32>) -> String {
        let numbered = (1..).map(|n| match n {
            1 => name.to_owned(),
            n => format!("{name}#{n}"),
        });
        let mut free = numbered.filter(|name| !self.taken.contains(&(name.clone(), layer)));
        let name = free.next().unwrap_or_default();
        self.taken.insert((name.clone(), layer));
        name
    }
}

impl Site<'_> {
    fn write(&mut self, writer: &Writer<'_>, pieces: &Pieces, first: usize) {
        // Results that nobody else reads are what the scan returned; others are kept in f32.
        let mut returned: BTreeMap<StepRef, ValueId> = BTreeMap::new();
        for (item, value) in self.step.outputs.iter().zip(&self.scan.outputs) {
            if !self.is_read_inside(pieces, *item) {
                returned.entry(*item).or_insert(*value);
            }
        }
        for part in &pieces.parts {
            match part {
                Part::Component(component) => self.component(writer, component, &returned, first),
                Part::Statement(i) => self.statement(writer, *i, &returned, first),
            }
        }
        for (item, value) in self.step.outputs.iter().zip(&self.scan.outputs) {
            if returned.get(item) == Some(value) && self.values.contains_key(item) {
                continue;
            }
            let axes = self.step.axes_of(*item);
            let read = self.read(writer, *item, axes, &returned, first);
            let kind = OpKind::Map {
                expr: crate::Expr::Input(0),
            };
            self.push(
                writer.from.value(*value).name.clone(),
                kind,
                vec![read],
                vec![*value],
            );
        }
    }

    /// Whether a piece reads an item that it has not made itself.
    fn is_read_inside(&self, pieces: &Pieces, item: StepRef) -> bool {
        pieces.parts.iter().any(|part| match part {
            Part::Component(component) => component.inputs.contains(&item),
            Part::Statement(i) => self.step.ops[*i].inputs.iter().any(|a| a.item == item),
        })
    }

    /// The value that an item becomes: one of the scan's, or a new one.
    fn result(
        &mut self,
        writer: &Writer<'_>,
        item: StepRef,
        returned: &BTreeMap<StepRef, ValueId>,
        first: usize,
    ) -> ValueId {
        let value = match returned.get(&item) {
            Some(value) => *value,
            None => {
                self.made.push(Value {
                    name: self.named(writer, name(self.step, item)),
                    rows: true,
                    axes: self.step.axes_of(item).to_vec(),
                    precision: Precision::F32,
                    // Set when its operation is taken over.
                    def: Def::Input,
                    layer: self.scan.layer,
                });
                ValueId((first + self.made.len() - 1) as u32)
            }
        };
        self.values.insert(item, value);
        value
    }

    /// A name in the block of the scan, below the name of its definition.
    fn named(&self, writer: &Writer<'_>, item: &str) -> String {
        let scan = self.scan.outputs.first();
        let full = scan.map_or(self.scan.name.as_str(), |v| {
            writer.from.value(*v).name.as_str()
        });
        below(full, &self.step.name, item)
    }

    fn push(&mut self, name: String, kind: OpKind, inputs: Vec<Access>, outputs: Vec<ValueId>) {
        self.ops.push(Op {
            name,
            kind,
            inputs,
            outputs,
            tails: vec![],
            layer: self.scan.layer,
            span: self.scan.span,
        });
    }

    fn component(
        &mut self,
        writer: &Writer<'_>,
        component: &Component,
        returned: &BTreeMap<StepRef, ValueId>,
        first: usize,
    ) {
        let step = self.step;
        let inputs = component
            .inputs
            .iter()
            .map(|item| self.read(writer, *item, step.axes_of(*item), returned, first))
            .collect();
        let outputs = component
            .outputs
            .iter()
            .map(|item| self.result(writer, *item, returned, first))
            .collect();
        let kind = OpKind::Scan {
            recurrence: component.id,
            states: component.states.iter().map(|s| self.states[*s]).collect(),
        };
        self.push(self.named(writer, &component.name), kind, inputs, outputs);
    }

    fn statement(
        &mut self,
        writer: &Writer<'_>,
        i: usize,
        returned: &BTreeMap<StepRef, ValueId>,
        first: usize,
    ) {
        let op = &self.step.ops[i];
        let inputs = op
            .inputs
            .iter()
            .map(|access| self.read(writer, access.item, &access.axes, returned, first))
            .collect();
        let expr = op.expr.clone();
        let kind = match &op.kind {
            StepKind::Map => OpKind::Map { expr },
            StepKind::Reduce { combine, axes } => OpKind::Reduce {
                expr,
                combine: *combine,
                axes: axes.clone(),
            },
        };
        let value = self.result(writer, StepRef::Op(i), returned, first);
        let name = match value.index() < first {
            true => writer.from.value(value).name.clone(),
            false => self.named(writer, &op.name),
        };
        self.push(name, kind, inputs, vec![value]);
    }

    /// Reads an item, one index variable for each of its axes.
    fn read(
        &mut self,
        writer: &Writer<'_>,
        item: StepRef,
        by: &[AxisId],
        returned: &BTreeMap<StepRef, ValueId>,
        first: usize,
    ) -> Access {
        let own = self.step.axes_of(item);
        let to = |axis: AxisId| {
            let at = own.iter().position(|a| *a == axis);
            IndexExpr::axis(at.and_then(|at| by.get(at)).copied().unwrap_or(axis))
        };
        if let StepRef::Input(i) = item {
            let access = &self.scan.inputs[i];
            return Access {
                index: access.index.iter().map(|e| e.substitute(&to)).collect(),
                ..access.clone()
            };
        }
        if let (StepRef::Op(i), false) = (item, self.values.contains_key(&item)) {
            // Too large to be handed on, but what is returned is made from it.
            self.statement(writer, i, returned, first);
        }
        let value = self.values.get(&item).copied();
        Access {
            value: value.expect("a piece comes after those that it reads"),
            delay: 0,
            tail: None,
            index: by.iter().map(|a| IndexExpr::axis(*a)).collect(),
        }
    }
}

/// The name of an item of a step, in the block of the value called `full` that the step makes; or beside it, where it
/// is below the step already.
pub(crate) fn below(full: &str, step: &str, item: &str) -> String {
    let is_number = |part: &&str| part.bytes().all(|b| b.is_ascii_digit());
    let mut parts: Vec<&str> = full.split('.').collect();
    while parts.len() > 1 && parts.last().is_some_and(is_number) {
        parts.pop();
    }
    parts.pop();
    if parts.last() != Some(&step) {
        parts.push(step);
    }
    parts.push(item);
    parts.join(".")
}
