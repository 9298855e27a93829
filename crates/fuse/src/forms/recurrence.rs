//! Rules about recurrences.

use super::adjacent::Adjacent;
use super::language::{Attribute, Forms, Node, make};
use super::rule::{Rule, Scope, Site, operations};
use egg::{Id, Language};
use fusec_ir::{OpId, OpKind};
use std::collections::BTreeSet;

fn is_row_work(kind: &OpKind) -> bool {
    matches!(
        kind,
        OpKind::Map { .. } | OpKind::Norm { .. } | OpKind::Reduce { .. }
    )
}

/// Decay, step size, normalised keys, updated keys: what a recurrence reads is made in its loop.
pub static SCAN_PROLOGUE: Adjacent = Adjacent {
    name: "scan-prologue",
    reason: "what each step of a recurrence reads is made in the step, and never written",
    condition: "an operand of the recurrence is a map, a norm or a reduction of the row",
    reader: |kind| matches!(kind, OpKind::Scan { .. }),
    holds: |edge| is_row_work(&edge.maker.kind),
};

/// Group norm, bonus, skip connection, gate: what follows a recurrence is done in its loop.
pub static SCAN_EPILOGUE: Adjacent = Adjacent {
    name: "scan-epilogue",
    reason: "what each step of a recurrence gives is normalised and gated in the step",
    condition: "a map, a norm or a reduction reads the recurrence's current row",
    reader: is_row_work,
    holds: |edge| edge.read.delay == 0 && matches!(edge.maker.kind, OpKind::Scan { .. }),
};

/// Two recurrences over the same rows as one launch.
pub struct WkvScan;

impl Rule for WkvScan {
    fn name(&self) -> &'static str {
        "wkv-scan"
    }

    fn reason(&self) -> &'static str {
        "two loops along T that do not wait for each other take the time of one"
    }

    fn condition(&self) -> &'static str {
        "both belong to one layer and neither depends on the other"
    }

    fn scope(&self) -> Scope {
        Scope::Local
    }

    fn applies_to(&self, kind: &OpKind) -> bool {
        matches!(kind, OpKind::Scan { .. })
    }

    fn rewrite(&self, forms: &mut Forms, site: &Site) -> Option<Id> {
        let first = site.op.origin?;
        let mut others: Vec<(OpId, Node, Id)> = Vec::new();
        for class in forms.classes() {
            for (node, op) in operations(forms, class.id) {
                if let Some(origin) = op.origin
                    && matches!(op.kind, OpKind::Scan { .. })
                    && op.layer == site.op.layer
                    && origin > first
                {
                    others.push((origin, node, class.id));
                }
            }
        }
        others.sort_by_key(|(origin, ..)| *origin);
        others.retain(|(_, node, _)| !depends(forms, node, site.class));
        let mut equal = None;
        for (other, node, class) in others {
            let launch = Attribute::Launch {
                rule: self.name(),
                members: vec![first, other],
            };
            let children: Vec<Id> = [&site.node, &node]
                .iter()
                .flat_map(|n| n.children.iter().copied())
                .collect();
            let from = [site.node.attribute, node.attribute];
            let launch = make(forms, self.name(), &from, 0, launch, children);
            let mut result = |n: u32, of: Id| {
                let results = result_meta(forms, of);
                let attribute = Attribute::Result(n, results);
                make(forms, self.name(), &from, n + 1, attribute, vec![launch])
            };
            let mine = result(0, site.class);
            let theirs = result(1, class);
            forms.union(class, theirs);
            equal = Some(mine);
        }
        equal
    }
}

/// The value of a class, or a placeholder for an operation with several results.
fn result_meta(forms: &Forms, class: Id) -> super::language::Meta {
    forms[class].data.clone().unwrap_or(super::language::Meta {
        name: String::new(),
        rows: true,
        axes: vec![],
        precision: fusec_ir::Precision::F32,
        layer: None,
    })
}

/// Whether an e-node's operands lead to a class. Launches are left out: they are other ways
/// to compute what is below them.
fn depends(forms: &Forms, node: &Node, on: Id) -> bool {
    let on = forms.find(on);
    let mut seen = BTreeSet::new();
    let mut stack: Vec<Id> = node.children.iter().map(|c| forms.find(*c)).collect();
    while let Some(class) = stack.pop() {
        if class == on {
            return true;
        }
        if !seen.insert(class) {
            continue;
        }
        for node in &forms[class].nodes {
            if !matches!(forms.analysis.attribute(node), Attribute::Launch { .. }) {
                node.for_each(|child| stack.push(forms.find(child)));
            }
        }
    }
    false
}
