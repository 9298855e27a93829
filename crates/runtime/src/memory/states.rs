//! The region of states: what is carried from one run to the next, for one batch size.

use super::{MemoryError, align};
use fusec_codegen::{Buffer, BufferKind, Element, Regime};
use fusec_fuse::Shape;
use fusec_ir::StateId;
use std::collections::BTreeMap;

/// A state's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateSlot {
    /// First byte of each copy: both the same for a scan state, which is updated in place;
    /// two for a tail, exchanged after each run.
    pub copies: [usize; 2],
    /// Bytes of one copy, without padding.
    pub bytes: usize,
    /// Element type in memory.
    pub element: Element,
}

/// Places of all states for one batch size. All regimes agree on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatesPlan {
    /// Sequences.
    pub batch: usize,
    /// Places by state.
    pub slots: BTreeMap<StateId, StateSlot>,
    /// Bytes of scan states.
    pub scan_bytes: usize,
    /// Bytes of tails, both copies.
    pub tail_bytes: usize,
}

impl StatesPlan {
    /// Plans the states of a regime.
    pub fn new(regime: &Regime, batch: usize) -> Result<Self, MemoryError> {
        let mut plan = Self {
            batch,
            slots: BTreeMap::new(),
            scan_bytes: 0,
            tail_bytes: 0,
        };
        for buffer in &regime.buffers {
            let (id, copies) = match buffer.kind {
                BufferKind::State(id) => (id, 1),
                BufferKind::Tail(id) => (id, 2),
                _ => continue,
            };
            plan.place(buffer, id, copies)
                .ok_or_else(|| MemoryError::TooLarge {
                    buffer: buffer.name.clone(),
                    batch,
                    time: 1,
                })?;
        }
        Ok(plan)
    }

    fn place(&mut self, buffer: &Buffer, id: StateId, copies: usize) -> Option<()> {
        // The extent of a state never depends on T.
        let shape = Shape {
            batch: self.batch,
            time: 1,
        };
        let bytes = buffer.bytes(shape)?;
        let padded = align(bytes)?;
        let start = self.scan_bytes.checked_add(self.tail_bytes)?;
        let all = padded.checked_mul(copies)?;
        start.checked_add(all)?;
        if copies == 1 {
            self.scan_bytes += all;
        } else {
            self.tail_bytes += all;
        }
        let second = if copies == 1 { start } else { start + padded };
        self.slots.insert(
            id,
            StateSlot {
                copies: [start, second],
                bytes,
                element: buffer.element,
            },
        );
        Some(())
    }

    /// Size of the region.
    pub fn bytes(&self) -> usize {
        self.scan_bytes + self.tail_bytes
    }
}
