//! Where figures come from: device, driver, compiler, commit, date.

use crate::executor::gpu::GpuInfo;
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

/// What a result is worth nothing without.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Provenance {
    /// `NVIDIA H200`, or `cpu`.
    pub device: String,
    /// Its properties.
    pub gpu: Option<GpuInfo>,
    /// The kernel driver, as it introduces itself.
    pub driver: Option<String>,
    /// Version of this program.
    pub fusec: String,
    /// The commit it was built from, `unknown` if nobody says.
    pub commit: String,
    /// When, in UTC: `2026-01-31T12:00:00Z`.
    pub date: String,
}

impl Provenance {
    /// Of a result taken now, on a GPU or on the CPU.
    pub fn new(gpu: Option<GpuInfo>, commit: Option<String>) -> Self {
        Provenance {
            device: gpu.as_ref().map_or("cpu".into(), |gpu| gpu.name.clone()),
            driver: gpu.as_ref().and_then(|_| driver()),
            gpu,
            fusec: env!("CARGO_PKG_VERSION").into(),
            commit: commit.unwrap_or_else(|| "unknown".into()),
            date: now(),
        }
    }
}

/// The first line of what Linux says about the NVIDIA driver.
fn driver() -> Option<String> {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    text.lines().next().map(|line| line.trim().to_owned())
}

/// The versions of the assembler that made some cubins, as each says in its notes.
pub fn compiler_of<'a>(cubins: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
    let found: BTreeSet<String> = cubins.into_iter().filter_map(crate::cubin::tool).collect();
    found.into_iter().collect()
}

/// The time in UTC.
pub fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    utc(since.map_or(0, |since| since.as_secs()))
}

/// A Unix time as a date of the Gregorian calendar.
fn utc(seconds: u64) -> String {
    const DAY: u64 = 24 * 60 * 60;
    let leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let (mut year, mut days) = (1970, seconds / DAY);
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute) = (seconds % DAY / 3600, seconds / 60 % 60);
    format!(
        "{year}-{month:02}-{:02}T{hour:02}:{minute:02}:{:02}Z",
        days + 1,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), date);
        }
    }
}
