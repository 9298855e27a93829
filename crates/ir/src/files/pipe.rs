//! Named pipes. Opening one as a file waits for somebody at its other end, who may never come.

use std::fs::{self, File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

/// How long a pipe may be without anybody who writes into it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait before looking again.
const PAUSE: Duration = Duration::from_millis(5);

/// The end of a pipe that is read. Who has it open for writing may take as long as they like.
pub struct Pipe {
    end: File,
    /// When to give up; `None`: somebody writes into it, or did.
    until: Option<Instant>,
}

impl Pipe {
    /// The pipe that a path leads to; `None`: it leads to something else.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        Self::open_for(path, PATIENCE)
    }

    fn open_for(path: &Path, patience: Duration) -> Result<Option<Self>> {
        if !fs::metadata(path)?.file_type().is_fifo() {
            return Ok(None);
        }
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let end = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)?;
        let until = Some(Instant::now() + patience);
        Ok(Some(Pipe { end, until }))
    }
}

impl Read for Pipe {
    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        loop {
            match (self.end.read(into), self.until) {
                (Err(error), _) if error.kind() == ErrorKind::WouldBlock => self.until = None,
                (Ok(0), Some(until)) if !into.is_empty() => {
                    if Instant::now() > until {
                        let seconds = PATIENCE.as_secs();
                        let what =
                            format!("it is a pipe into which nobody writes ({seconds} s waited)");
                        return Err(Error::new(ErrorKind::TimedOut, what));
                    }
                }
                (result, _) => {
                    self.until = None;
                    return result;
                }
            }
            thread::sleep(PAUSE);
        }
    }
}
