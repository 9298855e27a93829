//! Tensors across the border without a copy: the DLPack protocol, version 1 and the one before it.
//!
//! The types are those of `dlpack.h` (Apache-2.0); the protocol is that of the Python array API.

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

use fusec_runtime::executor::in_place::DeviceBytes;
use fusec_runtime::program::{DType, Memory, TensorView};
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict, PyType};
use std::sync::Mutex;

const LEGACY: &CStr = c"dltensor";
const LEGACY_USED: &CStr = c"used_dltensor";
const VERSIONED: &CStr = c"dltensor_versioned";
const VERSIONED_USED: &CStr = c"used_dltensor_versioned";
/// The newest version that is spoken here.
const VERSION: (u32, u32) = (1, 1);
/// `kDLCPU`, `kDLCUDA`, `kDLCUDAHost`.
const CPU: i32 = 1;
const CUDA: i32 = 2;
const CUDA_HOST: i32 = 3;

#[repr(C)]
#[derive(Clone, Copy)]
struct DlDevice {
    kind: i32,
    id: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct DlDataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device: DlDevice,
    ndim: i32,
    dtype: DlDataType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct Managed {
    tensor: DlTensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
}

#[repr(C)]
struct ManagedVersioned {
    major: u32,
    minor: u32,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut ManagedVersioned)>,
    flags: u64,
    tensor: DlTensor,
}

/// A tensor of somebody else, held until it is dropped.
pub(crate) struct Borrowed {
    managed: Held,
}

enum Held {
    Legacy(NonNull<Managed>),
    Versioned(NonNull<ManagedVersioned>),
}

// SAFETY: the protocol has deleters callable from any thread; the tensor is only read.
unsafe impl Send for Borrowed {}
// SAFETY: as above.
unsafe impl Sync for Borrowed {}

impl Drop for Borrowed {
    fn drop(&mut self) {
        // SAFETY: the capsule was marked as used when it was taken, so this is the only call of the
        // deleter, and nothing reads the tensor after it.
        unsafe {
            match self.managed {
                Held::Legacy(managed) => {
                    if let Some(delete) = managed.as_ref().deleter {
                        delete(managed.as_ptr());
                    }
                }
                Held::Versioned(managed) => {
                    if let Some(delete) = managed.as_ref().deleter {
                        delete(managed.as_ptr());
                    }
                }
            }
        }
    }
}

impl Borrowed {
    /// Takes a tensor over from anything with `__dlpack__`. `name` is for messages.
    pub(crate) fn of(tensor: &Bound<'_, PyAny>, name: &str) -> PyResult<Self> {
        Self::on_stream(tensor, name, None)
    }

    /// As [`Borrowed::of`]; what is under way on the tensor is before everything that is submitted to a
    /// stream from now on, or, at stream -1, before nothing.
    pub(crate) fn on_stream(
        tensor: &Bound<'_, PyAny>,
        name: &str,
        stream: Option<i64>,
    ) -> PyResult<Self> {
        let py = tensor.py();
        let Ok(method) = tensor.getattr("__dlpack__") else {
            return Err(PyTypeError::new_err(format!(
                "`{name}` is a {}: give a tensor of torch, numpy, jax, cupy or anything else with \
                 __dlpack__",
                tensor.get_type().name()?
            )));
        };
        let old = PyDict::new(py);
        if let Some(stream) = stream {
            old.set_item("stream", stream)?;
        }
        let versioned = old.copy()?;
        versioned.set_item("max_version", VERSION)?;
        let capsule = match method.call((), Some(&versioned)) {
            // Libraries from before version 1 do not know the argument.
            Err(error) if error.is_instance_of::<PyTypeError>(py) => method.call((), Some(&old))?,
            result => result?,
        };
        let capsule = capsule.cast_into::<PyCapsule>().map_err(|_| {
            PyTypeError::new_err(format!(
                "`{name}`: __dlpack__ gave something that is no capsule"
            ))
        })?;
        let object = capsule.as_ptr();
        // SAFETY: the object is a capsule; its pointer is asked for under the name that it has, and the
        // capsule gives up its ownership with the other name, as the protocol says.
        let managed = unsafe {
            let take = |name: &CStr, used: &'static CStr| {
                if ffi::PyCapsule_IsValid(object, name.as_ptr()) == 0 {
                    return None;
                }
                let pointer = ffi::PyCapsule_GetPointer(object, name.as_ptr());
                (ffi::PyCapsule_SetName(object, used.as_ptr()) == 0).then_some(pointer)
            };
            match take(VERSIONED, VERSIONED_USED).and_then(NonNull::new) {
                Some(pointer) => Some(Held::Versioned(pointer.cast())),
                None => take(LEGACY, LEGACY_USED)
                    .and_then(NonNull::new)
                    .map(|pointer| Held::Legacy(pointer.cast())),
            }
        };
        let managed = managed.ok_or_else(|| {
            PyBufferError::new_err(format!(
                "`{name}`: the capsule of __dlpack__ was used already"
            ))
        })?;
        let borrowed = Self { managed };
        if let Held::Versioned(managed) = &borrowed.managed {
            // SAFETY: version and deleter come first in every version.
            let major = unsafe { managed.as_ref().major };
            if major > VERSION.0 {
                return Err(PyBufferError::new_err(format!(
                    "`{name}` comes as DLPack {major}, {} is understood",
                    VERSION.0
                )));
            }
        }
        Ok(borrowed)
    }

    /// The tensor.
    pub(crate) fn view(&self) -> TensorView<'_> {
        // SAFETY: taken over in `of`, not yet deleted; the owner keeps the elements until the deleter is
        // called, which is when `self` goes.
        unsafe {
            match &self.managed {
                Held::Legacy(managed) => view_of(&managed.as_ref().tensor),
                Held::Versioned(managed) => view_of(&managed.as_ref().tensor),
            }
        }
    }
}

/// The view of a tensor.
///
/// # Safety
///
/// It is as the protocol says, and its elements are there for `'a`.
unsafe fn view_of<'a>(tensor: &DlTensor) -> TensorView<'a> {
    let axes = usize::try_from(tensor.ndim).unwrap_or(0);
    let list = |pointer: *const i64| -> &[i64] {
        match pointer.is_null() || axes == 0 {
            true => &[],
            // SAFETY: the protocol has as many extents and strides as axes.
            false => unsafe { std::slice::from_raw_parts(pointer, axes) },
        }
    };
    let shape = list(tensor.shape).iter();
    let shape: Vec<usize> = shape.map(|n| usize::try_from(*n).unwrap_or(0)).collect();
    let strides = (!tensor.strides.is_null())
        .then(|| list(tensor.strides).iter().map(|n| *n as isize).collect());
    let memory = match tensor.device.kind {
        CPU | CUDA_HOST => Memory::Host,
        CUDA => Memory::Cuda(usize::try_from(tensor.device.id).unwrap_or(0)),
        other => Memory::Other(other),
    };
    let offset = usize::try_from(tensor.byte_offset).unwrap_or(0);
    let data = tensor.data.cast::<u8>().wrapping_add(offset);
    // SAFETY: the caller's promise.
    unsafe { TensorView::from_raw(data, dtype(tensor.dtype), memory, shape, strides) }
}

fn dtype(dtype: DlDataType) -> DType {
    match (dtype.code, dtype.bits, dtype.lanes) {
        (2, 32, 1) => DType::F32,
        (2, 64, 1) => DType::F64,
        (2, 16, 1) => DType::F16,
        (4, 16, 1) => DType::Bf16,
        (0, 32, 1) => DType::I32,
        (0, 64, 1) => DType::I64,
        (0, bits, 1) => DType::Other("int", bits),
        (1, bits, 1) => DType::Other("uint", bits),
        (2, bits, 1) => DType::Other("float", bits),
        (5, bits, 1) => DType::Other("complex", bits),
        (6, bits, 1) => DType::Other("bool", bits),
        (_, bits, _) => DType::Other("a vector or packed type of bits ", bits),
    }
}

/// Elements that belong to Python once they are there: whoever takes the tensor may write to them.
pub(crate) enum Elements {
    /// float32.
    F32(UnsafeCell<Vec<f32>>),
    /// float64.
    F64(UnsafeCell<Vec<f64>>),
    /// bfloat16 or float16, as bits.
    Half(UnsafeCell<Vec<u16>>, DType),
    /// In memory of a device.
    Device(Box<dyn DeviceBytes>, DType, Memory),
}

// SAFETY: nothing here reads or writes the elements after they were made; who does on the other side of
// the border has to agree among themselves, as with any tensor.
unsafe impl Send for Elements {}
// SAFETY: as above.
unsafe impl Sync for Elements {}

impl Elements {
    fn data(&self) -> *mut c_void {
        // SAFETY: takes the address only; no reference outlives the expression.
        unsafe {
            match self {
                Elements::F32(x) => (*x.get()).as_mut_ptr().cast(),
                Elements::F64(x) => (*x.get()).as_mut_ptr().cast(),
                Elements::Half(x, _) => (*x.get()).as_mut_ptr().cast(),
                Elements::Device(x, ..) => {
                    std::ptr::with_exposed_provenance_mut(x.address() as usize)
                }
            }
        }
    }

    /// Where they lie: DLPack's kind of device, and its number.
    pub(crate) fn device(&self) -> (i32, i32) {
        match self {
            Elements::Device(_, _, Memory::Cuda(ordinal)) => (CUDA, *ordinal as i32),
            _ => (CPU, 0),
        }
    }

    /// The same elements in memory of their own; `None` where they lie on a device.
    pub(crate) fn copied(&self) -> Option<Self> {
        // SAFETY: reads only, while the caller holds Python's lock, under which array libraries write.
        let copied = unsafe {
            match self {
                Elements::F32(x) => Elements::F32(UnsafeCell::new((*x.get()).clone())),
                Elements::F64(x) => Elements::F64(UnsafeCell::new((*x.get()).clone())),
                Elements::Half(x, dtype) => {
                    Elements::Half(UnsafeCell::new((*x.get()).clone()), *dtype)
                }
                Elements::Device(..) => return None,
            }
        };
        Some(copied)
    }

    pub(crate) fn dtype(&self) -> DType {
        match self {
            Elements::F32(_) => DType::F32,
            Elements::F64(_) => DType::F64,
            Elements::Half(_, dtype) | Elements::Device(_, dtype, _) => *dtype,
        }
    }
}

/// What an exported tensor keeps alive.
struct Export {
    shape: Vec<i64>,
    strides: Vec<i64>,
    _elements: Arc<Elements>,
}

/// A capsule for a tensor, in the newest form that the taker speaks.
pub(crate) fn capsule<'py>(
    py: Python<'py>,
    elements: &Arc<Elements>,
    shape: &[usize],
    max_version: Option<(u32, u32)>,
) -> PyResult<Bound<'py, PyAny>> {
    let mut strides = vec![1i64; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis] as i64);
    }
    let mut export = Box::new(Export {
        shape: shape.iter().map(|n| *n as i64).collect(),
        strides,
        _elements: elements.clone(),
    });
    let dtype = match elements.dtype() {
        DType::Bf16 => DlDataType {
            code: 4,
            bits: 16,
            lanes: 1,
        },
        DType::F16 => DlDataType {
            code: 2,
            bits: 16,
            lanes: 1,
        },
        DType::F64 => DlDataType {
            code: 2,
            bits: 64,
            lanes: 1,
        },
        DType::I32 => DlDataType {
            code: 0,
            bits: 32,
            lanes: 1,
        },
        _ => DlDataType {
            code: 2,
            bits: 32,
            lanes: 1,
        },
    };
    let tensor = DlTensor {
        data: elements.data(),
        device: {
            let (kind, id) = elements.device();
            DlDevice { kind, id }
        },
        ndim: shape.len() as i32,
        dtype,
        shape: export.shape.as_mut_ptr(),
        strides: export.strides.as_mut_ptr(),
        byte_offset: 0,
    };
    let context = Box::into_raw(export).cast::<c_void>();
    let versioned = max_version.is_some_and(|(major, _)| major >= 1);
    let (pointer, name, destructor): (*mut c_void, _, ffi::PyCapsule_Destructor) = match versioned {
        true => {
            let managed = Box::new(ManagedVersioned {
                major: VERSION.0,
                minor: VERSION.1,
                context,
                deleter: Some(delete_versioned),
                flags: 0,
                tensor,
            });
            (Box::into_raw(managed).cast(), VERSIONED, drop_versioned)
        }
        false => {
            let managed = Box::new(Managed {
                tensor,
                context,
                deleter: Some(delete_legacy),
            });
            (Box::into_raw(managed).cast(), LEGACY, drop_legacy)
        }
    };
    let pointer = NonNull::new(pointer).ok_or_else(|| PyBufferError::new_err("no memory"))?;
    // SAFETY: the pointer is a box of its own; the destructor frees it unless somebody took it over, in
    // which case the capsule has another name by then.
    let capsule =
        unsafe { PyCapsule::new_with_pointer_and_destructor(py, pointer, name, Some(destructor)) }?;
    Ok(capsule.into_any())
}

unsafe extern "C" fn delete_legacy(managed: *mut Managed) {
    // SAFETY: made by `capsule` from these boxes, and deleted once.
    unsafe {
        let managed = Box::from_raw(managed);
        drop(Box::from_raw(managed.context.cast::<Export>()));
    }
}

unsafe extern "C" fn delete_versioned(managed: *mut ManagedVersioned) {
    // SAFETY: made by `capsule` from these boxes, and deleted once.
    unsafe {
        let managed = Box::from_raw(managed);
        drop(Box::from_raw(managed.context.cast::<Export>()));
    }
}

unsafe extern "C" fn drop_legacy(capsule: *mut ffi::PyObject) {
    // SAFETY: called by Python with the capsule; under this name nobody took the tensor over.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, LEGACY.as_ptr()) == 1 {
            delete_legacy(ffi::PyCapsule_GetPointer(capsule, LEGACY.as_ptr()).cast());
        }
    }
}

unsafe extern "C" fn drop_versioned(capsule: *mut ffi::PyObject) {
    // SAFETY: as above.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, VERSIONED.as_ptr()) == 1 {
            delete_versioned(ffi::PyCapsule_GetPointer(capsule, VERSIONED.as_ptr()).cast());
        }
    }
}

/// What a library gives beside `__dlpack__`, as functions of C: tensors looked at without a call of Python.
/// `DLPackExchangeAPI` of version 1.3.
#[repr(C)]
struct Exchange {
    major: u32,
    minor: u32,
    older: *const Exchange,
    allocate: *const c_void,
    from_object: *const c_void,
    to_object: *const c_void,
    look: Option<unsafe extern "C" fn(*mut c_void, *mut DlTensor) -> i32>,
    current_stream: *const c_void,
}

/// A library's table, which is there as long as the process.
#[derive(Clone, Copy)]
struct Looker(unsafe extern "C" fn(*mut c_void, *mut DlTensor) -> i32);

/// Types of tensors seen before, and how to look at them.
static KNOWN: Mutex<Vec<(Py<PyType>, Option<Looker>)>> = Mutex::new(Vec::new());
/// How many types are kept.
const MOST_TYPES: usize = 16;

fn looker(tensor: &Bound<'_, PyAny>) -> Option<Looker> {
    let kind = tensor.get_type();
    let mut known = KNOWN
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some((_, looker)) = known.iter().find(|(of, _)| of.is(&kind)) {
        return *looker;
    }
    let found = (|| {
        let table = kind.getattr("__dlpack_c_exchange_api__").ok()?;
        let table = table.cast_into::<PyCapsule>().ok()?;
        // SAFETY: asks for the pointer under the name that the protocol has for it; a capsule of another
        // name gives none, and sets an error that is taken away.
        unsafe {
            let name = c"dlpack_exchange_api".as_ptr();
            if ffi::PyCapsule_IsValid(table.as_ptr(), name) == 0 {
                return None;
            }
            let table = ffi::PyCapsule_GetPointer(table.as_ptr(), name).cast::<Exchange>();
            let mut table = table.as_ref()?;
            while table.major > VERSION.0 {
                table = table.older.as_ref()?;
            }
            table.look.map(Looker)
        }
    })();
    if known.len() < MOST_TYPES {
        known.push((kind.unbind(), found));
    }
    found
}

/// Looks at a tensor where it lies. Stream -1: what is under way on it comes before what is submitted, for the
/// stream is that of its library; else the library is told the stream. What is given back beside the view
/// keeps the tensor, where the library does not let it be looked at.
///
/// # Safety
///
/// The tensor is held, and not changed in shape or place, as long as the view is used, and so is what is given
/// beside it.
pub(crate) unsafe fn look(
    tensor: &Bound<'_, PyAny>,
    name: &str,
    stream: i64,
) -> PyResult<(TensorView<'static>, Option<Borrowed>)> {
    let Some(Looker(look)) = looker(tensor).filter(|_| stream == -1) else {
        // Of a tensor of the CPU no stream is named.
        let place = tensor.call_method0("__dlpack_device__");
        let place = place.and_then(|place| place.extract::<(i32, i32)>());
        let on_gpu = place.is_ok_and(|(kind, _)| kind == CUDA);
        let borrowed = Borrowed::on_stream(tensor, name, on_gpu.then_some(stream))?;
        // SAFETY: taken over just now, and kept by what is given back.
        let view = unsafe {
            match &borrowed.managed {
                Held::Legacy(managed) => view_of(&managed.as_ref().tensor),
                Held::Versioned(managed) => view_of(&managed.as_ref().tensor),
            }
        };
        return Ok((view, Some(borrowed)));
    };
    let mut seen = std::mem::MaybeUninit::<DlTensor>::zeroed();
    // SAFETY: the object is of the type that the function belongs to; it fills what it is given, or sets an
    // exception.
    if unsafe { look(tensor.as_ptr().cast(), seen.as_mut_ptr()) } != 0 {
        return Err(PyErr::fetch(tensor.py()));
    }
    // SAFETY: filled by the call; the elements are there as long as the caller holds the tensor.
    Ok((unsafe { view_of(&seen.assume_init()) }, None))
}
