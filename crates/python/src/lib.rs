//! fusec from Python: the extension module `fusec._native`.
//!
//! What lives here: the border, and nothing else: tensors by DLPack, exceptions for errors, the
//! interpreter's lock given back while something compiles or runs. What never will: anything that a
//! program in another language would want as well; that is `fusec_runtime::program`.
#![deny(clippy::undocumented_unsafe_blocks)]
#![warn(missing_docs)]

mod dlpack;
mod errors;
mod on_device;
mod program;
mod report;
mod tensor;

use pyo3::prelude::*;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("FusecError", py.get_type::<errors::FusecError>())?;
    module.add("ModelError", py.get_type::<errors::ModelError>())?;
    module.add_class::<program::Program>()?;
    module.add_class::<tensor::Tensor>()?;
    module.add_function(wrap_pyfunction!(program::toolchain_info, module)?)?;
    module.add_function(wrap_pyfunction!(program::recurrence_text, module)?)?;
    module.add_function(wrap_pyfunction!(on_device::place_on_device, module)?)?;
    module.add_function(wrap_pyfunction!(on_device::call_on_device, module)?)?;
    module.add_function(wrap_pyfunction!(on_device::backward_on_device, module)?)?;
    Ok(())
}
