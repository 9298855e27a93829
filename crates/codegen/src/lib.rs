//! From plan to CUDA C++ and a manifest.
//!
//! What lives here: kernel templates, the code generator that fills them, and
//! the [`manifest`] that says how to launch the result. What never will: drivers,
//! compilers, files.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

pub mod manifest;
pub mod prelude;

pub use manifest::{
    Arg, Buffer, BufferKind, Element, Extent, KernelImage, KernelParam, LaneGrid, Manifest,
    ParamKind, Regime, RowUnits, Step,
};
