//! The two number types the interpreter computes in, and the functions of
//! [`Unary`] and [`Binary`] over slices of them.

use crate::{Binary, Unary};
use serde::{Deserialize, Serialize};
use std::fmt::{Debug, Display};
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

/// A 16-bit type that values may be stored in between operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StorageType {
    /// bfloat16: 8 bits of exponent, 8 of significand.
    Bf16,
    /// IEEE half precision: 5 bits of exponent, 11 of significand.
    F16,
}

mod sealed {
    /// Keeps [`super::Real`] to the two types that the matrix product knows.
    pub trait Sealed: super::super::evaluate::Evaluate {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// f32 or f64: what the interpreter computes in.
pub trait Real:
    sealed::Sealed
    + Copy
    + Send
    + Sync
    + PartialOrd
    + Default
    + Debug
    + Display
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + 'static
{
    /// 0
    const ZERO: Self;
    /// 1
    const ONE: Self;
    /// Minus infinity, where a maximum starts.
    const LOWEST: Self;
    /// The nearest number of this type.
    fn from_f64(x: f64) -> Self;
    /// The same number.
    fn to_f64(self) -> f64;
    /// Neither infinite nor NaN.
    fn finite(self) -> bool;
    /// Square root.
    fn root(self) -> Self;
    /// The larger of two, as IEEE maxNum.
    fn larger(self, other: Self) -> Self;
    /// The nearest number that `storage` can hold.
    fn rounded(self, storage: StorageType) -> Self;
    /// `out[i] = f(x[i])`.
    fn unary(f: Unary, x: &[Self], out: &mut [Self]);
    /// `out[i] = f(a[i], b[i])`.
    fn binary(f: Binary, a: &[Self], b: &[Self], out: &mut [Self]);
    /// `out[i] = f(a[i], b)`.
    fn binary_right(f: Binary, a: &[Self], b: Self, out: &mut [Self]);
    /// `out[i] = f(a, b[i])`.
    fn binary_left(f: Binary, a: Self, b: &[Self], out: &mut [Self]);
}

/// Accumulators of [`sum`]: enough to hide the latency of an addition.
const LANES: usize = 8;

/// The sum of a slice, in a fixed order that depends on its length only.
pub(super) fn sum<F: Real>(x: &[F]) -> F {
    let mut lanes = [F::ZERO; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += *x;
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += *x;
    }
    lanes.iter().fold(F::ZERO, |a, b| a + *b)
}

macro_rules! real {
    ($t:ident, $from_bf16:ident, $to:ident, $erf:path) => {
        impl Real for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const LOWEST: Self = $t::NEG_INFINITY;

            fn from_f64(x: f64) -> Self {
                x as $t
            }

            fn to_f64(self) -> f64 {
                f64::from(self)
            }

            fn finite(self) -> bool {
                self.is_finite()
            }

            fn root(self) -> Self {
                self.sqrt()
            }

            fn larger(self, other: Self) -> Self {
                self.max(other)
            }

            fn rounded(self, storage: StorageType) -> Self {
                match storage {
                    StorageType::Bf16 => half::bf16::$from_bf16(self).$to(),
                    StorageType::F16 => half::f16::$from_bf16(self).$to(),
                }
            }

            fn unary(f: Unary, x: &[Self], out: &mut [Self]) {
                fn each(x: &[$t], out: &mut [$t], f: impl Fn($t) -> $t) {
                    for (out, x) in out.iter_mut().zip(x) {
                        *out = f(*x);
                    }
                }
                let sigmoid = |x: $t| {
                    // The exponential of a non-positive number never overflows.
                    let e = (-x.abs()).exp();
                    let p = if x >= 0.0 { 1.0 } else { e };
                    p / (1.0 + e)
                };
                match f {
                    Unary::Neg => each(x, out, |x| -x),
                    Unary::Exp => each(x, out, |x| x.exp()),
                    Unary::Log => each(x, out, |x| x.ln()),
                    Unary::Sqrt => each(x, out, |x| x.sqrt()),
                    Unary::Rsqrt => each(x, out, |x| 1.0 / x.sqrt()),
                    Unary::Recip => each(x, out, |x| 1.0 / x),
                    Unary::Tanh => each(x, out, |x| x.tanh()),
                    Unary::Sigmoid => each(x, out, sigmoid),
                    Unary::Silu => each(x, out, |x| x * sigmoid(x)),
                    Unary::Softplus => each(x, out, |x| if x > 20.0 { x } else { x.exp().ln_1p() }),
                    Unary::LogSigmoid => each(x, out, |x| x.min(0.0) - (-x.abs()).exp().ln_1p()),
                    Unary::Relu => each(x, out, |x| x.max(0.0)),
                    Unary::Square => each(x, out, |x| x * x),
                    Unary::Abs => each(x, out, |x| x.abs()),
                    Unary::Sin => each(x, out, |x| x.sin()),
                    Unary::Cos => each(x, out, |x| x.cos()),
                    Unary::Erf => each(x, out, $erf),
                    Unary::Gelu => {
                        let half = std::$t::consts::FRAC_1_SQRT_2;
                        each(x, out, |x| 0.5 * x * (1.0 + $erf(x * half)))
                    }
                }
            }

            fn binary(f: Binary, a: &[Self], b: &[Self], out: &mut [Self]) {
                fn each(a: &[$t], b: &[$t], out: &mut [$t], f: impl Fn($t, $t) -> $t) {
                    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                        *out = f(*a, *b);
                    }
                }
                match f {
                    Binary::Add => each(a, b, out, |a, b| a + b),
                    Binary::Sub => each(a, b, out, |a, b| a - b),
                    Binary::Mul => each(a, b, out, |a, b| a * b),
                    Binary::Div => each(a, b, out, |a, b| a / b),
                    Binary::Min => each(a, b, out, |a, b| a.min(b)),
                    Binary::Max => each(a, b, out, |a, b| a.max(b)),
                    Binary::Pow => each(a, b, out, |a, b| a.powf(b)),
                    Binary::Less => each(a, b, out, |a, b| truth(a < b)),
                    Binary::LessEqual => each(a, b, out, |a, b| truth(a <= b)),
                    Binary::Equal => each(a, b, out, |a, b| truth(a == b)),
                    Binary::When => each(a, b, out, when),
                }
            }

            fn binary_right(f: Binary, a: &[Self], b: Self, out: &mut [Self]) {
                fn each(a: &[$t], out: &mut [$t], f: impl Fn($t) -> $t) {
                    for (out, a) in out.iter_mut().zip(a) {
                        *out = f(*a);
                    }
                }
                match f {
                    Binary::Add => each(a, out, |a| a + b),
                    Binary::Sub => each(a, out, |a| a - b),
                    Binary::Mul => each(a, out, |a| a * b),
                    Binary::Div => each(a, out, |a| a / b),
                    Binary::Min => each(a, out, |a| a.min(b)),
                    Binary::Max => each(a, out, |a| a.max(b)),
                    Binary::Pow => each(a, out, |a| a.powf(b)),
                    Binary::Less => each(a, out, |a| truth(a < b)),
                    Binary::LessEqual => each(a, out, |a| truth(a <= b)),
                    Binary::Equal => each(a, out, |a| truth(a == b)),
                    Binary::When => each(a, out, |a| when(a, b)),
                }
            }

            fn binary_left(f: Binary, a: Self, b: &[Self], out: &mut [Self]) {
                fn each(b: &[$t], out: &mut [$t], f: impl Fn($t) -> $t) {
                    for (out, b) in out.iter_mut().zip(b) {
                        *out = f(*b);
                    }
                }
                match f {
                    Binary::Add => each(b, out, |b| a + b),
                    Binary::Sub => each(b, out, |b| a - b),
                    Binary::Mul => each(b, out, |b| a * b),
                    Binary::Div => each(b, out, |b| a / b),
                    Binary::Min => each(b, out, |b| a.min(b)),
                    Binary::Max => each(b, out, |b| a.max(b)),
                    Binary::Pow => each(b, out, |b| a.powf(b)),
                    Binary::Less => each(b, out, |b| truth(a < b)),
                    Binary::LessEqual => each(b, out, |b| truth(a <= b)),
                    Binary::Equal => each(b, out, |b| truth(a == b)),
                    Binary::When => each(b, out, |b| when(a, b)),
                }
            }
        }
    };
}
real!(f32, from_f32, to_f32, libm::erff);
real!(f64, from_f64, to_f64, libm::erf);

/// 1 or 0.
fn truth<F: Real>(holds: bool) -> F {
    if holds { F::ONE } else { F::ZERO }
}

/// `b` where `a` is not 0.
fn when<F: Real>(a: F, b: F) -> F {
    if a == F::ZERO { F::ZERO } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNARY: [Unary; 18] = [
        Unary::Neg,
        Unary::Exp,
        Unary::Log,
        Unary::Sqrt,
        Unary::Rsqrt,
        Unary::Recip,
        Unary::Tanh,
        Unary::Sigmoid,
        Unary::Silu,
        Unary::Softplus,
        Unary::LogSigmoid,
        Unary::Relu,
        Unary::Square,
        Unary::Abs,
        Unary::Sin,
        Unary::Cos,
        Unary::Erf,
        Unary::Gelu,
    ];
    const BINARY: [Binary; 11] = [
        Binary::Add,
        Binary::Sub,
        Binary::Mul,
        Binary::Div,
        Binary::Min,
        Binary::Max,
        Binary::Pow,
        Binary::Less,
        Binary::LessEqual,
        Binary::Equal,
        Binary::When,
    ];
    const POINTS: [f64; 9] = [-90.0, -21.5, -1.25, -1e-3, 0.0, 0.5, 3.0, 20.5, 85.0];

    fn same(what: &str, got: f64, want: f64, tolerance: f64) {
        let agree = got == want
            || (got.is_nan() && want.is_nan())
            || (got - want).abs() <= tolerance * want.abs().max(1e-30);
        assert!(agree, "{what}: got {got}, want {want}");
    }

    #[test]
    fn slices_agree_with_the_scalar_definition() {
        for f in UNARY {
            let mut out = [0.0; POINTS.len()];
            f64::unary(f, &POINTS, &mut out);
            let mut out32 = [0f32; POINTS.len()];
            f32::unary(f, &POINTS.map(|x| x as f32), &mut out32);
            for (i, x) in POINTS.iter().enumerate() {
                same(&format!("{}({x})", f.name()), out[i], f.eval(*x), 1e-15);
                same(
                    &format!("f32 {}({x})", f.name()),
                    f64::from(out32[i]),
                    f64::from(f.eval(f64::from(*x as f32)) as f32),
                    2e-6,
                );
            }
        }
    }

    #[test]
    fn scalar_operands_agree_with_slices() {
        for f in BINARY {
            for a in POINTS {
                for b in POINTS {
                    let want = f.eval(a, b);
                    let mut out = [0.0];
                    f64::binary(f, &[a], &[b], &mut out);
                    same(&format!("{f:?}({a}, {b})"), out[0], want, 0.0);
                    f64::binary_right(f, &[a], b, &mut out);
                    same(&format!("right {f:?}({a}, {b})"), out[0], want, 0.0);
                    f64::binary_left(f, a, &[b], &mut out);
                    same(&format!("left {f:?}({a}, {b})"), out[0], want, 0.0);
                }
            }
        }
    }

    #[test]
    fn storage_rounds_to_nearest_even() {
        for (x, storage, want) in [
            (1.0, StorageType::Bf16, 1.0),
            (1.0 + 1.0 / 256.0, StorageType::Bf16, 1.0),
            (1.0 + 3.0 / 256.0, StorageType::Bf16, 1.0 + 4.0 / 256.0),
            (1.0 + 1.0 / 2048.0, StorageType::F16, 1.0),
            (1.0 + 3.0 / 2048.0, StorageType::F16, 1.0 + 4.0 / 2048.0),
            (1e6, StorageType::F16, f64::INFINITY),
        ] {
            assert_eq!(x.rounded(storage), want, "{x} as {storage:?}");
            assert_eq!(f64::from((x as f32).rounded(storage)), want);
        }
    }

    #[test]
    fn sums_of_any_length() {
        for n in [0usize, 1, 7, 8, 9, 100] {
            let x: Vec<f64> = (0..n).map(|i| i as f64).collect();
            assert_eq!(sum(&x), (0..n).sum::<usize>() as f64);
        }
    }
}
