//! Exact selection equals exhaustive enumeration, and every plan is a plan.

mod common;

use common::{Build, h200, options};
use fusec_fuse::context::Context;
use fusec_fuse::cost::cost;
use fusec_fuse::fit::fit;
use fusec_fuse::{Mode, Plan, Storage, Template, plan};
use fusec_ir::*;
use std::collections::BTreeSet;

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
fn random_graph(seed: u64, n: usize) -> Graph {
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

/// The least total cost over all partitions into legal groups that can be launched in some
/// order: a shortest path over the sets of operations that may be done first.
fn exhaustive(ctx: &Context<'_>) -> f64 {
    let ops = ctx.planned();
    let n = ops.len();
    assert!(n <= 12);
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
    let legal: Vec<(usize, usize, f64)> = (1..1usize << n)
        .filter_map(|mask| {
            let of: Vec<OpId> = (0..n)
                .filter(|i| mask >> i & 1 == 1)
                .map(|i| ops[i])
                .collect();
            let needs = (0..n)
                .filter(|i| mask >> i & 1 == 1)
                .fold(0, |needs, i| needs | before[i]);
            fit(ctx, &of)
                .ok()
                .map(|lanes| (mask, needs & !mask, cost(ctx, &lanes).total_us))
        })
        .collect();
    let mut best = vec![f64::INFINITY; 1 << n];
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
    best[(1 << n) - 1]
}

/// Every planned operation in exactly one kernel; kernels after what they read; each value
/// that is needed elsewhere stored exactly once, each tail kept exactly once.
fn check(ctx: &Context<'_>, plan: &Plan) {
    let mut done = BTreeSet::new();
    let mut stored = BTreeSet::new();
    let mut kept = BTreeSet::new();
    for kernel in &plan.kernels {
        let own: BTreeSet<OpId> = kernel.ops.iter().copied().collect();
        for id in &kernel.ops {
            assert!(done.insert(*id), "{} twice", ctx.graph.op(*id).name);
            for access in &ctx.graph.op(*id).inputs {
                if let Some(p) = ctx.graph.producer(access.value)
                    && !ctx.graph.is_load_time(p)
                    && !own.contains(&p)
                {
                    assert!(stored.contains(&access.value), "read before it is stored");
                }
            }
        }
        let lanes = kernel.phases.iter().flat_map(|p| &p.lanes);
        let mut in_lanes = BTreeSet::new();
        for body in lanes {
            in_lanes.extend(body.ops.iter().copied());
            for v in &body.stores {
                assert!(stored.insert(*v), "stored twice");
            }
            for s in &body.tails {
                assert!(kept.insert(*s), "kept twice");
            }
            for grid in &body.grid {
                assert_eq!(ctx.graph.size(grid.axis) % grid.tile, 0);
            }
        }
        assert_eq!(in_lanes, own);
        assert!(kernel.name.len() <= 60);
    }
    assert_eq!(done.len(), ctx.planned().len());
    for v in &ctx.graph.outputs {
        assert!(stored.contains(v) || ctx.graph.producer(*v).is_none());
    }
}

const SHAPES: [(usize, usize); 3] = [(1, 1), (1, 300), (8, 2048)];

#[test]
fn exact_selection_equals_exhaustive_enumeration() {
    let device = h200();
    let graphs = std::env::var("FUSEC_ORACLE_GRAPHS").map_or(120, |n| n.parse().expect("a number"));
    let mut improved = 0;
    for seed in 0..graphs {
        let graph = random_graph(seed, 4 + (seed % 7) as usize);
        let (batch, time) = SHAPES[(seed % 3) as usize];
        let options = options(&device, batch, time, Mode::Auto);
        let planned = plan(&graph, &options).unwrap();
        let ctx = Context::new(
            &planned.graph,
            options.shape,
            options.storage,
            &device,
            device.graph_launch_us.value,
        );
        check(&ctx, &planned.plan);
        assert!(
            planned.plan.claim.starts_with("optimal"),
            "{}",
            planned.plan.claim
        );
        let least = exhaustive(&ctx);
        let got = planned.plan.total_us;
        assert!(
            (got - least).abs() < 2e-3 * ctx.planned().len() as f64,
            "seed {seed}: {got} us, exhaustive {least} us"
        );
        improved += usize::from(planned.plan.kernels.len() < ctx.planned().len());
    }
    assert!(
        improved * 2 > graphs as usize,
        "random graphs leave nothing to fuse"
    );
}

#[test]
fn every_way_of_choosing_gives_a_plan_and_random_ones_use_every_template() {
    let device = h200();
    let mut templates = BTreeSet::new();
    let mut lanes = BTreeSet::new();
    for seed in 0..60 {
        let graph = random_graph(seed, 12);
        for (batch, time) in SHAPES {
            for mode in [Mode::Unfused, Mode::Greedy, Mode::Random(seed)] {
                let options = options(&device, batch, time, mode);
                let planned = plan(&graph, &options).unwrap();
                let ctx = Context::new(&planned.graph, options.shape, Storage::Bf16, &device, 1.0);
                check(&ctx, &planned.plan);
                if matches!(mode, Mode::Random(_)) {
                    for phase in planned.plan.kernels.iter().flat_map(|k| &k.phases) {
                        for body in &phase.lanes {
                            templates.insert(body.template);
                            if phase.lanes.len() > 1 {
                                lanes.insert(body.template);
                            }
                        }
                    }
                }
            }
        }
    }
    let all = [
        Template::Row,
        Template::Scan,
        Template::Gemv,
        Template::Gemm,
    ];
    assert_eq!(templates, BTreeSet::from(all));
    assert_eq!(
        lanes,
        BTreeSet::from([Template::Scan, Template::Gemv, Template::Gemm])
    );
}

#[test]
fn plans_are_the_same_every_time_and_never_worse_than_greedy() {
    let device = h200();
    for seed in 0..20 {
        let graph = random_graph(seed, 20);
        for (batch, time) in SHAPES {
            let auto = options(&device, batch, time, Mode::Auto);
            let first = plan(&graph, &auto).unwrap().plan;
            assert_eq!(first, plan(&graph, &auto).unwrap().plan);
            let greedy = options(&device, batch, time, Mode::Greedy);
            let greedy = plan(&graph, &greedy).unwrap().plan;
            assert!(first.total_us <= greedy.total_us + 1e-2, "seed {seed}");
        }
    }
}
