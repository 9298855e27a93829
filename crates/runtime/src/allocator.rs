//! What a program does when the system has no memory left.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::partial;

/// The system's allocator, for a program whose end is an error like any other: where the system refuses
/// memory, it says how much was asked for, removes what is unfinished, and exits with `status`, instead
/// of aborting.
///
/// Runs are refused with figures before they begin (see [`crate::memory`]); this is for what such figures
/// do not count. A library that others run must not set it.
#[derive(Debug)]
pub struct ExitWhenExhausted {
    /// The exit status.
    pub status: i32,
}

impl ExitWhenExhausted {
    fn checked(&self, address: *mut u8, bytes: usize) -> *mut u8 {
        if address.is_null() {
            self.exit(bytes);
        }
        address
    }

    #[cold]
    fn exit(&self, bytes: usize) -> ! {
        // What ends the program may itself need memory: then it ends without more words.
        static ENDING: AtomicBool = AtomicBool::new(false);
        if !ENDING.swap(true, Ordering::SeqCst) {
            let mut text = [0u8; 160];
            let mut rest = &mut text[..];
            // A message that is cut is still one, and there is nobody to tell that it cannot be written.
            write!(
                rest,
                "Error:   x out of memory: the system refused {bytes} bytes\n  help: use a smaller \
                 batch, a shorter run or a smaller model\n"
            )
            .ok();
            let unused = rest.len();
            let length = text.len() - unused;
            io::stderr().write_all(&text[..length]).ok();
            partial::remove_all_now();
        }
        std::process::exit(self.status)
    }
}

// SAFETY: every request goes to the system's allocator as it came, and comes back as it was answered;
// where the answer is no, nothing comes back.
unsafe impl GlobalAlloc for ExitWhenExhausted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is the system allocator's.
        self.checked(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        self.checked(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, address: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: as above.
        self.checked(unsafe { System.realloc(address, layout, bytes) }, bytes)
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(address, layout) }
    }
}
