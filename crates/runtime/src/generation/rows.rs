//! States of some sequences out of those of others.

use crate::executor::HostState;

/// The state of these sequences, in this order; one may be there several times.
pub fn rows(state: &HostState, of: &[usize]) -> HostState {
    let pick = |tensor: &Vec<f32>| {
        let width = tensor.len() / state.batch.max(1);
        let rows = of.iter().flat_map(|row| &tensor[row * width..][..width]);
        rows.copied().collect()
    };
    let tensors = state.tensors.iter().map(|(id, tensor)| (*id, pick(tensor)));
    HostState {
        batch: of.len(),
        position: state.position,
        tensors: tensors.collect(),
    }
}

/// The sequences of several states of one model, one after the other, at the position of the furthest;
/// `None` of none. That positions differ is for models that do not ask for them.
pub fn joined(states: &[HostState]) -> Option<HostState> {
    let (first, others) = states.split_first()?;
    let mut all = first.clone();
    for state in others {
        all.batch += state.batch;
        all.position = all.position.max(state.position);
        for (id, tensor) in &mut all.tensors {
            tensor.extend(state.tensors.get(id).into_iter().flatten());
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusec_ir::StateId;

    #[test]
    fn sequences_are_picked_and_joined() {
        let state = HostState {
            batch: 2,
            position: 3,
            tensors: [
                (StateId(0), vec![1.0, 2.0, 3.0, 4.0]),
                (StateId(1), vec![5.0, 6.0]),
            ]
            .into(),
        };
        let picked = rows(&state, &[1, 0, 1]);
        assert_eq!(picked.batch, 3);
        assert_eq!(picked.tensors[&StateId(0)], [3.0, 4.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(picked.tensors[&StateId(1)], [6.0, 5.0, 6.0]);
        let halves = [rows(&state, &[0]), rows(&state, &[1])];
        assert_eq!(joined(&halves), Some(state));
        assert_eq!(joined(&[]), None);
    }
}
