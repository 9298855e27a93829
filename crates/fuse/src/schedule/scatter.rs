//! The schedule of placing elements: shares of the elements of some rows to a block.

use serde::{Deserialize, Serialize};

/// Tile of `scatter.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScatterTile {
    /// Rows of a block.
    pub rows: u32,
    /// Blocks that share these rows.
    pub parts: u32,
}

/// Threads of a block.
pub const THREADS: usize = 256;
/// Elements of a row that one block makes.
pub const SHARE: usize = 1024;

impl ScatterTile {
    /// For rows of so many elements: those of a block are about [`SHARE`] together.
    pub fn of(elements: usize) -> Self {
        ScatterTile {
            rows: (SHARE / elements.max(1)).clamp(1, SHARE) as u32,
            parts: elements.div_ceil(SHARE).max(1) as u32,
        }
    }
}
