//! The functions that flows and recurrence steps have in common.
//!
//! One function of this file for each of the language or for a few alike, so that what
//! recurses through them takes little of the stack.

use super::arguments::{Args, axis_name};
use super::constant;
use super::document::Setting;
use super::error::{Problem, Result, fail};
use super::pointwise::{Host, applied, called, combine, finite, joined, need_axis, tensor};
use super::syntax::{Call, Node, NodeKind, Operator};
use super::tensor::Tensor;
use crate::{AxisId, Binary, Combine, Expr, IndexExpr, Span, Unary};

/// Functions of one number in the language.
pub(super) const UNARY: [(&str, Unary); 17] = [
    ("exp", Unary::Exp),
    ("log", Unary::Log),
    ("sqrt", Unary::Sqrt),
    ("rsqrt", Unary::Rsqrt),
    ("recip", Unary::Recip),
    ("tanh", Unary::Tanh),
    ("sigmoid", Unary::Sigmoid),
    ("silu", Unary::Silu),
    ("softplus", Unary::Softplus),
    ("logsigmoid", Unary::LogSigmoid),
    ("relu", Unary::Relu),
    ("square", Unary::Square),
    ("abs", Unary::Abs),
    ("sin", Unary::Sin),
    ("cos", Unary::Cos),
    ("erf", Unary::Erf),
    ("gelu", Unary::Gelu),
];

/// Names of the functions known everywhere.
pub(super) const COMMON: [&str; 11] = [
    "min", "max", "pow", "clamp", "where", "sum", "mean", "max_over", "index", "rename", "reverse",
];

/// The value of a call: of a function known everywhere, or of one that only the host knows.
pub(super) fn apply(host: &mut dyn Host, call: &Call, span: Span) -> Result<Vec<Tensor>> {
    let name = call.function.text.as_str();
    if let Some((_, f)) = UNARY.iter().find(|(n, _)| *n == name) {
        return Ok(vec![unary(host, call, *f, span)?]);
    }
    let one = match name {
        "min" | "max" | "pow" => pair(host, call, span)?,
        "clamp" => clamp(host, call, span)?,
        "where" => choice(host, call, span)?,
        "sum" | "mean" | "max_over" => reduction(host, call, span)?,
        "index" => index(host, call, span)?,
        "rename" => renamed(host, call, span)?,
        "reverse" => reversed(host, call, span)?,
        _ => return host.apply(call, span),
    };
    Ok(vec![one])
}

/// A function of every element.
fn unary(host: &mut dyn Host, call: &Call, f: Unary, span: Span) -> Result<Tensor> {
    let args = Args::new(call, "one tensor, f(x)", &[], span)?;
    args.at_most(1)?;
    let of = tensor(host, args.at(0, "a tensor")?)?;
    let out = applied(host, f, of, span)?;
    match out.as_number() {
        Some(n) => finite(n, span),
        None => Ok(out),
    }
}

/// `min`, `max`, `pow`.
fn pair(host: &mut dyn Host, call: &Call, span: Span) -> Result<Tensor> {
    let name = call.function.text.as_str();
    let args = Args::new(call, "two tensors, f(a, b)", &[], span)?;
    args.at_most(2)?;
    let (a, b) = (args.at(0, "two tensors")?, args.at(1, "a second tensor")?);
    let op = match name {
        "min" => Binary::Min,
        "max" => Binary::Max,
        _ => Binary::Pow,
    };
    let bound = |host: &mut dyn Host, node: &Node| bound_or_tensor(host, node, op);
    let x = bound(host, a)?;
    let y = bound(host, b)?;
    combine(host, op, (x, a), (y, b), span)
}

/// `clamp(x, low, high)`.
fn clamp(host: &mut dyn Host, call: &Call, span: Span) -> Result<Tensor> {
    let args = Args::new(
        call,
        "a tensor and its bounds, clamp(x, LOW, HIGH)",
        &[],
        span,
    )?;
    args.at_most(3)?;
    let node = args.at(0, "a tensor")?;
    let x = tensor(host, node)?;
    let low = bound_or_tensor(host, args.at(1, "bounds")?, Binary::Max)?;
    let high = bound_or_tensor(host, args.at(2, "an upper bound")?, Binary::Min)?;
    let x = combine(
        host,
        Binary::Max,
        (x, node),
        (low, args.positional[1]),
        span,
    )?;
    combine(
        host,
        Binary::Min,
        (x, node),
        (high, args.positional[2]),
        span,
    )
}

/// `where(condition, x, y)`.
fn choice(host: &mut dyn Host, call: &Call, span: Span) -> Result<Tensor> {
    let usage = "a condition and two tensors, where(a < b, x, y)";
    let args = Args::new(call, usage, &[], span)?;
    args.at_most(3)?;
    let asked = args.at(0, "a condition and two tensors")?;
    let (yes, no) = (args.at(1, "two tensors")?, args.at(2, "a second tensor")?);
    let holds = condition(host, asked)?;
    let x = tensor(host, yes)?;
    let y = tensor(host, no)?;
    if let Some(holds) = holds.as_number() {
        return Ok(if holds != 0.0 { x } else { y });
    }
    let fails = negated(host, holds.clone(), span)?;
    let x = combine(host, Binary::When, (holds, asked), (x, yes), span)?;
    let y = combine(host, Binary::When, (fails, asked), (y, no), span)?;
    combine(host, Binary::Add, (x, yes), (y, no), span)
}

/// `sum`, `mean`, `max_over`.
fn reduction(host: &mut dyn Host, call: &Call, span: Span) -> Result<Tensor> {
    let name = call.function.text.as_str();
    let args = Args::new(call, "a tensor and its axes, f(x, AXIS, ...)", &[], span)?;
    let node = args.at(0, "a tensor")?;
    let mut of = tensor(host, node)?;
    let axes = args.axes_of(host, 1, &of, node)?;
    if axes.is_empty() {
        return args.missing("the axes to reduce");
    }
    let how = if name == "max_over" {
        Combine::Max
    } else {
        Combine::Sum
    };
    if name == "mean" {
        let n = host.axes().elements(&axes).unwrap_or(usize::MAX);
        of = joined(host, Binary::Mul, of, Tensor::number(1.0 / n as f64), span)?;
    }
    host.reduce(of, how, axes, span)
}

/// `index(AXIS)`.
fn index(host: &mut dyn Host, call: &Call, span: Span) -> Result<Tensor> {
    let args = Args::new(call, "one axis, index(AXIS)", &[], span)?;
    args.at_most(1)?;
    let axis = axis_name(args.at(0, "an axis")?)?;
    let atoms = host.axis(&axis)?;
    // Along a product the index runs over the merged elements, row-major.
    let mut out = Tensor::number(0.0);
    for atom in atoms {
        let size = host.axes().size(atom) as f64;
        let inner = Tensor {
            expr: Expr::Index(atom),
            inputs: Vec::new(),
            axes: vec![atom],
            rows: false,
            dimensions: None,
        };
        out = joined(host, Binary::Mul, out, Tensor::number(size), span)?;
        out = joined(host, Binary::Add, out, inner, span)?;
    }
    Ok(out)
}

/// `rename(x, A -> B)`.
fn renamed(host: &mut dyn Host, call: &Call, span: Span) -> Result<Tensor> {
    let args = Args::new(call, "a tensor and axes, rename(x, A -> B, ...)", &[], span)?;
    args.at_most(1)?;
    let node = args.at(0, "a tensor")?;
    let of = tensor(host, node)?;
    if args.renames.is_empty() {
        return args.missing("an axis and its new name");
    }
    rename(host, of, node, &args)
}

/// `reverse(x, AXIS)`.
fn reversed(host: &mut dyn Host, call: &Call, span: Span) -> Result<Tensor> {
    let args = Args::new(call, "a tensor and an axis, reverse(x, AXIS)", &[], span)?;
    let node = args.at(0, "a tensor")?;
    let of = tensor(host, node)?;
    let reversed = args.axes_of(host, 1, &of, node)?;
    if reversed.is_empty() {
        return args.missing("the axis to reverse");
    }
    let sizes: Vec<i64> = reversed
        .iter()
        .map(|a| host.axes().size(*a) as i64)
        .collect();
    let axes = of.axes.clone();
    let backwards = |a| match reversed.iter().position(|r| *r == a) {
        Some(i) => IndexExpr {
            base: sizes[i] - 1,
            terms: vec![(a, -1)],
        },
        None => IndexExpr::axis(a),
    };
    Ok(of.reindex(axes, &backwards))
}

/// A condition on tensors: 1 where it holds, else 0.
fn condition(host: &mut dyn Host, node: &Node) -> Result<Tensor> {
    let known = {
        let lookup = |n: &str, s: Span| host.constant(n, s);
        constant::truth(node, "the condition", &lookup)
    };
    if let Ok(holds) = known {
        return Ok(Tensor::number(f64::from(u8::from(holds))));
    }
    host.enter(node.span)?;
    let out = match &node.kind {
        NodeKind::Not(of) => {
            let of = condition(host, of)?;
            negated(host, of, node.span)
        }
        NodeKind::Binary(op, a, b) => {
            let connected = match op {
                Operator::And => Some(Binary::Mul),
                Operator::Or => Some(Binary::Max),
                _ => None,
            };
            match connected {
                Some(connected) => {
                    let x = condition(host, a)?;
                    let y = condition(host, b)?;
                    combine(host, connected, (x, a), (y, b), node.span)
                }
                None => comparison(host, *op, a, b, node.span),
            }
        }
        _ => no_condition(node.span),
    };
    host.leave();
    out
}

fn comparison(host: &mut dyn Host, op: Operator, a: &Node, b: &Node, span: Span) -> Result<Tensor> {
    let differs = op == Operator::NotEqual;
    let (op, swapped) = match op {
        Operator::Less => (Binary::Less, false),
        Operator::LessEqual => (Binary::LessEqual, false),
        Operator::Greater => (Binary::Less, true),
        Operator::GreaterEqual => (Binary::LessEqual, true),
        Operator::Equal | Operator::NotEqual => (Binary::Equal, false),
        _ => return no_condition(span),
    };
    let x = tensor(host, a)?;
    let y = tensor(host, b)?;
    let holds = match swapped {
        false => combine(host, op, (x, a), (y, b), span)?,
        true => combine(host, op, (y, b), (x, a), span)?,
    };
    match differs {
        false => Ok(holds),
        true => negated(host, holds, span),
    }
}

fn no_condition<T>(span: Span) -> Result<T> {
    fail(
        Problem::Other {
            what: "this is no condition".into(),
            advice: "compare with == != < <= > >=, and join with `and`, `or`, `not`".into(),
        },
        span,
    )
}

/// `1 - x`.
fn negated(host: &mut dyn Host, x: Tensor, span: Span) -> Result<Tensor> {
    joined(host, Binary::Sub, Tensor::number(1.0), x, span)
}

/// A bound of min, max or clamp: an infinite one is allowed, and drops out.
fn bound_or_tensor(host: &mut dyn Host, node: &Node, op: Binary) -> Result<Tensor> {
    if matches!(op, Binary::Min | Binary::Max)
        && let Some(bound) = infinite(host, node)?
    {
        return Ok(Tensor::number(bound));
    }
    tensor(host, node)
}

/// `inf`, `-inf` or the name of a constant that is one, unless it names something else here.
fn infinite(host: &mut dyn Host, node: &Node) -> Result<Option<f64>> {
    Ok(match &node.kind {
        NodeKind::Negate(of) => infinite(host, of)?.map(|bound| -bound),
        NodeKind::Name(name) => match host.constant(name, node.span)? {
            Some(Setting::Number(n)) if n.is_infinite() => Some(n),
            Some(_) => None,
            None if name == "inf" && host.read(name, node.span).is_err() => Some(f64::INFINITY),
            None => None,
        },
        _ => None,
    })
}

pub(super) fn rename(
    host: &mut dyn Host,
    of: Tensor,
    of_node: &Node,
    args: &Args<'_>,
) -> Result<Tensor> {
    let mut pairs: Vec<(AxisId, AxisId)> = Vec::new();
    for (from, to) in &args.renames {
        let (old, new) = (host.axis(from)?, host.axis(to)?);
        let sizes = |host: &mut dyn Host, list: &[AxisId]| -> Vec<usize> {
            list.iter().map(|a| host.axes().size(*a)).collect()
        };
        if sizes(host, &old) != sizes(host, &new) {
            let axes = host.axes();
            return fail(
                Problem::ShapeMismatch {
                    left: format!("`{}`{}", from.text, axes.describe(&old)),
                    right: format!("`{}`{}", to.text, axes.describe(&new)),
                    why: "their sizes differ".into(),
                    advice: "rename an axis to one of the same size, factor by factor".into(),
                },
                super::source::cover(from.span, to.span),
            );
        }
        for (a, b) in old.into_iter().zip(new) {
            need_axis(host, &of, of_node, a, from)?;
            pairs.push((a, b));
        }
    }
    let renamed = |a: AxisId| {
        pairs
            .iter()
            .find(|(from, _)| *from == a)
            .map_or(a, |(_, to)| *to)
    };
    let axes: Vec<AxisId> = of.axes.iter().map(|a| renamed(*a)).collect();
    for (i, axis) in axes.iter().enumerate() {
        if axes[..i].contains(axis) {
            return fail(
                Problem::AxisTwice {
                    axis: host.axes().name(*axis).to_owned(),
                    place: format!("the renamed {}", called(of_node, "tensor")),
                },
                args.span,
            );
        }
    }
    Ok(of.reindex(axes, &|a| IndexExpr::axis(renamed(a))))
}
