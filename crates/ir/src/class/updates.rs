//! A step as several updates of its only state, one after the other.
//!
//! A statement through which everything that the state becomes is computed from what it was is a cut:
//! what comes before it is a step of its own, and so is what comes after it. Each stage between cuts is
//! matched by itself, so that no product of two updates is ever written out, however many there are.

use super::coefficients::Coefficients;
use super::failure::Failure;
use super::form::{Subject, finished};
use super::low_rank::{Stage, factors_of, has_sums, of_stages};
use super::normal::Normal;
use super::{Classified, Reason};
use crate::{AxisId, Graph, Recurrence, StepAccess, StepOp, StepRef};

/// Most cuts that are looked at.
const MAX_CUTS: usize = 256;

/// The only state.
const STATE: StepRef = StepRef::State(0);

/// The class of a step that updates its state several times. `None` if it is no such step.
pub(super) fn classify(graph: &Graph, step: &Recurrence) -> Option<Result<Classified, Failure>> {
    if step.states.len() != 1 {
        return None;
    }
    let cuts = cuts(step);
    if !(2..=MAX_CUTS).contains(&cuts.len()) {
        return None;
    }
    match spans(graph, step, &cuts) {
        Ok(spans) if spans.len() < 2 => None,
        Ok(spans) => Some(of_spans(graph, step, &spans)),
        Err(failure) => Some(Err(failure)),
    }
}

/// A stage: the cut at which it starts, which is none for the first one, and that at which it ends.
type Span = (Option<usize>, usize);

/// As few stages as are one update each.
fn spans(graph: &Graph, step: &Recurrence, cuts: &[usize]) -> Result<Vec<Span>, Failure> {
    let mut spans: Vec<Span> = Vec::new();
    let (mut start, mut at) = (None, 0);
    while at < cuts.len() {
        let mut end = at;
        alone(graph, &stage(step, start, cuts[at], false))?;
        while end + 1 < cuts.len() {
            let longer = stage(step, start, cuts[end + 1], false);
            match alone(graph, &longer) {
                Ok(false) => end += 1,
                Ok(true) | Err(_) => break,
            }
        }
        spans.push((start, cuts[end]));
        start = Some(cuts[end]);
        at = end + 1;
    }
    Ok(spans)
}

fn of_spans(graph: &Graph, step: &Recurrence, spans: &[Span]) -> Result<Classified, Failure> {
    // Outputs read the state around one of the stages, most often the last one.
    let reading = (0..spans.len())
        .rev()
        .find(|n| spans[*n].0.is_none_or(|start| reads_after(step, start)))
        .unwrap_or(0);
    let mut steps = Vec::new();
    for (n, (start, end)) in spans.iter().enumerate() {
        steps.push(stage(step, *start, *end, n == reading));
    }
    let mut normals = Vec::new();
    for step in &steps {
        normals.push(Normal::of(graph, step)?);
    }
    let mut rest = normals[reading].outputs.clone();
    let mut stages = Vec::new();
    for (step, normal) in steps.iter().zip(&normals) {
        let subject = subject(graph, step, normal);
        let parts = subject.parts(subject.update);
        let parts = parts.map_err(|why| Failure::from(why).within(step, step.next[0]))?;
        stages.push(Stage { subject, parts });
    }
    let mut coefficients = Coefficients::new(graph, step);
    let class = of_stages(&stages, reading, &mut rest, &mut coefficients)?;
    finished(vec![class], &rest, coefficients)
}

fn subject<'a>(graph: &'a Graph, step: &'a Recurrence, normal: &'a Normal) -> Subject<'a> {
    let update = &normal.next[0];
    Subject {
        graph,
        step,
        state: 0,
        axes: &step.states[0].axes,
        update,
        added: update.free(),
    }
}

/// Whether a stage is one update; if so, whether its coefficients hold sums, as those of several updates
/// that are written as one do.
fn alone(graph: &Graph, step: &Recurrence) -> Result<bool, Failure> {
    let normal = Normal::of(graph, step)?;
    let subject = subject(graph, step, &normal);
    let within = |why: Reason| Failure::from(why).within(step, step.next[0]);
    let parts = subject.parts(subject.update).map_err(within)?;
    let factors = factors_of(&subject, &parts);
    let factors = factors.iter().flat_map(|(a, b)| [a, b]);
    Ok(factors
        .chain([&subject.added, &parts.diagonal])
        .any(has_sums))
}

/// The statements of the state's axes on every way from the state to what it becomes, in order; that
/// which it becomes is the last.
fn cuts(step: &Recurrence) -> Vec<usize> {
    let StepRef::Op(last) = step.next[0] else {
        return vec![];
    };
    // Whether an item depends on the state, not through statement number `without`.
    let reached = |without: Option<usize>| -> bool {
        let mut depends = vec![false; step.ops.len()];
        for (i, op) in step.ops.iter().enumerate() {
            depends[i] = Some(i) != without
                && op.inputs.iter().any(|access| match access.item {
                    StepRef::State(_) => true,
                    StepRef::Op(j) => depends[j],
                    StepRef::Input(_) => false,
                });
        }
        depends[last]
    };
    if !reached(None) {
        return vec![];
    }
    let own = &step.states[0].axes;
    let of_state =
        |op: &StepOp| op.axes.len() == own.len() && own.iter().all(|axis| op.axes.contains(axis));
    let before = step.ops.iter().enumerate().take(last);
    let mut cuts: Vec<usize> = before
        .filter(|(i, op)| of_state(op) && !reached(Some(*i)))
        .map(|(i, _)| i)
        .collect();
    cuts.push(last);
    cuts
}

/// Whether no output reads the state before a cut.
fn reads_after(step: &Recurrence, cut: usize) -> bool {
    let needed = needed(step, Some(cut), step.outputs.iter().copied());
    let ops = step.ops.iter().zip(needed).filter(|(_, needed)| *needed);
    let mut reads = ops.flat_map(|(op, _)| op.inputs.iter().map(|access| access.item));
    // An output that is the cut itself may have its axes in another order.
    let given = step.outputs.iter();
    !reads.any(|item| item == STATE)
        && given
            .into_iter()
            .all(|item| *item != STATE && *item != StepRef::Op(cut))
}

/// The statements that some items are computed from, not those below a cut.
fn needed(
    step: &Recurrence,
    cut: Option<usize>,
    items: impl IntoIterator<Item = StepRef>,
) -> Vec<bool> {
    let mut needed = vec![false; step.ops.len()];
    let mark = |needed: &mut Vec<bool>, item: StepRef| {
        if let StepRef::Op(i) = item
            && Some(i) != cut
        {
            needed[i] = true;
        }
    };
    for item in items {
        mark(&mut needed, item);
    }
    for i in (0..step.ops.len()).rev() {
        if needed[i] {
            for access in &step.ops[i].inputs {
                mark(&mut needed, access.item);
            }
        }
    }
    needed
}

/// The step from one cut to another: its state is what the first one computes.
fn stage(step: &Recurrence, start: Option<usize>, end: usize, outputs: bool) -> Recurrence {
    let outputs = match outputs {
        true => step.outputs.clone(),
        false => vec![],
    };
    let ends = outputs.iter().copied().chain([StepRef::Op(end)]);
    let needed = needed(step, start, ends);
    let mut places: Vec<usize> = Vec::new();
    let mut ops: Vec<StepOp> = Vec::new();
    let own = &step.states[0].axes;
    // Each axis of the state is indexed by what indexes it in the cut.
    let of_state = |access: &StepAccess, axes: &[AxisId]| StepAccess {
        item: STATE,
        axes: own
            .iter()
            .map(|axis| {
                let at = axes.iter().position(|a| a == axis);
                at.and_then(|at| access.axes.get(at))
                    .copied()
                    .unwrap_or(*axis)
            })
            .collect(),
    };
    for (op, needed) in step.ops.iter().zip(&needed) {
        places.push(ops.len());
        if !needed {
            continue;
        }
        let inputs = op.inputs.iter().map(|access| match access.item {
            StepRef::Op(i) if Some(i) == start => of_state(access, &step.ops[i].axes),
            StepRef::Op(i) => StepAccess {
                item: StepRef::Op(places[i]),
                axes: access.axes.clone(),
            },
            _ => access.clone(),
        });
        ops.push(StepOp {
            inputs: inputs.collect(),
            ..op.clone()
        });
    }
    let placed = |item: StepRef| match item {
        StepRef::Op(i) if Some(i) == start => STATE,
        StepRef::Op(i) => StepRef::Op(places[i]),
        item => item,
    };
    Recurrence {
        ops,
        next: vec![placed(StepRef::Op(end))],
        outputs: outputs.into_iter().map(placed).collect(),
        ..step.clone()
    }
}
