//! The normal form of a step: its statements composed, each result a polynomial in the states
//! before the step.

use super::Reason;
use super::polynomial::{Atom, Monomial, Polynomial, StateRead, Var};
use crate::{AxisId, Combine, Expr, Graph, Recurrence, StepAccess, StepKind, StepOp, StepRef};

/// What a step computes, in the inputs and the states before it.
#[derive(Clone, Debug)]
pub(super) struct Normal {
    /// Per state, over its axes.
    pub next: Vec<Polynomial>,
    /// Per output, over the axes of the item returned.
    pub outputs: Vec<Polynomial>,
}

impl Normal {
    pub fn of(graph: &Graph, step: &Recurrence) -> Result<Normal, Reason> {
        let mut results: Vec<Polynomial> = Vec::with_capacity(step.ops.len());
        for op in &step.ops {
            let result = statement(graph, step, &results, op);
            let result = result.map_err(|why| Reason::In {
                statement: set_by(op).to_owned(),
                why: Box::new(why),
            })?;
            results.push(result);
        }
        let get = |item: &StepRef| item_of(step, &results, *item);
        Ok(Normal {
            next: step.next.iter().map(get).collect(),
            outputs: step.outputs.iter().map(get).collect(),
        })
    }
}

/// The name that a statement sets, or is a part of: parts are numbered.
fn set_by(op: &StepOp) -> &str {
    match op.name.rsplit_once('.') {
        Some((name, number)) if number.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => &op.name,
    }
}

/// An item over its own axes.
fn item_of(step: &Recurrence, results: &[Polynomial], item: StepRef) -> Polynomial {
    let index: Vec<Var> = step.axes_of(item).iter().map(|a| Var::Axis(*a)).collect();
    match item {
        StepRef::Input(i) => Polynomial::atom(Atom::Input(i, index)),
        StepRef::State(state) => Polynomial::of(Monomial {
            state: Some(StateRead { state, index }),
            factors: vec![],
        }),
        StepRef::Op(i) => results[i].clone(),
    }
}

fn read(step: &Recurrence, results: &[Polynomial], access: &StepAccess) -> Polynomial {
    let own = step.axes_of(access.item);
    let renamed = |v: Var| match own.iter().position(|a| v == Var::Axis(*a)) {
        Some(at) => Var::Axis(access.axes[at]),
        None => v,
    };
    item_of(step, results, access.item).rename(&renamed)
}

fn statement(
    graph: &Graph,
    step: &Recurrence,
    results: &[Polynomial],
    op: &StepOp,
) -> Result<Polynomial, Reason> {
    let reads: Vec<Polynomial> = op
        .inputs
        .iter()
        .map(|access| read(step, results, access))
        .collect();
    let value = evaluate(&op.expr, &reads)?;
    match &op.kind {
        StepKind::Map => Ok(value),
        StepKind::Reduce { combine, axes } => {
            let over: Vec<(AxisId, usize)> = axes.iter().map(|a| (*a, graph.size(*a))).collect();
            match combine {
                Combine::Sum => value.sum(&over),
                Combine::Max => value.maximum(&over),
            }
        }
    }
}

fn evaluate(expr: &Expr, reads: &[Polynomial]) -> Result<Polynomial, Reason> {
    match expr {
        Expr::Input(i) => Ok(reads[*i].clone()),
        Expr::Const(c) => Ok(Polynomial::constant(*c)),
        Expr::Index(axis) => Ok(Polynomial::atom(Atom::Index(Var::Axis(*axis)))),
        Expr::Position => Ok(Polynomial::atom(Atom::Position)),
        Expr::Unary(f, a) => evaluate(a, reads)?.unary(*f),
        Expr::Binary(op, a, b) => evaluate(a, reads)?.binary(*op, evaluate(b, reads)?),
    }
}
