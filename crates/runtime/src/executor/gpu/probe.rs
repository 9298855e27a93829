//! Timing of single kernels and copies outside any model, for calibration.

use super::error::GpuError;
use super::info::{self, GpuInfo, failed};
use super::kernel::LoadedKernel;
use super::recorded::RecordedRun;
use super::region::DeviceMemory;
use crate::executor::{ArgValue, Launch};
use cudarc::driver::sys::{CUdevice_attribute as Attribute, CUevent_flags};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result};
use fusec_codegen::KernelImage;
use std::sync::Arc;

/// Position that no kernel here takes.
const NOWHERE: i64 = 0;

/// A GPU with some memory, a stream and a few kernels.
///
/// Fields are dropped in order: what uses the context before the context.
#[derive(Debug)]
pub struct Probe {
    kernels: Vec<LoadedKernel>,
    memory: DeviceMemory,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    info: GpuInfo,
}

impl Probe {
    /// Opens a GPU with `bytes` of memory that hold a repeated pattern other than zero, and loads
    /// kernels of the form `(float* data, i64 n)`.
    pub fn open(
        ordinal: usize,
        bytes: usize,
        kernels: &[(KernelImage, Vec<u8>)],
    ) -> Result<Self, GpuError> {
        let context = info::context(ordinal)?;
        let info = info::gpu(ordinal)?;
        let stream = context
            .new_stream()
            .map_err(|error| failed(ordinal, "cannot create a stream", error))?;
        let memory = DeviceMemory::new(&context, "calibration", bytes)?;
        memory
            .fill(&stream, 0x3b)
            .map_err(|error| failed(ordinal, "cannot fill memory", error))?;
        let kernels = kernels
            .iter()
            .map(|(image, cubin)| LoadedKernel::new(&context, &info, image, cubin))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            kernels,
            memory,
            stream,
            context,
            info,
        })
    }

    /// What it is.
    pub fn info(&self) -> &GpuInfo {
        &self.info
    }

    /// 32-bit registers of one multiprocessor.
    pub fn registers(&self) -> Result<u32, GpuError> {
        let what = Attribute::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR;
        let registers = self.try_to("cannot read the device's properties", || {
            self.context.attribute(what)
        })?;
        Ok(u32::try_from(registers).unwrap_or(0))
    }

    /// Milliseconds of copies of `bytes` within the memory, which holds twice as many.
    pub fn copies(&self, bytes: usize, runs: usize) -> Result<Vec<f32>, GpuError> {
        let outside = || GpuError::Outside {
            region: "calibration",
            offset: bytes,
            bytes,
        };
        let from = self.memory.range(0, bytes).ok_or_else(outside)?;
        let to = self.memory.range(bytes, bytes).ok_or_else(outside)?;
        self.timed(runs, || {
            self.context.bind_to_thread()?;
            // SAFETY: both ranges lie inside the memory and do not overlap; it is freed only
            // after the stream was waited for.
            unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }
        })
    }

    /// Milliseconds of launches of a kernel, by its index, with `blocks`, all of them resident at once
    /// or not, and an `n`.
    pub fn launches(
        &self,
        kernel: usize,
        threads: u32,
        blocks: u32,
        n: i64,
        resident: bool,
        runs: usize,
    ) -> Result<Vec<f32>, GpuError> {
        let launch = Launch {
            cooperative: resident,
            persistent: false,
            early: false,
            ..self.launch(kernel, threads, blocks, n)
        };
        self.timed(runs, || {
            self.kernels[kernel].enqueue(&launch, NOWHERE, &self.stream)
        })
    }

    /// Microseconds from the start of one launch to that of the next: submitted one by one, and
    /// as a recorded graph of `count` launches.
    pub fn launch_spacing(&self, kernel: usize, count: usize) -> Result<(f64, f64), GpuError> {
        let launch = self.launch(kernel, 128, 1, 1);
        let one_by_one = self.timed(5, || {
            (0..count)
                .try_for_each(|_| self.kernels[kernel].enqueue(&launch, NOWHERE, &self.stream))
        })?;
        let mut launches = vec![launch; count];
        launches
            .iter_mut()
            .for_each(|launch| launch.kernel = kernel);
        let mut recorded = self.try_to("cannot record a run", || {
            RecordedRun::new(&self.context, &self.kernels, &launches, NOWHERE)
        })?;
        let as_graph = self.timed(20, || {
            recorded.launch(&self.kernels, &launches, NOWHERE, &self.stream)
        })?;
        let each = |times: &[f32]| f64::from(middle(times)) * 1e3 / count.max(1) as f64;
        Ok((each(&one_by_one), each(&as_graph)))
    }

    /// The first eight bytes of the memory, as an integer.
    pub fn first_word(&self) -> Result<i64, GpuError> {
        let mut bytes = [0; 8];
        self.try_to("cannot copy from the device", || {
            self.context.bind_to_thread()?;
            let from = self.memory.address();
            // SAFETY: the memory has at least eight bytes, and the stream is waited for before
            // they are used.
            unsafe { result::memcpy_dtoh_async(&mut bytes, from, self.stream.cu_stream()) }?;
            self.stream.synchronize()
        })?;
        Ok(i64::from_le_bytes(bytes))
    }

    fn launch(&self, kernel: usize, threads: u32, blocks: u32, n: i64) -> Launch {
        Launch {
            step: 0,
            kernel,
            name: String::new(),
            computes: String::new(),
            grid: blocks,
            block: threads,
            shared_bytes: 0,
            cooperative: false,
            persistent: false,
            early: false,
            given: Vec::new(),
            args: vec![
                ArgValue::Address(self.memory.address()),
                ArgValue::Integer(n),
            ],
            fresh: Vec::new(),
        }
    }

    /// Times `work` after two warm-ups.
    fn timed(
        &self,
        runs: usize,
        mut work: impl FnMut() -> Result<(), DriverError>,
    ) -> Result<Vec<f32>, GpuError> {
        self.try_to("a measurement failed", || {
            for _ in 0..2 {
                work()?;
            }
            self.stream.synchronize()?;
            let mut pairs: Vec<(CudaEvent, CudaEvent)> = Vec::new();
            for _ in 0..runs.max(1) {
                let flags = Some(CUevent_flags::CU_EVENT_DEFAULT);
                let start = self.stream.record_event(flags)?;
                work()?;
                pairs.push((start, self.stream.record_event(flags)?));
            }
            self.stream.synchronize()?;
            pairs
                .iter()
                .map(|(start, end)| start.elapsed_ms(end))
                .collect()
        })
    }

    fn try_to<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce() -> Result<T, DriverError>,
    ) -> Result<T, GpuError> {
        work().map_err(|error| failed(self.info.ordinal, doing, error))
    }
}

fn middle(times: &[f32]) -> f32 {
    let mut times = times.to_vec();
    times.sort_by(f32::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}
