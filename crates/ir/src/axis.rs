//! Axes: the named dimensions of tensors.
//!
//! Every inner dimension of a tensor is an *atom*: an axis that is never seen
//! split. A composite such as `C = H * N` exists in the model text only; a
//! tensor "over C" is stored and typed over its atoms `[H, N]`, so that seeing
//! C split into heads costs nothing and needs no reshape. Batch `B` and time `T`
//! are not atoms: a [`crate::Value`] says by its `rows` flag whether it has them.

use serde::{Deserialize, Serialize};

/// Index of an [`Axis`] in [`crate::Graph::axes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AxisId(pub u32);

/// An atomic axis of fixed size.
///
/// A contraction whose input and output run over axes of the same name gets a
/// *primed* copy of the axis for the summed side (`N'` beside `N`): two index
/// variables of one operation are always two axes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Axis {
    /// Name in the model text, with one `'` per priming.
    pub name: String,
    /// Number of elements, at least 1.
    pub size: usize,
}
