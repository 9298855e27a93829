//! Arguments of a recurrence that are functions of angles, or sums and products in f32, computed in the step instead.

use crate::{
    Access, AxisId, Binary, Expr, Graph, IndexExpr, Op, OpKind, Places, Precision, Recurrence,
    StepAccess, StepInput, StepKind, StepOp, StepRef, Unary,
};

/// The step and operands of a scan, with those operands that are made by a sine or cosine, or by sums and products,
/// made in the step: it then shows of which angle, and what is the same. Exact, element by element.
pub(super) fn inlined(graph: &Graph, op: &Op, step: &Recurrence) -> (Recurrence, Vec<Access>) {
    let mut out = step.clone();
    let mut inputs = op.inputs.clone();
    let mut made: Vec<(usize, StepOp)> = Vec::new();
    for (i, formal) in step.inputs.iter().enumerate() {
        let Some((expr, reads)) = producer(graph, &op.inputs[i]) else {
            continue;
        };
        let mut accesses: Vec<StepAccess> = Vec::new();
        for read in reads {
            let axes = variables(&read, &formal.axes);
            let known = inputs.iter().position(|known| *known == read);
            let at = known.unwrap_or_else(|| {
                out.inputs.push(StepInput {
                    name: graph.value(read.value).name.clone(),
                    axes: axes.clone(),
                });
                inputs.push(read);
                inputs.len() - 1
            });
            accesses.push(StepAccess {
                item: StepRef::Input(at),
                axes,
            });
        }
        let statement = StepOp {
            name: formal.name.clone(),
            axes: formal.axes.clone(),
            kind: StepKind::Map,
            expr,
            inputs: accesses,
            places: Places::default(),
        };
        made.push((i, statement));
    }
    let shift = made.len();
    let moved = |item: &mut StepRef| match item {
        StepRef::Op(i) => *i += shift,
        StepRef::Input(i) => {
            if let Some(at) = made.iter().position(|(of, _)| of == i) {
                *item = StepRef::Op(at);
            }
        }
        StepRef::State(_) => {}
    };
    let reads = out.ops.iter_mut().flat_map(|op| &mut op.inputs);
    let items = reads.map(|access| &mut access.item);
    let ends = out.next.iter_mut().chain(&mut out.outputs);
    items.chain(ends).for_each(moved);
    let made = made.into_iter().map(|(_, statement)| statement);
    out.ops = made.chain(out.ops).collect();
    (out, inputs)
}

/// The expression that makes what an access reads, over the index variables of the access, if it is better seen in
/// the step.
fn producer(graph: &Graph, access: &Access) -> Option<(Expr, Vec<Access>)> {
    if !is_written_out(graph, access, MOST_MAPS) {
        return None;
    }
    let mut reads = Vec::new();
    let expr = written_out(graph, access, MOST_MAPS, &mut reads);
    (expr.op_count() <= MOST_APPLICATIONS).then_some((expr, reads))
}

/// Maps one after the other that are looked at.
const MOST_MAPS: usize = 8;
/// Functions of an argument that is written out.
const MOST_APPLICATIONS: usize = 48;

/// The map that makes what an access reads in its own row, with its expression.
fn map<'g>(graph: &'g Graph, access: &Access) -> Option<(&'g Op, &'g Expr)> {
    let op = graph.op(graph.producer(access.value)?);
    let OpKind::Map { expr } = &op.kind else {
        return None;
    };
    (access.delay == 0).then_some((op, expr))
}

/// Whether an access reads what a map makes that is better seen in the step: with a sine or cosine in it or in what
/// it reads, or sums and products that are in f32 as they are in a step. Statements of a step that read no state may
/// have become such maps.
fn is_written_out(graph: &Graph, access: &Access, maps: usize) -> bool {
    let Some((op, expr)) = map(graph, access).filter(|_| maps > 0) else {
        return false;
    };
    let (mut angles, mut arithmetic) = (false, true);
    expr.walk(&mut |e| {
        angles |= matches!(e, Expr::Unary(Unary::Sin | Unary::Cos, _));
        arithmetic &= matches!(
            e,
            Expr::Input(_)
                | Expr::Const(_)
                | Expr::Unary(Unary::Neg, _)
                | Expr::Binary(Binary::Add | Binary::Sub | Binary::Mul, ..)
        );
    });
    let in_f32 = graph.value(access.value).precision == Precision::F32;
    let mut reads = op.inputs.iter();
    angles || (arithmetic && in_f32) || reads.any(|read| is_written_out(graph, read, maps - 1))
}

/// The expression of an access over `reads`, maps that are better seen in the step written out.
fn written_out(graph: &Graph, access: &Access, maps: usize, reads: &mut Vec<Access>) -> Expr {
    let made = map(graph, access).filter(|_| is_written_out(graph, access, maps));
    let Some((op, expr)) = made else {
        let known = reads.iter().position(|read| read == access);
        return Expr::Input(known.unwrap_or_else(|| {
            reads.push(access.clone());
            reads.len() - 1
        }));
    };
    let own = &graph.value(access.value).axes;
    let to = |axis: AxisId| {
        let at = own.iter().position(|o| *o == axis);
        let index = at.and_then(|at| access.index.get(at)).cloned();
        index.unwrap_or_else(|| IndexExpr::axis(axis))
    };
    let inputs: Vec<Expr> = op
        .inputs
        .iter()
        .map(|read| {
            let read = Access {
                tail: None,
                index: read
                    .index
                    .iter()
                    .map(|index| index.substitute(&to))
                    .collect(),
                ..read.clone()
            };
            written_out(graph, &read, maps - 1, reads)
        })
        .collect();
    let expr = expr.substitute_axes(&to);
    expr.substitute(&|i| inputs.get(i).cloned().unwrap_or(Expr::Input(i)))
}

/// The axes over which an access runs, in the order of `axes`.
fn variables(access: &Access, axes: &[AxisId]) -> Vec<AxisId> {
    let runs = |axis: &&AxisId| {
        let mut terms = access.index.iter().flat_map(|index| &index.terms);
        terms.any(|(of, _)| of == *axis)
    };
    axes.iter().filter(runs).copied().collect()
}
