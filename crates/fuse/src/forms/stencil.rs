//! Rules about stencils along T.

use super::language::{Attribute, Forms, make};
use super::rule::{Rule, Scope, Site, operations};
use egg::Id;
use fusec_ir::{OpId, OpKind};
use std::collections::BTreeSet;

/// A stencil whose rows feed a recurrence, in the recurrence's launch.
pub struct ConvSsm;

impl Rule for ConvSsm {
    fn name(&self) -> &'static str {
        "conv-ssm"
    }

    fn reason(&self) -> &'static str {
        "a kernel that walks along T has the earlier rows at hand"
    }

    fn condition(&self) -> &'static str {
        "the stencil reaches the recurrence through maps only"
    }

    fn scope(&self) -> Scope {
        Scope::Local
    }

    fn applies_to(&self, kind: &OpKind) -> bool {
        matches!(kind, OpKind::Scan { .. })
    }

    fn rewrite(&self, forms: &mut Forms, site: &Site) -> Option<Id> {
        let scan = site.op.origin?;
        let mut members: BTreeSet<OpId> = BTreeSet::new();
        for child in &site.node.children {
            let mut path = vec![];
            stencil_path(forms, *child, &mut path, &mut members);
        }
        if members.is_empty() {
            return None;
        }
        members.insert(scan);
        let launch = Attribute::Launch {
            rule: self.name(),
            members: members.into_iter().collect(),
        };
        let children = site.node.children.clone();
        let from = [site.node.attribute];
        Some(make(forms, self.name(), &from, 0, launch, children))
    }
}

/// Collects the maps between a stencil and a class, the stencil included.
fn stencil_path(forms: &Forms, class: Id, path: &mut Vec<OpId>, found: &mut BTreeSet<OpId>) {
    for (node, op) in operations(forms, class) {
        let Some(origin) = op.origin else { continue };
        if !matches!(op.kind, OpKind::Map { .. }) || path.contains(&origin) {
            continue;
        }
        path.push(origin);
        if op.reads.iter().any(|r| r.delay > 0) {
            found.extend(path.iter().copied());
        } else {
            for child in &node.children {
                stencil_path(forms, *child, path, found);
            }
        }
        path.pop();
    }
}
