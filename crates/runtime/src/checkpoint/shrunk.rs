//! Files that become shorter while they are mapped.
//!
//! What is read behind the new end of a mapped file gets no error but a signal, SIGBUS, of which a program ends
//! without a word. It cannot be foreseen: whoever copies another checkpoint over this one does it at any time.

use std::io;

use signal_hook::consts::SIGBUS;
use signal_hook::low_level;

/// Shaped as other failures are.
const WORDS: &[u8] =
    b"Error:   x a file that is being read has become shorter, or cannot be read any \
    further\n  help: leave the files of a model as they are while it runs, and run it again\n";

/// Has the program end with `status` and a message where the system takes a part of a mapped file away. What is
/// unfinished then is swept by the next run.
///
/// # Errors
///
/// The system accepts no handler.
pub fn exit_when_files_shrink(status: i32) -> io::Result<()> {
    let end = move || {
        // Nobody is left who could be told that it cannot be written.
        rustix::io::write(rustix::stdio::stderr(), WORDS).ok();
        low_level::exit(status)
    };
    // SAFETY: the handler calls `write` and `_exit` of the system and nothing else, both of which a handler may
    // call whatever was interrupted. Whether a stack was overrun, the handler of the standard library, which
    // runs before it, decides.
    unsafe { low_level::register(SIGBUS, end) }.map(drop)
}
