//! What runs in place ask of the thing that launches kernels, be it a GPU or the emulator.

use crate::executor::{ArgValue, ExecuteError, Launch};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of [`Lent`].
pub const LENT_BYTES: usize = 256 << 10;

/// Memory of [`LENT_BYTES`] that the runs of a stream have one after the other.
#[derive(Clone)]
pub struct Lent(Arc<Mutex<Box<dyn DeviceBytes>>>);

impl Lent {
    pub(crate) fn new(memory: Box<dyn DeviceBytes>) -> Self {
        Self(Arc::new(Mutex::new(memory)))
    }

    /// The memory, for one who submits a run in it and holds it until the run is submitted: the launches of
    /// two runs may not take turns.
    pub fn lock(&self) -> MutexGuard<'_, Box<dyn DeviceBytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Lent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lent").finish_non_exhaustive()
    }
}

/// Launches the kernels of one manifest on memory of the caller. May be used from several threads at once.
pub trait Launcher: Send + Sync {
    /// What reports call it.
    fn name(&self) -> String;

    /// Memory for what the model holds, before anything runs.
    fn allocate(&mut self, bytes: usize) -> Result<u64, ExecuteError>;

    /// Copies to that memory, and waits.
    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), ExecuteError>;

    /// Memory for the caller.
    fn memory(&self, bytes: usize) -> Result<Box<dyn DeviceBytes>, ExecuteError>;

    /// The memory that runs on a stream have in turn; the same for all of them. `None` while the stream is
    /// recorded: what is recorded may run beside anything, later.
    fn lent(&self, stream: u64) -> Result<Option<Lent>, ExecuteError>;

    /// A stream for callers who have none.
    fn own_stream(&self) -> Result<u64, ExecuteError>;

    /// Waits for what was submitted to it.
    fn wait(&self) -> Result<(), ExecuteError>;

    /// Begins a run on a stream.
    fn begin(&self, stream: u64) -> Result<Box<dyn Run + '_>, ExecuteError>;
}

/// A run that is being submitted to its stream, in order.
pub trait Run {
    /// Copies.
    ///
    /// # Safety
    ///
    /// Both ranges are memory of the device that is there until the stream has come to this.
    unsafe fn copy(&mut self, to: u64, from: u64, bytes: usize) -> Result<(), ExecuteError>;

    /// Repeats four bytes; what is left over of the last ones is cut off.
    ///
    /// # Safety
    ///
    /// As of [`Run::copy`].
    unsafe fn fill(&mut self, to: u64, word: u32, bytes: usize) -> Result<(), ExecuteError>;

    /// Launches.
    ///
    /// # Safety
    ///
    /// The arguments are those of the kernel, one for each parameter, and their addresses are memory that it
    /// may use until the stream has come to its end.
    unsafe fn launch(
        &mut self,
        launch: &Launch,
        args: &[ArgValue],
        position: i64,
    ) -> Result<(), ExecuteError>;
}

/// Memory of a device, freed when dropped.
pub trait DeviceBytes: Send + Sync {
    /// Its first byte.
    fn address(&self) -> u64;
}
