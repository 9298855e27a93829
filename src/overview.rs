//! A plan with the model's own names, for people (`plan.txt`) and for programs (`--json`).

use std::fmt::Write as _;

use fusec_fuse::{Cost, Kernel, Plan, Shape, Storage, Template};
use fusec_ir::{Graph, OpId};
use serde::Serialize;

use crate::table::{self, Align, Table};

/// Widest line of the readable plan.
const WIDTH: usize = 100;

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
    /// Launches of a run.
    launches: usize,
    /// Launches of a run, one kernel per operation.
    launches_unfused: usize,
    /// Launches of an interior layer; where layers differ, the mean over the shortest run of
    /// layers that repeats.
    launches_per_layer: f64,
    /// The same, one kernel per operation.
    launches_per_layer_unfused: f64,
    /// Layers in the run that repeats.
    period: usize,
    /// Layers.
    layers: u32,
    /// Bytes to and from device memory, predicted.
    bytes: f64,
    bytes_unfused: f64,
    /// Time, predicted.
    total_us: f64,
    total_us_unfused: f64,
    kernels: Vec<KernelOverview<'a>>,
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
    bound: &'static str,
    cost: Cost,
}

impl<'a> KernelOverview<'a> {
    /// A kernel of a plan for `graph`.
    pub fn new(graph: &'a Graph, kernel: &'a Kernel) -> Self {
        let lanes = || kernel.phases.iter().flat_map(|phase| &phase.lanes);
        let op_name = |id: &OpId| graph.op(*id).name.as_str();
        let mut templates: Vec<Template> = lanes().map(|lane| lane.template).collect();
        templates.dedup();
        KernelOverview {
            name: &kernel.name,
            layer: kernel.layer,
            templates,
            anchors: lanes().flat_map(|l| &l.anchors).map(op_name).collect(),
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
            bound: bound(&kernel.cost),
            cost: kernel.cost,
        }
    }

    /// The templates that execute it, in words.
    pub fn template(&self) -> String {
        let names: Vec<&str> = self.templates.iter().map(|t| template_name(*t)).collect();
        names.join("+")
    }

    /// Names of the operations it computes.
    pub fn ops(&self) -> &[&'a str] {
        &self.ops
    }

    /// The largest term of its predicted time.
    pub fn bound(&self) -> &'static str {
        self.bound
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

fn template_name(template: Template) -> &'static str {
    match template {
        Template::Row => "row",
        Template::Scan => "scan",
        Template::Gemv => "gemv",
        Template::Gemm => "gemm",
    }
}

/// The term of the roofline that decides.
fn bound(cost: &Cost) -> &'static str {
    let terms = [
        ("memory", cost.memory_us),
        ("tensor", cost.tensor_us),
        ("simt", cost.simt_us),
        ("special", cost.special_us),
        ("serial", cost.serial_us),
        ("launch", cost.launch_us),
    ];
    // Of equal terms the first.
    terms
        .into_iter()
        .rev()
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map_or("memory", |(name, _)| name)
}

/// Kernels of each layer, and the interior layers that stand for all.
struct Layers<'a> {
    before: Vec<&'a Kernel>,
    each: Vec<Vec<&'a Kernel>>,
    after: Vec<&'a Kernel>,
}

impl<'a> Layers<'a> {
    fn new(plan: &'a Plan, layers: u32) -> Self {
        let mut out = Layers {
            before: Vec::new(),
            each: vec![Vec::new(); layers as usize],
            after: Vec::new(),
        };
        let mut inside = false;
        for kernel in &plan.kernels {
            match kernel.layer.and_then(|l| out.each.get_mut(l as usize)) {
                Some(layer) => {
                    layer.push(kernel);
                    inside = true;
                }
                None if inside => out.after.push(kernel),
                None => out.before.push(kernel),
            }
        }
        out
    }

    /// The layers that are neither first nor last, or what there is of layers.
    fn interior(&self) -> &[Vec<&'a Kernel>] {
        match self.each.as_slice() {
            [_, interior @ .., _] if !interior.is_empty() => interior,
            [_, last] => std::slice::from_ref(last),
            all => all,
        }
    }

    /// The shortest number of layers after which the interior repeats.
    fn period(&self) -> usize {
        let interior = self.interior();
        let names = |layer: &[&'a Kernel]| -> Vec<&'a str> {
            layer.iter().map(|kernel| kernel.name.as_str()).collect()
        };
        (1..=interior.len())
            .find(|period| {
                let later = interior.iter().skip(*period);
                later.zip(interior).all(|(a, b)| names(a) == names(b))
            })
            .unwrap_or(1)
    }

    /// Mean number of launches of a layer over a period.
    fn launches(&self) -> f64 {
        let period = self.period();
        let launches: usize = self.interior().iter().take(period).map(Vec::len).sum();
        launches as f64 / period as f64
    }
}

impl<'a> Overview<'a> {
    /// Sums up a plan beside the plan without fusion.
    pub fn new(graph: &'a Graph, plan: &'a Plan, unfused: &Plan) -> Self {
        let layers = Layers::new(plan, graph.layers);
        let bytes = |plan: &Plan| plan.kernels.iter().map(|k| k.cost.bytes).sum();
        Overview {
            model: &plan.model,
            device: &plan.device,
            shape: plan.shape,
            dtype: plan.storage,
            plan: plan.mode.to_string(),
            claim: &plan.claim,
            forms: &plan.forms,
            launches: plan.kernels.len(),
            launches_unfused: unfused.kernels.len(),
            launches_per_layer: layers.launches(),
            launches_per_layer_unfused: Layers::new(unfused, graph.layers).launches(),
            period: layers.period(),
            layers: graph.layers,
            bytes: bytes(plan),
            bytes_unfused: bytes(unfused),
            total_us: plan.total_us,
            total_us_unfused: unfused.total_us,
            kernels: (plan.kernels.iter())
                .map(|kernel| KernelOverview::new(graph, kernel))
                .collect(),
        }
    }
}

/// The readable plan.
pub fn text(name: &str, graph: &Graph, plan: &Plan, unfused: &Plan) -> String {
    let sums = Overview::new(graph, plan, unfused);
    let mut out = format!(
        "{} {name}: B={} T={}, {}, {} plan for {}\n",
        plan.model, plan.shape.batch, plan.shape.time, plan.storage, plan.mode, plan.device
    );
    let mut table = Table::new([
        ("", Align::Left),
        ("planned", Align::Right),
        ("unfused", Align::Right),
    ]);
    let both = |a: String, b: String, what: &str| [what.to_string(), a, b];
    table.row(both(
        sums.launches.to_string(),
        sums.launches_unfused.to_string(),
        "launches",
    ));
    table.row(both(
        sums.launches_per_layer.to_string(),
        sums.launches_per_layer_unfused.to_string(),
        "launches of a layer",
    ));
    table.row(both(
        table::bytes(sums.bytes),
        table::bytes(sums.bytes_unfused),
        "memory traffic",
    ));
    table.row(both(
        table::microseconds(sums.total_us),
        table::microseconds(sums.total_us_unfused),
        "predicted time",
    ));
    out.push_str(&table.text());
    for form in &plan.forms {
        let _ = writeln!(out, "  form {form}");
    }
    let _ = writeln!(out, "  selection: {}", plan.claim);

    let layers = Layers::new(plan, graph.layers);
    section(&mut out, graph, "before the layers", &layers.before);
    let mut first = 0;
    while let Some(kernels) = layers.each.get(first) {
        let names = |k: &[&Kernel]| -> Vec<String> { k.iter().map(|k| k.name.clone()).collect() };
        let wanted = names(kernels);
        let equal = layers.each[first..]
            .iter()
            .take_while(|other| names(other) == wanted)
            .count()
            .max(1);
        let title = match equal {
            1 => format!("layer {first}"),
            _ => format!("layers {first} to {}, each", first + equal - 1),
        };
        section(&mut out, graph, &title, kernels);
        first += equal;
    }
    section(&mut out, graph, "after the layers", &layers.after);
    out
}

fn section(out: &mut String, graph: &Graph, title: &str, kernels: &[&Kernel]) {
    if kernels.is_empty() {
        return;
    }
    let launches = match kernels.len() {
        1 => "1 launch".to_string(),
        n => format!("{n} launches"),
    };
    let _ = writeln!(out, "\n{title}: {launches}");
    for kernel in kernels {
        let view = KernelOverview::new(graph, kernel);
        let _ = writeln!(
            out,
            "  {}  ({}; {}; {}; {}-bound)",
            kernel.name,
            view.template(),
            table::bytes(kernel.cost.bytes),
            table::microseconds(kernel.cost.total_us),
            view.bound(),
        );
        if !kernel.forms.is_empty() {
            list(out, "forms", &kernel.forms);
        }
        list(out, "fuses", view.ops());
        list(out, "writes", &view.stores);
    }
}

/// `head: a, b, c`, broken into lines.
fn list<S: AsRef<str>>(out: &mut String, head: &str, names: &[S]) {
    let mut line = format!("      {head:<6}");
    for (i, name) in names.iter().enumerate() {
        let name = name.as_ref();
        let comma = if i + 1 < names.len() { "," } else { "" };
        if line.len() + 1 + name.len() + comma.len() > WIDTH {
            out.push_str(&line);
            out.push('\n');
            line = " ".repeat(12);
        }
        let _ = write!(line, " {name}{comma}");
    }
    out.push_str(&line);
    out.push('\n');
}
