//! What GPUs there are.

use super::error::{GpuError, words};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};
use cudarc::driver::{CudaContext, DriverError, result};
use std::ffi::c_char;
use std::sync::Arc;

/// The oldest driver with every function that is called here (event times in the form of 12.8).
const OLDEST_DRIVER: i32 = 12_080;

/// A GPU as reports and results name it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct GpuInfo {
    /// Its number.
    pub ordinal: usize,
    /// Its name.
    pub name: String,
    /// Compute capability, major and minor.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Device memory, bytes.
    pub memory_bytes: usize,
    /// L2 cache, bytes.
    pub l2_bytes: usize,
    /// Shared memory that one block can have, bytes.
    pub shared_bytes_per_block: usize,
    /// The CUDA version of the driver, `13.0`.
    pub driver: String,
}

impl GpuInfo {
    /// The architectures whose cubins it runs, the most specific first: `sm_90a`, `sm_90`. A
    /// cubin runs on GPUs of its major version that are not older.
    pub fn architectures(&self) -> Vec<String> {
        let (major, minor) = self.compute_capability;
        let plain = (0..=minor).rev().map(|minor| format!("sm_{major}{minor}"));
        std::iter::once(format!("sm_{major}{minor}a"))
            .chain(plain)
            .collect()
    }
}

/// All GPUs that the driver sees. Creates no context.
pub fn gpus() -> Result<Vec<GpuInfo>, GpuError> {
    let driver = load_driver()?;
    let count = count()?;
    (0..count).map(|ordinal| info(ordinal, driver)).collect()
}

/// One GPU. Creates no context.
pub fn gpu(ordinal: usize) -> Result<GpuInfo, GpuError> {
    let driver = load_driver()?;
    let count = count()?;
    if ordinal >= count {
        return Err(GpuError::NoDevice { ordinal, count });
    }
    info(ordinal, driver)
}

/// Where a GPU is on the bus, `0000:3b:00.0`: what other libraries know it by, whatever its number is here.
pub(super) fn pci_bus_id(ordinal: usize) -> Result<String, GpuError> {
    gpu(ordinal)?;
    let number = i32::try_from(ordinal).unwrap_or(i32::MAX);
    let read = || -> Result<String, DriverError> {
        let device = result::device::get(number)?;
        let mut text = [0 as c_char; 32];
        // SAFETY: writes at most as many characters as it is told there is room for, and ends them with 0.
        unsafe { sys::cuDeviceGetPCIBusId(text.as_mut_ptr(), text.len() as i32, device) }
            .result()?;
        let bytes = text.iter().take_while(|c| **c != 0).map(|c| *c as u8);
        Ok(bytes.map(char::from).collect())
    };
    read().map_err(|error| failed(ordinal, "cannot read its place on the bus", error))
}

/// The primary context of a GPU.
pub(super) fn context(ordinal: usize) -> Result<Arc<CudaContext>, GpuError> {
    gpu(ordinal)?;
    CudaContext::new(ordinal).map_err(|error| match error {
        DriverError(sys::CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE) => GpuError::Busy {
            ordinal,
            cause: words(error),
        },
        error => failed(ordinal, "cannot open the device", error),
    })
}

/// The driver's version, `1000 * major + 10 * minor`. Every other call relies on it: without the
/// library, or without a function in it, the bindings panic.
fn load_driver() -> Result<i32, GpuError> {
    // SAFETY: loads the driver's library, as any CUDA program does when it starts.
    if !unsafe { sys::is_culib_present() } {
        return Err(GpuError::NoDriver);
    }
    let mut version = 0;
    // SAFETY: writes the integer it is given a pointer to; needs no initialisation before.
    unsafe { sys::cuDriverGetVersion(&mut version) }
        .result()
        .map_err(|error| failed(0, "cannot ask for the driver's version", error))?;
    if version < OLDEST_DRIVER {
        return Err(GpuError::OldDriver {
            got: version,
            want: OLDEST_DRIVER,
        });
    }
    Ok(version)
}

fn count() -> Result<usize, GpuError> {
    match result::init() {
        Ok(()) => {}
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => return Ok(0),
        Err(error) => return Err(failed(0, "cannot initialise the driver", error)),
    }
    let count = CudaContext::device_count()
        .map_err(|error| failed(0, "cannot count the devices", error))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

fn info(ordinal: usize, driver: i32) -> Result<GpuInfo, GpuError> {
    let read = || -> Result<GpuInfo, DriverError> {
        let number = i32::try_from(ordinal).unwrap_or(i32::MAX);
        let device = result::device::get(number)?;
        // SAFETY: `device` was returned by `device::get`.
        let attribute = |what| unsafe { result::device::get_attribute(device, what) };
        let unsigned = |what| attribute(what).map(|n| u32::try_from(n).unwrap_or(0));
        Ok(GpuInfo {
            ordinal,
            name: result::device::get_name(device)?,
            compute_capability: (
                unsigned(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                unsigned(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            multiprocessors: unsigned(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            // SAFETY: `device` was returned by `device::get`.
            memory_bytes: unsafe { result::device::total_mem(device) }?,
            l2_bytes: unsigned(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as usize,
            shared_bytes_per_block: unsigned(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )? as usize,
            driver: format!("{}.{}", driver / 1000, driver % 1000 / 10),
        })
    };
    read().map_err(|error| failed(ordinal, "cannot read the device's properties", error))
}

pub(super) fn failed(ordinal: usize, doing: &'static str, error: DriverError) -> GpuError {
    GpuError::Driver {
        ordinal,
        doing,
        cause: words(error),
    }
}
