//! Kernels on an NVIDIA GPU, through the driver API.
mod error;
pub use error::GpuError;
