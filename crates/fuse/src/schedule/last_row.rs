//! The schedule of taking last rows: shares of the elements of one sequence's rows to a block.

use serde::{Deserialize, Serialize};

/// Tile of `last_row.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRowTile {
    /// Blocks of a sequence.
    pub parts: u32,
}

/// Threads of a block.
pub const THREADS: usize = 256;
/// Elements that one block copies, of all values together.
pub const SHARE: usize = 1024;

impl LastRowTile {
    /// For rows of so many elements together.
    pub fn of(elements: usize) -> Self {
        LastRowTile {
            parts: elements.div_ceil(SHARE).max(1) as u32,
        }
    }
}
