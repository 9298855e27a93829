//! Runs on memory of the caller, on the caller's stream: nothing is copied, nothing is waited for.
//!
//! [`InPlace`] resolves a regime at a shape to launches once; a run puts addresses into them and submits
//! them. Everything that a run touches, scratch too, is given to it, so that runs share nothing that they
//! write and any number of them can be under way, on any streams; small scratch may be what the runs of a
//! stream have in turn ([`Lent`]). A [`Launcher`] launches.

mod addressed;
mod launcher;

pub use launcher::{DeviceBytes, LENT_BYTES, Launcher, Lent, Run};

use super::recent::Recent;
use super::{Constants, ExecuteError, ManifestError, check_manifest, regime_for};
use crate::memory::{ALIGNMENT, ArenaPlan, MemoryError, StatesPlan, align};
use crate::weights::Weights;
use addressed::{Addressed, Given};
use fusec_codegen::{BufferKind, Element, Manifest, Regime};
use fusec_fuse::Shape;
use fusec_ir::{StateId, StateKind, ValueId};
use std::sync::{Arc, Mutex, PoisonError};

/// Shapes whose launches are kept.
pub(crate) const KEPT_SHAPES: usize = 64;
/// What addresses of tensors are multiples of: kernels copy this many bytes at once.
pub const TENSOR_ALIGNMENT: usize = 16;

/// A compiled model that runs on memory of the caller.
pub struct InPlace {
    launcher: Box<dyn Launcher>,
    manifest: Manifest,
    /// Of a model that holds its weights: where they lie.
    held: Option<(Constants, u64)>,
    prepared: Mutex<Recent<Shape, Arc<Prepared>>>,
}

/// The addresses of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Addresses<'a> {
    /// Of the inputs, in the order of the graph's.
    pub inputs: &'a [u64],
    /// Of the parameters, in the order of the graph's; none where the model holds weights.
    pub params: &'a [u64],
    /// Of what follows from the parameters, in the order of [`InPlace::load_time`] of the run's regime.
    pub load_time: &'a [u64],
    /// Where the outputs go, in the order of the graph's.
    pub outputs: &'a [u64],
    /// Of the states before the run; `None`, or the end of the list: as before the first token.
    pub before: &'a [Option<u64>],
    /// Where the states after the run go.
    pub after: &'a [u64],
    /// [`Prepared::workspace`] bytes, a multiple of 256.
    pub workspace: u64,
}

/// What is resolved for runs of one shape.
#[derive(Debug)]
pub struct Prepared {
    /// Index of the regime.
    pub regime: usize,
    /// B and T.
    pub shape: Shape,
    /// Bytes that a run needs beside tensors.
    pub workspace: usize,
    launches: Vec<Addressed>,
    states: Vec<StateRun>,
}

/// How a state begins.
#[derive(Clone, Copy, Debug)]
struct StateRun {
    bytes: usize,
    /// The pattern of its first value, four bytes.
    initial: u32,
    /// For rows that are read in one place and written in another: where in the workspace they are read
    /// when none are given.
    rows: Option<usize>,
}

impl std::fmt::Debug for InPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InPlace")
            .field("model", &self.manifest.model)
            .field("device", &self.launcher.name())
            .finish_non_exhaustive()
    }
}

impl InPlace {
    /// Binds a manifest to what launches its kernels. `weights`: those that the model holds, which are
    /// uploaded; without, each run brings its parameters.
    pub fn new(
        mut launcher: Box<dyn Launcher>,
        manifest: Manifest,
        weights: Option<&Weights>,
    ) -> Result<Self, ExecuteError> {
        check_manifest(&manifest)?;
        let held = match weights {
            None => None,
            Some(weights) => {
                let mut constants = Constants::new(&manifest, weights)?;
                let address = launcher.allocate(constants.bytes())?;
                constants.upload(&manifest, weights, |offset, bytes| {
                    launcher.write(offset, bytes)
                })?;
                Some((constants, address))
            }
        };
        Ok(Self {
            launcher,
            manifest,
            held,
            prepared: Mutex::new(Recent::new(KEPT_SHAPES)),
        })
    }

    /// What runs it.
    pub fn name(&self) -> String {
        self.launcher.name()
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The stream of runs whose caller has none, to be waited for with [`InPlace::wait`].
    pub fn own_stream(&self) -> Result<u64, ExecuteError> {
        self.launcher.own_stream()
    }

    /// Waits for what was submitted to [`InPlace::own_stream`].
    pub fn wait(&self) -> Result<(), ExecuteError> {
        self.launcher.wait()
    }

    /// Memory of the device for the caller, until it is dropped.
    pub fn memory(&self, bytes: usize) -> Result<Box<dyn DeviceBytes>, ExecuteError> {
        self.launcher.memory(bytes)
    }

    /// What the runs of a stream have in turn, if it is not being recorded.
    pub fn lent(&self, stream: u64) -> Result<Option<Lent>, ExecuteError> {
        self.launcher.lent(stream)
    }

    /// The values of a regime that follow from parameters alone and that its kernels read, with their
    /// element types.
    pub fn load_time(&self, regime: usize) -> Vec<(ValueId, Element)> {
        let buffers = self.manifest.regimes[regime].buffers.iter();
        let values = buffers.filter_map(|buffer| match buffer.kind {
            BufferKind::LoadTime(id) => Some((id, buffer.element)),
            _ => None,
        });
        values.collect()
    }

    /// The type in which a tensor lies, as all regimes that have it have it: `None` if none does.
    /// `of`: whether a buffer is that tensor.
    pub fn element(
        &self,
        of: impl Fn(&Regime, BufferKind) -> bool,
    ) -> Result<Option<Element>, ExecuteError> {
        let mut found = None;
        for regime in &self.manifest.regimes {
            let buffers = regime.buffers.iter();
            for buffer in buffers.filter(|buffer| of(regime, buffer.kind)) {
                if *found.get_or_insert(buffer.element) != buffer.element {
                    let reason = format!("`{}` has one type here, another there", buffer.name);
                    return Err(damaged(&regime.name, reason));
                }
            }
        }
        Ok(found)
    }

    /// What runs of a shape need.
    pub fn prepare(&self, shape: Shape) -> Result<Arc<Prepared>, ExecuteError> {
        let mut kept = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(prepared) = kept.get(&shape) {
            return Ok(prepared.clone());
        }
        let prepared = Arc::new(self.prepare_anew(shape)?);
        kept.insert(shape, prepared.clone());
        Ok(prepared)
    }

    fn prepare_anew(&self, shape: Shape) -> Result<Prepared, ExecuteError> {
        let at = regime_for(&self.manifest, shape, 0)?;
        let regime = &self.manifest.regimes[at];
        let arena = ArenaPlan::scratch(regime, &self.manifest.kernels, shape)?;
        let plan = StatesPlan::new(regime, shape.batch)?;
        let too_large = |of: &str| MemoryError::TooLarge {
            buffer: of.to_owned(),
            batch: shape.batch,
            time: shape.time,
        };
        let mut workspace = arena.bytes;
        let mut states = Vec::new();
        for (i, state) in regime.graph.states.iter().enumerate() {
            let id = StateId(i as u32);
            let slot = plan.slots.get(&id);
            let bytes = slot.map_or(0, |slot| slot.bytes);
            let (initial, rows) = match state.kind {
                StateKind::Scan { init } => (first_word(init, slot.map(|s| s.element)), None),
                StateKind::Tail { .. } => {
                    let place = workspace;
                    let end = align(bytes).and_then(|bytes| place.checked_add(bytes));
                    workspace = end.ok_or_else(|| too_large(&state.name))?;
                    (0, Some(place))
                }
            };
            states.push(StateRun {
                bytes,
                initial,
                rows,
            });
        }
        let given = Given {
            manifest: &self.manifest,
            regime: at,
            constants: self.held.as_ref().map(|(constants, _)| constants),
            arena: &arena,
        };
        Ok(Prepared {
            regime: at,
            shape,
            workspace: workspace.next_multiple_of(ALIGNMENT),
            launches: given.launches()?,
            states,
        })
    }

    /// Submits a run that begins at a position to a stream, and waits for nothing.
    ///
    /// # Safety
    ///
    /// The addresses are those of memory of the launcher's device that holds what the manifest says, in its
    /// element types, row-major, and that is there, and touched by nobody else, until the stream has come
    /// to the end of the run; constants of the model outlive that as well. Addresses are multiples of
    /// [`TENSOR_ALIGNMENT`]. The stream is one of the device.
    pub unsafe fn run(
        &self,
        prepared: &Prepared,
        position: i64,
        addresses: &Addresses<'_>,
        stream: u64,
    ) -> Result<(), ExecuteError> {
        regime_for(&self.manifest, prepared.shape, position)?;
        let constants = self.held.as_ref().map_or(0, |(_, address)| *address);
        let mut run = self.launcher.begin(stream)?;
        let mut before = Vec::with_capacity(prepared.states.len());
        for (i, state) in prepared.states.iter().enumerate() {
            let missing = || damaged("states", format!("state {i} has no address"));
            let after = *addresses.after.get(i).ok_or_else(missing)?;
            let given = addresses.before.get(i).copied().flatten();
            // SAFETY: the caller's promise: each address is of a state, which has these bytes.
            before.push(unsafe {
                match (state.rows, given) {
                    // Updated in place: begins as a copy.
                    (None, Some(from)) => {
                        run.copy(after, from, state.bytes)?;
                        after
                    }
                    (None, None) => {
                        run.fill(after, state.initial, state.bytes)?;
                        after
                    }
                    (Some(_), Some(given)) => given,
                    (Some(at), None) => {
                        let rows = addresses.workspace + at as u64;
                        run.fill(rows, state.initial, state.bytes)?;
                        rows
                    }
                }
            });
        }
        let table = addressed::Table {
            constants,
            before: &before,
            given: addresses,
        };
        let mut args = Vec::new();
        for launch in &prepared.launches {
            launch.arguments(&table, &mut args)?;
            // SAFETY: the caller's promise, and the arguments are those of the kernel, as the manifest's check
            // has shown.
            unsafe { run.launch(&launch.launch, &args, position)? };
        }
        Ok(())
    }
}

/// Four bytes of a state that begins with one value everywhere.
fn first_word(init: f64, element: Option<Element>) -> u32 {
    let twice = |half: u16| u32::from(half) << 16 | u32::from(half);
    match element {
        Some(Element::Bf16) => twice(half::bf16::from_f64(init).to_bits()),
        Some(Element::F16) => twice(half::f16::from_f64(init).to_bits()),
        _ => (init as f32).to_bits(),
    }
}

fn damaged(place: &str, reason: String) -> ExecuteError {
    ManifestError::Damaged {
        place: place.to_owned(),
        reason,
    }
    .into()
}
