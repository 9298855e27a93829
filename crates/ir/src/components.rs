//! The components of a step: recurrences that a step is made of, and what is none.
//!
//! The states of a step form a graph of who feeds whom. Each strongly connected component of it is a
//! recurrence of its own; those that it reads come before it. A statement that reads states and feeds
//! none is no part of a recurrence: where it is linear in the states of one component, it is a read of
//! them, and otherwise an operation of its own after them; so are statements between two components
//! (`partition`). [`separate`] writes the scan of such a step as these pieces (`pieces`, `site`).
//!
//! A state that is read through itself and through its transpose is brought up to date once for each of the two
//! (`readers`).
//!
//! Every statement is kept as it is, so the same numbers are computed, bit for bit, and states keep
//! their names, places and layouts. What never lives here: whether the pieces are better than the whole,
//! which depends on a machine, and what class a component is of (see [`mod@crate::class`]).

mod partition;
mod pieces;
mod readers;
mod site;

use crate::{Graph, Op, OpKind, Recurrence, RecurrenceId};
use pieces::Pieces;
pub(crate) use site::below;
use std::collections::BTreeMap;

/// Whether a step has more than one component, or statements that are no part of any.
pub fn is_separable(graph: &Graph, step: &Recurrence) -> bool {
    Pieces::of(graph, step).is_some()
}

/// The graph with every scan for which `wanted` holds in pieces, where its step is separable.
///
/// Values keep their ids and states are untouched. The recurrences of all separable steps are added
/// after those of the graph, in the same order whatever is wanted. A scan stays whole if a component of
/// it would have no reader: nothing would bring its states up to date.
///
/// Linear in the size of the graph; cubic in the number of states of a step.
pub fn separate(graph: &Graph, wanted: impl Fn(&Op) -> bool) -> Graph {
    let mut recurrences = graph.recurrences.clone();
    let mut pieces: BTreeMap<RecurrenceId, Option<Pieces>> = BTreeMap::new();
    for op in &graph.ops {
        if let OpKind::Scan { recurrence, .. } = op.kind {
            pieces.entry(recurrence).or_insert_with(|| {
                let of = Pieces::of(graph, graph.recurrence(recurrence));
                of.map(|of| of.numbered(&mut recurrences))
            });
        }
    }
    let of = |op: &Op| match &op.kind {
        OpKind::Scan { recurrence, .. } if wanted(op) => pieces.get(recurrence)?.as_ref(),
        _ => None,
    };
    if !graph.ops.iter().any(|op| of(op).is_some()) {
        return graph.clone();
    }
    let mut writer = site::Writer::new(graph, recurrences);
    for op in &graph.ops {
        match of(op) {
            Some(pieces) => writer.scan(op, pieces),
            None => writer.keep(op),
        }
    }
    writer.finish()
}
