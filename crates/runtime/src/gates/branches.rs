//! Where results of different recurrences meet in a graph: the branches of a hybrid.
//!
//! Nothing is known by name. An operation mixes tokens if it is a recurrence or attention; a value is of
//! the mixers of its layer that it depends on. Branches are operands of one operation that are of
//! different mixers. A sum that the layer's input is a term of is the residual stream, to which branches are
//! added, and is none itself. Where one mixer reads another's result, the two are branches if both end in that
//! stream; a gate of the second, or a skip around it, is none.

use fusec_ir::{Binary, Expr, Graph, Op, OpId, OpKind, Unary, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// An operation in which branches meet.
#[derive(Clone, Debug, PartialEq)]
pub struct Join {
    /// The operation.
    pub op: OpId,
    /// The branches, in the order of the operands.
    pub branches: Vec<Branch>,
    /// Whether the operation adds them up, so that each has a term of its own.
    pub is_sum: bool,
}

/// What one side brings to a join.
#[derive(Clone, Debug, PartialEq)]
pub struct Branch {
    /// The operands that are of the same mixers, by position.
    pub operands: Vec<usize>,
    /// Name of the first of them.
    pub name: String,
    /// The mixers.
    pub mixers: BTreeSet<OpId>,
    /// What the operation adds of them, if it is a sum.
    pub term: Option<Expr>,
}

/// Finds all joins, in the order of the operations.
pub fn joins(graph: &Graph) -> Vec<Join> {
    let mut mixers: BTreeMap<ValueId, BTreeSet<OpId>> = BTreeMap::new();
    // Values that carry the layer's input on.
    let mut residual: BTreeSet<ValueId> = BTreeSet::new();
    let mut out = Vec::new();
    for (at, op) in graph.ops.iter().enumerate() {
        let id = OpId(at as u32);
        if graph.is_load_time(id) {
            continue;
        }
        let within = |value: ValueId| {
            let maker = graph.producer(value);
            maker.is_some_and(|maker| graph.op(maker).layer == op.layer)
        };
        let of = |value: ValueId| match within(value) {
            true => mixers.get(&value).cloned().unwrap_or_default(),
            false => BTreeSet::new(),
        };
        let from_outside = |value: ValueId| graph.value(value).rows && !within(value);
        let carries = |at: usize| {
            let value = op.inputs.get(at).map(|access| access.value);
            value.is_some_and(|value| {
                from_outside(value) || within(value) && residual.contains(&value)
            })
        };
        let carried = match &op.kind {
            OpKind::Map { expr } => {
                (addends(expr).iter()).any(|term| matches!(term, Expr::Input(at) if carries(*at)))
            }
            _ => false,
        };
        let operands: Vec<BTreeSet<OpId>> = (op.inputs.iter())
            .map(
                |access| match within(access.value) && residual.contains(&access.value) {
                    true => BTreeSet::new(),
                    false => of(access.value),
                },
            )
            .collect();
        out.extend(join(graph, id, op, &operands, carried));
        let mut own: BTreeSet<OpId> = op.inputs.iter().flat_map(|a| of(a.value)).collect();
        if matches!(op.kind, OpKind::Scan { .. } | OpKind::Attend { .. }) {
            own.insert(id);
        }
        for value in &op.outputs {
            mixers.insert(*value, own.clone());
            if carried {
                residual.insert(*value);
            }
        }
    }
    out
}

/// The join that an operation is, given the mixers of its operands; `into_residual` if it adds them to
/// what the layer was given.
fn join(
    graph: &Graph,
    id: OpId,
    op: &Op,
    operands: &[BTreeSet<OpId>],
    into_residual: bool,
) -> Option<Join> {
    let mut kinds: Vec<&BTreeSet<OpId>> = Vec::new();
    for set in operands.iter().filter(|set| !set.is_empty()) {
        if !kinds.contains(&set) {
            kinds.push(set);
        }
    }
    // What depends on two of the others, such as a gate between them, is no branch.
    let others = |set: &BTreeSet<OpId>| {
        let parts = kinds
            .iter()
            .filter(|part| **part != set && part.is_subset(set));
        parts.count()
    };
    let branches: Vec<&BTreeSet<OpId>> = (kinds.iter().copied())
        .filter(|set| others(set) < 2)
        .collect();
    if branches.len() < 2 {
        return None;
    }
    // One mixer behind another: what goes past the second is its gate or its skip, unless both end in the
    // residual stream.
    let behind = |set: &BTreeSet<OpId>| {
        let mut others = branches.iter().filter(|other| **other != set);
        others.any(|other| other.is_subset(set))
    };
    if !into_residual && branches.iter().any(|set| behind(set)) {
        return None;
    }
    let addends = match &op.kind {
        OpKind::Map { expr } => addends(expr),
        _ => vec![],
    };
    let branches: Vec<Branch> = branches
        .iter()
        .map(|set| {
            let own = |at: usize| operands.get(at) == Some(*set);
            let foreign = |at: usize| {
                let of = operands.get(at);
                branches
                    .iter()
                    .any(|other| other != set && of == Some(*other))
            };
            let at: Vec<usize> = (0..operands.len()).filter(|at| own(*at)).collect();
            let terms = addends.iter().filter(|term| {
                let reads = inputs(term);
                reads.iter().any(|at| own(*at)) && !reads.iter().any(|at| foreign(*at))
            });
            let first = at.first().and_then(|at| op.inputs.get(*at));
            Branch {
                name: first.map_or_else(String::new, |a| graph.value(a.value).name.clone()),
                operands: at,
                mixers: (*set).clone(),
                term: terms
                    .cloned()
                    .reduce(|a, b| Expr::Binary(Binary::Add, Box::new(a), Box::new(b))),
            }
        })
        .collect();
    Some(Join {
        op: id,
        is_sum: branches.iter().all(|branch| branch.term.is_some()),
        branches,
    })
}

/// The terms of a sum.
fn addends(expr: &Expr) -> Vec<Expr> {
    let negated = |terms: Vec<Expr>| -> Vec<Expr> {
        let terms = terms.into_iter();
        terms
            .map(|term| Expr::Unary(Unary::Neg, Box::new(term)))
            .collect()
    };
    match expr {
        Expr::Binary(Binary::Add, a, b) => [addends(a), addends(b)].concat(),
        Expr::Binary(Binary::Sub, a, b) => [addends(a), negated(addends(b))].concat(),
        Expr::Unary(Unary::Neg, a) => negated(addends(a)),
        term => vec![term.clone()],
    }
}

/// The operands that an expression reads.
fn inputs(expr: &Expr) -> BTreeSet<usize> {
    match expr {
        Expr::Input(at) => BTreeSet::from([*at]),
        Expr::Const(_) | Expr::Index(_) | Expr::Position => BTreeSet::new(),
        Expr::Unary(_, a) => inputs(a),
        Expr::Binary(_, a, b) => inputs(a).union(&inputs(b)).copied().collect(),
    }
}
