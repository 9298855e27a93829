//! How much memory a run needs, where in it everything lies, and how much there is.
//!
//! Lives here: sizes, lifetimes and offsets, all computed from the manifest (or for the interpreter, from
//! the graph) before a byte is allocated. Never here: allocation itself, drivers, contents.
//!
//! Device memory is three regions: constants (parameters and load-time results, uploaded once), states
//! (scan states and both copies of each stencil tail, for one batch size), and an arena that the
//! buffers of a run share by lifetime.

mod arena;
mod footprint;
pub mod host;
mod interpreter;
mod states;

pub use arena::{ArenaPlan, Lifetime, Slot};
pub use footprint::Footprint;
pub use states::{StateSlot, StatesPlan};

/// Every buffer starts at a multiple of this many bytes, which is what the widest vector
/// accesses and the driver's own allocations are aligned to.
pub const ALIGNMENT: usize = 256;

/// Why no memory plan can be made, or why one does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// A size does not fit an address.
    #[error(
        "buffer `{buffer}` at B={batch}, T={time} has more bytes than can be addressed; use a smaller batch or a shorter run"
    )]
    TooLarge {
        /// Which.
        buffer: String,
        /// Sequences.
        batch: usize,
        /// Tokens of each.
        time: usize,
    },
    /// A step reads memory that nothing has written.
    #[error(
        "step {step} (kernel `{kernel}`) reads `{buffer}`, which no step before it writes; the manifest is damaged: compile the model again"
    )]
    ReadBeforeWrite {
        /// The buffer.
        buffer: String,
        /// Index of the step.
        step: usize,
        /// Its kernel.
        kernel: String,
    },
    /// The caller would read memory that nothing has written.
    #[error(
        "no step writes the output `{buffer}`; the manifest is damaged: compile the model again"
    )]
    NeverWritten {
        /// The buffer.
        buffer: String,
    },
    /// More is needed than there is.
    #[error(
        "needs {}: {footprint}; free {}. Use a smaller batch, a shorter run, or a smaller storage type",
        format_bytes(footprint.total()), format_bytes(*free)
    )]
    DoesNotFit {
        /// What is needed.
        footprint: Box<Footprint>,
        /// What is free, bytes.
        free: usize,
    },
}

/// A number of bytes for people, in decimal units: `3.2 GB`.
pub fn format_bytes(bytes: usize) -> String {
    const UNITS: [(&str, f64); 4] = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    let value = bytes as f64;
    for (unit, size) in UNITS {
        if value >= size {
            return format!("{:.1} {unit}", value / size);
        }
    }
    format!("{bytes} B")
}

/// `bytes` rounded up to [`ALIGNMENT`]. `None` on overflow.
pub fn align(bytes: usize) -> Option<usize> {
    bytes.checked_next_multiple_of(ALIGNMENT)
}
