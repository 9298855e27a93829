//! A program as Python sees it; `fusec.Model` is made of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use fusec_fuse::{Mode, Shape, Storage};
use fusec_ir::language::{Overrides, Setting};
use fusec_runtime::program::{
    Arguments, Cotangents, DType, Numbers, Options, Port, Program as Inner, ProgramError, Shaped,
    TensorView,
};
use fusec_runtime::toolchain::{self, Origin, Place, Toolchain};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict};

use crate::dlpack::Borrowed;
use crate::errors::{FusecError, outside};
use crate::report::page_of;
use crate::tensor::Tensor;

/// A name, whether it is token ids, the shape as text, the names of the leading axes, the extents after
/// them.
type PortTuple = (String, bool, String, Vec<Option<usize>>, Vec<usize>);

/// Outputs, states, position, names of tensors that were copied.
type Results = (Vec<Tensor>, Vec<Tensor>, i64, Vec<String>);

/// Derivatives by inputs, parameters and states.
type Gradients = (Vec<Option<Tensor>>, Vec<Tensor>, Vec<Option<Tensor>>);

fn port(port: Port) -> PortTuple {
    let leading = port.shape.leading.iter().map(|(_, size)| *size);
    (
        port.name,
        port.ids,
        port.shape.text(),
        leading.collect(),
        port.shape.extents(),
    )
}

/// A model that can be called.
#[pyclass(frozen, module = "fusec")]
pub(crate) struct Program {
    pub(crate) program: Arc<Inner>,
}

#[pymethods]
impl Program {
    /// Compiles a file or directory (`path`), or a text (`text`).
    #[staticmethod]
    #[pyo3(signature = (
        *, path=None, text=None, preset=None, axes=None, settings=None, weights=None, device="auto",
        dtype="f32", plan="auto", profile="h200", shape=(8, 2048), offline=false, nvrtc=Vec::new()
    ))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a Python function")]
    fn compile(
        py: Python<'_>,
        path: Option<PathBuf>,
        text: Option<String>,
        preset: Option<String>,
        axes: Option<BTreeMap<String, usize>>,
        settings: Option<Bound<'_, PyDict>>,
        weights: Option<String>,
        device: &str,
        dtype: &str,
        plan: &str,
        profile: &str,
        shape: (usize, usize),
        offline: bool,
        nvrtc: Vec<PathBuf>,
    ) -> PyResult<Self> {
        let overrides = Overrides {
            preset,
            axes: axes.unwrap_or_default(),
            settings: read_settings(settings)?,
        };
        let wrong = |error: String| PyValueError::new_err(error);
        let options = Options {
            device: device.parse().map_err(|e| wrong(format!("{e}")))?,
            storage: dtype
                .parse::<Storage>()
                .map_err(|e| wrong(format!("dtype: {e}")))?,
            mode: plan
                .parse::<Mode>()
                .map_err(|e| wrong(format!("plan: {e}")))?,
            profile: profile.to_owned(),
            shape: Shape {
                batch: shape.0,
                time: shape.1,
            },
            toolchain: toolchain_options(offline, nvrtc),
            ..Options::default()
        };
        let program = outside(py, move || match (path, text) {
            (Some(path), _) => Inner::open(&path, &overrides, weights.as_deref(), options),
            (None, text) => {
                let text = text.unwrap_or_default();
                Inner::of_text(&text, &overrides, weights.as_deref(), options)
            }
        })?;
        Ok(Self {
            program: Arc::new(program),
        })
    }

    /// Runs: inputs, parameters (none where there are weights) and, to go on from somewhere, the states
    /// and the position, each in the program's order. Gives the outputs, the states, the position, and
    /// the names of tensors that were copied because they did not lie row-major.
    fn call(
        &self,
        py: Python<'_>,
        inputs: Vec<Bound<'_, PyAny>>,
        params: Vec<Bound<'_, PyAny>>,
        states: Option<Vec<Bound<'_, PyAny>>>,
        position: i64,
    ) -> PyResult<Results> {
        let program = &self.program;
        let inputs = borrow(&inputs, program.inputs())?;
        let params = borrow(&params, program.params())?;
        let states = match &states {
            Some(states) => Some(borrow(states, program.states())?),
            None => None,
        };
        outside(py, || {
            let arguments = Arguments {
                inputs: views(&inputs),
                params: views(&params),
            };
            if program.is_exact(&arguments) {
                let states = states.as_deref().map(views);
                let state = states.as_deref().map(|views| (views, position));
                let answer = program.call_exact(&arguments, state)?;
                let tensors = |list: Vec<Shaped<f64>>| {
                    let list = list.into_iter();
                    list.map(|(shape, x)| Tensor::exact(Numbers::F64(x), shape))
                        .collect()
                };
                return Ok((
                    tensors(answer.outputs),
                    tensors(answer.states),
                    answer.position,
                    answer.copied,
                ));
            }
            let state = match &states {
                Some(states) => {
                    let batch = program.run_shape(&arguments.inputs)?.batch;
                    Some(program.state_of(&views(states), batch, position)?)
                }
                None => None,
            };
            let dtype = common_type(&arguments.inputs);
            let answer = program.call(&arguments, state.as_ref())?;
            let outputs = answer
                .outputs
                .into_iter()
                .map(|output| Tensor::new(Arc::unwrap_or_clone(output.data), output.shape, dtype));
            let position = answer.state.position;
            let states = program.state_tensors(answer.state)?.into_iter();
            let states = states.map(|(shape, values)| Tensor::new(values, shape, DType::F32));
            Ok((outputs.collect(), states.collect(), position, answer.copied))
        })
    }

    /// The derivatives of `sum of gradient * result` of a call with these tensors: by the inputs (None by
    /// token ids), by the parameters, and by the states (None by carried rows). `outputs` and `carried` are
    /// the gradients of what the call gave, None for zeros.
    #[pyo3(signature = (inputs, params, states, position, outputs, carried))]
    #[expect(
        clippy::too_many_arguments,
        reason = "what a call takes, and what it gave"
    )]
    fn backward(
        &self,
        py: Python<'_>,
        inputs: Vec<Bound<'_, PyAny>>,
        params: Vec<Bound<'_, PyAny>>,
        states: Option<Vec<Bound<'_, PyAny>>>,
        position: i64,
        outputs: Vec<Option<Bound<'_, PyAny>>>,
        carried: Vec<Option<Bound<'_, PyAny>>>,
    ) -> PyResult<Gradients> {
        let program = &self.program;
        let inputs = borrow(&inputs, program.inputs())?;
        let params = borrow(&params, program.params())?;
        let states = match &states {
            Some(states) => Some(borrow(states, program.states())?),
            None => None,
        };
        let outputs = borrow_some(&outputs)?;
        let carried = borrow_some(&carried)?;
        outside(py, || {
            let arguments = Arguments {
                inputs: views(&inputs),
                params: views(&params),
            };
            let states = states.as_deref().map(views);
            let state = states.as_deref().map(|views| (views, position));
            let cotangents = Cotangents {
                outputs: views_of_some(&outputs),
                states: views_of_some(&carried),
            };
            let derivatives = program.backward(&arguments, state, &cotangents)?;
            let batch = program.run_shape(&arguments.inputs)?.batch;
            let shape = |tensor: &TensorView<'_>| tensor.shape().to_vec();
            let inputs = derivatives.inputs.into_iter().zip(&arguments.inputs);
            let params = derivatives.params.into_iter().zip(&arguments.params);
            let states = derivatives.states.into_iter().zip(program.states());
            Ok((
                inputs
                    .map(|(by, of)| by.map(|by| Tensor::exact(by, shape(of))))
                    .collect(),
                params
                    .map(|(by, of)| Tensor::exact(by, shape(of)))
                    .collect(),
                states
                    .map(|(by, port)| {
                        let leading = port.shape.leading.iter();
                        let leading = leading.map(|(_, size)| size.unwrap_or(batch));
                        let shape = leading.chain(port.shape.extents()).collect();
                        by.map(|by| Tensor::exact(by, shape))
                    })
                    .collect(),
            ))
        })
    }

    /// The parameters as training starts from, float32, in the order of `params`.
    fn initial_params(&self, py: Python<'_>, seed: u64) -> PyResult<Vec<Tensor>> {
        let program = &self.program;
        outside(py, || {
            let params = program.initial_params(seed)?.into_iter();
            let shapes = program.params().into_iter().map(|p| p.shape.extents());
            let tensors = params.zip(shapes);
            Ok(tensors
                .map(|(values, shape)| Tensor::new(values, shape, DType::F32))
                .collect())
        })
    }

    /// The plan for people.
    fn plan(&self, py: Python<'_>) -> PyResult<String> {
        let program = &self.program;
        outside(py, || program.plan_text())
    }

    /// The plans as a page: HTML that needs nothing beside it.
    fn report(&self, py: Python<'_>) -> PyResult<String> {
        let program = &self.program;
        outside(py, || page_of(program))?.map_err(FusecError::new_err)
    }

    /// Why the kernels are what they are; with two values, why these are, or are not, in one kernel.
    #[pyo3(signature = (a=None, b=None))]
    fn explain(&self, py: Python<'_>, a: Option<String>, b: Option<String>) -> PyResult<String> {
        let program = &self.program;
        let values = match (&a, &b) {
            (Some(a), Some(b)) => Some((a.as_str(), b.as_str())),
            (None, None) => None,
            _ => return Err(PyTypeError::new_err("explain takes two values, or none")),
        };
        outside(py, || program.explain(values))
    }

    /// Name, source, threads of a block and dynamic shared memory (bytes) of each kernel.
    fn kernels(&self, py: Python<'_>) -> PyResult<Vec<(String, String, u32, u32)>> {
        let program = &self.program;
        outside(py, || {
            let kernels = program.kernels()?;
            let images = kernels.manifest.kernels.iter();
            let images =
                images.map(|k| (k.name.clone(), k.source.clone(), k.threads, k.shared_bytes));
            Ok(images.collect())
        })
    }

    /// The primitives that the kernels include (`fusec.cuh`).
    fn prelude(&self, py: Python<'_>) -> PyResult<String> {
        let program = &self.program;
        outside(py, || Ok(program.kernels()?.manifest.prelude.clone()))
    }

    #[getter]
    fn name(&self) -> String {
        self.program.graph().name.clone()
    }

    #[getter]
    fn device(&self) -> String {
        self.program.device().to_owned()
    }

    #[getter]
    fn dtype(&self) -> String {
        self.program.options().storage.to_string()
    }

    #[getter]
    fn has_weights(&self) -> bool {
        self.program.has_weights()
    }

    #[getter]
    fn warnings(&self) -> Vec<String> {
        self.program.warnings().to_vec()
    }

    #[getter]
    fn inputs(&self) -> Vec<PortTuple> {
        self.program.inputs().into_iter().map(port).collect()
    }

    #[getter]
    fn outputs(&self) -> Vec<PortTuple> {
        self.program.outputs().into_iter().map(port).collect()
    }

    #[getter]
    fn params(&self) -> Vec<PortTuple> {
        self.program.params().into_iter().map(port).collect()
    }

    #[getter]
    fn states(&self) -> Vec<PortTuple> {
        self.program.states().into_iter().map(port).collect()
    }
}

/// Takes over tensors, which messages call by the names of the ports they are for.
fn borrow(tensors: &[Bound<'_, PyAny>], ports: Vec<Port>) -> PyResult<Vec<Borrowed>> {
    let tensors = tensors.iter().enumerate();
    tensors
        .map(|(at, tensor)| {
            let name = ports.get(at).map_or("tensor", |port| port.name.as_str());
            Borrowed::of(tensor, name)
        })
        .collect()
}

/// As [`borrow`], of gradients, which are there or not.
fn borrow_some(tensors: &[Option<Bound<'_, PyAny>>]) -> PyResult<Vec<Option<Borrowed>>> {
    let tensors = tensors.iter();
    tensors
        .map(|tensor| {
            let tensor = tensor.as_ref();
            tensor.map(|t| Borrowed::of(t, "gradient")).transpose()
        })
        .collect()
}

fn views(borrowed: &[Borrowed]) -> Vec<TensorView<'_>> {
    borrowed.iter().map(Borrowed::view).collect()
}

fn views_of_some(borrowed: &[Option<Borrowed>]) -> Vec<Option<TensorView<'_>>> {
    let borrowed = borrowed.iter();
    borrowed
        .map(|tensor| tensor.as_ref().map(Borrowed::view))
        .collect()
}

/// The type that all inputs of numbers have; float32 if they differ or there are none.
fn common_type(inputs: &[TensorView<'_>]) -> DType {
    let mut types = inputs.iter().map(TensorView::dtype);
    let numbers = |t: &DType| !matches!(t, DType::I32 | DType::I64);
    let mut types = types.by_ref().filter(numbers);
    match types.next() {
        Some(first) if types.all(|other| other == first) => first,
        _ => DType::F32,
    }
}

fn read_settings(given: Option<Bound<'_, PyDict>>) -> PyResult<BTreeMap<String, Setting>> {
    let mut settings = BTreeMap::new();
    for (name, value) in given.iter().flat_map(|dict| dict.iter()) {
        let name: String = name.extract()?;
        let setting = if value.is_instance_of::<PyBool>() {
            Setting::Bool(value.extract()?)
        } else if let Ok(number) = value.extract::<f64>() {
            Setting::Number(number)
        } else if let Ok(text) = value.extract::<String>() {
            Setting::Text(text)
        } else {
            return Err(PyTypeError::new_err(format!(
                "the setting `{name}` is a {}: settings are numbers, texts, True and False",
                value.get_type().name()?
            )));
        };
        settings.insert(name, setting);
    }
    Ok(settings)
}

/// NVRTC of the calling environment comes first.
fn toolchain_options(offline: bool, nvrtc: Vec<PathBuf>) -> toolchain::Options {
    let place = |dir| Place {
        dir,
        origin: Origin::PythonPackage,
    };
    toolchain::Options {
        offline,
        preferred: nvrtc.into_iter().map(place).collect(),
        ..toolchain::Options::from_env()
    }
}

/// The CUDA compiler that is used: path, version, how it was found.
#[pyfunction]
#[pyo3(signature = (*, offline=false, nvrtc=Vec::new()))]
pub(crate) fn toolchain_info(
    py: Python<'_>,
    offline: bool,
    nvrtc: Vec<PathBuf>,
) -> PyResult<(PathBuf, String, String)> {
    let options = toolchain_options(offline, nvrtc);
    outside(py, || {
        let toolchain = Toolchain::discover(&options)?;
        let found = &toolchain.info().nvrtc;
        Ok((
            found.path.clone(),
            found.version.to_string(),
            found.origin.to_string(),
        ))
    })
}

/// The model text of one recurrence.
#[pyfunction]
#[pyo3(signature = (step, axes, *, inputs=None, constants=None, state=None, outputs=None))]
pub(crate) fn recurrence_text(
    py: Python<'_>,
    step: &str,
    axes: Vec<(String, usize)>,
    inputs: Option<String>,
    constants: Option<String>,
    state: Option<String>,
    outputs: Option<String>,
) -> PyResult<String> {
    let text = fusec_ir::language::RecurrenceText {
        step,
        axes: &axes,
        inputs: inputs.as_deref(),
        constants: constants.as_deref(),
        state: state.as_deref(),
        outputs: outputs.as_deref(),
    };
    outside(py, || text.model_text().map_err(ProgramError::from))
}
