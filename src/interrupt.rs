//! Signals that end the program: nothing half-written stays, and the exit status names the signal.

use std::io;

#[cfg(unix)]
pub use unix::install_handler;

/// Signals are left to the system; what they interrupt is swept by the next run.
#[cfg(not(unix))]
pub fn install_handler() -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
mod unix {
    use super::io;

    use std::sync::Arc;

    use fusec_runtime::partial;
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
    use signal_hook::iterator::Signals;

    use crate::exit;

    /// Waits, on a thread of its own, for Ctrl-C, for `kill`, and for the terminal to go away. What
    /// whoever started the program told it to ignore (`nohup`), it goes on ignoring.
    pub fn install_handler() -> io::Result<()> {
        let ignored = ignored();
        let waited = [SIGINT, SIGTERM, SIGHUP].into_iter();
        let mut signals = Signals::new(waited.filter(|n| ignored & (1 << (n - 1)) == 0))?;
        // A file that may not grow is an error of whoever writes it, as a full disk is, and no end.
        signal_hook::flag::register(SIGXFSZ, Arc::default())?;
        let wait = move || {
            if let Some(signal) = signals.forever().next() {
                partial::remove_all();
                std::process::exit(exit::ended_by(signal));
            }
        };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(wait)?;
        #[cfg(target_os = "linux")]
        fusec_runtime::checkpoint::exit_when_files_shrink(exit::INPUT)?;
        Ok(())
    }

    /// The signals that this process ignores, signal N as bit N - 1; none where the system does not say.
    fn ignored() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .unwrap_or(0)
    }
}
