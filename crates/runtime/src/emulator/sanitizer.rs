//! Telling the address sanitizer which memory a launch was given: buffers lie side by side in one mapping,
//! where it would see nothing wrong in an access to the neighbour.

use std::ffi::c_void;

type Mark = unsafe extern "C" fn(*const c_void, usize);

/// The address sanitizer of this process.
#[derive(Clone, Copy, Debug)]
pub struct Sanitizer {
    poison: Mark,
    unpoison: Mark,
}

impl Sanitizer {
    /// `None` if the process was started without libasan.
    #[cfg(unix)]
    pub fn of_process() -> Option<Self> {
        let process = libloading::os::unix::Library::this();
        // SAFETY: functions of these names are the sanitizer's, whose interface says these types, and they
        // are never unloaded.
        unsafe {
            Some(Self {
                poison: *process.get::<Mark>(b"__asan_poison_memory_region\0").ok()?,
                unpoison: *process
                    .get::<Mark>(b"__asan_unpoison_memory_region\0")
                    .ok()?,
            })
        }
    }

    /// The emulator runs on Linux only.
    #[cfg(not(unix))]
    pub fn of_process() -> Option<Self> {
        None
    }

    /// From now on an access to these bytes by a kernel ends the process. Whole groups of 8 bytes only:
    /// where the last one is shared with bytes that may be touched, it stays open.
    pub fn close(self, bytes: &[u8]) {
        // SAFETY: the function writes the sanitizer's own shadow of the bytes only.
        unsafe { (self.poison)(bytes.as_ptr().cast(), bytes.len()) }
    }

    /// These bytes may be touched again, and of the last group of 8 no byte behind them.
    pub fn open(self, bytes: &[u8]) {
        // SAFETY: as above.
        unsafe { (self.unpoison)(bytes.as_ptr().cast(), bytes.len()) }
    }
}
