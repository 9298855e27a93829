//! Arithmetic known when the model is compiled: sizes, conditions, the layer index.

use super::document::Setting;
use super::error::{Problem, Result, fail};
use super::syntax::{Arg, Call, Link, Node, NodeKind, Operator};
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
        NodeKind::Binary(..) => {
            let (mut left, links) = node.chain();
            let mut value = evaluate(left, what, lookup)?;
            for link in links {
                value = binary(value, left.span, &link, what, lookup)?;
                left = link.whole;
            }
            Ok(value)
        }
        NodeKind::Call(call) => function(call, node.span, what, lookup),
        NodeKind::Select(..) => not_static(),
    }
}

/// A constant number.
pub(super) fn number(node: &Node, what: &str, lookup: &Lookup<'_>) -> Result<f64> {
    as_number(evaluate(node, what, lookup)?, what, node.span)
}

fn as_number(value: Setting, what: &str, span: Span) -> Result<f64> {
    match value {
        Setting::Number(n) => Ok(n),
        other => wrong(what, "a number", &other, span),
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
    as_truth(evaluate(node, what, lookup)?, what, node.span)
}

fn as_truth(value: Setting, what: &str, span: Span) -> Result<bool> {
    match value {
        Setting::Bool(b) => Ok(b),
        other => wrong(what, "true or false", &other, span),
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

/// `left OP right`; the right side is not looked at where the left one decides.
fn binary(
    left: Setting,
    left_span: Span,
    link: &Link<'_>,
    what: &str,
    lookup: &Lookup<'_>,
) -> Result<Setting> {
    use Operator::*;
    let (op, right, span) = (link.operator, link.right, link.whole.span);
    match op {
        And | Or => {
            let decided = as_truth(left, what, left_span)? == (op == Or);
            return Ok(Setting::Bool(match decided {
                true => op == Or,
                false => truth(right, what, lookup)?,
            }));
        }
        Equal | NotEqual => {
            let y = evaluate(right, what, lookup)?;
            if std::mem::discriminant(&left) != std::mem::discriminant(&y) {
                return wrong("the right side", left.type_name(), &y, right.span);
            }
            return Ok(Setting::Bool((left == y) == (op == Equal)));
        }
        _ => {}
    }
    let x = as_number(left, what, left_span)?;
    let y = number(right, what, lookup)?;
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
        Power => Setting::Number(x.powf(y)),
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

/// `letter(TEXT, i)`: the letter of a string at a place, 0 the first.
fn letter(text: &Node, at: &Node, what: &str, lookup: &Lookup<'_>) -> Result<Setting> {
    let letters = match evaluate(text, what, lookup)? {
        Setting::Text(letters) => letters,
        other => return wrong("what `letter` looks into", "a string", &other, text.span),
    };
    let i = integer(at, "the place of a letter", lookup)?;
    let found = usize::try_from(i).ok().and_then(|i| letters.chars().nth(i));
    match found {
        Some(letter) => Ok(Setting::Text(letter.to_string())),
        None => fail(
            Problem::Other {
                what: format!("\"{letters}\" has no letter {i}"),
                advice: "letters are counted from 0; give one for each place that is asked for"
                    .into(),
            },
            at.span,
        ),
    }
}

fn function(call: &Call, span: Span, what: &str, lookup: &Lookup<'_>) -> Result<Setting> {
    if let ("letter", [Arg::Positional(text), Arg::Positional(at)]) =
        (call.function.text.as_str(), call.args.as_slice())
    {
        return letter(text, at, what, lookup);
    }
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
        ("clamp", [x, low, high]) => x.max(*low).min(*high),
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
