//! Progress of work that takes a while, on terminals only.

use std::io::{self, IsTerminal};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work shorter than this shows nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often a line without news is drawn anew.
const TICK: Duration = Duration::from_millis(120);

/// A line on stderr that says what is being done, and how much of it is.
pub struct Progress {
    bar: ProgressBar,
    /// Shows the line once patience is over; `None` where there is no terminal.
    timer: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// A bar for `parts` pieces of work; nothing is drawn yet.
    pub fn new(what: impl Into<String>, parts: usize) -> Self {
        let bar = ProgressBar::with_draw_target(Some(parts as u64), ProgressDrawTarget::hidden());
        Self::start(bar, "{msg} {wide_bar} {pos}/{len} {eta}", what.into())
    }

    /// A line for work whose parts are not known; nothing is drawn yet.
    pub fn line(what: impl Into<String>) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Self::start(bar, "{spinner} {msg} ({elapsed})", what.into())
    }

    fn start(bar: ProgressBar, template: &str, what: String) -> Self {
        let style = ProgressStyle::with_template(template);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(what);
        let shown = bar.clone();
        let timer = io::stderr().is_terminal().then(|| {
            after(PATIENCE, move || {
                shown.set_draw_target(ProgressDrawTarget::stderr());
                shown.enable_steady_tick(TICK);
            })
        });
        Progress { bar, timer }
    }

    /// One more piece is finished.
    pub fn step(&self) {
        self.bar.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((ended, timer)) = self.timer.take() {
            drop(ended);
            // Whatever it was about to draw is drawn before the line is cleared.
            timer.join().ok();
        }
        self.bar.finish_and_clear();
    }
}

/// Does something after a while, unless the sender is dropped before.
fn after(patience: Duration, act: impl FnOnce() + Send + 'static) -> (Sender<()>, JoinHandle<()>) {
    let (sender, ended) = mpsc::channel();
    let timer = thread::spawn(move || {
        if ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            act();
        }
    });
    (sender, timer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn only_what_takes_longer_than_patience_is_shown() {
        for (patience, wait, shown) in [(5, 100, true), (60_000, 0, false)] {
            let acted = Arc::new(AtomicBool::new(false));
            let flag = acted.clone();
            let act = move || flag.store(true, Ordering::SeqCst);
            let (sender, timer) = after(Duration::from_millis(patience), act);
            thread::sleep(Duration::from_millis(wait));
            drop(sender);
            timer.join().expect("it ends");
            assert_eq!(acted.load(Ordering::SeqCst), shown);
        }
    }
}
