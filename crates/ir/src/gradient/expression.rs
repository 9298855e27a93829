//! Derivatives of scalar expressions.
//!
//! Where a derivative is not defined, what is taken is what PyTorch takes:
//!
//! | function | convention |
//! |---|---|
//! | `abs` | 0 at 0 |
//! | `relu` | 0 at 0 |
//! | `max(a, b)`, `min(a, b)` | half to each where they are equal; all of it to `a` where `b` is a constant, as `torch.clamp` does |
//! | `softplus` | 1 above 20, where it is the identity |
//! | `pow(a, b)` | 0 to `a` where `b` is 0; 0 to `b` where `a` is 0 and `b` is not negative |
//! | comparisons | 0 |
//! | a choice | nothing to what was not chosen, even where that has no finite derivative (PyTorch gives NaN there) |
//!
//! At the edge of a domain (`log`, `sqrt`, `rsqrt`, `recip` at 0) the formula is followed, and the
//! derivative is infinite.

use crate::{Binary, Expr, Unary};

/// The derivative of `expr` by its input number `input`, times `factor`; `None` where it is 0
/// everywhere. `factor` may read inputs of its own.
pub(super) fn derivative(expr: &Expr, input: usize, factor: &Expr) -> Option<Expr> {
    let mut terms = Vec::new();
    let mut guards = Vec::new();
    descend(expr, input, factor.clone(), &mut guards, &mut terms);
    terms.into_iter().reduce(add)
}

fn reads(expr: &Expr, input: usize) -> bool {
    let mut found = false;
    expr.walk(&mut |e| found |= *e == Expr::Input(input));
    found
}

/// Adds a term per occurrence of the input: the product of the derivatives along the way to it,
/// under the conditions of the choices it lies in.
fn descend(expr: &Expr, input: usize, factor: Expr, guards: &mut Vec<Expr>, terms: &mut Vec<Expr>) {
    if !reads(expr, input) {
        return;
    }
    match expr {
        Expr::Input(_) => {
            let guarded = |term, guard: &Expr| Expr::binary(Binary::When, guard.clone(), term);
            terms.push(guards.iter().rev().fold(factor, guarded));
        }
        Expr::Const(_) | Expr::Index(_) | Expr::Position => {}
        Expr::Unary(f, a) => descend(a, input, unary(*f, a, factor), guards, terms),
        Expr::Binary(Binary::When, c, b) => {
            // A condition is a comparison, and has no derivative.
            guards.push((**c).clone());
            descend(b, input, factor, guards, terms);
            guards.pop();
        }
        Expr::Binary(f, a, b) => {
            if let (true, Some(to)) = (reads(a, input), left(*f, a, b, &factor)) {
                descend(a, input, to, guards, terms);
            }
            if let (true, Some(to)) = (reads(b, input), right(*f, a, b, &factor)) {
                descend(b, input, to, guards, terms);
            }
        }
    }
}

/// `factor * f'(a)`.
fn unary(f: Unary, a: &Expr, factor: Expr) -> Expr {
    let of = |f: Unary| Expr::unary(f, a.clone());
    let less = |a: Expr, b: Expr| Expr::binary(Binary::Less, a, b);
    match f {
        Unary::Neg => Expr::unary(Unary::Neg, factor),
        Unary::Exp => mul(factor, of(Unary::Exp)),
        Unary::Log => div(factor, a.clone()),
        Unary::Sqrt => div(factor, mul(number(2.0), of(Unary::Sqrt))),
        Unary::Rsqrt => {
            let cube = mul(
                of(Unary::Rsqrt),
                Expr::unary(Unary::Square, of(Unary::Rsqrt)),
            );
            mul(factor, mul(number(-0.5), cube))
        }
        Unary::Recip => {
            let square = Expr::unary(Unary::Square, of(Unary::Recip));
            mul(factor, Expr::unary(Unary::Neg, square))
        }
        Unary::Tanh => mul(factor, sub(number(1.0), Expr::unary(Unary::Square, of(f)))),
        Unary::Sigmoid => mul(factor, mul(of(f), sub(number(1.0), of(f)))),
        Unary::Silu => {
            let s = of(Unary::Sigmoid);
            let rest = mul(a.clone(), sub(number(1.0), s.clone()));
            mul(factor, mul(s, add(number(1.0), rest)))
        }
        Unary::Softplus => {
            let above = less(number(20.0), a.clone());
            let below = sub(number(1.0), above.clone());
            let slope = add(
                Expr::binary(Binary::When, above, number(1.0)),
                Expr::binary(Binary::When, below, of(Unary::Sigmoid)),
            );
            mul(factor, slope)
        }
        Unary::LogSigmoid => {
            let negative = Expr::unary(Unary::Neg, a.clone());
            mul(factor, Expr::unary(Unary::Sigmoid, negative))
        }
        Unary::Relu => Expr::binary(Binary::When, less(number(0.0), a.clone()), factor),
        Unary::Square => mul(factor, mul(number(2.0), a.clone())),
        Unary::Abs => {
            let sign = sub(less(number(0.0), a.clone()), less(a.clone(), number(0.0)));
            mul(factor, sign)
        }
        Unary::Sin => mul(factor, of(Unary::Cos)),
        Unary::Cos => mul(factor, Expr::unary(Unary::Neg, of(Unary::Sin))),
        Unary::Erf => mul(
            factor,
            mul(number(std::f64::consts::FRAC_2_SQRT_PI), bell(a, -1.0)),
        ),
        Unary::Gelu => {
            let scaled = mul(a.clone(), number(std::f64::consts::FRAC_1_SQRT_2));
            let below = add(number(1.0), Expr::unary(Unary::Erf, scaled));
            let density = mul(
                number(std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2 / 2.0),
                bell(a, -0.5),
            );
            let slope = add(mul(number(0.5), below), mul(a.clone(), density));
            mul(factor, slope)
        }
    }
}

/// `exp(c * a * a)`.
fn bell(a: &Expr, c: f64) -> Expr {
    let square = Expr::unary(Unary::Square, a.clone());
    Expr::unary(Unary::Exp, mul(number(c), square))
}

/// `factor` times the derivative of `f(a, b)` by `a`.
fn left(f: Binary, a: &Expr, b: &Expr, factor: &Expr) -> Option<Expr> {
    Some(match f {
        Binary::Add | Binary::Sub => factor.clone(),
        Binary::Mul => mul(factor.clone(), b.clone()),
        Binary::Div => div(factor.clone(), b.clone()),
        Binary::Min => chosen(a, b, Binary::Min, factor),
        Binary::Max => chosen(a, b, Binary::Max, factor),
        Binary::Pow => {
            if let Expr::Const(power) = b {
                match *power {
                    0.0 => return None,
                    1.0 => return Some(factor.clone()),
                    _ => {}
                }
            }
            let lower = Expr::binary(Binary::Pow, a.clone(), sub(b.clone(), number(1.0)));
            let slope = mul(factor.clone(), mul(b.clone(), lower));
            match b {
                Expr::Const(_) => slope,
                _ => {
                    let zero = Expr::binary(Binary::Equal, b.clone(), number(0.0));
                    Expr::binary(Binary::When, sub(number(1.0), zero), slope)
                }
            }
        }
        Binary::Less | Binary::LessEqual | Binary::Equal | Binary::When => return None,
    })
}

/// `factor` times the derivative of `f(a, b)` by `b`.
fn right(f: Binary, a: &Expr, b: &Expr, factor: &Expr) -> Option<Expr> {
    Some(match f {
        Binary::Add => factor.clone(),
        Binary::Sub => Expr::unary(Unary::Neg, factor.clone()),
        Binary::Mul => mul(factor.clone(), a.clone()),
        Binary::Div => {
            let quotient = div(div(a.clone(), b.clone()), b.clone());
            Expr::unary(Unary::Neg, mul(factor.clone(), quotient))
        }
        Binary::Min => chosen(b, a, Binary::Min, factor),
        Binary::Max => chosen(b, a, Binary::Max, factor),
        Binary::Pow => {
            let power = Expr::binary(Binary::Pow, a.clone(), b.clone());
            let slope = mul(
                factor.clone(),
                mul(power, Expr::unary(Unary::Log, a.clone())),
            );
            let zero = Expr::binary(Binary::Equal, a.clone(), number(0.0));
            let positive = Expr::binary(Binary::LessEqual, number(0.0), b.clone());
            let flat = Expr::binary(Binary::Mul, zero, positive);
            Expr::binary(Binary::When, sub(number(1.0), flat), slope)
        }
        // A choice is gone into under its condition.
        Binary::Less | Binary::LessEqual | Binary::Equal | Binary::When => return None,
    })
}

/// `factor` where `one` is the smaller (larger) of the two, and its share where they are equal.
fn chosen(one: &Expr, other: &Expr, f: Binary, factor: &Expr) -> Expr {
    let compare = |f: Binary| match f == Binary::Min {
        true => (one.clone(), other.clone()),
        false => (other.clone(), one.clone()),
    };
    let when = |f: Binary, what: Expr| {
        let (a, b) = compare(f);
        move |by: Binary| Expr::binary(Binary::When, Expr::binary(by, a, b), what)
    };
    if let Expr::Const(_) = other {
        return when(f, factor.clone())(Binary::LessEqual);
    }
    let half = mul(factor.clone(), number(0.5));
    add(
        when(f, factor.clone())(Binary::Less),
        when(f, half)(Binary::Equal),
    )
}

/// A constant.
pub(super) fn number(x: f64) -> Expr {
    Expr::Const(x)
}

/// `a + b`.
pub(super) fn add(a: Expr, b: Expr) -> Expr {
    Expr::binary(Binary::Add, a, b)
}

/// `a - b`.
pub(super) fn sub(a: Expr, b: Expr) -> Expr {
    Expr::binary(Binary::Sub, a, b)
}

/// `a * b`, without factors of 1.
pub(super) fn mul(a: Expr, b: Expr) -> Expr {
    match (&a, &b) {
        (Expr::Const(1.0), _) => b,
        (_, Expr::Const(1.0)) => a,
        _ => Expr::binary(Binary::Mul, a, b),
    }
}

/// `a / b`.
pub(super) fn div(a: Expr, b: Expr) -> Expr {
    Expr::binary(Binary::Div, a, b)
}
