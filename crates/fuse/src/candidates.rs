//! Candidates: the legal groups of a segment, grown from single operations.
//!
//! Every legal group can be built by adding one operation at a time (and whatever lies
//! between it and the group) such that each step is legal: anchors first, then what is
//! before and after them, nearest first. So growth expands legal groups only: along edges,
//! between anchors of one kind, and, for groups without an anchor, along shared operands.
//! It goes best first; when the cap is reached, the groups that save most are known. Groups of
//! each kind (recurrences, products, rows only) have a cap of their own, so that the many ways
//! to put independent products side by side do not crowd out the others.

use crate::bits::Bits;
use crate::context::Context;
use crate::cost::cheapest;
use crate::fit::forms;
use crate::plan::Reject;
use fusec_ir::{OpId, OpKind, ValueId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashSet};

/// Legal groups of each kind (recurrences, products, rows) examined per segment before their
/// growth stops.
pub const CAP: usize = 1200;
/// Illegal groups examined for each legal one allowed.
const ILLEGAL_PER_LEGAL: usize = 4;

/// A legal group and its predicted time.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Positions in the segment.
    pub members: Bits,
    /// Microseconds.
    pub us: f64,
}

/// What growth found.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    /// Legal groups that no split into two other groups equals or beats, singles first.
    pub candidates: Vec<Candidate>,
    /// Legal groups examined.
    pub legal: usize,
    /// Illegal groups examined, by rule.
    pub rejected: BTreeMap<String, usize>,
    /// Whether all legal groups were examined.
    pub complete: bool,
}

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
                OpKind::Scan { .. } => scans.insert(i),
                OpKind::Contract { .. } => contracts.insert(i),
                OpKind::Attend { .. } => alone.insert(i),
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

    /// The set with everything on paths between its members and everything pinned to them.
    pub fn closed(&self, mut set: Bits) -> Bits {
        loop {
            let size = set.len();
            let (mut ahead, mut behind) = (Bits::empty(self.len()), Bits::empty(self.len()));
            for i in set.iter() {
                ahead.union(&self.after[i]);
                behind.union(&self.before[i]);
            }
            ahead.intersect(&behind);
            set.union(&ahead);
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

    /// 0 for groups of rows only, 1 with a recurrence, 2 with a product. Rows come first: a
    /// group of rows that pins or paths extend by an anchor is queued for later.
    fn kind(&self, set: &Bits) -> usize {
        if set.meets(&self.scans) {
            1
        } else if set.meets(&self.contracts) {
            2
        } else {
            0
        }
    }

    /// The groups of a partition with one operation moved into a neighbouring group, wherever
    /// that leaves two legal groups.
    pub fn neighbours(&self, groups: &[Bits]) -> Vec<Bits> {
        let mut out = Vec::new();
        for (a, from) in groups.iter().enumerate() {
            for i in from.iter() {
                let atom = &self.atoms[self.atom_of[i]];
                let mut rest = from.clone();
                rest.subtract(atom);
                if !rest.is_empty() && self.closed(rest.clone()) != rest {
                    continue;
                }
                for (b, into) in groups.iter().enumerate() {
                    if a == b || !self.frontier(into).meets(atom) {
                        continue;
                    }
                    let mut more = into.clone();
                    more.union(atom);
                    if self.closed(more.clone()) == more {
                        out.push(more);
                        if !rest.is_empty() {
                            out.push(rest.clone());
                        }
                    }
                }
            }
        }
        out
    }

    /// Whether no template can ever execute a group, seen from its anchors alone: it holds
    /// products and recurrences, or products that depend on each other.
    fn is_hopeless(&self, set: &Bits) -> bool {
        if !set.meets(&self.contracts) {
            return false;
        }
        let mut contracts = set.clone();
        contracts.intersect(&self.contracts);
        set.meets(&self.scans) || contracts.iter().any(|i| self.before[i].meets(&contracts))
    }

    /// Whether edges lead from one set into another.
    fn leads(&self, from: &Bits, into: &Bits) -> bool {
        into.iter().any(|i| self.before[i].meets(from))
    }

    /// Whether a partition can be put in launch order.
    pub fn is_ordered(&self, groups: &[Bits]) -> bool {
        let groups: Vec<Vec<OpId>> = groups.iter().map(|g| self.ops_of(g)).collect();
        crate::order::launch_order(self.ctx, &groups).is_ok()
    }

    /// Grows the pool.
    pub fn grow(&self, cap: usize) -> Result<Pool, (Vec<OpId>, Reject)> {
        let mut pool = Pool {
            complete: true,
            ..Pool::default()
        };
        let mut seen: HashSet<Bits> = HashSet::new();
        let mut prices: BTreeMap<Bits, f64> = BTreeMap::new();
        // Most saving first; among equals the smaller set, so that the order is the same everywhere.
        let mut queues: [BinaryHeap<(i64, Reverse<Bits>)>; 3] = Default::default();
        let mut legal = [0usize; 3];
        let mut illegal = [0usize; 3];
        let mut alone = vec![0.0; self.len()];
        for atom in &self.atoms {
            let us = self
                .price(atom)
                .map_err(|reject| (self.ops_of(atom), reject))?;
            for i in atom.iter() {
                alone[i] = us / atom.len() as f64;
            }
            seen.insert(atom.clone());
            prices.insert(atom.clone(), us);
            pool.candidates.push(Candidate {
                members: atom.clone(),
                us,
            });
            legal[self.kind(atom)] += 1;
            queues[self.kind(atom)].push((0, Reverse(atom.clone())));
        }
        for kind in 0..queues.len() {
            'kind: while let Some((_, Reverse(set))) = queues[kind].pop() {
                let base = prices.get(&set).copied().unwrap_or(f64::INFINITY);
                for i in self.frontier(&set).iter() {
                    let mut grown = set.clone();
                    grown.union(&self.atoms[self.atom_of[i]]);
                    let grown = self.closed(grown);
                    if !seen.insert(grown.clone()) || self.is_hopeless(&grown) {
                        continue;
                    }
                    let of = self.kind(&grown);
                    if legal[of] >= cap || illegal[of] >= cap * ILLEGAL_PER_LEGAL {
                        pool.complete = false;
                        if of == kind {
                            break 'kind;
                        }
                        continue;
                    }
                    let us = match self.price(&grown) {
                        Ok(us) => us,
                        Err(reject) => {
                            *pool.rejected.entry(reject.rule).or_default() += 1;
                            illegal[of] += 1;
                            continue;
                        }
                    };
                    legal[of] += 1;
                    prices.insert(grown.clone(), us);
                    let apart: f64 = grown.iter().map(|i| alone[i]).sum();
                    queues[of].push((nanoseconds(apart - us), Reverse(grown.clone())));
                    let mut added = grown.clone();
                    added.subtract(&set);
                    let dominated = prices.get(&added).is_some_and(|rest| base + rest <= us)
                        && !(self.leads(&set, &added) && self.leads(&added, &set));
                    if !dominated {
                        pool.candidates.push(Candidate { members: grown, us });
                    }
                }
            }
        }
        pool.legal = legal.iter().sum();
        Ok(pool)
    }
}

/// Rounded, so that sums in another order compare equal.
pub fn nanoseconds(us: f64) -> i64 {
    (us * 1e3).round() as i64
}

/// Groups as sorted positions, sorted by first member.
pub fn positions(groups: impl IntoIterator<Item = Bits>) -> Vec<Vec<usize>> {
    let groups: BTreeSet<Vec<usize>> = groups.into_iter().map(|g| g.iter().collect()).collect();
    groups.into_iter().collect()
}
