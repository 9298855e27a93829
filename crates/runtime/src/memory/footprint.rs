//! All the memory a model needs at a shape, with the figures a person needs to act on it.

use super::{ArenaPlan, MemoryError, StatesPlan, format_bytes, host};
use fusec_codegen::Regime;
use std::fmt;

/// Bytes of each region, and the buffer of the run that takes most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Parameters and load-time results.
    pub weights: usize,
    /// Scan states.
    pub states: usize,
    /// Both copies of all stencil tails.
    pub tails: usize,
    /// Inputs, outputs and scratch.
    pub arena: usize,
    /// Copies that the caller of a run keeps: what is given, what is got, what is expected.
    pub host: usize,
    /// Name and size of the largest buffer in the arena.
    pub largest: Option<(String, usize)>,
}

impl Footprint {
    /// Adds up the plans of a regime. `weights` is the size of the region of constants.
    pub fn new(regime: &Regime, weights: usize, states: &StatesPlan, arena: &ArenaPlan) -> Self {
        let largest = regime
            .buffers
            .iter()
            .zip(&arena.slots)
            .filter_map(|(buffer, slot)| Some((buffer, (*slot)?.bytes)))
            // The first of equals, so that the message is the same everywhere.
            .fold(
                None,
                |best: Option<(&str, usize)>, (buffer, bytes)| match best {
                    Some((_, most)) if most >= bytes => best,
                    _ => Some((&buffer.name, bytes)),
                },
            )
            .map(|(name, bytes)| (name.to_owned(), bytes));
        Self {
            weights,
            states: states.scan_bytes,
            tails: states.tail_bytes,
            arena: arena.bytes,
            host: 0,
            largest,
        }
    }

    /// Peak number of bytes, saturating.
    pub fn total(&self) -> usize {
        [self.weights, self.states, self.tails, self.arena, self.host]
            .into_iter()
            .fold(0, usize::saturating_add)
    }

    /// Refuses with figures what this machine has no memory for, beside `held` bytes of it that are
    /// allocated already.
    pub fn check_host(&self, held: usize) -> Result<(), MemoryError> {
        match host::available() {
            Some(free) => self.check(held, free),
            None => Ok(()),
        }
    }

    /// Refuses with figures when `held` (already allocated for this model) and `free` bytes
    /// together are too few.
    pub fn check(&self, held: usize, free: usize) -> Result<(), MemoryError> {
        let available = held.saturating_add(free);
        if self.total() <= available {
            return Ok(());
        }
        Err(MemoryError::DoesNotFit {
            footprint: Box::new(self.clone()),
            free: available,
        })
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "weights {}, states {}, tails {}, arena {}",
            format_bytes(self.weights),
            format_bytes(self.states),
            format_bytes(self.tails),
            format_bytes(self.arena)
        )?;
        if self.host > 0 {
            write!(f, ", inputs and results {}", format_bytes(self.host))?;
        }
        match &self.largest {
            Some((name, bytes)) => {
                write!(f, "; largest buffer: `{name}`, {}", format_bytes(*bytes))
            }
            None => Ok(()),
        }
    }
}
