//! From selected groups to the kernels of a plan.

use super::choice::Chosen;
use super::parts::PART;
use super::{Asked, Options, Planned, Recipe, schedules};
use crate::context::Context;
use crate::decisions::{self, Decisions};
use crate::error::PlanError;
use crate::fit;
use crate::name::Names;
use crate::order::launch_order;
use crate::patterns::patterns;
use crate::plan::{Body, Cost, Kernel, Mode, PLAN_VERSION, Phase, Plan, Template};
use crate::schedule::launch;
use crate::segment::Segment;
use crate::{cost, select};
use fusec_ir::{Graph, OpId, StateId, ValueId};
use std::collections::BTreeMap;
use tracing::debug_span;

/// Name of the local form of a recurrence that is computed some tokens at a time.
const IN_CHUNKS: &str = "recurrent-chunked";
/// Name of the local form of products of products in one launch, a grid barrier between them.
const IN_PHASES: &str = "product-phases";
/// Name of the local form of a sum over all rows whose rows are cut into parts.
const IN_PARTS: &str = "row-sum-parts";
/// Name of the local form of a recurrence that takes segments of T side by side.
const IN_SEGMENTS: &str = "recurrent-segments";

/// The plan of a form. Of the recipe, only the schedules that it asks for are looked at, and what is
/// claimed of the plan.
pub fn emit(chosen: Chosen, options: &Options<'_>, recipe: &Recipe) -> Result<Planned, PlanError> {
    let _span = debug_span!("kernels").entered();
    let Chosen {
        form,
        segments,
        selections,
        classes,
        ..
    } = chosen;
    let ctx = options.context(&form.graph).with_classes(&classes);
    let one_row = ctx.at_last_row();
    let mut names = Names::default();
    let mut wishes = Wishes::new(recipe);
    let mut kernels: Vec<Kernel> = Vec::new();
    // The first segment of each class and its kernels: those of equal segments are the same ones.
    let mut first: Vec<(&Segment, Vec<Kernel>)> = Vec::new();
    for segment in &segments {
        match first.get(segment.class) {
            Some((like, made)) => {
                let same = Same::new(&form.graph, like, segment);
                for kernel in made {
                    kernels.push(same.kernel(kernel)?);
                }
            }
            None => {
                let selection = &selections[segment.class];
                let ctx = if segment.one_row { &one_row } else { &ctx };
                let made = of_segment(ctx, segment, selection, &mut wishes, &mut names)?;
                kernels.extend(made.iter().cloned());
                first.push((segment, made));
            }
        }
    }
    wishes.all_heard()?;
    let decisions = Decisions {
        segments: (0..selections.len())
            .map(|class| report(&segments, class, &selections[class]))
            .collect(),
        ..Decisions::default()
    };
    let mut counts = vec![0; selections.len()];
    segments
        .iter()
        .for_each(|segment| counts[segment.class] += 1);
    let counted: Vec<(&select::Selection, usize)> = selections.iter().zip(counts).collect();
    let plan = Plan {
        version: PLAN_VERSION,
        model: ctx.graph.name.clone(),
        device: ctx.device.name.clone(),
        shape: ctx.shape,
        storage: ctx.storage,
        mode: options.mode,
        forms: form.rules,
        claim: wishes.claim(select::claim(options.mode, &counted, PART)),
        total_us: kernels.iter().map(|k| k.cost.total_us).sum(),
        kernels,
    };
    Ok(Planned {
        plan,
        decisions,
        graph: form.graph,
    })
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

/// The kernels of a segment in launch order.
fn of_segment(
    ctx: &Context<'_>,
    segment: &Segment,
    selection: &select::Selection,
    wishes: &mut Wishes<'_>,
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
            let forms =
                fit::forms(ctx, ops).map_err(|reject| PlanError::unplannable(ctx, ops, reject))?;
            let (phases, cost) = match wishes.phases(ctx, ops) {
                Some(phases) => {
                    let cost = cost::cost(ctx, &phases);
                    (phases, cost)
                }
                None => implement(ctx, forms, wishes.recipe.mode, g),
            };
            let has = |template: Template| {
                let mut lanes = phases.iter().flat_map(|p| &p.lanes);
                lanes.any(|l| l.template() == template)
            };
            let (in_phases, sums) = (phases.len() > 1, has(Template::RowSum));
            let mut lanes = phases.iter().flat_map(|p| &p.lanes);
            let cut = lanes.any(|l| l.schedule.segments().is_some());
            let local = [
                (has(Template::Chunked), IN_CHUNKS),
                (in_phases && !sums && !cut, IN_PHASES),
                (in_phases && sums, IN_PARTS),
                (cut, IN_SEGMENTS),
            ];
            let local = local
                .into_iter()
                .filter(|(is, _)| *is)
                .map(|(_, name)| name);
            let forms = local.chain(patterns(ctx.graph, ops)).map(String::from);
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
                forms: forms.collect(),
            })
        })
        .collect()
}

/// The schedules that a recipe asks for.
struct Wishes<'r> {
    recipe: &'r Recipe,
    /// Of each, whether some kernel has it.
    heard: Vec<bool>,
}

impl<'r> Wishes<'r> {
    fn new(recipe: &'r Recipe) -> Self {
        let heard = vec![false; recipe.schedules.len()];
        Wishes { recipe, heard }
    }

    /// The phases of the kernel that computes `ops`, if schedules are asked for that it can have.
    fn phases(&mut self, ctx: &Context<'_>, ops: &[OpId]) -> Option<Vec<Phase>> {
        let is_of = |asked: &Asked| {
            let names = ops.iter().map(|id| &ctx.graph.op(*id).name);
            asked.operations.iter().eq(names)
        };
        let at = self.recipe.schedules.iter().position(is_of)?;
        let asked = self.recipe.schedules.get(at)?;
        let ways = fit::ways(ctx, ops).ok()?.into_iter();
        let found = ways
            .into_iter()
            .find(|phases| schedules(phases) == asked.schedules)?;
        self.heard[at] = true;
        Some(found)
    }

    /// Refuses a recipe whose schedules no kernel has.
    fn all_heard(&self) -> Result<(), PlanError> {
        let mut all = self.recipe.schedules.iter().zip(&self.heard);
        match all.find(|(_, heard)| !**heard) {
            None => Ok(()),
            Some((asked, _)) => Err(PlanError::asked(
                format!(
                    "the schedule of the kernel of {}",
                    asked.operations.join(", ")
                ),
                "there is no such kernel, or it cannot be executed so",
            )),
        }
    }

    /// What a plan may claim, with what it does not hold for.
    fn claim(&self, mut claim: String) -> String {
        if self.recipe.form.is_some() {
            claim.push_str(", in the form that was asked for");
        }
        match self.recipe.schedules.len() {
            0 => {}
            1 => claim.push_str(", but for one schedule that was asked for"),
            n => claim.push_str(&format!(", but for {n} schedules that were asked for")),
        }
        claim
    }
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

/// Two equal segments: what an operation, a value, a state of the one is in the other.
struct Same<'a> {
    layer: Option<u32>,
    ops: BTreeMap<OpId, OpId>,
    values: BTreeMap<ValueId, ValueId>,
    states: BTreeMap<StateId, StateId>,
    graph: &'a Graph,
}

impl<'a> Same<'a> {
    fn new(graph: &'a Graph, from: &Segment, to: &Segment) -> Same<'a> {
        let mut same = Same {
            layer: to.layer,
            ops: BTreeMap::new(),
            values: BTreeMap::new(),
            states: BTreeMap::new(),
            graph,
        };
        for (a, b) in from.ops.iter().zip(&to.ops) {
            same.ops.insert(*a, *b);
            let (a, b) = (graph.op(*a), graph.op(*b));
            same.values
                .extend(a.outputs.iter().copied().zip(b.outputs.iter().copied()));
            same.states
                .extend(a.tails.iter().copied().zip(b.tails.iter().copied()));
        }
        same
    }

    /// The kernel of the other segment.
    fn kernel(&self, of: &Kernel) -> Result<Kernel, PlanError> {
        let mut kernel = of.clone();
        kernel.layer = self.layer;
        self.ops(&mut kernel.ops)?;
        let names = kernel.ops.iter().map(|id| self.graph.op(*id).name.clone());
        kernel.names = names.collect();
        for body in kernel.phases.iter_mut().flat_map(|phase| &mut phase.lanes) {
            self.body(body)?;
        }
        Ok(kernel)
    }

    fn body(&self, body: &mut Body) -> Result<(), PlanError> {
        let roles = &mut body.roles;
        for ops in [
            &mut roles.prologue,
            &mut roles.anchors,
            &mut roles.epilogue,
            &mut body.ops,
        ] {
            self.ops(ops)?;
        }
        for values in [&mut body.stores, &mut body.streamed] {
            for value in values {
                *value = found(self.values.get(value))?;
            }
        }
        for state in &mut body.tails {
            *state = found(self.states.get(state))?;
        }
        Ok(())
    }

    fn ops(&self, ops: &mut [OpId]) -> Result<(), PlanError> {
        for id in ops {
            *id = found(self.ops.get(id))?;
        }
        Ok(())
    }
}

fn found<T: Copy>(of: Option<&T>) -> Result<T, PlanError> {
    let missing = || PlanError::Selection("equal segments differ".into());
    of.copied().ok_or_else(missing)
}
