//! Schedules.

pub mod affine;
pub mod parts;
pub mod placement;
pub mod program;
