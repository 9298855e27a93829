//! Forms: other ways to compute the same thing, found by an e-graph.
//!
//! Rules live in files by family; README.md beside them says how to write one. *Local* forms
//! compute the same operations in one launch and label the kernels that realise them. *Global*
//! forms have other operations: each combination of rules is a graph of its own that is
//! planned by itself. What never will live here: costs and the choice between forms.

mod adjacent;
mod canonical;
mod epilogue;
mod extract;
mod language;
mod norm;
mod projection;
mod recurrence;
mod rule;
mod stencil;
mod transposed;

pub use canonical::canonical;
pub use extract::Form;
pub use rule::{Rule, Scope};

use crate::plan::Storage;
use egg::{Runner, SimpleScheduler, StopReason};
use fusec_ir::{Graph, OpId};
use language::{Attribute, Model, build};
use std::collections::BTreeSet;
use std::time::Duration;

/// Rounds of rewriting.
const ITERATIONS: usize = 8;
/// E-nodes per operation of the model.
const NODES_PER_OP: usize = 40;
/// Forms that are planned.
const FORMS: usize = 8;

/// Every rule.
pub static RULES: [&dyn Rule; 13] = [
    &norm::NormGain,
    &norm::NormGainFold,
    &norm::RESIDUAL_NORM,
    &norm::EMBED_NORM,
    &projection::LnProjection,
    &projection::SiblingProducts,
    &epilogue::PRODUCT_EPILOGUE,
    &epilogue::NORM_PRODUCT,
    &epilogue::PRODUCT_PROLOGUE,
    &stencil::ConvSsm,
    &recurrence::WkvScan,
    &recurrence::SCAN_PROLOGUE,
    &recurrence::SCAN_EPILOGUE,
];

/// The forms of a model, as written first, and why the search ended.
///
/// One form per rule that applies, and one with all of them, at most eight.
pub fn enumerate(graph: &Graph, storage: Storage) -> Result<(Vec<Form>, String), String> {
    let (model, stop) = saturate(graph, storage, Scope::Global)?;
    let written = Form {
        graph: graph.clone(),
        rules: vec![],
    };
    let mut forms = vec![written];
    let global: Vec<&'static str> = RULES
        .iter()
        .filter(|r| r.scope() == Scope::Global)
        .map(|r| r.name())
        .collect();
    let alone = global.iter().map(|name| BTreeSet::from([*name]));
    let all = [global.iter().copied().collect::<BTreeSet<_>>()];
    for enabled in alone.chain(all) {
        let Some(form) = extract::extract(graph, &model, &enabled) else {
            continue;
        };
        let known = forms.iter().any(|f| f.rules == form.rules);
        if !known && forms.len() < FORMS {
            forms.push(form);
        }
    }
    Ok((forms, stop))
}

/// The local forms of a graph: rule and operations, in order.
pub fn local(graph: &Graph, storage: Storage) -> Result<Vec<(&'static str, Vec<OpId>)>, String> {
    let (model, _) = saturate(graph, storage, Scope::Local)?;
    let mut found = BTreeSet::new();
    for class in model.forms.classes() {
        for node in &class.nodes {
            if let Attribute::Launch { rule, members } = model.forms.analysis.attribute(node) {
                found.insert((*rule, members.clone()));
            }
        }
    }
    Ok(found.into_iter().collect())
}

fn saturate(graph: &Graph, storage: Storage, scope: Scope) -> Result<(Model, String), String> {
    let rewrites = RULES
        .iter()
        .filter(|r| r.scope() == scope)
        .map(|r| rule::rewrite(*r, storage))
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
