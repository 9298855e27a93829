//! Steps that take the larger, or the smaller, of a state plus something and something else: linear in the
//! max-plus or the min-plus algebra.
//!
//! A value that depends on the state is kept as `max(c S + shift, bounds..)`, all but `S` of inputs
//! only: adding to it adds to all parts, and the larger of two such is one again.

use super::coefficients::Coefficients;
use super::form::finished;
use super::normal::{item_of, statement};
use super::polynomial::Polynomial;
use super::{Class, Classified, Extreme, Read};
use crate::{Binary, Expr, Graph, Recurrence, StepAccess, StepKind, StepOp, StepRef, Unary};

/// `extreme(scale * S + shift, bounds..) + plain * S`; without bounds there is no extreme, and `plain` is 0.
#[derive(Clone, Debug, PartialEq)]
struct Form {
    extreme: Option<Extreme>,
    scale: f64,
    shift: Polynomial,
    /// In order, each once.
    bounds: Vec<Polynomial>,
    plain: f64,
}

/// A value of the step.
#[derive(Clone, Debug)]
enum Value {
    /// It does not depend on the state.
    Free(Polynomial),
    Of(Form),
}

/// The class of a step of one state. `None` if it is of no such form.
pub(super) fn classify(graph: &Graph, step: &Recurrence) -> Option<Classified> {
    if step.states.len() != 1 {
        return None;
    }
    let values = values(graph, step)?;
    let get = |item: StepRef| match item {
        StepRef::Op(i) => values[i].clone(),
        StepRef::State(_) => Some(Value::Of(Form::state())),
        StepRef::Input(_) => Some(Value::Free(item_of(step, &[], item))),
    };
    let Value::Of(next) = get(step.next[0])? else {
        return None;
    };
    let extreme = next.extreme;
    let extreme = extreme.filter(|_| next.scale == 1.0 && next.plain == 0.0)?;
    let mut bounds = next.bounds.iter().cloned();
    let first = bounds.next()?;
    let bound = bounds.try_fold(first, |a, b| a.binary(extreme.function(), b).ok())?;
    let mut out = Coefficients::new(graph, step);
    let mut rest = vec![Polynomial::default(); step.outputs.len()];
    let mut reads = Vec::new();
    for (output, item) in step.outputs.iter().enumerate() {
        match get(*item)? {
            Value::Free(value) => rest[output] = value,
            Value::Of(form) => {
                // Multiples of the state before the step and after it, and something beside them.
                let (before, after) = match form.extreme {
                    None => (form.scale, 0.0),
                    Some(_) => (form.plain, form.scale),
                };
                let bare = Form { plain: 0.0, ..form };
                let read = match bare.extreme {
                    None => Form::state().times(bare.scale)?,
                    Some(_) => next.clone().times(bare.scale)?,
                };
                rest[output] = bare.shift.minus(&read.shift);
                if read.plus(&rest[output]) != bare {
                    return None;
                }
                for (is_before, times) in [(true, before), (false, after)] {
                    if times == 0.0 {
                        continue;
                    }
                    reads.push(Read {
                        output,
                        query: out.emit("query", &Polynomial::constant(times)).ok()?,
                        over: vec![],
                        before: is_before,
                        bonus: None,
                    });
                }
            }
        }
    }
    let class = Class::Extremal {
        extreme,
        shift: out.emit("shift", &next.shift).ok()?,
        bound: out.emit("bound", &bound).ok()?,
        reads,
    };
    finished(vec![class], &rest, out).ok()
}

/// What every statement computes. `None` of those that are of no such form.
fn values(graph: &Graph, step: &Recurrence) -> Option<Vec<Option<Value>>> {
    let mut values: Vec<Option<Value>> = Vec::with_capacity(step.ops.len());
    // Those that depend on no state.
    let mut free: Vec<Polynomial> = Vec::with_capacity(step.ops.len());
    for op in &step.ops {
        let depends = |access: &StepAccess| match access.item {
            StepRef::State(_) => true,
            StepRef::Op(i) => !matches!(values[i], Some(Value::Free(_))),
            StepRef::Input(_) => false,
        };
        let value = match op.inputs.iter().any(depends) {
            false => Some(Value::Free(statement(graph, step, &free, op).ok()?)),
            true => of_state(step, &values, op),
        };
        free.push(match &value {
            Some(Value::Free(value)) => value.clone(),
            _ => Polynomial::default(),
        });
        values.push(value);
    }
    Some(values)
}

/// A statement that depends on the state.
fn of_state(step: &Recurrence, values: &[Option<Value>], op: &StepOp) -> Option<Value> {
    if !matches!(op.kind, StepKind::Map) {
        return None;
    }
    let mut reads = Vec::new();
    for access in &op.inputs {
        let known = match access.item {
            StepRef::State(_) => Value::Of(Form::state()),
            StepRef::Op(i) => values[i].clone()?,
            StepRef::Input(_) => Value::Free(item_of(step, &[], access.item)),
        };
        reads.push(match known {
            Value::Free(value) => Value::Free(super::normal::renamed(step, access, &value)),
            // Another element is another number.
            of if access.axes == step.axes_of(access.item) => of,
            Value::Of(_) => return None,
        });
    }
    evaluate(&op.expr, &reads)
}

fn evaluate(expr: &Expr, reads: &[Value]) -> Option<Value> {
    let free = |value: Polynomial| Some(Value::Free(value));
    match expr {
        Expr::Input(i) => Some(reads[*i].clone()),
        Expr::Const(c) => free(Polynomial::constant(*c)),
        Expr::Index(axis) => free(Polynomial::index(*axis)),
        Expr::Position => free(Polynomial::position()),
        Expr::Unary(f, a) => match (f, evaluate(a, reads)?) {
            (f, Value::Free(a)) => free(a.unary(*f).ok()?),
            (Unary::Neg, Value::Of(a)) => a.times(-1.0).map(Value::Of),
            (Unary::Relu, a) => extreme(Extreme::Max, a, Value::Free(Polynomial::default())),
            _ => None,
        },
        Expr::Binary(op, a, b) => {
            let (a, b) = (evaluate(a, reads)?, evaluate(b, reads)?);
            match (op, a, b) {
                (op, Value::Free(a), Value::Free(b)) => free(a.binary(*op, b).ok()?),
                (Binary::Max, a, b) => extreme(Extreme::Max, a, b),
                (Binary::Min, a, b) => extreme(Extreme::Min, a, b),
                (Binary::Add, a, b) => sum(a, b),
                (Binary::Sub, a, b) => sum(a, negative(b)?),
                (Binary::Mul, Value::Of(a), Value::Free(c))
                | (Binary::Mul, Value::Free(c), Value::Of(a)) => {
                    a.times(c.as_number()?).map(Value::Of)
                }
                (Binary::Div, Value::Of(a), Value::Free(c)) => {
                    a.times(1.0 / c.as_number()?).map(Value::Of)
                }
                _ => None,
            }
        }
    }
}

fn negative(value: Value) -> Option<Value> {
    match value {
        Value::Free(value) => Some(Value::Free(value.scale(-1.0))),
        Value::Of(form) => form.times(-1.0).map(Value::Of),
    }
}

fn sum(a: Value, b: Value) -> Option<Value> {
    match (a, b) {
        (Value::Free(a), Value::Free(b)) => Some(Value::Free(a.plus(&b))),
        (Value::Of(form), Value::Free(more)) | (Value::Free(more), Value::Of(form)) => {
            Some(Value::Of(form.plus(&more)))
        }
        (Value::Of(a), Value::Of(b)) => a.with(b).map(Value::Of),
    }
}

fn extreme(which: Extreme, a: Value, b: Value) -> Option<Value> {
    match (a, b) {
        (Value::Free(a), Value::Free(b)) => Some(Value::Free(a.binary(which.function(), b).ok()?)),
        (Value::Of(form), Value::Free(bound)) | (Value::Free(bound), Value::Of(form)) => {
            let bounded = Form {
                bounds: vec![bound],
                extreme: Some(which),
                ..form.clone()
            };
            form.beside(bounded, which).map(Value::Of)
        }
        (Value::Of(a), Value::Of(b)) => a.beside(b, which).map(Value::Of),
    }
}

impl Form {
    /// The state itself.
    fn state() -> Form {
        Form {
            extreme: None,
            scale: 1.0,
            shift: Polynomial::default(),
            bounds: vec![],
            plain: 0.0,
        }
    }

    fn sorted(mut self) -> Form {
        self.bounds.sort();
        self.bounds.dedup();
        self
    }

    /// A multiple: by a negative number the larger becomes the smaller.
    fn times(self, by: f64) -> Option<Form> {
        if by == 0.0 || !by.is_finite() {
            return None;
        }
        let extreme = match (self.extreme, by < 0.0) {
            (Some(Extreme::Max), true) => Some(Extreme::Min),
            (Some(Extreme::Min), true) => Some(Extreme::Max),
            (extreme, _) => extreme,
        };
        let form = Form {
            extreme,
            scale: self.scale * by,
            shift: self.shift.scale(by),
            bounds: self.bounds.iter().map(|bound| bound.scale(by)).collect(),
            plain: self.plain * by,
        };
        Some(form.sorted())
    }

    fn plus(self, more: &Polynomial) -> Form {
        let form = Form {
            shift: self.shift.plus(more),
            bounds: self.bounds.iter().map(|bound| bound.plus(more)).collect(),
            ..self
        };
        form.sorted()
    }

    /// The sum of two, of which one at most has bounds.
    fn with(self, other: Form) -> Option<Form> {
        let (form, added) = match (self.extreme, other.extreme) {
            (Some(_), Some(_)) => return None,
            (None, Some(_)) => (other, self),
            _ => (self, other),
        };
        let shifted = form.plus(&added.shift);
        if shifted.extreme.is_some() {
            return Some(Form {
                plain: shifted.plain + added.scale,
                ..shifted
            });
        }
        let scale = shifted.scale + added.scale;
        (scale != 0.0).then_some(Form { scale, ..shifted })
    }

    /// The larger or smaller of two.
    fn beside(self, other: Form, which: Extreme) -> Option<Form> {
        let is_other = |of: &Form| of.extreme.is_some_and(|extreme| extreme != which);
        let plain = self.plain != 0.0 || other.plain != 0.0;
        if plain || is_other(&self) || is_other(&other) || self.scale != other.scale {
            return None;
        }
        let shift = match self.shift == other.shift {
            true => self.shift,
            false => self.shift.binary(which.function(), other.shift).ok()?,
        };
        let bounds: Vec<Polynomial> = self.bounds.into_iter().chain(other.bounds).collect();
        let form = Form {
            extreme: (!bounds.is_empty()).then_some(which),
            scale: self.scale,
            shift,
            bounds,
            plain: 0.0,
        };
        Some(form.sorted())
    }
}
