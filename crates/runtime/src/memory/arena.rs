//! The arena: buffers of a run whose lifetimes do not meet share bytes.

use super::{ALIGNMENT, MemoryError, align};
use fusec_codegen::{Buffer, BufferKind, KernelImage, Regime};
use fusec_fuse::Shape;

/// The steps during which a buffer's contents matter, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// The first step that needs the memory.
    pub first: usize,
    /// The last step that needs it.
    pub last: usize,
}

impl Lifetime {
    /// Whether some step needs both.
    pub fn meets(self, other: Lifetime) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// A buffer's place in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// First byte, a multiple of [`ALIGNMENT`].
    pub offset: usize,
    /// Bytes of the buffer, without padding.
    pub bytes: usize,
    /// When it is in use.
    pub lifetime: Lifetime,
}

/// Places of the inputs, outputs and scratch buffers of a regime at a shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArenaPlan {
    /// The shape it is for.
    pub shape: Shape,
    /// For each buffer of the regime its place; `None` for what lives elsewhere (constants and
    /// states) and for scratch that no step uses.
    pub slots: Vec<Option<Slot>>,
    /// Size of the arena, a multiple of [`ALIGNMENT`].
    pub bytes: usize,
}

impl ArenaPlan {
    /// Plans the arena. `kernels` are the manifest's, for messages.
    pub fn new(
        regime: &Regime,
        kernels: &[KernelImage],
        shape: Shape,
    ) -> Result<Self, MemoryError> {
        Self::of(shape, regime, lifetimes(regime, kernels)?)
    }

    /// As [`ArenaPlan::new`], where inputs and outputs lie in memory of the caller.
    pub fn scratch(
        regime: &Regime,
        kernels: &[KernelImage],
        shape: Shape,
    ) -> Result<Self, MemoryError> {
        let mut lifetimes = lifetimes(regime, kernels)?;
        for (buffer, lifetime) in regime.buffers.iter().zip(&mut lifetimes) {
            if matches!(buffer.kind, BufferKind::Input(_) | BufferKind::Output(_)) {
                *lifetime = None;
            }
        }
        Self::of(shape, regime, lifetimes)
    }

    fn of(
        shape: Shape,
        regime: &Regime,
        lifetimes: Vec<Option<Lifetime>>,
    ) -> Result<Self, MemoryError> {
        let mut wanted = Vec::new();
        for (index, (buffer, lifetime)) in regime.buffers.iter().zip(lifetimes).enumerate() {
            let Some(lifetime) = lifetime else { continue };
            let too_large = || too_large(buffer, shape);
            let bytes = buffer.bytes(shape).ok_or_else(too_large)?;
            let padded = align(bytes).ok_or_else(too_large)?;
            wanted.push((index, bytes, padded, lifetime));
        }
        // The largest first: small buffers fill what the large ones leave. Ties go by index, so
        // that the plan is the same everywhere.
        wanted.sort_by_key(|(index, _, padded, _)| (std::cmp::Reverse(*padded), *index));
        let mut slots = vec![None; regime.buffers.len()];
        let mut placed: Vec<Slot> = Vec::new();
        let mut total = 0usize;
        for (index, bytes, padded, lifetime) in wanted {
            let taken: Vec<(usize, usize)> = placed
                .iter()
                .filter(|slot| slot.lifetime.meets(lifetime))
                .map(|slot| {
                    (
                        slot.offset,
                        slot.offset + slot.bytes.next_multiple_of(ALIGNMENT),
                    )
                })
                .collect();
            let offset = best_fit(taken, padded);
            let end = offset
                .checked_add(padded)
                .ok_or_else(|| too_large(&regime.buffers[index], shape))?;
            total = total.max(end);
            let slot = Slot {
                offset,
                bytes,
                lifetime,
            };
            placed.push(slot);
            slots[index] = Some(slot);
        }
        Ok(Self {
            shape,
            slots,
            bytes: total,
        })
    }
}

/// Start of the smallest gap between `taken` ranges that holds `bytes`, or the end of the last.
fn best_fit(mut taken: Vec<(usize, usize)>, bytes: usize) -> usize {
    taken.sort_unstable();
    let mut best: Option<(usize, usize)> = None;
    let mut end = 0;
    for (start, stop) in taken {
        let gap = start.saturating_sub(end);
        if gap >= bytes && best.is_none_or(|(size, _)| gap < size) {
            best = Some((gap, end));
        }
        end = end.max(stop);
    }
    best.map_or(end, |(_, offset)| offset)
}

fn too_large(buffer: &Buffer, shape: Shape) -> MemoryError {
    MemoryError::TooLarge {
        buffer: buffer.name.clone(),
        batch: shape.batch,
        time: shape.time,
    }
}

/// The lifetime of each buffer that belongs in the arena.
///
/// Inputs stay valid to the end of the run, so that a run can be repeated for timing without
/// being given its inputs again.
fn lifetimes(
    regime: &Regime,
    kernels: &[KernelImage],
) -> Result<Vec<Option<Lifetime>>, MemoryError> {
    let end = regime.steps.len().saturating_sub(1);
    let mut first_write = vec![None; regime.buffers.len()];
    let mut last_use = vec![None; regime.buffers.len()];
    for (at, step) in regime.steps.iter().enumerate() {
        for &buffer in &step.reads {
            let kind = regime.buffers[buffer].kind;
            let given_before = !matches!(
                kind,
                BufferKind::Scratch(_)
                    | BufferKind::Parts(_)
                    | BufferKind::Segments(_)
                    | BufferKind::Chunks(_)
                    | BufferKind::Output(_)
            );
            // A step may read what it writes itself: a grid barrier lies between.
            if !given_before && first_write[buffer].is_none() && !step.writes.contains(&buffer) {
                return Err(MemoryError::ReadBeforeWrite {
                    buffer: regime.buffers[buffer].name.clone(),
                    step: at,
                    kernel: kernels
                        .get(step.kernel)
                        .map_or_else(|| "?".to_owned(), |kernel| kernel.name.clone()),
                });
            }
            last_use[buffer] = Some(at);
        }
        for &buffer in &step.writes {
            first_write[buffer].get_or_insert(at);
            last_use[buffer] = Some(at);
        }
    }
    let uses = first_write.into_iter().zip(last_use);
    let buffers = regime.buffers.iter().zip(uses);
    buffers
        .map(|(buffer, (first, last))| match buffer.kind {
            BufferKind::Input(_) => Ok(Some(Lifetime {
                first: 0,
                last: end,
            })),
            BufferKind::Output(_) => match first {
                Some(first) => Ok(Some(Lifetime { first, last: end })),
                None => Err(MemoryError::NeverWritten {
                    buffer: buffer.name.clone(),
                }),
            },
            BufferKind::Scratch(_)
            | BufferKind::Parts(_)
            | BufferKind::Segments(_)
            | BufferKind::Chunks(_) => Ok(first
                .zip(last)
                .map(|(first, last)| Lifetime { first, last })),
            BufferKind::Param(_)
            | BufferKind::LoadTime(_)
            | BufferKind::State(_)
            | BufferKind::Tail(_) => Ok(None),
        })
        .collect()
}
