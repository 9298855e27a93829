//! Random selection: legal plans nobody would choose, to prove that they are right.

use super::greedy::merge;
use crate::bits::Bits;
use crate::board::Board;

/// Attempts per operation.
const ATTEMPTS: usize = 6;

/// Merges random pairs of groups, as long as the result is legal, a random number of times.
pub fn random(board: &Board<'_>, seed: u64) -> Vec<Bits> {
    // Segments of one plan differ.
    let first = board.ops.first().map_or(0, |id| u64::from(id.0));
    let mut rng = SplitMix(seed.wrapping_add(first.rotate_left(32)));
    let mut groups = board.atoms().to_vec();
    let attempts = rng.below(ATTEMPTS * board.len() + 1);
    for _ in 0..attempts {
        let a = rng.below(groups.len());
        let frontier: Vec<usize> = board.frontier(&groups[a]).iter().collect();
        if frontier.is_empty() {
            continue;
        }
        let with = frontier[rng.below(frontier.len())];
        let Some(b) = groups.iter().position(|g| g.contains(with)) else {
            continue;
        };
        let next = merge(&groups, a, b);
        let union = &next[a.min(b)];
        if board.closed(union.clone()) == *union
            && board.price(union).is_ok()
            && board.is_ordered(&next)
        {
            groups = next;
        }
    }
    groups
}

/// SplitMix64: a small generator whose sequence is the same everywhere.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is at least 1.
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}
