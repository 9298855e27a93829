//! A model that is called with tensors: what a program in another language links against.
//!
//! A [`Program`] is a model with everything needed to run it on one device: it takes tensors of any layout
//! by address ([`TensorView`]), checks them against the model by the names of axes, runs, and gives tensors
//! back together with the state. Calls do not depend on each other; the state goes in and comes out.
//!
//! What lives here: opening, planning, starting and calling, in one object that may be used from any
//! thread. What never will: the conventions of any one language.

mod as_rows;
mod backward;
mod bind;
mod call;
mod device;
mod error;
mod exact;
mod in_place;
mod in_place_backward;
mod kernels;
mod load;
mod numbers;
mod owned;
mod start;
mod tensor;

pub use backward::{Cotangents, Derivatives};
pub use bind::Wanted;
pub use call::{Answer, Arguments, Output};
pub use device::{DeviceKind, UnknownDevice};
pub use error::{ProgramError, TensorError};
pub use exact::ExactAnswer;
pub use in_place::{Given, Kind, Needs, OnDevice, Unsuitable};
pub use in_place_backward::{BackwardNeeds, BackwardOnDevice, By};
pub use kernels::{Kernels, Regime};
pub use numbers::{Numbers, Shaped};
pub use tensor::{DType, Memory, TensorView};

use fusec_fuse::explain::{pair, why};
use fusec_fuse::{Mode, Shape, Storage};
use fusec_ir::gradient::Gradient;
use fusec_ir::language::{Overrides, SourceMap};
use fusec_ir::{Graph, ParamId, StateId};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::executor::gpu::unchanged_context;
use crate::model::Model;
use crate::toolchain;
use crate::weights::{WeightSpec, Weights};
use start::Running;

/// How a model is made a program.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it runs.
    pub device: DeviceKind,
    /// In which type its kernels store activations and matrices. The interpreter has f32 only.
    pub storage: Storage,
    /// How kernels are chosen.
    pub mode: Mode,
    /// The device whose costs are used: a profile's name, or the path of one.
    pub profile: String,
    /// The run that costs are computed for. The kernels run at any shape.
    pub shape: Shape,
    /// Seed of the order in which the emulator runs blocks and threads.
    pub emulator_seed: u64,
    /// Where the CUDA compiler comes from.
    pub toolchain: toolchain::Options,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            device: DeviceKind::Auto,
            storage: Storage::F32,
            mode: Mode::Auto,
            profile: "h200".into(),
            shape: Shape {
                batch: 8,
                time: 2048,
            },
            emulator_seed: 0,
            toolchain: toolchain::Options::from_env(),
        }
    }
}

/// A tensor that a program takes or gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name in the model: `x`, `layers.3.time_mix.receptance`.
    pub name: String,
    /// Whether it is token ids, not numbers.
    pub ids: bool,
    /// Its shape.
    pub shape: Wanted,
}

/// A model that can be called.
pub struct Program {
    graph: Arc<Graph>,
    dimensions: BTreeMap<String, Vec<usize>>,
    warnings: Vec<String>,
    sources: SourceMap,
    options: Options,
    /// Whether it was made with weights; otherwise each call brings its parameters.
    has_weights: bool,
    kernels: Mutex<Option<Arc<Kernels>>>,
    gradient: Mutex<Option<Arc<Gradient>>>,
    /// What runs the model with its transpose, on a device with kernels, once it is asked for.
    backwards: Mutex<Option<Running>>,
    /// What takes tensors of the host; on a device with kernels, once there are any.
    session: Mutex<Option<Running>>,
    /// Weights for that.
    weights: Weights,
    on_device: Option<Arc<OnDevice>>,
    /// The model with its transpose on tensors of the device, once it is asked for.
    backward_on_device: Mutex<Option<Arc<BackwardOnDevice>>>,
    device: String,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program")
            .field("model", &self.graph.name)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

impl Program {
    /// A model text (`.toml`), a directory with one, or a checkpoint. `weights` is the path of a
    /// checkpoint, `random:SEED` or `initial:SEED`; a checkpoint that is the model has its own.
    pub fn open(
        path: &Path,
        overrides: &Overrides,
        weights: Option<&str>,
        options: Options,
    ) -> Result<Self, ProgramError> {
        if !path.exists() {
            return Err(ProgramError::NoFile {
                what: "model",
                path: path.display().to_string(),
            });
        }
        Self::of_model(Model::open(path, overrides)?, weights, options)
    }

    /// A model text. It can include nothing.
    pub fn of_text(
        text: &str,
        overrides: &Overrides,
        weights: Option<&str>,
        options: Options,
    ) -> Result<Self, ProgramError> {
        Self::of_model(Model::from_text(text, overrides)?, weights, options)
    }

    /// A model, whose kernels are planned, generated, compiled and loaded.
    pub fn of_model(
        model: Model,
        weights: Option<&str>,
        mut options: Options,
    ) -> Result<Self, ProgramError> {
        options.device = options.device.resolved();
        let weights = match weights {
            Some(spec) => Some(read_weights(&model, spec)?),
            None if model.checkpoint.is_some() => Some(model.weights(None)?),
            None => None,
        };
        let warnings = model.warnings_with_places();
        let graph = Arc::new(model.graph);
        let has_weights = weights.is_some();
        let weights = weights.unwrap_or_else(|| Weights::zero(&graph));
        let kernels = match options.device {
            DeviceKind::Auto | DeviceKind::Cpu => None,
            DeviceKind::Emulator | DeviceKind::Cuda(_) => {
                let arch = start::arch(options.device)?.map(|arch| arch.to_string());
                let kernels = Kernels::new(&graph, &options, arch.as_deref())?;
                Some(Arc::new(kernels))
            }
        };
        let mut session = None;
        let mut on_device = None;
        match &kernels {
            None => session = Some(start::start(&graph, &options, None, weights.clone())?),
            Some(kernels) => {
                let held = has_weights.then_some(&weights);
                let on = OnDevice::new(&graph, &model.dimensions, &options, kernels, held)?;
                on_device = Some(Arc::new(on));
            }
        }
        let device = match (&session, &on_device) {
            (Some(session), _) => session.device(),
            (None, Some(on)) => on.device(),
            (None, None) => String::new(),
        };
        Ok(Self {
            device,
            graph,
            dimensions: model.dimensions,
            warnings,
            sources: model.sources,
            options,
            has_weights,
            kernels: Mutex::new(kernels),
            gradient: Mutex::new(None),
            backwards: Mutex::new(None),
            session: Mutex::new(session),
            weights,
            on_device,
            backward_on_device: Mutex::new(None),
        })
    }

    /// The model.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// What runs it: `cpu`, `emulator`, `cuda:0 NVIDIA H200`.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// What it was made with; `auto` is resolved.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Whether it was made with weights; if not, each call brings all parameters.
    pub fn has_weights(&self) -> bool {
        self.has_weights
    }

    /// Things in the model text that look like mistakes but stop nothing, with their places.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The texts that the model was made of, into which its graph points.
    pub fn sources(&self) -> &SourceMap {
        &self.sources
    }

    /// What the planner is told for runs of a shape.
    pub fn planning<'a>(&self, kernels: &'a Kernels, shape: Shape) -> fusec_fuse::Options<'a> {
        kernels::plan_options(&kernels.profile, &self.options, shape)
    }

    /// What a run is given, in order: `[B, T, axes...]`.
    pub fn inputs(&self) -> Vec<Port> {
        let inputs = self.graph.inputs.iter();
        inputs
            .map(|id| {
                let value = self.graph.value(*id);
                Port {
                    name: value.name.clone(),
                    ids: value.precision == fusec_ir::Precision::Index,
                    shape: Wanted::of_input(&self.graph, *id, &self.dimensions),
                }
            })
            .collect()
    }

    /// What a run gives, in order: `[B, T, axes...]`.
    pub fn outputs(&self) -> Vec<Port> {
        let outputs = self.graph.outputs.iter();
        outputs
            .map(|id| Port {
                name: self.graph.value(*id).name.clone(),
                ids: false,
                shape: Wanted::of_output(&self.graph, *id, &self.dimensions),
            })
            .collect()
    }

    /// The parameters, in the order of the model: their names are those of a `state_dict`.
    pub fn params(&self) -> Vec<Port> {
        let params = self.graph.params.iter().enumerate();
        params
            .map(|(at, param)| Port {
                name: param.name.clone(),
                ids: false,
                shape: Wanted::of_param(&self.graph, at, &self.dimensions),
            })
            .collect()
    }

    /// What is carried from run to run: `[B, axes...]` for a recurrence, `[B, tokens, axes...]` for the
    /// last rows of a value.
    pub fn states(&self) -> Vec<Port> {
        let states = self.graph.states.iter().enumerate();
        states
            .map(|(at, state)| Port {
                name: state.name.clone(),
                ids: false,
                shape: Wanted::of_state(&self.graph, StateId(at as u32), &self.dimensions),
            })
            .collect()
    }

    /// The parameters as training starts from, as the model text says.
    pub fn initial_params(&self, seed: u64) -> Result<Vec<Vec<f32>>, ProgramError> {
        Ok(Weights::initial(&self.graph, seed)?.into_params())
    }

    /// The plans and kernels; for the interpreter, which has none, those of the profile's device, made
    /// when they are first asked for.
    pub fn kernels(&self) -> Result<Arc<Kernels>, ProgramError> {
        let mut kernels = lock(&self.kernels);
        if let Some(kernels) = &*kernels {
            return Ok(kernels.clone());
        }
        let made = Arc::new(Kernels::new(&self.graph, &self.options, None)?);
        *kernels = Some(made.clone());
        Ok(made)
    }

    /// The plan for people.
    pub fn plan_text(&self) -> Result<String, ProgramError> {
        Ok(self.kernels()?.text())
    }

    /// Why the kernels of longer runs are what they are; with two values, why these are, or are not,
    /// computed in one kernel.
    pub fn explain(&self, values: Option<(&str, &str)>) -> Result<String, ProgramError> {
        let kernels = self.kernels()?;
        let Some(regime) = kernels.regimes.last() else {
            return Ok(String::new());
        };
        let shape = regime.planned.plan.shape;
        let options = kernels::plan_options(&kernels.profile, &self.options, shape);
        Ok(match values {
            Some((a, b)) => pair(&self.graph, &regime.planned, &options, a, b)?.to_string(),
            None => why(&regime.planned, &options)?.to_string(),
        })
    }

    /// What takes tensors of the host, for a call.
    fn with_session<T>(
        &self,
        call: impl FnOnce(&mut Running) -> Result<T, ProgramError>,
    ) -> Result<T, ProgramError> {
        let session = self.session.lock();
        let mut session = session.map_err(|_| ProgramError::Unusable {
            model: self.graph.name.clone(),
        })?;
        // What it sets as this thread's device is nobody else's business.
        let work = || match &mut *session {
            Some(session) => call(session),
            none => {
                let kernels = self.kernels()?;
                let weights = self.weights.clone();
                let started = start::start(&self.graph, &self.options, Some(&kernels), weights)?;
                call(none.insert(started))
            }
        };
        match self.options.device {
            DeviceKind::Cuda(_) => unchanged_context(work),
            _ => work(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Weights by what a user writes: a path, `random:SEED`, `initial:SEED`.
fn read_weights(model: &Model, spec: &str) -> Result<Weights, ProgramError> {
    if let Some(seed) = spec.strip_prefix("initial:") {
        let seed = seed.parse().map_err(|_| crate::weights::BadSeed {
            seed: seed.to_owned(),
        })?;
        return Ok(Weights::initial(&model.graph, seed)?);
    }
    let spec: WeightSpec = spec.parse()?;
    if let WeightSpec::Checkpoint(path) = &spec
        && !path.exists()
    {
        return Err(ProgramError::NoFile {
            what: "checkpoint",
            path: path.display().to_string(),
        });
    }
    Ok(model.weights(Some(&spec))?)
}

/// The parameters of a graph, for those that count them.
fn param_ids(graph: &Graph) -> impl Iterator<Item = ParamId> {
    (0..graph.params.len() as u32).map(ParamId)
}
