//! Segments of T: another form of a lane around recurrences, in two phases.
//!
//! The first phase finds what segments make of the states, with as much of what is before the recurrences
//! as they need; the second computes everything, as the lane without segments does. See
//! [`crate::schedule::segments`].

use super::group::Group;
use super::{LaneForm, chunked, scan};
use crate::plan::{Body, Reject, Roles};
use crate::schedule::program::rows_back;
use crate::schedule::segments::{Pass, Segments};
use crate::schedule::{ScanTile, Schedule, blocks, shared_floats};
use fusec_ir::class::{Algebra, decay_range};
use fusec_ir::{OpId, OpKind};

/// Segments that T may be cut into.
const COUNTS: [u32; 4] = [4, 8, 16, 32];
/// Rows of a segment, at least: what a block does before and after them is small beside them then.
const LEAST_ROWS: usize = 64;
/// Blocks of a multiprocessor, at most: more of them would wait for each other.
const MOST_BLOCKS: usize = 16;
/// The same of blocks that go in chunks.
const MOST_CHUNK_BLOCKS: usize = 4;

/// The segmented forms of a lane that goes row by row, and of those in chunks, or why there is none; none as
/// well where they could not pay.
pub fn fit(group: &Group<'_>, plain: &Body, chunked: &[Body]) -> Result<Vec<LaneForm>, Reject> {
    // Segments fill the GPU, so that a block need not have few elements of the state for that.
    let wide = scan::in_fewer_blocks(group, plain);
    let walks: Vec<(&Body, u32)> = std::iter::once(plain)
        .chain(&wide)
        .flat_map(|lane| {
            counts(group, lane, MOST_BLOCKS)
                .into_iter()
                .map(move |n| (lane, n))
        })
        .collect();
    let chunked = of_chunks(group, plain, chunked)?;
    if walks.is_empty() {
        return Ok(chunked);
    }
    legal(group, plain)?;
    let fits = |cut: &LaneForm| {
        cut.before.iter().all(|states| {
            let threads = states.schedule.threads();
            4 * shared_floats(group.ctx, states, threads) <= group.ctx.target.shared_bytes
        })
    };
    let cuts = walks
        .into_iter()
        .filter_map(|(lane, n)| cut(group, lane, n));
    let mut cuts: Vec<LaneForm> = cuts.filter(fits).collect();
    cuts.extend(chunked);
    Ok(cuts)
}

/// The segmented forms of a lane that goes in chunks, as its `plain` form allows.
pub fn of_chunks(
    group: &Group<'_>,
    plain: &Body,
    chunked: &[Body],
) -> Result<Vec<LaneForm>, Reject> {
    let bodies = spreads(chunked).into_iter();
    let counted: Vec<(&Body, u32)> = bodies
        .flat_map(|body| {
            let counts = counts_of_chunks(group, body).into_iter();
            counts.map(move |n| (body, n))
        })
        .collect();
    if counted.is_empty() {
        return Ok(Vec::new());
    }
    legal(group, plain)?;
    let counted = counted.into_iter();
    Ok(counted
        .filter_map(|(body, n)| cut(group, body, n))
        .collect())
}

/// Segments that a lane may be cut into, so that a multiprocessor has at most so many blocks.
fn counts(group: &Group<'_>, lane: &Body, most: usize) -> Vec<u32> {
    let ctx = group.ctx;
    let plain = blocks(ctx, lane);
    let fits = |count: &u32| {
        let count = *count as usize;
        plain * count <= most * ctx.target.sms && ctx.shape.time >= count * LEAST_ROWS
    };
    COUNTS.into_iter().filter(fits).collect()
}

/// The same of a lane in chunks: the most of them as well where all leave multiprocessors without work.
fn counts_of_chunks(group: &Group<'_>, lane: &Body) -> Vec<u32> {
    let all = counts(group, lane, MOST_CHUNK_BLOCKS);
    let plain = blocks(group.ctx, lane);
    let enough = |count: &u32| 2 * plain * *count as usize >= group.ctx.target.sms;
    let some: Vec<u32> = all.iter().copied().filter(enough).collect();
    match some.is_empty() {
        true => all.last().copied().into_iter().collect(),
        false => some,
    }
}

/// One body for each way to spread value columns over blocks, with rows that arrive ahead of time if some do.
fn spreads(chunked: &[Body]) -> Vec<&Body> {
    let mut out: Vec<&Body> = Vec::new();
    for body in chunked {
        let same = |known: &&mut &Body| {
            let of = |body: &Body| (body.schedule.by_warpgroup(), body.schedule.weighted());
            known.schedule.grid() == body.schedule.grid() && of(known) == of(body)
        };
        match out.iter_mut().find(same) {
            None => out.push(body),
            Some(known) if body.schedule.ahead() && !known.schedule.ahead() => *known = body,
            Some(_) => {}
        }
    }
    out
}

/// The lane in so many segments; `None` of a template that has no such form, and where a block has no room.
fn cut(group: &Group<'_>, lane: &Body, count: u32) -> Option<LaneForm> {
    let in_pass = |pass: Pass, ops: &[OpId], room: usize| {
        let segments = Segments { count, pass };
        match (&lane.schedule, lane.anchors()) {
            (Schedule::Scan(tile), _) => Some(Schedule::Scan(ScanTile {
                segments: Some(segments),
                ..tile.clone()
            })),
            (Schedule::Chunked(chunk), [scan]) => {
                let chunk = chunked::in_pass(group, (*scan, ops), chunk, segments, room)?;
                Some(Schedule::Chunked(chunk))
            }
            _ => None,
        }
    };
    let anchors = lane.anchors();
    let from: Vec<bool> = group.ops.iter().map(|id| anchors.contains(id)).collect();
    let before = group.ancestors(&from);
    let needed = |id: &OpId| group.position(*id).is_some_and(|i| before[i]);
    let ops: Vec<OpId> = lane.ops.iter().copied().filter(needed).collect();
    let is_anchor = |id: &&OpId| anchors.contains(*id);
    let results = Body {
        schedule: in_pass(Pass::Results, &lane.ops, usize::MAX)?,
        ..lane.clone()
    };
    // Both phases have the shared memory of the one that needs more: what the first has beyond the second would
    // keep blocks of the second from a multiprocessor.
    let room = match &results.schedule {
        Schedule::Chunked(chunk) => chunk.tile.shared_bytes(),
        _ => usize::MAX,
    };
    let schedule = in_pass(Pass::States, &ops, room)?;
    let states = Body {
        roles: Roles {
            prologue: ops.iter().filter(|id| !is_anchor(id)).copied().collect(),
            anchors: anchors.to_vec(),
            ..Roles::default()
        },
        ops,
        stores: Vec::new(),
        streamed: Vec::new(),
        tails: Vec::new(),
        schedule,
    };
    Some(LaneForm {
        body: results,
        before: vec![states],
    })
}

/// Whether a segment as a whole is such a step again, and knows all it needs but the states before it.
fn legal(group: &Group<'_>, lane: &Body) -> Result<(), Reject> {
    let (ctx, graph) = (group.ctx, group.ctx.graph);
    let anchors = lane.anchors();
    for scan in anchors {
        let OpKind::Scan { recurrence, .. } = &group.op(*scan).kind else {
            continue;
        };
        let Some(found) = ctx.classes().of(graph, *recurrence) else {
            continue;
        };
        let step = graph.recurrence(*recurrence);
        if let Some(state) = step.states.iter().find(|state| !state.kept) {
            return Err(group.reject(
                "segments-kept",
                [*scan],
                "a recurrence that keeps its state",
                format!("`{}`, which another one keeps", state.name),
            ));
        }
        for (i, class) in found.states.iter().enumerate() {
            match class.met() {
                Some((_, Algebra::Linear)) => {}
                // Sums of what is added stay small.
                Some((_, Algebra::Extremal(_))) => continue,
                None => {
                    return Err(group.reject(
                        "segments-class",
                        [*scan],
                        "states that meet, element by element, what does not depend on them",
                        class.name(),
                    ));
                }
            }
            // What many factors above one multiply to may be too large for a number, where a state is not.
            match decay_range(graph, *scan, found, i) {
                Ok((low, high)) if low >= -1.0 && high <= 1.0 => {}
                Ok((low, high)) => {
                    return Err(group.reject(
                        "segments-decay",
                        [*scan],
                        "a decay proven to be in [-1, 1]",
                        format!("as far as its expression shows, it is in [{low}, {high}]"),
                    ));
                }
                Err(why) => {
                    return Err(group.reject(
                        "segments-decay",
                        [*scan],
                        "a decay proven to be in [-1, 1]",
                        why.to_string(),
                    ));
                }
            }
        }
    }
    let from: Vec<bool> = group.ops.iter().map(|id| anchors.contains(id)).collect();
    let (before, after) = (group.ancestors(&from), group.descendants(&from));
    let is = |of: &[bool], id: OpId| group.position(id).is_some_and(|i| of[i]);
    let direction = group.direction();
    for id in &lane.ops {
        for (access, producer) in group.in_body_accesses(*id) {
            if !is(&after, producer) {
                continue;
            }
            if is(&before, *id) {
                return Err(group.reject(
                    "segments-chain",
                    [producer, *id],
                    "recurrences that do not depend on each other",
                    format!("`{}` of results of another", group.name(*id)),
                ));
            }
            if rows_back(direction, access) > 0 {
                return Err(group.reject(
                    "segments-delay",
                    [*id],
                    "rows of the same token of what follows a recurrence",
                    format!(
                        "`{}` read {} rows earlier",
                        graph.value(access.value).name,
                        access.delay.unsigned_abs()
                    ),
                ));
            }
        }
    }
    Ok(())
}
