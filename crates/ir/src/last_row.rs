//! Outputs of which only the last row of a sequence is wanted: what feeds nothing else is computed for
//! that row alone.
//!
//! [`OpKind::LastRow`] is where rows are left behind: its results have one row for each sequence, and so
//! has everything computed from them. Lives here: putting it where it saves most, and what has one row.

use crate::{Access, Def, Expr, Graph, Op, OpId, OpKind, Precision, Value, ValueId};
use std::collections::BTreeMap;

/// For each value, whether it has one row for each sequence, whatever T is.
pub fn one_row(graph: &Graph) -> Vec<bool> {
    let mut one = vec![false; graph.values.len()];
    for op in &graph.ops {
        let reads = |access: &Access| one.get(access.value.index()) == Some(&true);
        if matches!(op.kind, OpKind::LastRow) || op.inputs.iter().any(reads) {
            for id in &op.outputs {
                if let Some(one) = one.get_mut(id.index()) {
                    *one = true;
                }
            }
        }
    }
    one
}

/// Whether an operation is computed for one row of each sequence: it reads values that have no more.
/// `one` is what [`one_row`] gives.
pub fn is_of_one_row(graph: &Graph, op: OpId, one: &[bool]) -> bool {
    let op = graph.op(op);
    let has_one = |id: &ValueId| one.get(id.index()) == Some(&true);
    !matches!(op.kind, OpKind::LastRow) && op.outputs.iter().any(has_one)
}

/// Whether everything that reads a single row can do so, or which operation cannot, and why. Every id
/// of the graph has to exist.
pub fn check(graph: &Graph) -> Result<(), (OpId, String)> {
    let one = one_row(graph);
    for (i, op) in graph.ops.iter().enumerate() {
        let id = OpId(i as u32);
        let fail = |reason: String| Err((id, reason));
        let name = |access: &Access| &graph.value(access.value).name;
        if matches!(op.kind, OpKind::LastRow) {
            let plain = |access: &Access, result: &ValueId| {
                let (from, to) = (graph.value(access.value), graph.value(*result));
                let same = (&from.axes, from.precision) == (&to.axes, to.precision);
                from.rows && to.rows && same && access.is_plain(&from.axes)
            };
            if op.inputs.len() != op.outputs.len()
                || !op.tails.is_empty()
                || !op.inputs.iter().zip(&op.outputs).all(|(a, v)| plain(a, v))
            {
                return fail("takes the last row of something else than its results".into());
            }
            if let Some(access) = op.inputs.iter().find(|a| one[a.value.index()]) {
                return fail(format!(
                    "takes the last row of `{}`, which has one",
                    name(access)
                ));
            }
            continue;
        }
        if !is_of_one_row(graph, id, &one) {
            continue;
        }
        if !is_rowwise(op) {
            return fail("has a single row, and needs those before it, or their number".into());
        }
        let other = |a: &&Access| graph.value(a.value).rows && !one[a.value.index()];
        if let Some(access) = op.inputs.iter().find(other) {
            return fail(format!(
                "reads all rows of `{}` for a single one",
                name(access)
            ));
        }
    }
    Ok(())
}

/// Whether a row of the results depends on the same row of the operands only, and not on its place.
fn is_rowwise(op: &Op) -> bool {
    let of_kind = match &op.kind {
        OpKind::Map { expr } | OpKind::Reduce { expr, .. } => {
            let mut placed = false;
            expr.walk(&mut |e| placed |= matches!(e, Expr::Position));
            !placed
        }
        OpKind::Norm { .. } | OpKind::Contract { .. } => true,
        OpKind::Gather
        | OpKind::Scan { .. }
        | OpKind::Attend { .. }
        | OpKind::LastRow
        | OpKind::Scatter { .. }
        | OpKind::ScatterRows
        | OpKind::AttendBack { .. }
        | OpKind::CumSum { .. } => false,
    };
    let now = |access: &Access| access.delay == 0 && access.tail.is_none();
    of_kind && op.tails.is_empty() && op.inputs.iter().all(now)
}

/// The same model, of which each output of numbers has its last row only. States become what they
/// become otherwise.
///
/// What no state and no earlier row depends on is computed for that row alone: in a language model the
/// head, the norm before it, and the end of the last layer. Time: linear in the graph.
pub fn only_last_rows(graph: &Graph) -> Graph {
    let one = one_row(graph);
    let asked = |id: ValueId| {
        let value = graph.value(id);
        value.rows
            && !one[id.index()]
            && value.precision != Precision::Index
            && graph.outputs.contains(&id)
    };
    let readers = graph.consumers();
    let mut last = vec![false; graph.ops.len()];
    for (i, op) in graph.ops.iter().enumerate().rev() {
        let wanted = |id: &ValueId| {
            let of = &readers[id.index()];
            let leaves = graph.outputs.contains(id);
            (leaves || !of.is_empty())
                && (!leaves || asked(*id))
                && graph.value(*id).rows
                && of.iter().all(|reader| last[reader.index()])
        };
        let has_rows = !is_of_one_row(graph, OpId(i as u32), &one);
        last[i] = has_rows && is_rowwise(op) && op.outputs.iter().all(wanted);
    }
    let made_last = |id: ValueId| graph.producer(id).is_some_and(|op| last[op.index()]);
    let cut = |id: ValueId| {
        let read = readers[id.index()]
            .iter()
            .any(|reader| last[reader.index()]);
        graph.value(id).rows && !made_last(id) && (read || asked(id))
    };
    let cuts: Vec<ValueId> = (0..graph.values.len() as u32)
        .map(ValueId)
        .filter(|id| cut(*id))
        .collect();
    if cuts.is_empty() {
        return graph.clone();
    }
    let (after, before): (Vec<usize>, Vec<usize>) = (0..graph.ops.len()).partition(|i| last[*i]);
    let (mut out, at) = (graph.clone(), OpId(before.len() as u32));
    let mut row_of: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    for (n, id) in cuts.iter().enumerate() {
        let value = graph.value(*id);
        row_of.insert(*id, ValueId(out.values.len() as u32));
        out.values.push(Value {
            name: format!("{}_last", value.name),
            def: Def::Op(at, n as u32),
            layer: None,
            ..value.clone()
        });
    }
    let take = Op {
        name: "last_row".into(),
        kind: OpKind::LastRow,
        inputs: cuts
            .iter()
            .map(|id| Access::plain(*id, &graph.value(*id).axes))
            .collect(),
        outputs: row_of.values().copied().collect(),
        tails: Vec::new(),
        layer: None,
        span: None,
    };
    let moved = |i: &usize| graph.ops[*i].clone();
    let rest = after.iter().map(|i| {
        let mut op = moved(i);
        for access in &mut op.inputs {
            access.value = row_of.get(&access.value).copied().unwrap_or(access.value);
        }
        op
    });
    out.ops = before.iter().map(moved).chain([take]).chain(rest).collect();
    for (i, op) in out.ops.iter().enumerate() {
        for (n, id) in op.outputs.iter().enumerate() {
            out.values[id.index()].def = Def::Op(OpId(i as u32), n as u32);
        }
    }
    for id in &mut out.outputs {
        *id = row_of.get(id).copied().unwrap_or(*id);
    }
    out
}
