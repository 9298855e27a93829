//! Kernels that stay loaded until the process ends: a stream that the caller has, or a graph that was
//! recorded, may hold them long after the model is gone, and nobody is told when they no longer do. Equal
//! kernels are loaded once.

use super::current::{Current, Relaxed};
use super::error::GpuError;
use super::info::{GpuInfo, failed};
use super::kernel::LoadedKernel;
use cudarc::driver::CudaContext;
use fusec_codegen::KernelImage;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Whose copy of a kernel it is. Blocks that wait for each other count in a word of their module, so that
/// two runs of one copy at the same time would count together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whose {
    /// Anybody's: its blocks do not wait for each other.
    All,
    /// A stream's, whose runs are one after the other.
    Stream(u64),
    /// A recording's, by its number: that graph's runs are one after the other as well.
    Recording(u64),
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    ordinal: usize,
    cubin: [u8; 32],
    entry: String,
    threads: u32,
    shared_bytes: u32,
    whose: Whose,
}

static KEPT: Mutex<BTreeMap<Key, Arc<LoadedKernel>>> = Mutex::new(BTreeMap::new());

/// What a cubin is known by.
pub(super) fn digest(cubin: &[u8]) -> [u8; 32] {
    Sha256::digest(cubin).into()
}

/// The kernel, loaded now or before.
pub(super) fn kept(
    context: &Arc<CudaContext>,
    info: &GpuInfo,
    kernel: &KernelImage,
    (cubin, digest): (&[u8], [u8; 32]),
    whose: Whose,
) -> Result<Arc<LoadedKernel>, GpuError> {
    let key = Key {
        ordinal: info.ordinal,
        cubin: digest,
        entry: kernel.entry.clone(),
        threads: kernel.threads,
        shared_bytes: kernel.shared_bytes,
        whose,
    };
    let mut all = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(loaded) = all.get(&key) {
        return Ok(loaded.clone());
    }
    // Loading is no part of what the thread may be recording.
    let _relaxed =
        Relaxed::begin().map_err(|error| failed(info.ordinal, "cannot load a kernel", error))?;
    let _current = Current::of(context)
        .map_err(|error| failed(info.ordinal, "cannot use the device", error))?;
    let loaded = Arc::new(LoadedKernel::new(context, info, kernel, cubin)?);
    all.insert(key, loaded.clone());
    Ok(loaded)
}
