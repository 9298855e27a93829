//! Checks that a graph keeps its own rules, so that running it can index without asking.
//!
//! A graph from the front end keeps them by construction; one read from a file may not.

use super::error::InterpretError;
use super::view::MAX_VARIABLES;
use crate::last_row;
use crate::{
    Access, AxisId, Def, Expr, Graph, Op, OpId, OpKind, Precision, Recurrence, StateId, StateKind,
    StepRef, ValueId,
};

/// Most elements of one row: keeps every product of sizes far from overflow.
const MAX_ELEMENTS: usize = 1 << 40;

/// Deepest expression: walking one uses the stack.
const MAX_DEPTH: usize = 500;

type Checked = Result<(), String>;

/// Checks every id, arity, shape and index range of a graph.
pub(super) fn check(graph: &Graph) -> Result<(), InterpretError> {
    let malformed = |place: String, reason: String| InterpretError::Malformed { place, reason };
    for axis in &graph.axes {
        if axis.size == 0 {
            return Err(malformed(
                format!("axis `{}`", axis.name),
                "has size 0".into(),
            ));
        }
    }
    for (i, value) in graph.values.iter().enumerate() {
        let id = ValueId(i as u32);
        check_value(graph, id)
            .map_err(|reason| malformed(format!("value `{}`", value.name), reason))?;
    }
    for state in &graph.states {
        check_state(graph, &state.kind, &state.axes)
            .map_err(|reason| malformed(format!("state `{}`", state.name), reason))?;
    }
    for recurrence in &graph.recurrences {
        check_recurrence(graph, recurrence)
            .map_err(|reason| malformed(format!("recurrence `{}`", recurrence.name), reason))?;
    }
    let mut owners = vec![0usize; graph.states.len()];
    for (i, op) in graph.ops.iter().enumerate() {
        check_op(graph, OpId(i as u32), op, &mut owners)
            .map_err(|reason| malformed(format!("operation `{}`", op.name), reason))?;
    }
    for (state, owners) in graph.states.iter().zip(owners) {
        if owners != 1 {
            return Err(malformed(
                format!("state `{}`", state.name),
                format!("is brought up to date by {owners} operations, wants one"),
            ));
        }
    }
    for id in graph.inputs.iter().chain(&graph.outputs) {
        if id.index() >= graph.values.len() {
            return Err(malformed(
                "inputs and outputs".into(),
                format!("value {} does not exist", id.0),
            ));
        }
    }
    last_row::check(graph).map_err(|(op, reason)| {
        let name = &graph.op(op).name;
        malformed(format!("operation {} (`{name}`)", op.0), reason)
    })
}

fn ensure(ok: bool, reason: impl FnOnce() -> String) -> Checked {
    if ok { Ok(()) } else { Err(reason()) }
}

/// Axes exist, differ from each other, and their product is of sane size.
fn check_axes(graph: &Graph, axes: &[AxisId]) -> Checked {
    let mut elements = 1usize;
    for (i, axis) in axes.iter().enumerate() {
        let known = graph.axes.get(axis.0 as usize);
        let size = known
            .ok_or_else(|| format!("axis {} does not exist", axis.0))?
            .size;
        ensure(!axes[..i].contains(axis), || {
            format!("axis `{}` occurs twice", graph.axis_name(*axis))
        })?;
        elements = elements
            .checked_mul(size)
            .filter(|n| *n <= MAX_ELEMENTS)
            .ok_or_else(|| format!("has more than {MAX_ELEMENTS} elements"))?;
    }
    ensure(axes.len() + 2 <= MAX_VARIABLES, || {
        format!(
            "has {} axes, at most {} are supported",
            axes.len(),
            MAX_VARIABLES - 2
        )
    })
}

fn check_value(graph: &Graph, id: ValueId) -> Checked {
    let value = graph.value(id);
    check_axes(graph, &value.axes)?;
    match value.def {
        Def::Input => ensure(graph.inputs.contains(&id), || {
            "is an input that the graph does not list".into()
        }),
        Def::Param(p) => {
            ensure(p.index() < graph.params.len(), || {
                format!("parameter {} does not exist", p.0)
            })?;
            ensure(!value.rows && value.precision != Precision::Index, || {
                "is a parameter, but has rows or holds ids".into()
            })
        }
        Def::Op(op, k) => {
            let op = graph.ops.get(op.index());
            ensure(
                op.is_some_and(|op| op.outputs.get(k as usize) == Some(&id)),
                || "is not what its operation says it computes".into(),
            )?;
            ensure(value.precision != Precision::Index, || {
                "is computed, but holds token ids".into()
            })
        }
    }
}

fn check_state(graph: &Graph, kind: &StateKind, axes: &[AxisId]) -> Checked {
    check_axes(graph, axes)?;
    let StateKind::Tail { value, width } = *kind else {
        return Ok(());
    };
    ensure(value.index() < graph.values.len(), || {
        format!("value {} does not exist", value.0)
    })?;
    let value = graph.value(value);
    ensure((1..1 << 20).contains(&width), || {
        format!("has width {width}")
    })?;
    ensure(value.rows && value.axes == axes, || {
        format!(
            "is the tail of `{}`, which has other axes or no rows",
            value.name
        )
    })?;
    ensure(value.precision != Precision::Index, || {
        format!("is the tail of `{}`, which holds token ids", value.name)
    })
}

fn check_expr(expr: &Expr, inputs: usize, variables: &[AxisId]) -> Checked {
    fn depth_at_most(expr: &Expr, limit: usize) -> bool {
        limit > 0
            && match expr {
                Expr::Unary(_, a) => depth_at_most(a, limit - 1),
                Expr::Binary(_, a, b) => depth_at_most(a, limit - 1) && depth_at_most(b, limit - 1),
                _ => true,
            }
    }
    ensure(depth_at_most(expr, MAX_DEPTH), || {
        format!("its expression is nested deeper than {MAX_DEPTH}")
    })?;
    let mut result = Ok(());
    expr.walk(&mut |e| match e {
        Expr::Input(i) if *i >= inputs => {
            result = Err(format!("its expression reads input {i} of {inputs}"));
        }
        Expr::Index(a) if !variables.contains(a) => {
            result = Err(format!("its expression reads the index of axis {}", a.0));
        }
        _ => {}
    });
    result
}

fn check_recurrence(graph: &Graph, recurrence: &Recurrence) -> Checked {
    for input in &recurrence.inputs {
        check_axes(graph, &input.axes)?;
    }
    for state in &recurrence.states {
        check_axes(graph, &state.axes)?;
    }
    let exists = |item: StepRef, ops: usize| match item {
        StepRef::Input(i) => i < recurrence.inputs.len(),
        StepRef::State(i) => i < recurrence.states.len(),
        StepRef::Op(i) => i < ops,
    };
    for (k, op) in recurrence.ops.iter().enumerate() {
        let mut variables = op.axes.clone();
        if let crate::StepKind::Reduce { axes, .. } = &op.kind {
            variables.extend(axes);
        }
        let place = |reason| format!("statement `{}`: {reason}", op.name);
        check_axes(graph, &variables).map_err(place)?;
        check_expr(&op.expr, op.inputs.len(), &variables).map_err(place)?;
        for access in &op.inputs {
            ensure(exists(access.item, k), || {
                place(format!("reads {:?}, which is not there yet", access.item))
            })?;
            let own = recurrence.axes_of(access.item);
            let fits = own.len() == access.axes.len()
                && own
                    .iter()
                    .zip(&access.axes)
                    .all(|(own, by)| variables.contains(by) && graph.size(*own) == graph.size(*by));
            ensure(fits, || {
                place(format!(
                    "reads {:?} along axes that do not fit",
                    access.item
                ))
            })?;
        }
    }
    let all = recurrence.ops.len();
    let mut results = recurrence.next.iter().chain(&recurrence.outputs);
    ensure(results.all(|item| exists(*item, all)), || {
        "returns something that is not there".into()
    })?;
    let next = recurrence.next.iter().zip(&recurrence.states);
    let fits = recurrence.next.len() == recurrence.states.len()
        && next
            .into_iter()
            .all(|(item, state)| recurrence.axes_of(*item) == state.axes);
    ensure(fits, || {
        "its next states have other axes than its states".into()
    })
}

/// Every index stays in range and runs along variables that there are.
fn check_index(
    graph: &Graph,
    axes: &[AxisId],
    index: &[crate::IndexExpr],
    variables: &[AxisId],
) -> Checked {
    ensure(index.len() == axes.len(), || {
        format!(
            "with {} indices, there are {} axes",
            index.len(),
            axes.len()
        )
    })?;
    for (index, axis) in index.iter().zip(axes) {
        let (mut low, mut high) = (i128::from(index.base), i128::from(index.base));
        for (i, (variable, coefficient)) in index.terms.iter().enumerate() {
            ensure(variables.contains(variable), || {
                format!("along axis {} that it does not have", variable.0)
            })?;
            ensure(index.terms[..i].iter().all(|t| t.0 != *variable), || {
                "by one axis twice".into()
            })?;
            let reach = i128::from(*coefficient) * (graph.size(*variable) as i128 - 1);
            low += reach.min(0);
            high += reach.max(0);
        }
        ensure(low >= 0 && high < graph.size(*axis) as i128, || {
            format!(
                "at {low}..={high} along `{}`, which has {} elements",
                graph.axis_name(*axis),
                graph.size(*axis)
            )
        })?;
    }
    Ok(())
}

/// An operand was made before, its index stays in range, and its rows and tail fit.
fn check_access(graph: &Graph, at: OpId, access: &Access, variables: &[AxisId]) -> Checked {
    ensure(access.value.index() < graph.values.len(), || {
        format!("value {} does not exist", access.value.0)
    })?;
    let value = graph.value(access.value);
    if let Def::Op(by, _) = value.def {
        ensure(by < at, || {
            format!("reads `{}` before it is computed", value.name)
        })?;
    }
    ensure(access.index.len() == value.axes.len(), || {
        format!(
            "reads `{}` with {} indices, it has {} axes",
            value.name,
            access.index.len(),
            value.axes.len()
        )
    })?;
    check_index(graph, &value.axes, &access.index, variables)
        .map_err(|reason| format!("reads `{}` {reason}", value.name))?;
    let delayable = value.rows && value.precision != Precision::Index;
    ensure(delayable || access.delay == 0, || {
        format!(
            "delays `{}`, which has no rows or holds token ids",
            value.name
        )
    })?;
    ensure(access.tail.is_some() == (access.delay > 0), || {
        format!(
            "reads `{}` delayed by {} with a tail that does not fit",
            value.name, access.delay
        )
    })?;
    if let Some(tail) = access.tail {
        let holds = graph.states.get(tail.index()).map(|s| s.kind);
        let fits = matches!(holds, Some(StateKind::Tail { value, width })
            if value == access.value && i64::from(width) >= i64::from(access.delay));
        ensure(fits, || {
            format!(
                "its tail does not hold {} rows of `{}`",
                access.delay, value.name
            )
        })?;
    }
    Ok(())
}

fn check_op(graph: &Graph, id: OpId, op: &Op, owners: &mut [usize]) -> Checked {
    let wants = |inputs: usize, outputs: usize| {
        ensure(
            op.inputs.len() == inputs && op.outputs.len() == outputs,
            || {
                format!(
                    "has {} inputs and {} outputs, wants {inputs} and {outputs}",
                    op.inputs.len(),
                    op.outputs.len()
                )
            },
        )
    };
    ensure(
        !op.outputs.is_empty() && op.outputs.iter().all(|v| v.index() < graph.values.len()),
        || "has no output, or one that does not exist".into(),
    )?;
    for (k, output) in op.outputs.iter().enumerate() {
        ensure(graph.value(*output).def == Def::Op(id, k as u32), || {
            format!("its output `{}` says otherwise", graph.value(*output).name)
        })?;
    }
    // An operation that sums over rows reads them.
    let sums = matches!(
        op.kind,
        OpKind::Contract { .. }
            | OpKind::ScatterRows
            | OpKind::Reduce {
                combine: crate::Combine::Sum,
                ..
            }
    );
    let rows = graph.value(op.outputs[0]).rows || sums;
    let axes = &graph.value(op.outputs[0]).axes;
    let mut variables = axes.clone();
    match &op.kind {
        OpKind::Map { expr } => {
            wants(op.inputs.len(), 1)?;
            check_expr(expr, op.inputs.len(), axes)?;
        }
        OpKind::Reduce { expr, axes, .. } => {
            wants(op.inputs.len(), 1)?;
            variables.extend(axes);
            check_expr(expr, op.inputs.len(), &variables)?;
        }
        OpKind::Norm {
            axes: over,
            gain,
            bias,
            ..
        } => {
            wants(1 + usize::from(*gain) + usize::from(*bias), 1)?;
            ensure(over.iter().all(|a| axes.contains(a)), || {
                "normalises over an axis that its output lacks".into()
            })?;
        }
        OpKind::Contract { axes } => {
            wants(2, 1)?;
            variables.extend(axes);
        }
        OpKind::Gather => {
            wants(2, 1)?;
            let first = op.inputs[0].index.first();
            ensure(
                first.is_some_and(|i| i.base == 0 && i.terms.is_empty()),
                || "its table is not indexed by 0 along its first axis".into(),
            )?;
        }
        OpKind::Attend {
            axes: over,
            window,
            scale,
        } => {
            wants(3, 1)?;
            check_attention(graph, op, over, *window, *scale)?;
            variables.extend(over);
        }
        // Checked for the whole graph.
        OpKind::LastRow => return check_last_row(graph, id, op),
        OpKind::Scatter { axes: from, index } => {
            wants(1, 1)?;
            check_index(graph, axes, index, from)?;
            variables.clone_from(from);
        }
        OpKind::ScatterRows => {
            wants(2, 1)?;
            let value = graph.value(op.outputs[0]);
            ensure(!value.rows && !value.axes.is_empty(), || {
                "gives a table that has rows, or no entries".into()
            })?;
            let given = graph.values.get(op.inputs[0].value.index());
            ensure(given.is_some_and(|v| v.rows), || {
                "is given something without rows".into()
            })?;
            variables.remove(0);
        }
        OpKind::AttendBack {
            axes: over,
            window,
            scale,
        } => {
            wants(4, 3)?;
            check_attention(graph, op, over, *window, *scale)?;
            for (access, output) in op.inputs.iter().zip(&op.outputs) {
                let of = graph.values.get(access.value.index());
                let own = graph.value(*output);
                ensure(
                    of.is_some_and(|v| v.axes == own.axes && v.rows == own.rows),
                    || format!("its output `{}` is not like its operand", own.name),
                )?;
            }
            let cotangent = &op.inputs[3];
            let of = graph.values.get(cotangent.value.index());
            variables = of.map_or(Vec::new(), |v| v.axes.clone());
            ensure(
                of.is_some_and(|v| v.rows) && cotangent.is_plain(&variables),
                || "its cotangent is not read as it is".into(),
            )?;
            variables.extend(over);
        }
        OpKind::CumSum { axis } => {
            wants(1, 1)?;
            ensure(axes.contains(axis), || "sums along an axis it lacks".into())?;
        }
        OpKind::Scan { recurrence, states } => {
            return check_scan(graph, id, op, *recurrence, states, owners);
        }
    }
    check_axes(graph, &variables)?;
    for access in &op.inputs {
        check_access(graph, id, access, &variables)?;
    }
    check_operands(
        graph,
        op,
        rows || matches!(op.kind, OpKind::AttendBack { .. }),
    )?;
    check_tails(graph, op, owners)
}

fn check_last_row(graph: &Graph, id: OpId, op: &Op) -> Checked {
    for access in &op.inputs {
        let of = graph.values.get(access.value.index());
        check_access(graph, id, access, of.map_or(&[][..], |v| &v.axes))?;
    }
    check_operands(graph, op, true)
}

fn check_attention(graph: &Graph, op: &Op, over: &[AxisId], window: u32, scale: f64) -> Checked {
    ensure(window >= 1 && scale.is_finite(), || {
        format!("attends to {window} rows, with a scale of {scale}")
    })?;
    let delays = [0, i64::from(window) - 1, i64::from(window) - 1];
    let back = matches!(op.kind, OpKind::AttendBack { .. });
    for (access, delay) in op.inputs.iter().zip(delays) {
        ensure(i64::from(access.delay) == delay, || {
            format!(
                "reads an operand delayed by {}, wants {delay}",
                access.delay
            )
        })?;
    }
    let cached = op.inputs.iter().skip(1).map(|a| a.value);
    let given = op.outputs.iter().copied().take(usize::from(!back));
    for value in cached.chain(given) {
        let value = graph.values.get(value.index());
        ensure(value.is_some_and(|v| v.rows), || {
            "attends to, or gives, something without rows".into()
        })?;
    }
    let values = op.inputs.get(2).map_or(&[][..], |a| &a.index);
    let summed = values
        .iter()
        .any(|index| index.terms.iter().any(|term| over.contains(&term.0)));
    ensure(!summed, || "its values run over a summed axis".into())
}

fn check_operands(graph: &Graph, op: &Op, rows: bool) -> Checked {
    for (k, access) in op.inputs.iter().enumerate() {
        let value = graph.value(access.value);
        ensure(rows || !value.rows, || {
            format!("reads the rows of `{}`, but has none", value.name)
        })?;
        let ids = matches!(op.kind, OpKind::Gather | OpKind::ScatterRows) && k == 1;
        ensure((value.precision == Precision::Index) == ids, || {
            format!("reads `{}`, which is of the wrong type", value.name)
        })?;
    }
    Ok(())
}

fn check_tails(graph: &Graph, op: &Op, owners: &mut [usize]) -> Checked {
    for tail in &op.tails {
        let kind = graph.states.get(tail.index()).map(|s| s.kind);
        let Some(StateKind::Tail { value, .. }) = kind else {
            return Err(format!("state {} is not a tail", tail.0));
        };
        ensure(op.inputs.iter().any(|a| a.value == value), || {
            format!(
                "updates the tail of `{}` without reading it",
                graph.value(value).name
            )
        })?;
        owners[tail.index()] += 1;
    }
    Ok(())
}

fn check_scan(
    graph: &Graph,
    id: OpId,
    op: &Op,
    recurrence: crate::RecurrenceId,
    states: &[StateId],
    owners: &mut [usize],
) -> Checked {
    let definition = graph.recurrences.get(recurrence.index());
    let definition =
        definition.ok_or_else(|| format!("recurrence {} does not exist", recurrence.0))?;
    ensure(
        op.inputs.len() == definition.inputs.len()
            && op.outputs.len() == definition.outputs.len()
            && states.len() == definition.states.len(),
        || {
            format!(
                "does not have the inputs, outputs and states of `{}`",
                definition.name
            )
        },
    )?;
    for (access, formal) in op.inputs.iter().zip(&definition.inputs) {
        check_access(graph, id, access, &formal.axes)?;
    }
    for (output, item) in op.outputs.iter().zip(&definition.outputs) {
        let value = graph.value(*output);
        ensure(
            value.rows && value.axes == definition.axes_of(*item),
            || format!("its output `{}` has other axes, or no rows", value.name),
        )?;
    }
    for (state, formal) in states.iter().zip(&definition.states) {
        let fits = graph
            .states
            .get(state.index())
            .is_some_and(|s| matches!(s.kind, StateKind::Scan { .. }) && s.axes == formal.axes);
        ensure(fits, || {
            format!("state {} does not fit `{}`", state.0, formal.name)
        })?;
        match formal.kept {
            true => owners[state.index()] += 1,
            false => ensure(owners[state.index()] == 0, || {
                format!(
                    "state {} is taken up after it was brought up to date",
                    state.0
                )
            })?,
        }
    }
    check_operands(graph, op, true)?;
    check_tails(graph, op, owners)
}
