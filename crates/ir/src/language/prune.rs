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
    let places: Vec<usize> = live
        .iter()
        .scan(0, |n, keep| {
            let at = *n;
            *n += usize::from(*keep);
            Some(at)
        })
        .collect();
    let moved = |item: &mut StepRef| {
        if let StepRef::Op(i) = item {
            *i = places[*i];
        }
    };
    let mut keep = live.iter();
    recurrence
        .ops
        .retain(|_| keep.next().copied().unwrap_or(false));
    for op in &mut recurrence.ops {
        op.inputs.iter_mut().for_each(|a| moved(&mut a.item));
    }
    recurrence.next.iter_mut().for_each(moved);
    recurrence.outputs.iter_mut().for_each(moved);
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
    let places: Vec<usize> = keep
        .iter()
        .scan(0, |n, keep| {
            let at = *n;
            *n += usize::from(*keep);
            Some(at)
        })
        .collect();
    let moved = |item: &mut StepRef| {
        if let StepRef::Input(i) = item {
            *i = places[*i];
        }
    };
    for op in &mut recurrence.ops {
        op.inputs.iter_mut().for_each(|a| moved(&mut a.item));
    }
    recurrence.next.iter_mut().for_each(moved);
    recurrence.outputs.iter_mut().for_each(moved);
    let mut flags = keep.iter();
    recurrence
        .inputs
        .retain(|_| flags.next().copied().unwrap_or(true));
    let mut flags = keep.iter();
    sources.retain(|_| flags.next().copied().unwrap_or(true));
}
