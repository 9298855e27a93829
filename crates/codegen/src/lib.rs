//! From plan to CUDA C++ and a manifest.
//!
//! What lives here: kernel templates, the code generator that fills them, and
//! the [`manifest`] that says how to launch the result. What never will: drivers,
//! compilers, files.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod affine;
mod attend;
mod cexpr;
pub mod chunked;
mod chunks;
pub mod draw;
mod error;
mod function;
mod generate;
mod header;
mod kernel;
mod lane;
mod last_row;
mod layout;
mod lexeme;
pub mod manifest;
mod matmul;
mod memory;
mod names;
pub mod prelude;
pub mod projection;
mod render;
mod row_sum;
mod scatter;
pub mod standalone;
mod text;
mod walk;
pub mod wgmma;

use fusec_fuse::schedule::{parts, program as micro};

pub use error::CodegenError;
pub use generate::{Planned, generate};
pub use lexeme::without_comments;
pub use manifest::{
    Arg, Buffer, BufferKind, Element, Extent, KernelImage, KernelParam, LaneGrid, Manifest,
    MapAxis, MapExtent, ParamKind, Regime, RowUnits, Step, TensorMap,
};
