//! Where the terms of a step's statement stand, once they are parts of operations.

use super::tensor::Tensor;
use crate::{Access, Expr, Places, Span};

/// Most terms of a statement whose places are kept; further ones have that of what they are a part of.
const MAX_TERMS: usize = 1024;

/// What the terms of a statement were evaluated to so far, inner ones first.
#[derive(Default)]
pub(super) struct Terms(Vec<(Tensor, Span)>);

impl Terms {
    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn note(&mut self, of: &Tensor, span: Span) {
        if self.0.len() < MAX_TERMS {
            self.0.push((of.clone(), span));
        }
    }

    /// The places of an operation that what stands at `span` became.
    pub fn places(&self, expr: &Expr, inputs: &[Access], span: Span) -> Places {
        let within = |at: Span| span.start <= at.start && at.end <= span.end;
        Places::new(span, expr, &|node| {
            let mut terms = self.0.iter();
            let term = terms
                .find(|(of, at)| within(*at) && is_same((node, inputs), (&of.expr, &of.inputs)));
            term.map(|(_, at)| *at)
        })
    }
}

/// Whether two expressions are one, each over reads of its own.
fn is_same((a, reads): (&Expr, &[Access]), (b, others): (&Expr, &[Access])) -> bool {
    let same = |a, b| is_same((a, reads), (b, others));
    match (a, b) {
        (Expr::Input(i), Expr::Input(j)) => reads.get(*i) == others.get(*j),
        (Expr::Unary(f, a), Expr::Unary(g, b)) => f == g && same(a, b),
        (Expr::Binary(f, a, c), Expr::Binary(g, b, d)) => f == g && same(a, b) && same(c, d),
        (a, b) => a == b,
    }
}
