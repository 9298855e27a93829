//! The entry point: from a graph to a plan.
//!
//! [`plan`] tries forms of the model ([`choice`]), selects the kernels of each part of it ([`parts`]),
//! and makes the chosen ones a plan ([`emit`]). What never will live here: what a kernel may hold
//! ([`crate::fit`]), what it costs ([`crate::cost`]), and how kernels are selected ([`crate::select`]).

mod choice;
mod emit;
mod known;
mod parts;
mod progress;
mod recipe;

pub use known::Known;
pub(crate) use parts::{Selections, Wanted};
pub use progress::Progress;
pub(crate) use recipe::schedules;
pub use recipe::{Asked, Recipe, RuleUse};

use crate::Device;
use crate::chunked::Classes;
use crate::context::{Context, live_operations};
use crate::decisions::Decisions;
use crate::error::PlanError;
use crate::forms;
use crate::plan::{Mode, Plan, Shape, Storage};
use crate::row::check_rows;
use crate::validate::validate;
use fusec_ir::components::separate;
use fusec_ir::{Graph, Pin};
use std::collections::BTreeSet;
use std::sync::Arc;
use tracing::debug_span;

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

/// Plans a graph.
pub fn plan(graph: &Graph, options: &Options<'_>) -> Result<Planned, PlanError> {
    plan_watched(graph, options, &mut |_| {})
}

/// Plans a graph, and tells `watch` what is being done, often.
pub fn plan_watched(
    graph: &Graph,
    options: &Options<'_>,
    watch: &mut dyn FnMut(&Progress),
) -> Result<Planned, PlanError> {
    let recipe = Recipe::plain(options.mode);
    make(graph, options, &recipe, &mut Selections::default(), watch)
}

/// Plans a graph by a recipe, which says how kernels are chosen in place of the options.
pub fn plan_by(
    graph: &Graph,
    options: &Options<'_>,
    recipe: &Recipe,
) -> Result<Planned, PlanError> {
    make(
        graph,
        options,
        recipe,
        &mut Selections::default(),
        &mut |_| {},
    )
}

/// Plans a graph by a recipe. `selections` are those known of the same options, but for pins.
pub(crate) fn make(
    graph: &Graph,
    options: &Options<'_>,
    recipe: &Recipe,
    selections: &mut Selections,
    watch: &mut dyn FnMut(&Progress),
) -> Result<Planned, PlanError> {
    let _planning = debug_span!("other").entered();
    validate(graph)?;
    let Shape { batch, time } = options.shape;
    if batch == 0 || time == 0 {
        return Err(PlanError::Shape { batch, time });
    }
    // Before anything is searched.
    check_rows(graph)?;
    let options = &Options {
        mode: recipe.mode,
        pins: options.pins.iter().chain(&recipe.pins).cloned().collect(),
        ..options.clone()
    };
    let written = forms::canonical(graph);
    // Recurrences that others are made of come after those of the model.
    let classes = Classes::new(&separate(&written, |_| true));
    let mut trials = choice::Trials::new(options, Arc::new(classes), watch);
    trials.selections = std::mem::take(selections);
    let chosen = match (&recipe.form, recipe.mode) {
        (Some(uses), _) => trials.named(&written, uses),
        (None, Mode::Greedy | Mode::Unfused) => trials.written(&written),
        (None, Mode::Auto) => trials.cheapest(&written),
        (None, Mode::Random(seed)) => trials.drawn(&written, seed),
    };
    *selections = std::mem::take(&mut trials.selections);
    let mut planned = emit::emit(chosen?, options, recipe)?;
    planned.decisions.unfused = unfused_launches(&written);
    planned.decisions.forms = trials.tried;
    planned.decisions.stop = trials.stop;
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

fn check_pin_names(ctx: &Context<'_>, pins: &[Pin]) -> Result<(), PlanError> {
    if pins.is_empty() {
        return Ok(());
    }
    let ops = ctx.planned().iter().map(|id| ctx.graph.op(*id));
    let values = ops.flat_map(|op| &op.outputs);
    let known: BTreeSet<&str> = values.map(|v| ctx.graph.value(*v).name.as_str()).collect();
    for pin in pins {
        if let Some(missing) = pin
            .values
            .iter()
            .find(|name| !known.contains(name.as_str()))
        {
            return Err(PlanError::unknown(pin, missing));
        }
    }
    Ok(())
}
