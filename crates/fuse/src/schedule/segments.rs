//! Segments of a sequence, side by side: the schedule of a recurrence whose heads and sequences do not
//! fill the device.
//!
//! A state is an affine map of the one before, `S' = d S + E`, and so is that at the end of a segment of that at
//! its start: `d` the product of its decays, `E` what it leaves when it starts from nothing. So in three phases,
//! with a barrier of the grid between two: what each segment leaves, the states at their starts, and the
//! results. Nothing is left out, and the state at the end is what steps one after the other give, but
//! for rounding (Blelloch, "Prefix sums and their applications", 1990, for the scan of affine maps; Yang et
//! al., "Gated linear attention transformers", 2024, for that of chunks).

use super::Target;
use serde::{Deserialize, Serialize};

/// Rows that a segment has a multiple of: every length of a chunk divides it.
pub const ROWS: usize = 64;
/// Most segments of a sequence: their states are composed one after the other.
const MOST: usize = 64;
/// Fewest runs of [`ROWS`] rows of a segment: its state is computed twice.
const FEWEST_RUNS: usize = 2;

/// One phase of a recurrence in segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segments {
    /// Segments of a sequence.
    pub count: u32,
    /// What is computed in this phase.
    pub phase: SegmentPhase,
}

/// The phases, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentPhase {
    /// What each segment but the last leaves when it starts from nothing, and its decay.
    States,
    /// The state at the start of each segment.
    Composition,
    /// The results of each segment, and the last state.
    Results,
}

impl Segments {
    /// Rows of a segment of a run of `time` rows.
    pub fn rows(&self, time: usize) -> usize {
        let runs = time.div_ceil(ROWS);
        runs.div_ceil((self.count as usize).max(1)) * ROWS
    }
}

/// Numbers of segments for a run of `time` rows of which each of `blocks` blocks would walk all: as many as
/// give every multiprocessor one block, or two. None where there are blocks enough, or rows too few.
pub fn counts(blocks: usize, time: usize, target: &Target) -> Vec<u32> {
    let most = (time.div_ceil(ROWS) / FEWEST_RUNS).min(MOST);
    let of = |each: usize| (each * target.sms).div_ceil(blocks.max(1)).min(most) as u32;
    let mut counts = vec![of(1), of(2)];
    counts.dedup();
    counts.retain(|count| *count > 1 && blocks < target.sms);
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    #[test]
    fn segments_fill_the_device_and_are_long_enough() {
        let target = Target::of(&Device::find("h200").unwrap());
        // Blocks, rows; numbers of segments expected, and rows of a segment of the first.
        for (blocks, time, expected, rows) in [
            (32, 16384, vec![5, 9], 3328),
            (64, 65536, vec![3, 5], 21888),
            (4, 16384, vec![33, 64], 512),
            (32, 300, vec![2], 192),
            (32, 255, vec![2], 128),
            (1, 1024, vec![8], 128),
            (32, 128, vec![], 0),
            (132, 16384, vec![], 0),
            (256, 16384, vec![], 0),
            (1, 1, vec![], 0),
        ] {
            let got = counts(blocks, time, &target);
            assert_eq!(got, expected, "{blocks} blocks, T={time}");
            let of = |count: &u32| Segments {
                count: *count,
                phase: SegmentPhase::States,
            };
            assert_eq!(got.first().map_or(0, |n| of(n).rows(time)), rows);
        }
    }
}
