//! Why the kernels of an interior layer are what they are.

use super::ground::{Ground, Joint};
use super::{ExplainError, Reason, op_names};
use crate::bits::Bits;
use crate::board::nanoseconds;
use crate::context::Context;
use crate::cost::{cheapest, cost};
use crate::decisions::Form;
use crate::fit::{forms, in_chunks};
use crate::plan::{Body, Cost, Kernel, Mode, Phase, Shape, Storage, Template};
use crate::planner::{Options, Planned, Progress, Selections, Wanted};
use crate::print::{interior, limit, template};
use crate::schedule::{AttendTile, Schedule};
use crate::segment::{Segment, segments};
use fusec_ir::{OpId, Pin, PinKind, ValueId};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Wishes for which a layer is selected anew; further edges are judged by their rule alone.
const RESOLVES: usize = 12;
/// The same for the highlights: the first are likely the closest calls.
const GLIMPSES: usize = 2;

/// Stack of a thread that selects, as the main one's usually is.
const STACK: usize = 8 << 20;

/// The kernels of an interior layer and the decisions between them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Why {
    /// Name of the model.
    pub model: String,
    /// The device profile.
    pub device: String,
    /// The shape the costs are for.
    pub shape: Shape,
    /// Storage type.
    pub storage: Storage,
    /// How the kernels were chosen.
    pub mode: Mode,
    /// How good the selection is.
    pub claim: String,
    /// Predicted time of the whole plan, microseconds.
    pub total_us: f64,
    /// The layers that have these kernels; empty for a model without layers.
    pub layers: Vec<u32>,
    /// The forms of the model that were planned.
    pub forms: Vec<Form>,
    /// The kernels, in launch order.
    pub kernels: Vec<Chosen>,
    /// The edges between them, in launch order, one per pair of kernels and verdict.
    pub edges: Vec<Edge>,
}

/// A kernel that was chosen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Chosen {
    /// Its name.
    pub name: String,
    /// Its templates.
    pub template: String,
    /// Its operations.
    pub ops: Vec<String>,
    /// The local forms it realises.
    pub forms: Vec<String>,
    /// The terms of its predicted time.
    pub cost: Cost,
    /// The term that decides.
    pub limited_by: &'static str,
    /// What it saves against one kernel per operation.
    pub saved: Saved,
    /// Other local forms of the same operations in one launch.
    pub others: Vec<Other>,
}

/// A local form in which a kernel is not computed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Other {
    /// It could be, at a price.
    Dearer {
        /// The templates of its lanes.
        template: String,
        /// What the kernel then takes more, microseconds.
        by_us: f64,
    },
    /// A lane cannot go along T in chunks.
    NotInChunks {
        /// The recurrences of the lane.
        scans: Vec<String>,
        /// Why not.
        reason: Reason,
    },
}

/// The difference that fusion makes. Positive is saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Saved {
    /// Microseconds.
    pub us: f64,
    /// Bytes to and from device memory, L2 hits included.
    pub bytes: f64,
    /// Launches.
    pub launches: usize,
}

/// Values that go from one kernel to another through memory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Edge {
    /// The values.
    pub values: Vec<String>,
    /// Bytes of one of them, the largest.
    pub bytes: f64,
    /// The kernel that makes them.
    pub from: String,
    /// The kernel that reads them.
    pub to: String,
    /// The operation that reads the first of them.
    pub reader: String,
    /// Why they are not kept on the chip.
    pub verdict: Verdict,
}

/// Why two operations are in different kernels.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// No kernel may hold both.
    Illegal {
        /// The rule.
        reason: Reason,
        /// The smallest group with both.
        group: Vec<String>,
        /// Whether no larger group was left to examine.
        complete: bool,
    },
    /// One kernel may, at a price.
    Dearer {
        /// What the layer then takes more, microseconds.
        by_us: f64,
    },
    /// One kernel may, but the user's pins forbid it.
    Pinned {
        /// How.
        reason: Reason,
    },
    /// One kernel may; the price was not asked for, because other edges came first.
    Legal,
}

/// Explains a plan that `options` resulted in.
pub fn why(planned: &Planned, options: &Options<'_>) -> Result<Why, ExplainError> {
    explain(planned, options, interior(&planned.plan), RESOLVES)
}

/// The same of other kernels than those of an interior layer: consecutive ones of one layer, or of none.
/// `priced` groups at most are selected anew for their price; further ones are judged by their rule
/// alone.
pub fn why_part(
    planned: &Planned,
    options: &Options<'_>,
    kernels: &[Kernel],
    priced: usize,
) -> Result<Why, ExplainError> {
    explain(planned, options, kernels, priced)
}

/// The three most interesting decisions of a plan, a sentence each: the largest saving, the closest
/// call (legal, and dearer by least, of a few likely ones), and the largest value that a rule
/// sends through memory. Fewer where there is no such decision.
pub fn highlights(planned: &Planned, options: &Options<'_>) -> Result<Vec<String>, ExplainError> {
    Ok(explain(planned, options, interior(&planned.plan), GLIMPSES)?.highlights())
}

fn explain(
    planned: &Planned,
    options: &Options<'_>,
    kernels: &[Kernel],
    resolves: usize,
) -> Result<Why, ExplainError> {
    let plan = &planned.plan;
    let ctx = options.context(&planned.graph);
    let segments = segments(&ctx);
    let segment = home(&segments, kernels);
    let layers = segment.map_or_else(Vec::new, |segment| {
        let equal = segments.iter().filter(|s| s.class == segment.class);
        equal.filter_map(|s| s.layer).collect()
    });
    Ok(Why {
        model: plan.model.clone(),
        device: plan.device.clone(),
        shape: plan.shape,
        storage: plan.storage,
        mode: plan.mode,
        claim: plan.claim.clone(),
        total_us: plan.total_us,
        layers,
        forms: planned.decisions.forms.clone(),
        kernels: kernels.iter().map(|k| chosen(&ctx, k)).collect(),
        edges: match segment {
            Some(segment) => edges(
                &ctx,
                options,
                &planned.graph.pins,
                segment,
                kernels,
                resolves,
            ),
            None => vec![],
        },
    })
}

/// The segment that kernels of one layer belong to.
pub(super) fn home<'s>(segments: &'s [Segment], kernels: &[Kernel]) -> Option<&'s Segment> {
    let op = kernels.first()?.ops.first()?;
    segments.iter().find(|s| s.ops.binary_search(op).is_ok())
}

fn chosen(ctx: &Context<'_>, kernel: &Kernel) -> Chosen {
    let traffic = |cost: &Cost| cost.bytes + cost.l2_bytes;
    let mut saved = Saved {
        us: -kernel.cost.total_us,
        bytes: -traffic(&kernel.cost),
        launches: kernel.ops.len().saturating_sub(1),
    };
    for id in &kernel.ops {
        // An operation without a kernel of its own has no price alone; then there is no plan.
        if let Ok(forms) = forms(ctx, &[*id]) {
            let (_, alone) = cheapest(ctx, forms);
            saved.us += alone.total_us;
            saved.bytes += traffic(&alone);
        }
    }
    Chosen {
        name: kernel.name.clone(),
        template: template(kernel),
        ops: op_names(ctx, &kernel.ops),
        forms: kernel.forms.clone(),
        cost: kernel.cost,
        limited_by: limit(&kernel.cost),
        saved,
        others: others(ctx, kernel),
    }
}

/// In words, what schedules of one template differ in that are weighed against each other.
type Manner = Option<&'static str>;

fn manner(body: &Body) -> Manner {
    match &body.schedule {
        Schedule::Chunked(chunk) if chunk.ahead => Some("with its rows ahead of time"),
        Schedule::Chunked(_) => Some("with its rows as they come"),
        Schedule::Attend(AttendTile::Simt(_)) => Some("on FP32 units"),
        Schedule::Attend(AttendTile::Mma(_)) => Some("on tensor cores"),
        _ => None,
    }
}

/// The local forms that a kernel does not have.
fn others(ctx: &Context<'_>, kernel: &Kernel) -> Vec<Other> {
    let Ok(forms) = forms(ctx, &kernel.ops) else {
        return vec![];
    };
    let lanes = |phases: &[Phase]| -> Vec<Body> {
        let lanes = phases.iter().flat_map(|p| &p.lanes);
        lanes.cloned().collect()
    };
    let templates = |phases: &[Phase]| -> Vec<(Template, Manner)> {
        let lanes = phases.iter().flat_map(|p| &p.lanes);
        lanes.map(|l| (l.template(), manner(l))).collect()
    };
    let own = templates(&kernel.phases);
    let plain = forms.first().map(|form| lanes(form)).unwrap_or_default();
    // Of forms with the same templates, the cheapest.
    let mut least: Vec<(Vec<(Template, Manner)>, f64)> = Vec::new();
    for form in forms.iter().filter(|form| templates(form) != own) {
        let (of, us) = (templates(form), cost(ctx, form).total_us);
        match least.iter_mut().find(|(known, _)| *known == of) {
            Some((_, known)) => *known = known.min(us),
            None => least.push((of, us)),
        }
    }
    let dearer = least.into_iter().map(|(templates, us)| {
        let names: Vec<String> = templates
            .iter()
            .map(|(template, manner)| match manner {
                None => template.to_string(),
                Some(manner) => format!("{template} {manner}"),
            })
            .collect();
        Other::Dearer {
            template: names.join(" + "),
            by_us: us - kernel.cost.total_us,
        }
    });
    let chunked = in_chunks(ctx, &kernel.ops, &plain);
    let illegal = plain
        .iter()
        .zip(chunked)
        .filter_map(|(lane, chunked)| match chunked {
            Err(reject) if lane.template() == Template::Scan => Some(Other::NotInChunks {
                scans: op_names(ctx, lane.anchors()),
                reason: Reason::new(ctx, reject),
            }),
            _ => None,
        });
    dearer.chain(illegal).collect()
}

/// A value that leaves its kernel, and who reads it.
struct Crossing {
    value: ValueId,
    maker: OpId,
    reader: OpId,
    from: usize,
    to: usize,
}

fn crossings(ctx: &Context<'_>, kernels: &[Kernel]) -> Vec<Crossing> {
    let mut out = Vec::new();
    for (from, kernel) in kernels.iter().enumerate() {
        for maker in &kernel.ops {
            for value in &ctx.graph.op(*maker).outputs {
                let mut into: BTreeMap<usize, OpId> = BTreeMap::new();
                for reader in ctx.readers(*value) {
                    let to = kernels
                        .iter()
                        .position(|k| k.ops.binary_search(reader).is_ok());
                    if let Some(to) = to.filter(|to| *to != from) {
                        into.entry(to).or_insert(*reader);
                    }
                }
                out.extend(into.into_iter().map(|(to, reader)| Crossing {
                    value: *value,
                    maker: *maker,
                    reader,
                    from,
                    to,
                }));
            }
        }
    }
    out
}

fn edges(
    ctx: &Context<'_>,
    options: &Options<'_>,
    pins: &[Pin],
    segment: &Segment,
    kernels: &[Kernel],
    resolves: usize,
) -> Vec<Edge> {
    let pins: Vec<Pin> = pins.iter().chain(&options.pins).cloned().collect();
    let ground = Ground::new(ctx, &segment.ops);
    let crossings = crossings(ctx, kernels);
    let mut verdicts: Vec<Option<Verdict>> = Vec::new();
    let mut legal: Vec<(i64, usize, Vec<OpId>)> = Vec::new();
    for (i, crossing) in crossings.iter().enumerate() {
        let (Some(a), Some(b)) = (ground.at(crossing.maker), ground.at(crossing.reader)) else {
            verdicts.push(None);
            continue;
        };
        verdicts.push(Some(match ground.joint(a, b) {
            Joint::Legal(group) => {
                legal.push((guess(&ground, kernels, crossing), i, group));
                Verdict::Legal
            }
            Joint::Illegal {
                group,
                reject,
                complete,
            } => Verdict::Illegal {
                reason: Reason::new(ctx, reject),
                group: op_names(ctx, &group),
                complete,
            },
        }));
    }
    // The edges whose kernels, made one, cost least more are likely the closest calls.
    legal.sort_by_key(|(guess, i, _)| (*guess, *i));
    let mut wanted: Vec<&[OpId]> = Vec::new();
    for (_, _, group) in &legal {
        if wanted.len() < resolves && !wanted.contains(&group.as_slice()) {
            wanted.push(group);
        }
    }
    let now: f64 = kernels.iter().map(|k| k.cost.total_us).sum();
    let asked = side_by_side(&wanted, |group| {
        forced(&ground, options.mode, &pins, segment, group, now)
    });
    for (_, i, group) in &legal {
        let at = wanted.iter().position(|wanted| wanted == group);
        verdicts[*i] = at.and_then(|at| asked.get(at).cloned().flatten());
        verdicts[*i].get_or_insert(Verdict::Legal);
    }
    let mut out: Vec<Edge> = Vec::new();
    for (crossing, verdict) in crossings.iter().zip(verdicts) {
        let Some(verdict) = verdict else { continue };
        let name = ctx.graph.value(crossing.value).name.clone();
        let bytes = ctx.value_bytes(crossing.value);
        let (from, to) = (&kernels[crossing.from].name, &kernels[crossing.to].name);
        let known = out
            .iter_mut()
            .find(|e| e.from == *from && e.to == *to && alike(&e.verdict, &verdict));
        match known {
            Some(edge) => {
                edge.values.push(name);
                edge.bytes = edge.bytes.max(bytes);
            }
            None => out.push(Edge {
                values: vec![name],
                bytes,
                from: from.clone(),
                to: to.clone(),
                reader: ctx.graph.op(crossing.reader).name.clone(),
                verdict,
            }),
        }
    }
    out
}

/// What `ask` says of each group, in their order. Each is a selection of its own, so that they are made on
/// as many threads as there are processors; the answers do not depend on how many those are.
fn side_by_side(
    groups: &[&[OpId]],
    ask: impl Fn(&[OpId]) -> Verdict + Sync,
) -> Vec<Option<Verdict>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut told = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(group) = groups.get(at) else {
                return told;
            };
            told.push((at, ask(group)));
        }
    };
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let mut out = vec![None; groups.len()];
    thread::scope(|scope| {
        let others = (1..processors.min(groups.len()))
            .filter_map(|_| {
                let builder = thread::Builder::new().stack_size(STACK);
                // Where the system gives no thread, those that there are do the work.
                builder.spawn_scoped(scope, work).ok()
            })
            .collect::<Vec<_>>();
        let mut told = work();
        for other in others {
            match other.join() {
                Ok(more) => told.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        for (at, verdict) in told {
            out[at] = Some(verdict);
        }
    });
    out
}

/// Whether two verdicts between the same kernels say the same.
fn alike(a: &Verdict, b: &Verdict) -> bool {
    match (a, b) {
        (Verdict::Illegal { reason: a, .. }, Verdict::Illegal { reason: b, .. }) => {
            a.rule == b.rule && a.limit == b.limit
        }
        (a, b) => a == b,
    }
}

/// What making the two kernels one would cost, if that is possible; nanoseconds.
fn guess(ground: &Ground<'_>, kernels: &[Kernel], crossing: &Crossing) -> i64 {
    let (from, to) = (&kernels[crossing.from], &kernels[crossing.to]);
    let both = from.ops.iter().chain(&to.ops);
    let union = Bits::of(ground.board.len(), both.filter_map(|id| ground.at(*id)));
    if ground.board.closed(union.clone()) != union {
        return i64::MAX;
    }
    match ground.board.price(&union) {
        Ok(us) => nanoseconds(us - from.cost.total_us - to.cost.total_us),
        Err(_) => i64::MAX,
    }
}

/// Selects the kernels of a segment again, with a group kept together.
fn forced(
    ground: &Ground<'_>,
    mode: Mode,
    pins: &[Pin],
    segment: &Segment,
    group: &[OpId],
    now: f64,
) -> Verdict {
    let ctx = ground.board.ctx;
    let mut pins = pins.to_vec();
    pins.push(Pin {
        kind: PinKind::Fuse,
        values: value_names(ctx, group),
        span: None,
    });
    let wanted = Wanted { mode, pins: &pins };
    let mut progress = Progress::default();
    let selections = &mut Selections::default();
    let selection = match selections.of(ctx, &segment.ops, &wanted, &mut progress, &mut |_| {}) {
        Ok(selection) => selection,
        Err(crate::PlanError::PinRefused { reject, .. }) => {
            return Verdict::Pinned {
                reason: Reason::new(ctx, *reject),
            };
        }
        Err(_) => return Verdict::Legal,
    };
    let us: f64 = selection
        .groups
        .iter()
        .filter_map(|g| {
            ground
                .board
                .price(&Bits::of(ground.board.len(), g.iter().copied()))
                .ok()
        })
        .sum();
    Verdict::Dearer { by_us: us - now }
}

/// The names of the values that operations make.
pub(super) fn value_names(ctx: &Context<'_>, ops: &[OpId]) -> Vec<String> {
    let outputs = ops.iter().flat_map(|id| &ctx.graph.op(*id).outputs);
    outputs.map(|v| ctx.graph.value(*v).name.clone()).collect()
}
