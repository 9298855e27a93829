//! Where statements of a step stand in the model text.

use crate::{Expr, Span};

/// The places of a statement and of the terms of its expression.
///
/// They say nothing of what is computed: statements that differ in them alone are equal, and files do not
/// hold them, so that a model text may be moved about without any of what is made from it changing.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The statement, if it was written.
    statement: Option<Span>,
    /// Per node of the expression, parents first and left before right, the smallest term written that
    /// it is a part of; empty if that is the statement everywhere.
    terms: Vec<Span>,
}

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Places {
    /// The places of a statement with this expression; `term` says where a node of it was written,
    /// if it was.
    pub fn new(statement: Span, expr: &Expr, term: &impl Fn(&Expr) -> Option<Span>) -> Self {
        let mut terms = Vec::new();
        note(expr, statement, term, &mut terms);
        if terms.iter().all(|at| *at == statement) {
            terms.clear();
        }
        Places {
            statement: Some(statement),
            terms,
        }
    }

    /// The whole statement.
    pub fn statement(&self) -> Option<Span> {
        self.statement
    }

    /// The term around a node of the expression, counted parents first and left before right.
    pub fn term(&self, node: usize) -> Option<Span> {
        self.terms.get(node).copied().or(self.statement)
    }
}

fn note(expr: &Expr, around: Span, term: &impl Fn(&Expr) -> Option<Span>, terms: &mut Vec<Span>) {
    let at = term(expr).unwrap_or(around);
    terms.push(at);
    match expr {
        Expr::Unary(_, a) => note(a, at, term, terms),
        Expr::Binary(_, a, b) => {
            note(a, at, term, terms);
            note(b, at, term, terms);
        }
        Expr::Input(_) | Expr::Const(_) | Expr::Index(_) | Expr::Position => {}
    }
}
