//! What a rule is, and how it becomes a rewrite of the e-graph.

use super::Aim;
use super::language::{Applied, Attribute, Facts, Forms, Meta, Node, Operation, Read, make};
use egg::{
    Applier, Id, Language, PatternAst, Rewrite, SearchMatches, Searcher, Subst, Symbol, Var,
};
use fusec_ir::{OpKind, Precision};

/// A named equality.
pub trait Rule: Send + Sync {
    /// Name in plans and explanations.
    fn name(&self) -> &'static str;
    /// Why one would want it, in one line.
    fn reason(&self) -> &'static str;
    /// When it holds, in one line.
    fn condition(&self) -> &'static str;
    /// Whether it may apply to an operation of this kind.
    fn applies_to(&self, kind: &OpKind) -> bool;
    /// Adds the other form of `site`, and returns the e-class that equals the site's.
    fn rewrite(&self, forms: &mut Forms, site: &Site) -> Option<Id>;
}

/// An e-node that holds an operation.
pub struct Site {
    /// Its e-class.
    pub class: Id,
    /// The e-node.
    pub node: Node,
    /// The operation.
    pub op: Operation,
    /// What the plan is for.
    pub aim: Aim,
}

impl Site {
    /// The operation e-nodes of the e-class of operand `i`, in a fixed order.
    pub fn operand(&self, forms: &Forms, i: usize) -> Vec<(Node, Operation)> {
        let Some(child) = self.node.children.get(i) else {
            return vec![];
        };
        operations(forms, *child)
    }
}

/// The operations in an e-class, in the order in which they were made.
pub fn operations(forms: &Forms, class: Id) -> Vec<(Node, Operation)> {
    let mut found: Vec<(Node, Operation)> = forms[class]
        .nodes
        .iter()
        .filter_map(|node| {
            let op = forms.analysis.operation(node)?;
            Some((node.clone(), op.clone()))
        })
        .collect();
    found.sort_by_key(|(node, _)| node.attribute);
    found
}

/// What a rule makes from given e-nodes, part by part.
pub struct Maker<'a> {
    forms: &'a mut Forms,
    rule: &'static str,
    from: Vec<u32>,
    parts: u32,
    /// Rules whose results the e-nodes are.
    before: Vec<Applied>,
    /// The block of the site.
    block: String,
    layer: Option<u32>,
    span: Option<fusec_ir::Span>,
}

impl<'a> Maker<'a> {
    /// Starts from the site and the e-nodes it was matched with.
    pub fn new(
        forms: &'a mut Forms,
        rule: &'static str,
        site: &Site,
        with: &[(&Node, &Operation)],
    ) -> Maker<'a> {
        let mut before = site.op.rules.clone();
        let mut from = vec![site.node.attribute];
        for (node, op) in with {
            from.push(node.attribute);
            before.extend(op.rules.iter().cloned());
        }
        Maker {
            forms,
            rule,
            from,
            parts: 0,
            before,
            block: block_of(&site.op.name),
            layer: site.op.layer,
            span: site.op.span,
        }
    }

    /// Adds an operation with one result.
    pub fn op(&mut self, kind: OpKind, operands: Vec<(Id, Read)>, result: Meta) -> Id {
        let block = Some(self.block.clone());
        self.add(block, kind, operands, result)
    }

    fn add(
        &mut self,
        block: Option<String>,
        kind: OpKind,
        operands: Vec<(Id, Read)>,
        result: Meta,
    ) -> Id {
        let rule = self.rule;
        let mut rules = self.before.clone();
        rules.push(Applied { rule, block });
        rules.sort_unstable();
        rules.dedup();
        let (children, reads) = operands.into_iter().unzip();
        let operation = Operation {
            name: result.name.clone(),
            kind,
            reads,
            results: vec![result],
            tails: vec![],
            layer: self.layer,
            span: self.span,
            rules,
        };
        self.parts += 1;
        make(
            self.forms,
            self.rule,
            &self.from,
            self.parts,
            Attribute::Op(operation),
            children,
        )
    }

    /// Adds what depends on the matched e-nodes `of` alone, so that several sites share it.
    /// `part` tells apart what one rule makes of them.
    pub fn shared(
        &mut self,
        of: &Node,
        part: u32,
        kind: OpKind,
        operands: Vec<(Id, Read)>,
        result: Meta,
    ) -> Id {
        let parts = std::mem::replace(&mut self.parts, part);
        let from = std::mem::replace(&mut self.from, vec![of.attribute]);
        let id = self.add(None, kind, operands, result);
        self.parts = parts;
        self.from = from;
        id
    }

    /// A value of the site's layer.
    pub fn meta(
        &self,
        name: String,
        rows: bool,
        axes: Vec<fusec_ir::AxisId>,
        precision: Precision,
    ) -> Meta {
        Meta {
            name,
            rows,
            axes,
            precision,
            layer: self.layer,
        }
    }
}

/// The block of the model that a value's name is of: all but its last part, without the numbers of
/// parts of an expression.
pub fn block_of(name: &str) -> String {
    let is_number = |part: &&str| part.bytes().all(|b| b.is_ascii_digit());
    let mut parts: Vec<&str> = name.split('.').collect();
    while parts.len() > 1 && parts.last().is_some_and(is_number) {
        parts.pop();
    }
    parts.pop();
    parts.join(".")
}

/// The rewrite of a rule.
pub fn rewrite(rule: &'static dyn Rule, aim: Aim) -> Result<Rewrite<Node, Facts>, String> {
    Rewrite::new(rule.name(), Sites(rule), Other(rule, aim))
}

/// Finds the e-classes with an operation that a rule may apply to.
struct Sites(&'static dyn Rule);

impl Searcher<Node, Facts> for Sites {
    fn search_eclass_with_limit(
        &self,
        forms: &Forms,
        class: Id,
        limit: usize,
    ) -> Option<SearchMatches<'_, Node>> {
        let hit = limit > 0
            && forms[class].nodes.iter().any(|node| {
                let op = forms.analysis.operation(node);
                op.is_some_and(|op| self.0.applies_to(&op.kind))
            });
        hit.then(|| SearchMatches {
            eclass: class,
            substs: vec![Subst::default()],
            ast: None,
        })
    }

    fn vars(&self) -> Vec<Var> {
        vec![]
    }
}

/// Adds the other forms of all operations of an e-class.
struct Other(&'static dyn Rule, Aim);

impl Applier<Node, Facts> for Other {
    fn apply_one(
        &self,
        forms: &mut Forms,
        class: Id,
        _: &Subst,
        _: Option<&PatternAst<Node>>,
        _: Symbol,
    ) -> Vec<Id> {
        let mut changed = vec![];
        for (node, op) in operations(forms, class) {
            if !self.0.applies_to(&op.kind) || !node.all(|child| forms[child].data.is_some()) {
                continue;
            }
            let site = Site {
                class,
                node,
                op,
                aim: self.1,
            };
            if let Some(equal) = self.0.rewrite(forms, &site)
                && forms.union(class, equal)
            {
                changed.push(class);
            }
        }
        changed
    }
}
