//! The threads that the interpreter and the emulator compute on.

/// Why there are none.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot start threads to compute on: {0}; RAYON_NUM_THREADS says how many are wanted, and limits on \
     processes and address space (`ulimit -u`, `ulimit -v`) how many there can be"
)]
pub struct ThreadsError(#[from] rayon::ThreadPoolBuildError);

/// Starts them, once per process. Without this call they start when they are first needed, and a system
/// that has none left is a panic then.
pub fn start() -> Result<(), ThreadsError> {
    Ok(rayon::ThreadPoolBuilder::new().build_global()?)
}
