//! The normal form of a step: its statements composed, each result a polynomial in the states
//! before the step.

use super::Reason;
use super::failure::Failure;
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
    pub fn of(graph: &Graph, step: &Recurrence) -> Result<Normal, Failure> {
        let mut results: Vec<Polynomial> = Vec::with_capacity(step.ops.len());
        for op in &step.ops {
            let result = statement(graph, step, &results, op);
            let result = result.map_err(|(why, node)| Failure {
                why: Reason::In {
                    statement: set_by(op).to_owned(),
                    why: Box::new(why),
                },
                at: match node {
                    Some(node) => op.places.term(node),
                    None => op.places.statement(),
                },
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
pub(super) fn item_of(step: &Recurrence, results: &[Polynomial], item: StepRef) -> Polynomial {
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
    renamed(step, access, &item_of(step, results, access.item))
}

/// An item that is read, over the axes of the reader.
pub(super) fn renamed(step: &Recurrence, access: &StepAccess, item: &Polynomial) -> Polynomial {
    let own = step.axes_of(access.item);
    let renamed = |v: Var| match own.iter().position(|a| v == Var::Axis(*a)) {
        Some(at) => Var::Axis(access.axes[at]),
        None => v,
    };
    item.rename(&renamed)
}

/// What a statement computes; what fails comes with the node of its expression that does, if it is one.
pub(super) fn statement(
    graph: &Graph,
    step: &Recurrence,
    results: &[Polynomial],
    op: &StepOp,
) -> Result<Polynomial, (Reason, Option<usize>)> {
    let reads: Vec<Polynomial> = op
        .inputs
        .iter()
        .map(|access| read(step, results, access))
        .collect();
    let mut node = 0;
    let value = evaluate(&op.expr, &reads, &mut node).map_err(|why| (why, Some(node)))?;
    match &op.kind {
        StepKind::Map => Ok(value),
        StepKind::Reduce { combine, axes } => {
            let over: Vec<(AxisId, usize)> = axes.iter().map(|a| (*a, graph.size(*a))).collect();
            let reduced = match combine {
                Combine::Sum => value.sum(&over),
                Combine::Max => value.maximum(&over),
            };
            reduced.map_err(|why| (why, None))
        }
    }
}

/// The value of the expression that begins at node `node`, which is the node after it when this
/// returns, or the one that fails.
fn evaluate(expr: &Expr, reads: &[Polynomial], node: &mut usize) -> Result<Polynomial, Reason> {
    let own = *node;
    *node += 1;
    match expr {
        Expr::Input(i) => Ok(reads[*i].clone()),
        Expr::Const(c) => Ok(Polynomial::constant(*c)),
        Expr::Index(axis) => Ok(Polynomial::index(*axis)),
        Expr::Position => Ok(Polynomial::position()),
        Expr::Unary(f, a) => {
            let a = evaluate(a, reads, node)?;
            a.unary(*f).inspect_err(|_| *node = own)
        }
        Expr::Binary(op, a, b) => {
            let a = evaluate(a, reads, node)?;
            let b = evaluate(b, reads, node)?;
            a.binary(*op, b).inspect_err(|_| *node = own)
        }
    }
}
