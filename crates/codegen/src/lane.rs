//! What a template gives to the kernel around it.

use crate::manifest::LaneGrid;

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
}
