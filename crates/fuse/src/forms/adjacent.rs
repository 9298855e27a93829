//! Local rules of one shape: an operation and one that reads what it makes, in one launch.
//!
//! The rules themselves are with their families.

use super::language::{Attribute, Forms, Operation, Read, make};
use super::rule::{Rule, Scope, Site, operations};
use egg::Id;
use fusec_ir::{OpId, OpKind};

/// A rule about an edge.
pub struct Adjacent {
    /// See [`Rule::name`].
    pub name: &'static str,
    /// See [`Rule::reason`].
    pub reason: &'static str,
    /// See [`Rule::condition`].
    pub condition: &'static str,
    /// Which operations read.
    pub reader: fn(&OpKind) -> bool,
    /// Whether the rule holds for what the reader reads, as which operand and how, and its maker.
    pub holds: fn(&Edge<'_>) -> bool,
}

/// An operation, and one of its operands.
pub struct Edge<'a> {
    /// The e-graph.
    pub forms: &'a Forms,
    /// Number of the operand.
    pub operand: usize,
    /// How it is read.
    pub read: &'a Read,
    /// What makes it, and the e-classes that the maker reads.
    pub maker: &'a Operation,
    /// The e-classes of the maker's operands.
    pub behind: &'a [Id],
}

impl Edge<'_> {
    /// Whether an operand of the maker is made by an operation of some kind.
    pub fn is_behind(&self, kind: fn(&OpKind) -> bool) -> bool {
        let mut made = self.behind.iter().map(|id| operations(self.forms, *id));
        made.any(|of| of.iter().any(|(_, op)| kind(&op.kind)))
    }
}

impl Rule for Adjacent {
    fn name(&self) -> &'static str {
        self.name
    }

    fn reason(&self) -> &'static str {
        self.reason
    }

    fn condition(&self) -> &'static str {
        self.condition
    }

    fn scope(&self) -> Scope {
        Scope::Local
    }

    fn applies_to(&self, kind: &OpKind) -> bool {
        (self.reader)(kind)
    }

    fn rewrite(&self, forms: &mut Forms, site: &Site) -> Option<Id> {
        let reader = site.op.origin?;
        let mut pairs: Vec<Vec<OpId>> = Vec::new();
        for (i, child) in site.node.children.iter().enumerate() {
            for (node, maker) in operations(forms, *child) {
                let (Some(origin), Some(read)) = (maker.origin, site.op.reads.get(i)) else {
                    continue;
                };
                let edge = Edge {
                    forms,
                    operand: i,
                    read,
                    maker: &maker,
                    behind: &node.children,
                };
                let mut pair = vec![origin, reader];
                pair.sort_unstable();
                if (self.holds)(&edge) && !pairs.contains(&pair) {
                    pairs.push(pair);
                }
            }
        }
        let mut equal = None;
        for (n, members) in pairs.into_iter().enumerate() {
            let launch = Attribute::Launch {
                rule: self.name,
                members,
            };
            let children = site.node.children.clone();
            let from = [site.node.attribute];
            let id = make(forms, self.name, &from, n as u32, launch, children);
            if let Some(other) = equal.replace(id) {
                forms.union(other, id);
            }
        }
        equal
    }
}
