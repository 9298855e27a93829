//! Checks that a graph is what its type promises before anything indexes into it.
//!
//! Graphs come from files as well as from the front end; every other file of this
//! crate relies on these checks.

use crate::PlanError;
use fusec_ir::{AxisId, Combine, Def, Expr, Graph, OpKind, Precision, StateId, ValueId, last_row};

/// Refuses a graph with a reference to something that does not exist, a value used before it
/// is made, or an access that does not fit its operand.
pub fn validate(graph: &Graph) -> Result<(), PlanError> {
    let check = Checker { graph };
    if !(0.0..1.0).contains(&graph.zeros) {
        let what = format!("{} is not from 0 to below 1", graph.zeros);
        return check.fail("the share of zeros that is expected", what);
    }
    for (i, axis) in graph.axes.iter().enumerate() {
        if axis.size == 0 {
            return check.fail(format!("axis {i} (`{}`)", axis.name), "its size is 0");
        }
    }
    for value in &graph.values {
        check.axes(&value.axes, &format!("value `{}`", value.name))?;
        match value.def {
            Def::Op(op, n)
                if graph
                    .ops
                    .get(op.index())
                    .is_none_or(|op| op.outputs.len() <= n as usize) =>
            {
                return check.fail(format!("value `{}`", value.name), "no operation makes it");
            }
            _ => {}
        }
    }
    for state in &graph.states {
        check.axes(&state.axes, &format!("state `{}`", state.name))?;
    }
    for v in graph.inputs.iter().chain(&graph.outputs) {
        check.value(*v, "the inputs and outputs")?;
    }
    for (i, op) in graph.ops.iter().enumerate() {
        let place = format!("operation {i} (`{}`)", op.name);
        if op.outputs.is_empty() {
            return check.fail(place, "it has no result");
        }
        for (n, v) in op.outputs.iter().enumerate() {
            check.value(*v, &place)?;
            if graph.value(*v).def != Def::Op(fusec_ir::OpId(i as u32), n as u32) {
                return check.fail(place, "a result names another producer");
            }
        }
        for access in &op.inputs {
            check.value(access.value, &place)?;
            let value = graph.value(access.value);
            if value.axes.len() != access.index.len() {
                return check.fail(
                    place,
                    format!("`{}` is read with the wrong number of indices", value.name),
                );
            }
            for index in &access.index {
                let axes: Vec<AxisId> = index.terms.iter().map(|t| t.0).collect();
                check.axes(&axes, &place)?;
            }
            if graph.producer(access.value).is_some_and(|p| p.index() >= i) {
                return check.fail(place, format!("`{}` is read before it is made", value.name));
            }
            check.states(access.tail.as_slice(), &place)?;
        }
        check.states(&op.tails, &place)?;
        check.kind(i, &place)?;
    }
    if let Err((op, what)) = last_row::check(graph) {
        let place = format!("operation {} (`{}`)", op.0, graph.op(op).name);
        return check.fail(place, what);
    }
    Ok(())
}

struct Checker<'a> {
    graph: &'a Graph,
}

impl Checker<'_> {
    fn fail(&self, place: impl Into<String>, what: impl Into<String>) -> Result<(), PlanError> {
        Err(PlanError::Malformed {
            model: self.graph.name.clone(),
            place: place.into(),
            what: what.into(),
        })
    }

    fn axes(&self, axes: &[AxisId], place: &str) -> Result<(), PlanError> {
        match axes.iter().find(|a| a.0 as usize >= self.graph.axes.len()) {
            Some(a) => self.fail(place, format!("axis {} does not exist", a.0)),
            None => Ok(()),
        }
    }

    fn value(&self, value: ValueId, place: &str) -> Result<(), PlanError> {
        if value.index() >= self.graph.values.len() {
            return self.fail(place, format!("value {} does not exist", value.0));
        }
        Ok(())
    }

    fn states(&self, states: &[StateId], place: &str) -> Result<(), PlanError> {
        match states.iter().find(|s| s.index() >= self.graph.states.len()) {
            Some(s) => self.fail(place, format!("state {} does not exist", s.0)),
            None => Ok(()),
        }
    }

    /// Whether a state holds the rows that an access reads from before the first one.
    fn holds(&self, state: StateId, access: &fusec_ir::Access) -> bool {
        matches!(
            self.graph.state(state).kind,
            fusec_ir::StateKind::Tail { value, width }
                if value == access.value && i64::from(width) >= i64::from(access.delay)
        )
    }

    fn expr(&self, expr: &Expr, inputs: usize, place: &str) -> Result<(), PlanError> {
        let mut bad = false;
        expr.walk(&mut |e| match e {
            Expr::Input(i) => bad |= *i >= inputs,
            Expr::Index(a) => bad |= a.0 as usize >= self.graph.axes.len(),
            _ => {}
        });
        if bad {
            return self.fail(place, "its expression reads an operand that does not exist");
        }
        Ok(())
    }

    /// Refuses what only a transposed graph has: no template executes it.
    fn has_kernels(&self, op: &fusec_ir::Op) -> Result<(), PlanError> {
        let what = match &op.kind {
            OpKind::AttendBack { .. } => "is the transpose of attention",
            _ if self.reads_sum(op) => "reads a sum over all rows",
            _ => return Ok(()),
        };
        Err(PlanError::NoKernels {
            op: op.name.clone(),
            what,
        })
    }

    /// Whether an operation reads a value that only the end of a run knows.
    fn reads_sum(&self, op: &fusec_ir::Op) -> bool {
        let mut makers = op
            .inputs
            .iter()
            .filter_map(|a| self.graph.producer(a.value));
        makers.any(|id| self.graph.sums_rows(self.graph.op(id)))
    }

    /// Refuses a result without rows of something that is no sum, and what no table can be.
    fn sum(&self, op: &fusec_ir::Op, place: &str) -> Result<(), PlanError> {
        let sums = match &op.kind {
            OpKind::Contract { .. } => true,
            OpKind::Reduce { combine, .. } => *combine == Combine::Sum,
            OpKind::ScatterRows => {
                let of = |n: usize| op.inputs.get(n).map(|a| self.graph.value(a.value));
                let result = op.outputs.first().map(|v| self.graph.value(*v));
                result.is_some_and(|v| !v.axes.is_empty())
                    && of(0).is_some_and(|v| v.rows)
                    && of(1).is_some_and(|v| v.rows && v.precision == Precision::Index)
            }
            _ => false,
        };
        match sums && op.outputs.len() == 1 {
            true => Ok(()),
            false => self.fail(place, "it makes a result without rows of some with rows"),
        }
    }

    fn kind(&self, op: usize, place: &str) -> Result<(), PlanError> {
        let op = &self.graph.ops[op];
        self.has_kernels(op)?;
        if self.graph.sums_rows(op) || matches!(op.kind, OpKind::ScatterRows) {
            self.sum(op, place)?;
        }
        let operands = |range: std::ops::RangeInclusive<usize>| {
            if range.contains(&op.inputs.len()) {
                Ok(())
            } else {
                self.fail(place, format!("it has {} operands", op.inputs.len()))
            }
        };
        match &op.kind {
            OpKind::Map { expr } => self.expr(expr, op.inputs.len(), place),
            OpKind::Reduce { expr, axes, .. } => {
                self.axes(axes, place)?;
                self.expr(expr, op.inputs.len(), place)
            }
            OpKind::Norm {
                axes, gain, bias, ..
            } => {
                self.axes(axes, place)?;
                let n = 1 + usize::from(*gain) + usize::from(*bias);
                operands(n..=n)
            }
            OpKind::Contract { axes } => {
                self.axes(axes, place)?;
                operands(2..=2)
            }
            OpKind::Attend {
                axes,
                window,
                scale,
            } => {
                self.axes(axes, place)?;
                operands(3..=3)?;
                let rows = |v: &ValueId| self.graph.value(*v).rows;
                let cached = |access: &fusec_ir::Access| {
                    let delay = i64::from(access.delay);
                    rows(&access.value)
                        && delay + 1 == i64::from(*window)
                        && (delay == 0 || access.tail.is_some_and(|s| self.holds(s, access)))
                };
                let fits = scale.is_finite()
                    && op.inputs[1..].iter().all(cached)
                    && matches!(op.outputs.as_slice(), [v] if rows(v));
                if !fits {
                    return self.fail(place, "its window differs from the rows it keeps");
                }
                Ok(())
            }
            OpKind::Gather => operands(2..=2),
            OpKind::LastRow => operands(1..=usize::MAX),
            OpKind::Scatter { axes, index } => {
                self.axes(axes, place)?;
                let terms = index.iter().flat_map(|i| &i.terms);
                let named: Vec<AxisId> = terms.map(|term| term.0).collect();
                self.axes(&named, place)?;
                let result = self.graph.value(op.outputs[0]);
                if result.axes.len() != index.len() {
                    return self.fail(place, "it places elements with the wrong number of indices");
                }
                operands(1..=1)
            }
            OpKind::ScatterRows => operands(2..=2),
            OpKind::AttendBack { .. } => Ok(()),
            OpKind::CumSum { axis } => {
                self.axes(&[*axis], place)?;
                operands(1..=1)
            }
            OpKind::Scan { recurrence, states } => {
                self.states(states, place)?;
                let Some(step) = self.graph.recurrences.get(recurrence.0 as usize) else {
                    return self.fail(place, "its recurrence does not exist");
                };
                operands(step.inputs.len()..=step.inputs.len())?;
                if states.len() != step.states.len() || op.outputs.len() != step.outputs.len() {
                    return self.fail(place, "its states or results differ from its recurrence's");
                }
                self.step(step, place)
            }
        }
    }

    fn step(&self, step: &fusec_ir::Recurrence, place: &str) -> Result<(), PlanError> {
        use fusec_ir::{StepKind, StepRef};
        let exists = |item: StepRef, ops: usize| match item {
            StepRef::Input(i) => i < step.inputs.len(),
            StepRef::State(i) => i < step.states.len(),
            StepRef::Op(i) => i < ops,
        };
        for input in &step.inputs {
            self.axes(&input.axes, place)?;
        }
        for state in &step.states {
            self.axes(&state.axes, place)?;
        }
        for (i, op) in step.ops.iter().enumerate() {
            self.axes(&op.axes, place)?;
            if let StepKind::Reduce { axes, .. } = &op.kind {
                self.axes(axes, place)?;
            }
            self.expr(&op.expr, op.inputs.len(), place)?;
            for access in &op.inputs {
                if !exists(access.item, i) || step.axes_of(access.item).len() != access.axes.len() {
                    return self.fail(place, format!("step statement `{}` is malformed", op.name));
                }
                self.axes(&access.axes, place)?;
            }
        }
        let refs = step.next.iter().chain(&step.outputs);
        if step.next.len() != step.states.len()
            || !refs.into_iter().all(|r| exists(*r, step.ops.len()))
        {
            return self.fail(
                place,
                "its recurrence returns something that does not exist",
            );
        }
        Ok(())
    }
}
