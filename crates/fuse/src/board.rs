//! A segment as the board that groups of operations are laid out on: what is before, after and
//! beside each operation, what pins keep together and apart, and what a group costs.

use crate::bits::Bits;
use crate::context::Context;
use crate::cost::cheapest;
use crate::fit::forms;
use crate::plan::Reject;
use fusec_ir::{OpId, OpKind, ValueId};
use std::collections::BTreeMap;

/// A segment with its edges and the user's wishes.
#[derive(Debug)]
#[allow(clippy::len_without_is_empty, reason = "a segment has operations")]
pub struct Board<'a> {
    /// The context.
    pub ctx: &'a Context<'a>,
    /// The operations, ascending.
    pub ops: &'a [OpId],
    /// All operations before each one (transitively).
    before: Vec<Bits>,
    /// All operations after each one (transitively).
    after: Vec<Bits>,
    /// Operations one step away: edges and shared row operands.
    near: Vec<Bits>,
    /// Operations one edge away.
    edges: Vec<Bits>,
    scans: Bits,
    contracts: Bits,
    /// Operations that share no kernel.
    alone: Bits,
    /// Groups that pins keep together, disjoint; every operation is in exactly one.
    atoms: Vec<Bits>,
    atom_of: Vec<usize>,
    /// Groups of which a kernel may hold one operation at most.
    apart: Vec<Bits>,
}

impl<'a> Board<'a> {
    /// Prepares a segment. `together` and `apart` are groups of positions.
    pub fn new(
        ctx: &'a Context<'a>,
        ops: &'a [OpId],
        together: &[Bits],
        apart: Vec<Bits>,
    ) -> Board<'a> {
        let n = ops.len();
        let at = |id: OpId| ops.binary_search(&id).ok();
        let mut before = vec![Bits::empty(n); n];
        let mut edges = vec![Bits::empty(n); n];
        let mut readers: BTreeMap<ValueId, Bits> = BTreeMap::new();
        let (mut scans, mut contracts) = (Bits::empty(n), Bits::empty(n));
        let mut alone = Bits::empty(n);
        for (i, id) in ops.iter().enumerate() {
            let op = ctx.graph.op(*id);
            match op.kind {
                _ if ctx.graph.sums_rows(op) => alone.insert(i),
                OpKind::Scan { .. } => scans.insert(i),
                OpKind::Contract { .. } => contracts.insert(i),
                OpKind::Attend { .. } | OpKind::LastRow | OpKind::Scatter { .. } => alone.insert(i),
                _ => {}
            }
            for access in &op.inputs {
                match ctx.graph.producer(access.value).and_then(at) {
                    Some(p) => {
                        edges[i].insert(p);
                        edges[p].insert(i);
                        before[i].insert(p);
                        let more = before[p].clone();
                        before[i].union(&more);
                    }
                    None if ctx.graph.value(access.value).rows => readers
                        .entry(access.value)
                        .or_insert_with(|| Bits::empty(n))
                        .insert(i),
                    None => {}
                }
            }
            // Readers of one value of the segment are neighbours as long as it is outside the group.
            for v in &op.outputs {
                let of = Bits::of(n, ctx.readers(*v).iter().filter_map(|r| at(*r)));
                readers.insert(*v, of);
            }
        }
        let mut after = vec![Bits::empty(n); n];
        for (i, of) in before.iter().enumerate() {
            for p in of.iter() {
                after[p].insert(i);
            }
        }
        let mut near = edges.clone();
        for of in readers.values() {
            for i in of.iter() {
                near[i].union(of);
            }
        }
        let mut board = Board {
            ctx,
            ops,
            before,
            after,
            near,
            edges,
            scans,
            contracts,
            alone,
            atoms: (0..n).map(|i| Bits::of(n, [i])).collect(),
            atom_of: (0..n).collect(),
            apart,
        };
        for group in together {
            board.bind(group);
        }
        board
    }

    /// Keeps a group together, with what lies between and with the atoms it meets.
    fn bind(&mut self, group: &Bits) {
        let group = self.closed(group.clone());
        let n = self.ops.len();
        let mut atoms: Vec<Bits> = vec![group.clone()];
        atoms.extend(self.atoms.iter().filter(|a| !a.meets(&group)).cloned());
        atoms.sort_by_key(|a| a.iter().next());
        self.atom_of = (0..n)
            .map(|i| atoms.iter().position(|a| a.contains(i)).unwrap_or(0))
            .collect();
        self.atoms = atoms;
    }

    /// Number of operations.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// The groups that must stay together, in order; singles where nothing is pinned.
    pub fn atoms(&self) -> &[Bits] {
        &self.atoms
    }

    /// The set with everything on paths between its members.
    pub fn convex(&self, mut set: Bits) -> Bits {
        let (mut ahead, mut behind) = (Bits::empty(self.len()), Bits::empty(self.len()));
        for i in set.iter() {
            ahead.union(&self.after[i]);
            behind.union(&self.before[i]);
        }
        ahead.intersect(&behind);
        set.union(&ahead);
        set
    }

    /// The set with everything on paths between its members and everything pinned to them.
    pub fn closed(&self, mut set: Bits) -> Bits {
        if self.atoms.len() == self.len() {
            return self.convex(set);
        }
        loop {
            let size = set.len();
            set = self.convex(set);
            for i in set.clone().iter() {
                set.union(&self.atoms[self.atom_of[i]]);
            }
            if set.len() == size {
                return set;
            }
        }
    }

    /// The operations of a set, ascending.
    pub fn ops_of(&self, set: &Bits) -> Vec<OpId> {
        set.iter().map(|i| self.ops[i]).collect()
    }

    /// The predicted time of a closed set as one kernel, or why it cannot be one.
    pub fn price(&self, set: &Bits) -> Result<f64, Reject> {
        let ops = self.ops_of(set);
        for apart in &self.apart {
            let mut both = apart.clone();
            both.intersect(set);
            if both.len() > 1 {
                return Err(Reject {
                    rule: "pin-split".into(),
                    ops: self.ops_of(&both),
                    limit: "one of the operations kept apart by a pin".into(),
                    got: both.len().to_string(),
                });
            }
        }
        forms(self.ctx, &ops).map(|forms| cheapest(self.ctx, forms).1.total_us)
    }

    /// Operations with which a legal group may grow.
    pub fn frontier(&self, set: &Bits) -> Bits {
        if set.meets(&self.alone) {
            return Bits::empty(self.len());
        }
        let anchors = if set.meets(&self.scans) {
            Some(&self.scans)
        } else if set.meets(&self.contracts) {
            Some(&self.contracts)
        } else {
            None
        };
        let mut out = Bits::empty(self.len());
        for i in set.iter() {
            out.union(if anchors.is_some() {
                &self.edges[i]
            } else {
                &self.near[i]
            });
        }
        match anchors {
            Some(anchors) => {
                let others = if set.meets(&self.scans) {
                    &self.contracts
                } else {
                    &self.scans
                };
                out.subtract(others);
                out.union(anchors);
            }
            None => {
                // Groups with an anchor grow from the anchor.
                out.subtract(&self.scans);
                out.subtract(&self.contracts);
            }
        }
        out.subtract(&self.alone);
        out.subtract(set);
        out
    }

    /// Everything before a set that is not in it.
    pub fn operands(&self, set: &Bits) -> Bits {
        let mut out = Bits::empty(self.len());
        for i in set.iter() {
            out.union(&self.before[i]);
        }
        out.subtract(set);
        out
    }

    /// The products.
    pub fn products(&self) -> &Bits {
        &self.contracts
    }

    /// The recurrences.
    pub fn recurrences(&self) -> &Bits {
        &self.scans
    }

    /// The operations that row kernels are made of: all others, unless they share no kernel.
    pub fn rows(&self) -> Bits {
        let mut rows = Bits::of(self.len(), 0..self.len());
        rows.subtract(&self.scans);
        rows.subtract(&self.contracts);
        rows.subtract(&self.alone);
        rows
    }

    /// Operations one edge away from a set that may be in a lane with it: all but `never`.
    pub fn beside(&self, set: &Bits, never: &Bits) -> Bits {
        let mut out = Bits::empty(self.len());
        for i in set.iter() {
            out.union(&self.edges[i]);
        }
        out.subtract(never);
        out.subtract(&self.alone);
        out.subtract(set);
        out
    }

    /// Operations that share a value with a set: an edge, or an operand of both.
    pub fn near(&self, set: &Bits) -> Bits {
        let mut out = Bits::empty(self.len());
        for i in set.iter() {
            out.union(&self.near[i]);
        }
        out
    }

    /// Position of an operation of the segment.
    pub fn position(&self, id: OpId) -> Option<usize> {
        self.ops.binary_search(&id).ok()
    }

    /// Whether a set holds everything on paths between its members and everything pinned to them.
    pub fn is_closed(&self, set: &Bits) -> bool {
        self.closed(set.clone()) == *set
    }

    /// What is before an operation, transitively.
    pub fn before(&self, i: usize) -> &Bits {
        &self.before[i]
    }

    /// What is after an operation, transitively.
    pub fn after(&self, i: usize) -> &Bits {
        &self.after[i]
    }

    /// The atom of an operation.
    pub fn atom(&self, i: usize) -> &Bits {
        &self.atoms[self.atom_of[i]]
    }

    /// Whether no template can ever execute a group in one phase, seen from its anchors alone: it
    /// holds products and recurrences, or products that depend on each other.
    pub fn is_hopeless(&self, set: &Bits) -> bool {
        if !set.meets(&self.contracts) {
            return false;
        }
        let mut contracts = set.clone();
        contracts.intersect(&self.contracts);
        set.meets(&self.scans) || contracts.iter().any(|i| self.before[i].meets(&contracts))
    }

    /// Whether edges lead from one set into another.
    pub fn leads(&self, from: &Bits, into: &Bits) -> bool {
        into.iter().any(|i| self.before[i].meets(from))
    }

    /// Whether a partition can be put in launch order.
    pub fn is_ordered(&self, groups: &[Bits]) -> bool {
        let groups: Vec<Vec<OpId>> = groups.iter().map(|g| self.ops_of(g)).collect();
        crate::order::launch_order(self.ctx, &groups).is_ok()
    }
}

/// Rounded, so that sums in another order compare equal.
pub fn nanoseconds(us: f64) -> i64 {
    (us * 1e3).round() as i64
}

/// Groups as sorted positions, sorted by first member.
pub fn positions(groups: impl IntoIterator<Item = Bits>) -> Vec<Vec<usize>> {
    let groups: std::collections::BTreeSet<Vec<usize>> =
        groups.into_iter().map(|g| g.iter().collect()).collect();
    groups.into_iter().collect()
}
