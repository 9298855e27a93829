//! How long the phases of planning take, summed over forms and segments.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{Id, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::table::{Align, Table, microseconds};

/// Sums up the time in spans, less that in the spans inside them.
#[derive(Debug, Default)]
pub struct Timings;

/// The verbs that ask for timings run on one thread.
static CLOCK: Mutex<Clock> = Mutex::new(Clock {
    open: vec![],
    sums: vec![],
});

#[derive(Debug)]
struct Clock {
    /// The spans entered, with the time since and the time of the spans inside.
    open: Vec<(Instant, Duration)>,
    /// By name, in the order in which they first ended: times entered, and time.
    sums: Vec<(&'static str, usize, Duration)>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Timings {
    fn on_enter(&self, _: &Id, _: Context<'_, S>) {
        let mut clock = CLOCK.lock().unwrap_or_else(PoisonError::into_inner);
        clock.open.push((Instant::now(), Duration::ZERO));
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut clock = CLOCK.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((since, inside)) = clock.open.pop() else {
            return;
        };
        let all = since.elapsed();
        if let Some(outer) = clock.open.last_mut() {
            outer.1 += all;
        }
        let own = all.saturating_sub(inside);
        match clock.sums.iter_mut().find(|sum| sum.0 == span.name()) {
            Some(sum) => {
                sum.1 += 1;
                sum.2 += own;
            }
            None => clock.sums.push((span.name(), 1, own)),
        }
    }
}

/// The phases so far, the longest first, and their sum.
pub fn text() -> String {
    let clock = CLOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let mut sums = clock.sums.clone();
    sums.sort_by_key(|sum| std::cmp::Reverse(sum.2));
    let mut table = Table::new([
        ("phase", Align::Left),
        ("times", Align::Right),
        ("time", Align::Right),
    ]);
    let us = |time: Duration| microseconds(time.as_secs_f64() * 1e6);
    for (name, times, time) in &sums {
        table.row([(*name).to_string(), times.to_string(), us(*time)]);
    }
    let all: Duration = sums.iter().map(|sum| sum.2).sum();
    table.row(["all".to_string(), String::new(), us(all)]);
    table.text()
}
