//! The thread's state at the driver that belongs to the caller: its context, and how strictly work that is
//! being recorded forbids other calls. Both are given back as they were.

use cudarc::driver::sys::{self, CUstreamCaptureMode as Mode};
use cudarc::driver::{CudaContext, DriverError};
use std::marker::PhantomData;

/// A context that is the thread's until this is dropped; then the one before is.
pub(super) struct Current {
    pushed: bool,
    /// It belongs to this thread.
    thread: PhantomData<*const ()>,
}

impl Current {
    pub(super) fn of(context: &CudaContext) -> Result<Self, DriverError> {
        let mut now = std::ptr::null_mut();
        // SAFETY: writes the handle it is given a pointer to.
        unsafe { sys::cuCtxGetCurrent(&mut now) }.result()?;
        let pushed = now != context.cu_ctx();
        if pushed {
            // SAFETY: the context lives as long as what holds it, which outlives this.
            unsafe { sys::cuCtxPushCurrent_v2(context.cu_ctx()) }.result()?;
        }
        Ok(Self {
            pushed,
            thread: PhantomData,
        })
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        if self.pushed {
            let mut popped = std::ptr::null_mut();
            // SAFETY: pops what `of` has pushed on this thread.
            let popped = unsafe { sys::cuCtxPopCurrent_v2(&mut popped) }.result();
            if let Err(error) = popped {
                tracing::debug!("giving a thread its context back: {error:?}");
            }
        }
    }
}

/// Does something, after which the thread has the context that it had before: an array library takes the
/// thread's context for its current device. Without a driver there is nothing to keep.
pub fn unchanged_context<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: loads the driver's library, as any CUDA program does when it starts.
    if !unsafe { sys::is_culib_present() } {
        return work();
    }
    let mut before = std::ptr::null_mut();
    // SAFETY: writes the handle it is given a pointer to; before the driver is initialised it leaves it, and
    // then the thread has no context.
    let _ = unsafe { sys::cuCtxGetCurrent(&mut before) };
    let result = work();
    // SAFETY: the context was the thread's, and whoever made it holds it; null is none.
    if let Err(error) = unsafe { sys::cuCtxSetCurrent(before) }.result() {
        tracing::debug!("giving a thread its context back: {error:?}");
    }
    result
}

/// While it lives, calls of this thread are not forbidden for the sake of work that somebody records: loading
/// and freeing are no part of that work.
pub(super) struct Relaxed {
    before: Mode,
    thread: PhantomData<*const ()>,
}

impl Relaxed {
    pub(super) fn begin() -> Result<Self, DriverError> {
        let mut before = Mode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: exchanges the mode of this thread with the one it is given a pointer to.
        unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut before) }.result()?;
        Ok(Self {
            before,
            thread: PhantomData,
        })
    }
}

impl Drop for Relaxed {
    fn drop(&mut self) {
        let mut mode = self.before;
        // SAFETY: as above.
        let exchanged = unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode) }.result();
        if let Err(error) = exchanged {
            tracing::debug!("exchanging the mode of recording: {error:?}");
        }
    }
}
