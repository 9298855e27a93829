//! Calls on tensors where they lie: on the caller's stream, without a copy, without waiting.

use fusec_runtime::program::{
    BackwardOnDevice, By, DType, Given, Kind, Memory, OnDevice, Port, TensorView, Unsuitable,
};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use std::sync::Arc;

use crate::dlpack::{Borrowed, look};
use crate::errors::{caught, exception, inside, outside};
use crate::program::Program;
use crate::tensor::Tensor;

/// Types of inputs, parameters, states and outputs, by name; None where no kernel reads it.
type Types = (
    Vec<Option<String>>,
    Vec<Option<String>>,
    Vec<Option<String>>,
    Vec<String>,
);

/// Where a program takes tensors as they lie: DLPack's kind of device and its number, and the types of
/// inputs, parameters, states and outputs; None where it has no kernels.
#[pyfunction]
pub(crate) fn place_on_device(program: &Bound<'_, Program>) -> Option<((i32, i32), Types)> {
    let on = program.get().program.on_device()?;
    let place = match on.memory() {
        Memory::Cuda(ordinal) => (2, ordinal as i32),
        _ => (1, 0),
    };
    let names = |kind| {
        let types = on.types(kind).into_iter();
        types.map(|dtype| dtype.map(|d| d.to_string())).collect()
    };
    let outputs = on.output_types().iter().map(DType::to_string).collect();
    Some((
        place,
        (
            names(Kind::Input),
            names(Kind::Param),
            names(Kind::State),
            outputs,
        ),
    ))
}

/// Tensors of a call, looked at: `V` is a view, or one that may be left out.
struct Seen<V> {
    views: Vec<V>,
    /// What keeps those that were taken over.
    borrowed: Vec<Borrowed>,
}

/// As [`look`]; the name, which is looked up among all ports, is for messages only.
///
/// # Safety
///
/// As of [`look`].
unsafe fn look_named(
    tensor: &Bound<'_, PyAny>,
    name: impl Fn() -> String,
    stream: i64,
) -> PyResult<(TensorView<'static>, Option<Borrowed>)> {
    // SAFETY: the caller's promise.
    unsafe {
        let found = look(tensor, "tensor", stream);
        found.or_else(|_| look(tensor, &name(), stream))
    }
}

/// Looks at tensors, which messages call by the names of ports.
///
/// # Safety
///
/// As of [`look`].
unsafe fn see(
    tensors: &[Bound<'_, PyAny>],
    names: impl Fn(usize) -> String,
    stream: i64,
) -> PyResult<Seen<TensorView<'static>>> {
    let mut seen = Seen {
        views: Vec::with_capacity(tensors.len()),
        borrowed: Vec::new(),
    };
    for (at, tensor) in tensors.iter().enumerate() {
        // SAFETY: the caller's promise.
        let (view, borrowed) = unsafe { look_named(tensor, || names(at), stream)? };
        seen.views.push(view);
        seen.borrowed.extend(borrowed);
    }
    Ok(seen)
}

/// As [`see`].
///
/// # Safety
///
/// As of [`look`].
unsafe fn see_some(
    tensors: &[Option<Bound<'_, PyAny>>],
    names: impl Fn(usize) -> String,
    stream: i64,
) -> PyResult<Seen<Option<TensorView<'static>>>> {
    let mut seen = Seen {
        views: Vec::with_capacity(tensors.len()),
        borrowed: Vec::new(),
    };
    for (at, tensor) in tensors.iter().enumerate() {
        let Some(tensor) = tensor else {
            seen.views.push(None);
            continue;
        };
        // SAFETY: the caller's promise.
        let (view, borrowed) = unsafe { look_named(tensor, || names(at), stream)? };
        seen.views.push(Some(view));
        seen.borrowed.extend(borrowed);
    }
    Ok(seen)
}

fn address(view: &TensorView<'_>) -> u64 {
    view.address().expose_provenance() as u64
}

fn addresses(views: &[TensorView<'_>]) -> Vec<u64> {
    views.iter().map(address).collect()
}

fn name_of(ports: Vec<Port>, at: usize) -> String {
    ports
        .get(at)
        .map_or("tensor", |p| p.name.as_str())
        .to_owned()
}

/// Where a call allocates, and its stream.
struct Ground<'a, 'py> {
    py: Python<'py>,
    on: &'a OnDevice,
    /// What the caller's library allocates with.
    empty: Option<Empty<'py>>,
    stream: u64,
    /// What tensors are looked at with: -1 where the stream is that of their library.
    told: i64,
    /// Nothing that is allocated here ends before the call.
    kept: Vec<Bound<'py, PyAny>>,
}

/// What allocates a tensor of the caller's library: a function of extents and strides, and what else it is given,
/// by type.
type Empty<'py> = (Bound<'py, PyAny>, Bound<'py, PyDict>);

impl<'a, 'py> Ground<'a, 'py> {
    fn new(
        py: Python<'py>,
        on: &'a OnDevice,
        stream: Option<u64>,
        empty: Option<Empty<'py>>,
    ) -> PyResult<Self> {
        let (stream, told) = match stream {
            Some(stream) => (stream, -1),
            None => {
                let own = inside(|| on.own_stream())?;
                (own, own as i64)
            }
        };
        Ok(Self {
            py,
            on,
            empty,
            stream,
            told,
            kept: Vec::new(),
        })
    }

    /// A tensor to be written, and its address.
    fn tensor(&self, shape: &[usize], dtype: DType) -> PyResult<(Bound<'py, PyAny>, u64)> {
        let name = dtype_name(dtype);
        self.named(shape, dtype, name)
    }

    fn named(
        &self,
        shape: &[usize],
        dtype: DType,
        name: &str,
    ) -> PyResult<(Bound<'py, PyAny>, u64)> {
        let Some((empty, of_types)) = &self.empty else {
            let elements = shape.iter().product::<usize>();
            let bytes = inside(|| self.on.allocate(elements * dtype.bytes()))?;
            let at = bytes.address();
            let tensor = Tensor::on_device(bytes, shape.to_vec(), dtype, self.on.memory());
            return Ok((Bound::new(self.py, tensor)?.into_any(), at));
        };
        let how = of_types.get_item(name)?;
        let how =
            how.ok_or_else(|| PyRuntimeError::new_err(format!("nothing allocates {name}")))?;
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis].max(1);
        }
        let extents = (
            PyTuple::new(self.py, shape)?,
            PyTuple::new(self.py, strides)?,
        );
        let tensor = empty.call(extents, Some(how.cast::<PyDict>()?))?;
        // SAFETY: the tensor is held by what is given back; it was made just now, so that nothing is under
        // way on it but on the stream of its library.
        let (view, _borrowed) = unsafe { look(&tensor, "result", -1)? };
        if !view.is_row_major() || view.shape() != shape {
            return Err(PyRuntimeError::new_err(
                "the library of these tensors allocates none that lie row-major",
            ));
        }
        let at = address(&view);
        Ok((tensor, at))
    }

    /// Memory that the run alone uses.
    fn workspace(&mut self, bytes: usize) -> PyResult<u64> {
        let (tensor, at) = self.named(&[bytes], DType::Other("uint", 8), "uint8")?;
        self.kept.push(tensor);
        Ok(at)
    }

    /// Waits where the caller has no stream that goes on.
    fn end(&self) -> PyResult<()> {
        if self.told == -1 {
            return Ok(());
        }
        let on = self.on;
        outside(self.py, || on.wait())
    }
}

fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::Bf16 => "bfloat16",
        DType::F16 => "float16",
        DType::I32 => "int32",
        _ => "float32",
    }
}

/// Which tensors have to be brought into another form: kind (0 input, 1 parameter, 2 state), number, type.
fn to_bring<'py>(py: Python<'py>, list: &[Unsuitable]) -> PyResult<Bound<'py, PyAny>> {
    let tuples = list.iter().map(|one| {
        let kind = match one.kind {
            Kind::Input => 0,
            Kind::Param => 1,
            Kind::State => 2,
        };
        (kind, one.index, dtype_name(one.dtype))
    });
    let tuples: Vec<(i32, usize, &str)> = tuples.collect();
    Ok(PyList::new(py, tuples)?.into_any())
}

fn on_device(program: &Bound<'_, Program>) -> PyResult<Arc<OnDevice>> {
    let on = program.get().program.on_device();
    on.cloned()
        .ok_or_else(|| PyRuntimeError::new_err("there are no kernels on this device"))
}

/// Runs on tensors where they lie: inputs, parameters (none where there are weights) and states (None, or
/// nothing, for those before the first token), each in the program's order. `stream`: the stream that what is
/// under way on the tensors was submitted to; without, the call waits for its end. `empty`: allocates
/// tensors of their library, a function of extents and strides with what else it is given by name, for each type of
/// elements; without, results are tensors of fusec. Gives outputs and,
/// with `keeps`, states; or, as a list, which tensors have to be brought into another form first.
#[pyfunction]
#[pyo3(signature = (program, inputs, params, states, position, keeps, stream=None, empty=None))]
#[expect(clippy::too_many_arguments, reason = "what a call takes")]
pub(crate) fn call_on_device<'py>(
    py: Python<'py>,
    program: &Bound<'py, Program>,
    inputs: Vec<Bound<'py, PyAny>>,
    params: Vec<Bound<'py, PyAny>>,
    states: Vec<Option<Bound<'py, PyAny>>>,
    position: i64,
    keeps: bool,
    stream: Option<u64>,
    empty: Option<Empty<'py>>,
) -> PyResult<Bound<'py, PyAny>> {
    let on = on_device(program)?;
    let model = &program.get().program;
    inside(|| model.check_counts(inputs.len(), params.len()))?;
    let mut ground = Ground::new(py, &on, stream, empty)?;
    let told = ground.told;
    // SAFETY: the tensors are held by the arguments until this returns. What was submitted by then reads
    // memory that their library gives back in stream order only, or the call has waited.
    let (inputs, params, states) = unsafe {
        (
            see(&inputs, |at| name_of(model.inputs(), at), told)?,
            see(&params, |at| name_of(model.params(), at), told)?,
            see_some(&states, |at| name_of(model.states(), at), told)?,
        )
    };
    let needs = match caught(|| on.prepare(&inputs.views, &params.views, &states.views))? {
        Ok(needs) => needs,
        Err(list) => return to_bring(py, &list),
    };
    let (outputs, written) = results(&ground, &needs.outputs, |_| true)?;
    let (carried, after) = results(&ground, &needs.states, |_| keeps)?;
    let before = states.views.iter().map(|view| view.as_ref().map(address));
    let lent = caught(|| on.lent(&needs, ground.stream))?;
    let workspace = match lent {
        Some(_) => 0,
        None => ground.workspace(needs.workspace)?,
    };
    let given = Given {
        inputs: addresses(&inputs.views),
        params: addresses(&params.views),
        before: before.collect(),
        outputs: written,
        after,
        workspace,
        lent,
    };
    let stream = ground.stream;
    // SAFETY: everything given has the types and extents that `prepare` has checked or asked for.
    outside(py, || unsafe { on.run(&needs, &given, position, stream) })?;
    ground.end()?;
    drop((inputs, params, states));
    let outputs: Vec<Bound<'py, PyAny>> = outputs.into_iter().flatten().collect();
    let carried: Vec<Bound<'py, PyAny>> = carried.into_iter().flatten().collect();
    let both = (PyList::new(py, outputs)?, PyList::new(py, carried)?);
    Ok(both.into_pyobject(py)?.into_any())
}

type Results<'py> = (Vec<Option<Bound<'py, PyAny>>>, Vec<Option<u64>>);

/// Tensors to be written, those that somebody wants.
fn results<'py>(
    ground: &Ground<'_, 'py>,
    tensors: &[(Vec<usize>, DType)],
    wanted: impl Fn(usize) -> bool,
) -> PyResult<Results<'py>> {
    let (mut results, mut places) = (Vec::new(), Vec::new());
    for (at, (shape, dtype)) in tensors.iter().enumerate() {
        let (tensor, place) = match wanted(at) {
            true => ground
                .tensor(shape, *dtype)
                .map(|(t, p)| (Some(t), Some(p)))?,
            false => (None, None),
        };
        results.push(tensor);
        places.push(place);
    }
    Ok((results, places))
}

/// The derivatives of a call with these tensors, where they lie: by inputs, parameters and, of a call that
/// began with states, these. `outputs` and `carried` are the gradients of what the call gave: of outputs one
/// each but for those that have none, of states None for zeros. The rest is as of `call_on_device`. Gives a
/// tensor for each derivative, None where there is none, and 0 for zeros.
#[pyfunction]
#[pyo3(signature = (
    program, inputs, params, states, position, outputs, carried, stream=None, empty=None
))]
#[expect(
    clippy::too_many_arguments,
    reason = "what a call takes, and what it gave"
)]
pub(crate) fn backward_on_device<'py>(
    py: Python<'py>,
    program: &Bound<'py, Program>,
    inputs: Vec<Bound<'py, PyAny>>,
    params: Vec<Bound<'py, PyAny>>,
    states: Vec<Option<Bound<'py, PyAny>>>,
    position: i64,
    outputs: Vec<Option<Bound<'py, PyAny>>>,
    carried: Vec<Option<Bound<'py, PyAny>>>,
    stream: Option<u64>,
    empty: Option<Empty<'py>>,
) -> PyResult<Bound<'py, PyAny>> {
    let model = program.get().program.clone();
    inside(|| model.check_counts(inputs.len(), params.len()))?;
    let back: Arc<BackwardOnDevice> = outside(py, || model.backward_on_device())?;
    let on = back.on();
    let mut ground = Ground::new(py, on, stream, empty)?;
    let told = ground.told;

    // The inputs of the whole are those of the model, then the gradients of its outputs.
    let own_states = model.graph().states.len();
    let mut inputs = inputs;
    let seeds = back.seeds(&model.graph().outputs);
    for (seed, given) in seeds.iter().zip(outputs) {
        let Some(at) = seed else { continue };
        let given =
            given.ok_or_else(|| PyRuntimeError::new_err("a gradient of an output is missing"))?;
        if *at != inputs.len() {
            return Err(PyRuntimeError::new_err(
                "gradients of outputs are out of order",
            ));
        }
        inputs.push(given);
    }
    let mut all: Vec<Option<Bound<'py, PyAny>>> = vec![None; on.types(Kind::State).len()];
    let began = !states.is_empty();
    for (place, state) in all.iter_mut().zip(states) {
        *place = state;
    }
    for ((at, place), given) in back.cotangents(own_states).iter().enumerate().zip(carried) {
        let Some(given) = given else { continue };
        match place {
            Some(place) => all[*place] = Some(given),
            None => return Err(exception(&model.no_cotangent(at))),
        }
    }
    // SAFETY: as of `call_on_device`.
    let (inputs, params, states) = unsafe {
        (
            see(&inputs, |at| name_of(model.inputs(), at), told)?,
            see(&params, |at| name_of(model.params(), at), told)?,
            see_some(&all, |at| name_of(model.states(), at), told)?,
        )
    };
    let needs = match inside(|| back.prepare(&inputs.views, &params.views, &states.views))? {
        Ok(needs) => needs,
        Err(list) => return to_bring(py, &list),
    };
    let by = back.by();
    let of_states: &[By] = if began { by[2] } else { &[] };
    let wanted: Vec<By> = [by[0], by[1], of_states].concat();
    let (by_output, written) = results(&ground, &needs.run.outputs, |at| {
        wanted.contains(&By::Output(at))
    })?;
    let (by_state, after) = results(&ground, &needs.run.states, |at| {
        wanted.contains(&By::State(at))
    })?;
    let (mut computed, mut places) = (Vec::new(), Vec::new());
    for elements in &needs.computed {
        let (tensor, place) = ground.tensor(&[*elements], DType::F32)?;
        computed.push(tensor);
        places.push(place);
    }
    let before = states.views.iter().map(|view| view.as_ref().map(address));
    let given = Given {
        inputs: addresses(&inputs.views),
        params: addresses(&params.views),
        before: before.collect(),
        outputs: written,
        after,
        workspace: ground.workspace(needs.workspace)?,
        lent: None,
    };
    let stream = ground.stream;
    // SAFETY: as of `call_on_device`.
    outside(py, || unsafe {
        back.run(&needs, &given, &places, position, stream)
    })?;
    ground.end()?;
    drop((inputs, params, states));
    let found = wanted.iter().map(|by| match by {
        By::Nothing => Ok(py.None().into_bound(py)),
        By::Zeros => Ok(0i32.into_pyobject(py)?.into_any()),
        By::Output(at) => Ok(by_output[*at]
            .clone()
            .unwrap_or_else(|| py.None().into_bound(py))),
        By::State(at) => Ok(by_state[*at]
            .clone()
            .unwrap_or_else(|| py.None().into_bound(py))),
        By::Computed(at) => Ok(computed[*at].clone()),
    });
    let found: Vec<Bound<'py, PyAny>> = found.collect::<PyResult<_>>()?;
    Ok(PyTuple::new(py, found)?.into_any())
}
