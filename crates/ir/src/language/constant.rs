//! Arithmetic known when the model is compiled: sizes, conditions, the layer index.

use super::document::Setting;
use super::error::{Problem, Result, fail};
use super::syntax::{Arg, Call, Node, NodeKind, Operator};
use crate::Span;

/// Gives the value of a name, or `None` for a name that is not a constant.
pub(super) type Lookup<'a> = dyn Fn(&str, Span) -> Result<Option<Setting>> + 'a;

/// The value of a constant expression; `what` is used in messages (`a size`).
pub(super) fn evaluate(node: &Node, what: &str, lookup: &Lookup<'_>) -> Result<Setting> {
    let not_static = || {
        fail(
            Problem::NotStatic {
                what: what.to_owned(),
            },
            node.span,
        )
    };
    match &node.kind {
        NodeKind::Number(n) => Ok(Setting::Number(*n)),
        NodeKind::Text(t) => Ok(Setting::Text(t.clone())),
        NodeKind::Name(name) => match (name.as_str(), lookup(name, node.span)?) {
            (_, Some(value)) => Ok(value),
            ("true", None) => Ok(Setting::Bool(true)),
            ("false", None) => Ok(Setting::Bool(false)),
            ("inf", None) => Ok(Setting::Number(f64::INFINITY)),
            _ => not_static(),
        },
        NodeKind::Negate(a) => Ok(Setting::Number(-number(a, what, lookup)?)),
        NodeKind::Not(a) => Ok(Setting::Bool(!truth(a, what, lookup)?)),
        NodeKind::Binary(op, a, b) => binary(*op, a, b, node.span, what, lookup),
        NodeKind::Call(call) => function(call, node.span, what, lookup),
        NodeKind::Select(..) => not_static(),
    }
}

/// A constant number.
pub(super) fn number(node: &Node, what: &str, lookup: &Lookup<'_>) -> Result<f64> {
    match evaluate(node, what, lookup)? {
        Setting::Number(n) => Ok(n),
        other => wrong(what, "a number", &other, node.span),
    }
}

/// A constant whole number.
pub(super) fn integer(node: &Node, what: &str, lookup: &Lookup<'_>) -> Result<i64> {
    let n = number(node, what, lookup)?;
    whole(n, what, node.span)
}

/// A number as an integer, if it is one.
pub(super) fn whole(n: f64, what: &str, span: Span) -> Result<i64> {
    // Beyond 2^53 an f64 does not hold every integer.
    if n.fract() == 0.0 && n.abs() <= 9.0e15 {
        Ok(n as i64)
    } else {
        fail(
            Problem::Arithmetic {
                what: format!("{what} is {n}, which is not a whole number"),
                advice: "round with floor(...) or ceil(...), or correct the sizes".into(),
            },
            span,
        )
    }
}

/// A constant condition.
pub(super) fn truth(node: &Node, what: &str, lookup: &Lookup<'_>) -> Result<bool> {
    match evaluate(node, what, lookup)? {
        Setting::Bool(b) => Ok(b),
        other => wrong(what, "true or false", &other, node.span),
    }
}

fn wrong<T>(what: &str, expected: &'static str, found: &Setting, span: Span) -> Result<T> {
    fail(
        Problem::WrongType {
            key: what.to_owned(),
            expected,
            found: found.type_name().to_owned(),
        },
        span,
    )
}

fn binary(
    op: Operator,
    a: &Node,
    b: &Node,
    span: Span,
    what: &str,
    lookup: &Lookup<'_>,
) -> Result<Setting> {
    use Operator::*;
    match op {
        And => {
            return Ok(Setting::Bool(
                truth(a, what, lookup)? && truth(b, what, lookup)?,
            ));
        }
        Or => {
            return Ok(Setting::Bool(
                truth(a, what, lookup)? || truth(b, what, lookup)?,
            ));
        }
        Equal | NotEqual => {
            let (x, y) = (evaluate(a, what, lookup)?, evaluate(b, what, lookup)?);
            if std::mem::discriminant(&x) != std::mem::discriminant(&y) {
                return wrong("the right side", x.type_name(), &y, b.span);
            }
            return Ok(Setting::Bool((x == y) == (op == Equal)));
        }
        _ => {}
    }
    let (x, y) = (number(a, what, lookup)?, number(b, what, lookup)?);
    Ok(match op {
        Add => Setting::Number(x + y),
        Sub => Setting::Number(x - y),
        Mul => Setting::Number(x * y),
        Div | Rem if y == 0.0 => {
            return fail(
                Problem::Arithmetic {
                    what: "division by zero".into(),
                    advice: "check the sizes that are divided by".into(),
                },
                span,
            );
        }
        Div => Setting::Number(x / y),
        Rem => Setting::Number(x.rem_euclid(y)),
        Less => Setting::Bool(x < y),
        LessEqual => Setting::Bool(x <= y),
        Greater => Setting::Bool(x > y),
        GreaterEqual => Setting::Bool(x >= y),
        Contract | And | Or | Equal | NotEqual => {
            return fail(
                Problem::NotStatic {
                    what: what.to_owned(),
                },
                span,
            );
        }
    })
}

fn function(call: &Call, span: Span, what: &str, lookup: &Lookup<'_>) -> Result<Setting> {
    let mut args = Vec::new();
    for arg in &call.args {
        match arg {
            Arg::Positional(node) => args.push(number(node, what, lookup)?),
            _ => {
                return fail(
                    Problem::NotStatic {
                        what: what.to_owned(),
                    },
                    arg.span(),
                );
            }
        }
    }
    let value = match (call.function.text.as_str(), args.as_slice()) {
        ("ceil", [x]) => x.ceil(),
        ("floor", [x]) => x.floor(),
        ("sqrt", [x]) => x.sqrt(),
        ("rsqrt", [x]) => 1.0 / x.sqrt(),
        ("exp", [x]) => x.exp(),
        ("log", [x]) => x.ln(),
        ("min", [x, y]) => x.min(*y),
        ("max", [x, y]) => x.max(*y),
        ("pow", [x, y]) => x.powf(*y),
        _ => {
            return fail(
                Problem::NotStatic {
                    what: what.to_owned(),
                },
                span,
            );
        }
    };
    if value.is_nan() {
        return fail(
            Problem::Arithmetic {
                what: format!("{what} is not a number"),
                advice: "check the arguments of the function".into(),
            },
            span,
        );
    }
    Ok(Setting::Number(value))
}
