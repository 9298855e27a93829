//! From plans, kernels and explanations to what a page says.

use crate::data::{
    Code, DeviceFigures, Edge, KernelReport, Lane, OpReport, Part, PlanReport, RegimeReport,
    Report, Role, Sums,
};
use crate::fold::{Folded, fold};
use crate::{memory, neighbours};
use fusec_codegen::Manifest;
use fusec_fuse::explain::why::{Chosen, Other, why_part};
use fusec_fuse::explain::{ExplainError, compare};
use fusec_fuse::{Body, Device, Kernel, Options, Plan, Planned, limit, templates};
use fusec_ir::language::SourceMap;
use fusec_ir::{Graph, OpId, Precision, ValueId, print};
use fusec_runtime::bench::Measurement;
use fusec_runtime::cubin::Resources;
use fusec_runtime::memory::MemoryError;
use fusec_runtime::occupancy::occupancy;
use std::collections::{BTreeMap, BTreeSet};

/// Pairs of kernels of a part whose price as one kernel is asked for.
const PRICED: usize = 8;

/// A plan that a page is about.
pub struct Subject<'a> {
    /// How its kernels were chosen, or where it lies.
    pub label: String,
    /// What is launched; its regimes are in the order of `regimes`.
    pub manifest: &'a Manifest,
    /// Plans and what they are compared with.
    pub regimes: Vec<Regime<'a>>,
    /// What each kernel of the manifest uses, where it is compiled.
    pub resources: Vec<Option<Resources>>,
    /// Why none is.
    pub not_compiled: Option<String>,
}

/// A plan for some lengths of run.
pub struct Regime<'a> {
    /// The plan.
    pub planned: &'a Planned,
    /// What the planner was told.
    pub options: Options<'a>,
    /// The plan with one kernel per operation.
    pub unfused: &'a Plan,
    /// What it was measured at.
    pub measured: Option<&'a Measurement>,
    /// What the plan without fusion was measured at.
    pub unfused_measured: Option<&'a Measurement>,
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// A decision cannot be explained.
    #[error(transparent)]
    Explain(#[from] ExplainError),
    /// The memory of a run cannot be planned.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// Collects what a page says. `source` is how the user named the model, whose texts are `sources`.
/// Time is that of explaining each distinct layer of each plan: prices come from planning parts anew.
pub fn collect(
    source: &str,
    sources: &SourceMap,
    device: &Device,
    subjects: &[Subject<'_>],
) -> Result<Report, CollectError> {
    let first = subjects.first().and_then(|subject| subject.regimes.first());
    let graph = first.map(|regime| &regime.planned.graph);
    let plans = subjects
        .iter()
        .map(|subject| plan(subject, sources, device))
        .collect::<Result<_, _>>()?;
    Ok(Report {
        model: graph.map(|graph| graph.name.clone()).unwrap_or_default(),
        source: source.into(),
        layers: graph.map_or(0, |graph| graph.layers),
        fusec: env!("CARGO_PKG_VERSION").into(),
        device: figures(device),
        plans,
        changes: changes(subjects),
    })
}

fn figures(device: &Device) -> DeviceFigures {
    let shown = [
        device.memory_tbs,
        device.l2_tbs,
        device.tensor_tflops,
        device.fp32_tflops,
    ];
    let from: BTreeSet<String> = shown.iter().map(|f| f.from.to_string()).collect();
    DeviceFigures {
        title: device.title.clone(),
        arch: device.arch.clone(),
        sms: device.sms.value,
        memory_tbs: device.memory_tbs.value,
        l2_tbs: device.l2_tbs.value,
        tensor_tflops: device.tensor_tflops.value,
        fp32_tflops: device.fp32_tflops.value,
        from: from.into_iter().collect::<Vec<_>>().join(", "),
    }
}

/// The differences between the first two plans, by shape.
fn changes(subjects: &[Subject<'_>]) -> Vec<String> {
    let [a, b, ..] = subjects else {
        return vec![];
    };
    a.regimes
        .iter()
        .zip(&b.regimes)
        .map(|(a, b)| compare(&a.planned.plan, &b.planned.plan).to_string())
        .collect()
}

fn plan(
    subject: &Subject<'_>,
    sources: &SourceMap,
    device: &Device,
) -> Result<PlanReport, CollectError> {
    let code = subject.manifest.kernels.iter().zip(&subject.resources);
    let regimes = subject
        .regimes
        .iter()
        .enumerate()
        .map(|(at, _)| regime(subject, at, sources))
        .collect::<Result<_, _>>()?;
    Ok(PlanReport {
        label: subject.label.clone(),
        storage: subject.manifest.storage,
        code: code
            .map(|(kernel, resources)| Code {
                name: kernel.name.clone(),
                image: kernel.image.clone(),
                source: kernel.source.clone(),
                threads: kernel.threads,
                shared_bytes: kernel.shared_bytes,
                resources: resources.clone(),
                occupancy: (resources.as_ref())
                    .and_then(|used| occupancy(device, used, kernel.threads, kernel.shared_bytes)),
            })
            .collect(),
        not_compiled: subject.not_compiled.clone(),
        regimes,
    })
}

fn regime(
    subject: &Subject<'_>,
    at: usize,
    sources: &SourceMap,
) -> Result<RegimeReport, CollectError> {
    let own = &subject.regimes[at];
    let compiled = &subject.manifest.regimes[at];
    let plan = &own.planned.plan;
    let folded = fold(&plan.kernels);
    let mut parts = Vec::new();
    for of in &folded {
        parts.push(part(own, compiled, of, sources)?);
    }
    // The layers that stand for most, the first of equals.
    let weight = |part: &Part| {
        (
            part.times * usize::from(!part.layers.is_empty()),
            part.times,
        )
    };
    let interior = (0..parts.len()).reduce(|best, at| {
        if weight(&parts[at]) > weight(&parts[best]) {
            at
        } else {
            best
        }
    });
    Ok(RegimeReport {
        name: compiled.name.clone(),
        shape: plan.shape,
        claim: plan.claim.clone(),
        forms: plan.forms.clone(),
        chosen: sums(plan, own.measured),
        unfused: sums(own.unfused, own.unfused_measured),
        parts,
        interior: interior.unwrap_or(0),
        memory: memory::memory(compiled, &subject.manifest.kernels, &folded)?,
    })
}

fn sums(plan: &Plan, measured: Option<&Measurement>) -> Sums {
    Sums {
        launches: plan.kernels.len(),
        bytes: plan.kernels.iter().map(|kernel| kernel.cost.bytes).sum(),
        predicted_us: plan.total_us,
        measured_us: measured.map(|measured| measured.milliseconds.median * 1e3),
    }
}

/// The values that kernels of a part make or read, and where.
struct Scene<'a> {
    graph: &'a Graph,
    plan: &'a Plan,
    sources: &'a SourceMap,
    /// Position of each operation of the part.
    at: BTreeMap<OpId, usize>,
}

fn part(
    own: &Regime<'_>,
    compiled: &fusec_codegen::Regime,
    folded: &Folded<'_>,
    sources: &SourceMap,
) -> Result<Part, CollectError> {
    let Planned { graph, plan, .. } = own.planned;
    let ids = folded.kernels.iter().flat_map(|kernel| &kernel.ops);
    let scene = Scene {
        graph,
        plan,
        sources,
        at: ids.enumerate().map(|(at, id)| (*id, at)).collect(),
    };
    let why = why_part(own.planned, &own.options, folded.kernels, PRICED)?;
    let mut kernels = Vec::new();
    let mut ops = Vec::new();
    for (at, kernel) in folded.kernels.iter().enumerate() {
        let step = compiled
            .steps
            .iter()
            .find(|step| step.plan_kernel == folded.first + at);
        let code = step.map_or(0, |step| step.kernel);
        let measured = own.measured.and_then(|measured| {
            let of = |k: &&fusec_runtime::bench::KernelTime| k.kernel == kernel.name;
            measured.kernels.iter().find(of)
        });
        ops.extend(kernel.ops.iter().map(|id| scene.op(*id, kernel, at)));
        kernels.push(KernelReport {
            code,
            measured_us: measured.map(|measured| measured.milliseconds * 1e3),
            ..scene.kernel(kernel, why.kernels.get(at))
        });
    }
    let edges = scene.edges();
    neighbours::add(&mut kernels, &ops, &edges, &why);
    Ok(Part {
        title: folded.title(),
        layers: folded.layers.clone(),
        times: folded.times,
        first_launch: folded.first,
        kernels,
        ops,
        edges,
    })
}

impl Scene<'_> {
    fn bytes(&self, value: ValueId) -> f64 {
        let of = self.graph.value(value);
        let element = match of.precision {
            Precision::Storage => self.plan.storage.bytes(),
            Precision::F32 | Precision::Index => 4,
        };
        let rows = match of.rows {
            true => self.plan.shape.batch * self.plan.shape.time,
            false => 1,
        };
        (self.graph.row_elements(value) * rows * element) as f64
    }

    fn value_names(&self, values: &[ValueId]) -> Vec<String> {
        let names = values.iter().map(|id| self.graph.value(*id).name.clone());
        names.collect()
    }

    fn op(&self, id: OpId, kernel: &Kernel, at: usize) -> OpReport {
        let op = self.graph.op(id);
        let lanes = || kernel.phases.iter().flat_map(|phase| &phase.lanes);
        let within = |list: fn(&Body) -> &[OpId]| lanes().any(|lane| list(lane).contains(&id));
        let role = if within(|lane| &lane.roles.anchors) {
            Role::Anchor
        } else if within(|lane| &lane.roles.epilogue) {
            Role::Epilogue
        } else if within(|lane| &lane.roles.prologue) {
            Role::Prologue
        } else {
            Role::Row
        };
        let place = op.span.and_then(|span| self.sources.locate(span));
        OpReport {
            name: op.name.clone(),
            label: label(&op.name),
            kernel: at,
            role,
            equation: print::operation(self.graph, op),
            place: place.map(|(file, range)| {
                let before = file.text.get(..range.start).unwrap_or_default();
                format!("{}:{}", file.name, before.matches('\n').count() + 1)
            }),
            bytes: op.outputs.iter().map(|value| self.bytes(*value)).sum(),
            stored: (op.outputs.iter())
                .any(|value| lanes().any(|lane| lane.stores.contains(value))),
        }
    }

    /// All of a kernel but its text and its neighbours.
    fn kernel(&self, kernel: &Kernel, why: Option<&Chosen>) -> KernelReport {
        let lane = |lane: &Body| Lane {
            template: lane.template().to_string(),
            schedule: lane.schedule.to_string(),
            ops: lane
                .ops
                .iter()
                .filter_map(|id| self.at.get(id).copied())
                .collect(),
            stores: self.value_names(&lane.stores),
        };
        let phases = kernel.phases.iter();
        KernelReport {
            name: kernel.name.clone(),
            code: 0,
            template: templates(kernel),
            phases: phases
                .map(|phase| phase.lanes.iter().map(lane).collect())
                .collect(),
            cost: kernel.cost,
            limited_by: limit(&kernel.cost),
            launch: kernel.launch.to_string(),
            blocks: kernel.launch.blocks,
            forms: kernel.forms.clone(),
            measured_us: None,
            saved: why.and_then(saved),
            others: why.map_or_else(Vec::new, |why| why.others.iter().map(other).collect()),
            neighbours: Vec::new(),
        }
    }

    /// Values with rows that operations of the part make or read, each once for two ends.
    fn edges(&self) -> Vec<Edge> {
        let mut seen = BTreeSet::new();
        let mut out = Vec::new();
        let mut add = |from: Option<usize>, to: Option<usize>, value: ValueId, delay: i32| {
            if seen.insert((from, to, value)) {
                out.push(Edge {
                    from,
                    to,
                    value: self.graph.value(value).name.clone(),
                    bytes: self.bytes(value),
                    delay,
                });
            }
        };
        for id in self.plan.kernels.iter().flat_map(|kernel| &kernel.ops) {
            let to = self.at.get(id).copied();
            for access in &self.graph.op(*id).inputs {
                let maker = self.graph.producer(access.value);
                let from = maker.and_then(|maker| self.at.get(&maker).copied());
                let rows = self.graph.value(access.value).rows;
                if rows && (from.is_some() || to.is_some()) {
                    add(from, to, access.value, access.delay);
                }
            }
        }
        for value in &self.graph.outputs {
            let maker = self.graph.producer(*value);
            if let Some(from) = maker.and_then(|maker| self.at.get(&maker)) {
                add(Some(*from), None, *value, 0);
            }
        }
        out
    }
}

/// `time_mix.r` -> `r`, `time_mix.m.1` -> `m.1`.
fn label(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let is_number = |part: &&str| part.chars().all(|c| c.is_ascii_digit());
    let from = parts.iter().rposition(|part| !is_number(part)).unwrap_or(0);
    parts[from..].join(".")
}

fn saved(why: &Chosen) -> Option<String> {
    (why.saved.launches > 0).then(|| {
        let launches = why.saved.launches;
        format!(
            "{} operations in one launch: {launches} {}, {:.1} MB of traffic and {:.1} us less than \
             one by one",
            why.ops.len(),
            if launches == 1 { "launch" } else { "launches" },
            why.saved.bytes / 1e6,
            why.saved.us
        )
    })
}

fn other(other: &Other) -> String {
    match other {
        Other::Dearer { template, by_us } => format!("as {template}: {by_us:.1} us more"),
        Other::NotInChunks { scans, reason } => format!(
            "{} not in chunks: {}, allowed {}, got {}",
            scans.join(", "),
            reason.rule,
            reason.limit,
            reason.got
        ),
    }
}
