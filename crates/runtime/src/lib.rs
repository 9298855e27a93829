//! Execution: checkpoints and weights, the toolchain, devices, memory.
//!
//! What lives here: everything that touches files, drivers and compilers. What never will: deciding
//! which operations share a kernel, or writing kernel text.
#![warn(missing_docs)]

pub mod checkpoint;
pub mod golden;
pub mod memory;
