//! Exact selection equals exhaustive enumeration, and every plan is a plan.

mod common;

use common::random::{Groups, random_graph};
use common::{h200, options};
use fusec_fuse::context::Context;
use fusec_fuse::{Mode, Plan, Storage, Template, plan};
use fusec_ir::*;
use std::collections::BTreeSet;

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
            for grid in body.schedule.grid() {
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

/// What the graphs of the oracle have to contain, for its verdict to mean something.
#[derive(Debug, Default)]
struct Seen {
    /// Graphs of twelve operations.
    twelve: usize,
    /// Plans with a kernel of several operations.
    fused: usize,
    /// Plans with a kernel of which no two operations are joined by edges.
    siblings: usize,
    /// Plans with a kernel of lanes side by side.
    lanes: usize,
    /// Plans with a kernel of two phases.
    phases: usize,
    /// Those that are cheaper for it than any without.
    better: usize,
    /// Graphs whose cheapest groups would wait for each other.
    cycles: usize,
}

#[test]
fn exact_selection_equals_exhaustive_enumeration() {
    let (dear, mut cheap) = (h200(), h200());
    // Launches cost more than barriers of a grid: two phases are worth while where they are legal.
    cheap.grid_barrier_us.value = 0.1;
    let graphs: usize =
        std::env::var("FUSEC_ORACLE_GRAPHS").map_or(1000, |n| n.parse().expect("a number"));
    let mut seen = Seen::default();
    let mut checked = 0;
    for seed in 0.. {
        if checked == graphs {
            break;
        }
        let graph = random_graph(seed, 4 + (seed % 9) as usize);
        let (batch, time) = SHAPES[(seed % 3) as usize];
        let device = [&dear, &cheap, &cheap][(seed / 3 % 3) as usize];
        let options = options(device, batch, time, Mode::Auto);
        let planned = plan(&graph, &options).unwrap();
        let ctx = Context::new(
            &planned.graph,
            options.shape,
            options.storage,
            device,
            device.graph_launch_us.value,
        );
        check(&ctx, &planned.plan);
        if ctx.planned().len() > 13 {
            // A form of many more operations was chosen; the oracle would take too long.
            continue;
        }
        checked += 1;
        assert!(
            planned.plan.claim.starts_with("optimal"),
            "seed {seed}: {}",
            planned.plan.claim
        );
        let groups = Groups::of(&ctx);
        let least = groups.least(&|_| true);
        let got = planned.plan.total_us;
        assert!(
            (got - least).abs() < 2e-3 * ctx.planned().len() as f64,
            "seed {seed}: {got} us, exhaustive {least} us"
        );
        let kernels = &planned.plan.kernels;
        seen.twelve += usize::from(ctx.planned().len() == 12);
        seen.fused += usize::from(kernels.len() < ctx.planned().len());
        seen.siblings += usize::from(kernels.iter().any(|k| is_apart(&ctx, &k.ops)));
        seen.lanes += usize::from(kernels.iter().any(|k| k.phases[0].lanes.len() > 1));
        if kernels.iter().any(|k| k.phases.len() > 1) {
            seen.phases += 1;
            let split = groups.least(&|mask| !groups.in_phases(mask));
            seen.better += usize::from(least < split - 1e-3);
        }
        seen.cycles += usize::from(groups.least_unordered() < least - 1e-3);
    }
    println!("{seen:?}");
    let part = |n: usize| n * 1000 / graphs.max(1);
    assert!(part(seen.twelve) > 50 && part(seen.fused) > 700, "{seen:?}");
    assert!(
        part(seen.siblings) > 10 && part(seen.lanes) > 50,
        "{seen:?}"
    );
    assert!(
        part(seen.phases) > 10 && seen.better == seen.phases,
        "{seen:?}"
    );
    assert!(graphs < 1000 || seen.cycles > 0, "{seen:?}");
}

#[test]
fn plans_with_pins_are_the_best_that_obey_them() {
    let mut device = h200();
    device.grid_barrier_us.value = 0.1;
    let (mut pinned, mut in_phases) = (0, 0);
    for seed in 0..400 {
        let graph = random_graph(seed, 5 + (seed % 7) as usize);
        let (batch, time) = SHAPES[(seed % 2 * 2) as usize];
        let free = options(&device, batch, time, Mode::Greedy);
        let graph = plan(&graph, &free).unwrap().graph;
        let ctx = Context::new(
            &graph,
            free.shape,
            free.storage,
            &device,
            device.graph_launch_us.value,
        );
        let n = ctx.planned().len();
        if n > 12 {
            continue;
        }
        let groups = Groups::of(&ctx);
        let (a, b) = (seed as usize % n, seed as usize / 7 % n);
        let both = 1 << a | 1 << b;
        let obeys = |mask: usize| mask & both == 0 || mask & both == both;
        let least = groups.least(&obeys);
        let name = |at: usize| {
            graph
                .value(graph.op(ctx.planned()[at]).outputs[0])
                .name
                .clone()
        };
        let mut options = options(&device, batch, time, Mode::Auto);
        options.pins = vec![Pin {
            kind: PinKind::Fuse,
            values: vec![name(a), name(b)],
            span: None,
        }];
        let Ok(planned) = plan(&graph, &options) else {
            // What lies between may need more to be a kernel, but a larger pin has to say so.
            continue;
        };
        if planned.graph != graph {
            continue;
        }
        let got = planned.plan;
        assert!(
            got.claim.starts_with("optimal"),
            "seed {seed}: {}",
            got.claim
        );
        assert!(
            (got.total_us - least).abs() < 2e-3 * n as f64,
            "seed {seed}: {} us, exhaustive {least} us",
            got.total_us
        );
        pinned += usize::from(a != b);
        in_phases += usize::from(got.kernels.iter().any(|k| k.phases.len() > 1));
    }
    println!("{pinned} pinned, {in_phases} in phases");
    assert!(pinned > 40 && in_phases > 10, "{pinned} {in_phases}");
}

/// Whether there are several operations, and none reads what another makes.
fn is_apart(ctx: &Context<'_>, ops: &[OpId]) -> bool {
    let reads_inside = |id: &OpId| {
        let mut inputs = ctx.graph.op(*id).inputs.iter();
        inputs.any(|a| {
            ctx.graph
                .producer(a.value)
                .is_some_and(|p| ops.contains(&p))
        })
    };
    ops.len() > 1 && !ops.iter().any(reads_inside)
}

#[test]
fn every_way_of_choosing_gives_a_plan_and_random_ones_use_every_template() {
    let device = h200();
    let mut templates = BTreeSet::new();
    let mut lanes = BTreeSet::new();
    let mut in_phases = 0;
    for seed in 0..60 {
        let graph = random_graph(seed, 12);
        for (batch, time) in SHAPES {
            for mode in [Mode::Unfused, Mode::Greedy, Mode::Random(seed)] {
                let options = options(&device, batch, time, mode);
                let planned = plan(&graph, &options).unwrap();
                let ctx = Context::new(&planned.graph, options.shape, Storage::Bf16, &device, 1.0);
                check(&ctx, &planned.plan);
                if matches!(mode, Mode::Random(_)) {
                    let kernels = planned.plan.kernels.iter();
                    in_phases += kernels.filter(|k| k.phases.len() > 1).count();
                    for phase in planned.plan.kernels.iter().flat_map(|k| &k.phases) {
                        for body in &phase.lanes {
                            templates.insert(body.template());
                            if phase.lanes.len() > 1 {
                                lanes.insert(body.template());
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
    assert!(in_phases > 0);
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
