//! Where the evaluation of operations is compiled: here, once for each number type.
//!
//! [`Interpreter`] is generic, so each crate that names it would compile all that it calls again, every
//! test among them: some fifteen seconds each. What is behind this trait is called, not compiled.

use super::{InterpretError, Interpreter, Tensor};
use crate::{Op, StateId, ValueId};

/// The results of an operation, and the states it brings up to date.
pub type Evaluated<F> = (Vec<Vec<F>>, Vec<(StateId, Vec<F>)>);

/// The values that are there, by id.
pub type Get<'c, 'v, F> = &'c dyn Fn(ValueId) -> Option<&'v Tensor<F>>;

/// The size of a run.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub batch: usize,
    pub time: usize,
    /// Tokens before it.
    pub position: i64,
}

/// One operation of a graph, in a number type.
pub trait Evaluate: Sized + 'static {
    /// The results of operation number `at`, and the states it brings up to date.
    fn evaluate<'v>(
        interpreter: &Interpreter<'_, Self>,
        at: usize,
        op: &Op,
        size: Size,
        states: &[Vec<Self>],
        get: Get<'_, 'v, Self>,
    ) -> Result<Evaluated<Self>, InterpretError>;
}

macro_rules! evaluate {
    ($t:ty) => {
        impl Evaluate for $t {
            fn evaluate<'v>(
                interpreter: &Interpreter<'_, Self>,
                at: usize,
                op: &Op,
                size: Size,
                states: &[Vec<Self>],
                get: Get<'_, 'v, Self>,
            ) -> Result<Evaluated<Self>, InterpretError> {
                interpreter.op(at, op, size, states, get)
            }
        }
    };
}
evaluate!(f32);
evaluate!(f64);
