//! Which activations are zero wherever a relu is.
//!
//! What is left out because it is zero changes no sum, whoever made it so: this says where zeros are to be
//! expected, and nothing rests on it. How many there are is a matter of the data ([`Graph::zeros`]).

use fusec_ir::{Binary, Expr, Graph, OpKind, Unary, ValueId};

/// Maps that zeros are followed through: each may read what is before it more than once.
pub(crate) const CHAIN: usize = 8;

/// Whether a value is zero at every element where some relu is, as far as `CHAIN` maps before it show.
pub fn has_zeros(graph: &Graph, value: ValueId) -> bool {
    has_zeros_within(graph, value, CHAIN)
}

fn has_zeros_within(graph: &Graph, value: ValueId, chain: usize) -> bool {
    let Some(id) = graph.producer(value) else {
        return false;
    };
    let op = graph.op(id);
    let OpKind::Map { expr } = &op.kind else {
        return false;
    };
    let axes = &graph.value(value).axes;
    is_zero_with_relu(expr, &|i| {
        let access = op.inputs.get(i).filter(|_| chain > 0);
        access.is_some_and(|access| {
            access.is_plain(axes) && has_zeros_within(graph, access.value, chain - 1)
        })
    })
}

/// Whether an expression is zero wherever some relu in it is, or some operand of which that is known.
pub fn is_zero_with_relu(expr: &Expr, known: &dyn Fn(usize) -> bool) -> bool {
    let is = |e: &Expr| is_zero_with_relu(e, known);
    match expr {
        Expr::Input(i) => known(*i),
        Expr::Unary(function, e) => match function {
            Unary::Relu => true,
            // Zero at zero.
            Unary::Neg
            | Unary::Square
            | Unary::Abs
            | Unary::Sqrt
            | Unary::Sin
            | Unary::Tanh
            | Unary::Erf
            | Unary::Silu
            | Unary::Gelu => is(e),
            _ => false,
        },
        Expr::Binary(Binary::Mul | Binary::When, a, b) => is(a) || is(b),
        Expr::Binary(Binary::Div, a, _) => is(a),
        Expr::Binary(Binary::Max, a, b) => {
            let nothing = |e: &Expr| matches!(e, Expr::Const(c) if *c == 0.0);
            nothing(a) || nothing(b)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_of_a_relu_survive_what_is_zero_at_zero() {
        let x = || Expr::Input(0);
        let relu = || Expr::unary(Unary::Relu, x());
        let with = |op, a, b| Expr::binary(op, a, b);
        for (expr, expected) in [
            (x(), false),
            (relu(), true),
            (Expr::unary(Unary::Square, relu()), true),
            (Expr::unary(Unary::Exp, relu()), false),
            (with(Binary::Mul, Expr::Input(1), relu()), true),
            (with(Binary::Add, relu(), Expr::Input(1)), false),
            (with(Binary::Div, relu(), Expr::Input(1)), true),
            (with(Binary::Div, Expr::Input(1), relu()), false),
            (with(Binary::Max, x(), Expr::Const(0.0)), true),
            (with(Binary::Max, x(), Expr::Const(1.0)), false),
            (with(Binary::Mul, Expr::Input(2), x()), true),
        ] {
            assert_eq!(is_zero_with_relu(&expr, &|i| i == 2), expected, "{expr:?}");
        }
    }
}
