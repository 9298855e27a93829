//! Execution: checkpoints and weights, the toolchain, devices, memory.
//!
//! What lives here: everything that touches files, drivers and compilers. What never will: deciding
//! which operations share a kernel, or writing kernel text.
#![warn(missing_docs)]
#![deny(clippy::undocumented_unsafe_blocks)]

pub mod allocator;
pub mod bench;
pub mod cache;
pub mod calibrate;
pub mod checkpoint;
pub mod cpu;
pub mod cubin;
pub mod element;
pub mod emulator;
pub mod evaluate;
pub mod executor;
pub mod gates;
pub mod generation;
pub mod golden;
pub mod import;
pub mod inputs;
pub mod layout;
pub mod limits;
pub mod localise;
pub mod long_run;
pub mod memory;
pub mod model;
pub mod occupancy;
pub mod partial;
pub mod plan_dir;
pub mod program;
pub mod sampling;
pub mod session;
pub mod standalone;
pub mod tensor_file;
pub mod threads;
pub mod toolchain;
pub mod train;
pub mod tune;
pub mod verify;
pub mod weights;
