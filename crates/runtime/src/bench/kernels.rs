//! Measured beside predicted: one line per kernel.

use crate::executor::gpu::StepTime;
use fusec_codegen::{Manifest, Regime};
use fusec_fuse::Plan;
use serde::Serialize;

/// A kernel of a run. Times are per launch; equal kernels of different layers are one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KernelTime {
    /// Its name.
    pub kernel: String,
    /// SHA-256 of its source.
    pub source_sha256: String,
    /// Launches of a run.
    pub launches: usize,
    /// Mean milliseconds of a launch.
    pub milliseconds: f64,
    /// The plan's prediction, milliseconds.
    pub predicted_ms: Option<f64>,
    /// Predicted over measured.
    pub ratio: Option<f64>,
    /// Bytes that a launch moves through device memory, as the plan counts them.
    pub bytes: Option<f64>,
    /// Those bytes over the memory's bandwidth and the measured time.
    pub memory_fraction: Option<f64>,
}

/// Most that an interval between two events may hold beside its kernel, milliseconds: a few
/// microseconds were seen; a larger difference is the spread between runs.
const MOST_BETWEEN_MS: f64 = 0.004;

/// Sums up steps by kernel, in the order of the first launch. `run_ms` is the time of the whole
/// run: intervals between events add up to more, and each gives up its share of the difference.
pub fn by_kernel(
    manifest: &Manifest,
    regime: Option<&Regime>,
    plan: Option<&Plan>,
    steps: &[StepTime],
    run_ms: f64,
    memory_tbs: Option<f64>,
) -> Vec<KernelTime> {
    let all: f64 = steps.iter().map(|s| f64::from(s.milliseconds)).sum();
    let between = ((all - run_ms) / steps.len().max(1) as f64).clamp(0.0, MOST_BETWEEN_MS);
    struct Sum<'a> {
        name: &'a str,
        launches: usize,
        ms: f64,
        predicted_us: Option<f64>,
        bytes: Option<f64>,
    }
    let mut sums: Vec<Sum<'_>> = Vec::new();
    for time in steps {
        let step = regime.and_then(|regime| regime.steps.get(time.step));
        let cost = step
            .zip(plan)
            .and_then(|(step, plan)| plan.kernels.get(step.plan_kernel))
            .map(|kernel| kernel.cost);
        let at = match sums.iter().position(|sum| sum.name == time.kernel) {
            Some(at) => at,
            None => {
                sums.push(Sum {
                    name: &time.kernel,
                    launches: 0,
                    ms: 0.0,
                    predicted_us: Some(0.0),
                    bytes: Some(0.0),
                });
                sums.len() - 1
            }
        };
        let sum = &mut sums[at];
        sum.launches += 1;
        // Never to nothing: the ratio to a prediction is formed.
        sum.ms += (f64::from(time.milliseconds) - between).max(1e-4);
        sum.predicted_us = sum.predicted_us.zip(cost).map(|(us, c)| us + c.total_us);
        sum.bytes = sum.bytes.zip(cost).map(|(bytes, c)| bytes + c.bytes);
    }
    let finished = sums.into_iter().map(|sum| {
        let n = sum.launches as f64;
        let milliseconds = sum.ms / n;
        let predicted_ms = sum.predicted_us.map(|us| us / n / 1e3);
        let bytes = sum.bytes.map(|bytes| bytes / n);
        let image = manifest.kernels.iter().find(|k| k.name == sum.name);
        KernelTime {
            kernel: sum.name.to_owned(),
            source_sha256: image.map(|k| k.source_sha256.clone()).unwrap_or_default(),
            launches: sum.launches,
            milliseconds,
            predicted_ms,
            ratio: predicted_ms.map(|ms| ms / milliseconds),
            memory_fraction: bytes
                .zip(memory_tbs)
                .map(|(bytes, tbs)| bytes / (tbs * 1e9) / milliseconds),
            bytes,
        }
    });
    finished.collect()
}
