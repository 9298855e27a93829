//! Launches and memory traffic of the plans of the zoo, against what fusion can reach.

mod common;

use common::{h200, model, options};
use fusec_fuse::context::Context;
use fusec_fuse::segment::segments;
use fusec_fuse::{Mode, Planned, launches_per_layer, plan};
use fusec_ir::{OpId, OpKind, StateKind, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// Traffic between the products, as a multiple of the least. More than a little of it is left where
/// a scan has few blocks: what surrounds it, for which its runs of rows wait, is computed apart.
const MOST: f64 = 1.55;
/// The same where the values of a layer stay in the L2 cache, so that little of it is traffic of the
/// memory: a norm over all heads of a chunked recurrence takes a launch of its own there, since
/// the form that does without saves less than forms must.
const IN_CACHE: f64 = 1.6;

/// Launches of an interior layer at T = 1, at most: model, preset, launches.
///
/// With 4096 channels products of RWKV-6 no longer pay for shifting the row in each of their 512
/// blocks: their inputs are made in launches of their own.
const LAUNCHES: [(&str, Option<&str>, usize); 15] = [
    ("rwkv7", None, 6),
    ("rwkv7", Some("0.4b"), 6),
    ("rwkv7", Some("2.9b"), 6),
    ("rwkv6", None, 8),
    ("rwkv6", Some("1.6b"), 8),
    ("rwkv6", Some("7b"), 10),
    ("mamba2", None, 4),
    ("mamba2", Some("130m"), 4),
    ("mamba2", Some("2.7b"), 4),
    ("mamba1", None, 5),
    ("mamba1", Some("130m"), 5),
    ("mamba1", Some("2.8b"), 5),
    ("gla", None, 6),
    ("gla", Some("340m"), 6),
    ("gla", Some("1.3b"), 6),
];

#[test]
fn a_layer_takes_few_launches_per_token() {
    let device = h200();
    for (name, preset, most) in LAUNCHES {
        let graph = model(name, preset);
        let planned = plan(&graph, &options(&device, 1, 1, Mode::Auto)).expect("planned");
        let launches = launches_per_layer(&planned.plan);
        println!("{name} {preset:?}: {launches} launches");
        assert!(launches <= most, "{name} {preset:?}: {launches} launches");
    }
}

/// Bytes of a value and of the states that an operation keeps, at the planned shape.
struct Traffic<'a> {
    ctx: &'a Context<'a>,
}

impl Traffic<'_> {
    /// What a kernel of these operations has to move, whatever the template: rows that it reads
    /// and did not make, once each; rows that others need, once each; states, read and written.
    fn of(&self, ops: &BTreeSet<OpId>) -> f64 {
        let (ctx, graph) = (self.ctx, self.ctx.graph);
        let mut read: BTreeSet<ValueId> = BTreeSet::new();
        let mut bytes = 0.0;
        for id in ops {
            let op = graph.op(*id);
            for access in &op.inputs {
                let made = graph
                    .producer(access.value)
                    .is_some_and(|p| ops.contains(&p));
                if graph.value(access.value).rows && !made {
                    read.insert(access.value);
                }
            }
            for value in &op.outputs {
                let leaves = ctx.readers(*value).iter().any(|r| !ops.contains(r));
                if leaves || ctx.is_output(*value) {
                    bytes += ctx.value_bytes(*value);
                }
            }
            let carried = match &op.kind {
                OpKind::Scan { states, .. } => states.as_slice(),
                _ => &[],
            };
            for state in carried.iter().chain(&op.tails) {
                let width = match graph.state(*state).kind {
                    StateKind::Scan { .. } => 1,
                    StateKind::Tail { width, .. } => width as usize,
                };
                let elements = graph.elements(&graph.state(*state).axes) * ctx.shape.batch;
                bytes += (2 * 4 * width * elements) as f64;
            }
        }
        bytes + read.iter().map(|v| ctx.value_bytes(*v)).sum::<f64>()
    }
}

/// The traffic between the products of an interior layer, and the least that they leave.
///
/// Products are boundaries: their activations lie in memory, and their results are left there.
/// What is between them, operations joined by edges that touch no product, could at best be one
/// kernel: it reads what it did not make once and writes what others need once. The least is the
/// sum over those regions and of what the products read, each value once for all of them, and
/// write. The plan moves what its kernels read and write, each value once per kernel. A map that a
/// product takes as its epilogue moves nothing in the plan, and does in the least: the ratio may
/// be below one. Weights count on neither side.
fn between_products(planned: &Planned, ctx: &Context<'_>) -> (f64, f64) {
    let traffic = Traffic { ctx };
    let all = segments(ctx);
    let Some(layer) = all.iter().rev().find(|s| s.layer.is_some()) else {
        return (0.0, 0.0);
    };
    let is_product = |id: &OpId| matches!(ctx.graph.op(*id).kind, OpKind::Contract { .. });
    let mut region: BTreeMap<OpId, OpId> = layer.ops.iter().map(|id| (*id, *id)).collect();
    for id in layer.ops.iter().filter(|id| !is_product(id)) {
        for access in &ctx.graph.op(*id).inputs {
            let maker = ctx.graph.producer(access.value);
            let Some(with) = maker.filter(|p| region.contains_key(p) && !is_product(p)) else {
                continue;
            };
            let (a, b) = (region[id], region[&with]);
            region
                .values_mut()
                .filter(|r| **r == a)
                .for_each(|r| *r = b);
        }
    }
    let mut regions: BTreeMap<Option<OpId>, BTreeSet<OpId>> = BTreeMap::new();
    for (id, of) in region {
        // All products are one region: they share what they read.
        let of = if is_product(&id) { None } else { Some(of) };
        regions.entry(of).or_default().insert(id);
    }
    let least = regions.values().map(|ops| traffic.of(ops)).sum();
    let own = |ops: &[OpId]| ops.iter().all(|id| layer.ops.contains(id));
    let kernels = planned.plan.kernels.iter().filter(|k| own(&k.ops));
    let moved = kernels
        .map(|k| traffic.of(&k.ops.iter().copied().collect()))
        .sum();
    (moved, least)
}

#[test]
fn little_is_moved_between_the_products_of_a_prefill() {
    let device = h200();
    for (name, preset, _) in LAUNCHES {
        let graph = model(name, preset);
        for (batch, time) in [(1, 2048), (8, 2048)] {
            let options = options(&device, batch, time, Mode::Auto);
            let planned = plan(&graph, &options).expect("planned");
            let launch = device.graph_launch_us.value;
            let ctx = Context::new(
                &planned.graph,
                options.shape,
                options.storage,
                &device,
                launch,
            );
            let (moved, least) = between_products(&planned, &ctx);
            let ratio = moved / least;
            println!("{name} {preset:?} B={batch} T={time}: {ratio:.2} of the least");
            let stored = planned.plan.kernels.iter().filter(|k| k.layer.is_some());
            let stored = stored
                .flat_map(|k| &k.phases[0].lanes)
                .flat_map(|b| &b.stores);
            let widest = stored.map(|v| ctx.value_bytes(*v)).fold(0.0, f64::max);
            let cached = widest <= device.l2_mb.value * 1e6 / 2.0;
            let most = if cached { IN_CACHE } else { MOST };
            assert!(
                ratio <= most,
                "{name} {preset:?} B={batch} T={time}: {ratio:.2}"
            );
        }
    }
}
