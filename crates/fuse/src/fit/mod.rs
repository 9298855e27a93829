//! Legality: may one kernel compute a group of operations, and as which bodies?
//!
//! One file per template; each rule is a named [`Reject`] with its limit and
//! what was found. Legality never depends on cost, and only the choice between
//! matrix-vector and matrix products depends on the shape.
//!
//! | rule | template | meaning |
//! |---|---|---|
//! | `empty` | all | a kernel computes at least one operation |
//! | `load-only` | all | the operation exists at load time only |
//! | `mixed-anchors` | all | a recurrence and a product need different templates |
//! | `not-convex` | all | a value would leave the kernel and come back |
//! | `not-connected` | all | an operation has nothing to do with the others |
//! | `look-ahead` | all | a row after the current one, produced in the same kernel |
//! | `state-readers` | scan | recurrences of one state, of which one keeps it and others take it up as it was |
//! | `scan-direction` | scan | recurrences from the first row on and from the last one on |
//! | `reverse-delay` | scan | a row before the current one, produced in the same kernel, where the last comes first |
//! | `delay-permuted` | row, scan, gemv | an earlier row of a value of the same kernel, with permuted or sliced axes |
//! | `halo-depth` | row, gemv | rows recomputed before the first one of a block |
//! | `shared-memory` | all | shared memory of one block, by the schedule that needs least |
//! | `row-size` | row | elements of one row held by one block |
//! | `scan-gather` | scan | a look-up inside a kernel that walks along T |
//! | `state-size` | scan | state elements held by one block |
//! | `scan-width` | scan | elements of another operation held by one block |
//! | `two-activations` | gemv, gemm | both operands of a product change per row |
//! | `contract-look-ahead` | gemv, gemm | a product reads a row after the current one |
//! | `contract-delay` | gemv, gemm | a product reads an earlier row of a value of the same kernel |
//! | `needs-phase` | gemv, gemm | a product depends on another product's result: two phases of matrix-vector products at most |
//! | `phase-lanes` | gemv | lanes side by side in one of two phases |
//! | `product-layout` | gemv, gemm | batch axes lead the result, and the rows of a matrix are evenly spaced |
//! | `lane-axes` | gemv, gemm | products joined by an epilogue have different result axes |
//! | `epilogue-op` | gemv, gemm | something else than a map after a product |
//! | `epilogue-axes` | gemv, gemm | an epilogue over other axes than the product's |
//! | `epilogue-access` | gemv, gemm | an epilogue reads another element of a value of the same kernel |
//! | `epilogue-delay` | gemv, gemm | an epilogue reads an earlier row |
//! | `epilogue-tail` | gemv, gemm | an epilogue keeps a stencil tail, other than single steps one of its product's results |
//! | `epilogue-reads-prologue` | gemv, gemm | a value of the prologue is needed after the product |
//! | `prologue-size` | gemv | elements of one row of the prologue |
//! | `chunked-one-scan` | chunked | several recurrences that meet after their results |
//! | `chunked-class`, `chunked-reads`, `chunked-coefficient` | chunked | a step that is no diagonal decay and outer product, read once, or has more than a rank-one factor beside it; coefficients that are not computed element by element |
//! | `chunked-at-once` | chunked | several rank-one factors at once, of which one is of the state before its decay |
//! | `chunked-direction`, `chunked-look-ahead` | chunked | a recurrence from the last row to the first, or reads of later rows |
//! | `chunked-decay` | chunked | a decay that is not proven to be in [0, 1] |
//! | `chunked-device` | chunked | no tensor cores for bf16 |
//! | `chunked-prologue-op`, `chunked-prologue-stored` | chunked | what comes before the recurrence is maps whose results stay on the chip |
//! | `chunked-epilogue-op`, `chunked-epilogue-axes`, `chunked-epilogue-access`, `chunked-epilogue-tail` | chunked | what comes after it is computed for one row and one head by itself |
//! | `chunked-key`, `chunked-value`, `chunked-shared` | chunked | key channels, value columns and shared memory of one block |
//! | `weighted-rows` | chunked | decays of key channels weight queries and keys of lines of 64, of one read, and values are rows as they lie in memory; products of warpgroups |
//! | `segments-class` | scan, chunked | segments of T where a state meets more than one factor, or one term before a maximum, that does not depend on it, element by element |
//! | `segments-kept` | scan, chunked | segments where another recurrence keeps the state |
//! | `segments-decay` | scan, chunked | segments where that is not proven to be in [-1, 1] |
//! | `segments-chain`, `segments-delay` | scan, chunked | segments where a recurrence, or an earlier row of what follows one, depends on another's results |
//! | `attend-alone` | attend | attention shares no kernel with other operations |
//! | `last-row-alone` | last row | where rows are left behind, nothing else is computed |
//! | `scatter-alone`, `scatter-rows` | scatter | elements are placed in their own row, and nothing else is computed |
//! | `row-sum-alone` | row sum | where rows are summed, nothing else is computed |
//! | `row-sum-tail` | row sum | a sum over rows keeps no stencil tail |
//! | `row-sum-ids` | row sum | rows are added into a table by the ids of the same rows |
//! | `row-sum-size` | row sum | elements of the result |
//! | `attend-width` | attend | elements of a key and a value of one head held by one block |
//! | `prologue-op`, `prologue-axes`, `prologue-access`, `prologue-delay`, `prologue-tail`, `prologue-stored` | gemm | the prologue is a chain of maps over the activation's axes that stays on the chip |
//! | `lane-contracts`, `lane-operands` | gemm | at most two products of one activation share accumulators |

mod anchors;
mod attend;
mod chunked;
mod contract;
mod gemm;
mod gemv;
mod group;
mod last_row;
mod phases;
mod row;
mod row_sum;
mod scan;
mod scatter;
mod segments;
mod space;
mod ways;
mod weighted;

pub use contract::has_few_rows;
pub(crate) use row::row_runs;
pub use ways::ways;

use crate::context::{Context, is_row_op};
use crate::plan::{Body, Phase, Reject, Template};
use fusec_ir::{OpId, OpKind, ValueId};
use group::Group;

/// The phases of the kernel that computes `ops` (ascending, each once), or why there is none.
///
/// Convexity is a property of the whole graph and is checked by [`crate::select`].
pub fn fit(ctx: &Context<'_>, ops: &[OpId]) -> Result<Vec<Phase>, Reject> {
    let group = Group {
        ctx,
        ops,
        part: false,
    };
    if ops.is_empty() {
        return Err(group.reject("empty", [], "at least one operation", "none"));
    }
    let (mut scans, mut contracts) = (Vec::new(), Vec::new());
    for id in ops {
        let op = group.op(*id);
        if ctx.graph.sums_rows(op) {
            return row_sum::fit(&group, *id).map(|body| one_phase(vec![body]));
        }
        match &op.kind {
            OpKind::Scan { .. } => scans.push(*id),
            OpKind::Contract { .. } => contracts.push(*id),
            OpKind::Attend { .. } => {
                group.check_alone("attend-alone", *id, "attention")?;
                return attend::fit(&group, *id).map(|body| one_phase(vec![body]));
            }
            OpKind::LastRow => {
                group.check_alone("last-row-alone", *id, "the taking of last rows")?;
                return Ok(one_phase(vec![last_row::fit(&group, *id)]));
            }
            OpKind::Scatter { .. } => {
                group.check_alone("scatter-alone", *id, "the placing of elements")?;
                return scatter::fit(&group, *id).map(|body| one_phase(vec![body]));
            }
            OpKind::CumSum { .. } => {
                return Err(group.reject(
                    "load-only",
                    [*id],
                    "operations that exist at every row",
                    "a cumulative sum along an axis",
                ));
            }
            _ => debug_assert!(is_row_op(op)),
        }
    }
    if scans.is_empty() {
        group.check_later_rows()?;
    }
    if let (Some(scan), Some(contract)) = (scans.first(), contracts.first()) {
        return Err(group.reject(
            "mixed-anchors",
            [*scan, *contract],
            "recurrences or products",
            "both",
        ));
    }
    if !scans.is_empty() {
        scan::fit(&group, &scans).map(one_phase)
    } else if contracts.is_empty() {
        row::fit(&group).map(|body| one_phase(vec![body]))
    } else if has_few_rows(ctx) && phases::are_needed(&group, &contracts) {
        phases::fit(&group, &contracts)
    } else {
        products(&group, &contracts).map(one_phase)
    }
}

fn one_phase(lanes: Vec<Body>) -> Vec<Phase> {
    vec![Phase { lanes }]
}

/// What a lane does in a kernel.
#[derive(Clone, Debug)]
pub(crate) struct LaneForm {
    /// In the last phase, beside other lanes.
    pub body: Body,
    /// In phases before that, in order: where it is cut into segments, or where rows are weighted.
    pub before: Vec<Body>,
}

impl From<Body> for LaneForm {
    fn from(body: Body) -> Self {
        LaneForm {
            body,
            before: Vec::new(),
        }
    }
}

/// The body of a group of products as a lane of some kernel, or why it is a lane of none.
///
/// The group may be no kernel by itself: a product's prologue that another lane shares is
/// needed elsewhere.
pub(crate) fn product_lane(ctx: &Context<'_>, ops: &[OpId]) -> Result<Body, Reject> {
    let group = Group {
        ctx,
        ops,
        part: true,
    };
    let is_contract = |id: &&OpId| matches!(group.op(**id).kind, OpKind::Contract { .. });
    let contracts: Vec<OpId> = ops.iter().filter(is_contract).copied().collect();
    let mut lanes = products(&group, &contracts)?;
    match (lanes.pop(), lanes.is_empty()) {
        (Some(body), true) => Ok(body),
        _ => Err(group.reject("not-connected", [], "one lane", "another number of lanes")),
    }
}

/// The forms of a group of recurrences as a lane of some kernel, the first a row after the other, or
/// why it is a lane of none. At least these are lanes of such a kernel: a result of the prologue that
/// another lane reads as well stays on the chip.
pub(crate) fn scan_lane(ctx: &Context<'_>, ops: &[OpId]) -> Result<Vec<LaneForm>, Reject> {
    let group = Group {
        ctx,
        ops,
        part: true,
    };
    let is_scan = |id: &&OpId| matches!(group.op(**id).kind, OpKind::Scan { .. });
    let scans: Vec<OpId> = ops.iter().filter(is_scan).copied().collect();
    let mut lanes = scan::fit(&group, &scans)?;
    let (Some(body), true) = (lanes.pop(), lanes.is_empty()) else {
        return Err(group.reject("not-connected", [], "one lane", "another number of lanes"));
    };
    let mut inside = body.clone();
    let of_prologue = |v: &ValueId| {
        let maker = ctx.graph.producer(*v);
        maker.is_some_and(|id| body.roles.prologue.binary_search(&id).is_ok())
    };
    inside
        .stores
        .retain(|v| ctx.is_output(*v) || !of_prologue(v));
    let chunked = chunked::fit(&group, &inside).unwrap_or_default();
    let in_phases = in_phases(&group, &body, &inside, &chunked);
    let whole = std::iter::once(body).chain(chunked);
    Ok(whole.map(LaneForm::from).chain(in_phases).collect())
}

/// The forms of a lane around recurrences that have phases before its own: segments of T, weighted rows, and both.
/// `inside`: the lane as it stores what nobody else computes.
fn in_phases(group: &Group<'_>, lane: &Body, inside: &Body, chunked: &[Body]) -> Vec<LaneForm> {
    let mut forms = segments::fit(group, lane, chunked).unwrap_or_default();
    forms.extend(weighted::fit(group, lane, inside).unwrap_or_default());
    forms
}

/// A group with products and without recurrences, in one phase.
fn products(group: &Group<'_>, contracts: &[OpId]) -> Result<Vec<Body>, Reject> {
    if has_few_rows(group.ctx) {
        gemv::fit(group, contracts)
    } else {
        gemm::fit(group, contracts)
    }
}

/// The ways to compute `ops` in one kernel, the first that of [`fit`]: local forms of a group.
pub fn forms(ctx: &Context<'_>, ops: &[OpId]) -> Result<Vec<Vec<Phase>>, Reject> {
    let phases = fit(ctx, ops)?;
    let [Phase { lanes: plain }] = &phases[..] else {
        return Ok(vec![phases]);
    };
    if let ([body], [id]) = (&plain[..], ops)
        && body.template() == Template::Attend
    {
        let group = Group {
            ctx,
            ops,
            part: false,
        };
        let tiled = attend::tiled(&group, *id).into_iter();
        let tiled = tiled.map(|body| one_phase(vec![body]));
        return Ok([one_phase(plain.clone())]
            .into_iter()
            .chain(tiled)
            .collect());
    }
    if let ([body], [id]) = (&plain[..], ops)
        && body.template() == Template::RowSum
    {
        let group = Group {
            ctx,
            ops,
            part: false,
        };
        let split = row_sum::in_parts(&group, *id, body);
        return Ok([vec![one_phase(plain.clone())], split].concat());
    }
    let chunked: Vec<Vec<Body>> = in_chunks(ctx, ops, plain)
        .into_iter()
        .map(Result::unwrap_or_default)
        .collect();
    let can: Vec<usize> = (0..plain.len())
        .filter(|i| !chunked[*i].is_empty())
        .collect();
    // Form number `n` of some lanes, or their last, beside the plain form of the others.
    let with = |lanes: &[usize], n: usize| -> Vec<Phase> {
        let of = |(i, plain): (usize, &Body)| match lanes.contains(&i) {
            true => chunked[i]
                .get(n)
                .or(chunked[i].last())
                .unwrap_or(plain)
                .clone(),
            false => plain.clone(),
        };
        one_phase(plain.iter().enumerate().map(of).collect())
    };
    let most = chunked.iter().map(Vec::len).max().unwrap_or(0);
    let mut out = vec![one_phase(plain.clone())];
    out.extend((0..most).map(|n| with(&can, n)));
    if can.len() > 1 {
        out.extend(can.iter().map(|lane| with(&[*lane], 0)));
    }
    out.extend(with_phases(ctx, ops, plain, &chunked));
    Ok(out)
}

/// The forms of a group of recurrences with several phases: every lane that can be in its `n`-th such form, or its
/// last.
fn with_phases(
    ctx: &Context<'_>,
    ops: &[OpId],
    plain: &[Body],
    chunked: &[Vec<Body>],
) -> Vec<Vec<Phase>> {
    let group = Group {
        ctx,
        ops,
        part: false,
    };
    let forms: Vec<Vec<LaneForm>> = plain
        .iter()
        .zip(chunked)
        .map(|(plain, chunked)| match plain.template() {
            Template::Scan => in_phases(&group, plain, plain, chunked),
            _ => Vec::new(),
        })
        .collect();
    let most = forms.iter().map(Vec::len).max().unwrap_or(0);
    let nth = |n: usize| {
        let of = forms.iter().map(|forms| forms.get(n).or(forms.last()));
        phases_of(plain, &of.collect::<Vec<_>>())
    };
    (0..most).map(nth).collect()
}

/// The phases of some lanes of which some have several: those are together in the last one.
fn phases_of(plain: &[Body], forms: &[Option<&LaneForm>]) -> Vec<Phase> {
    let before = |form: &&LaneForm| form.before.len();
    let most = forms.iter().flatten().map(before).max().unwrap_or(0);
    // Phase number `n` before the last one.
    let earlier = |n: usize| {
        let of = forms.iter().flatten();
        of.filter_map(|form| {
            let at = form.before.len().checked_sub(n)?;
            form.before.get(at).cloned()
        })
        .collect()
    };
    let mut phases: Vec<Phase> = (1..=most)
        .rev()
        .map(|n| Phase { lanes: earlier(n) })
        .collect();
    let lanes = plain.iter().zip(forms);
    let last = lanes.map(|(plain, form)| form.map_or(plain, |form| &form.body).clone());
    phases.push(Phase {
        lanes: last.collect(),
    });
    phases
}

/// The chunked forms of each lane of a group, or why there is none.
pub fn in_chunks(
    ctx: &Context<'_>,
    ops: &[OpId],
    lanes: &[Body],
) -> Vec<Result<Vec<Body>, Reject>> {
    let group = Group {
        ctx,
        ops,
        part: false,
    };
    let no_scan = |lane: &Body| {
        group.reject(
            "chunked-class",
            lane.ops.iter().copied(),
            "a recurrence",
            format!("a lane of the {} template", lane.template()),
        )
    };
    lanes
        .iter()
        .map(|lane| match lane.template() {
            Template::Scan => chunked::fit(&group, lane),
            _ => Err(no_scan(lane)),
        })
        .collect()
}
