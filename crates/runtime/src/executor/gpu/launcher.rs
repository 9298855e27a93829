//! Runs on the caller's streams and memory of a GPU.

use super::current::{Current, Relaxed, unchanged_context};
use super::error::GpuError;
use super::info::{self, GpuInfo, failed};
use super::kept::{Whose, digest, kept};
use super::kernel::{Arguments, LoadedKernel, refused};
use super::lent::lent;
use super::region::DeviceMemory;
use crate::executor::in_place::{DeviceBytes, LENT_BYTES, Launcher, Lent, Run};
use crate::executor::recent::Recent;
use crate::executor::{ArgValue, ExecuteError, Launch, check_manifest};
use cudarc::driver::sys::{self, CUstreamCaptureStatus as Status};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result};
use fusec_codegen::{KernelImage, Manifest};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Streams whose copies are at hand.
const KNOWN_STREAMS: usize = 16;

/// Launches the kernels of a manifest on whatever stream it is told.
///
/// Fields are dropped in order: what uses the context before the context.
pub struct GpuLauncher {
    kernels: Vec<One>,
    /// Whether any of them has copies.
    has_copies: bool,
    /// The kernels as a stream runs them, the most recently used last.
    copies: Mutex<Recent<Whose, Kernels>>,
    held: Option<DeviceMemory>,
    own: OnceLock<Arc<CudaStream>>,
    context: Arc<CudaContext>,
    info: GpuInfo,
}

type Kernels = Arc<Vec<Arc<LoadedKernel>>>;

/// A kernel, and what copies of it are made of.
struct One {
    loaded: Arc<LoadedKernel>,
    /// Of one whose blocks wait for each other.
    image: Option<(KernelImage, Arc<[u8]>, [u8; 32])>,
}

impl GpuLauncher {
    /// Opens device `ordinal` and loads the kernels; `cubins` are by kernel name.
    pub fn open(
        ordinal: usize,
        manifest: &Manifest,
        cubins: &BTreeMap<String, Vec<u8>>,
    ) -> Result<Self, ExecuteError> {
        check_manifest(manifest)?;
        let context = unchanged_context(|| info::context(ordinal))?;
        let info = info::gpu(ordinal)?;
        let steps = manifest.regimes.iter().flat_map(|regime| &regime.steps);
        let mut waits = vec![false; manifest.kernels.len()];
        for step in steps.filter(|step| step.cooperative) {
            waits[step.kernel] = true;
        }
        let load = |(kernel, waits): (&KernelImage, &bool)| {
            let cubin = cubins.get(&kernel.image).ok_or_else(|| GpuError::NoCubin {
                kernel: kernel.name.clone(),
            })?;
            let digest = digest(cubin);
            let loaded = kept(&context, &info, kernel, (cubin, digest), Whose::All)?;
            let image = waits.then(|| (kernel.clone(), Arc::from(cubin.as_slice()), digest));
            Ok::<_, GpuError>(One { loaded, image })
        };
        let kernels = manifest.kernels.iter().zip(&waits).map(load);
        let kernels: Vec<One> = kernels.collect::<Result<_, _>>()?;
        Ok(Self {
            has_copies: kernels.iter().any(|one| one.image.is_some()),
            kernels,
            copies: Mutex::new(Recent::new(KNOWN_STREAMS)),
            held: None,
            own: OnceLock::new(),
            context,
            info,
        })
    }

    fn failed(&self, doing: &'static str) -> impl Fn(DriverError) -> GpuError {
        let ordinal = self.info.ordinal;
        move |error| failed(ordinal, doing, error)
    }

    /// Whose copies a run on a stream takes: those of the recording that the stream is part of, if it is.
    fn whose(&self, stream: sys::CUstream) -> Result<Whose, GpuError> {
        let mut status = Status::CU_STREAM_CAPTURE_STATUS_NONE;
        let mut recording = 0;
        // SAFETY: writes the two that it is given pointers to; the others may be null.
        unsafe {
            sys::cuStreamGetCaptureInfo_v3(
                stream,
                &mut status,
                &mut recording,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        }
        .result()
        .map_err(self.failed("cannot ask whether a stream is being recorded"))?;
        // A recording has a number of its own, and its stream may not be asked for one.
        if status == Status::CU_STREAM_CAPTURE_STATUS_ACTIVE {
            return Ok(Whose::Recording(recording));
        }
        let mut id = 0;
        // The same handle may stand for another stream in another thread, or later: the number does not.
        // SAFETY: writes the integer it is given a pointer to.
        unsafe { sys::cuStreamGetId(stream, &mut id) }
            .result()
            .map_err(self.failed("cannot ask for the number of a stream"))?;
        Ok(Whose::Stream(id))
    }

    /// The kernels as a stream runs them; `None` where all streams run the same.
    fn kernels_of(&self, stream: sys::CUstream) -> Result<Option<Kernels>, GpuError> {
        if !self.has_copies {
            return Ok(None);
        }
        let whose = self.whose(stream)?;
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernels) = copies.get(&whose) {
            return Ok(Some(kernels.clone()));
        }
        let copy = |one: &One| match &one.image {
            None => Ok(one.loaded.clone()),
            Some((kernel, cubin, digest)) => {
                kept(&self.context, &self.info, kernel, (cubin, *digest), whose)
            }
        };
        let kernels: Kernels = Arc::new(self.kernels.iter().map(copy).collect::<Result<_, _>>()?);
        // One that gives way is kept all the same, where all copies are.
        copies.insert(whose, kernels.clone());
        Ok(Some(kernels))
    }

    /// The device as the thread's, until what this gives is dropped.
    fn current(&self) -> Result<Current, GpuError> {
        Current::of(&self.context).map_err(self.failed("cannot use the device"))
    }

    fn stream(&self) -> Result<&Arc<CudaStream>, GpuError> {
        if let Some(stream) = self.own.get() {
            return Ok(stream);
        }
        let _current = self.current()?;
        let stream = self.context.new_stream();
        let stream = stream.map_err(self.failed("cannot create a stream"))?;
        Ok(self.own.get_or_init(|| stream))
    }
}

impl Launcher for GpuLauncher {
    fn name(&self) -> String {
        format!("cuda:{} {}", self.info.ordinal, self.info.name)
    }

    fn allocate(&mut self, bytes: usize) -> Result<u64, ExecuteError> {
        let _current = self.current()?;
        let memory = DeviceMemory::new(&self.context, "weights", bytes)?;
        let address = memory.address();
        self.held = Some(memory);
        Ok(address)
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), ExecuteError> {
        let _current = self.current()?;
        let held = self.held.as_ref();
        let place = held.and_then(|held| held.range(offset, bytes.len()));
        let address = place.ok_or(GpuError::Outside {
            region: "weights",
            offset,
            bytes: bytes.len(),
        })?;
        // SAFETY: the range lies inside of the memory; the call returns when the bytes are read.
        unsafe { result::memcpy_htod_sync(address, bytes) }
            .map_err(self.failed("cannot copy to the device"))?;
        Ok(())
    }

    fn memory(&self, bytes: usize) -> Result<Box<dyn DeviceBytes>, ExecuteError> {
        let _relaxed = Relaxed::begin().map_err(self.failed("cannot allocate memory"))?;
        let _current = self.current()?;
        Ok(Box::new(DeviceMemory::new(
            &self.context,
            "results",
            bytes,
        )?))
    }

    fn lent(&self, stream: u64) -> Result<Option<Lent>, ExecuteError> {
        let _current = self.current()?;
        let stream: sys::CUstream = std::ptr::with_exposed_provenance_mut(stream as usize);
        let Whose::Stream(number) = self.whose(stream)? else {
            return Ok(None);
        };
        let allocate = || Ok(Lent::new(self.memory(LENT_BYTES)?));
        Ok(Some(lent(self.info.ordinal, number, allocate)?))
    }

    fn own_stream(&self) -> Result<u64, ExecuteError> {
        Ok(self.stream()?.cu_stream().addr() as u64)
    }

    fn wait(&self) -> Result<(), ExecuteError> {
        let _current = self.current()?;
        let waited = self.stream()?.synchronize();
        Ok(waited.map_err(self.failed("a run failed"))?)
    }

    fn begin(&self, stream: u64) -> Result<Box<dyn Run + '_>, ExecuteError> {
        let current = self.current()?;
        let stream: sys::CUstream = std::ptr::with_exposed_provenance_mut(stream as usize);
        Ok(Box::new(GpuRun {
            kernels: self.kernels_of(stream)?,
            launcher: self,
            stream,
            arguments: Arguments::default(),
            _current: current,
        }))
    }
}

/// A run that is being submitted.
struct GpuRun<'a> {
    launcher: &'a GpuLauncher,
    kernels: Option<Kernels>,
    stream: sys::CUstream,
    /// Of the launch that is being put together.
    arguments: Arguments,
    _current: Current,
}

impl Run for GpuRun<'_> {
    unsafe fn copy(&mut self, to: u64, from: u64, bytes: usize) -> Result<(), ExecuteError> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) }
            .map_err(self.launcher.failed("cannot copy a state"))?;
        Ok(())
    }

    unsafe fn fill(&mut self, to: u64, word: u32, bytes: usize) -> Result<(), ExecuteError> {
        let (words, rest) = (bytes / 4, bytes % 4);
        // SAFETY: the caller's promise; two bytes are left of an odd number of halves, which are equal.
        unsafe {
            if words > 0 {
                sys::cuMemsetD32Async(to, word, words, self.stream)
                    .result()
                    .map_err(self.launcher.failed("cannot fill a state"))?;
            }
            if rest == 2 {
                let last = to + 4 * words as u64;
                sys::cuMemsetD16Async(last, word as u16, 1, self.stream)
                    .result()
                    .map_err(self.launcher.failed("cannot fill a state"))?;
            }
        }
        Ok(())
    }

    unsafe fn launch(
        &mut self,
        launch: &Launch,
        args: &[ArgValue],
        position: i64,
    ) -> Result<(), ExecuteError> {
        let kernel = match &self.kernels {
            Some(kernels) => &kernels[launch.kernel],
            None => &self.launcher.kernels[launch.kernel].loaded,
        };
        kernel.check_resident(launch)?;
        let put = self.arguments.put(args, position);
        // SAFETY: the caller's promise; the context is the thread's as long as `_current`.
        let enqueued =
            put.and_then(|()| unsafe { kernel.launch(launch, &mut self.arguments, self.stream) });
        Ok(enqueued.map_err(|error| refused(launch, error))?)
    }
}

impl DeviceBytes for DeviceMemory {
    fn address(&self) -> u64 {
        DeviceMemory::address(self)
    }
}
