//! A plan with the model's own names, for programs (`--json`). For people, plans print themselves.

use fusec_fuse::{
    Cost, Kernel, Plan, Planned, Shape, Storage, Template, launches_per_layer, limit,
};
use fusec_ir::{Graph, OpId};
use serde::Serialize;

use crate::table;

/// A plan, summed up.
#[derive(Debug, Serialize)]
pub struct Overview<'a> {
    model: &'a str,
    device: &'a str,
    shape: Shape,
    dtype: Storage,
    plan: String,
    /// How good the selection is.
    claim: &'a str,
    /// Global forms taken.
    forms: &'a [String],
    layers: u32,
    #[serde(flatten)]
    sums: Sums,
    /// The same model with one kernel per operation.
    unfused: Sums,
    kernels: Vec<KernelOverview<'a>>,
}

/// What a plan comes to.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sums {
    /// Launches of a run.
    pub launches: usize,
    /// Launches of an interior layer.
    pub launches_per_layer: usize,
    /// Bytes to and from device memory, predicted.
    pub bytes: f64,
    /// Time, predicted.
    pub total_us: f64,
}

impl Sums {
    /// Of a plan.
    pub fn of(plan: &Plan) -> Self {
        Sums {
            launches: plan.kernels.len(),
            launches_per_layer: launches_per_layer(plan),
            bytes: plan.kernels.iter().map(|kernel| kernel.cost.bytes).sum(),
            total_us: plan.total_us,
        }
    }
}

impl<'a> Overview<'a> {
    /// Sums up a plan beside the plan without fusion.
    pub fn new(planned: &'a Planned, unfused: &Plan) -> Self {
        let Planned { graph, plan, .. } = planned;
        Overview {
            model: &plan.model,
            device: &plan.device,
            shape: plan.shape,
            dtype: plan.storage,
            plan: plan.mode.to_string(),
            claim: &plan.claim,
            forms: &plan.forms,
            layers: graph.layers,
            sums: Sums::of(plan),
            unfused: Sums::of(unfused),
            kernels: (plan.kernels.iter())
                .map(|kernel| KernelOverview::new(graph, kernel))
                .collect(),
        }
    }
}

/// The readable plan, and what it saves.
pub fn text(planned: &Planned, unfused: &Plan) -> String {
    beside(planned.to_string(), unfused)
}

/// The same with one line a kernel.
pub fn brief(planned: &Planned, unfused: &Plan) -> String {
    beside(planned.brief().to_string(), unfused)
}

fn beside(plan: String, unfused: &Plan) -> String {
    let before = Sums::of(unfused);
    format!(
        "{plan}unfused: {} launches ({} per layer), {} of memory traffic, {} predicted\n",
        before.launches,
        before.launches_per_layer,
        table::bytes(before.bytes),
        table::microseconds(before.total_us),
    )
}

/// A kernel with names for numbers.
#[derive(Debug, Serialize)]
pub struct KernelOverview<'a> {
    name: &'a str,
    layer: Option<u32>,
    templates: Vec<Template>,
    /// Operations it is built around.
    anchors: Vec<&'a str>,
    /// All operations it computes.
    ops: Vec<&'a str>,
    /// Values it writes to memory.
    stores: Vec<&'a str>,
    forms: &'a [String],
    phases: usize,
    /// Lanes of each phase.
    lanes: Vec<usize>,
    bytes: f64,
    flops: f64,
    /// The largest term of its time.
    limited_by: &'static str,
    cost: Cost,
}

impl<'a> KernelOverview<'a> {
    /// A kernel of a plan for `graph`.
    pub fn new(graph: &'a Graph, kernel: &'a Kernel) -> Self {
        let lanes = || kernel.phases.iter().flat_map(|phase| &phase.lanes);
        let op_name = |id: &OpId| graph.op(*id).name.as_str();
        let mut templates: Vec<Template> = lanes().map(|lane| lane.template()).collect();
        templates.dedup();
        KernelOverview {
            name: &kernel.name,
            layer: kernel.layer,
            templates,
            anchors: lanes().flat_map(|l| l.anchors()).map(op_name).collect(),
            ops: kernel.ops.iter().map(op_name).collect(),
            stores: lanes()
                .flat_map(|lane| &lane.stores)
                .map(|value| graph.value(*value).name.as_str())
                .collect(),
            forms: &kernel.forms,
            phases: kernel.phases.len(),
            lanes: kernel.phases.iter().map(|p| p.lanes.len()).collect(),
            bytes: kernel.cost.bytes,
            flops: flops(&kernel.cost),
            limited_by: limit(&kernel.cost),
            cost: kernel.cost,
        }
    }

    /// The templates that execute it, in words.
    pub fn template(&self) -> String {
        let names: Vec<String> = self.templates.iter().map(Template::to_string).collect();
        names.join("+")
    }

    /// The largest term of its predicted time.
    pub fn limited_by(&self) -> &'static str {
        self.limited_by
    }

    /// Its predicted cost.
    pub fn cost(&self) -> &Cost {
        &self.cost
    }
}

/// Floating-point operations, wherever they are done.
pub fn flops(cost: &Cost) -> f64 {
    cost.tensor_flops + cost.simt_flops
}

/// The part of a predicted time that its largest term takes by itself.
pub fn roof_share(cost: &Cost) -> f64 {
    let terms = [
        cost.memory_us,
        cost.tensor_us,
        cost.simt_us,
        cost.special_us,
        cost.serial_us,
        cost.launch_us,
        cost.barrier_us,
        cost.latency_us,
        cost.underfill_us,
    ];
    terms.into_iter().fold(0.0, f64::max) / cost.total_us.max(f64::MIN_POSITIVE)
}
