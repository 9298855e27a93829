//! A block of device memory.

use super::current::{Current, Relaxed};
use super::error::GpuError;
use super::info::failed;
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, CudaStream, DriverError, result};
use std::sync::Arc;

/// Device memory that is freed when dropped.
#[derive(Debug)]
pub(super) struct DeviceMemory {
    address: u64,
    bytes: usize,
    context: Arc<CudaContext>,
}

impl DeviceMemory {
    /// Allocates; `what` is for messages. The driver aligns to at least 256 bytes.
    pub(super) fn new(
        context: &Arc<CudaContext>,
        what: &'static str,
        bytes: usize,
    ) -> Result<Self, GpuError> {
        let ordinal = context.ordinal();
        let allocate = || {
            context.bind_to_thread()?;
            // SAFETY: nothing reads the memory before something was written to it.
            unsafe { result::malloc_sync(bytes.max(1)) }
        };
        match allocate() {
            Ok(address) => Ok(Self {
                address,
                bytes,
                context: context.clone(),
            }),
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let (free, total) = context
                    .mem_get_info()
                    .map_err(|error| failed(ordinal, "cannot ask for free memory", error))?;
                Err(GpuError::OutOfMemory {
                    ordinal,
                    region: what,
                    bytes,
                    free,
                    total,
                })
            }
            Err(error) => Err(failed(ordinal, "cannot allocate memory", error)),
        }
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// The address of a byte range, if it lies inside.
    pub(super) fn range(&self, offset: usize, bytes: usize) -> Option<u64> {
        let end = offset.checked_add(bytes)?;
        (end <= self.bytes).then(|| self.address + offset as u64)
    }

    /// Sets every byte, in stream order.
    pub(super) fn fill(&self, stream: &CudaStream, byte: u8) -> Result<(), DriverError> {
        self.context.bind_to_thread()?;
        // SAFETY: the range is this allocation, which outlives the work on the stream: whoever
        // drops it does so after the stream was waited for, and freeing waits as well.
        unsafe { result::memset_d8_async(self.address, byte, self.bytes, stream.cu_stream()) }
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        let free = || {
            // Also while the thread that drops it records somebody's work.
            let _relaxed = Relaxed::begin()?;
            let _current = Current::of(&self.context)?;
            // SAFETY: allocated by `new`, freed only here; the driver waits for work that uses it.
            unsafe { result::free_sync(self.address) }
        };
        // After a fault every call fails; the driver frees the memory with the context.
        if let Err(error) = free() {
            tracing::debug!("freeing device memory: {error:?}");
        }
    }
}
