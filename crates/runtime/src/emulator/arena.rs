//! Memory that a worker of the emulator runs blocks in: the shim's state and the fibers' stacks.
//! Mapped lazily, kept for the next launch, shared by all modules of the process.

use std::sync::Mutex;

use memmap2::{MmapMut, MmapOptions};

use super::EmulatorError;

/// Must match `HEADER_BYTES + MAX_THREADS * STACK_BYTES` in execution.h.
const ARENA_BYTES: usize = (10 << 20) + 1024 * (256 << 10);

static SPARE: Mutex<Vec<MmapMut>> = Mutex::new(Vec::new());

/// An arena on loan; it goes back on drop.
pub(super) struct Arena(Option<MmapMut>);

impl Arena {
    pub(super) fn take() -> Result<Self, EmulatorError> {
        let spare = SPARE.lock().map(|mut spare| spare.pop()).unwrap_or(None);
        let map = match spare {
            Some(map) => map,
            None => MmapOptions::new()
                .len(ARENA_BYTES)
                .no_reserve_swap()
                .map_anon()
                .map_err(EmulatorError::Memory)?,
        };
        Ok(Self(Some(map)))
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0
            .as_mut()
            .map_or(std::ptr::null_mut(), |map| map.as_mut_ptr())
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if let (Some(map), Ok(mut spare)) = (self.0.take(), SPARE.lock()) {
            spare.push(map);
        }
    }
}
