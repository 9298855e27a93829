//! Derivatives of a call on tensors where they lie, by kernels of the model with its transpose.
//!
//! Nothing is kept from the call: it is evaluated again. As [`OnDevice`], in two halves.

use fusec_codegen::Element;
use fusec_ir::gradient::{Given as LoadGiven, Gradient};
use fusec_ir::{Def, Precision, StateId, StateKind, ValueId};
use std::sync::Arc;

use super::as_rows::as_rows;
use super::in_place::{Given, Needs, OnDevice, Unsuitable, room};
use super::load::Load;
use super::tensor::{DType, TensorView};
use super::{Program, ProgramError, lock};
use crate::executor::in_place::{Addresses, Prepared};
use crate::memory::ALIGNMENT;

/// The kernels of a model with its transpose, to be called with tensors of their device.
#[derive(Debug)]
pub struct BackwardOnDevice {
    on: OnDevice,
    gradient: Arc<Gradient>,
    /// Where each derivative is found, by inputs, parameters, states.
    by: [Vec<By>; 3],
    /// From sums to derivatives by parameters, where these are not sums already.
    load: Option<Load>,
    /// Inputs of that: parameters of the model, or outputs.
    load_inputs: Vec<LoadInput>,
}

#[derive(Clone, Copy, Debug)]
enum LoadInput {
    Param(usize),
    Output(usize),
}

/// Where a derivative is found after a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// There is none: token ids, carried rows.
    Nothing,
    /// It is zero everywhere.
    Zeros,
    /// In this output.
    Output(usize),
    /// In this state after the run.
    State(usize),
    /// Computed from sums: this one of [`BackwardNeeds::computed`].
    Computed(usize),
}

/// What a run needs: to be allocated by the caller, row-major.
#[derive(Clone, Debug)]
pub struct BackwardNeeds {
    /// Outputs and states, as of a call. Those that no derivative is found in need not be given.
    pub run: Arc<Needs>,
    /// Elements of each derivative that is computed from sums, float32.
    pub computed: Vec<usize>,
    /// Bytes of memory that the run alone uses.
    pub workspace: usize,
    load: Option<Arc<Prepared>>,
}

impl Program {
    /// The derivatives of the program on tensors where they lie, planned, generated and compiled when they
    /// are first asked for.
    pub fn backward_on_device(&self) -> Result<Arc<BackwardOnDevice>, ProgramError> {
        let mut made = lock(&self.backward_on_device);
        if let Some(made) = &*made {
            return Ok(made.clone());
        }
        if self.has_weights && !self.graph.params.is_empty() {
            return Err(ProgramError::BoundWeights {
                model: self.graph.name.clone(),
            });
        }
        let gradient = self.gradient()?;
        let kernels = self.backward_kernels(&gradient.graph)?;
        let graph = Arc::new(gradient.graph.clone());
        let on = OnDevice::new(&graph, &self.dimensions, &self.options, &kernels, None)?;
        let back = BackwardOnDevice::new(self, on, gradient)?;
        Ok(made.insert(Arc::new(back)).clone())
    }
}

impl BackwardOnDevice {
    fn new(program: &Program, on: OnDevice, gradient: Arc<Gradient>) -> Result<Self, ProgramError> {
        let whole = &gradient.graph;
        let output = |id: ValueId| whole.outputs.iter().position(|out| *out == id);
        let found = |id: ValueId| output(id).map_or(By::Zeros, By::Output);
        let by_inputs =
            program
                .graph
                .inputs
                .iter()
                .map(|id| match program.graph.value(*id).precision {
                    Precision::Index => By::Nothing,
                    _ => gradient.inputs.get(id).map_or(By::Zeros, |by| found(*by)),
                });
        let states = program.graph.states.iter().enumerate();
        let by_states = states.map(|(at, state)| {
            let cotangent = gradient
                .states
                .iter()
                .find(|(of, _)| *of == StateId(at as u32));
            match (&state.kind, cotangent) {
                (StateKind::Tail { .. }, _) => By::Nothing,
                (_, Some((_, by))) => By::State(by.index()),
                (_, None) => By::Zeros,
            }
        });
        let mut computed: Vec<(ValueId, Element)> = Vec::new();
        let by_params = gradient.load.of.iter().map(|of| {
            let Some(id) = of else { return By::Zeros };
            if let Def::Param(param) = gradient.load.graph.value(*id).def
                && let LoadGiven::Sum(k) = gradient.load.given[param.index()]
            {
                return found(gradient.sums[k]);
            }
            let at = computed.iter().position(|(known, _)| known == id);
            By::Computed(at.unwrap_or_else(|| {
                computed.push((*id, Element::F32));
                computed.len() - 1
            }))
        });
        let by = [
            by_inputs.collect(),
            by_params.collect(),
            by_states.collect(),
        ];
        let types = on.types(super::Kind::Param);
        let sums = on.output_types();
        let mut back = Self {
            on,
            by,
            load: None,
            load_inputs: Vec::new(),
            gradient: gradient.clone(),
        };
        if !computed.is_empty() {
            let element = |dtype: Option<DType>| match dtype {
                Some(DType::Bf16) => Element::Bf16,
                Some(DType::F16) => Element::F16,
                _ => Element::F32,
            };
            let of = |id: fusec_ir::ParamId| match gradient.load.given[id.index()] {
                LoadGiven::Param(param) => element(types[param.index()]),
                LoadGiven::Sum(k) => {
                    element(output(gradient.sums[k]).and_then(|at| sums.get(at).copied()))
                }
            };
            let rows = as_rows(&gradient.load.graph, &computed, of);
            for id in &rows.params {
                back.load_inputs
                    .push(match gradient.load.given[id.index()] {
                        LoadGiven::Param(param) => LoadInput::Param(param.index()),
                        LoadGiven::Sum(k) => match output(gradient.sums[k]) {
                            Some(at) => LoadInput::Output(at),
                            None => return Err(program.no_backward("a sum has no place".into())),
                        },
                    });
            }
            let load = Load::new(&rows, program.options());
            back.load = Some(load.map_err(|error| program.no_backward(error.to_string()))?);
        }
        Ok(back)
    }

    /// The kernels of the model with its transpose: the inputs of a call, then the cotangents of those
    /// outputs that have one; the states of a call, then those of [`BackwardOnDevice::cotangents`].
    pub fn on(&self) -> &OnDevice {
        &self.on
    }

    /// Where the derivatives by inputs, parameters and states are found.
    pub fn by(&self) -> [&[By]; 3] {
        [&self.by[0], &self.by[1], &self.by[2]]
    }

    /// For each output of the model, which input its cotangent is; `None` for those without.
    pub fn seeds(&self, outputs: &[ValueId]) -> Vec<Option<usize>> {
        let seeds = outputs.iter().map(|id| {
            let (_, seed) = self.gradient.seeds.iter().find(|(of, _)| of == id)?;
            self.gradient
                .graph
                .inputs
                .iter()
                .position(|input| input == seed)
        });
        seeds.collect()
    }

    /// For each of the model's states, which state holds its cotangent: at the beginning of a run by what it
    /// left, at the end by what it began with.
    pub fn cotangents(&self, states: usize) -> Vec<Option<usize>> {
        let states = (0..states).map(|at| {
            let of = StateId(at as u32);
            let found = self.gradient.states.iter().find(|(id, _)| *id == of);
            found.map(|(_, cotangent)| cotangent.index())
        });
        states.collect()
    }

    /// As [`OnDevice::prepare`].
    pub fn prepare(
        &self,
        inputs: &[TensorView<'_>],
        params: &[TensorView<'_>],
        states: &[Option<TensorView<'_>>],
    ) -> Result<Result<BackwardNeeds, Vec<Unsuitable>>, ProgramError> {
        let run = match self.on.prepare(inputs, params, states)? {
            Ok(run) => run,
            Err(unsuitable) => return Ok(Err(unsuitable)),
        };
        let load = match &self.load {
            Some(load) => Some(load.prepare()?),
            None => None,
        };
        Ok(Ok(BackwardNeeds {
            // The second part begins at a multiple as well.
            workspace: room(run.workspace)
                + ALIGNMENT
                + load.as_ref().map_or(0, |load| room(load.workspace))
                + run
                    .outputs
                    .iter()
                    .map(|t| room(super::in_place::bytes_of(t)))
                    .sum::<usize>(),
            computed: match &self.load {
                Some(load) => load.bytes().iter().map(|bytes| bytes / 4).collect(),
                None => Vec::new(),
            },
            run,
            load,
        }))
    }

    /// Submits a run. `given` is as of a call of [`BackwardOnDevice::on`]; `computed` are the addresses of
    /// derivatives that are computed from sums.
    ///
    /// # Safety
    ///
    /// As of [`OnDevice::run`].
    pub unsafe fn run(
        &self,
        needs: &BackwardNeeds,
        given: &Given,
        computed: &[u64],
        position: i64,
        stream: u64,
    ) -> Result<(), ProgramError> {
        let mut given = given.clone();
        let rest = given.workspace + room(needs.run.workspace) as u64;
        let mut rest = rest.next_multiple_of(ALIGNMENT as u64);
        let mut take = |bytes: usize| {
            let at = rest;
            rest += room(bytes) as u64;
            at
        };
        // Sums that are read again have a place, wanted by the caller or not.
        given.outputs.resize(needs.run.outputs.len(), None);
        for input in &self.load_inputs {
            if let LoadInput::Output(at) = input
                && given.outputs[*at].is_none()
            {
                let bytes = super::in_place::bytes_of(&needs.run.outputs[*at]);
                given.outputs[*at] = Some(take(bytes));
            }
        }
        // SAFETY: the caller's promise; the workspace has room for more than a call's.
        unsafe { self.on.run(&needs.run, &given, position, stream)? };
        let (Some(load), Some(prepared)) = (&self.load, &needs.load) else {
            return Ok(());
        };
        let inputs: Vec<u64> = self
            .load_inputs
            .iter()
            .filter_map(|input| match input {
                LoadInput::Param(at) => given.params.get(*at).copied(),
                LoadInput::Output(at) => given.outputs[*at],
            })
            .collect();
        let addresses = Addresses {
            inputs: &inputs,
            outputs: computed,
            workspace: take(prepared.workspace),
            ..Addresses::default()
        };
        // SAFETY: as above.
        unsafe { load.run(prepared, &addresses, stream) }
    }
}
