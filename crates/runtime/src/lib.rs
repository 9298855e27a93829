//! x
pub mod cache;
pub mod cubin;
pub mod toolchain;
