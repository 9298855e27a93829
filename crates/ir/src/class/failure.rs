//! Where a step fails to be of a class.

use super::Reason;
use crate::{Expr, Recurrence, Span, StepOp, StepRef};

/// Why a step is of no class, and the term or statement that does it.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub why: Reason,
    pub at: Option<Span>,
}

impl From<Reason> for Failure {
    fn from(why: Reason) -> Self {
        Failure { why, at: None }
    }
}

impl Failure {
    /// The same, in the statement of an item if it has no closer place.
    pub fn within(self, step: &Recurrence, item: StepRef) -> Self {
        Failure {
            at: self.at.or_else(|| statement(step, item)),
            ..self
        }
    }
}

/// The statement that sets an item.
fn statement(step: &Recurrence, item: StepRef) -> Option<Span> {
    match item {
        StepRef::Op(i) => step.ops.get(i)?.places.statement(),
        StepRef::Input(_) | StepRef::State(_) => None,
    }
}

/// The first read of a state that an item is computed from.
pub(super) fn read_of(step: &Recurrence, item: StepRef, state: usize) -> Option<Span> {
    let mut needed = vec![false; step.ops.len()];
    let mark = |needed: &mut Vec<bool>, item: StepRef| {
        if let StepRef::Op(i) = item {
            needed[i] = true;
        }
    };
    mark(&mut needed, item);
    for i in (0..step.ops.len()).rev() {
        if needed[i] {
            let reads = step.ops[i].inputs.iter();
            reads.for_each(|access| mark(&mut needed, access.item));
        }
    }
    let mut reached = step.ops.iter().zip(&needed).filter(|(_, needed)| **needed);
    reached.find_map(|(op, _)| read_in(op, StepRef::State(state)))
}

/// The first read of an item in a statement.
fn read_in(op: &StepOp, item: StepRef) -> Option<Span> {
    let (mut node, mut found) = (0, None);
    op.expr.walk(&mut |e| {
        if let Expr::Input(i) = e
            && found.is_none()
            && op.inputs.get(*i).is_some_and(|access| access.item == item)
        {
            found = Some(node);
        }
        node += 1;
    });
    op.places.term(found?)
}
