//! From the e-graph back to graphs.

use super::Use;
use super::language::{Applied, Attribute, Meta, Model, Node, Read};
use egg::Id;
use fusec_ir::{Access, Def, Graph, Op, OpId, OpKind, ParamId, StateKind, Value, ValueId};
use indexmap::IndexSet;
use std::collections::{BTreeMap, BTreeSet};

/// A form of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Form {
    /// The graph.
    pub graph: Graph,
    /// The rules it uses, each with the values it concerns; empty for the model as written.
    pub rules: Vec<String>,
}

impl Form {
    /// The model as written.
    pub fn written(graph: Graph) -> Form {
        Form {
            graph,
            rules: vec![],
        }
    }
}

/// Names of the values of a model.
fn names(written: &Graph) -> BTreeSet<&str> {
    written.values.iter().map(|v| v.name.as_str()).collect()
}

/// Which rules apply in which blocks.
pub fn uses(written: &Graph, model: &Model) -> BTreeSet<Use> {
    let names = names(written);
    let nodes = model.forms.classes().flat_map(|class| &class.nodes);
    let made = nodes.filter_map(|node| model.forms.analysis.operation(node));
    let sites = made.filter(|op| op.results.iter().any(|r| names.contains(r.name.as_str())));
    sites
        .flat_map(|op| &op.rules)
        .filter_map(|applied| {
            Some(Use {
                rule: applied.rule,
                block: applied.block.clone()?,
            })
        })
        .collect()
}

/// Whether what a rule made may be used.
fn is_enabled(applied: &Applied, enabled: &BTreeSet<Use>) -> bool {
    let of_rule = enabled.iter().filter(|of| of.rule == applied.rule);
    match &applied.block {
        Some(block) => of_rule.into_iter().any(|of| of.block == *block),
        None => of_rule.count() > 0,
    }
}

/// The form that uses the enabled rules wherever they apply; `None` if no such graph exists
/// (a value that a stencil tail needs would be gone).
pub fn extract(written: &Graph, model: &Model, enabled: &BTreeSet<Use>) -> Option<Form> {
    let choice = choose(written, model, enabled)?;
    let order = order(written, model, &choice);
    let graph = emit(written, model, &choice, &order)?;
    let named = names(written);
    let mut sites: BTreeMap<&'static str, IndexSet<&str>> = BTreeMap::new();
    for class in &order {
        let node = choice.get(class)?;
        if let Some(op) = model.forms.analysis.operation(node)
            && let [result] = &op.results[..]
            && named.contains(result.name.as_str())
        {
            for applied in &op.rules {
                sites.entry(applied.rule).or_default().insert(&result.name);
            }
        }
    }
    let rules = sites
        .into_iter()
        .map(|(rule, names)| {
            let names: Vec<&str> = names.into_iter().collect();
            format!("{rule} ({})", names.join(", "))
        })
        .collect();
    Some(Form { graph, rules })
}

/// One e-node for each e-class that is needed.
fn choose(written: &Graph, model: &Model, enabled: &BTreeSet<Use>) -> Option<BTreeMap<Id, Node>> {
    let forms = &model.forms;
    let mut stack: Vec<Id> = written
        .outputs
        .iter()
        .map(|v| forms.find(model.of_value[v.index()]))
        .collect();
    for (op, class) in written.ops.iter().zip(&model.of_op) {
        if !op.tails.is_empty() || matches!(op.kind, OpKind::Scan { .. }) {
            stack.push(forms.find(*class));
        }
    }
    let mut choice = BTreeMap::new();
    while let Some(class) = stack.pop() {
        if choice.contains_key(&class) {
            continue;
        }
        let best = forms[class]
            .nodes
            .iter()
            .filter_map(|node| {
                let rules = match forms.analysis.attribute(node) {
                    Attribute::Leaf(_) | Attribute::Result(..) => 0,
                    Attribute::Op(op) if op.rules.iter().all(|r| is_enabled(r, enabled)) => {
                        op.rules.len()
                    }
                    Attribute::Op(_) => return None,
                };
                // The form that uses most rules; the latest of several.
                Some((rules, node.attribute, node))
            })
            .max()?;
        stack.extend(best.2.children.iter().map(|c| forms.find(*c)));
        choice.insert(class, best.2.clone());
    }
    Some(choice)
}

/// The needed e-classes, operands first, what is evaluated at load before all others, and otherwise
/// as in the model.
fn order(written: &Graph, model: &Model, choice: &BTreeMap<Id, Node>) -> Vec<Id> {
    let forms = &model.forms;
    let mut done = BTreeSet::new();
    let mut order = Vec::new();
    for i in 0..written.ops.len() {
        let mut stack = vec![(forms.find(model.of_op[i]), false)];
        while let Some((class, ready)) = stack.pop() {
            let Some(node) = choice.get(&class) else {
                continue;
            };
            if ready {
                if done.insert(class) {
                    order.push(class);
                }
            } else if !done.contains(&class) {
                stack.push((class, true));
                let children = node.children.iter().rev();
                stack.extend(children.map(|c| (forms.find(*c), false)));
            }
        }
    }
    let constant = |class: &Id| {
        let has_rows = |class: &Id| forms[*class].data.as_ref().is_none_or(|meta| meta.rows);
        // What has no rows but is made of something that has is a sum over all of them.
        let of_rows = |node: &Node| node.children.iter().any(|c| has_rows(&forms.find(*c)));
        !has_rows(class) && !choice.get(class).is_some_and(of_rows)
    };
    let (mut first, rest): (Vec<Id>, Vec<Id>) = order.into_iter().partition(constant);
    first.extend(rest);
    first
}

fn emit(
    written: &Graph,
    model: &Model,
    choice: &BTreeMap<Id, Node>,
    order: &[Id],
) -> Option<Graph> {
    let forms = &model.forms;
    let mut graph = Graph {
        values: vec![],
        ops: vec![],
        ..written.clone()
    };
    let mut value_of: BTreeMap<Id, ValueId> = BTreeMap::new();
    let mut results_of: BTreeMap<Id, Vec<ValueId>> = BTreeMap::new();
    let mut leaf = vec![None; written.values.len()];
    for (i, value) in written.values.iter().enumerate() {
        if !matches!(value.def, Def::Op(..)) {
            let id = ValueId(graph.values.len() as u32);
            graph.values.push(value.clone());
            leaf[i] = Some(id);
            value_of.insert(forms.find(model.of_value[i]), id);
        }
    }
    for class in order {
        let node = choice.get(class)?;
        match forms.analysis.attribute(node) {
            Attribute::Leaf(_) => {}
            Attribute::Result(n, _) => {
                let of = results_of.get(&forms.find(*node.children.first()?))?;
                value_of.insert(*class, *of.get(*n as usize)?);
            }
            Attribute::Op(op) => {
                let id = OpId(graph.ops.len() as u32);
                let inputs = op
                    .reads
                    .iter()
                    .zip(&node.children)
                    .map(|(read, child)| Some(access(read, *value_of.get(&forms.find(*child))?)))
                    .collect::<Option<Vec<_>>>()?;
                let outputs: Vec<ValueId> = op
                    .results
                    .iter()
                    .enumerate()
                    .map(|(n, meta)| {
                        graph.values.push(value(meta, Def::Op(id, n as u32)));
                        ValueId(graph.values.len() as u32 - 1)
                    })
                    .collect();
                if let [one] = outputs[..] {
                    value_of.insert(*class, one);
                }
                results_of.insert(*class, outputs.clone());
                graph.ops.push(Op {
                    name: op.name.clone(),
                    kind: op.kind.clone(),
                    inputs,
                    outputs,
                    tails: op.tails.clone(),
                    layer: op.layer,
                    span: op.span,
                });
            }
        }
    }
    let now = |v: ValueId| {
        value_of
            .get(&forms.find(model.of_value[v.index()]))
            .copied()
    };
    for v in graph.inputs.iter_mut().chain(&mut graph.outputs) {
        *v = now(*v)?;
    }
    for (i, param) in graph.params.iter_mut().enumerate() {
        param.value = leaf[param.value.index()]?;
        graph.values[param.value.index()].def = Def::Param(ParamId(i as u32));
    }
    for state in &mut graph.states {
        if let StateKind::Tail { value, .. } = &mut state.kind {
            *value = now(*value)?;
        }
    }
    Some(graph)
}

fn access(read: &Read, value: ValueId) -> Access {
    Access {
        value,
        delay: read.delay,
        tail: read.tail,
        index: read.index.clone(),
    }
}

fn value(meta: &Meta, def: Def) -> Value {
    Value {
        name: meta.name.clone(),
        rows: meta.rows,
        axes: meta.axes.clone(),
        precision: meta.precision,
        def,
        layer: meta.layer,
    }
}
