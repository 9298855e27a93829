//! A state that is read along several of its axes, through itself and through its transpose, as one recurrence
//! for each way of reading it.
//!
//! What the state becomes does not depend on who reads it, so each of them brings it up to date for itself. The
//! last one keeps it for the next run; the others take it up as it was before the run
//! ([`crate::StepState::kept`]). Of value only where each of them then is of a class that the whole is not.

use super::pieces::{Component, name};
use crate::class::{Class, classify};
use crate::{AxisId, Combine, Graph, Recurrence, StepInput, StepKind, StepRef};
use std::collections::BTreeSet;

/// The recurrences of a component, one for each set of axes over which its state is summed; the component
/// itself if that is the same for all, or gains nothing.
pub(super) fn apart(graph: &Graph, step: &Recurrence, component: Component) -> Vec<Component> {
    match groups(graph, &component) {
        Some(groups) => written(step, &component, &groups),
        None => vec![component],
    }
}

/// Whether a component is several.
pub(super) fn are_several(graph: &Graph, component: &Component) -> bool {
    groups(graph, component).is_some()
}

/// Outputs by the axes over which they sum the state, each group with an algorithm of its own. `None` where there is
/// one group only, or one has none.
fn groups(graph: &Graph, component: &Component) -> Option<Vec<Vec<usize>>> {
    let whole = &component.recurrence;
    if whole.states.len() != 1 || !whole.direction.is_forward() || !sums_several_ways(whole) {
        return None;
    }
    let mut groups: Vec<(BTreeSet<AxisId>, Vec<usize>)> = Vec::new();
    let mut others: Vec<usize> = Vec::new();
    for output in 0..whole.outputs.len() {
        match summed(graph, &whole.with_outputs(&[output]))? {
            over if over.is_empty() => others.push(output),
            over => match groups.iter_mut().find(|(known, _)| *known == over) {
                Some((_, members)) => members.push(output),
                None => groups.push((over, vec![output])),
            },
        }
    }
    if groups.len() < 2 {
        return None;
    }
    // What reads no state is computed beside any.
    if let Some((_, first)) = groups.first_mut() {
        first.extend(others);
        first.sort_unstable();
    }
    let groups: Vec<Vec<usize>> = groups.into_iter().map(|(_, members)| members).collect();
    let has_class = |members: &Vec<usize>| summed(graph, &whole.with_outputs(members)).is_some();
    groups.iter().all(has_class).then_some(groups)
}

/// Whether sums over axes of the state run over different ones of them: without that there is nothing to ask.
fn sums_several_ways(step: &Recurrence) -> bool {
    let own = &step.states[0].axes;
    let sums = step.ops.iter().filter_map(|op| match &op.kind {
        StepKind::Reduce {
            combine: Combine::Sum,
            axes,
        } => Some(axes.iter().filter(|axis| own.contains(axis)).collect()),
        _ => None,
    });
    let ways: BTreeSet<BTreeSet<&AxisId>> =
        sums.filter(|of: &BTreeSet<_>| !of.is_empty()).collect();
    ways.len() > 1
}

/// The axes over which all outputs sum the state, where it has columns that go through the step alike, as
/// products of matrices need them; none if no output reads it. `None` for any other class.
fn summed(graph: &Graph, step: &Recurrence) -> Option<BTreeSet<AxisId>> {
    let found = classify(graph, step);
    let [class] = found.states.as_slice() else {
        return None;
    };
    let layout = match class {
        Class::DiagonalOuter { layout, .. }
        | Class::DiagonalRankOne { layout, .. }
        | Class::DiagonalLowRank { layout, .. } => layout,
        // Read by nobody, it is summed over nothing.
        _ if class.reads().is_empty() && !matches!(class, Class::General { .. }) => {
            return Some(BTreeSet::new());
        }
        _ => return None,
    };
    (!layout.value.is_empty()).then(|| layout.key.iter().copied().collect())
}

/// The components of some groups, the last of which keeps the state.
fn written(step: &Recurrence, component: &Component, groups: &[Vec<usize>]) -> Vec<Component> {
    let mut out: Vec<Component> = Vec::new();
    for (n, members) in groups.iter().enumerate() {
        let keeps = n + 1 == groups.len();
        let mut recurrence = component.recurrence.with_outputs(members);
        recurrence.states[0].kept = keeps;
        let inputs = recurrence.drop_unused_inputs();
        let mut inputs: Vec<StepRef> = inputs.iter().map(|i| component.inputs[*i]).collect();
        let outputs: Vec<StepRef> = members.iter().map(|o| component.outputs[*o]).collect();
        if keeps {
            // It comes after the others, since it reads something of each; none of its statements does.
            for other in &out {
                let item = other.outputs[0];
                inputs.push(item);
                recurrence.inputs.push(StepInput {
                    name: format!("after_{}", name(step, item)),
                    axes: step.axes_of(item).to_vec(),
                });
            }
        }
        let names: Vec<&str> = outputs.iter().map(|item| name(step, *item)).collect();
        out.push(Component {
            name: names.join("_"),
            states: component.states.clone(),
            inputs,
            outputs,
            recurrence,
            id: component.id,
        });
    }
    out
}
