//! Recurrences in components: each is planned by itself, and joined with others where that is cheaper.
//!
//! The rewrite itself is [`fusec_ir::components`]. Here it is a rule like those of the e-graph, used
//! block by block. It is no rule of the e-graph, since a scan in pieces needs recurrences that the graph
//! does not have, and more than one operation that keeps a state.

use super::Use;
use super::rule::block_of;
use fusec_ir::components::{is_separable, separate};
use fusec_ir::{Graph, Op, OpKind};
use indexmap::IndexSet;
use std::collections::BTreeSet;

/// Name of the rule.
pub const NAME: &str = "components";

fn use_of(op: &Op) -> Use {
    Use {
        rule: NAME,
        block: block_of(&op.name),
    }
}

/// Where recurrences can be taken apart.
pub fn uses(graph: &Graph) -> BTreeSet<Use> {
    let mut out = BTreeSet::new();
    for op in &graph.ops {
        if let OpKind::Scan { recurrence, .. } = &op.kind
            && is_separable(graph, graph.recurrence(*recurrence))
        {
            out.insert(use_of(op));
        }
    }
    // A scan stays whole where a component has no reader.
    out.retain(|one| separate(graph, |op| use_of(op) == *one).ops.len() != graph.ops.len());
    out
}

/// The uses of this rule, and those of others.
pub fn parted(enabled: &BTreeSet<Use>) -> (BTreeSet<Use>, BTreeSet<Use>) {
    enabled.iter().cloned().partition(|one| one.rule == NAME)
}

/// The graph with the recurrences of some blocks taken apart, and what is said of it; `None` if there is
/// nothing to take apart.
pub fn separated(graph: &Graph, apart: &BTreeSet<Use>) -> Option<(Graph, String)> {
    let wanted = |op: &Op| apart.contains(&use_of(op));
    let separated = separate(graph, wanted);
    let mut names: IndexSet<&str> = IndexSet::new();
    for op in graph.ops.iter().filter(|op| wanted(op)) {
        if let OpKind::Scan { recurrence, .. } = &op.kind
            && is_separable(graph, graph.recurrence(*recurrence))
        {
            names.insert(graph.recurrence(*recurrence).name.as_str());
        }
    }
    let names: Vec<&str> = names.into_iter().collect();
    (separated.ops.len() != graph.ops.len())
        .then(|| (separated, format!("{NAME} ({})", names.join(", "))))
}
