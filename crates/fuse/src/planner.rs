//! The entry point: from a graph to a plan.

use crate::chunked::Classes;
use crate::context::{Context, live_operations};
use crate::decisions::{self, Decisions};
use crate::fit;
use crate::name::Names;
use crate::order::launch_order;
use crate::plan::{
    Cost, Kernel, Mode, PLAN_VERSION, Phase, Plan, Reject, Shape, Storage, Template,
};
use crate::schedule::launch;
use crate::segment::{Segment, segments};
use crate::validate::validate;
use crate::{Device, cost, forms, select};
use fusec_ir::{Graph, OpId, Pin, PinKind};
use std::collections::BTreeMap;
use std::sync::Arc;
use tracing::debug_span;

/// What a form must save, as a part of the total, to take the place of one with fewer rules:
/// less than this is less than the cost model knows, and every rule moves rounding errors.
pub(crate) const FORM_MARGIN: f64 = 0.005;
/// Name of the local form of a recurrence that is computed some tokens at a time.
pub(crate) const IN_CHUNKS: &str = "recurrent-chunked";
/// Name of the local form of products of products in one launch, a grid barrier between them.
pub(crate) const IN_PHASES: &str = "product-phases";

/// How kernels are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submit {
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
    pub launch: Submit,
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
            Submit::Graph => self.device.graph_launch_us.value,
            Submit::Stream => self.device.stream_launch_us.value,
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
    /// The rules contradict each other.
    #[error("the search for forms failed: {0}; use `--plan greedy`, and report it")]
    Forms(String),
    /// The solver gave up.
    #[error("the selection of kernels failed: {0}; use `--plan greedy`, and report it")]
    Selection(String),
}

/// Plans a graph.
pub fn plan(graph: &Graph, options: &Options<'_>) -> Result<Planned, PlanError> {
    let _planning = debug_span!("other").entered();
    validate(graph)?;
    let Shape { batch, time } = options.shape;
    if batch == 0 || time == 0 {
        return Err(PlanError::Shape { batch, time });
    }
    let written = forms::canonical(graph);
    let unfused = unfused_launches(&written);
    let classes = Arc::new(Classes::new(&written));
    let (forms, stop) = match options.mode {
        Mode::Auto | Mode::Random(_) => {
            let _span = debug_span!("forms").entered();
            forms::enumerate(&written, options.storage).map_err(PlanError::Forms)?
        }
        Mode::Greedy | Mode::Unfused => (vec![written_form(written)], String::new()),
    };
    // A random plan is one of a random form; otherwise the cheapest form wins, the earliest
    // of equals, which is the model as written.
    let forms: Vec<forms::Form> = match options.mode {
        Mode::Random(seed) => {
            let pick = seed as usize % forms.len().max(1);
            forms.into_iter().skip(pick).take(1).collect()
        }
        _ => forms,
    };
    let mut best: Option<Planned> = None;
    let mut tried = Vec::new();
    let mut least_greedy = None;
    for form in forms {
        let rules = form.rules.clone();
        if options.mode == Mode::Auto {
            // Exact selection is for forms that promise to be chosen.
            let quick = Options {
                mode: Mode::Greedy,
                ..options.clone()
            };
            let quick = match plan_graph(form.clone(), &quick, &classes) {
                Ok(quick) => quick,
                Err(_) if best.is_some() => continue,
                Err(error) => return Err(error),
            };
            let total_us = quick.plan.total_us;
            let target = *least_greedy.get_or_insert(f64::INFINITY) * (1.0 - FORM_MARGIN);
            if total_us >= target {
                tried.push(decisions::Form {
                    rules,
                    total_us,
                    exact: false,
                    chosen: false,
                });
                continue;
            }
            least_greedy = Some(total_us);
        }
        let of_form = plan_graph(form, options, &classes);
        let planned = match (of_form, &best) {
            (Ok(planned), _) => planned,
            // A rule may do away with a value that a pin names, or make an operation too large;
            // the model as written stands.
            (Err(_), Some(_)) => continue,
            (Err(error), None) => return Err(error),
        };
        let total_us = planned.plan.total_us;
        let least = best.as_ref().map(|b| b.plan.total_us);
        let better = least.is_none_or(|least| total_us < least * (1.0 - FORM_MARGIN));
        if better {
            tried
                .iter_mut()
                .for_each(|f: &mut decisions::Form| f.chosen = false);
            best = Some(planned);
        }
        tried.push(decisions::Form {
            rules,
            total_us,
            exact: options.mode == Mode::Auto,
            chosen: better,
        });
    }
    let mut planned = best.ok_or_else(|| PlanError::Selection("there is no form".into()))?;
    planned.decisions.unfused = unfused;
    planned.decisions.forms = tried;
    planned.decisions.stop = stop;
    label(&mut planned, options.storage)?;
    Ok(planned)
}

/// Launches of the model as written with one kernel per operation, by layer.
fn unfused_launches(graph: &Graph) -> Vec<(Option<u32>, usize)> {
    let mut out: Vec<(Option<u32>, usize)> = Vec::new();
    for id in live_operations(graph) {
        let layer = graph.op(id).layer;
        match out.last_mut() {
            Some((last, n)) if *last == layer => *n += 1,
            _ => out.push((layer, 1)),
        }
    }
    out
}

fn written_form(graph: Graph) -> forms::Form {
    forms::Form {
        graph,
        rules: vec![],
    }
}

/// Plans one form.
fn plan_graph(
    form: forms::Form,
    options: &Options<'_>,
    classes: &Arc<Classes>,
) -> Result<Planned, PlanError> {
    let graph = form.graph;
    // A rule that makes a malformed graph is a mistake of this crate; say so where it is made.
    validate(&graph)?;
    let ctx = options.context(&graph).with_classes(classes);
    let pins: Vec<Pin> = graph.pins.iter().chain(&options.pins).cloned().collect();
    check_pin_names(&ctx, &pins)?;
    let (mut plan, decisions) = plan_form(&ctx, options.mode, &pins)?;
    plan.forms = form.rules;
    Ok(Planned {
        plan,
        decisions,
        graph,
    })
}

/// Names the local forms that each kernel realises.
fn label(planned: &mut Planned, storage: Storage) -> Result<(), PlanError> {
    let _span = debug_span!("local forms").entered();
    let found = forms::local(&planned.graph, storage).map_err(PlanError::Forms)?;
    let mut home: BTreeMap<OpId, usize> = BTreeMap::new();
    for (k, kernel) in planned.plan.kernels.iter().enumerate() {
        home.extend(kernel.ops.iter().map(|id| (*id, k)));
    }
    for (rule, members) in &found {
        let of = members.first().and_then(|id| home.get(id));
        let Some(k) = of.filter(|k| members.iter().all(|id| home.get(id) == Some(k))) else {
            continue;
        };
        let labels = &mut planned.plan.kernels[*k].forms;
        if !labels.iter().any(|f| f == rule) {
            labels.push(rule.to_string());
        }
    }
    Ok(())
}

fn plan_form(ctx: &Context<'_>, mode: Mode, pins: &[Pin]) -> Result<(Plan, Decisions), PlanError> {
    let segments = debug_span!("segments").in_scope(|| segments(ctx));
    let mut chosen: Vec<select::Selection> = Vec::new();
    let mut names = Names::default();
    let mut kernels = Vec::new();
    for segment in &segments {
        if segment.class == chosen.len() {
            chosen.push(select::select(ctx, &segment.ops, mode, pins)?);
        }
        kernels.extend(emit(
            ctx,
            segment,
            &chosen[segment.class],
            mode,
            &mut names,
        )?);
    }
    let decisions = Decisions {
        segments: (0..chosen.len())
            .map(|class| report(&segments, class, &chosen[class]))
            .collect(),
        ..Decisions::default()
    };
    let total_us = kernels.iter().map(|k| k.cost.total_us).sum();
    let counted: Vec<(&select::Selection, usize)> = chosen
        .iter()
        .enumerate()
        .map(|(class, of)| (of, segments.iter().filter(|s| s.class == class).count()))
        .collect();
    let plan = Plan {
        version: PLAN_VERSION,
        model: ctx.graph.name.clone(),
        device: ctx.device.name.clone(),
        shape: ctx.shape,
        storage: ctx.storage,
        mode,
        forms: vec![],
        claim: select::claim(mode, &counted),
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
        complete: of.bound.is_some_and(|bound| bound >= of.cost),
    }
}

/// The kernels of one segment in launch order. `selection` is that of the first segment of
/// its class, so its groups are positions.
fn emit(
    ctx: &Context<'_>,
    segment: &Segment,
    selection: &select::Selection,
    mode: Mode,
    names: &mut Names,
) -> Result<Vec<Kernel>, PlanError> {
    let _span = debug_span!("kernels").entered();
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
            let forms = fit::forms(ctx, ops).map_err(|reject| unplannable(ctx, ops, reject))?;
            let (phases, cost) = implement(ctx, forms, mode, g);
            let mut lanes = phases.iter().flat_map(|p| &p.lanes);
            let in_chunks = lanes.any(|l| l.template() == Template::Chunked);
            let forms = [(in_chunks, IN_CHUNKS), (phases.len() > 1, IN_PHASES)];
            Ok(Kernel {
                name: names.name(ctx, ops, &phases),
                cost,
                launch: launch(ctx, &phases),
                phases,
                names: ops
                    .iter()
                    .map(|id| ctx.graph.op(*id).name.clone())
                    .collect(),
                ops: ops.clone(),
                layer: ops.first().and_then(|id| ctx.graph.op(*id).layer),
                forms: forms
                    .iter()
                    .filter(|(is, _)| *is)
                    .map(|(_, name)| name.to_string())
                    .collect(),
            })
        })
        .collect()
}

/// The local form in which a kernel is computed: the cheapest; the plain one in an unfused plan; in
/// a random plan one drawn at random, the same for equal segments.
fn implement(
    ctx: &Context<'_>,
    forms: Vec<Vec<Phase>>,
    mode: Mode,
    group: usize,
) -> (Vec<Phase>, Cost) {
    let drawn = match mode {
        Mode::Random(seed) => {
            let mut draw = seed ^ (group as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            draw = (draw ^ (draw >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (draw >> 33) as usize % forms.len().max(1)
        }
        Mode::Unfused => 0,
        Mode::Auto | Mode::Greedy => return cost::cheapest(ctx, forms),
    };
    cost::cheapest(ctx, forms.into_iter().skip(drawn).take(1).collect())
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
