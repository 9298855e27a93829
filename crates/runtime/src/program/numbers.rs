//! Which numbers a call computes with: float32, or, in the interpreter, float64.

use fusec_ir::interpret::Real;
use std::borrow::Cow;

use super::tensor::{DType, TensorView};

/// Elements of a result, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Numbers {
    /// float32.
    F32(Vec<f32>),
    /// float64.
    F64(Vec<f64>),
}

/// The extents of a result, and its elements, row-major.
pub type Shaped<F> = (Vec<usize>, Vec<F>);

/// A type that calls compute in.
pub(super) trait Element: Real {
    /// Which tensors are read as it, as messages have it.
    const TAKES: &'static str;

    /// The elements of a tensor; `None` if it is of another type.
    fn read<'a>(tensor: &TensorView<'a>) -> Option<Cow<'a, [Self]>>;

    /// A result.
    fn numbers(elements: Vec<Self>) -> Numbers;
}

impl Element for f32 {
    const TAKES: &'static str = "float32, bfloat16 or float16";

    fn read<'a>(tensor: &TensorView<'a>) -> Option<Cow<'a, [Self]>> {
        tensor.numbers()
    }

    fn numbers(elements: Vec<Self>) -> Numbers {
        Numbers::F32(elements)
    }
}

impl Element for f64 {
    const TAKES: &'static str = "float64, as the first tensor";

    fn read<'a>(tensor: &TensorView<'a>) -> Option<Cow<'a, [Self]>> {
        tensor.wide_numbers()
    }

    fn numbers(elements: Vec<Self>) -> Numbers {
        Numbers::F64(elements)
    }
}

/// Whether the first tensor of numbers is float64.
pub(super) fn are_wide(inputs: &[TensorView<'_>], params: &[TensorView<'_>]) -> bool {
    let mut all = inputs.iter().chain(params).map(TensorView::dtype);
    let first = all.find(|dtype| !matches!(dtype, DType::I32 | DType::I64));
    first == Some(DType::F64)
}
