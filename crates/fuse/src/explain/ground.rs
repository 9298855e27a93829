//! Groups that hold two operations: the smallest legal one, or why there is none.

use crate::bits::Bits;
use crate::board::Board;
use crate::context::Context;
use crate::plan::Reject;
use fusec_ir::OpId;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

/// Groups examined in search of a legal one.
const CAP: usize = 2000;
/// The rules that miss an operation: a larger group may obey them where a smaller one does not.
/// All other rules forbid what is there, and more operations do not take it away.
const REPAIRABLE: [&str; 3] = ["not-connected", "prologue-stored", "phase-lanes"];

/// The operations of a segment and their neighbours.
pub struct Ground<'a> {
    /// Closing and pricing groups, without any pins.
    pub board: Board<'a>,
    /// For each operation, those that make what it reads, read what it makes, or read the same.
    near: Vec<Bits>,
}

/// A group that holds two operations.
pub enum Joint {
    /// The smallest that is legal.
    Legal(Vec<OpId>),
    /// None is.
    Illegal {
        /// The smallest group.
        group: Vec<OpId>,
        /// What forbids it.
        reject: Reject,
        /// Whether no larger group was left to examine.
        complete: bool,
    },
}

impl<'a> Ground<'a> {
    /// Prepares the operations of a segment, ascending.
    pub fn new(ctx: &'a Context<'a>, ops: &'a [OpId]) -> Ground<'a> {
        let at = |id: &OpId| ops.binary_search(id).ok();
        let mut near = vec![Bits::empty(ops.len()); ops.len()];
        for (i, id) in ops.iter().enumerate() {
            for access in &ctx.graph.op(*id).inputs {
                if !ctx.graph.value(access.value).rows {
                    continue;
                }
                let maker = ctx.graph.producer(access.value);
                let with = ctx.readers(access.value).iter().chain(maker.as_ref());
                for other in with.filter_map(at).filter(|other| *other != i) {
                    near[i].insert(other);
                    near[other].insert(i);
                }
            }
        }
        Ground {
            board: Board::new(ctx, ops, &[], vec![]),
            near,
        }
    }

    /// Position of an operation.
    pub fn at(&self, id: OpId) -> Option<usize> {
        self.board.ops.binary_search(&id).ok()
    }

    /// The smallest legal group that holds two operations, by their positions.
    ///
    /// Every group that holds both holds what lies between. From there the search goes on by
    /// neighbours, smallest group first, as long as only a missing operation is in the way.
    pub fn joint(&self, a: usize, b: usize) -> Joint {
        let n = self.board.len();
        let least = self.board.closed(Bits::of(n, [a, b]));
        let mut queue = BinaryHeap::from([Reverse((least.len(), least.clone()))]);
        let mut seen = BTreeSet::from([least.clone()]);
        let mut first = None;
        let mut complete = true;
        let mut examined = 0;
        while let Some(Reverse((_, group))) = queue.pop() {
            if examined == CAP {
                complete = false;
                break;
            }
            examined += 1;
            let reject = match self.board.price(&group) {
                Ok(_) => return Joint::Legal(self.board.ops_of(&group)),
                Err(reject) => reject,
            };
            let repairable = REPAIRABLE.contains(&reject.rule.as_str());
            first.get_or_insert(reject);
            if !repairable {
                continue;
            }
            let mut more = Bits::empty(n);
            for i in group.iter() {
                more.union(&self.near[i]);
            }
            more.subtract(&group);
            for i in more.iter() {
                let mut grown = group.clone();
                grown.insert(i);
                let grown = self.board.closed(grown);
                if seen.insert(grown.clone()) {
                    queue.push(Reverse((grown.len(), grown)));
                }
            }
        }
        Joint::Illegal {
            group: self.board.ops_of(&least),
            reject: first.unwrap_or(Reject {
                rule: "empty".into(),
                ops: vec![],
                limit: "at least one operation".into(),
                got: "none".into(),
            }),
            complete,
        }
    }
}
