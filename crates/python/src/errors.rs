//! The border that every call crosses: without the interpreter's lock, and with errors for panics.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use fusec_runtime::model::ModelError as RuntimeModelError;
use fusec_runtime::program::ProgramError;
use pyo3::create_exception;
use pyo3::exceptions::{PyFileNotFoundError, PyNotImplementedError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

create_exception!(
    fusec,
    FusecError,
    PyRuntimeError,
    "Something failed that no argument caused: a compiler, a device, memory."
);
create_exception!(
    fusec,
    ModelError,
    PyValueError,
    "A model text, or a recurrence, that does not compile. The message points at the place."
);

/// Runs without the interpreter's lock. Errors become exceptions, and so do panics.
pub(crate) fn outside<T: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T, ProgramError> + Send,
) -> PyResult<T> {
    refuse_after_fork()?;
    result_of(py.detach(|| catch_unwind(AssertUnwindSafe(work))))
}

/// As [`outside`], with the lock: for what takes less than giving it back.
pub(crate) fn inside<T>(work: impl FnOnce() -> Result<T, ProgramError>) -> PyResult<T> {
    refuse_after_fork()?;
    result_of(catch_unwind(AssertUnwindSafe(work)))
}

/// As [`inside`], later in a call of Python that has come through one of these already: no process forks within it.
pub(crate) fn caught<T>(work: impl FnOnce() -> Result<T, ProgramError>) -> PyResult<T> {
    result_of(catch_unwind(AssertUnwindSafe(work)))
}

fn result_of<T>(result: Result<Result<T, ProgramError>, Box<dyn Any + Send>>) -> PyResult<T> {
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(exception(&error)),
        Err(panic) => Err(FusecError::new_err(format!(
            "fusec failed inside ({}): this is a mistake of fusec, please report it",
            words(panic.as_ref())
        ))),
    }
}

/// The exception for an error.
pub(crate) fn exception(error: &ProgramError) -> PyErr {
    let text = error.report();
    match error {
        ProgramError::Language(_) | ProgramError::Model(RuntimeModelError::Language(_)) => {
            ModelError::new_err(text)
        }
        ProgramError::NoFile { .. } => PyFileNotFoundError::new_err(text),
        ProgramError::NoBackward { .. } => PyNotImplementedError::new_err(text),
        error if error.is_the_callers() => PyValueError::new_err(text),
        _ => FusecError::new_err(text),
    }
}

/// Threads do not survive a fork: work for them would wait for ever.
fn refuse_after_fork() -> PyResult<()> {
    static PROCESS: OnceLock<u32> = OnceLock::new();
    let here = std::process::id();
    if *PROCESS.get_or_init(|| here) == here {
        return Ok(());
    }
    Err(FusecError::new_err(
        "this process was forked from one that used fusec, whose threads it does not have: start \
         processes with multiprocessing.set_start_method(\"spawn\"), or import fusec after the fork",
    ))
}

fn words(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "no words",
    }
}
