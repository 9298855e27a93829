//! Segments: T cut into pieces with blocks of their own, so that a recurrence of few sequences and heads
//! has work for a whole device.
//!
//! Rows of a recurrence follow each other, but where a state is multiplied, element by element, by what
//! does not depend on it, a segment as a whole is such a step again: it makes `A S + U` of the state `S`
//! before it, `A` the product of what its rows multiply by and `U` what they make of a state of zeros. So
//! there are two passes with a barrier of the grid between them. In the first, blocks go through all segments but the
//! last and leave `A` and `U`; in the second, each puts the state before its segment together, from
//! those of the segments before it in their order, and goes through its segment as a block goes through
//! a whole run. The order is fixed, so the same bits come out every time.
//!
//! The same holds of `max(A + S, U)`, where `A` is the sum of what its rows add and `U` is what they make of
//! a state of -inf: see [`fusec_ir::class::Algebra`].
//!
//! How many segments there are is part of a schedule; how many rows each has follows from T when a kernel
//! runs. Where T is short the last ones are empty: `A` is one and `U` zero.

use serde::{Deserialize, Serialize};

/// The segments that T is cut into, and what a body does with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segments {
    /// How many: at least [`LEAST`].
    pub count: u32,
    /// Which pass a body is.
    pub pass: Pass,
}

/// A pass over segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pass {
    /// What each segment but the last makes of the states, for the segments after it.
    States,
    /// Everything, from the states before a segment on.
    Results,
}

/// Fewest segments: two passes over halves take as long as one over the whole.
pub const LEAST: u32 = 3;

impl Segments {
    /// Segments that have blocks.
    pub fn walked(self) -> usize {
        match self.pass {
            Pass::States => self.count as usize - 1,
            Pass::Results => self.count as usize,
        }
    }

    /// Rows of a segment of a run of `time`, whole runs of `run` rows.
    pub fn rows(self, time: usize, run: usize) -> usize {
        time.div_ceil(self.count as usize * run) * run
    }

    /// Copies of a state that are handed from segment to segment: the one before the first row, and what
    /// each segment but the last makes.
    pub fn states(self) -> usize {
        self.count as usize
    }

    /// Products that are handed on beside them. The first segment knows the state before it, so what it hands on is
    /// the state after it and needs none.
    pub fn products(self) -> usize {
        self.count as usize - 2
    }

    /// Copies of a state, and products, that all blocks of the second pass read together.
    pub fn read(self) -> (usize, usize) {
        let count = self.count as usize;
        // A segment reads the first state that is known, and then a pair for every segment between.
        let between = (count - 1) * (count - 2) / 2;
        (count + between, between)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_whole_runs() {
        let of = |count| Segments {
            count,
            pass: Pass::Results,
        };
        // segments, T, run: rows of a segment.
        for (count, time, run, rows) in [
            (4, 2048, 32, 512),
            (4, 2049, 32, 544),
            (8, 300, 32, 64),
            (8, 1, 32, 32),
            (4, 37, 1, 10),
        ] {
            assert_eq!(of(count).rows(time, run), rows, "{count} of {time}");
        }
    }

    #[test]
    fn what_is_read_is_what_was_left() {
        for count in LEAST..=8 {
            let segments = Segments {
                count,
                pass: Pass::Results,
            };
            let (mut states, mut products) = (0, 0);
            for segment in 0..count as usize {
                let between = segment.saturating_sub(1);
                states += 1 + between;
                products += between;
            }
            assert_eq!(segments.read(), (states, products));
        }
    }
}
