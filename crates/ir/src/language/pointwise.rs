//! What flows and recurrence steps have in common: where expressions are evaluated, operators,
//! selections. Functions are in [`super::functions`].

use super::constant;
use super::document::Setting;
use super::error::{Fault, Problem, Result, fail};
use super::functions;
use super::scope::Axes;
use super::syntax::{Call, Ident, Node, NodeKind, Operator, Statement};
use super::tensor::Tensor;
use crate::{AxisId, Binary, Combine, IndexExpr, Span, Unary};

/// Where an expression is evaluated.
pub(super) trait Host {
    /// The axis table.
    fn axes(&mut self) -> &mut Axes;
    /// The atoms that an axis name stands for here.
    fn axis(&mut self, name: &Ident) -> Result<Vec<AxisId>>;
    /// A constant, if the name is one.
    fn constant(&self, name: &str, span: Span) -> Result<Option<Setting>>;
    /// A tensor by name.
    fn read(&mut self, name: &str, span: Span) -> Result<Tensor>;
    /// Cuts a reduction out as an operation of its own.
    fn reduce(
        &mut self,
        of: Tensor,
        combine: Combine,
        axes: Vec<AxisId>,
        span: Span,
    ) -> Result<Tensor>;
    /// `a @ b`.
    fn contract(&mut self, a: (Tensor, &Node), b: (Tensor, &Node), span: Span) -> Result<Tensor>;
    /// Keeps a part of an expression as a value of its own, in f32.
    fn part(&mut self, tensor: Tensor, span: Span) -> Result<Tensor>;
    /// A call of something that only this host knows.
    fn apply(&mut self, call: &Call, span: Span) -> Result<Vec<Tensor>>;
    /// Whether `a * b` may be an outer product.
    fn outer_products(&self) -> bool;
    /// Enters one level of evaluation; refuses beyond the limit.
    fn enter(&mut self, span: Span) -> Result<()>;
    /// Leaves a level.
    fn leave(&mut self);
    /// Hears what a term of the text was evaluated to.
    fn note(&mut self, _of: &Tensor, _span: Span) {}
}

/// Most function applications of one expression; longer ones are computed in parts. What
/// recurses over expressions, and files that nest like them, rely on it.
const MAX_APPLICATIONS: usize = 48;

/// `a op b`, by parts where it would be too long.
pub(super) fn joined(
    host: &mut dyn Host,
    op: Binary,
    mut a: Tensor,
    mut b: Tensor,
    span: Span,
) -> Result<Tensor> {
    loop {
        let (x, y) = (a.expr.op_count(), b.expr.op_count());
        if x + y < MAX_APPLICATIONS {
            return Ok(Tensor::binary(op, a, b));
        }
        // The longer one first: without it the other may fit.
        match x >= y {
            true => a = host.part(a, span)?,
            false => b = host.part(b, span)?,
        }
    }
}

/// `f(a)`, by parts where it would be too long.
pub(super) fn applied(host: &mut dyn Host, f: Unary, a: Tensor, span: Span) -> Result<Tensor> {
    let a = match a.expr.op_count() >= MAX_APPLICATIONS {
        true => host.part(a, span)?,
        false => a,
    };
    Ok(a.unary(f))
}

/// The value of an expression that stands for one tensor.
pub(super) fn tensor(host: &mut dyn Host, node: &Node) -> Result<Tensor> {
    let mut all = tensors(host, node)?;
    match (all.pop(), all.is_empty()) {
        (Some(one), true) => Ok(one),
        (_, _) => fail(
            Problem::Other {
                what: "this returns several tensors, but one is needed".into(),
                advice: "name them first: `a, b = f(...)`".into(),
            },
            node.span,
        ),
    }
}

/// The statements of a condition that run.
pub(super) fn branch<'s>(
    host: &dyn Host,
    condition: &Node,
    then: &'s [Statement],
    otherwise: &'s [Statement],
) -> Result<&'s [Statement]> {
    let lookup = |n: &str, s: Span| host.constant(n, s);
    let holds = constant::truth(condition, "the condition", &lookup)?;
    Ok(if holds { then } else { otherwise })
}

/// What a value of `return` hands on: `return f(x)`, where it is `alone`, everything that f returns.
pub(super) fn returned(host: &mut dyn Host, value: &Node, alone: bool) -> Result<Vec<Tensor>> {
    let all = tensors(host, value)?;
    if all.len() > 1 && !alone {
        tensor(host, value)?;
    }
    Ok(all)
}

/// The values of an expression; several only for the call of a block or recurrence.
pub(super) fn tensors(host: &mut dyn Host, node: &Node) -> Result<Vec<Tensor>> {
    host.enter(node.span)?;
    let out = evaluate(host, node);
    host.leave();
    if let Ok([one]) = out.as_deref() {
        host.note(one, node.span);
    }
    out
}

fn evaluate(host: &mut dyn Host, node: &Node) -> Result<Vec<Tensor>> {
    let one = match &node.kind {
        NodeKind::Number(n) => finite(*n, node.span)?,
        NodeKind::Text(_) => return not_a_tensor("a string", node.span),
        NodeKind::Name(name) => host.read(name, node.span)?,
        NodeKind::Negate(a) => {
            let a = tensor(host, a)?;
            applied(host, Unary::Neg, a, node.span)?
        }
        NodeKind::Not(_) => return not_a_tensor("a condition", node.span),
        NodeKind::Binary(..) => chain(host, node)?,
        NodeKind::Call(call) => return functions::apply(host, call, node.span),
        NodeKind::Select(of, picks) => {
            let mut out = tensor(host, of)?;
            for (axis, index) in picks {
                out = select(host, out, of, axis, index)?;
            }
            out
        }
    };
    Ok(vec![one])
}

/// Operators one after the other, from left to right.
fn chain(host: &mut dyn Host, node: &Node) -> Result<Tensor> {
    let (mut left_node, links) = node.chain();
    let mut left = tensor(host, left_node)?;
    for link in links {
        let op = match link.operator {
            Operator::Add => Some(Binary::Add),
            Operator::Sub => Some(Binary::Sub),
            Operator::Mul => Some(Binary::Mul),
            Operator::Div => Some(Binary::Div),
            Operator::Power => Some(Binary::Pow),
            Operator::Contract => None,
            _ => return not_a_tensor("a condition", link.whole.span),
        };
        let right = tensor(host, link.right)?;
        if link.operator == Operator::Power && right.as_number() == Some(2.0) {
            left = applied(host, Unary::Square, left, link.whole.span)?;
            host.note(&left, link.whole.span);
            left_node = link.whole;
            continue;
        }
        let (a, b, span) = ((left, left_node), (right, link.right), link.whole.span);
        left = match op {
            Some(op) => combine(host, op, a, b, span)?,
            None => host.contract(a, b, span)?,
        };
        host.note(&left, span);
        left_node = link.whole;
    }
    Ok(left)
}

/// A constant as a tensor; infinities and NaN are refused.
pub(super) fn finite(n: f64, span: Span) -> Result<Tensor> {
    if n.is_finite() {
        Ok(Tensor::number(n))
    } else {
        fail(
            Problem::Arithmetic {
                what: format!("the constant {n} cannot be computed with"),
                advice: "use a finite number".into(),
            },
            span,
        )
    }
}

fn not_a_tensor<T>(what: &str, span: Span) -> Result<T> {
    fail(
        Problem::Other {
            what: format!("{what} cannot be computed with"),
            advice: "conditions stand in `if` and in where(c, a, b), strings are compared in `if`"
                .into(),
        },
        span,
    )
}

/// What to call an operand in a message.
pub(super) fn called(node: &Node, otherwise: &str) -> String {
    match &node.kind {
        NodeKind::Name(name) => format!("`{name}`"),
        NodeKind::Call(call) => format!("`{}(...)`", call.function.text),
        NodeKind::Select(of, _) => called(of, otherwise),
        _ => otherwise.to_owned(),
    }
}

/// `a op b`, broadcast by name. The axes of one operand have to cover the other's, except
/// for a product where the host allows outer products.
pub(super) fn combine(
    host: &mut dyn Host,
    op: Binary,
    a: (Tensor, &Node),
    b: (Tensor, &Node),
    span: Span,
) -> Result<Tensor> {
    let covers = |x: &Tensor, y: &Tensor| y.axes.iter().all(|axis| x.axes.contains(axis));
    let outer = op == Binary::Mul && host.outer_products();
    if !(covers(&a.0, &b.0) || covers(&b.0, &a.0) || outer) {
        let axes = host.axes();
        let (left, right) = (axes.describe(&a.0.axes), axes.describe(&b.0.axes));
        let lacks = |x: &Tensor, y: &Tensor| {
            let missing: Vec<AxisId> = y
                .axes
                .iter()
                .filter(|axis| !x.axes.contains(axis))
                .copied()
                .collect();
            axes.list(&missing).join(", ")
        };
        let why = format!(
            "the left has no {}, the right has no {}",
            lacks(&a.0, &b.0),
            lacks(&b.0, &a.0)
        );
        let advice = match op {
            Binary::Mul => {
                "if every pair is meant, write outer(a, b); else contract with `@`, \
                            reduce with sum(x, AXIS), or rename(x, A -> B)"
            }
            _ => "contract with `@`, reduce with sum(x, AXIS), or rename(x, A -> B)",
        };
        return Err(Fault::new(
            Problem::ShapeMismatch {
                left: format!("{}{left}", called(a.1, "the left side ")),
                right: format!("{}{right}", called(b.1, "the right side ")),
                why,
                advice: advice.into(),
            },
            span,
        )
        .also(a.1.span, left)
        .also(b.1.span, right));
    }
    let out = joined(host, op, a.0, b.0, span)?;
    match out.as_number() {
        Some(n) => finite(n, span),
        None => Ok(out),
    }
}

fn select(
    host: &mut dyn Host,
    of: Tensor,
    of_node: &Node,
    axis: &Ident,
    index: &Node,
) -> Result<Tensor> {
    let atoms = host.axis(axis)?;
    let [atom] = atoms.as_slice() else {
        return fail(
            Problem::Other {
                what: format!("axis `{}` is a product", axis.text),
                advice: "select along its factors".into(),
            },
            axis.span,
        );
    };
    let atom = *atom;
    need_axis(host, &of, of_node, atom, axis)?;
    let at = {
        let lookup = |n: &str, s: Span| host.constant(n, s);
        constant::integer(index, "the selected index", &lookup)?
    };
    let size = host.axes().size(atom);
    if at < 0 || at as u64 >= size as u64 {
        return fail(
            Problem::Other {
                what: format!("index {at} is outside axis `{}` of size {size}", axis.text),
                advice: format!("indices run from 0 to {}", size - 1),
            },
            index.span,
        );
    }
    let axes = of.axes.iter().filter(|a| **a != atom).copied().collect();
    Ok(of.reindex(axes, &|a| {
        if a == atom {
            IndexExpr::at(at)
        } else {
            IndexExpr::axis(a)
        }
    }))
}

pub(super) fn need_axis(
    host: &mut dyn Host,
    of: &Tensor,
    of_node: &Node,
    atom: AxisId,
    name: &Ident,
) -> Result<()> {
    if of.axes.contains(&atom) {
        return Ok(());
    }
    let axes = host.axes();
    let described = axes.describe(&of.axes);
    Err(Fault::new(
        Problem::NoSuchAxis {
            tensor: format!("{}{described}", called(of_node, "this ")),
            axis: name.text.clone(),
            known: axes.list(&of.axes),
        },
        name.span,
    )
    .also(of_node.span, described)
    .also(name.span, "not one of its axes"))
}
