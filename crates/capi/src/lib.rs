//! fusec from C: `include/fusec.h` and the library behind it.
//!
//! What lives here: pointers in, pointers out, errors as texts, and nothing else: what a call means is
//! `fusec_runtime::program`. No panic leaves a function.
#![deny(clippy::undocumented_unsafe_blocks)]
#![warn(missing_docs)]

mod submit;

pub use submit::*;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr;

use fusec_fuse::{Mode, Shape, Storage};
use fusec_ir::language::Overrides;
use fusec_runtime::executor::HostState;
use fusec_runtime::program::{
    self, Arguments, DType, Memory, Program as Inner, ProgramError, TensorView,
};

/// Nothing went wrong.
pub const FUSEC_OK: c_int = 0;
/// An argument is wrong: the text names it.
pub const FUSEC_WRONG: c_int = 1;
/// Something failed that no argument caused.
pub const FUSEC_FAILED: c_int = 2;

/// Element types of `fusec_tensor`.
pub const FUSEC_F32: u32 = 0;
/// bfloat16.
pub const FUSEC_BF16: u32 = 1;
/// IEEE half.
pub const FUSEC_F16: u32 = 2;
/// 32-bit integers: token ids.
pub const FUSEC_I32: u32 = 3;
/// 64-bit integers: token ids.
pub const FUSEC_I64: u32 = 4;

/// `fusec_ports`: what a run is given.
pub const FUSEC_INPUTS: u32 = 0;
/// `fusec_ports`: what a run gives.
pub const FUSEC_OUTPUTS: u32 = 1;
/// `fusec_ports`: parameters.
pub const FUSEC_PARAMS: u32 = 2;
/// `fusec_ports`: what is carried from run to run.
pub const FUSEC_STATES: u32 = 3;

/// A compiled model.
#[derive(Debug)]
pub struct Program {
    inner: Inner,
    ports: [Vec<OwnedPort>; 4],
}

#[derive(Debug)]
struct OwnedPort {
    name: CString,
    text: CString,
    extents: Vec<usize>,
}

/// What is carried from one run to the next.
#[derive(Debug)]
pub struct State {
    state: Option<HostState>,
}

/// A tensor: in memory of the host, or, for `fusec_submit`, where the kernels run.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    /// Its first element.
    pub data: *const c_void,
    /// One of the element types.
    pub dtype: u32,
    /// How many axes it has.
    pub axes: usize,
    /// Their extents.
    pub shape: *const usize,
    /// Elements from one place on each axis to the next; NULL: row-major without gaps.
    pub strides: *const isize,
}

/// How a model is compiled. All zero (`fusec_options options = {0};`) is what is usual.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// `auto` (NULL), `cpu`, `emulator`, `cuda:N`.
    pub device: *const c_char,
    /// In which type kernels store activations: `f32` (NULL), `bf16`, `f16`.
    pub dtype: *const c_char,
    /// A checkpoint, `random:SEED`, `initial:SEED`; NULL: the model's own, or parameters in each run.
    pub weights: *const c_char,
    /// A preset of the model text, or NULL.
    pub preset: *const c_char,
    /// `auto` (NULL), `greedy`, `unfused`, `random:SEED`.
    pub plan: *const c_char,
    /// The GPU whose costs are used; NULL: `h200`.
    pub profile: *const c_char,
    /// Sequences of the run that costs are computed for; 0: 8.
    pub batch: usize,
    /// Its tokens; 0: 2048.
    pub time: usize,
    /// Fetch no compiler.
    pub offline: bool,
}

/// A tensor that a program takes or gives. It lives as long as the program.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Port {
    /// Its name in the model.
    pub name: *const c_char,
    /// Its shape with the names of axes: `[B, T, H=32, N=64]`.
    pub shape: *const c_char,
    /// How many axes it has besides batch and time (or, a state, batch and tokens).
    pub axes: usize,
    /// Their extents.
    pub extents: *const usize,
}

/// Why a call failed.
enum Failure {
    Program(ProgramError),
    Wrong(String),
}

impl<E: Into<ProgramError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Program(error.into())
    }
}

fn wrong<T>(text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Wrong(text.into()))
}

/// Does the work of a function: errors and panics become a status and a text.
fn guarded(error: *mut *mut c_char, work: impl FnOnce() -> Result<(), Failure>) -> c_int {
    let (status, text) = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => return FUSEC_OK,
        Ok(Err(Failure::Wrong(text))) => (FUSEC_WRONG, text),
        Ok(Err(Failure::Program(error))) => {
            let status = match error.is_the_callers() {
                true => FUSEC_WRONG,
                false => FUSEC_FAILED,
            };
            (status, error.report())
        }
        Err(_) => (
            FUSEC_FAILED,
            "fusec failed inside: this is a mistake of fusec, please report it".to_owned(),
        ),
    };
    if !error.is_null() {
        // SAFETY: the caller has given the address of a pointer.
        unsafe { *error = c_text(&text).into_raw() };
    }
    status
}

/// A text for C, which ends at the first zero byte.
fn c_text(text: &str) -> CString {
    CString::new(text.split('\0').next().unwrap_or_default()).unwrap_or_default()
}

/// A text of the caller.
///
/// # Safety
///
/// NULL, or a text that ends with a zero byte.
unsafe fn text<'a>(given: *const c_char, what: &str) -> Result<Option<&'a str>, Failure> {
    if given.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    match unsafe { CStr::from_ptr(given) }.to_str() {
        Ok(text) => Ok(Some(text)),
        Err(_) => wrong(format!("{what} is not UTF-8")),
    }
}

/// What the caller chose, for the runtime.
///
/// # Safety
///
/// NULL, or options whose texts are NULL or end with a zero byte.
unsafe fn read_options(
    given: *const Options,
) -> Result<(program::Options, Overrides, Option<String>), Failure> {
    let mut options = program::Options::default();
    let mut overrides = Overrides::default();
    // SAFETY: the caller's promise.
    let Some(given) = (unsafe { given.as_ref() }) else {
        return Ok((options, overrides, None));
    };
    // SAFETY: the caller's promise, for all of these.
    let (device, dtype, weights, preset, plan, profile) = unsafe {
        (
            text(given.device, "device")?,
            text(given.dtype, "dtype")?,
            text(given.weights, "weights")?,
            text(given.preset, "preset")?,
            text(given.plan, "plan")?,
            text(given.profile, "profile")?,
        )
    };
    if let Some(device) = device {
        options.device = device.parse().map_err(ProgramError::from)?;
    }
    if let Some(dtype) = dtype {
        let storage = dtype.parse::<Storage>();
        options.storage = storage.map_err(|e| Failure::Wrong(format!("dtype: {e}")))?;
    }
    if let Some(plan) = plan {
        let mode = plan.parse::<Mode>();
        options.mode = mode.map_err(|e| Failure::Wrong(format!("plan: {e}")))?;
    }
    if let Some(profile) = profile {
        options.profile = profile.to_owned();
    }
    let or = |given, usual| if given == 0 { usual } else { given };
    options.shape = Shape {
        batch: or(given.batch, options.shape.batch),
        time: or(given.time, options.shape.time),
    };
    options.toolchain.offline = given.offline;
    overrides.preset = preset.map(str::to_owned);
    Ok((options, overrides, weights.map(str::to_owned)))
}

fn owned_ports(ports: Vec<program::Port>) -> Vec<OwnedPort> {
    let ports = ports.into_iter();
    ports
        .map(|port| OwnedPort {
            name: c_text(&port.name),
            text: c_text(&port.shape.text()),
            extents: port.shape.extents(),
        })
        .collect()
}

fn boxed(inner: Inner) -> *mut Program {
    let ports = [
        owned_ports(inner.inputs()),
        owned_ports(inner.outputs()),
        owned_ports(inner.params()),
        owned_ports(inner.states()),
    ];
    Box::into_raw(Box::new(Program { inner, ports }))
}

/// Compiles the model at `path` (a model text, a directory with one, or a checkpoint) and writes it to
/// `program`; `options` may be NULL.
///
/// # Safety
///
/// Texts end with a zero byte; `program` is the address of a pointer, `error` is or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fusec_compile(
    path: *const c_char,
    options: *const Options,
    program: *mut *mut Program,
    error: *mut *mut c_char,
) -> c_int {
    guarded(error, || {
        // SAFETY: the caller's promise.
        let path = unsafe { text(path, "path") }?;
        let (Some(path), false) = (path, program.is_null()) else {
            return wrong("path and program must not be NULL");
        };
        // SAFETY: the caller's promise.
        let (options, overrides, weights) = unsafe { read_options(options) }?;
        let inner = Inner::open(Path::new(path), &overrides, weights.as_deref(), options)?;
        // SAFETY: the caller's promise.
        unsafe { *program = boxed(inner) };
        Ok(())
    })
}

/// Compiles a model text, which includes nothing, and writes it to `program`; `options` may be NULL.
///
/// # Safety
///
/// As of `fusec_compile`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fusec_compile_text(
    model: *const c_char,
    options: *const Options,
    program: *mut *mut Program,
    error: *mut *mut c_char,
) -> c_int {
    guarded(error, || {
        // SAFETY: the caller's promise.
        let model = unsafe { text(model, "model") }?;
        let (Some(model), false) = (model, program.is_null()) else {
            return wrong("model and program must not be NULL");
        };
        // SAFETY: the caller's promise.
        let (options, overrides, weights) = unsafe { read_options(options) }?;
        let inner = Inner::of_text(model, &overrides, weights.as_deref(), options)?;
        // SAFETY: the caller's promise.
        unsafe { *program = boxed(inner) };
        Ok(())
    })
}

/// Frees a program; NULL is allowed.
///
/// # Safety
///
/// It comes from `fusec_compile` or `fusec_compile_text`, and is freed once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fusec_program_free(program: *mut Program) {
    if !program.is_null() {
        // SAFETY: the caller's promise.
        let program = unsafe { Box::from_raw(program) };
        let _ = catch_unwind(AssertUnwindSafe(|| drop(program)));
    }
}

/// Frees a text; NULL is allowed.
///
/// # Safety
///
/// It comes from a function of this library, and is freed once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fusec_text_free(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: the caller's promise.
        drop(unsafe { CString::from_raw(text) });
    }
}

/// How many tensors of a kind (`FUSEC_INPUTS`, ...) a program has; 0 for what is no kind.
///
/// # Safety
///
/// The program is one, or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fusec_ports(program: *const Program, kind: u32) -> usize {
    // SAFETY: the caller's promise.
    let program = unsafe { program.as_ref() };
    let ports = program.and_then(|program| program.ports.get(kind as usize));
    ports.map_or(0, Vec::len)
}

/// The `index`-th tensor of a kind; all of it is zero where there is none.
///
/// # Safety
///
/// The program is one, or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fusec_port_of(program: *const Program, kind: u32, index: usize) -> Port {
    // SAFETY: the caller's promise.
    let program = unsafe { program.as_ref() };
    let port = program
        .and_then(|program| program.ports.get(kind as usize))
        .and_then(|ports| ports.get(index));
    match port {
        Some(port) => Port {
            name: port.name.as_ptr(),
            shape: port.text.as_ptr(),
            axes: port.extents.len(),
            extents: port.extents.as_ptr(),
        },
        None => Port {
            name: ptr::null(),
            shape: ptr::null(),
            axes: 0,
            extents: ptr::null(),
        },
    }
}

/// The plan for people, to be freed with `fusec_text_free`; NULL where there is none, and why in `error`.
///
/// # Safety
///
/// The program is one; `error` is the address of a pointer, or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fusec_plan(
    program: *const Program,
    error: *mut *mut c_char,
) -> *mut c_char {
    let mut plan = ptr::null_mut();
    guarded(error, || {
        // SAFETY: the caller's promise.
        let Some(program) = (unsafe { program.as_ref() }) else {
            return wrong("program must not be NULL");
        };
        plan = c_text(&program.inner.plan_text()?).into_raw();
        Ok(())
    });
    plan
}

/// A state before the first token, for `fusec_run`.
#[unsafe(no_mangle)]
pub extern "C" fn fusec_state_new() -> *mut State {
    Box::into_raw(Box::new(State { state: None }))
}

/// Frees a state; NULL is allowed.
///
/// # Safety
///
/// It comes from `fusec_state_new`, and is freed once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fusec_state_free(state: *mut State) {
    if !state.is_null() {
        // SAFETY: the caller's promise.
        drop(unsafe { Box::from_raw(state) });
    }
}

/// Copies the `index`-th state (`FUSEC_STATES`), row-major, to `values`, which holds `count` numbers: as many
/// as it has for the batch of the last run.
///
/// # Safety
///
/// Program and state are what they are called, `values` has room, `error` is the address of a pointer or
/// NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fusec_state_read(
    program: *const Program,
    state: *const State,
    index: usize,
    values: *mut f32,
    count: usize,
    error: *mut *mut c_char,
) -> c_int {
    guarded(error, || {
        // SAFETY: the caller's promise.
        let (program, state) = unsafe { (program.as_ref(), state.as_ref()) };
        let (Some(program), Some(state), false) = (program, state, values.is_null()) else {
            return wrong("program, state and values must not be NULL");
        };
        let Some(state) = &state.state else {
            return wrong("nothing was run with this state");
        };
        let tensors = program.inner.state_tensors(state.clone())?;
        let Some((shape, numbers)) = tensors.get(index) else {
            return wrong(format!("there are {} states", tensors.len()));
        };
        if numbers.len() != count {
            let has = numbers.len();
            return wrong(format!(
                "the state {shape:?} has {has} numbers, room is for {count}"
            ));
        }
        // SAFETY: the caller's promise.
        unsafe { ptr::copy_nonoverlapping(numbers.as_ptr(), values, count) };
        Ok(())
    })
}

/// The views of tensors of the caller.
///
/// # Safety
///
/// `count` tensors, each with its shape, its strides or NULL, and every element that these reach.
unsafe fn views<'a>(
    tensors: *const Tensor,
    count: usize,
    memory: Memory,
) -> Result<Vec<TensorView<'a>>, Failure> {
    if count == 0 {
        return Ok(Vec::new());
    }
    if tensors.is_null() {
        return wrong(format!("{count} tensors are announced and none is given"));
    }
    // SAFETY: the caller's promise.
    let tensors = unsafe { std::slice::from_raw_parts(tensors, count) };
    let view = |tensor: &Tensor| {
        let dtype = match tensor.dtype {
            FUSEC_F32 => DType::F32,
            FUSEC_BF16 => DType::Bf16,
            FUSEC_F16 => DType::F16,
            FUSEC_I32 => DType::I32,
            FUSEC_I64 => DType::I64,
            other => return wrong(format!("{other} is no element type")),
        };
        if tensor.data.is_null() || (tensor.axes > 0 && tensor.shape.is_null()) {
            return wrong("a tensor has no data, or axes and no shape");
        }
        let (shape, strides) = match tensor.axes {
            0 => (Vec::new(), None),
            // SAFETY: the caller's promise, for both.
            axes => unsafe {
                let strides = (!tensor.strides.is_null())
                    .then(|| std::slice::from_raw_parts(tensor.strides, axes).to_vec());
                let shape = std::slice::from_raw_parts(tensor.shape, axes).to_vec();
                (shape, strides)
            },
        };
        let data = tensor.data.cast::<u8>();
        // SAFETY: the caller's promise.
        Ok(unsafe { TensorView::from_raw(data, dtype, memory, shape, strides) })
    };
    tensors.iter().map(view).collect()
}

/// Runs B sequences of T tokens.
///
/// Inputs in the order of `FUSEC_INPUTS`; parameters in that of `FUSEC_PARAMS`, none where the program has
/// weights. `outputs`: one address per output, where its numbers go, float, row-major `[B, T, axes...]`;
/// the caller has room for them. `state`: what is gone on from and brought up to date; NULL: from the
/// beginning, and forgotten. Where the run fails, the state is as it was.
///
/// # Safety
///
/// The pointers are what their types and this text say; nobody writes to the inputs meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fusec_run(
    program: *const Program,
    state: *mut State,
    inputs: *const Tensor,
    input_count: usize,
    params: *const Tensor,
    param_count: usize,
    outputs: *const *mut f32,
    output_count: usize,
    error: *mut *mut c_char,
) -> c_int {
    guarded(error, || {
        // SAFETY: the caller's promise.
        let (program, state) = unsafe { (program.as_ref(), state.as_mut()) };
        let Some(program) = program else {
            return wrong("program must not be NULL");
        };
        let has = program.ports[FUSEC_OUTPUTS as usize].len();
        if output_count != has || outputs.is_null() {
            return wrong(format!(
                "the model has {has} outputs, room is given for {output_count}"
            ));
        }
        // SAFETY: the caller's promise.
        let outputs = unsafe { std::slice::from_raw_parts(outputs, output_count) };
        if outputs.iter().any(|output| output.is_null()) {
            return wrong("no output may be NULL");
        }
        // SAFETY: the caller's promise.
        let arguments = unsafe {
            Arguments {
                inputs: views(inputs, input_count, Memory::Host)?,
                params: views(params, param_count, Memory::Host)?,
            }
        };
        let before = state.as_ref().and_then(|state| state.state.as_ref());
        let answer = program.inner.call(&arguments, before)?;
        for (output, room) in answer.outputs.iter().zip(outputs) {
            // SAFETY: the caller has as much room as the output has numbers.
            unsafe { ptr::copy_nonoverlapping(output.data.as_ptr(), *room, output.data.len()) };
        }
        if let Some(state) = state {
            state.state = Some(answer.state);
        }
        Ok(())
    })
}
