//! Device times of runs and of kernels, taken with events on the stream.

use super::info::failed;
use super::region::DeviceMemory;
use super::{GpuDevice, GpuError, run_fault};
use crate::executor::{ExecuteError, Executor, PreparedRun, Submission};
use cudarc::driver::CudaEvent;
use cudarc::driver::sys::CUevent_flags;
use fusec_ir::interpret::Input;
use std::time::Instant;

/// Runs before the first timed one: each of the two parities is tried stepwise, then recorded.
const LEAST_WARMUPS: usize = 4;

/// What to time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// Untimed runs before the first timed one; at least four are made.
    pub warmups: usize,
    /// Timed runs.
    pub runs: usize,
    /// Overwrite the L2 cache before each timed run. Otherwise runs are submitted back to back.
    pub cold: bool,
    /// Seconds of a run beyond which it is timed once, after a single one before it.
    pub longest: Option<f64>,
}

/// Device times of whole runs.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct RunTimes {
    /// Milliseconds of each run, in order. The time to submit one is hidden behind the one
    /// before (or, when cold, the overwriting of the cache), unless it is the longer of the two.
    pub milliseconds: Vec<f32>,
    /// Kernel launches of each.
    pub launches: usize,
    /// How they were submitted.
    pub submission: Submission,
}

/// Device time of one step.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct StepTime {
    /// Index of the step in its regime.
    pub step: usize,
    /// Its kernel.
    pub kernel: String,
    /// Milliseconds of one launch.
    pub milliseconds: f32,
}

impl Executor<GpuDevice> {
    /// Times runs of `time` tokens: several tokens from where the executor is, at the start of a sequence unless
    /// something was run before, so that attention sees none of an earlier run; single ones one after the other. Inputs
    /// are copied before the first; the state is afterwards what it was.
    pub fn time_run(
        &mut self,
        time: usize,
        inputs: &[Input<'_, f32>],
        timing: Timing,
    ) -> Result<RunTimes, ExecuteError> {
        let saved = self.save_state()?;
        let measured = self.measure_runs(time, inputs, timing);
        self.after_timing(measured, |executor| executor.load_state(&saved))
    }

    /// Times each step of a run by itself, over `launches` launches each, in order, so that each
    /// finds what the steps before it left. With `cold`, the L2 cache is overwritten before each
    /// launch; otherwise a step finds there what its last launch left. The state is afterwards
    /// what it was.
    pub fn time_steps(
        &mut self,
        time: usize,
        inputs: &[Input<'_, f32>],
        launches: usize,
        cold: bool,
    ) -> Result<Vec<StepTime>, ExecuteError> {
        let saved = self.save_state()?;
        let measured = self.measure_steps(time, inputs, launches.max(1), cold);
        self.after_timing(measured, |executor| executor.load_state(&saved))
    }

    pub(super) fn after_timing<T>(
        &mut self,
        measured: Result<T, ExecuteError>,
        restore: impl FnOnce(&mut Self) -> Result<(), ExecuteError>,
    ) -> Result<T, ExecuteError> {
        match measured {
            Ok(measured) => restore(self).map(|()| measured),
            Err(error) => {
                self.interrupted = Some(error.to_string());
                // The error that came first is the one worth reading.
                restore(self).ok();
                Err(error)
            }
        }
    }

    /// As after any run, but that runs of several tokens all begin where the first did.
    fn advance_timed(&mut self, run: &PreparedRun, begin: i64) {
        self.advance(run);
        if run.key.shape.time > 1 {
            self.position = begin;
        }
    }

    fn measure_runs(
        &mut self,
        time: usize,
        inputs: &[Input<'_, f32>],
        timing: Timing,
    ) -> Result<RunTimes, ExecuteError> {
        let mut submission = Submission::Stepwise;
        let mut launches = 0;
        let mut runs = timing.runs;
        let begin = self.position;
        for _ in 0..timing.warmups.max(LEAST_WARMUPS) {
            let run = self.prepare(time, inputs)?;
            launches = run.launches.len();
            let began = Instant::now();
            self.device
                .run_and_wait(run.key, &run.launches, self.position)?;
            self.advance_timed(&run, begin);
            let seconds = began.elapsed().as_secs_f64();
            if timing.longest.is_some_and(|longest| seconds > longest) {
                runs = runs.min(1);
                break;
            }
        }
        // The two parities' launches, prepared before the clock starts.
        let first = self.prepare(time, inputs)?;
        let position = self.position;
        self.advance_timed(&first, begin);
        let second = self.prepare(time, inputs)?;
        self.parity = first.key.parity;
        self.position = position;
        let flush = self.device.flush(timing.cold)?;
        let mut events = Vec::new();
        for at in 0..runs {
            let run: &PreparedRun = if at % 2 == 0 { &first } else { &second };
            self.device.overwrite(flush.as_ref())?;
            let start = self.device.event()?;
            submission = self.device.put(run.key, &run.launches, self.position)?;
            events.push((start, self.device.event()?));
            self.advance_timed(run, begin);
        }
        let cause = |cause| run_fault(&first.launches, cause);
        self.device.wait(cause)?;
        let times = events
            .iter()
            .map(|(start, end)| self.device.elapsed(start, end));
        Ok(RunTimes {
            milliseconds: times.collect::<Result<_, _>>()?,
            launches,
            submission,
        })
    }

    fn measure_steps(
        &mut self,
        time: usize,
        inputs: &[Input<'_, f32>],
        launches: usize,
        cold: bool,
    ) -> Result<Vec<StepTime>, ExecuteError> {
        let run = self.prepare(time, inputs)?;
        let position = self.position;
        let device = &mut self.device;
        let flush = device.flush(cold)?;
        let mut times = Vec::new();
        for launch in run.launches.iter() {
            device.step_and_wait(launch, position)?;
            let mut pairs = Vec::new();
            match &flush {
                None => {
                    let start = device.event()?;
                    for _ in 0..launches {
                        device.enqueue(launch, position)?;
                    }
                    pairs.push((start, device.event()?));
                }
                Some(_) => {
                    for _ in 0..launches {
                        device.overwrite(flush.as_ref())?;
                        let start = device.event()?;
                        device.enqueue(launch, position)?;
                        pairs.push((start, device.event()?));
                    }
                }
            }
            device.wait(|cause| run_fault(std::slice::from_ref(launch), cause))?;
            let mut total = 0.0;
            for (start, end) in &pairs {
                total += device.elapsed(start, end)?;
            }
            times.push(StepTime {
                step: launch.step,
                kernel: launch.name.clone(),
                milliseconds: total / launches as f32,
            });
        }
        Ok(times)
    }
}

impl GpuDevice {
    /// Memory whose filling leaves nothing else in the L2 cache: twice its size.
    pub(super) fn flush(&self, wanted: bool) -> Result<Option<DeviceMemory>, GpuError> {
        let bytes = 2 * self.info.l2_bytes.max(1);
        wanted
            .then(|| DeviceMemory::new(&self.context, "cache flush", bytes))
            .transpose()
    }

    /// Puts the filling of that memory on the stream.
    pub(super) fn overwrite(&self, flush: Option<&DeviceMemory>) -> Result<(), GpuError> {
        match flush {
            None => Ok(()),
            Some(memory) => memory
                .fill(&self.stream, 0)
                .map_err(|error| failed(self.info.ordinal, "cannot fill memory", error)),
        }
    }

    /// An event at the end of what is on the stream.
    pub(super) fn event(&self) -> Result<CudaEvent, GpuError> {
        self.stream
            .record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))
            .map_err(|error| failed(self.info.ordinal, "cannot record an event", error))
    }

    pub(super) fn elapsed(&self, start: &CudaEvent, end: &CudaEvent) -> Result<f32, GpuError> {
        start
            .elapsed_ms(end)
            .map_err(|error| failed(self.info.ordinal, "cannot read an event", error))
    }
}
