//! A tensor that fusec gives: nothing but a way to the array library of the caller.

use std::cell::UnsafeCell;
use std::sync::Arc;

use fusec_runtime::executor::in_place::DeviceBytes;
use fusec_runtime::program::{DType, Memory, Numbers};
use half::{bf16, f16};
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;

use crate::dlpack::{Elements, capsule};

/// A tensor, row-major. `torch.from_dlpack` and `numpy.from_dlpack` take it without a copy.
#[pyclass(frozen, module = "fusec")]
pub(crate) struct Tensor {
    elements: Arc<Elements>,
    shape: Vec<usize>,
}

impl Tensor {
    /// In the type asked for: float32, or one of the halves.
    pub(crate) fn new(numbers: Vec<f32>, shape: Vec<usize>, dtype: DType) -> Self {
        let bits = |convert: fn(f32) -> u16| {
            UnsafeCell::new(numbers.iter().map(|x| convert(*x)).collect::<Vec<u16>>())
        };
        let elements = match dtype {
            DType::Bf16 => Elements::Half(bits(|x| bf16::from_f32(x).to_bits()), dtype),
            DType::F16 => Elements::Half(bits(|x| f16::from_f32(x).to_bits()), dtype),
            _ => Elements::F32(UnsafeCell::new(numbers)),
        };
        Self {
            elements: Arc::new(elements),
            shape,
        }
    }

    /// In memory of a device, which nothing is under way on any more when Python sees it.
    pub(crate) fn on_device(
        bytes: Box<dyn DeviceBytes>,
        shape: Vec<usize>,
        dtype: DType,
        memory: Memory,
    ) -> Self {
        Self {
            elements: Arc::new(Elements::Device(bytes, dtype, memory)),
            shape,
        }
    }

    /// As they were computed.
    pub(crate) fn exact(numbers: Numbers, shape: Vec<usize>) -> Self {
        let elements = match numbers {
            Numbers::F32(x) => Elements::F32(UnsafeCell::new(x)),
            Numbers::F64(x) => Elements::F64(UnsafeCell::new(x)),
        };
        Self {
            elements: Arc::new(elements),
            shape,
        }
    }
}

#[pymethods]
impl Tensor {
    /// Its extents.
    #[getter]
    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    /// `float32`, `float64`, `bfloat16` or `float16`.
    #[getter]
    fn dtype(&self) -> String {
        self.elements.dtype().to_string()
    }

    /// The capsule of the DLPack protocol. Whatever `stream` the taker goes on with, the tensor is there.
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _ = stream;
        if let Some((kind, id)) = dl_device
            && (kind, id) != self.__dlpack_device__()
        {
            let here = match self.__dlpack_device__() {
                (2, number) => format!("cuda:{number}"),
                _ => "the CPU".to_owned(),
            };
            return Err(PyBufferError::new_err(format!(
                "the tensor lies on {here}, device ({kind}, {id}) is asked for: take it and move it"
            )));
        }
        match copy {
            Some(true) => {
                let copied = self.elements.copied().ok_or_else(|| {
                    PyBufferError::new_err("the tensor lies on a GPU: take it and copy it")
                })?;
                let copied = Arc::new(copied);
                capsule(py, &copied, &self.shape, max_version)
            }
            _ => capsule(py, &self.elements, &self.shape, max_version),
        }
    }

    /// Where it lies: `(1, 0)`, the CPU, or `(2, N)`, GPU number N.
    fn __dlpack_device__(&self) -> (i32, i32) {
        self.elements.device()
    }

    fn __repr__(&self) -> String {
        format!(
            "fusec.Tensor(shape={:?}, dtype={})",
            self.shape,
            self.dtype()
        )
    }
}
