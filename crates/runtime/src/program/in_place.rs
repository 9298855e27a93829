//! Calls on tensors where they lie, on the device of the kernels and on the caller's stream: nothing is
//! copied, converted or waited for.
//!
//! A call has two halves: [`OnDevice::prepare`] checks tensors against the model and says what has to be
//! allocated, [`OnDevice::run`] submits. The caller allocates in between, with what its array library
//! allocates with, so that this library knows which stream the memory belongs to.

use fusec_codegen::{BufferKind, Element};
use fusec_fuse::Shape;
use fusec_ir::{Graph, ParamId, StateId, ValueId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use super::as_rows::as_rows;
use super::bind::{Rows, Wanted};
use super::device::DeviceKind;
use super::error::TensorError;
use super::kernels::Kernels;
use super::load::{Later, Load};
use super::start;
use super::tensor::{DType, Memory, TensorView};
use super::{Options, Program, ProgramError, lock};
use crate::executor::Recent;
use crate::executor::in_place::{
    Addresses, DeviceBytes, InPlace, KEPT_SHAPES, LENT_BYTES, Lent, Prepared, TENSOR_ALIGNMENT,
};
use crate::limits;
use crate::memory::ALIGNMENT;
use crate::weights::Weights;

/// The kernels of a model, to be called with tensors of their device.
pub struct OnDevice {
    run: InPlace,
    graph: Arc<Graph>,
    memory: Memory,
    inputs: Vec<Taken>,
    params: Vec<Taken>,
    states: Vec<Taken>,
    outputs: Vec<Taken>,
    /// For each regime, what computes from the parameters of a call what its kernels want of them.
    load: Vec<Option<Later>>,
    options: Options,
    needs: Mutex<Recent<Shape, Arc<Needs>>>,
    /// Tensors that were found right, the most recent ones last.
    right: Mutex<Vec<Right>>,
}

/// How many calls are remembered.
const KEPT_CALLS: usize = 8;

/// The tensors of a call that was found right, and what it needs: the next one with such tensors is as right.
struct Right {
    inputs: Vec<Sight>,
    params: Vec<Sight>,
    states: Vec<Option<Sight>>,
    needs: Arc<Needs>,
}

/// What is looked at of a tensor beside its place.
struct Sight {
    dtype: DType,
    shape: Vec<usize>,
}

impl Sight {
    fn of(tensor: &TensorView<'_>) -> Self {
        Self {
            dtype: tensor.dtype(),
            shape: tensor.shape().to_vec(),
        }
    }

    fn is(&self, tensor: &TensorView<'_>) -> bool {
        self.dtype == tensor.dtype() && self.shape == tensor.shape()
    }
}

impl Right {
    fn is(
        &self,
        inputs: &[TensorView<'_>],
        params: &[TensorView<'_>],
        states: &[Option<TensorView<'_>>],
    ) -> bool {
        let all = |sights: &[Sight], tensors: &[TensorView<'_>]| {
            sights.len() == tensors.len() && sights.iter().zip(tensors).all(|(s, t)| s.is(t))
        };
        let state =
            |(sight, tensor): (&Option<Sight>, &Option<TensorView<'_>>)| match (sight, tensor) {
                (Some(sight), Some(tensor)) => sight.is(tensor),
                (sight, tensor) => sight.is_none() && tensor.is_none(),
            };
        all(&self.inputs, inputs)
            && all(&self.params, params)
            && self.states.len() == states.len()
            && self.states.iter().zip(states).all(state)
    }
}

/// A tensor that is taken or given.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    name: String,
    wanted: Wanted,
    /// In which type it lies; `None` if no kernel reads it.
    element: Option<Element>,
    /// Whether it has B and T.
    rows: bool,
}

/// Which kind of tensor of a call is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An input.
    Input,
    /// A parameter.
    Param,
    /// A state before the run.
    State,
}

/// A tensor that is right, but that kernels cannot read where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsuitable {
    /// Which kind it is of.
    pub kind: Kind,
    /// Its number among these.
    pub index: usize,
    /// The type that it has to have; its own, if it has to lie row-major at a multiple of 16 bytes.
    pub dtype: DType,
}

/// What a call needs: to be allocated by the caller, row-major.
#[derive(Clone, Debug)]
pub struct Needs {
    /// B and T.
    pub shape: Shape,
    /// Extents and type of each output.
    pub outputs: Vec<(Vec<usize>, DType)>,
    /// Extents and type of each state after the run.
    pub states: Vec<(Vec<usize>, DType)>,
    /// Bytes of memory that the run alone uses.
    pub workspace: usize,
    prepared: Arc<Prepared>,
    load: Option<Arc<Prepared>>,
}

/// The addresses of a call, in the order of the program's tensors.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// Of the inputs.
    pub inputs: Vec<u64>,
    /// Of the parameters; none where the model holds its weights.
    pub params: Vec<u64>,
    /// Of the states; `None`, or the end of the list: as before the first token.
    pub before: Vec<Option<u64>>,
    /// Of the outputs; `None`: nobody wants it.
    pub outputs: Vec<Option<u64>>,
    /// Of the states after the run; `None`, or the end of the list: nobody wants it.
    pub after: Vec<Option<u64>>,
    /// Of [`Needs::workspace`] bytes.
    pub workspace: u64,
    /// What [`OnDevice::lent`] has lent for it, in place of that.
    pub lent: Option<Lent>,
}

impl std::fmt::Debug for OnDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnDevice")
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}

impl Program {
    /// The program on tensors where they lie; `None` on device `cpu`, which has no kernels.
    pub fn on_device(&self) -> Option<&Arc<OnDevice>> {
        self.on_device.as_ref()
    }

    /// Refuses fewer or more tensors than a call has places for.
    pub fn check_counts(&self, inputs: usize, params: usize) -> Result<(), ProgramError> {
        if inputs != self.graph.inputs.len() {
            self.check_count(inputs, self.inputs())?;
        }
        if params > 0 && self.has_weights {
            return Err(ProgramError::HasWeights {
                model: self.graph.name.clone(),
            });
        }
        let wanted = self.graph.params.len();
        match self.graph.params.first() {
            Some(first) if params == 0 && !self.has_weights => Err(ProgramError::NoWeights {
                model: self.graph.name.clone(),
                count: wanted,
                first: first.name.clone(),
            }),
            _ if params > 0 && params != wanted => Ok(self.check_count(params, self.params())?),
            _ => Ok(()),
        }
    }
}

/// The type of an element, as array libraries call it.
pub(super) fn dtype(element: Element) -> DType {
    match element {
        Element::F32 => DType::F32,
        Element::Bf16 => DType::Bf16,
        Element::F16 => DType::F16,
        Element::I32 => DType::I32,
    }
}

impl OnDevice {
    /// Loads the kernels of a graph. `weights`: those that the model holds.
    pub(super) fn new(
        graph: &Arc<Graph>,
        dimensions: &BTreeMap<String, Vec<usize>>,
        options: &Options,
        kernels: &Kernels,
        weights: Option<&Weights>,
    ) -> Result<Self, ProgramError> {
        let launcher = start::launcher(options, &kernels.manifest)?;
        let run = InPlace::new(launcher, kernels.manifest.clone(), weights)?;
        let value = |id: ValueId, wanted: Wanted, element| Taken {
            name: graph.value(id).name.clone(),
            wanted,
            element,
            rows: graph.value(id).rows,
        };
        let mut inputs = Vec::new();
        for (at, id) in graph.inputs.iter().enumerate() {
            let element = run.element(|regime, kind| {
                matches!(kind, BufferKind::Input(of) if regime.graph.inputs.get(at) == Some(&of))
            })?;
            inputs.push(value(
                *id,
                Wanted::of_input(graph, *id, dimensions),
                element,
            ));
        }
        let mut outputs = Vec::new();
        for (at, id) in graph.outputs.iter().enumerate() {
            let element = run.element(|regime, kind| {
                matches!(kind, BufferKind::Output(of) if regime.graph.outputs.get(at) == Some(&of))
            })?;
            outputs.push(value(
                *id,
                Wanted::of_output(graph, *id, dimensions),
                element,
            ));
        }
        let mut params = Vec::new();
        for (at, param) in graph.params.iter().enumerate() {
            let is = |of: ParamId| of.index() == at;
            let element = run.element(|_, kind| matches!(kind, BufferKind::Param(of) if is(of)))?;
            params.push(Taken {
                name: param.name.clone(),
                wanted: Wanted::of_param(graph, at, dimensions),
                element,
                rows: false,
            });
        }
        let mut states = Vec::new();
        for (at, state) in graph.states.iter().enumerate() {
            let id = StateId(at as u32);
            let element = run.element(
                |_, kind| matches!(kind, BufferKind::State(of) | BufferKind::Tail(of) if of == id),
            )?;
            states.push(Taken {
                name: state.name.clone(),
                wanted: Wanted::of_state(graph, id, dimensions),
                element,
                rows: false,
            });
        }
        let mut load: Vec<Option<Later>> = Vec::new();
        for (at, regime) in run.manifest().regimes.iter().enumerate() {
            let computed = run.load_time(at);
            if weights.is_some() || computed.is_empty() {
                load.push(None);
                continue;
            }
            let of = |id: ParamId| params[id.index()].element.unwrap_or(Element::F32);
            let rows = as_rows(&regime.graph, &computed, of);
            for id in &rows.params {
                params[id.index()].element.get_or_insert(Element::F32);
            }
            load.push(Some(Later {
                rows,
                made: OnceLock::new(),
            }));
        }
        Ok(Self {
            memory: match options.device {
                DeviceKind::Cuda(ordinal) => Memory::Cuda(ordinal),
                _ => Memory::Host,
            },
            graph: graph.clone(),
            run,
            inputs,
            params,
            states,
            outputs,
            load,
            options: options.clone(),
            needs: Mutex::new(Recent::new(KEPT_SHAPES)),
            right: Mutex::new(Vec::new()),
        })
    }

    /// What computes the load-time values of a regime, if there are any.
    fn load(&self, regime: usize) -> Result<Option<&Load>, ProgramError> {
        let Some(later) = &self.load[regime] else {
            return Ok(None);
        };
        let make = || {
            let load = Load::new(&later.rows, &self.options);
            load.map_err(|error| error.to_string())
        };
        match later.made.get_or_init(make) {
            Ok(load) => Ok(Some(load)),
            Err(why) => Err(ProgramError::NoLoad {
                model: self.graph.name.clone(),
                why: why.clone(),
            }),
        }
    }

    /// What runs it: `emulator`, `cuda:0 NVIDIA H200`.
    pub fn device(&self) -> String {
        self.run.name()
    }

    /// Where its tensors lie.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// The types in which inputs, parameters, states and outputs lie, in their order.
    pub fn types(&self, of: Kind) -> Vec<Option<DType>> {
        let list = match of {
            Kind::Input => &self.inputs,
            Kind::Param => &self.params,
            Kind::State => &self.states,
        };
        list.iter().map(|taken| taken.element.map(dtype)).collect()
    }

    /// The types in which outputs lie, in their order.
    pub fn output_types(&self) -> Vec<DType> {
        let outputs = self.outputs.iter();
        outputs
            .map(|taken| taken.element.map_or(DType::F32, dtype))
            .collect()
    }

    /// A stream for callers who have none; [`OnDevice::wait`] waits for it.
    pub fn own_stream(&self) -> Result<u64, ProgramError> {
        Ok(self.run.own_stream()?)
    }

    /// Waits for what was submitted to the own stream.
    pub fn wait(&self) -> Result<(), ProgramError> {
        Ok(self.run.wait()?)
    }

    /// A workspace for runs of these needs on a stream, which all of them have in turn: the caller need not
    /// allocate one. `None` where they need much, and while the stream is recorded.
    pub fn lent(&self, needs: &Needs, stream: u64) -> Result<Option<Lent>, ProgramError> {
        match needs.workspace <= LENT_BYTES {
            true => Ok(self.run.lent(stream)?),
            false => Ok(None),
        }
    }

    /// Memory of the device, for callers whose array library does not allocate.
    pub fn allocate(&self, bytes: usize) -> Result<Box<dyn DeviceBytes>, ProgramError> {
        Ok(self.run.memory(bytes)?)
    }

    /// Checks the tensors of a call. They are those of the program's ports, in order; parameters are given
    /// where the model holds no weights; of a list of states, what is `None` begins as before the first
    /// token. Gives what the call needs, or which tensors have to be brought into another form first.
    pub fn prepare(
        &self,
        inputs: &[TensorView<'_>],
        params: &[TensorView<'_>],
        states: &[Option<TensorView<'_>>],
    ) -> Result<Result<Arc<Needs>, Vec<Unsuitable>>, ProgramError> {
        if let Some(needs) = self.as_before(inputs, params, states) {
            return Ok(Ok(needs));
        }
        let mut unsuitable = Vec::new();
        let mut look = |kind, index, taken: &Taken, tensor: &TensorView<'_>| {
            self.look(kind, index, taken, tensor, &mut unsuitable)
        };
        let mut rows = Rows::default();
        for (at, (taken, tensor)) in self.inputs.iter().zip(inputs).enumerate() {
            look(Kind::Input, at, taken, tensor)?;
            let leading = taken.wanted.check(&taken.name, tensor.shape())?;
            rows.agree(&taken.name, &leading)?;
        }
        let shape = rows.shape().ok_or_else(|| TensorError::Missing {
            name: "input".into(),
            want: "[B, T, ...]".into(),
        })?;
        for (at, (taken, tensor)) in self.params.iter().zip(params).enumerate() {
            look(Kind::Param, at, taken, tensor)?;
            taken.wanted.check(&taken.name, tensor.shape())?;
        }
        for (at, (taken, tensor)) in self.states.iter().zip(states).enumerate() {
            let Some(tensor) = tensor else { continue };
            look(Kind::State, at, taken, tensor)?;
            let leading = taken.wanted.check(&taken.name, tensor.shape())?;
            let got = leading.first().copied().unwrap_or(shape.batch);
            if got != shape.batch {
                return Err(TensorError::Rows {
                    name: taken.name.clone(),
                    axis: "B",
                    got,
                    other: self.inputs[0].name.clone(),
                    expected: shape.batch,
                }
                .into());
            }
        }
        if !unsuitable.is_empty() {
            return Ok(Err(unsuitable));
        }
        let needs = self.needs(shape)?;
        let sights = |tensors: &[TensorView<'_>]| tensors.iter().map(Sight::of).collect();
        let right = Right {
            inputs: sights(inputs),
            params: sights(params),
            states: states.iter().map(|s| s.as_ref().map(Sight::of)).collect(),
            needs: needs.clone(),
        };
        let mut known = lock(&self.right);
        known.retain(|right| !right.is(inputs, params, states));
        if known.len() == KEPT_CALLS {
            known.remove(0);
        }
        known.push(right);
        Ok(Ok(needs))
    }

    /// What a call needs whose tensors are as those of an earlier one, and lie as kernels read them.
    fn as_before(
        &self,
        inputs: &[TensorView<'_>],
        params: &[TensorView<'_>],
        states: &[Option<TensorView<'_>>],
    ) -> Option<Arc<Needs>> {
        let lies = |tensor: &TensorView<'_>| {
            tensor.memory() == self.memory
                && tensor.is_row_major()
                && tensor.address().addr().is_multiple_of(TENSOR_ALIGNMENT)
        };
        let all = inputs.iter().chain(params).chain(states.iter().flatten());
        if !all.into_iter().all(lies) {
            return None;
        }
        let mut known = lock(&self.right);
        let at = known
            .iter()
            .rposition(|right| right.is(inputs, params, states))?;
        known[at..].rotate_left(1);
        known.last().map(|right| right.needs.clone())
    }

    fn look(
        &self,
        kind: Kind,
        index: usize,
        taken: &Taken,
        tensor: &TensorView<'_>,
        unsuitable: &mut Vec<Unsuitable>,
    ) -> Result<(), TensorError> {
        if tensor.memory() != self.memory {
            return Err(TensorError::Place {
                name: taken.name.clone(),
                got: tensor.memory().to_string(),
                want: self.memory.to_string(),
            });
        }
        let Some(element) = taken.element else {
            return Ok(());
        };
        let want = dtype(element);
        let numbers = [DType::F32, DType::Bf16, DType::F16];
        let known: &[DType] = match want {
            DType::I32 => &[DType::I32, DType::I64],
            _ => &numbers,
        };
        if !known.contains(&tensor.dtype()) {
            return Err(TensorError::DType {
                name: taken.name.clone(),
                got: tensor.dtype().to_string(),
                want: match want {
                    DType::I32 => "int32 or int64",
                    _ => "float32, bfloat16 or float16",
                },
            });
        }
        let apart = !tensor.address().addr().is_multiple_of(TENSOR_ALIGNMENT);
        if tensor.dtype() != want || !tensor.is_row_major() || apart {
            unsuitable.push(Unsuitable {
                kind,
                index,
                dtype: want,
            });
        }
        Ok(())
    }

    /// What calls of a shape need.
    pub fn needs(&self, shape: Shape) -> Result<Arc<Needs>, ProgramError> {
        let mut kept = lock(&self.needs);
        if let Some(needs) = kept.get(&shape) {
            return Ok(needs.clone());
        }
        let needs = Arc::new(self.needs_anew(shape)?);
        kept.insert(shape, needs.clone());
        Ok(needs)
    }

    fn needs_anew(&self, shape: Shape) -> Result<Needs, ProgramError> {
        limits::run(&self.graph, shape)?;
        let prepared = self.run.prepare(shape)?;
        let rows = [shape.batch, shape.time];
        let outputs = self.outputs.iter().map(|taken| {
            let leading = rows.iter().take(if taken.rows { 2 } else { 0 }).copied();
            let extents = leading.chain(taken.wanted.extents()).collect();
            (extents, taken.element.map_or(DType::F32, dtype))
        });
        let states = self.states.iter().map(|taken| {
            let leading = taken.wanted.leading.iter();
            let leading = leading.map(|(_, size)| size.unwrap_or(shape.batch));
            let extents = leading.chain(taken.wanted.extents()).collect();
            (extents, taken.element.map_or(DType::F32, dtype))
        });
        let made = self.load(prepared.regime)?;
        let load = match made {
            Some(load) => Some(load.prepare()?),
            None => None,
        };
        let computed: usize = made.map_or(0, |load| load.bytes().iter().map(|b| room(*b)).sum());
        let mut needs = Needs {
            shape,
            outputs: outputs.collect(),
            states: states.collect(),
            workspace: 0,
            prepared,
            load,
        };
        // Room for everything that nobody may want, and to begin at a multiple.
        let spare = needs.outputs.iter().chain(&needs.states);
        let spare: usize = spare.map(|tensor| room(bytes_of(tensor))).sum();
        needs.workspace = ALIGNMENT
            + needs.prepared.workspace
            + needs.load.as_ref().map_or(0, |load| load.workspace)
            + computed
            + spare;
        Ok(needs)
    }

    /// Submits a call that begins at a position to a stream, and waits for nothing.
    ///
    /// # Safety
    ///
    /// `needs` come from [`OnDevice::prepare`] with the tensors whose addresses are given; what is to be
    /// written has the extents and types that they say. All of it is memory of the device that is there, and
    /// that nobody else touches, until the stream has come to the end of the call. The stream is one of the
    /// device. A program that holds weights lives until then as well.
    pub unsafe fn run(
        &self,
        needs: &Needs,
        given: &Given,
        position: i64,
        stream: u64,
    ) -> Result<(), ProgramError> {
        // Until the end of this: the launches of two calls may not take turns in one workspace.
        let lent = given.lent.as_ref().map(Lent::lock);
        let workspace = lent.as_ref().map_or(given.workspace, |lent| lent.address());
        let mut rest = Rest(workspace.next_multiple_of(ALIGNMENT as u64));
        let workspace = rest.take(needs.prepared.workspace);
        let mut load_time = Vec::new();
        if let (Some(load), Some(prepared)) = (self.load(needs.prepared.regime)?, &needs.load) {
            load_time.extend(load.bytes().iter().map(|bytes| rest.take(*bytes)));
            let inputs = load.inputs(&given.params)?;
            let addresses = Addresses {
                inputs: &inputs,
                outputs: &load_time,
                workspace: rest.take(prepared.workspace),
                ..Addresses::default()
            };
            // SAFETY: the caller's promise; the workspace has room for all.
            unsafe { load.run(prepared, &addresses, stream)? };
        }
        let mut kept = |of: &[Option<u64>], tensors: &[(Vec<usize>, DType)]| -> Vec<u64> {
            let tensors = tensors.iter().enumerate();
            tensors
                .map(|(at, tensor)| match of.get(at).copied().flatten() {
                    Some(address) => address,
                    None => rest.take(bytes_of(tensor)),
                })
                .collect()
        };
        let outputs = kept(&given.outputs, &needs.outputs);
        let after = kept(&given.after, &needs.states);
        let addresses = Addresses {
            inputs: &given.inputs,
            params: &given.params,
            load_time: &load_time,
            outputs: &outputs,
            before: &given.before,
            after: &after,
            workspace,
        };
        // SAFETY: the caller's promise; the workspace has room for what is not given.
        let ran = unsafe { self.run.run(&needs.prepared, position, &addresses, stream) };
        Ok(ran?)
    }
}

/// What is left of a workspace.
struct Rest(u64);

impl Rest {
    fn take(&mut self, bytes: usize) -> u64 {
        let at = self.0;
        self.0 += room(bytes) as u64;
        at
    }
}

pub(super) fn room(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT)
}

pub(super) fn bytes_of((extents, dtype): &(Vec<usize>, DType)) -> usize {
    extents.iter().product::<usize>() * dtype.bytes()
}
