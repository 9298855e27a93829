//! Parts of an input that a step picks by index, `k[M = 0]`: each is an input of its own, which
//! the call reads from the same argument.

use crate::{AxisId, StepInput};

/// Where an input of a lowered step comes from.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Source {
    /// Which of the declared inputs.
    pub formal: usize,
    /// The axes of it that are picked from, with the index along each; none: all of it.
    pub picks: Vec<(AxisId, i64)>,
}

impl Source {
    /// All of a declared input.
    pub fn whole(formal: usize) -> Self {
        Source {
            formal,
            picks: Vec::new(),
        }
    }
}

/// The input that holds these parts of another one, made if there is none yet.
pub(super) fn pick(
    inputs: &mut Vec<StepInput>,
    sources: &mut Vec<Source>,
    of: usize,
    picks: &[(AxisId, i64)],
) -> usize {
    let mut source = sources[of].clone();
    source.picks.extend_from_slice(picks);
    if let Some(known) = sources.iter().position(|s| *s == source) {
        return known;
    }
    let picked = |axis: &AxisId| source.picks.iter().any(|(a, _)| a == axis);
    let axes = inputs[of].axes.iter().copied().filter(|a| !picked(a));
    let axes = axes.collect();
    let mut name = inputs[of].name.clone();
    for (_, at) in picks {
        name.push_str(&format!("_{at}"));
    }
    while inputs.iter().any(|input| input.name == name) {
        name.push('_');
    }
    inputs.push(StepInput { name, axes });
    sources.push(source);
    inputs.len() - 1
}
