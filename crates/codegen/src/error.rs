//! What can go wrong between a plan and its source text.

use crate::prelude::UnknownPrimitive;
use fusec_fuse::Kernel;
use fusec_fuse::row::LongRow;

/// An error of the code generator. A legal plan never causes one.
#[derive(Debug, thiserror::Error)]
pub enum CodegenError {
    /// A template file is wrong.
    #[error("template {template}: {why}")]
    Template {
        /// Which.
        template: String,
        /// Tera's words.
        why: String,
    },
    /// Plans of one model that do not go together.
    #[error("`{tensor}` has one type in one plan, another in the next; compile the model again")]
    Regimes {
        /// The input or output.
        tensor: String,
    },
    /// Generated code names a primitive that does not exist.
    #[error(transparent)]
    Primitive(#[from] UnknownPrimitive),
    /// A projection template refuses its tile.
    #[error(transparent)]
    Projection(#[from] crate::projection::ProjectionError),
    /// The template of chunked recurrences refuses its sizes.
    #[error(transparent)]
    Chunked(#[from] crate::chunked::ChunkedError),
    /// A text needs more shared memory than the launch of its plan has: the plan is not of this
    /// version, or was edited.
    #[error(
        "kernel `{kernel}` needs {used} bytes of shared memory a block, its plan says {planned}; plan it again"
    )]
    Unplanned {
        /// Which kernel.
        kernel: String,
        /// Bytes that its text needs.
        used: usize,
        /// Bytes of its launch.
        planned: usize,
    },
    /// Kernels count the elements of a row in 32 bits.
    #[error(transparent)]
    Row(#[from] LongRow),
    /// The plan asks for something no template can do.
    #[error("kernel `{kernel}` needs {what}, which no template offers; plan it apart (--split)")]
    Unsupported {
        /// Which kernel.
        kernel: String,
        /// What it needs.
        what: String,
    },
}

impl CodegenError {
    /// That no template offers what a kernel needs.
    pub(crate) fn unsupported(kernel: &Kernel, what: impl Into<String>) -> Self {
        CodegenError::Unsupported {
            kernel: kernel.name.clone(),
            what: what.into(),
        }
    }
}
