//! Exit statuses: part of the interface, so they are written down once.

use std::process::ExitCode;

/// How a verb ended, when it ended without a message to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All went well.
    Success,
    /// The work was done, and a number is outside its tolerance, or a gate fails.
    ToleranceExceeded,
    /// The command line or an input is at fault.
    Input,
    /// Plans and sources were written; nothing could be compiled, for want of NVRTC.
    NoToolchain,
}

/// The status after a signal that ends the program, as shells have it.
pub const fn ended_by(signal: i32) -> i32 {
    128 + signal
}

/// The status when an input is at fault.
pub const INPUT: i32 = 2;

/// The status when the system refuses memory: the run was too large for it.
pub const OUT_OF_MEMORY: i32 = INPUT;

/// For `--help`.
pub const HELP: &str = "\
Exit status:
    0  success
    1  a tolerance is exceeded, or a gate of `check` fails
    2  the command line, the model, the weights or another input is at fault
    3  no CUDA compiler: plans and sources are there, cubins are not
  130  interrupted; 143 terminated, 129 hung up

Environment:
  FUSEC_NVRTC      the libnvrtc to use (a file or its directory); no other is tried
  FUSEC_CACHE_DIR  where fetched and compiled files are kept (usually ~/.cache/fusec)
  RUST_LOG         what is logged to stderr, such as `fusec_runtime=debug`
  NO_COLOR         no colours";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(match exit {
            Exit::Success => 0,
            Exit::ToleranceExceeded => 1,
            Exit::Input => INPUT as u8,
            Exit::NoToolchain => 3,
        })
    }
}
