//! Lanes: which anchors of a group are worked on together.

use super::group::Group;
use fusec_ir::OpId;

/// Lets anchors that have a common descendant share a lane.
///
/// Returns, for each operation of the group, the lane of the anchors it descends from
/// (`None` if it descends from none), and the number of lanes. Lanes are numbered by their
/// first anchor.
pub(crate) fn anchor_lanes(group: &Group<'_>, anchors: &[OpId]) -> (Vec<Option<usize>>, usize) {
    let mut parent: Vec<usize> = (0..anchors.len()).collect();
    fn root(parent: &[usize], mut i: usize) -> usize {
        while parent[i] != i {
            i = parent[i];
        }
        i
    }
    let mut of: Vec<Option<usize>> = vec![None; group.ops.len()];
    for (i, id) in group.ops.iter().enumerate() {
        let mut lane = anchors.iter().position(|a| a == id);
        for (_, p) in group.in_body_accesses(*id) {
            let Some(from) = group.position(p).and_then(|p| of[p]) else {
                continue;
            };
            lane = Some(match lane {
                None => from,
                Some(lane) => {
                    let (a, b) = (root(&parent, lane), root(&parent, from));
                    // The smaller index wins, so that lanes stay ordered by their first anchor.
                    parent[a.max(b)] = a.min(b);
                    a.min(b)
                }
            });
        }
        of[i] = lane;
    }
    let mut number = vec![None; anchors.len()];
    let mut count = 0;
    for i in 0..anchors.len() {
        let r = root(&parent, i);
        if number[r].is_none() {
            number[r] = Some(count);
            count += 1;
        }
        number[i] = number[r];
    }
    let of = of
        .into_iter()
        .map(|lane| lane.and_then(|lane| number[root(&parent, lane)]))
        .collect();
    (of, count)
}
