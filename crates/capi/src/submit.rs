//! Runs on the caller's memory of a device and on the caller's stream.

use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

use fusec_fuse::Shape;
use fusec_runtime::program::{DType, Given, Kind, OnDevice, TensorView, Unsuitable};

use crate::{
    FUSEC_BF16, FUSEC_F16, FUSEC_F32, FUSEC_I32, FUSEC_I64, FUSEC_INPUTS, FUSEC_OUTPUTS,
    FUSEC_PARAMS, FUSEC_STATES, Failure, Program, Tensor, guarded, views, wrong,
};

/// The kernels of a program, which are on a device.
fn on_device(program: &Program) -> Result<&Arc<OnDevice>, Failure> {
    match program.inner.on_device() {
        Some(on) => Ok(on),
        None => wrong("device `cpu` has no kernels: fusec_run runs there"),
    }
}

/// In which type the `index`-th tensor of a kind lies for `fusec_submit`: one of the element types, written to
/// `dtype`. Not for programs of device `cpu`.
///
/// # Safety
///
/// The program is one, `dtype` has room, `error` is the address of a pointer or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fusec_dtype_of(
    program: *const Program,
    kind: u32,
    index: usize,
    dtype: *mut u32,
    error: *mut *mut c_char,
) -> c_int {
    guarded(error, || {
        // SAFETY: the caller's promise.
        let (Some(program), false) = (unsafe { program.as_ref() }, dtype.is_null()) else {
            return wrong("program and dtype must not be NULL");
        };
        let on = on_device(program)?;
        let list = match kind {
            FUSEC_INPUTS => on.types(Kind::Input),
            FUSEC_OUTPUTS => on.output_types().into_iter().map(Some).collect(),
            FUSEC_PARAMS => on.types(Kind::Param),
            FUSEC_STATES => on.types(Kind::State),
            other => return wrong(format!("{other} is no kind of tensor")),
        };
        let Some(found) = list.get(index) else {
            let count = list.len();
            return wrong(format!(
                "tensor {index} of {count} is asked for: they count from 0"
            ));
        };
        // What no kernel reads may be of any type.
        let code = match found.unwrap_or(DType::F32) {
            DType::Bf16 => FUSEC_BF16,
            DType::F16 => FUSEC_F16,
            DType::I32 => FUSEC_I32,
            DType::I64 => FUSEC_I64,
            _ => FUSEC_F32,
        };
        // SAFETY: the caller's promise.
        unsafe { *dtype = code };
        Ok(())
    })
}

/// Bytes of memory that a run of `batch` sequences of `time` tokens needs beside its tensors, for `fusec_submit`.
///
/// # Safety
///
/// The program is one, `bytes` has room, `error` is the address of a pointer or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fusec_workspace(
    program: *const Program,
    batch: usize,
    time: usize,
    bytes: *mut usize,
    error: *mut *mut c_char,
) -> c_int {
    guarded(error, || {
        // SAFETY: the caller's promise.
        let (Some(program), false) = (unsafe { program.as_ref() }, bytes.is_null()) else {
            return wrong("program and bytes must not be NULL");
        };
        if batch == 0 || time == 0 {
            return wrong("a run has at least one sequence and one token");
        }
        let needs = on_device(program)?.needs(Shape { batch, time })?;
        // SAFETY: the caller's promise.
        unsafe { *bytes = needs.workspace };
        Ok(())
    })
}

/// A run on memory of the device, for `fusec_submit`. What is not needed is zero.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Submission {
    /// Inputs, in the order of `FUSEC_INPUTS`.
    pub inputs: *const Tensor,
    /// How many.
    pub input_count: usize,
    /// Parameters, in the order of `FUSEC_PARAMS`; none where the program has weights.
    pub params: *const Tensor,
    /// How many.
    pub param_count: usize,
    /// States before the run, in the order of `FUSEC_STATES`; NULL: before the first token.
    pub before: *const Tensor,
    /// Where the states after the run go, row-major, other memory than before; NULL: nobody wants them.
    pub after: *const *mut c_void,
    /// How many states, if there are any of either.
    pub state_count: usize,
    /// Tokens seen before the run.
    pub position: i64,
    /// Where the outputs go, in the order of `FUSEC_OUTPUTS`, row-major.
    pub outputs: *const *mut c_void,
    /// How many.
    pub output_count: usize,
    /// Memory that the run alone uses.
    pub workspace: *mut c_void,
    /// Its bytes, at least those of `fusec_workspace`.
    pub workspace_bytes: usize,
    /// The stream: a `CUstream` or `cudaStream_t`.
    pub stream: *mut c_void,
}

/// Submits a run to the caller's stream, on the caller's memory of the device: nothing is copied or allocated, and
/// nothing is waited for. Tensors are row-major, at multiples of 16 bytes, in the types of `fusec_dtype_of`; all of
/// them are there until the stream has come to the end of the run, and so is the program. On device `emulator`
/// memory is the host's, and the run is done when this returns.
///
/// # Safety
///
/// The pointers are what their types and this text say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fusec_submit(
    program: *const Program,
    run: *const Submission,
    error: *mut *mut c_char,
) -> c_int {
    guarded(error, || {
        // SAFETY: the caller's promise.
        let (Some(program), Some(run)) = (unsafe { (program.as_ref(), run.as_ref()) }) else {
            return wrong("program and run must not be NULL");
        };
        let on = on_device(program)?;
        let memory = on.memory();
        program
            .inner
            .check_counts(run.input_count, run.param_count)?;
        // SAFETY: the caller's promise.
        let (inputs, params, before) = unsafe {
            let before = if run.before.is_null() {
                0
            } else {
                run.state_count
            };
            (
                views(run.inputs, run.input_count, memory)?,
                views(run.params, run.param_count, memory)?,
                views(run.before, before, memory)?,
            )
        };
        let states = program.ports[FUSEC_STATES as usize].len();
        let asks = !run.before.is_null() || !run.after.is_null();
        if asks && run.state_count != states {
            let given = run.state_count;
            return wrong(format!("the model has {states} states, {given} are given"));
        }
        let before: Vec<Option<TensorView<'_>>> = before.into_iter().map(Some).collect();
        let needs = match on.prepare(&inputs, &params, &before)? {
            Ok(needs) => needs,
            Err(list) => return wrong(form(program, &list)),
        };
        let outputs = program.ports[FUSEC_OUTPUTS as usize].len();
        // SAFETY: the caller's promise.
        let (outputs, after) = unsafe {
            (
                places(run.outputs, run.output_count, outputs, "outputs")?,
                match run.after.is_null() {
                    true => Vec::new(),
                    false => places(run.after, run.state_count, states, "states")?,
                },
            )
        };
        let room = run.workspace_bytes;
        if room < needs.workspace || run.workspace.is_null() {
            let wanted = needs.workspace;
            return wrong(format!(
                "the run needs {wanted} bytes of workspace, {room} are given"
            ));
        }
        let address = |view: &TensorView<'_>| view.address().expose_provenance() as u64;
        let before: Vec<Option<u64>> = before
            .iter()
            .map(|view| view.as_ref().map(address))
            .collect();
        if let Some(at) = before.iter().zip(&after).position(|(b, a)| b == a) {
            let name = name_of(program, FUSEC_STATES, at);
            return wrong(format!(
                "the state `{name}` is read and written at one address: its later form goes to other memory"
            ));
        }
        let given = Given {
            inputs: inputs.iter().map(address).collect(),
            params: params.iter().map(address).collect(),
            before,
            outputs,
            after,
            workspace: run.workspace.expose_provenance() as u64,
            lent: None,
        };
        let stream = run.stream.expose_provenance() as u64;
        // SAFETY: everything has the types and extents that `prepare` has checked; the rest is the caller's promise.
        unsafe { on.run(&needs, &given, run.position, stream)? };
        Ok(())
    })
}

/// What has to be done with tensors that kernels cannot read where they lie, in words.
fn form(program: &Program, list: &[Unsuitable]) -> String {
    let one = |unsuitable: &Unsuitable| {
        let ports = match unsuitable.kind {
            Kind::Input => FUSEC_INPUTS,
            Kind::Param => FUSEC_PARAMS,
            Kind::State => FUSEC_STATES,
        };
        let name = name_of(program, ports, unsuitable.index);
        format!("`{name}` as {}", unsuitable.dtype)
    };
    let list: Vec<String> = list.iter().map(one).collect();
    format!(
        "the kernels read {}, row-major and at an address that 16 divides: bring it into that form",
        list.join(", ")
    )
}

/// What the model calls a tensor of a kind.
fn name_of(program: &Program, kind: u32, index: usize) -> String {
    let port = program
        .ports
        .get(kind as usize)
        .and_then(|list| list.get(index));
    port.map_or_else(String::new, |port| port.name.to_string_lossy().into_owned())
}

/// Addresses to be written to, each of a tensor.
///
/// # Safety
///
/// NULL, or as many addresses as are announced.
unsafe fn places(
    given: *const *mut c_void,
    count: usize,
    wanted: usize,
    what: &str,
) -> Result<Vec<Option<u64>>, Failure> {
    if count != wanted || (given.is_null() && wanted > 0) {
        return wrong(format!(
            "the model has {wanted} {what}, room is given for {count}"
        ));
    }
    if wanted == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the caller's promise.
    let given = unsafe { std::slice::from_raw_parts(given, count) };
    let address = |place: &*mut c_void| place.expose_provenance() as u64;
    let addresses: Vec<u64> = given.iter().map(address).collect();
    match addresses.iter().find(|at| **at == 0 || **at % 16 != 0) {
        Some(_) => wrong(format!(
            "{what} go to addresses that 16 divides, and not to NULL"
        )),
        None => Ok(addresses.into_iter().map(Some).collect()),
    }
}
