//! Axes that a transposed step leaves to others to sum over.
//!
//! A step whose head, group or channel axis stands in every state does nothing across it: whoever executes
//! it may take each element apart. Its transpose sums over such an axis for every input that lacks it, and so
//! ties all elements together. Where that ties too many of them, the sum is left outside: the cotangent is
//! handed out along the axis, and added up by an operation of its own.

use crate::{Axis, AxisId, Recurrence, StepKind};

/// Elements of a state that belong together without harm.
const COMFORTABLE: usize = 4096;
/// How many times smaller than the states a cotangent stays that is handed out along a further axis for comfort.
const SMALLER: usize = 8;
/// Elements of a state that may belong together at all: more than a processor's registers hold are of no use.
const MOST: usize = 16384;

/// The axes that sums of a step's transpose leave out, outermost first. `wanted` says which inputs get a
/// cotangent.
pub(super) fn left_out(axes: &[Axis], step: &Recurrence, wanted: &[bool]) -> Vec<AxisId> {
    let size = |axis: &AxisId| axes[axis.0 as usize].size;
    let elements = |of: &[AxisId]| of.iter().map(size).product::<usize>();
    let Some(largest) = step.states.iter().max_by_key(|s| elements(&s.axes)) else {
        return Vec::new();
    };
    let summed = |axis: &AxisId| {
        let mut kinds = step.ops.iter().map(|op| &op.kind);
        kinds.any(|kind| matches!(kind, StepKind::Reduce { axes, .. } if axes.contains(axis)))
    };
    let free = |axis: &&AxisId| {
        let mut states = step.states.iter();
        size(axis) > 1 && states.all(|s| s.axes.contains(axis)) && !summed(axis)
    };
    let inputs = || {
        step.inputs
            .iter()
            .zip(wanted)
            .filter(|(_, wanted)| **wanted)
    };
    let lacking = |axis: &AxisId| {
        let lack = inputs().filter(|(input, _)| !input.axes.contains(axis));
        lack.map(|(input, _)| elements(&input.axes)).max()
    };
    let mut tied: usize = elements(&largest.axes);
    let mut out: Vec<AxisId> = Vec::new();
    let candidates: Vec<&AxisId> = largest.axes.iter().filter(free).collect();
    // What no cotangent lacks ties nothing.
    for axis in &candidates {
        if lacking(axis).is_none() {
            tied /= size(axis).max(1);
        }
    }
    for axis in candidates {
        let Some(most) = lacking(axis) else { continue };
        let wider = most * elements(&out) * size(axis);
        let small = SMALLER * wider <= elements(&largest.axes);
        if tied > MOST || (tied > COMFORTABLE && small) {
            out.push(*axis);
            tied /= size(axis).max(1);
        }
    }
    out
}
