//! The egg language: one e-node per operation of the graph.
//!
//! An e-node is an interned attribute (what the operation does, how it reads its operands,
//! what its result is) and the e-classes of its operands. Two e-nodes are the same only if
//! their attributes are the same entry, so nothing is merged that no rule merged.

use egg::{Analysis, DidMerge, EGraph, Id, Language};
use fusec_ir::{
    Access, Axis, AxisId, Def, Graph, IndexExpr, OpKind, Precision, Span, StateId, ValueId,
};
use std::collections::BTreeMap;

/// The e-graph of a model.
pub type Forms = EGraph<Node, Facts>;

/// An e-node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// Entry of [`Facts::attributes`].
    pub attribute: u32,
    /// Operands.
    pub children: Vec<Id>,
}

impl Language for Node {
    type Discriminant = u32;

    fn discriminant(&self) -> u32 {
        self.attribute
    }

    fn matches(&self, other: &Self) -> bool {
        self.attribute == other.attribute && self.children.len() == other.children.len()
    }

    fn children(&self) -> &[Id] {
        &self.children
    }

    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.children
    }
}

/// What an e-node is, beside its operands.
#[derive(Clone, Debug)]
pub enum Attribute {
    /// An input or a parameter.
    Leaf(ValueId),
    /// Result number `.0` of the operation below it, which has several.
    Result(u32, Meta),
    /// An operation.
    Op(Operation),
}

/// An operation without its operands.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Its name.
    pub name: String,
    /// What it computes.
    pub kind: OpKind,
    /// How it reads its operands; parallel to the e-node's children.
    pub reads: Vec<Read>,
    /// Its results.
    pub results: Vec<Meta>,
    /// Stencil tails it keeps.
    pub tails: Vec<StateId>,
    /// Its layer.
    pub layer: Option<u32>,
    /// Its place in the model text.
    pub span: Option<Span>,
    /// What made it; empty for an operation of the model.
    pub rules: Vec<Applied>,
}

/// A rule, applied in one block of the model.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Applied {
    /// Its name.
    pub rule: &'static str,
    /// The block; `None` for what the rule makes for all blocks together.
    pub block: Option<String>,
}

/// How an operand is read; [`Access`] without the operand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Row `t - delay`.
    pub delay: i32,
    /// Rows before the first.
    pub tail: Option<StateId>,
    /// Indices in the operation's variables.
    pub index: Vec<IndexExpr>,
}

/// A value without its producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Its name.
    pub name: String,
    /// Whether it has batch and time.
    pub rows: bool,
    /// Inner axes.
    pub axes: Vec<AxisId>,
    /// Storage.
    pub precision: Precision,
    /// Its layer.
    pub layer: Option<u32>,
}

impl Read {
    /// Along the operand's own axes.
    pub fn plain(axes: &[AxisId]) -> Read {
        Read {
            delay: 0,
            tail: None,
            index: axes.iter().map(|a| IndexExpr::axis(*a)).collect(),
        }
    }

    /// Whether it is the current row along `axes`.
    pub fn is_plain(&self, axes: &[AxisId]) -> bool {
        *self == Read::plain(axes)
    }

    /// All index variables.
    pub fn variables(&self) -> impl Iterator<Item = AxisId> {
        self.index
            .iter()
            .flat_map(|i| i.terms.iter().map(|term| term.0))
    }
}

/// What is known of an e-class: its value, unless it is an operation with several results.
pub type Data = Option<Meta>;

/// The interned attributes, and the axes they speak of.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    attributes: Vec<Attribute>,
    /// What rules made, so that applying a rule twice makes nothing new.
    made: BTreeMap<(&'static str, Vec<u32>, u32), u32>,
    axes: Vec<Axis>,
}

impl Facts {
    /// An attribute.
    pub fn attribute(&self, node: &Node) -> &Attribute {
        &self.attributes[node.attribute as usize]
    }

    /// The operation of an e-node, if it is one.
    pub fn operation(&self, node: &Node) -> Option<&Operation> {
        match self.attribute(node) {
            Attribute::Op(op) => Some(op),
            _ => None,
        }
    }

    /// Elements over some axes.
    pub fn elements(&self, axes: &[AxisId]) -> usize {
        axes.iter().map(|a| self.axes[a.0 as usize].size).product()
    }

    fn intern(&mut self, attribute: Attribute) -> u32 {
        self.attributes.push(attribute);
        self.attributes.len() as u32 - 1
    }
}

impl Analysis<Node> for Facts {
    type Data = Data;

    fn make(egraph: &mut Forms, node: &Node, _: Id) -> Data {
        match egraph.analysis.attribute(node) {
            // Leaves are added with their value's data by `build`.
            Attribute::Leaf(_) => None,
            Attribute::Result(_, meta) => Some(meta.clone()),
            Attribute::Op(op) => match &op.results[..] {
                [one] => Some(one.clone()),
                _ => None,
            },
        }
    }

    /// The first of two united values keeps its name; rules give theirs the same axes.
    fn merge(&mut self, a: &mut Data, b: Data) -> DidMerge {
        match (&a, b) {
            (Some(of), b) => DidMerge(false, b.as_ref() != Some(of)),
            (None, Some(b)) => {
                *a = Some(b);
                DidMerge(true, false)
            }
            (None, None) => DidMerge(false, false),
        }
    }
}

/// An e-graph and where the values of the model are in it.
pub struct Model {
    /// The e-graph.
    pub forms: Forms,
    /// E-class of each value.
    pub of_value: Vec<Id>,
    /// E-class of each operation.
    pub of_op: Vec<Id>,
}

/// The e-graph that holds a model as it is written.
pub fn build(graph: &Graph) -> Model {
    let mut forms = Forms::new(Facts {
        axes: graph.axes.clone(),
        ..Facts::default()
    });
    let mut of_value = vec![Id::from(0); graph.values.len()];
    let mut of_op = Vec::with_capacity(graph.ops.len());
    for (i, value) in graph.values.iter().enumerate() {
        if !matches!(value.def, Def::Op(..)) {
            let leaf = Attribute::Leaf(ValueId(i as u32));
            let id = add(&mut forms, leaf, vec![]);
            forms.set_analysis_data(id, Some(meta(graph, ValueId(i as u32))));
            of_value[i] = id;
        }
    }
    for op in &graph.ops {
        let operation = Operation {
            name: op.name.clone(),
            kind: op.kind.clone(),
            reads: op.inputs.iter().map(read).collect(),
            results: op.outputs.iter().map(|v| meta(graph, *v)).collect(),
            tails: op.tails.clone(),
            layer: op.layer,
            span: op.span,
            rules: vec![],
        };
        let children = op
            .inputs
            .iter()
            .map(|a| of_value[a.value.index()])
            .collect();
        let id = add(&mut forms, Attribute::Op(operation), children);
        of_op.push(id);
        for (n, v) in op.outputs.iter().enumerate() {
            of_value[v.index()] = if op.outputs.len() == 1 {
                id
            } else {
                let result = Attribute::Result(n as u32, meta(graph, *v));
                add(&mut forms, result, vec![id])
            };
        }
    }
    Model {
        forms,
        of_value,
        of_op,
    }
}

fn read(access: &Access) -> Read {
    Read {
        delay: access.delay,
        tail: access.tail,
        index: access.index.clone(),
    }
}

fn meta(graph: &Graph, id: ValueId) -> Meta {
    let value = graph.value(id);
    Meta {
        name: value.name.clone(),
        rows: value.rows,
        axes: value.axes.clone(),
        precision: value.precision,
        layer: value.layer,
    }
}

fn add(forms: &mut Forms, attribute: Attribute, children: Vec<Id>) -> Id {
    let attribute = forms.analysis.intern(attribute);
    forms.add(Node {
        attribute,
        children,
    })
}

/// Adds what a rule makes from the e-nodes with attributes `from`; the same again for the
/// same `part`.
pub fn make(
    forms: &mut Forms,
    rule: &'static str,
    from: &[u32],
    part: u32,
    attribute: Attribute,
    children: Vec<Id>,
) -> Id {
    let key = (rule, from.to_vec(), part);
    let attribute = match forms.analysis.made.get(&key) {
        Some(known) => *known,
        None => {
            let new = forms.analysis.intern(attribute);
            forms.analysis.made.insert(key, new);
            new
        }
    };
    forms.add(Node {
        attribute,
        children,
    })
}
