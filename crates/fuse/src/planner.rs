//! The entry point: from a graph to a plan.

use crate::context::Context;
use crate::decisions::{self, Decisions};
use crate::fit::fit;
use crate::name::Names;
use crate::order::launch_order;
use crate::plan::{Kernel, Mode, PLAN_VERSION, Phase, Plan, Reject, Shape, Storage};
use crate::segment::{Segment, segments};
use crate::validate::validate;
use crate::{Device, select};
use fusec_ir::{Graph, OpId, Pin, PinKind};

/// How kernels are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launch {
    /// As nodes of a CUDA graph.
    Graph,
    /// One by one on a stream.
    Stream,
}

/// What to plan for.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// Batch and time that the costs are for.
    pub shape: Shape,
    /// Storage type of activations and matrices.
    pub storage: Storage,
    /// How kernels are chosen.
    pub mode: Mode,
    /// The device profile.
    pub device: &'a Device,
    /// How kernels are started.
    pub launch: Launch,
    /// Wishes about fusion beside those of the model.
    pub pins: Vec<Pin>,
}

impl<'d> Options<'d> {
    /// What the planner asks about a graph.
    pub(crate) fn context<'a>(&self, graph: &'a Graph) -> Context<'a>
    where
        'd: 'a,
    {
        let launch_us = match self.launch {
            Launch::Graph => self.device.graph_launch_us.value,
            Launch::Stream => self.device.stream_launch_us.value,
        };
        Context::new(graph, self.shape, self.storage, self.device, launch_us)
    }
}

/// The result of planning.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// The form that was chosen; the plan's operations and values are this graph's.
    pub graph: Graph,
    /// The kernels.
    pub plan: Plan,
    /// What was examined.
    pub decisions: Decisions,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The graph contradicts itself.
    #[error(
        "the graph of `{model}` is malformed: {place}: {what}; it was not written by this program, or by another version of it"
    )]
    Malformed {
        /// The model.
        model: String,
        /// Where.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// The shape has no rows.
    #[error("cannot plan for B={batch}, T={time}: both must be at least 1")]
    Shape {
        /// Sequences.
        batch: usize,
        /// Tokens.
        time: usize,
    },
    /// No template executes an operation even alone.
    #[error(
        "no kernel can compute `{op}`: {reject}; make the axis smaller, or write the operation in parts"
    )]
    Unplannable {
        /// Name of the operation.
        op: String,
        /// The rule that forbids it.
        reject: Box<Reject>,
    },
    /// A pin names nothing.
    #[error(
        "the pin {kind} [{names}] names `{missing}`, and no planned value has that name; `fusec plan --plan unfused` lists all names"
    )]
    PinUnknown {
        /// `fuse` or `split`.
        kind: &'static str,
        /// Its names.
        names: String,
        /// The one at fault.
        missing: String,
    },
    /// A pin cannot be obeyed.
    #[error(
        "the pin {kind} [{names}] cannot be obeyed: {reject}; remove the pin, or some of its names"
    )]
    PinRefused {
        /// `fuse` or `split`.
        kind: &'static str,
        /// Its names.
        names: String,
        /// The rule that forbids it.
        reject: Box<Reject>,
    },
    /// The solver gave up.
    #[error("the selection of kernels failed: {0}; use `--plan greedy`, and report it")]
    Selection(String),
}

/// Plans a graph.
pub fn plan(graph: &Graph, options: &Options<'_>) -> Result<Planned, PlanError> {
    validate(graph)?;
    let Shape { batch, time } = options.shape;
    if batch == 0 || time == 0 {
        return Err(PlanError::Shape { batch, time });
    }
    let graph = crate::forms::canonical(graph);
    let ctx = options.context(&graph);
    let pins: Vec<Pin> = graph.pins.iter().chain(&options.pins).cloned().collect();
    check_pin_names(&ctx, &pins)?;
    let (plan, decisions) = plan_form(&ctx, options.mode, &pins)?;
    Ok(Planned {
        plan,
        decisions,
        graph,
    })
}

fn plan_form(ctx: &Context<'_>, mode: Mode, pins: &[Pin]) -> Result<(Plan, Decisions), PlanError> {
    let segments = segments(ctx);
    let mut chosen: Vec<select::Selection> = Vec::new();
    let mut names = Names::default();
    let mut kernels = Vec::new();
    for segment in &segments {
        if segment.class == chosen.len() {
            chosen.push(select::select(ctx, &segment.ops, mode, pins)?);
        }
        kernels.extend(emit(ctx, segment, &chosen[segment.class], &mut names)?);
    }
    let decisions = Decisions {
        segments: (0..chosen.len())
            .map(|class| report(&segments, class, &chosen[class]))
            .collect(),
        ..Decisions::default()
    };
    let total_us = kernels.iter().map(|k| k.cost.total_us).sum();
    let plan = Plan {
        version: PLAN_VERSION,
        model: ctx.graph.name.clone(),
        device: ctx.device.name.clone(),
        shape: ctx.shape,
        storage: ctx.storage,
        mode,
        forms: vec![],
        claim: select::claim(mode, &chosen),
        kernels,
        total_us,
    };
    Ok((plan, decisions))
}

fn report(segments: &[Segment], class: usize, of: &select::Selection) -> decisions::Segment {
    let equal: Vec<&Segment> = segments.iter().filter(|s| s.class == class).collect();
    decisions::Segment {
        layers: equal.iter().filter_map(|s| s.layer).collect(),
        operations: equal.first().map_or(0, |s| s.ops.len()),
        kernels: of.groups.len(),
        legal: of.legal,
        rejected: of.rejected.clone(),
        complete: of.complete,
    }
}

/// The kernels of one segment in launch order. `selection` is that of the first segment of
/// its class, so its groups are positions.
fn emit(
    ctx: &Context<'_>,
    segment: &Segment,
    selection: &select::Selection,
    names: &mut Names,
) -> Result<Vec<Kernel>, PlanError> {
    let groups: Vec<Vec<OpId>> = selection
        .groups
        .iter()
        .map(|group| group.iter().map(|i| segment.ops[*i]).collect())
        .collect();
    let order = launch_order(ctx, &groups)
        .map_err(|_| PlanError::Selection("kernels wait for each other".into()))?;
    order
        .into_iter()
        .map(|g| {
            let ops = &groups[g];
            let lanes = fit(ctx, ops).map_err(|reject| unplannable(ctx, ops, reject))?;
            Ok(Kernel {
                name: names.name(ctx, ops, &lanes),
                cost: crate::cost::cost(ctx, &lanes),
                phases: vec![Phase { lanes }],
                names: ops
                    .iter()
                    .map(|id| ctx.graph.op(*id).name.clone())
                    .collect(),
                ops: ops.clone(),
                layer: ops.first().and_then(|id| ctx.graph.op(*id).layer),
                forms: vec![],
            })
        })
        .collect()
}

pub(crate) fn unplannable(ctx: &Context<'_>, ops: &[OpId], reject: Reject) -> PlanError {
    PlanError::Unplannable {
        op: ops
            .iter()
            .map(|id| ctx.graph.op(*id).name.as_str())
            .collect::<Vec<_>>()
            .join(", "),
        reject: Box::new(reject),
    }
}

/// `fuse` or `split`, as written in a model.
pub(crate) fn pin_kind(kind: PinKind) -> &'static str {
    match kind {
        PinKind::Fuse => "fuse",
        PinKind::Split => "split",
    }
}

fn check_pin_names(ctx: &Context<'_>, pins: &[Pin]) -> Result<(), PlanError> {
    for pin in pins {
        for name in &pin.values {
            let known = ctx.planned().iter().any(|id| {
                ctx.graph
                    .op(*id)
                    .outputs
                    .iter()
                    .any(|v| ctx.graph.value(*v).name == *name)
            });
            if !known {
                return Err(PlanError::PinUnknown {
                    kind: pin_kind(pin.kind),
                    names: pin.values.join(", "),
                    missing: name.clone(),
                });
            }
        }
    }
    Ok(())
}
