//! Forms: graphs of other operations that compute the same values, found by an e-graph.
//!
//! Rules live in files by family; README.md beside them says how to write one. A rule says that
//! operations equal others; where it is used is decided block by block of the model, and each
//! choice of blocks is a graph of its own that is planned like any other. One rule rewrites no
//! expression but takes recurrences apart, before the others are looked for (`components`). What never
//! will live here: costs and the choice between forms (see [`mod@crate::plan`]), other ways to compute the
//! same operations ([`crate::fit::forms`]), and names for what a kernel fuses ([`crate::patterns`]).

mod canonical;
mod components;
mod extract;
mod language;
mod matrix;
mod norm;
mod projection;
mod rule;
mod transposed;

pub use canonical::canonical;
pub use extract::Form;
pub(crate) use norm::sole_factor;
pub use rule::Rule;

use crate::plan::{Shape, Storage};
use egg::{Runner, SimpleScheduler, StopReason};
use fusec_ir::Graph;
use language::{Model, build};
use std::collections::BTreeSet;
use std::time::Duration;

/// Rounds of rewriting.
const ITERATIONS: usize = 8;
/// E-nodes per operation of the model.
const NODES_PER_OP: usize = 40;

/// Every rule.
pub static RULES: [&dyn Rule; 4] = [
    &norm::NormGainFold,
    &projection::LnProjection,
    &matrix::ZeroRows,
    &matrix::ShortProduct,
];

/// What a plan is for, as far as rules ask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Aim {
    /// Storage type, for rules that would round differently.
    pub storage: Storage,
    /// Rows of a run.
    pub rows: usize,
    /// Whether runs have one token, and none have more.
    pub single_steps: bool,
    /// The share of what a relu gives that is expected to be zero.
    pub zeros: f64,
}

impl Aim {
    /// That of a plan of a graph at a shape.
    pub fn of(graph: &Graph, shape: Shape, storage: Storage) -> Aim {
        Aim {
            storage,
            rows: shape.batch * shape.time,
            single_steps: shape.longest_run() == Some(1),
            zeros: graph.zeros,
        }
    }
}

/// A rule, used wherever it applies in one block of the model (in all of its layers).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    /// Name of the rule.
    pub rule: &'static str,
    /// Name of the block; empty for what is outside of all.
    pub block: String,
}

/// A model with all equal operations that the rules found.
pub struct Equalities<'g> {
    written: &'g Graph,
    aim: Aim,
    model: Model,
    uses: BTreeSet<Use>,
    stop: String,
}

impl<'g> Equalities<'g> {
    /// Applies all rules to a model.
    pub fn of(graph: &'g Graph, aim: Aim) -> Result<Self, String> {
        let (model, stop) = saturate(graph, aim)?;
        let mut uses = extract::uses(graph, &model);
        uses.extend(components::uses(graph));
        Ok(Equalities {
            written: graph,
            aim,
            uses,
            model,
            stop,
        })
    }

    /// Which rules apply where.
    pub fn uses(&self) -> &BTreeSet<Use> {
        &self.uses
    }

    /// Why the search ended.
    pub fn stop(&self) -> &str {
        &self.stop
    }

    /// The model with some rules used; as it is written with none. `None` if there is no such graph.
    pub fn form(&self, enabled: &BTreeSet<Use>) -> Option<Form> {
        let (apart, others) = components::parted(enabled);
        if apart.is_empty() {
            return match others.is_empty() {
                true => Some(Form::written(self.written.clone())),
                false => extract::extract(self.written, &self.model, &others),
            };
        }
        let (graph, rule) = components::separated(self.written, &apart)?;
        let mut form = match others.is_empty() {
            true => Form::written(graph),
            false => {
                let (model, _) = saturate(&graph, self.aim).ok()?;
                extract::extract(&graph, &model, &others)?
            }
        };
        form.rules.insert(0, rule);
        Some(form)
    }

    /// Choices of rules that are planned whatever the others cost: none, each rule wherever it
    /// applies, and all.
    pub fn wholesale(&self) -> Vec<BTreeSet<Use>> {
        let of_rule = |rule: &'static str| -> BTreeSet<Use> {
            let uses = self.uses.iter();
            uses.filter(|u| u.rule == rule).cloned().collect()
        };
        let mut choices = vec![BTreeSet::new()];
        let rules = RULES.iter().map(|rule| rule.name());
        let alone = rules.chain([components::NAME]).map(of_rule);
        for choice in alone.chain([self.uses.clone()]) {
            if !choices.contains(&choice) {
                choices.push(choice);
            }
        }
        choices
    }
}

/// The model as written, each rule wherever it applies, all rules, and each rule in each block by
/// itself; and why the search ended.
pub fn enumerate(graph: &Graph, aim: Aim) -> Result<(Vec<Form>, String), String> {
    let equalities = Equalities::of(graph, aim)?;
    let alone = equalities.uses.iter().cloned();
    let choices = equalities.wholesale().into_iter();
    let mut forms: Vec<Form> = vec![];
    for choice in choices.chain(alone.map(|one| BTreeSet::from([one]))) {
        let form = equalities.form(&choice);
        forms.extend(form.filter(|form| forms.iter().all(|f| f.rules != form.rules)));
    }
    Ok((forms, equalities.stop))
}

/// The model with every recurrence in components; `None` if none has several.
pub fn in_components(graph: &Graph) -> Option<Form> {
    let (graph, rule) = components::separated(graph, &components::uses(graph))?;
    Some(Form {
        graph,
        rules: vec![rule],
    })
}

fn saturate(graph: &Graph, aim: Aim) -> Result<(Model, String), String> {
    let rewrites = RULES
        .iter()
        .map(|r| rule::rewrite(*r, aim))
        .collect::<Result<Vec<_>, _>>()?;
    let mut model = build(graph);
    let nodes = NODES_PER_OP * (graph.ops.len() + graph.values.len()) + 1000;
    let runner = Runner::default()
        .with_egraph(std::mem::take(&mut model.forms))
        .with_scheduler(SimpleScheduler)
        .with_iter_limit(ITERATIONS)
        .with_node_limit(nodes)
        // Counts end the search, never the clock: plans are the same everywhere.
        .with_time_limit(Duration::from_secs(u64::MAX / 4))
        .run(&rewrites);
    let stop = match &runner.stop_reason {
        Some(StopReason::Saturated) => "saturated".to_string(),
        Some(StopReason::IterationLimit(n)) => format!("stopped after {n} rounds"),
        Some(StopReason::NodeLimit(n)) => format!("stopped at {n} e-nodes"),
        other => format!("stopped: {other:?}"),
    };
    model.forms = runner.egraph;
    Ok((model, stop))
}
