//! What can go wrong on a GPU.

use crate::memory::format_bytes;
use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

/// Why a GPU cannot be used, or what it did wrong.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// No driver library.
    #[error(
        "no NVIDIA driver on this machine (libcuda cannot be loaded); install one, or use another device"
    )]
    NoDriver,
    /// A driver that lacks functions this program calls.
    #[error(
        "the NVIDIA driver is for CUDA {}.{}, at least {}.{} is needed; install a newer driver",
        got / 1000, got % 1000 / 10, want / 1000, want % 1000 / 10
    )]
    OldDriver {
        /// Its version, `1000 * major + 10 * minor`.
        got: i32,
        /// The oldest that works.
        want: i32,
    },
    /// No such device.
    #[error("there is no device cuda:{ordinal}: the driver sees {count} GPU(s), numbered from 0")]
    NoDevice {
        /// Asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// Somebody else has the device, or it has failed.
    #[error(
        "cuda:{ordinal} cannot be had: {cause}; another process has it to itself, or it has to be reset: nvidia-smi tells"
    )]
    Busy {
        /// The device.
        ordinal: usize,
        /// The driver's words.
        cause: String,
    },
    /// Not enough memory, although the plan fitted what was free.
    #[error(
        "cuda:{ordinal}: cannot allocate {} for the {region}: {} of {} are free; another program may have taken memory meanwhile",
        format_bytes(*bytes), format_bytes(*free), format_bytes(*total)
    )]
    OutOfMemory {
        /// The device.
        ordinal: usize,
        /// Of which region.
        region: &'static str,
        /// Asked for.
        bytes: usize,
        /// Free.
        free: usize,
        /// On the device.
        total: usize,
    },
    /// A cubin for other GPUs.
    #[error(
        "kernel `{kernel}` was compiled for other GPUs: cuda:{ordinal} has compute capability {}.{}; compile with --arch sm_{}{}",
        capability.0, capability.1, capability.0, capability.1
    )]
    Architecture {
        /// The kernel.
        kernel: String,
        /// The device.
        ordinal: usize,
        /// Its compute capability.
        capability: (u32, u32),
    },
    /// The device is too old for a kernel.
    #[error(
        "kernel `{kernel}` needs compute capability {}.{}, cuda:{ordinal} has {}.{}; compile the model for this GPU",
        needs / 10, needs % 10, capability.0, capability.1
    )]
    TooOld {
        /// The kernel.
        kernel: String,
        /// The device.
        ordinal: usize,
        /// Compute capability times ten.
        needs: u32,
        /// The device's.
        capability: (u32, u32),
    },
    /// A kernel without its compiled form.
    #[error("kernel `{kernel}` is not compiled: compile the model with a toolchain")]
    NoCubin {
        /// The kernel.
        kernel: String,
    },
    /// A cubin that the driver does not take.
    #[error("kernel `{kernel}`: the driver refuses its cubin: {cause}; compile the model again")]
    Load {
        /// The kernel.
        kernel: String,
        /// The driver's words.
        cause: String,
    },
    /// A launch beyond what the device has.
    #[error("kernel `{kernel}` with {launch}: {limit}")]
    Limit {
        /// The kernel.
        kernel: String,
        /// Grid, block, shared memory.
        launch: String,
        /// The limit and what was found.
        limit: String,
    },
    /// The driver does not take a launch.
    #[error("kernel `{kernel}` with {launch}: the driver refuses the launch: {cause}")]
    Refused {
        /// The kernel.
        kernel: String,
        /// Grid, block, shared memory.
        launch: String,
        /// The driver's words.
        cause: String,
    },
    /// A kernel failed.
    #[error(
        "kernel `{kernel}`, which computes {computes}, failed with {launch}: {cause}. The device is not used any further; start again"
    )]
    Fault {
        /// The kernel.
        kernel: String,
        /// The values of the model that it computes.
        computes: String,
        /// Grid, block, shared memory.
        launch: String,
        /// The driver's words.
        cause: String,
    },
    /// One of several kernels failed.
    #[error(
        "one of the {count} kernels of the run (step 0 `{first}` to step {} `{last}`) failed: {cause}. The device is not used any further; run stepwise to learn which",
        count.saturating_sub(1)
    )]
    RunFault {
        /// Kernels of the run.
        count: usize,
        /// Name of the first.
        first: String,
        /// Name of the last.
        last: String,
        /// The driver's words.
        cause: String,
    },
    /// The device was given up after a fault.
    #[error("cuda:{ordinal} is not used any further after an earlier fault: {cause}")]
    GivenUp {
        /// The device.
        ordinal: usize,
        /// The fault.
        cause: String,
    },
    /// A byte range that no region has.
    #[error("bytes {offset} + {bytes} lie outside the {region}; compile the model again")]
    Outside {
        /// The region.
        region: &'static str,
        /// First byte.
        offset: usize,
        /// How many.
        bytes: usize,
    },
    /// Anything else that the driver reports.
    #[error("cuda:{ordinal}: {doing}: {cause}")]
    Driver {
        /// The device.
        ordinal: usize,
        /// What was being done.
        doing: &'static str,
        /// The driver's words.
        cause: String,
    },
}

/// The driver's name and description of an error.
pub(super) fn words(error: DriverError) -> String {
    let text = |found: Result<&std::ffi::CStr, DriverError>| {
        found.map_or_else(|_| "?".into(), |text| text.to_string_lossy().into_owned())
    };
    format!(
        "{} ({})",
        text(error.error_name()),
        text(error.error_string())
    )
}

/// Whether the context is of no use after this error: whatever is asked of it later, the driver says the same
/// again. (CUDA driver API, `CUresult`: "any further CUDA work will return the same error".)
pub(super) fn lasts(error: DriverError) -> bool {
    use CUresult::*;
    matches!(
        error.0,
        CUDA_ERROR_DEVICE_UNAVAILABLE
            | CUDA_ERROR_ECC_UNCORRECTABLE
            | CUDA_ERROR_NVLINK_UNCORRECTABLE
            | CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUDA_ERROR_ASSERT
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_LAUNCH_FAILED
            | CUDA_ERROR_UNKNOWN
    )
}
