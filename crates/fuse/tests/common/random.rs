//! Random graphs, and their best plan by enumeration.

use super::Build;
use fusec_fuse::context::Context;
use fusec_fuse::cost::cheapest;
use fusec_fuse::fit::forms;
use fusec_ir::*;
use std::collections::{BTreeSet, HashSet};

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// A random graph of `n` operations over two widths, with stencils, norms, products, scans.
pub fn random_graph(seed: u64, n: usize) -> Graph {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for _ in 0..8 {
        dice.below(2);
    }
    let mut b = Build::new();
    let widths = [b.axis("C", 64), b.axis("F", 512)];
    let mut pools: [Vec<ValueId>; 2] = [vec![b.input("x", &[widths[0]])], vec![]];
    for i in 0..n {
        let name = format!("v{i}");
        let side = match (pools[0].is_empty(), pools[1].is_empty()) {
            (false, true) => 0,
            _ => dice.below(2),
        };
        let of = pools[side][dice.below(pools[side].len())];
        let with = pools[side][dice.below(pools[side].len())];
        let axis = widths[side];
        let (out, v) = match dice.below(12) {
            0..=2 => (side, b.unary(&name, Unary::Silu, of)),
            3 | 4 => (side, b.add(&name, &[of, with])),
            5 => (side, b.norm(&name, of, &[axis])),
            6 => {
                let late = b.late(of, 1 + dice.below(3) as i32);
                let now = b.read(with);
                (side, b.sum(&name, vec![now, late], &[axis]))
            }
            7..=9 => {
                let out = dice.below(2);
                (out, b.project(&name, of, &[widths[out]]))
            }
            _ => (side, b.ema(&name, of, with)),
        };
        pools[out].push(v);
    }
    // Whatever nobody reads is an output, and so is the occasional value that somebody reads.
    let read: BTreeSet<ValueId> = b
        .graph
        .ops
        .iter()
        .flat_map(|op| op.inputs.iter().map(|a| a.value))
        .collect();
    let outputs: Vec<ValueId> = b
        .graph
        .ops
        .iter()
        .map(|op| op.outputs[0])
        .filter(|v| !read.contains(v) || dice.below(8) == 0)
        .collect();
    b.output(&outputs)
}

/// All legal groups of a graph of up to 14 operations (positions as bits), with what must be done
/// before each and its cost.
pub struct Groups {
    n: usize,
    legal: Vec<(usize, usize, f64)>,
    /// Those of several phases.
    in_phases: HashSet<usize>,
}

impl Groups {
    /// Asks for every subset, connected or not, whether a template executes it.
    pub fn of(ctx: &Context<'_>) -> Groups {
        let ops = ctx.planned();
        let n = ops.len();
        assert!(n <= 14);
        let before: Vec<usize> = ops
            .iter()
            .map(|id| {
                let producers = ctx.graph.op(*id).inputs.iter();
                producers
                    .filter_map(|a| ctx.graph.producer(a.value))
                    .filter_map(|p| ops.binary_search(&p).ok())
                    .fold(0, |mask, p| mask | 1 << p)
            })
            .collect();
        let mut in_phases = HashSet::new();
        let legal = (1..1usize << n)
            .filter_map(|mask| {
                let of: Vec<OpId> = (0..n)
                    .filter(|i| mask >> i & 1 == 1)
                    .map(|i| ops[i])
                    .collect();
                let needs = (0..n)
                    .filter(|i| mask >> i & 1 == 1)
                    .fold(0, |needs, i| needs | before[i]);
                let (phases, cost) = cheapest(ctx, forms(ctx, &of).ok()?);
                if phases.len() > 1 {
                    in_phases.insert(mask);
                }
                Some((mask, needs & !mask, cost.total_us))
            })
            .collect();
        Groups {
            n,
            legal,
            in_phases,
        }
    }

    /// Whether a legal group is computed in several phases.
    pub fn in_phases(&self, mask: usize) -> bool {
        self.in_phases.contains(&mask)
    }

    /// The least total cost over all partitions into legal groups that can be launched in some
    /// order: a shortest path over the sets of operations that may be done first. Groups that
    /// are not `allowed` are left out.
    pub fn least(&self, allowed: &dyn Fn(usize) -> bool) -> f64 {
        let legal: Vec<_> = self.legal.iter().filter(|g| allowed(g.0)).collect();
        let mut best = vec![f64::INFINITY; 1 << self.n];
        best[0] = 0.0;
        for done in 0..best.len() {
            if best[done].is_finite() {
                for (mask, needs, us) in &legal {
                    if mask & done == 0 && needs & !done == 0 {
                        let next = best[done] + us;
                        best[done | mask] = best[done | mask].min(next);
                    }
                }
            }
        }
        best[(1 << self.n) - 1]
    }

    /// The same without regard for order: kernels may wait for each other.
    pub fn least_unordered(&self) -> f64 {
        let mut best = vec![f64::INFINITY; 1 << self.n];
        best[0] = 0.0;
        for done in 0..best.len() - 1 {
            let first = (!done).trailing_zeros();
            if best[done].is_finite() {
                for (mask, _, us) in &self.legal {
                    if mask & done == 0 && mask >> first & 1 == 1 {
                        let next = best[done] + us;
                        best[done | mask] = best[done | mask].min(next);
                    }
                }
            }
        }
        best[(1 << self.n) - 1]
    }
}
