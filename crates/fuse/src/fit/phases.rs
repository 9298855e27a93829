//! Products of products: two phases of one launch, a grid barrier between them.
//!
//! A phase is a lane as any other ([`super::gemv`]): what a kernel of its operations could do it
//! can, and no more. What the first one makes and the second one reads goes through memory, and no
//! operation is in both. So a kernel of two phases is two kernels that share a launch.
//!
//! The split is the same for a group however it was found. The first phase has the products that
//! others of the group depend on, with all that is before them, and as much of what follows them
//! as its epilogue can hold; the second phase has the rest. A product that neither depends on
//! another nor has one depend on it goes where an epilogue joins it with other products.

use super::contract::{check_epilogue_op, result_axes};
use super::gemv;
use super::group::Group;
use crate::plan::{Phase, Reject};
use fusec_ir::OpId;

/// Whether a product of the group depends on another one.
pub fn are_needed(group: &Group<'_>, contracts: &[OpId]) -> bool {
    levels(group, contracts).iter().any(|level| *level > 1)
}

/// For each operation of the group, the most products on a path that ends with it.
fn levels(group: &Group<'_>, contracts: &[OpId]) -> Vec<usize> {
    let mut levels = vec![0; group.ops.len()];
    for (i, id) in group.ops.iter().enumerate() {
        let before = group.in_body_accesses(*id);
        let deepest = before.filter_map(|(_, p)| group.position(p).map(|p| levels[p]));
        levels[i] = deepest.max().unwrap_or(0) + usize::from(contracts.contains(id));
    }
    levels
}

/// The phases of a group in which a product depends on another one.
pub fn fit(group: &Group<'_>, contracts: &[OpId]) -> Result<Vec<Phase>, Reject> {
    let levels = levels(group, contracts);
    let at_level = |level: usize| {
        let found = (0..group.ops.len()).filter(move |i| levels[*i] == level);
        found
            .map(|i| group.ops[i])
            .find(|id| contracts.contains(id))
    };
    if let Some(third) = at_level(3) {
        return Err(group.reject(
            "needs-phase",
            [third],
            "two phases: products, and products of what these make",
            format!(
                "`{}`, a product of a product of a product",
                group.name(third)
            ),
        ));
    }
    let (first, second) = split(group, contracts)?;
    [first, second]
        .into_iter()
        .map(|ops| {
            let products: Vec<OpId> = contracts
                .iter()
                .copied()
                .filter(|id| ops.binary_search(id).is_ok())
                .collect();
            let part = Group {
                ctx: group.ctx,
                ops: &ops,
                part: group.part,
            };
            let lanes = gemv::fit(&part, &products)?;
            match lanes.len() {
                1 => Ok(Phase { lanes }),
                n => Err(group.reject(
                    "phase-lanes",
                    products,
                    "products of a phase joined by its epilogue",
                    format!("{n} lanes side by side in one phase"),
                )),
            }
        })
        .collect()
}

/// The operations of the first and of the second phase, ascending.
fn split(group: &Group<'_>, contracts: &[OpId]) -> Result<(Vec<OpId>, Vec<OpId>), Reject> {
    let levels = levels(group, contracts);
    let n = group.ops.len();
    let is_product: Vec<bool> = group.ops.iter().map(|id| contracts.contains(id)).collect();
    let second: Vec<bool> = (0..n).map(|i| is_product[i] && levels[i] > 1).collect();
    let needed = group.ancestors(&second);
    let mut first: Vec<bool> = (0..n)
        .map(|i| is_product[i] && levels[i] == 1 && needed[i])
        .collect();
    let late = group.descendants(&second);
    let early = group.descendants(&first);
    // A product beside both goes with those that an epilogue joins it with.
    let mut beside = first.clone();
    for i in (0..n).filter(|i| is_product[*i] && levels[*i] == 1 && !needed[*i]) {
        let from: Vec<bool> = (0..n).map(|j| j == i).collect();
        let after = group.descendants(&from);
        if (0..n).any(|j| after[j] && early[j] && !late[j]) {
            beside[i] = true;
        } else if !(0..n).any(|j| after[j] && late[j]) {
            return Err(group.reject(
                "phase-lanes",
                [group.ops[i]],
                "products of a phase joined by its epilogue",
                format!("`{}` beside both phases", group.name(group.ops[i])),
            ));
        }
    }
    first = beside;
    let mut held = group.ancestors(&first);
    let axes = (0..n)
        .find(|i| first[*i])
        .map(|i| result_axes(group, group.ops[i]));
    // Which of the operations are products of the first phase, or in its epilogue.
    let mut made: Vec<Option<usize>> = first.iter().map(|f| f.then_some(0)).collect();
    for (i, id) in group.ops.iter().enumerate() {
        let follows = group
            .in_body_accesses(*id)
            .any(|(_, p)| group.position(p).is_some_and(|p| made[p].is_some()));
        if follows
            && !is_product[i]
            && axes == Some(result_axes(group, *id))
            && check_epilogue_op(group, *id, &made).is_ok()
        {
            made[i] = Some(0);
            held[i] = true;
        }
    }
    let (mut one, mut two) = (vec![], vec![]);
    for (i, id) in group.ops.iter().enumerate() {
        if held[i] { &mut one } else { &mut two }.push(*id);
    }
    Ok((one, two))
}
