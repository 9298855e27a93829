//! What a GPU runs at while it works: clocks, power, temperature, as NVIDIA's management library says.
//!
//! The library comes with the driver. A small binding of our own: loaded at run time, so that the program
//! starts where there is none, and only functions that read. All unsafe code towards it is in this file.

use super::info::pci_bus_id;
use libloading::Library;
use serde::{Deserialize, Serialize};
use std::ffi::{CString, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// The library's name.
const LIBRARY: &str = "libnvidia-ml.so.1";
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(4);
/// `NVML_SUCCESS`.
const SUCCESS: c_int = 0;
/// `NVML_CLOCK_SM`, `NVML_CLOCK_MEM`, `NVML_TEMPERATURE_GPU`.
const SM: c_uint = 1;
const MEMORY: c_uint = 2;
const CORE: c_uint = 0;

/// Why clocks may be below the highest, by the bits of `nvmlClocksEventReasons`.
const REASONS: [(c_ulonglong, &str); 8] = [
    (0x1, "idle"),
    (0x2, "application clocks"),
    (0x4, "power cap"),
    (0x8, "hardware slowdown"),
    (0x10, "sync boost"),
    (0x20, "software, for heat"),
    (0x40, "hardware, for heat"),
    (0x80, "power brake"),
];

/// What a GPU ran at while something was timed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Clocks {
    /// Clock of the multiprocessors, MHz: the middle of what was seen.
    pub sm_mhz: u32,
    /// The lowest that was seen, MHz.
    pub sm_least_mhz: u32,
    /// The highest that the device has, MHz.
    pub sm_most_mhz: Option<u32>,
    /// Clock of the memory, MHz.
    pub memory_mhz: u32,
    /// Power that was drawn, the middle of what was seen, watts.
    pub watts: Option<f64>,
    /// Temperature at the end, degrees Celsius.
    pub celsius: Option<u32>,
    /// What kept the clocks below the highest.
    pub held_back: Vec<String>,
    /// How often was looked.
    pub looks: usize,
}

/// One look.
struct Look {
    sm: u32,
    memory: u32,
    milliwatts: Option<u32>,
    reasons: c_ulonglong,
}

type Handle = *mut c_void;
type ReadOne = unsafe extern "C" fn(Handle, c_uint, *mut c_uint) -> c_int;
type ReadPlain = unsafe extern "C" fn(Handle, *mut c_uint) -> c_int;
type ReadReasons = unsafe extern "C" fn(Handle, *mut c_ulonglong) -> c_int;

/// A GPU's entry in the library.
pub struct Meter {
    handle: Handle,
    clock: ReadOne,
    most: ReadOne,
    temperature: Option<ReadOne>,
    power: Option<ReadPlain>,
    reasons: Option<ReadReasons>,
    /// What the functions are part of. It stays loaded: others may use it.
    _library: ManuallyDrop<Library>,
}

// SAFETY: the library's functions may be called from any thread, and the handle is an entry of a table of its
// own that stays until `nvmlShutdown`, which is never called.
unsafe impl Sync for Meter {}

impl Meter {
    /// Opens the library for a GPU of the CUDA driver; the error says why there is nothing to read.
    pub fn open(ordinal: usize) -> Result<Self, String> {
        let bus = pci_bus_id(ordinal).map_err(|error| error.to_string())?;
        let bus = CString::new(bus).map_err(|error| error.to_string())?;
        let library = load()?;
        /// A function by the first of its names that is there.
        ///
        /// # Safety
        ///
        /// `F` has to be its type.
        unsafe fn find<F: Copy>(library: &Library, names: &[&str]) -> Result<F, String> {
            let found = names.iter().find_map(|name| {
                // SAFETY: promised by the caller.
                unsafe { library.get::<F>(*name) }.ok().map(|f| *f)
            });
            found.ok_or_else(|| format!("{LIBRARY} has no {}", names[0]))
        }
        // SAFETY: the types are those of nvml.h.
        let meter = unsafe {
            let init: unsafe extern "C" fn() -> c_int = find(&library, &["nvmlInit_v2"])?;
            said("nvmlInit", init())?;
            let by_bus: unsafe extern "C" fn(*const c_char, *mut Handle) -> c_int =
                find(&library, &["nvmlDeviceGetHandleByPciBusId_v2"])?;
            let mut handle: Handle = ptr::null_mut();
            said(
                "nvmlDeviceGetHandleByPciBusId",
                by_bus(bus.as_ptr(), &mut handle),
            )?;
            Meter {
                handle,
                clock: find(&library, &["nvmlDeviceGetClockInfo"])?,
                most: find(&library, &["nvmlDeviceGetMaxClockInfo"])?,
                temperature: find(&library, &["nvmlDeviceGetTemperature"]).ok(),
                power: find(&library, &["nvmlDeviceGetPowerUsage"]).ok(),
                reasons: find(
                    &library,
                    &[
                        "nvmlDeviceGetCurrentClocksEventReasons",
                        "nvmlDeviceGetCurrentClocksThrottleReasons",
                    ],
                )
                .ok(),
                _library: ManuallyDrop::new(library),
            }
        };
        meter.look()?;
        Ok(meter)
    }

    /// Does something and looks every few milliseconds meanwhile, once at least.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> (T, Result<Clocks, String>) {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let looks = scope.spawn(|| {
                let mut looks = Vec::new();
                loop {
                    thread::sleep(PAUSE);
                    // What is seen after the end is not of the work, unless there is nothing else.
                    if done.load(Ordering::Acquire) && !looks.is_empty() {
                        return Ok(looks);
                    }
                    looks.push(self.look()?);
                }
            });
            let result = work();
            done.store(true, Ordering::Release);
            let looks = looks
                .join()
                .unwrap_or_else(|_| Err("no look was taken".into()));
            (result, looks.map(|looks| self.clocks(&looks)))
        })
    }

    fn clocks(&self, looks: &[Look]) -> Clocks {
        let all = looks.iter().fold(0, |all, look| all | look.reasons);
        let reasons = REASONS.iter().filter(|(bit, _)| all & bit != 0);
        let watts: Vec<u32> = looks.iter().filter_map(|look| look.milliwatts).collect();
        Clocks {
            sm_mhz: middle(looks.iter().map(|look| look.sm)).unwrap_or(0),
            sm_least_mhz: looks.iter().map(|look| look.sm).min().unwrap_or(0),
            sm_most_mhz: self.read(self.most, SM).ok(),
            memory_mhz: middle(looks.iter().map(|look| look.memory)).unwrap_or(0),
            watts: middle(watts.into_iter()).map(|milli| f64::from(milli) / 1e3),
            celsius: self.temperature.and_then(|of| self.read(of, CORE).ok()),
            held_back: reasons.map(|(_, name)| (*name).to_owned()).collect(),
            looks: looks.len(),
        }
    }

    fn look(&self) -> Result<Look, String> {
        let milliwatts = self.power.and_then(|power| {
            let mut value = 0;
            // SAFETY: `power` is of the library, `handle` one of its entries, and it writes one integer.
            (unsafe { power(self.handle, &mut value) } == SUCCESS).then_some(value)
        });
        let reasons = self.reasons.map_or(0, |reasons| {
            let mut value = 0;
            // SAFETY: as above; what is written is a long integer.
            match unsafe { reasons(self.handle, &mut value) } {
                SUCCESS => value,
                _ => 0,
            }
        });
        Ok(Look {
            sm: self.read(self.clock, SM)?,
            memory: self.read(self.clock, MEMORY)?,
            milliwatts,
            reasons,
        })
    }

    fn read(&self, function: ReadOne, which: c_uint) -> Result<u32, String> {
        let mut value = 0;
        // SAFETY: `function` is of the library, `handle` one of its entries, and it writes one integer.
        said("a reading", unsafe {
            function(self.handle, which, &mut value)
        })?;
        Ok(value)
    }
}

fn said(what: &str, status: c_int) -> Result<(), String> {
    match status {
        SUCCESS => Ok(()),
        status => Err(format!("{what} of {LIBRARY} failed with status {status}")),
    }
}

/// The value in the middle; of an even number, the higher of two.
fn middle(values: impl Iterator<Item = u32>) -> Option<u32> {
    let mut sorted: Vec<u32> = values.collect();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

/// Loads the library by its name, or from the directory that the CUDA driver was loaded from.
fn load() -> Result<Library, String> {
    let open = |path: &Path| {
        // SAFETY: the driver's own library; what it does when loaded is what it does in any program that
        // asks for clocks.
        unsafe { Library::new(path) }
    };
    let first = open(Path::new(LIBRARY));
    match (first, beside_the_driver()) {
        (Ok(library), _) => Ok(library),
        (Err(error), None) => Err(error.to_string()),
        (Err(error), Some(path)) => open(&path).map_err(|_| error.to_string()),
    }
}

/// Where the library lies if it lies beside the CUDA driver that this program has loaded.
fn beside_the_driver() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let driver = maps.lines().find_map(|line| {
        let path = Path::new(line.get(line.find('/')?..)?);
        let name = path.file_name()?.to_str()?;
        name.starts_with("libcuda.so").then_some(path)
    })?;
    Some(driver.parent()?.join(LIBRARY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_what_was_seen_is_one_of_it() {
        for (seen, expected) in [
            (vec![], None),
            (vec![1980], Some(1980)),
            (vec![1980, 345], Some(1980)),
            (vec![1755, 1980, 1740], Some(1755)),
        ] {
            assert_eq!(middle(seen.into_iter()), expected);
        }
    }

    #[test]
    fn without_a_gpu_the_reason_is_said() {
        if super::super::gpus().is_ok_and(|all| !all.is_empty()) {
            return;
        }
        let Err(reason) = Meter::open(0) else {
            panic!("there is no GPU to look at");
        };
        assert!(!reason.is_empty());
    }
}
