//! Kernels on an NVIDIA GPU, through the driver API.
//!
//! Lives here: contexts and streams, loaded cubins, device memory, recorded runs, event timing.
//! Never here: what to launch (the manifest says), compiling (see [`crate::toolchain`]).

mod current;
mod error;
mod info;
mod kept;
mod kernel;
mod launcher;
mod lent;
mod meter;
mod probe;
mod recorded;
mod region;
mod sequence;
mod timing;

pub use current::unchanged_context;
pub use error::GpuError;
pub use info::{GpuInfo, gpu, gpus};
pub use launcher::GpuLauncher;
pub use meter::{Clocks, Meter};
pub use probe::Probe;
pub use timing::{RunTimes, StepTime, Timing};

use super::device::{Device, Launch, Place, REGIONS, Region, RunKey, Submission};
use super::recent::Recent;
use super::{ExecuteError, check_manifest};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result};
use error::{lasts, words};
use fusec_codegen::Manifest;
use info::failed;
use kernel::{LoadedKernel, describe, refused};
use recorded::RecordedRun;
use region::DeviceMemory;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Every element type reads this byte, repeated, as NaN (floats) or -1 (integers).
const POISON: u8 = 0xff;

/// How runs are submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuOptions {
    /// Recorded runs that are kept. 0 submits every run kernel by kernel.
    pub recorded_runs: usize,
    /// Wait after each kernel, so that a fault is pinned on it. The first run of a shape always
    /// does.
    pub stepwise: bool,
    /// Fill scratch, outputs and new tails with NaN before the kernel that first writes them, so
    /// that a read before the write, and an element that nobody writes, shows in the results, as
    /// it always does on the emulator. Not in recorded runs, where a fill between two kernels would keep
    /// them from overlapping: the first run of each kind is launch by launch.
    pub poison: bool,
}

impl GpuOptions {
    /// For runs whose results are compared with others: nothing of an earlier run may pass for a
    /// result of this one.
    pub fn compared() -> Self {
        Self {
            poison: true,
            ..Self::default()
        }
    }
}

impl Default for GpuOptions {
    fn default() -> Self {
        Self {
            recorded_runs: 16,
            stepwise: false,
            poison: false,
        }
    }
}

/// A GPU as a device: a stream, the loaded kernels of one manifest, and memory.
///
/// Fields are dropped in order: what uses the context before the context.
#[derive(Debug)]
pub struct GpuDevice {
    recorded: Recent<RunKey, RecordedRun>,
    /// Keys of runs that have succeeded once.
    proven: Recent<RunKey, ()>,
    kernels: Vec<LoadedKernel>,
    regions: [Option<DeviceMemory>; REGIONS],
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    info: GpuInfo,
    options: GpuOptions,
    /// The first fault. After one the context is of no use.
    fault: Option<String>,
}

impl GpuDevice {
    /// Opens device `ordinal` with a stream of its own and loads the kernels; `cubins` are by
    /// kernel name.
    pub fn open(
        ordinal: usize,
        manifest: &Manifest,
        cubins: &BTreeMap<String, Vec<u8>>,
        options: GpuOptions,
    ) -> Result<Self, ExecuteError> {
        let context = info::context(ordinal)?;
        let stream = context
            .new_stream()
            .map_err(|error| failed(ordinal, "cannot create a stream", error))?;
        Self::on_stream(stream, manifest, cubins, options)
    }

    /// As [`GpuDevice::open`], on the caller's context and stream.
    pub fn on_stream(
        stream: Arc<CudaStream>,
        manifest: &Manifest,
        cubins: &BTreeMap<String, Vec<u8>>,
        options: GpuOptions,
    ) -> Result<Self, ExecuteError> {
        check_manifest(manifest)?;
        let context = stream.context().clone();
        let info = gpu(context.ordinal())?;
        let load = |kernel: &fusec_codegen::KernelImage| {
            let cubin = cubins.get(&kernel.image).ok_or_else(|| GpuError::NoCubin {
                kernel: kernel.name.clone(),
            })?;
            LoadedKernel::new(&context, &info, kernel, cubin)
        };
        let kernels = manifest
            .kernels
            .iter()
            .map(load)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            recorded: Recent::new(options.recorded_runs),
            proven: Recent::new(4 * options.recorded_runs.max(16)),
            kernels,
            regions: [const { None }; REGIONS],
            stream,
            context,
            info,
            options,
            fault: None,
        })
    }

    /// What it is.
    pub fn info(&self) -> &GpuInfo {
        &self.info
    }

    fn refuse_after_fault(&self) -> Result<(), GpuError> {
        match &self.fault {
            None => Ok(()),
            Some(cause) => Err(GpuError::GivenUp {
                ordinal: self.info.ordinal,
                cause: cause.clone(),
            }),
        }
    }

    fn address(&self, place: Place) -> Result<u64, GpuError> {
        self.regions[place.region as usize]
            .as_ref()
            .and_then(|region| region.range(place.offset, place.bytes))
            .ok_or(GpuError::Outside {
                region: place.region.name(),
                offset: place.offset,
                bytes: place.bytes,
            })
    }

    /// What is filled with [`POISON`] before a launch: addresses and bytes.
    fn poison(&self, launch: &Launch) -> Result<Vec<(u64, usize)>, GpuError> {
        let fresh = launch.fresh.iter();
        fresh
            .filter(|place| self.options.poison && place.bytes > 0)
            .map(|place| Ok((self.address(*place)?, place.bytes)))
            .collect()
    }

    /// Puts a launch on the stream.
    fn enqueue(&mut self, launch: &Launch, position: i64) -> Result<(), GpuError> {
        self.kernels[launch.kernel].check_resident(launch)?;
        for (address, bytes) in self.poison(launch)? {
            let fill = || {
                self.context.bind_to_thread()?;
                // SAFETY: `poison` has shown that the range lies inside a region, which is freed
                // only after the stream was waited for.
                unsafe {
                    let stream = self.stream.cu_stream();
                    result::memset_d8_async(address, POISON, bytes, stream)
                }
            };
            if let Err(error) = fill() {
                let failure = failed(self.info.ordinal, "cannot fill memory", error);
                return Err(self.noted(error, failure));
            }
        }
        let enqueued = self.kernels[launch.kernel].enqueue(launch, position, &self.stream);
        enqueued.map_err(|error| {
            let failure = refused(launch, error);
            self.noted(error, failure)
        })
    }

    /// Gives the device up if nothing can be done with it after what the driver said.
    fn noted(&mut self, error: DriverError, failure: GpuError) -> GpuError {
        if lasts(error) {
            self.fault = Some(failure.to_string());
        }
        failure
    }

    /// Waits for the stream; an error is a fault of `what`.
    fn wait(&mut self, what: impl FnOnce(String) -> GpuError) -> Result<(), GpuError> {
        self.stream.synchronize().map_err(|error| {
            let fault = what(words(error));
            self.fault = Some(fault.to_string());
            fault
        })
    }

    fn step_and_wait(&mut self, launch: &Launch, position: i64) -> Result<(), GpuError> {
        self.enqueue(launch, position)?;
        self.wait(|cause| GpuError::Fault {
            kernel: launch.name.clone(),
            computes: launch.computes.clone(),
            launch: describe(launch),
            cause,
        })
    }

    /// Puts all launches of a run on the stream.
    fn put(
        &mut self,
        key: RunKey,
        launches: &[Launch],
        position: i64,
    ) -> Result<Submission, GpuError> {
        if self.options.recorded_runs == 0 {
            for launch in launches {
                self.enqueue(launch, position)?;
            }
            return Ok(Submission::Stream);
        }
        let ordinal = self.info.ordinal;
        if self.recorded.get(&key).is_none() {
            for launch in launches {
                self.kernels[launch.kernel].check_resident(launch)?;
            }
            let recorded = RecordedRun::new(&self.context, &self.kernels, launches, position);
            let recorded = recorded.map_err(|error| {
                self.noted(error, failed(ordinal, "cannot record a run", error))
            })?;
            self.recorded.insert(key, recorded);
        }
        if let Some(recorded) = self.recorded.get(&key) {
            // An earlier run that was not waited for may be what has failed.
            let submitted = recorded.launch(&self.kernels, launches, position, &self.stream);
            submitted.map_err(|error| {
                self.noted(
                    error,
                    failed(ordinal, "cannot submit a recorded run", error),
                )
            })?;
        }
        Ok(Submission::Graph)
    }

    fn run_and_wait(
        &mut self,
        key: RunKey,
        launches: &[Launch],
        position: i64,
    ) -> Result<Submission, GpuError> {
        let submission = self.run_ahead(key, launches, position)?;
        self.wait(|cause| run_fault(launches, cause))?;
        Ok(submission)
    }

    /// Submits a run; the first of its kind is waited for, launch by launch.
    fn run_ahead(
        &mut self,
        key: RunKey,
        launches: &[Launch],
        position: i64,
    ) -> Result<Submission, GpuError> {
        if self.options.stepwise || self.proven.get(&key).is_none() {
            for launch in launches {
                self.step_and_wait(launch, position)?;
            }
            self.proven.insert(key, ());
            return Ok(Submission::Stepwise);
        }
        self.put(key, launches, position)
    }

    /// Copies and waits, in stream order.
    fn transfer(
        &mut self,
        doing: &'static str,
        copy: impl FnOnce(&CudaStream) -> Result<(), DriverError>,
    ) -> Result<(), GpuError> {
        let copied = self
            .context
            .bind_to_thread()
            .and_then(|()| copy(&self.stream))
            .and_then(|()| self.stream.synchronize());
        copied.map_err(|error| {
            let error = failed(self.info.ordinal, doing, error);
            self.fault = Some(error.to_string());
            error
        })
    }
}

fn run_fault(launches: &[Launch], cause: String) -> GpuError {
    let name = |launch: Option<&Launch>| launch.map(|l| l.name.clone()).unwrap_or_default();
    GpuError::RunFault {
        count: launches.len(),
        first: name(launches.first()),
        last: name(launches.last()),
        cause,
    }
}

impl Device for GpuDevice {
    fn name(&self) -> String {
        format!("cuda:{} {}", self.info.ordinal, self.info.name)
    }

    fn free_bytes(&self) -> Result<Option<usize>, ExecuteError> {
        self.refuse_after_fault()?;
        let (free, _) = self
            .context
            .mem_get_info()
            .map_err(|error| failed(self.info.ordinal, "cannot ask for free memory", error))?;
        Ok(Some(free))
    }

    fn allocate(&mut self, region: Region, bytes: usize) -> Result<u64, ExecuteError> {
        self.refuse_after_fault()?;
        // Recorded runs hold the old addresses. The old memory goes first: both may not fit.
        self.recorded.clear();
        self.regions[region as usize] = None;
        let memory = DeviceMemory::new(&self.context, region.name(), bytes)?;
        let address = memory.address();
        self.regions[region as usize] = Some(memory);
        Ok(address)
    }

    fn write(&mut self, place: Place, bytes: &[u8]) -> Result<(), ExecuteError> {
        self.refuse_after_fault()?;
        let address = self.address(Place {
            bytes: bytes.len(),
            ..place
        })?;
        // SAFETY: the range lies inside a region, and `transfer` waits before `bytes` goes.
        let copy = |stream: &CudaStream| unsafe {
            result::memcpy_htod_async(address, bytes, stream.cu_stream())
        };
        Ok(self.transfer("cannot copy to the device", copy)?)
    }

    fn read(&mut self, place: Place) -> Result<Vec<u8>, ExecuteError> {
        self.refuse_after_fault()?;
        let address = self.address(place)?;
        let mut bytes = vec![0; place.bytes];
        // SAFETY: the range lies inside a region, and `transfer` waits before `bytes` is used.
        let copy = |stream: &CudaStream| unsafe {
            result::memcpy_dtoh_async(&mut bytes, address, stream.cu_stream())
        };
        self.transfer("cannot copy from the device", copy)?;
        Ok(bytes)
    }

    fn step(&mut self, launch: &Launch, position: i64) -> Result<(), ExecuteError> {
        self.refuse_after_fault()?;
        Ok(self.step_and_wait(launch, position)?)
    }

    fn run(
        &mut self,
        key: RunKey,
        launches: &[Launch],
        position: i64,
    ) -> Result<Submission, ExecuteError> {
        self.refuse_after_fault()?;
        Ok(self.run_and_wait(key, launches, position)?)
    }

    fn submit(
        &mut self,
        key: RunKey,
        launches: &[Launch],
        position: i64,
    ) -> Result<Submission, ExecuteError> {
        self.refuse_after_fault()?;
        Ok(self.run_ahead(key, launches, position)?)
    }

    fn finish(&mut self, launches: &[Launch]) -> Result<(), ExecuteError> {
        Ok(self.wait(|cause| run_fault(launches, cause))?)
    }
}
