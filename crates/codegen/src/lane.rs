//! What a template gives to the kernel around it.

use crate::manifest::LaneGrid;
use crate::projection::{Projection, WgmmaTile};

/// The code of one lane.
pub struct Lane {
    /// Statements from the left margin; `block` is the lane's own block number.
    pub code: String,
    /// Its blocks.
    pub grid: LaneGrid,
    /// C expression for the number of its blocks.
    pub blocks: String,
    /// Shared memory, f32 elements.
    pub shared_floats: usize,
    /// Whether it reads the position.
    pub position: bool,
    /// Products by warpgroups, whose text is one for all lanes of a kernel, in place of `code`.
    pub by_warpgroups: Option<(WgmmaTile, Projection)>,
}
