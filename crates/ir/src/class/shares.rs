//! Shares of a whole: `e / sum(e)` where no `e` is negative, as a softmax gives, and their running
//! sums. Interval arithmetic alone sees neither: it forgets that the sum contains what it divides.

use crate::{Access, AxisId, Binary, Combine, Def, Expr, Graph, IndexExpr, Op, OpKind, ValueId};

/// The operation that makes the value read, if it is read at the current row.
fn producer<'g>(graph: &'g Graph, access: &Access) -> Option<&'g Op> {
    match graph.value(access.value).def {
        Def::Op(op, 0) if access.delay == 0 => Some(graph.op(op)),
        _ => None,
    }
}

/// Whether the access reads every axis of its value at the variable of that axis.
fn plain(graph: &Graph, access: &Access) -> bool {
    access.is_plain(&graph.value(access.value).axes)
}

/// If `b` is a sum of the elements of `a`'s value over some of its axes, and `a / b` puts an
/// element over the sum that contains it: that value. The quotient is in [0, 1] where the value is
/// never negative.
pub(super) fn numerator(graph: &Graph, a: &Access, b: &Access) -> Option<ValueId> {
    summed_axes(graph, a, b).map(|_| a.value)
}

/// The axes that `b` sums `a`'s value over, as above.
fn summed_axes<'g>(graph: &'g Graph, a: &Access, b: &Access) -> Option<&'g [AxisId]> {
    let sum = producer(graph, b)?;
    let OpKind::Reduce {
        expr: Expr::Input(term),
        combine: Combine::Sum,
        axes,
    } = &sum.kind
    else {
        return None;
    };
    let term = sum.inputs.get(*term)?;
    let own = &graph.value(a.value).axes;
    let same_index = graph
        .value(b.value)
        .axes
        .iter()
        .zip(&b.index)
        .all(|(axis, index)| {
            let at = own.iter().position(|o| o == axis);
            at.and_then(|at| a.index.get(at)) == Some(index)
        });
    let whole = term.value == a.value && plain(graph, term) && a.delay == 0 && same_index;
    whole.then_some(axes)
}

/// Whether the elements read are shares of a whole along `axis`: they sum to 1 over it and perhaps
/// other axes, if none is negative.
pub(super) fn of_a_whole(graph: &Graph, access: &Access, axis: AxisId) -> bool {
    let axes = producer(graph, access).and_then(|op| match &op.kind {
        OpKind::Map {
            expr: Expr::Binary(Binary::Div, a, b),
        } => match (a.as_ref(), b.as_ref()) {
            (Expr::Input(a), Expr::Input(b)) => {
                let (a, b) = (op.inputs.get(*a)?, op.inputs.get(*b)?);
                plain(graph, a).then(|| summed_axes(graph, a, b))?
            }
            _ => None,
        },
        _ => None,
    });
    plain(graph, access) && axes.is_some_and(|axes| axes.contains(&axis))
}

/// If `sum` is a running sum of shares of a whole and `first` the first of them: what they are
/// shares of. The difference is the sum of the others, in [0, 1] where no share is negative.
pub(super) fn of_running_sum(graph: &Graph, sum: &Access, first: &Access) -> Option<ValueId> {
    let op = producer(graph, sum)?;
    let OpKind::CumSum { axis } = op.kind else {
        return None;
    };
    let of = op.inputs.first()?;
    let axes = &graph.value(sum.value).axes;
    let aligned = axes.len() == sum.index.len()
        && axes == &graph.value(first.value).axes
        && axes
            .iter()
            .zip(sum.index.iter().zip(&first.index))
            .all(|(a, (s, f))| {
                if *a == axis {
                    *f == IndexExpr::at(0)
                } else {
                    s == f
                }
            });
    let fits = first.delay == 0 && of.value == first.value && aligned;
    (fits && of_a_whole(graph, of, axis)).then_some(of.value)
}
