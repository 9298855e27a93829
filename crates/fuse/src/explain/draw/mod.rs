//! The kernels of an interior layer as a picture: coloured groups of operations.
//!
//! `Picture` says what is in it; [`svg`] and [`dot`] write it.

mod dot;
mod layered;
mod svg;

use crate::plan::{Kernel, Template};
use crate::planner::Planned;
use crate::print::{amount, interior, template, time};
use fusec_ir::{Graph, OpId, Precision, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// The plan as a picture in SVG.
pub fn svg(planned: &Planned) -> String {
    svg::write(&Picture::new(planned))
}

/// The plan as a graph for Graphviz.
pub fn dot(planned: &Planned) -> String {
    dot::write(&Picture::new(planned))
}

/// What is drawn.
struct Picture {
    /// What was planned, in a line.
    title: String,
    /// What it comes to, in a line.
    subtitle: String,
    kernels: Vec<Group>,
    flows: Vec<Flow>,
}

/// A kernel.
struct Group {
    name: String,
    /// Templates, operations and time, in a line.
    about: String,
    template: Option<Template>,
    /// Part of the layer's time.
    share: f64,
    ops: Vec<Pill>,
    /// Values between its operations, by position.
    edges: Vec<(usize, usize)>,
}

/// An operation.
struct Pill {
    /// Whole name.
    name: String,
    /// The last part that is no number, and the number after it.
    label: String,
    /// Whether the kernel is built around it.
    anchor: bool,
    /// Whether its result is written to memory.
    stored: bool,
}

/// Where a value comes from or goes to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// Outside what is drawn, on the way in.
    Before,
    /// A kernel.
    Kernel(usize),
    /// Outside what is drawn, on the way out.
    After,
}

/// Values that go through memory between the same two ends.
struct Flow {
    from: End,
    to: End,
    values: Vec<String>,
    bytes: f64,
}

impl Flow {
    fn label(&self) -> String {
        amount(self.bytes)
    }
}

impl Picture {
    fn new(planned: &Planned) -> Picture {
        let (graph, plan) = (&planned.graph, &planned.plan);
        let kernels = interior(plan);
        let us: f64 = kernels.iter().map(|k| k.cost.total_us).sum();
        let ops: usize = kernels.iter().map(|k| k.ops.len()).sum();
        let what = match kernels.first().and_then(|k| k.layer) {
            Some(layer) => format!("layer {layer} of {}", graph.layers),
            None => "the model".to_string(),
        };
        let launches = match kernels.len() {
            1 => "1 launch".to_string(),
            n => format!("{n} launches"),
        };
        Picture {
            title: format!(
                "{} on {}: {} storage, B={} T={}, plan {}",
                plan.model, plan.device, plan.storage, plan.shape.batch, plan.shape.time, plan.mode
            ),
            subtitle: format!("{what}: {ops} operations in {launches}, {}", time(us)),
            kernels: kernels.iter().map(|k| kernel_box(graph, k, us)).collect(),
            flows: flows(planned, kernels),
        }
    }
}

fn kernel_box(graph: &Graph, kernel: &Kernel, layer_us: f64) -> Group {
    let lanes = || kernel.phases.iter().flat_map(|p| &p.lanes);
    let stores: BTreeSet<ValueId> = lanes().flat_map(|l| l.stores.iter().copied()).collect();
    let ops = kernel.ops.iter().map(|id| {
        let op = graph.op(*id);
        Pill {
            name: op.name.clone(),
            label: label(&op.name),
            anchor: lanes().any(|l| l.anchors().contains(id)),
            stored: op.outputs.iter().any(|v| stores.contains(v)),
        }
    });
    let mut edges = BTreeSet::new();
    for (to, id) in kernel.ops.iter().enumerate() {
        for access in &graph.op(*id).inputs {
            let maker = graph.producer(access.value);
            let from = maker.and_then(|p| kernel.ops.binary_search(&p).ok());
            edges.extend(from.map(|from| (from, to)));
        }
    }
    Group {
        name: kernel.name.clone(),
        about: format!(
            "{} · {} op{} · {}",
            template(kernel),
            kernel.ops.len(),
            if kernel.ops.len() == 1 { "" } else { "s" },
            time(kernel.cost.total_us)
        ),
        template: lanes().next().map(|l| l.template()),
        share: if layer_us > 0.0 {
            kernel.cost.total_us / layer_us
        } else {
            0.0
        },
        ops: ops.collect(),
        edges: edges.into_iter().collect(),
    }
}

/// `time_mix.r` -> `r`, `time_mix.m.1` -> `m.1`.
fn label(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let is_number = |part: &&str| part.chars().all(|c| c.is_ascii_digit());
    let from = parts.iter().rposition(|part| !is_number(part)).unwrap_or(0);
    parts[from..].join(".")
}

fn flows(planned: &Planned, kernels: &[Kernel]) -> Vec<Flow> {
    let (graph, plan) = (&planned.graph, &planned.plan);
    let at: BTreeMap<OpId, usize> = kernels
        .iter()
        .enumerate()
        .flat_map(|(k, kernel)| kernel.ops.iter().map(move |id| (*id, k)))
        .collect();
    let mut found: BTreeMap<(End, End), BTreeSet<ValueId>> = BTreeMap::new();
    let mut add = |from: End, to: End, value: ValueId| {
        if from != to {
            found.entry((from, to)).or_default().insert(value);
        }
    };
    for id in plan.kernels.iter().flat_map(|k| &k.ops) {
        let to = at.get(id).copied();
        for access in &graph.op(*id).inputs {
            let from = graph
                .producer(access.value)
                .and_then(|p| at.get(&p).copied());
            match (from, to) {
                _ if !graph.value(access.value).rows => {}
                (None, None) => {}
                (None, Some(to)) => add(End::Before, End::Kernel(to), access.value),
                (Some(from), None) => add(End::Kernel(from), End::After, access.value),
                (Some(from), Some(to)) => add(End::Kernel(from), End::Kernel(to), access.value),
            }
        }
    }
    for value in &graph.outputs {
        if let Some(from) = graph.producer(*value).and_then(|p| at.get(&p)) {
            add(End::Kernel(*from), End::After, *value);
        }
    }
    let bytes = |value: &ValueId| {
        let element = match graph.value(*value).precision {
            Precision::Storage => plan.storage.bytes(),
            Precision::F32 | Precision::Index => 4,
        };
        (graph.row_elements(*value) * plan.shape.batch * plan.shape.time * element) as f64
    };
    found
        .into_iter()
        .map(|((from, to), values)| Flow {
            from,
            to,
            bytes: values.iter().map(bytes).sum(),
            values: values
                .iter()
                .map(|v| graph.value(*v).name.clone())
                .collect(),
        })
        .collect()
}
