//! Scalar expressions: what a pointwise operation does to one element.
//!
//! An [`Expr`] is a tree over the operation's inputs. It knows no shapes: the
//! operation that holds it says over which axes it is evaluated.

use crate::{AxisId, IndexExpr};
use serde::{Deserialize, Serialize};

/// A function of one number. All are total on finite f32 except where the
/// mathematics is not (`Log`, `Sqrt`, `Recip` of out-of-domain values give NaN/Inf).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unary {
    /// `-x`
    Neg,
    /// `e^x`
    Exp,
    /// natural logarithm
    Log,
    /// square root
    Sqrt,
    /// `1 / sqrt(x)`
    Rsqrt,
    /// `1 / x`
    Recip,
    /// hyperbolic tangent
    Tanh,
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// `x * sigmoid(x)` (also called swish)
    Silu,
    /// `ln(1 + e^x)`, the identity above 20 as in the public implementations
    Softplus,
    /// `ln(sigmoid(x))`
    LogSigmoid,
    /// `max(x, 0)`
    Relu,
    /// `x * x`
    Square,
    /// absolute value
    Abs,
    /// sine, radians
    Sin,
    /// cosine, radians
    Cos,
    /// the error function
    Erf,
    /// `x * (1 + erf(x / sqrt(2))) / 2`, the exact form
    Gelu,
}

/// A function of two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Binary {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
    /// `a / b`
    Div,
    /// the smaller
    Min,
    /// the larger
    Max,
    /// `a` to the power `b`
    Pow,
    /// 1 if `a < b`, else 0
    Less,
    /// 1 if `a <= b`, else 0
    LessEqual,
    /// 1 if `a = b`, else 0
    Equal,
    /// `b` if `a` is not 0, else 0, whatever `b` is: see [`Expr::choice`]
    When,
}

/// A scalar expression over the inputs of one operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expr {
    /// The element of input number `.0` (index into the operation's inputs).
    Input(usize),
    /// A constant.
    Const(f64),
    /// The index along an axis of the operation's iteration space, as a number.
    Index(AxisId),
    /// The absolute position of the token: carried position + t.
    Position,
    /// A unary function.
    Unary(Unary, Box<Expr>),
    /// A binary function.
    Binary(Binary, Box<Expr>, Box<Expr>),
}

impl Unary {
    /// The function in f64, as every interpreter and kernel must compute it up to rounding.
    pub fn eval(self, x: f64) -> f64 {
        let sigmoid = |x: f64| {
            if x >= 0.0 {
                1.0 / (1.0 + (-x).exp())
            } else {
                let e = x.exp();
                e / (1.0 + e)
            }
        };
        match self {
            Unary::Neg => -x,
            Unary::Exp => x.exp(),
            Unary::Log => x.ln(),
            Unary::Sqrt => x.sqrt(),
            Unary::Rsqrt => 1.0 / x.sqrt(),
            Unary::Recip => 1.0 / x,
            Unary::Tanh => x.tanh(),
            Unary::Sigmoid => sigmoid(x),
            Unary::Silu => x * sigmoid(x),
            Unary::Softplus => {
                if x > 20.0 {
                    x
                } else {
                    x.exp().ln_1p()
                }
            }
            Unary::LogSigmoid => x.min(0.0) - (-x.abs()).exp().ln_1p(),
            Unary::Relu => x.max(0.0),
            Unary::Square => x * x,
            Unary::Abs => x.abs(),
            Unary::Sin => x.sin(),
            Unary::Cos => x.cos(),
            Unary::Erf => libm::erf(x),
            Unary::Gelu => 0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        }
    }

    /// Name in the model language and in printed plans.
    pub fn name(self) -> &'static str {
        match self {
            Unary::Neg => "neg",
            Unary::Exp => "exp",
            Unary::Log => "log",
            Unary::Sqrt => "sqrt",
            Unary::Rsqrt => "rsqrt",
            Unary::Recip => "recip",
            Unary::Tanh => "tanh",
            Unary::Sigmoid => "sigmoid",
            Unary::Silu => "silu",
            Unary::Softplus => "softplus",
            Unary::LogSigmoid => "logsigmoid",
            Unary::Relu => "relu",
            Unary::Square => "square",
            Unary::Abs => "abs",
            Unary::Sin => "sin",
            Unary::Cos => "cos",
            Unary::Erf => "erf",
            Unary::Gelu => "gelu",
        }
    }
}

impl Binary {
    /// The function in f64.
    pub fn eval(self, a: f64, b: f64) -> f64 {
        match self {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
            Binary::Div => a / b,
            Binary::Min => a.min(b),
            Binary::Max => a.max(b),
            Binary::Pow => a.powf(b),
            Binary::Less => f64::from(a < b),
            Binary::LessEqual => f64::from(a <= b),
            Binary::Equal => f64::from(a == b),
            Binary::When => match a != 0.0 {
                true => b,
                false => 0.0,
            },
        }
    }
}

impl Expr {
    /// `a op b` without writing the boxes.
    pub fn binary(op: Binary, a: Expr, b: Expr) -> Expr {
        Expr::Binary(op, Box::new(a), Box::new(b))
    }

    /// `f(a)` without writing the box.
    pub fn unary(f: Unary, a: Expr) -> Expr {
        Expr::Unary(f, Box::new(a))
    }

    /// `(c, a, b)` of a choice, `a` where `c` is 1 and `b` where it is 0. A choice is the sum of
    /// `a` when `c` and `b` when `1 - c`, one of which is 0 even where the other is not finite.
    pub fn choice(&self) -> Option<(&Expr, &Expr, &Expr)> {
        let Expr::Binary(Binary::Add, yes, no) = self else {
            return None;
        };
        let (Expr::Binary(Binary::When, c, a), Expr::Binary(Binary::When, other, b)) =
            (yes.as_ref(), no.as_ref())
        else {
            return None;
        };
        match other.as_ref() {
            Expr::Binary(Binary::Sub, one, of) if **one == Expr::Const(1.0) && of == c => {
                Some((c.as_ref(), a.as_ref(), b.as_ref()))
            }
            _ => None,
        }
    }

    /// Calls `visit` on this expression and every expression below it, parents first.
    pub fn walk(&self, visit: &mut impl FnMut(&Expr)) {
        visit(self);
        match self {
            Expr::Unary(_, a) => a.walk(visit),
            Expr::Binary(_, a, b) => {
                a.walk(visit);
                b.walk(visit);
            }
            Expr::Input(_) | Expr::Const(_) | Expr::Index(_) | Expr::Position => {}
        }
    }

    /// The same expression with every `Input(i)` replaced by `f(i)`.
    pub fn substitute(&self, f: &impl Fn(usize) -> Expr) -> Expr {
        match self {
            Expr::Input(i) => f(*i),
            Expr::Unary(u, a) => Expr::unary(*u, a.substitute(f)),
            Expr::Binary(b, x, y) => Expr::binary(*b, x.substitute(f), y.substitute(f)),
            Expr::Const(_) | Expr::Index(_) | Expr::Position => self.clone(),
        }
    }

    /// The same expression with every `Index(a)` replaced by the affine index `f(a)`.
    pub fn substitute_axes(&self, f: &impl Fn(AxisId) -> IndexExpr) -> Expr {
        match self {
            Expr::Index(axis) => {
                let index = f(*axis);
                let mut sum = (index.base != 0 || index.terms.is_empty())
                    .then_some(Expr::Const(index.base as f64));
                for (axis, coefficient) in index.terms {
                    let variable = Expr::Index(axis);
                    let term = match coefficient {
                        1 => variable,
                        c => Expr::binary(Binary::Mul, variable, Expr::Const(c as f64)),
                    };
                    sum = Some(match sum {
                        Some(sum) => Expr::binary(Binary::Add, sum, term),
                        None => term,
                    });
                }
                sum.unwrap_or(Expr::Const(0.0))
            }
            Expr::Unary(u, a) => Expr::unary(*u, a.substitute_axes(f)),
            Expr::Binary(b, x, y) => Expr::binary(*b, x.substitute_axes(f), y.substitute_axes(f)),
            Expr::Input(_) | Expr::Const(_) | Expr::Position => self.clone(),
        }
    }

    /// Number of function applications in the tree (the operation count of one element).
    pub fn op_count(&self) -> usize {
        let mut n = 0;
        self.walk(&mut |e| n += matches!(e, Expr::Unary(..) | Expr::Binary(..)) as usize);
        n
    }
}
