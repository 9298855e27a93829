//! What of a step nothing needs: statements, and inputs of which only parts are read.

use super::picked::Source;
use crate::{Recurrence, StepRef};

/// Drops statements that neither a state nor an output needs.
pub(super) fn remove_dead(recurrence: &mut Recurrence) {
    let mut live = vec![false; recurrence.ops.len()];
    let mark = |live: &mut Vec<bool>, item: StepRef| {
        if let StepRef::Op(i) = item {
            live[i] = true;
        }
    };
    for item in recurrence.next.iter().chain(&recurrence.outputs) {
        mark(&mut live, *item);
    }
    for i in (0..recurrence.ops.len()).rev() {
        if live[i] {
            for access in &recurrence.ops[i].inputs {
                mark(&mut live, access.item);
            }
        }
    }
    let places = places(&live);
    retain(&mut recurrence.ops, &live);
    rename(recurrence, |item| {
        if let StepRef::Op(i) = item {
            *i = places[*i];
        }
    });
}

/// Drops the inputs of which the step reads picked parts only, with their sources: the parts are
/// inputs of their own. An input that nothing reads at all stays, as it was declared.
pub(super) fn remove_whole(recurrence: &mut Recurrence, sources: &mut Vec<Source>) {
    let mut read = vec![false; recurrence.inputs.len()];
    let ops = recurrence.ops.iter().flat_map(|op| &op.inputs);
    let items = ops.map(|access| access.item);
    let ends = recurrence.next.iter().chain(&recurrence.outputs).copied();
    for item in items.chain(ends) {
        if let StepRef::Input(i) = item {
            read[i] = true;
        }
    }
    let keep: Vec<bool> = (0..sources.len())
        .map(|i| {
            let picked = |s: &Source| s.formal == sources[i].formal && !s.picks.is_empty();
            read[i] || !sources.iter().any(picked)
        })
        .collect();
    let places = places(&keep);
    rename(recurrence, |item| {
        if let StepRef::Input(i) = item {
            *i = places[*i];
        }
    });
    retain(&mut recurrence.inputs, &keep);
    retain(sources, &keep);
}

/// The place of each item among those that are kept.
fn places(keep: &[bool]) -> Vec<usize> {
    let kept_before = |n: &mut usize, keep: &bool| {
        let at = *n;
        *n += usize::from(*keep);
        Some(at)
    };
    keep.iter().scan(0, kept_before).collect()
}

/// Keeps the items that are marked so.
fn retain<T>(items: &mut Vec<T>, keep: &[bool]) {
    let mut keep = keep.iter();
    items.retain(|_| keep.next().copied().unwrap_or(true));
}

/// Changes every reference of a step.
fn rename(recurrence: &mut Recurrence, moved: impl Fn(&mut StepRef)) {
    let read = recurrence.ops.iter_mut().flat_map(|op| &mut op.inputs);
    read.for_each(|access| moved(&mut access.item));
    recurrence.next.iter_mut().for_each(&moved);
    recurrence.outputs.iter_mut().for_each(&moved);
}
