//! Scalar expressions as C text.
//!
//! Every function is a named primitive of the prelude; parentheses are printed
//! only where C needs them.

use fusec_ir::{AxisId, Binary, Expr, Unary};

/// What the leaves of an expression are called in the surrounding code.
pub struct Leaves<'a> {
    /// Text of input number `i`.
    pub input: &'a dyn Fn(usize) -> String,
    /// Text of the index along an axis, an integer.
    pub index: &'a dyn Fn(AxisId) -> String,
    /// Text of the absolute position, an integer.
    pub position: &'a str,
    /// In the step of a recurrence, which a thread takes for several elements side by side: whether an input differs from one to
    /// the next. Factors that do not come first, so that their product is taken once, and exponentials are those of steps.
    pub varies: Option<&'a dyn Fn(usize) -> bool>,
}

/// A float literal that reads back as the same f32.
pub fn literal(x: f64) -> String {
    let x = x as f32;
    if x.is_nan() {
        return "FUSEC_NAN".into();
    }
    if x.is_infinite() {
        return if x > 0.0 {
            "FUSEC_INF".into()
        } else {
            "-FUSEC_INF".into()
        };
    }
    // Debug prints the shortest digits that round-trip, and always a point or an exponent.
    let text = format!("{x:?}");
    if text.contains('.') || !text.contains('e') {
        format!("{text}f")
    } else {
        format!("{}f", text.replacen('e', ".0e", 1))
    }
}

/// Name of the prelude primitive for a unary function that is a call.
pub fn primitive(f: Unary) -> Option<&'static str> {
    Some(match f {
        Unary::Exp => "fexp",
        Unary::Log => "flog",
        Unary::Sqrt => "fsqrt",
        Unary::Rsqrt => "frsqrt",
        Unary::Recip => "frecip",
        Unary::Tanh => "ftanh",
        Unary::Sigmoid => "fsigmoid",
        Unary::Silu => "fsilu",
        Unary::Softplus => "fsoftplus",
        Unary::LogSigmoid => "flogsigmoid",
        Unary::Relu => "frelu",
        Unary::Square => "fsquare",
        Unary::Abs => "fabs32",
        Unary::Sin => "fsin",
        Unary::Cos => "fcos",
        Unary::Erf => "ferf",
        Unary::Gelu => "fgelu",
        Unary::Neg => return None,
    })
}

const SUM: u8 = 1;
const PRODUCT: u8 = 2;
const ATOM: u8 = 3;

/// The expression as C text.
pub fn text(expr: &Expr, leaves: &Leaves) -> String {
    print(expr, leaves, 0)
}

/// The factors of a product, those first that are the same for all elements of a thread.
fn regrouped(expr: &Expr, varies: &dyn Fn(usize) -> bool) -> Option<Expr> {
    fn factors<'e>(expr: &'e Expr, into: &mut Vec<&'e Expr>) {
        match expr {
            Expr::Binary(Binary::Mul, a, b) => {
                factors(a, into);
                factors(b, into);
            }
            _ => into.push(expr),
        }
    }
    let mut all = Vec::new();
    factors(expr, &mut all);
    let differs = |factor: &&Expr| {
        let mut differs = false;
        factor.walk(&mut |e| {
            differs |= match e {
                Expr::Input(i) => varies(*i),
                Expr::Index(_) => true,
                _ => false,
            }
        });
        differs
    };
    let (after, before): (Vec<&Expr>, Vec<&Expr>) = all.iter().copied().partition(differs);
    let product = |a: Expr, b: &Expr| Expr::binary(Binary::Mul, a, b.clone());
    let mut ordered = before.into_iter().chain(after);
    let first = ordered.next()?.clone();
    Some(ordered.fold(first, product)).filter(|product| product != expr)
}

fn print(expr: &Expr, leaves: &Leaves, context: u8) -> String {
    if let Some(varies) = leaves.varies {
        match expr {
            Expr::Unary(Unary::Exp, a) => {
                let log2 = Expr::Const(std::f64::consts::LOG2_E);
                let exponent = Expr::Binary(Binary::Mul, Box::new(log2), a.clone());
                return format!("fexp2_step({})", print(&exponent, leaves, 0));
            }
            Expr::Binary(Binary::Mul, ..) => {
                if let Some(product) = regrouped(expr, varies) {
                    return print(&product, leaves, context);
                }
            }
            _ => {}
        }
    }
    let (text, level) = match expr {
        Expr::Input(i) => ((leaves.input)(*i), ATOM),
        Expr::Const(x) => {
            let level = if *x < 0.0 { SUM } else { ATOM };
            (literal(*x), level)
        }
        Expr::Index(axis) => (format!("(float)({})", (leaves.index)(*axis)), ATOM),
        Expr::Position => (format!("(float)({})", leaves.position), ATOM),
        Expr::Unary(Unary::Neg, a) => (format!("-{}", print(a, leaves, ATOM)), SUM),
        Expr::Unary(f, a) => {
            let name = primitive(*f).unwrap_or("");
            (format!("{name}({})", print(a, leaves, 0)), ATOM)
        }
        Expr::Binary(f, a, b) => {
            let infix = |op: &str, left: u8, right: u8, level: u8| {
                (
                    format!(
                        "{} {op} {}",
                        print(a, leaves, left),
                        print(b, leaves, right)
                    ),
                    level,
                )
            };
            let call = |name: &str| {
                (
                    format!("{name}({}, {})", print(a, leaves, 0), print(b, leaves, 0)),
                    ATOM,
                )
            };
            match f {
                Binary::Add => infix("+", SUM, SUM + 1, SUM),
                Binary::Sub => infix("-", SUM, SUM + 1, SUM),
                Binary::Mul => infix("*", PRODUCT, PRODUCT + 1, PRODUCT),
                Binary::Div => infix("/", PRODUCT, PRODUCT + 1, PRODUCT),
                Binary::Min => call("fmin32"),
                Binary::Max => call("fmax32"),
                Binary::Pow => call("fpow"),
                Binary::Less => call("fless"),
                Binary::LessEqual => call("fless_equal"),
                Binary::Equal => call("fequal"),
                Binary::When => call("fwhen"),
            }
        }
    };
    if level < context {
        format!("({text})")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_read_back_as_the_same_f32() {
        let cases: [(f64, &str); 6] = [
            (1.0, "1.0f"),
            (0.1, "0.1f"),
            (-2.5, "-2.5f"),
            (64e-5, "0.00064f"),
            (1e-12, "1.0e-12f"),
            (f64::INFINITY, "FUSEC_INF"),
        ];
        for (x, expected) in cases {
            assert_eq!(literal(x), expected);
        }
    }

    #[test]
    fn parentheses_only_where_c_needs_them() {
        let a = || Expr::Input(0);
        let b = || Expr::Input(1);
        let leaves = Leaves {
            input: &|i| ["a", "b"][i].to_string(),
            index: &|_| "i".into(),
            position: "pos",
            varies: None,
        };
        let cases = [
            (
                Expr::binary(Binary::Mul, Expr::binary(Binary::Add, a(), b()), b()),
                "(a + b) * b",
            ),
            (
                Expr::binary(Binary::Sub, a(), Expr::binary(Binary::Sub, b(), a())),
                "a - (b - a)",
            ),
            (
                Expr::binary(Binary::Add, Expr::binary(Binary::Mul, a(), b()), a()),
                "a * b + a",
            ),
            (
                Expr::unary(Unary::Neg, Expr::binary(Binary::Mul, a(), b())),
                "-(a * b)",
            ),
            (
                Expr::binary(Binary::Mul, a(), Expr::unary(Unary::Neg, b())),
                "a * (-b)",
            ),
            (
                Expr::unary(Unary::Exp, Expr::unary(Unary::Neg, a())),
                "fexp(-a)",
            ),
        ];
        for (expr, expected) in cases {
            assert_eq!(text(&expr, &leaves), expected);
        }
        // In a step, `b` is of one element: what is the same for all comes first.
        let step = Leaves {
            varies: Some(&|i| i == 1),
            ..leaves
        };
        let mul = |a, b| Expr::binary(Binary::Mul, a, b);
        let cases = [
            (mul(mul(a(), b()), a()), "a * a * b"),
            (mul(b(), Expr::binary(Binary::Add, a(), b())), "b * (a + b)"),
            (
                Expr::unary(Unary::Exp, mul(b(), a())),
                "fexp2_step(1.442695f * a * b)",
            ),
            (Expr::unary(Unary::Exp, b()), "fexp2_step(1.442695f * b)"),
        ];
        for (expr, expected) in cases {
            assert_eq!(text(&expr, &step), expected);
        }
    }
}
