//! What the two templates for products have in common: lanes and epilogues.

use super::anchors::anchor_lanes;
use super::group::Group;
use super::space::is_identity;
use crate::context::{Context, reduced_axes};
use crate::plan::{Reject, Roles};
use crate::schedule::product::Products;
use fusec_ir::{Access, AxisId, OpId, OpKind, StateId, StateKind, ValueId};

/// Most rows (batch times time) for which products run with their weights streamed once: on FP32 units,
/// and on tensor cores.
const FEW_ROWS: usize = 16;
const FEW_ROWS_ON_TENSOR_CORES: usize = 64;

/// Whether products of a run stream their weights once for all rows, in place of tiles of rows.
pub fn has_few_rows(ctx: &Context<'_>) -> bool {
    let most = match ctx.target.mma_operand(ctx.storage) {
        Some(_) => FEW_ROWS_ON_TENSOR_CORES,
        None => FEW_ROWS,
    };
    ctx.rows() <= most
}

/// A lane of products before its template's own rules are checked.
pub struct Lane {
    /// Its contractions.
    pub contracts: Vec<OpId>,
    /// Ancestors of its contractions, ascending.
    pub prologue: Vec<OpId>,
    /// Descendants of its contractions, ascending.
    pub epilogue: Vec<OpId>,
}

impl Lane {
    /// All operations, ascending.
    pub fn ops(&self) -> Vec<OpId> {
        let mut ops = [&self.contracts[..], &self.prologue, &self.epilogue].concat();
        ops.sort_unstable();
        ops
    }

    /// The roles of its operations.
    pub fn roles(&self, halo: u32) -> Roles {
        Roles {
            prologue: self.prologue.clone(),
            anchors: self.contracts.clone(),
            epilogue: self.epilogue.clone(),
            halo,
        }
    }
}

/// The products of a lane as shapes, or why no template takes them.
pub fn products_of(group: &Group<'_>, lane: &Lane) -> Result<Products, Reject> {
    Products::of(group.ctx.graph, &lane.contracts, &lane.ops()).ok_or_else(|| {
        group.reject(
            "product-layout",
            lane.contracts.iter().copied(),
            "batch axes that lead the result, and matrices whose rows are evenly spaced",
            "others",
        )
    })
}

/// Splits a group into lanes and checks the rules that hold for every product.
pub fn lanes(group: &Group<'_>, contracts: &[OpId]) -> Result<Vec<Lane>, Reject> {
    let graph = group.ctx.graph;
    for id in contracts {
        let op = group.op(*id);
        let rows: Vec<bool> = op
            .inputs
            .iter()
            .map(|a| graph.value(a.value).rows)
            .collect();
        if rows != [true, false] {
            return Err(group.reject(
                "two-activations",
                [*id],
                "an activation times a matrix that is the same for all rows",
                format!("`{}`", group.name(*id)),
            ));
        }
        if op.inputs[0].delay < 0 {
            return Err(group.reads_later("contract-look-ahead", *id, &op.inputs[0]));
        }
        if op.inputs[0].delay != 0 && group.in_body(op.inputs[0].value).is_some() {
            return Err(group.reject(
                "contract-delay",
                [*id],
                "the current row of a value of the same kernel",
                format!("row t - {}", op.inputs[0].delay),
            ));
        }
    }
    group.check_later_rows()?;
    let (of, count) = anchor_lanes(group, contracts);
    for (i, id) in group.ops.iter().enumerate() {
        if contracts.contains(id) {
            for (access, p) in group.in_body_accesses(*id) {
                if group.position(p).is_some_and(|p| of[p].is_some()) {
                    return Err(group.reject(
                        "needs-phase",
                        [*id, p],
                        "products of values that no other product of the kernel makes, beyond few rows",
                        format!("`{}`", graph.value(access.value).name),
                    ));
                }
            }
        } else if of[i].is_some() {
            check_epilogue_op(group, *id, &of)?;
        }
    }
    let is_contract: Vec<bool> = group.ops.iter().map(|id| contracts.contains(id)).collect();
    let before = group.ancestors(&is_contract);
    if let Some(i) = (0..group.ops.len()).find(|i| of[*i].is_none() && !before[*i]) {
        return Err(group.reject(
            "not-connected",
            [group.ops[i]],
            "operations before or after a product",
            format!("`{}` is neither", group.name(group.ops[i])),
        ));
    }
    (0..count)
        .map(|lane| {
            let from: Vec<bool> = (0..group.ops.len())
                .map(|i| is_contract[i] && of[i] == Some(lane))
                .collect();
            let before = group.ancestors(&from);
            let pick = |f: &dyn Fn(usize) -> bool| -> Vec<OpId> {
                (0..group.ops.len())
                    .filter(|i| f(*i))
                    .map(|i| group.ops[i])
                    .collect()
            };
            let lane = Lane {
                contracts: pick(&|i| from[i]),
                prologue: pick(&|i| before[i] && !from[i]),
                epilogue: pick(&|i| of[i] == Some(lane) && !from[i]),
            };
            check_lane_axes(group, &lane)?;
            Ok(lane)
        })
        .collect()
}

/// Whether an operation may be in an epilogue; `of` says which operations are products, or in the
/// epilogue of one.
pub fn check_epilogue_op(group: &Group<'_>, id: OpId, of: &[Option<usize>]) -> Result<(), Reject> {
    let op = group.op(id);
    if !matches!(op.kind, OpKind::Map { .. }) {
        return Err(group.reject(
            "epilogue-op",
            [id],
            "maps after a product",
            format!("`{}` combines elements", group.name(id)),
        ));
    }
    // The earlier rows of a single step are all in tails, and the row that a tail takes is the block's own.
    let steps = group.ctx.is_of_single_steps();
    let after_product = |value: ValueId| {
        let producer = group.in_body(value).and_then(|p| group.position(p));
        producer.is_some_and(|at| of[at].is_some())
    };
    let kept_after = |tail: &StateId| match group.ctx.graph.state(*tail).kind {
        StateKind::Tail { value, .. } => after_product(value),
        StateKind::Scan { .. } => false,
    };
    if op.tails.iter().any(|tail| !steps || !kept_after(tail)) {
        return Err(group.reject(
            "epilogue-tail",
            [id],
            "no stencil tail after a product but of its own results, in single steps",
            format!("`{}` keeps one", group.name(id)),
        ));
    }
    let in_tail = |access: &Access| steps && access.delay > 0 && access.tail.is_some();
    if let Some(access) = (op.inputs.iter()).find(|a| a.delay != 0 && !in_tail(a)) {
        return Err(group.reject(
            "epilogue-delay",
            [id],
            "the current row, or in single steps one of a tail",
            format!(
                "`{}` {} rows earlier",
                group.ctx.graph.value(access.value).name,
                access.delay
            ),
        ));
    }
    for (access, p) in group.in_body_accesses(id) {
        if group.position(p).is_none_or(|p| of[p].is_none()) {
            return Err(group.reject(
                "epilogue-reads-prologue",
                [id, p],
                "values made after the product, or by another kernel",
                format!("`{}`", group.ctx.graph.value(access.value).name),
            ));
        }
        if !is_identity(group, access.value, &access.index) {
            return Err(group.reject(
                "epilogue-access",
                [id, p],
                "the same element",
                format!(
                    "`{}` through other indices",
                    group.ctx.graph.value(access.value).name
                ),
            ));
        }
    }
    Ok(())
}

/// The axes of an operation's first result.
pub fn result_axes<'g>(group: &Group<'g>, id: OpId) -> &'g [AxisId] {
    let graph = group.ctx.graph;
    graph
        .op(id)
        .outputs
        .first()
        .map_or(&[], |v| graph.value(*v).axes.as_slice())
}

fn check_lane_axes(group: &Group<'_>, lane: &Lane) -> Result<(), Reject> {
    let Some(first) = lane.contracts.first() else {
        return Ok(());
    };
    let axes = result_axes(group, *first);
    let named = |axes: &[AxisId]| -> String {
        let names: Vec<&str> = axes.iter().map(|a| group.ctx.graph.axis_name(*a)).collect();
        format!("[{}]", names.join(", "))
    };
    for (ops, rule) in [
        (&lane.contracts, "lane-axes"),
        (&lane.epilogue, "epilogue-axes"),
    ] {
        if let Some(id) = ops.iter().find(|id| result_axes(group, **id) != axes) {
            return Err(group.reject(
                rule,
                [*id, *first],
                format!("{} as in `{}`", named(axes), group.name(*first)),
                format!(
                    "{} in `{}`",
                    named(result_axes(group, *id)),
                    group.name(*id)
                ),
            ));
        }
    }
    Ok(())
}

/// Whether two products read the same activation in the same way and sum over the same axes.
pub fn same_activation(group: &Group<'_>, a: OpId, b: OpId) -> bool {
    let (a, b) = (group.op(a), group.op(b));
    a.inputs.first() == b.inputs.first() && reduced_axes(a) == reduced_axes(b)
}
