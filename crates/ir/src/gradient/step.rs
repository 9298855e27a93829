//! The transpose of one step of a recurrence: a step of a recurrence that runs backwards in time.
//!
//! With `(s', y) = f(s, x)` for the step at a row, the transposed step carries the cotangent of `s'`
//! and reads x, the state s before the row and the cotangent of y at it; it gives the cotangent of s,
//! carried on, and that of x. The statements of f are evaluated again, then each is transposed, last
//! first. What nothing needs is left out: a linear step reads no state that it does not multiply.

use super::expression::{add, derivative, div};
use super::spread::left_out;
use crate::{
    Axis, AxisId, Binary, Combine, Direction, Expr, IndexExpr, Recurrence, StepAccess, StepInput,
    StepKind, StepOp, StepRef, StepState,
};
use std::collections::BTreeMap;

/// What a formal input of a transposed step stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    /// The same formal input of the step.
    Input(usize),
    /// A state before the row.
    Before(usize),
    /// The cotangent of an output of the step.
    Cotangent(usize),
}

/// A transposed step.
#[derive(Clone, Debug)]
pub(super) struct Transposed {
    /// Its states are the cotangents of the step's states, in the same order.
    pub recurrence: Recurrence,
    /// Of its formal inputs.
    pub operands: Vec<Operand>,
    /// Of which formal input of the step each of its outputs is the cotangent, or a part of it. An output may
    /// have axes that the input lacks, to be summed over.
    pub results: Vec<usize>,
}

/// Transposes a step. `wanted` says which inputs get a cotangent, `given` which outputs have one.
/// New axes, the same as others but read beside them, are appended to `axes`.
pub(super) fn transpose(
    axes: &mut Vec<Axis>,
    step: &Recurrence,
    wanted: &[bool],
    given: &[bool],
) -> Transposed {
    let left = left_out(axes, step, wanted);
    let mut maker = Maker::new(axes, step);
    let cotangents: Vec<usize> = (0..step.outputs.len()).filter(|o| given[*o]).collect();
    for (k, item) in step.next.iter().enumerate() {
        maker
            .parts
            .entry(*item)
            .or_default()
            .push(StepRef::State(k));
    }
    for (i, o) in cotangents.iter().enumerate() {
        let at = StepRef::Input(step.inputs.len() + step.states.len() + i);
        maker.parts.entry(step.outputs[*o]).or_default().push(at);
    }
    for j in (0..step.ops.len()).rev() {
        if let Some(cotangent) = maker.total(StepRef::Op(j)) {
            maker.statement(j, cotangent);
        }
    }
    let next = (0..step.states.len())
        .map(|k| {
            maker.total(StepRef::State(k)).unwrap_or_else(|| {
                let axes = &step.states[k].axes;
                let name = format!("d_{}", step.states[k].name);
                maker.push(name, axes, StepKind::Map, Expr::Const(0.0), Vec::new())
            })
        })
        .collect();
    let mut results = Vec::new();
    let mut outputs = Vec::new();
    for i in (0..step.inputs.len()).filter(|i| wanted[*i]) {
        for item in maker.totals(i, &left) {
            results.push(i);
            outputs.push(item);
        }
    }
    let formal = |name: String, axes: &[AxisId]| StepInput {
        name,
        axes: axes.to_vec(),
    };
    let mut operands: Vec<Operand> = (0..step.inputs.len()).map(Operand::Input).collect();
    operands.extend((0..step.states.len()).map(Operand::Before));
    operands.extend(cotangents.into_iter().map(Operand::Cotangent));
    let input = |operand: &Operand| match *operand {
        Operand::Input(i) => formal(step.inputs[i].name.clone(), &step.inputs[i].axes),
        Operand::Before(k) => formal(
            format!("{}_before", step.states[k].name),
            &step.states[k].axes,
        ),
        Operand::Cotangent(o) => formal(format!("d_out{o}"), step.axes_of(step.outputs[o])),
    };
    let whole = Recurrence {
        name: format!("{}_back", step.name),
        inputs: operands.iter().map(input).collect(),
        states: step
            .states
            .iter()
            .map(|s| StepState {
                name: format!("d_{}", s.name),
                axes: s.axes.clone(),
                init: 0.0,
                kept: true,
            })
            .collect(),
        ops: maker.ops,
        next,
        outputs,
        direction: Direction::Reverse,
    };
    pruned(whole, operands, results)
}

struct Maker<'a> {
    axes: &'a mut Vec<Axis>,
    step: &'a Recurrence,
    /// The statements of the step, then those made.
    ops: Vec<StepOp>,
    /// Per item of the step, what its cotangent is the sum of.
    parts: BTreeMap<StepRef, Vec<StepRef>>,
}

impl<'a> Maker<'a> {
    fn new(axes: &'a mut Vec<Axis>, step: &'a Recurrence) -> Self {
        let mut maker = Maker {
            axes,
            step,
            ops: Vec::new(),
            parts: BTreeMap::new(),
        };
        maker.ops = step
            .ops
            .iter()
            .map(|op| StepOp {
                inputs: op.inputs.iter().map(|a| maker.again(a)).collect(),
                ..op.clone()
            })
            .collect();
        maker
    }

    /// A read of the step, in the transposed step: states before the row are inputs there.
    fn again(&self, access: &StepAccess) -> StepAccess {
        StepAccess {
            item: match access.item {
                StepRef::State(k) => StepRef::Input(self.step.inputs.len() + k),
                other => other,
            },
            axes: access.axes.clone(),
        }
    }

    fn push(
        &mut self,
        name: String,
        axes: &[AxisId],
        kind: StepKind,
        expr: Expr,
        inputs: Vec<StepAccess>,
    ) -> StepRef {
        self.ops.push(StepOp {
            places: crate::Places::default(),
            name,
            axes: axes.to_vec(),
            kind,
            expr,
            inputs,
        });
        StepRef::Op(self.ops.len() - 1)
    }

    /// The cotangent of input `i`, in parts: without sums over the axes `left`, and what has no such sums.
    fn totals(&mut self, i: usize, left: &[AxisId]) -> Vec<StepRef> {
        let item = StepRef::Input(i);
        let own = self.step.inputs[i].axes.clone();
        let mut wider: BTreeMap<Vec<AxisId>, Vec<StepRef>> = BTreeMap::new();
        for part in self.parts.remove(&item).unwrap_or_default() {
            let mut axes = own.clone();
            // Parts of an input's cotangent are made for it alone.
            if let StepRef::Op(j) = part
                && let StepKind::Reduce {
                    axes: over,
                    combine: Combine::Sum,
                } = &mut self.ops[j].kind
            {
                let kept: Vec<AxisId> = left.iter().copied().filter(|a| over.contains(a)).collect();
                over.retain(|a| !kept.contains(a));
                let none_left = over.is_empty();
                if none_left {
                    self.ops[j].kind = StepKind::Map;
                }
                axes.splice(0..0, kept);
                self.ops[j].axes.clone_from(&axes);
            }
            wider.entry(axes).or_default().push(part);
        }
        let sums = wider.into_iter();
        sums.filter_map(|(axes, parts)| self.sum(item, &axes, &parts))
            .collect()
    }

    /// The cotangent of an item of the step, if anything contributes to it.
    fn total(&mut self, item: StepRef) -> Option<StepRef> {
        let parts = self.parts.remove(&item)?;
        let axes = self.step.axes_of(item).to_vec();
        self.sum(item, &axes, &parts)
    }

    /// The sum of what contributes to the cotangent of an item, over some axes.
    fn sum(&mut self, item: StepRef, axes: &[AxisId], parts: &[StepRef]) -> Option<StepRef> {
        if let [one] = parts {
            return Some(*one);
        }
        let expr = (0..parts.len()).map(Expr::Input).reduce(add)?;
        let read = |item: &StepRef| StepAccess {
            item: *item,
            axes: axes.to_vec(),
        };
        let inputs = parts.iter().map(read).collect();
        let name = format!("d_{}", self.name(item));
        Some(self.push(name, axes, StepKind::Map, expr, inputs))
    }

    fn name(&self, item: StepRef) -> &str {
        match item {
            StepRef::Input(i) => &self.step.inputs[i].name,
            StepRef::State(k) => &self.step.states[k].name,
            StepRef::Op(j) => &self.step.ops[j].name,
        }
    }

    /// Transposes statement `j`, whose result has the cotangent given.
    fn statement(&mut self, j: usize, cotangent: StepRef) {
        let step = self.step;
        let op = &step.ops[j];
        let own = |item| StepAccess {
            item,
            axes: op.axes.clone(),
        };
        let mut inputs: Vec<StepAccess> = op.inputs.iter().map(|a| self.again(a)).collect();
        let at = inputs.len();
        inputs.push(own(cotangent));
        let mut variables = op.axes.clone();
        let mut factor = Expr::Input(at);
        if let StepKind::Reduce { combine, axes } = &op.kind {
            variables.extend(axes);
            if *combine == Combine::Max {
                // Equal parts to all that attain it.
                inputs.push(own(StepRef::Op(j)));
                let attains = Expr::binary(Binary::Equal, op.expr.clone(), Expr::Input(at + 1));
                let kind = StepKind::Reduce {
                    combine: Combine::Sum,
                    axes: axes.clone(),
                };
                let name = format!("{}_count", op.name);
                let count = self.push(name, &op.axes, kind, attains.clone(), inputs.clone());
                inputs.push(own(count));
                let share = div(Expr::Input(at), Expr::Input(at + 2));
                factor = Expr::binary(Binary::When, attains, share);
            }
        }
        for (k, access) in op.inputs.iter().enumerate() {
            if let Some(expr) = derivative(&op.expr, k, &factor) {
                let part = self.part(access, expr, &inputs, &variables);
                self.parts.entry(access.item).or_default().push(part);
            }
        }
    }

    /// `expr` over `variables`, as a statement over the axes of the item that `access` reads.
    fn part(
        &mut self,
        access: &StepAccess,
        mut expr: Expr,
        inputs: &[StepAccess],
        variables: &[AxisId],
    ) -> StepRef {
        let own = self.step.axes_of(access.item).to_vec();
        let mut to: BTreeMap<AxisId, AxisId> = BTreeMap::new();
        let mut diagonal = Vec::new();
        for (axis, by) in own.iter().zip(&access.axes) {
            match to.get(by) {
                Some(first) => diagonal.push((*first, *axis)),
                None => {
                    to.insert(*by, *axis);
                }
            }
        }
        let mut over = Vec::new();
        for v in variables {
            if to.contains_key(v) {
                continue;
            }
            let free = match own.contains(v) {
                true => self.beside(*v, &[&own, variables, &over].concat()),
                false => *v,
            };
            to.insert(*v, free);
            over.push(free);
        }
        let rename = |axis: AxisId| to.get(&axis).copied().unwrap_or(axis);
        expr = expr.substitute_axes(&|axis| IndexExpr::axis(rename(axis)));
        for (first, second) in diagonal {
            let same = Expr::binary(Binary::Equal, Expr::Index(first), Expr::Index(second));
            expr = Expr::binary(Binary::When, same, expr);
        }
        let inputs = inputs
            .iter()
            .map(|a| StepAccess {
                item: a.item,
                axes: a.axes.iter().map(|axis| rename(*axis)).collect(),
            })
            .collect();
        let kind = match over.is_empty() {
            true => StepKind::Map,
            false => StepKind::Reduce {
                combine: Combine::Sum,
                axes: over,
            },
        };
        let name = format!("d_{}", self.name(access.item));
        self.push(name, &own, kind, expr, inputs)
    }

    /// An axis of the same size that is none of those in use.
    fn beside(&mut self, axis: AxisId, used: &[AxisId]) -> AxisId {
        let Axis { name, size } = self.axes[axis.0 as usize].clone();
        let primed = |n: &str| n.starts_with(&name) && n[name.len()..].chars().all(|c| c == '\'');
        let fits = |(i, a): (usize, &Axis)| {
            let id = AxisId(i as u32);
            (!used.contains(&id) && a.size == size && primed(&a.name)).then_some(id)
        };
        self.axes
            .iter()
            .enumerate()
            .find_map(fits)
            .unwrap_or_else(|| {
                let primes = self.axes.iter().filter(|a| primed(&a.name)).count();
                let name = format!("{name}{}", "'".repeat(primes));
                self.axes.push(Axis { name, size });
                AxisId(self.axes.len() as u32 - 1)
            })
    }
}

/// Without the statements and inputs that nothing needs.
fn pruned(mut step: Recurrence, operands: Vec<Operand>, results: Vec<usize>) -> Transposed {
    let mut input = vec![false; step.inputs.len()];
    let mut op = vec![false; step.ops.len()];
    let mut mark = |item: StepRef, op: &mut [bool]| match item {
        StepRef::Input(i) => input[i] = true,
        StepRef::Op(j) => op[j] = true,
        StepRef::State(_) => {}
    };
    for item in step.next.iter().chain(&step.outputs) {
        mark(*item, &mut op);
    }
    for j in (0..step.ops.len()).rev() {
        if op[j] {
            let statement = &mut step.ops[j];
            let mut used = vec![false; statement.inputs.len()];
            statement.expr.walk(&mut |e| {
                if let Expr::Input(i) = e {
                    used[*i] = true;
                }
            });
            let mut place = vec![0; used.len()];
            let mut kept = Vec::new();
            for (i, access) in statement.inputs.iter().enumerate() {
                if used[i] {
                    place[i] = kept.len();
                    kept.push(access.clone());
                }
            }
            statement.expr = statement.expr.substitute(&|i| Expr::Input(place[i]));
            statement.inputs = kept;
            for access in &statement.inputs {
                mark(access.item, &mut op);
            }
        }
    }
    let places = |kept: &[bool]| -> Vec<usize> {
        let mut next = 0;
        let place = |keep: &bool| {
            let at = next;
            next += usize::from(*keep);
            at
        };
        kept.iter().map(place).collect()
    };
    let (to_input, to_op) = (places(&input), places(&op));
    let moved = |item: StepRef| match item {
        StepRef::Input(i) => StepRef::Input(to_input[i]),
        StepRef::Op(j) => StepRef::Op(to_op[j]),
        state => state,
    };
    fn kept<T>(list: Vec<T>, keep: &[bool]) -> Vec<T> {
        let both = list.into_iter().zip(keep);
        both.filter(|(_, keep)| **keep).map(|(x, _)| x).collect()
    }
    let mut ops = kept(step.ops, &op);
    for access in ops.iter_mut().flat_map(|op| &mut op.inputs) {
        access.item = moved(access.item);
    }
    Transposed {
        recurrence: Recurrence {
            inputs: kept(step.inputs, &input),
            ops,
            next: step.next.into_iter().map(moved).collect(),
            outputs: step.outputs.into_iter().map(moved).collect(),
            ..step
        },
        operands: kept(operands, &input),
        results,
    }
}
