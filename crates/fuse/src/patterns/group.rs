//! Patterns of more than two operations, or of operations side by side.

use super::{Fused, Pattern, Test};
use crate::forms::sole_factor;
use fusec_ir::{OpKind, ValueId};
use std::collections::BTreeSet;

/// Norms and the map that scales them, in one launch.
pub static NORM_GAIN: Pattern = Pattern {
    name: "norm-gain",
    reason: "the gains, and a weighted sum of several norms, are applied where the norms are computed",
    condition: "a factor of the norm's value is the same for all rows",
    test: Test::Kernel(|kernel| kernel.ops().any(|(i, _)| scales_norms(kernel, i))),
};

/// Products of one activation as lanes of one launch.
pub static SIBLING_PRODUCTS: Pattern = Pattern {
    name: "sibling-products",
    reason: "products of one activation share its reads and a launch, as if their matrices were concatenated",
    condition: "both read the same row of the same value",
    test: Test::Kernel(|kernel| {
        let products = kernel
            .ops()
            .filter(|(_, op)| matches!(op.kind, OpKind::Contract { .. }));
        let mut rows: BTreeSet<(ValueId, i32)> = BTreeSet::new();
        products
            .filter_map(|(_, op)| op.inputs.first())
            .any(|activation| !rows.insert((activation.value, activation.delay)))
    }),
};

/// A stencil whose rows feed a recurrence, in the recurrence's launch.
pub static CONV_SSM: Pattern = Pattern {
    name: "conv-ssm",
    reason: "a kernel that walks along T has the earlier rows at hand",
    condition: "the stencil reaches the recurrence through maps only",
    test: Test::Kernel(|kernel| {
        // What reaches a recurrence through maps, found backwards: an operation comes after
        // what it reads.
        let mut reaches = vec![false; kernel.ops.len()];
        for (i, op) in kernel.ops().collect::<Vec<_>>().into_iter().rev() {
            let is_map = matches!(op.kind, OpKind::Map { .. });
            let is_scan = matches!(op.kind, OpKind::Scan { .. });
            if is_map && reaches[i] && op.inputs.iter().any(|access| access.delay > 0) {
                return true;
            }
            if is_scan || is_map && reaches[i] {
                for maker in op.inputs.iter().filter_map(|a| kernel.maker(a)) {
                    reaches[maker] = true;
                }
            }
        }
        false
    }),
};

/// Two recurrences over the same rows as one launch.
pub static WKV_SCAN: Pattern = Pattern {
    name: "wkv-scan",
    reason: "two loops along T that do not wait for each other take the time of one",
    condition: "both belong to one layer and neither depends on the other",
    test: Test::Kernel(|kernel| {
        let scans: Vec<usize> = kernel
            .ops()
            .filter(|(_, op)| matches!(op.kind, OpKind::Scan { .. }))
            .map(|(i, _)| i)
            .collect();
        scans.iter().enumerate().any(|(n, first)| {
            // A kernel holds whatever lies between its operations.
            let mut after = vec![false; kernel.ops.len()];
            after[*first] = true;
            for (i, op) in kernel.ops().skip(first + 1) {
                after[i] = op
                    .inputs
                    .iter()
                    .filter_map(|a| kernel.maker(a))
                    .any(|maker| after[maker]);
            }
            let layer = |i: usize| kernel.graph.op(kernel.ops[i]).layer;
            let mut later = scans[n + 1..].iter();
            later.any(|other| layer(*first) == layer(*other) && !after[*other])
        })
    }),
};

/// Whether an operation is a map that scales norms, all of them of the kernel.
fn scales_norms(kernel: &Fused<'_>, at: usize) -> bool {
    let graph = kernel.graph;
    let map = graph.op(kernel.ops[at]);
    let OpKind::Map { expr } = &map.kind else {
        return false;
    };
    let constant = |j: usize| {
        let factor = map.inputs.get(j);
        factor.is_some_and(|access| !graph.value(access.value).rows)
    };
    let mut scaled = (0..map.inputs.len())
        .filter(|i| sole_factor(expr, *i).is_some_and(constant))
        .filter_map(|i| graph.producer(map.inputs[i].value))
        .filter(|id| {
            let of = graph.op(*id);
            matches!(of.kind, OpKind::Norm { .. }) && of.tails.is_empty()
        })
        .peekable();
    scaled.peek().is_some() && scaled.all(|id| kernel.ops.binary_search(&id).is_ok())
}
