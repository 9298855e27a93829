//! Device times of the steps of a run in their order, each finding in the caches what the steps
//! before it left there.

use super::{GpuDevice, StepTime, run_fault};
use crate::executor::{ExecuteError, Executor};
use fusec_ir::interpret::Input;

/// Launches timed between two waits; what a stream takes without blocking the caller, events
/// included, is about three times as many.
const SEGMENT: usize = 256;
/// Time in which the caller has submitted one launch and its event, generously, microseconds.
const SUBMIT_US: f64 = 10.0;
/// No GPU fills memory faster than this, bytes per microsecond.
const FASTEST_FILL: f64 = 10e6;

impl Executor<GpuDevice> {
    /// Times each step of a run in sequence, with an event between two, and gives the median of
    /// `repeats` runs. The GPU is kept busy before the first launch, so that it never waits for
    /// the caller. An interval holds the start of its kernel. The state is afterwards what it was.
    pub fn time_sequence(
        &mut self,
        time: usize,
        inputs: &[Input<'_, f32>],
        repeats: usize,
    ) -> Result<Vec<StepTime>, ExecuteError> {
        let saved = self.save_state()?;
        let measured = self.measure_sequence(time, inputs, repeats.max(1));
        self.after_timing(measured, |executor| executor.load_state(&saved))
    }

    fn measure_sequence(
        &mut self,
        time: usize,
        inputs: &[Input<'_, f32>],
        repeats: usize,
    ) -> Result<Vec<StepTime>, ExecuteError> {
        let run = self.prepare(time, inputs)?;
        let position = self.position;
        let device = &mut self.device;
        for launch in run.launches.iter() {
            device.step_and_wait(launch, position)?;
        }
        let ahead = device.flush(true)?;
        let fill_us = 2.0 * device.info.l2_bytes.max(1) as f64 / FASTEST_FILL;
        let mut samples = vec![Vec::with_capacity(repeats); run.launches.len()];
        for _ in 0..repeats {
            for (segment, samples) in run
                .launches
                .chunks(SEGMENT)
                .zip(samples.chunks_mut(SEGMENT))
            {
                let fills = (segment.len() as f64 * SUBMIT_US / fill_us).ceil() as usize;
                for _ in 0..fills.min(SEGMENT) {
                    device.overwrite(ahead.as_ref())?;
                }
                let mut events = vec![device.event()?];
                for launch in segment {
                    device.enqueue(launch, position)?;
                    events.push(device.event()?);
                }
                device.wait(|cause| run_fault(segment, cause))?;
                for (pair, samples) in events.windows(2).zip(samples) {
                    samples.push(device.elapsed(&pair[0], &pair[1])?);
                }
            }
        }
        let steps = run.launches.iter().zip(samples);
        Ok(steps
            .map(|(launch, mut samples)| {
                samples.sort_by(f32::total_cmp);
                StepTime {
                    step: launch.step,
                    kernel: launch.name.clone(),
                    milliseconds: samples[samples.len() / 2],
                }
            })
            .collect())
    }
}
