//! What the groups of a segment cost: each is asked about once.

use crate::bits::Bits;
use crate::board::{Board, nanoseconds};
use std::collections::{BTreeMap, HashMap};

/// Costs of groups, remembered.
#[derive(Debug, Default)]
pub struct Costs {
    /// Nanoseconds; `None` for a group that is no kernel.
    known: HashMap<Bits, Option<i64>>,
    /// Steps that pricing has taken.
    pub steps: usize,
    /// Illegal groups, by the rule that forbids them.
    pub rejected: BTreeMap<String, usize>,
}

impl Costs {
    /// The cost of a closed group in nanoseconds, if it is legal.
    pub fn of(&mut self, board: &Board<'_>, set: &Bits) -> Option<i64> {
        if let Some(known) = self.known.get(set) {
            return *known;
        }
        let cost = match board.price(set) {
            Ok(us) => Some(nanoseconds(us)),
            Err(reject) => {
                *self.rejected.entry(reject.rule).or_default() += 1;
                None
            }
        };
        self.known.insert(set.clone(), cost);
        cost
    }

    /// Groups asked about so far.
    pub fn asked(&self) -> usize {
        self.known.len()
    }

    /// Those that are legal.
    pub fn legal(&self) -> usize {
        self.known.values().flatten().count()
    }
}
