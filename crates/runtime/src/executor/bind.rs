//! From the steps of a regime to launches at a shape: grids, addresses, integers.

use super::constants::Constants;
use super::device::{ArgValue, Launch, MAP_AXES, Place, Region, TensorMapValue};
use super::{ExecuteError, ManifestError};
use crate::memory::{ArenaPlan, StatesPlan};
use fusec_codegen::{
    Arg, BufferKind, Element, KernelImage, Manifest, MapExtent, Regime, Step, TensorMap,
};
use fusec_fuse::Shape;

/// Addresses of the regions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bases {
    /// Of the constants.
    pub constants: u64,
    /// Of the states.
    pub states: u64,
    /// Of the arena.
    pub arena: u64,
    /// Of what drawing keeps.
    pub drawing: u64,
}

impl Bases {
    pub(super) fn of(self, region: Region) -> u64 {
        match region {
            Region::Constants => self.constants,
            Region::States => self.states,
            Region::Arena => self.arena,
            Region::Drawing => self.drawing,
        }
    }
}

/// Which of a tail's two copies is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TailCopy {
    /// The one read in this run.
    Old,
    /// The one filled in this run.
    New,
}

/// Everything that says where the buffers of a regime lie.
#[derive(Clone, Copy, Debug)]
pub struct Binding<'a> {
    /// The manifest.
    pub manifest: &'a Manifest,
    /// Index of the regime.
    pub regime: usize,
    /// Places of constants.
    pub constants: &'a Constants,
    /// Places of states.
    pub states: &'a StatesPlan,
    /// Places of inputs, outputs and scratch.
    pub arena: &'a ArenaPlan,
    /// Which copy of each tail is the old one: 0 or 1. The other is the new one.
    pub parity: usize,
}

impl Binding<'_> {
    /// Where a buffer lies. `None` if it has no place: scratch that no step uses.
    pub fn place(&self, buffer: usize, copy: TailCopy) -> Option<Place> {
        let kind = self
            .manifest
            .regimes
            .get(self.regime)?
            .buffers
            .get(buffer)?
            .kind;
        match kind {
            BufferKind::Param(_) | BufferKind::LoadTime(_) => {
                let (offset, bytes) = self.constants.place(self.regime, buffer)?;
                Some(Place {
                    region: Region::Constants,
                    offset,
                    bytes,
                })
            }
            BufferKind::State(id) | BufferKind::Tail(id) => {
                let slot = self.states.slots.get(&id)?;
                let which = match copy {
                    TailCopy::Old => self.parity,
                    TailCopy::New => 1 - self.parity,
                };
                Some(Place {
                    region: Region::States,
                    offset: *slot.copies.get(which)?,
                    bytes: slot.bytes,
                })
            }
            BufferKind::Input(_)
            | BufferKind::Scratch(_)
            | BufferKind::Parts(_)
            | BufferKind::Segments(_)
            | BufferKind::Chunks(_)
            | BufferKind::Output(_) => {
                let slot = (*self.arena.slots.get(buffer)?)?;
                Some(Place {
                    region: Region::Arena,
                    offset: slot.offset,
                    bytes: slot.bytes,
                })
            }
        }
    }

    /// The launches of the regime, in order.
    pub fn launches(&self, bases: Bases) -> Result<Vec<Launch>, ExecuteError> {
        let regime = &self.manifest.regimes[self.regime];
        let steps = regime.steps.iter().enumerate();
        steps
            .map(|(at, step)| self.launch(at, step, bases))
            .collect()
    }

    fn launch(&self, at: usize, step: &Step, bases: Bases) -> Result<Launch, ExecuteError> {
        let kernel = &self.manifest.kernels[step.kernel];
        let regime = &self.manifest.regimes[self.regime];
        let shape = step.shape(self.arena.shape);
        let grid = grid(kernel, step, shape)?;
        let mut given = Vec::new();
        let args = step.args.iter().map(|arg| {
            let (buffer, copy) = match *arg {
                Arg::Batch => return Ok(ArgValue::Integer(shape.batch as i64)),
                Arg::Time => return Ok(ArgValue::Integer(shape.time as i64)),
                Arg::Position => return Ok(ArgValue::Position),
                Arg::TensorMap(map) => {
                    let map = step.tensor_maps.get(map);
                    given.extend(map.and_then(|map| self.place(map.buffer, TailCopy::Old)));
                    let value = map.and_then(|map| self.tensor_map(map, shape, bases));
                    let value = value.ok_or_else(|| ManifestError::Damaged {
                        place: format!("step {at} (kernel `{}`)", kernel.name),
                        reason: "a tensor map has no place in memory".into(),
                    })?;
                    return Ok(ArgValue::TensorMap(value));
                }
                Arg::Buffer(buffer) | Arg::OldTail(buffer) => (buffer, TailCopy::Old),
                Arg::NewTail(buffer) => (buffer, TailCopy::New),
            };
            let place = self
                .place(buffer, copy)
                .ok_or_else(|| ManifestError::Damaged {
                    place: format!("step {at} (kernel `{}`)", kernel.name),
                    reason: format!("buffer {buffer} has no place in memory"),
                })?;
            given.push(place);
            Ok(ArgValue::Address(
                bases.of(place.region) + place.offset as u64,
            ))
        });
        let args = args.collect::<Result<Vec<_>, ExecuteError>>()?;
        let born = |slot: &crate::memory::Slot, buffer: usize| {
            slot.lifetime.first == at && step.writes.contains(&buffer)
        };
        let slots = self.arena.slots.iter().enumerate();
        let fresh = slots
            .filter_map(|(buffer, slot)| Some((buffer, (*slot)?)))
            .filter(|(buffer, slot)| born(slot, *buffer))
            .map(|(_, slot)| Place {
                region: Region::Arena,
                offset: slot.offset,
                bytes: slot.bytes,
            })
            .chain(self.new_tails(at, step))
            .collect();
        Ok(Launch {
            step: at,
            kernel: step.kernel,
            name: kernel.name.clone(),
            computes: computed(regime, step),
            grid,
            block: kernel.threads,
            shared_bytes: kernel.shared_bytes,
            cooperative: step.cooperative,
            persistent: step.persistent,
            early: step.early,
            args,
            given,
            fresh,
        })
    }
}

impl Binding<'_> {
    /// A tensor map at the addresses and the shape of the run. `None` if its buffer has no place.
    fn tensor_map(&self, map: &TensorMap, shape: Shape, bases: Bases) -> Option<TensorMapValue> {
        let buffers = &self.manifest.regimes.get(self.regime)?.buffers;
        let element = buffers.get(map.buffer)?.element;
        let place = self.place(map.buffer, TailCopy::Old)?;
        let address = bases.of(place.region) + place.offset as u64;
        tensor_map(map, element, shape, address)
    }

    /// The new copies of the tails that a step is the first to write.
    fn new_tails<'s>(&'s self, at: usize, step: &'s Step) -> impl Iterator<Item = Place> + 's {
        let regime = &self.manifest.regimes[self.regime];
        let before = &regime.steps[..at];
        let written = step.writes.iter().copied();
        written
            .filter(|buffer| matches!(regime.buffers[*buffer].kind, BufferKind::Tail(_)))
            .filter(|buffer| !before.iter().any(|step| step.writes.contains(buffer)))
            .filter_map(|buffer| self.place(buffer, TailCopy::New))
    }
}

/// A tensor map of a buffer at an address, at the shape of a run. `None` if a box is too large.
pub(super) fn tensor_map(
    map: &TensorMap,
    element: Element,
    shape: Shape,
    buffer: u64,
) -> Option<TensorMapValue> {
    let (first, bytes) = (map.offset as u64, element.bytes() as u64);
    let mut value = TensorMapValue {
        address: buffer + first * bytes,
        element,
        axes: map.axes.len().min(MAP_AXES),
        extents: [1; MAP_AXES],
        strides: [bytes; MAP_AXES],
        spans: [1; MAP_AXES],
    };
    for (i, axis) in map.axes.iter().take(MAP_AXES).enumerate() {
        value.extents[i] = match axis.extent {
            MapExtent::Fixed(n) => n as u64,
            MapExtent::Rows => shape.batch as u64 * shape.time as u64,
        };
        value.strides[i] = axis.stride as u64 * bytes;
        value.spans[i] = u32::try_from(axis.span).ok()?;
    }
    Some(value)
}

/// The values that a step writes, in words: where in the model it stands.
pub(super) fn computed(regime: &Regime, step: &Step) -> String {
    const NAMED: usize = 3;
    let names = step.writes.iter().filter_map(|at| regime.buffers.get(*at));
    let names: Vec<String> = names.map(|of| format!("`{}`", of.name)).collect();
    match names.len().saturating_sub(NAMED) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names[..NAMED].join(", ")),
    }
}

/// Blocks of all lanes, which are as many as a grid can have.
pub(super) fn grid(kernel: &KernelImage, step: &Step, shape: Shape) -> Result<u32, ExecuteError> {
    let blocks = step
        .lanes
        .iter()
        .try_fold(0u64, |sum, lane| sum.checked_add(lane.count(shape)?));
    blocks
        .and_then(|blocks| u32::try_from(blocks).ok())
        .filter(|blocks| (1..=i32::MAX as u32).contains(blocks))
        .ok_or_else(|| ExecuteError::Launch {
            kernel: kernel.name.clone(),
            batch: shape.batch,
            time: shape.time,
            reason:
                "a grid has between 1 and 2147483647 blocks; use a smaller batch or a shorter run"
                    .into(),
        })
}
