//! The rewrite `delayed-input`: a state that becomes an input of the step is that input of the token before.
//!
//! A step that keeps `k` for the next token (`k0 = k`, as the trapezoidal rule is written) carries no recurrence in
//! that state, only a row. A read of the row before says the same without a recurrence, and is computed wherever it is
//! needed, as a token shift is. What is carried from run to run is then the last row of the argument.

use crate::recurrence::Recurrence;
use crate::{Access, Graph, Op, OpKind, Precision, RecurrenceId, StepInput, StepRef, coalesce};

/// Name of the rewrite.
pub const NAME: &str = "delayed-input";

/// Most rows back.
const MOST_DELAY: i32 = 64;

/// The graph without states that only keep an input for the next token: those of which every element is 0 before the
/// first, in steps that have other states. The same graph if there is none.
pub fn delayed(graph: Graph) -> Graph {
    let mut out = graph.clone();
    let mut changed = false;
    for at in 0..out.ops.len() {
        while let Some((step, inputs, gone)) = without_one(&out, &out.ops[at]) {
            let known = out.recurrences.iter().position(|r| *r == step);
            let id = RecurrenceId(known.unwrap_or_else(|| {
                out.recurrences.push(step);
                out.recurrences.len() - 1
            }) as u32);
            let op = &mut out.ops[at];
            op.inputs = inputs;
            if let OpKind::Scan { recurrence, states } = &mut op.kind {
                *recurrence = id;
                states.remove(gone);
            }
            changed = true;
        }
    }
    match changed {
        // States are numbered anew, and stencils get their tails.
        true => coalesce::coalesce(&out),
        false => graph,
    }
}

/// The step and operands of a scan without one of its states, and which it was.
fn without_one(graph: &Graph, op: &Op) -> Option<(Recurrence, Vec<Access>, usize)> {
    let OpKind::Scan { recurrence, .. } = &op.kind else {
        return None;
    };
    let step = graph.recurrence(*recurrence);
    if step.states.len() < 2 || !step.direction.is_forward() {
        return None;
    }
    let found = step.next.iter().enumerate().find_map(|(state, next)| {
        let StepRef::Input(i) = next else {
            return None;
        };
        let of = &step.states[state];
        let access = op.inputs.get(*i)?;
        let value = graph.value(access.value);
        let rows = value.rows && value.precision != Precision::Index;
        let near = access.delay >= 0 && access.delay < MOST_DELAY;
        let fits = of.init == 0.0 && of.kept && of.axes == step.inputs[*i].axes;
        (rows && near && fits).then_some((state, access))
    });
    let (state, access) = found?;
    let earlier = Access {
        delay: access.delay + 1,
        tail: None,
        ..access.clone()
    };
    let mut out = step.clone();
    let mut inputs = op.inputs.clone();
    let axes = &step.states[state].axes;
    let same = |i: &usize| inputs[*i] == earlier && out.inputs[*i].axes == *axes;
    let known = (0..inputs.len()).find(same);
    let number = known.unwrap_or_else(|| {
        inputs.push(earlier);
        out.inputs.push(StepInput {
            name: step.states[state].name.clone(),
            axes: axes.clone(),
        });
        inputs.len() - 1
    });
    let moved = |item: &mut StepRef| {
        if let StepRef::State(s) = item {
            *item = match (*s).cmp(&state) {
                std::cmp::Ordering::Less => StepRef::State(*s),
                std::cmp::Ordering::Equal => StepRef::Input(number),
                std::cmp::Ordering::Greater => StepRef::State(*s - 1),
            };
        }
    };
    out.states.remove(state);
    out.next.remove(state);
    let reads = out.ops.iter_mut().flat_map(|op| &mut op.inputs);
    let items = reads.map(|access| &mut access.item);
    let ends = out.next.iter_mut().chain(&mut out.outputs);
    items.chain(ends).for_each(moved);
    let used = out.drop_unused_inputs();
    let inputs = used.into_iter().map(|i| inputs[i].clone()).collect();
    Some((out, inputs, state))
}
