//! Running a compiled model: a manifest bound to weights, memory and a device.
//!
//! [`Executor`] does what is the same everywhere (memory plans, arguments, tails, states, inputs
//! and outputs); a [`Device`] holds memory and launches kernels: [`EmulatedDevice`] on the CPU,
//! [`gpu::GpuDevice`] on a GPU. Never here: choosing kernels, compiling them, reading checkpoints.

mod bind;
mod check;
mod constants;
mod device;
mod drawing;
mod emulated;
mod error;
pub mod gpu;
pub mod in_place;
mod input;
mod recent;
mod state;

pub use bind::{Bases, Binding, TailCopy};
pub use check::check as check_manifest;
pub use constants::Constants;
pub use device::{ArgValue, Device, Launch, Place, Region, RunKey, Submission};
pub use drawing::{Drawn, GoesOn, MOST_STEPS, add_drawing_kernel};
pub use emulated::{EmulatedDevice, EmulatedLauncher};
pub use error::{ExecuteError, InputError, ManifestError, StateError};
pub use state::HostState;

use crate::element::{decode, decode_ids, encode};
use crate::memory::{ArenaPlan, Footprint, StatesPlan};
use crate::weights::Weights;
use fusec_codegen::{BufferKind, Element, Extent, Manifest};
use fusec_fuse::Shape;
use fusec_ir::interpret::{Input, Tensor};
use fusec_ir::{Graph, StateId, ValueId};
pub(crate) use recent::Recent;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Launch lists and arena plans that are kept for shapes seen before.
const KEPT_PLANS: usize = 32;

/// What a run copies back for the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fetch {
    /// Every row of every output: `[B, T, axes...]`.
    #[default]
    All,
    /// The last row of every output: `[B, 1, axes...]`.
    LastRow,
    /// Nothing.
    Nothing,
    /// Every row of every output, and every value that a kernel stores. Slow: the run waits
    /// after each kernel.
    Stored,
}

/// What a run gave.
#[derive(Clone, Debug, PartialEq)]
pub struct RunResult {
    /// Index of the regime that ran.
    pub regime: usize,
    /// The outputs, in the order of the graph's.
    pub outputs: Vec<Tensor<f32>>,
    /// With [`Fetch::Stored`], the values that kernels stored, by their id in the regime's graph.
    pub stored: BTreeMap<ValueId, Tensor<f32>>,
    /// Kernel launches.
    pub launches: usize,
    /// How they were submitted.
    pub submission: Submission,
}

/// A compiled model on a device, with the state of a batch of sequences.
#[derive(Debug)]
pub struct Executor<D> {
    device: D,
    manifest: Manifest,
    constants: Constants,
    states: StatesPlan,
    bases: Bases,
    arena_bytes: usize,
    parity: usize,
    position: i64,
    plans: Recent<(usize, Shape), Arc<ArenaPlan>>,
    launches: Recent<RunKey, Arc<Vec<Launch>>>,
    /// How tokens are drawn on the device, if they are.
    drawing: Option<drawing::Drawing>,
    /// Why the state is unknown, after a run that failed half way.
    interrupted: Option<String>,
}

impl<D: Device> Executor<D> {
    /// Binds a manifest to a device and uploads the weights. Memory is checked for runs at
    /// `shape` before anything is allocated; longer runs make the arena grow later.
    pub fn new(
        device: D,
        manifest: Manifest,
        weights: &Weights,
        shape: Shape,
    ) -> Result<Self, ExecuteError> {
        check_manifest(&manifest)?;
        let regime = regime_for(&manifest, shape, 0)?;
        let mut constants = Constants::new(&manifest, weights)?;
        let states = StatesPlan::new(&manifest.regimes[regime], shape.batch)?;
        let arena = ArenaPlan::new(&manifest.regimes[regime], &manifest.kernels, shape)?;
        let total = Footprint::new(
            &manifest.regimes[regime],
            constants.bytes(),
            &states,
            &arena,
        );
        if let Some(free) = device.free_bytes()? {
            total.check(0, free)?;
        }
        let mut device = device;
        let bases = Bases {
            constants: device.allocate(Region::Constants, constants.bytes())?,
            states: device.allocate(Region::States, states.bytes())?,
            arena: device.allocate(Region::Arena, arena.bytes)?,
            drawing: 0,
        };
        constants.upload(&manifest, weights, |offset, bytes| {
            let place = Place {
                region: Region::Constants,
                offset,
                bytes: bytes.len(),
            };
            device.write(place, bytes)
        })?;
        let mut executor = Self {
            device,
            manifest,
            constants,
            states,
            bases,
            arena_bytes: arena.bytes,
            parity: 0,
            position: 0,
            plans: Recent::new(KEPT_PLANS),
            launches: Recent::new(KEPT_PLANS),
            drawing: None,
            interrupted: None,
        };
        executor.plans.insert((regime, shape), Arc::new(arena));
        executor.reset(shape.batch)?;
        Ok(executor)
    }

    /// Other weights of the model in place of those it has. The state stays; after an error the weights
    /// are unknown, and runs are refused.
    pub fn set_weights(&mut self, weights: &Weights) -> Result<(), ExecuteError> {
        self.refuse_if_interrupted()?;
        let mut constants = Constants::new(&self.manifest, weights)?;
        if !constants.lie_as(&self.constants) {
            // What is equal is held once, and other values need not be. Recorded runs hold addresses: they
            // go with the allocation.
            self.launches.clear();
            self.interrupted = Some("the weights could not be allocated".into());
            self.bases.constants = self.device.allocate(Region::Constants, constants.bytes())?;
            self.interrupted = None;
        }
        let device = &mut self.device;
        let uploaded = constants.upload(&self.manifest, weights, |offset, bytes| {
            let place = Place {
                region: Region::Constants,
                offset,
                bytes: bytes.len(),
            };
            device.write(place, bytes)
        });
        if let Err(error) = &uploaded {
            self.interrupted = Some(error.to_string());
        }
        self.constants = constants;
        uploaded
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// A graph that has the model's parameters, states, inputs and outputs.
    pub fn graph(&self) -> &Graph {
        // A manifest without regimes does not pass the check.
        &self.manifest.regimes[0].graph
    }

    /// Sequences of the state.
    pub fn batch(&self) -> usize {
        self.states.batch
    }

    /// Tokens seen so far.
    pub fn position(&self) -> i64 {
        self.position
    }

    /// The memory that runs at a shape need.
    pub fn footprint(&self, shape: Shape) -> Result<Footprint, ExecuteError> {
        let at = regime_for(&self.manifest, shape, self.position)?;
        let regime = &self.manifest.regimes[at];
        let states = StatesPlan::new(regime, shape.batch)?;
        let arena = ArenaPlan::new(regime, &self.manifest.kernels, shape)?;
        Ok(Footprint::new(
            regime,
            self.constants.bytes(),
            &states,
            &arena,
        ))
    }

    /// Forgets everything seen and begins with `batch` new sequences.
    pub fn reset(&mut self, batch: usize) -> Result<(), ExecuteError> {
        let shape = Shape { batch, time: 1 };
        regime_for(&self.manifest, shape, 0)?;
        let state = HostState::initial(self.graph(), batch);
        self.load_state(&state)
    }

    /// The state, in the host's form.
    pub fn save_state(&mut self) -> Result<HostState, ExecuteError> {
        self.refuse_if_interrupted()?;
        let mut tensors = BTreeMap::new();
        for (id, slot) in &self.states.slots {
            let place = Place {
                region: Region::States,
                offset: slot.copies[self.parity],
                bytes: slot.bytes,
            };
            let bytes = self.device.read(place)?;
            tensors.insert(*id, decode(&bytes, slot.element));
        }
        Ok(HostState {
            batch: self.states.batch,
            position: self.position,
            tensors,
        })
    }

    /// Takes over a state, whatever way of running it came from.
    pub fn load_state(&mut self, state: &HostState) -> Result<(), ExecuteError> {
        state.check(self.graph())?;
        if state.batch != self.states.batch {
            let states = StatesPlan::new(&self.manifest.regimes[0], state.batch)?;
            self.check_free(
                self.states.bytes(),
                states.bytes(),
                self.arena_bytes,
                &states,
            )?;
            self.launches.clear();
            // Should the allocation fail, there are no states, for any number of sequences.
            self.interrupted = Some("the states could not be allocated".into());
            self.states.batch = 0;
            self.bases.states = self.device.allocate(Region::States, states.bytes())?;
            self.states = states;
        }
        self.end_drawing();
        let result = self.write_state(state);
        match &result {
            Ok(()) => {
                self.position = state.position;
                self.interrupted = None;
            }
            Err(error) => self.interrupted = Some(error.to_string()),
        }
        result
    }

    fn write_state(&mut self, state: &HostState) -> Result<(), ExecuteError> {
        for (id, slot) in &self.states.slots {
            let name = &self.manifest.regimes[0].graph.state(*id).name;
            let values: &[f32] = state.tensors.get(id).map_or(&[], Vec::as_slice);
            let bytes = encode(name, values, slot.element)?;
            let place = Place {
                region: Region::States,
                offset: slot.copies[self.parity],
                bytes: slot.bytes,
            };
            self.device.write(place, &bytes)?;
        }
        Ok(())
    }

    /// Runs `time` tokens of every sequence. `inputs` are in the order of the graph's, each
    /// `[B, T, axes...]`, row-major.
    pub fn run(
        &mut self,
        time: usize,
        inputs: &[Input<'_, f32>],
        fetch: Fetch,
    ) -> Result<RunResult, ExecuteError> {
        let run = self.prepare(time, inputs)?;
        let result = self.perform(&run, fetch);
        match &result {
            Ok(_) => self.advance(&run),
            Err(error) => self.interrupted = Some(error.to_string()),
        }
        result
    }

    /// Checks a run, plans it and copies its inputs. Until its launches begin nothing that a
    /// later run depends on has changed.
    fn prepare(
        &mut self,
        time: usize,
        inputs: &[Input<'_, f32>],
    ) -> Result<PreparedRun, ExecuteError> {
        self.refuse_if_interrupted()?;
        self.end_drawing();
        let batch = self.states.batch;
        let shape = Shape { batch, time };
        let regime = regime_for(&self.manifest, shape, self.position)?;
        let key = RunKey {
            regime,
            shape,
            parity: self.parity,
            draws: false,
        };
        let graph = &self.manifest.regimes[regime].graph;
        input::check(graph, shape, inputs)?;
        let arena = self.arena(regime, shape)?;
        let launches = match self.launches.get(&key) {
            Some(launches) => launches.clone(),
            None => {
                let launches = Arc::new(self.binding(key, &arena).launches(self.bases)?);
                self.launches.insert(key, launches.clone());
                launches
            }
        };
        let buffers = self.manifest.regimes[regime].buffers.iter().enumerate();
        for (index, buffer) in buffers {
            let BufferKind::Input(id) = buffer.kind else {
                continue;
            };
            let graph = &self.manifest.regimes[regime].graph;
            let given = graph.inputs.iter().position(|input| *input == id);
            let Some(input) = given.and_then(|at| inputs.get(at)) else {
                continue;
            };
            let bytes = input::encode(&buffer.name, input, buffer.element)?;
            if let Some(place) = self.binding(key, &arena).place(index, TailCopy::Old) {
                self.device.write(place, &bytes)?;
            }
        }
        Ok(PreparedRun {
            key,
            arena,
            launches,
        })
    }

    fn perform(&mut self, run: &PreparedRun, fetch: Fetch) -> Result<RunResult, ExecuteError> {
        let mut stored = BTreeMap::new();
        let submission = if fetch == Fetch::Stored {
            for launch in run.launches.iter() {
                self.device.step(launch, self.position)?;
                self.read_stored(run, launch.step, &mut stored)?;
            }
            Submission::Stepwise
        } else {
            self.device.run(run.key, &run.launches, self.position)?
        };
        Ok(RunResult {
            regime: run.key.regime,
            outputs: self.outputs(run, fetch)?,
            stored,
            launches: run.launches.len(),
            submission,
        })
    }

    fn advance(&mut self, run: &PreparedRun) {
        self.parity = 1 - self.parity;
        self.position += run.key.shape.time as i64;
    }

    fn outputs(
        &mut self,
        run: &PreparedRun,
        fetch: Fetch,
    ) -> Result<Vec<Tensor<f32>>, ExecuteError> {
        if fetch == Fetch::Nothing {
            return Ok(Vec::new());
        }
        let Shape { batch, time } = run.key.shape;
        let ids = self.manifest.regimes[run.key.regime].graph.outputs.clone();
        let mut outputs = Vec::new();
        for id in ids {
            let regime = &self.manifest.regimes[run.key.regime];
            let holds = |kind| kind == BufferKind::Output(id);
            let found = regime.buffers.iter().position(|buffer| holds(buffer.kind));
            let place = found.and_then(|at| {
                Some((
                    at,
                    self.binding(run.key, &run.arena).place(at, TailCopy::Old)?,
                ))
            });
            let Some((at, place)) = place else {
                return Err(ManifestError::Damaged {
                    place: format!("regime `{}`", regime.name),
                    reason: format!("the output {} has no buffer", id.0),
                }
                .into());
            };
            let buffer = &regime.buffers[at];
            let (element, row) = (buffer.element, buffer.elements * buffer.element.bytes());
            let bytes = if fetch == Fetch::LastRow && buffer.extent == Extent::Rows {
                let mut last = Vec::with_capacity(batch * row);
                for b in 0..batch {
                    last.extend(self.device.read(Place {
                        offset: place.offset + (b * time + time - 1) * row,
                        bytes: row,
                        ..place
                    })?);
                }
                last
            } else {
                self.device.read(place)?
            };
            outputs.push(tensor(&bytes, element));
        }
        Ok(outputs)
    }

    fn read_stored(
        &mut self,
        run: &PreparedRun,
        step: usize,
        stored: &mut BTreeMap<ValueId, Tensor<f32>>,
    ) -> Result<(), ExecuteError> {
        let writes = self.manifest.regimes[run.key.regime].steps[step]
            .writes
            .clone();
        for at in writes {
            let buffer = &self.manifest.regimes[run.key.regime].buffers[at];
            let (BufferKind::Scratch(id) | BufferKind::Output(id)) = buffer.kind else {
                continue;
            };
            let element = buffer.element;
            if let Some(place) = self.binding(run.key, &run.arena).place(at, TailCopy::Old) {
                let bytes = self.device.read(place)?;
                stored.insert(id, tensor(&bytes, element));
            }
        }
        Ok(())
    }

    fn binding<'a>(&'a self, key: RunKey, arena: &'a ArenaPlan) -> Binding<'a> {
        Binding {
            manifest: &self.manifest,
            regime: key.regime,
            constants: &self.constants,
            states: &self.states,
            arena,
            parity: key.parity,
        }
    }

    /// The arena plan of a run; the arena grows when the plan needs more than there is.
    fn arena(&mut self, regime: usize, shape: Shape) -> Result<Arc<ArenaPlan>, ExecuteError> {
        let plan = match self.plans.get(&(regime, shape)) {
            Some(plan) => plan.clone(),
            None => {
                let of = &self.manifest.regimes[regime];
                let plan = Arc::new(ArenaPlan::new(of, &self.manifest.kernels, shape)?);
                self.plans.insert((regime, shape), plan.clone());
                plan
            }
        };
        if plan.bytes > self.arena_bytes {
            let of = &self.manifest.regimes[regime];
            let total = Footprint::new(of, self.constants.bytes(), &self.states, &plan);
            let held = self.constants.bytes() + self.states.bytes() + self.arena_bytes;
            if let Some(free) = self.device.free_bytes()? {
                total.check(held, free)?;
            }
            // Addresses change with the allocation.
            self.launches.clear();
            self.arena_bytes = 0;
            self.bases.arena = self.device.allocate(Region::Arena, plan.bytes)?;
            self.arena_bytes = plan.bytes;
        }
        Ok(plan)
    }

    /// Refuses, with figures, states that do not fit beside what is allocated.
    fn check_free(
        &self,
        given_up: usize,
        wanted: usize,
        arena: usize,
        states: &StatesPlan,
    ) -> Result<(), ExecuteError> {
        let Some(free) = self.device.free_bytes()? else {
            return Ok(());
        };
        if wanted <= free.saturating_add(given_up) {
            return Ok(());
        }
        let total = Footprint {
            weights: self.constants.bytes(),
            states: states.scan_bytes,
            tails: states.tail_bytes,
            arena,
            host: 0,
            largest: None,
        };
        Ok(total.check(self.constants.bytes() + given_up + arena, free)?)
    }

    fn refuse_if_interrupted(&self) -> Result<(), ExecuteError> {
        match &self.interrupted {
            None => Ok(()),
            Some(cause) => Err(ExecuteError::Interrupted {
                cause: cause.clone(),
            }),
        }
    }
}

/// A run that is ready to be submitted.
#[derive(Clone, Debug)]
struct PreparedRun {
    key: RunKey,
    arena: Arc<ArenaPlan>,
    launches: Arc<Vec<Launch>>,
}

fn regime_for(manifest: &Manifest, shape: Shape, position: i64) -> Result<usize, ExecuteError> {
    let Shape { batch, time } = shape;
    let wrong = |reason: &str| ExecuteError::Shape {
        batch,
        time,
        position,
        reason: reason.into(),
    };
    if batch == 0 || time == 0 {
        return Err(wrong("both must be at least 1"));
    }
    let rows = batch
        .checked_mul(time)
        .and_then(|rows| i64::try_from(rows).ok());
    let end = rows.and_then(|rows| position.checked_add(rows));
    end.ok_or_else(|| wrong("the position would overflow"))?;
    manifest
        .regime(time)
        .ok_or_else(|| wrong("the manifest has no regime for this T"))
}

fn tensor(bytes: &[u8], element: Element) -> Tensor<f32> {
    match element {
        Element::I32 => Tensor::Ids(Arc::new(decode_ids(bytes))),
        _ => Tensor::Numbers(Arc::new(decode(bytes, element))),
    }
}

impl HostState {
    /// A state by its name in the model.
    pub fn by_name<'a>(&'a self, graph: &Graph, name: &str) -> Option<&'a [f32]> {
        let at = graph.states.iter().position(|state| state.name == name)?;
        self.tensors.get(&StateId(at as u32)).map(Vec::as_slice)
    }
}
