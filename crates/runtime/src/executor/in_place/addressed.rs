//! From the steps of a regime to launches whose addresses are filled in by each run.

use super::{Addresses, damaged};
use crate::executor::bind::{computed, grid, tensor_map};
use crate::executor::device::TensorMapValue;
use crate::executor::{ArgValue, Constants, ExecuteError, Launch};
use crate::memory::ArenaPlan;
use fusec_codegen::{Arg, BufferKind, Manifest, Step};
use fusec_fuse::Shape;

/// Which address a run gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// What the model holds.
    Held,
    Workspace,
    Input(usize),
    Param(usize),
    LoadTime(usize),
    Output(usize),
    Before(usize),
    After(usize),
}

/// A buffer: an address of the run, and bytes from there.
type Place = (Source, u64);

#[derive(Clone, Debug)]
enum AddressedArg {
    Value(ArgValue),
    Address(Place),
    /// Its address is counted from 0.
    Map(Box<TensorMapValue>, Place),
}

/// A launch without its addresses.
#[derive(Clone, Debug)]
pub(super) struct Addressed {
    /// Everything else; its arguments are empty.
    pub(super) launch: Launch,
    args: Vec<AddressedArg>,
}

/// The addresses of a run, all of them.
pub(super) struct Table<'a> {
    pub(super) constants: u64,
    pub(super) before: &'a [u64],
    pub(super) given: &'a Addresses<'a>,
}

impl Table<'_> {
    fn address(&self, (source, offset): Place) -> Option<u64> {
        let base = match source {
            Source::Held => self.constants,
            Source::Workspace => self.given.workspace,
            Source::Input(at) => *self.given.inputs.get(at)?,
            Source::Param(at) => *self.given.params.get(at)?,
            Source::LoadTime(at) => *self.given.load_time.get(at)?,
            Source::Output(at) => *self.given.outputs.get(at)?,
            Source::Before(at) => *self.before.get(at)?,
            Source::After(at) => *self.given.after.get(at)?,
        };
        Some(base + offset)
    }
}

impl Addressed {
    /// The arguments of a run.
    pub(super) fn arguments(
        &self,
        table: &Table<'_>,
        args: &mut Vec<ArgValue>,
    ) -> Result<(), ExecuteError> {
        args.clear();
        for arg in &self.args {
            let missing = || damaged(&self.launch.name, "a tensor of its run is missing".into());
            args.push(match arg {
                AddressedArg::Value(value) => *value,
                AddressedArg::Address(place) => {
                    ArgValue::Address(table.address(*place).ok_or_else(missing)?)
                }
                AddressedArg::Map(map, place) => ArgValue::TensorMap(TensorMapValue {
                    address: table.address(*place).ok_or_else(missing)? + map.address,
                    ..**map
                }),
            });
        }
        Ok(())
    }
}

/// What says where the buffers of a regime lie.
pub(super) struct Given<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) regime: usize,
    /// Of a model that holds its weights.
    pub(super) constants: Option<&'a Constants>,
    /// Places of scratch.
    pub(super) arena: &'a ArenaPlan,
}

impl Given<'_> {
    pub(super) fn launches(&self) -> Result<Vec<Addressed>, ExecuteError> {
        let steps = self.manifest.regimes[self.regime].steps.iter().enumerate();
        steps.map(|(at, step)| self.launch(at, step)).collect()
    }

    /// Where a buffer lies; `new`: the copy of a tail that the run fills.
    fn place(&self, buffer: usize, new: bool) -> Option<Place> {
        let regime = &self.manifest.regimes[self.regime];
        let kind = regime.buffers.get(buffer)?.kind;
        let held = |constants: &Constants| {
            let (offset, _) = constants.place(self.regime, buffer)?;
            Some((Source::Held, offset as u64))
        };
        match (kind, self.constants) {
            (BufferKind::Param(_) | BufferKind::LoadTime(_), Some(constants)) => held(constants),
            (BufferKind::Param(id), None) => Some((Source::Param(id.index()), 0)),
            (BufferKind::LoadTime(_), None) => {
                let before = regime.buffers[..buffer].iter();
                let before = before.filter(|b| matches!(b.kind, BufferKind::LoadTime(_)));
                Some((Source::LoadTime(before.count()), 0))
            }
            (BufferKind::Input(id), _) => {
                let at = regime.graph.inputs.iter().position(|input| *input == id)?;
                Some((Source::Input(at), 0))
            }
            (BufferKind::Output(id), _) => {
                let at = regime.graph.outputs.iter().position(|out| *out == id)?;
                Some((Source::Output(at), 0))
            }
            (BufferKind::State(id), _) => Some((Source::After(id.index()), 0)),
            (BufferKind::Tail(id), _) if new => Some((Source::After(id.index()), 0)),
            (BufferKind::Tail(id), _) => Some((Source::Before(id.index()), 0)),
            (
                BufferKind::Scratch(_)
                | BufferKind::Parts(_)
                | BufferKind::Segments(_)
                | BufferKind::Chunks(_),
                _,
            ) => {
                let slot = (*self.arena.slots.get(buffer)?)?;
                Some((Source::Workspace, slot.offset as u64))
            }
        }
    }

    fn launch(&self, at: usize, step: &Step) -> Result<Addressed, ExecuteError> {
        let regime = &self.manifest.regimes[self.regime];
        let kernel = &self.manifest.kernels[step.kernel];
        let shape = step.shape(self.arena.shape);
        let args = step.args.iter().map(|arg| {
            self.argument(step, *arg, shape).ok_or_else(|| {
                damaged(
                    &format!("step {at} (kernel `{}`)", kernel.name),
                    format!("{arg:?} has no place in memory"),
                )
            })
        });
        Ok(Addressed {
            args: args.collect::<Result<_, _>>()?,
            launch: Launch {
                step: at,
                kernel: step.kernel,
                name: kernel.name.clone(),
                computes: computed(regime, step),
                grid: grid(kernel, step, shape)?,
                block: kernel.threads,
                shared_bytes: kernel.shared_bytes,
                cooperative: step.cooperative,
                persistent: step.persistent,
                early: step.early,
                args: Vec::new(),
                given: Vec::new(),
                fresh: Vec::new(),
            },
        })
    }

    fn argument(&self, step: &Step, arg: Arg, shape: Shape) -> Option<AddressedArg> {
        Some(match arg {
            Arg::Batch => AddressedArg::Value(ArgValue::Integer(shape.batch as i64)),
            Arg::Time => AddressedArg::Value(ArgValue::Integer(shape.time as i64)),
            Arg::Position => AddressedArg::Value(ArgValue::Position),
            Arg::Buffer(buffer) | Arg::OldTail(buffer) => {
                AddressedArg::Address(self.place(buffer, false)?)
            }
            Arg::NewTail(buffer) => AddressedArg::Address(self.place(buffer, true)?),
            Arg::TensorMap(map) => {
                let map = step.tensor_maps.get(map)?;
                let buffers = &self.manifest.regimes[self.regime].buffers;
                let element = buffers.get(map.buffer)?.element;
                let value = tensor_map(map, element, shape, 0)?;
                AddressedArg::Map(Box::new(value), self.place(map.buffer, false)?)
            }
        })
    }
}
