//! Timing: the protocol of bench/README.md, for a model on a GPU or on the CPU.
//!
//! Lives here: what is run, how often, and what is made of the times. Never here: choosing
//! kernels, compiling them, tables for people.

mod check;
mod floor;
mod kernels;
mod loss;
mod provenance;
mod spread;
mod work;

pub use check::{Check, check};
pub use floor::floor_bytes;
pub use kernels::KernelTime;
pub use loss::loss;
pub use provenance::{Provenance, compiler_of, now};
pub use spread::Spread;
pub use work::KernelWork;

use crate::executor::gpu::{Clocks, GpuDevice, Meter, Timing};
use crate::executor::{ExecuteError, Executor, Submission};
use crate::inputs::RunInputs;
use crate::memory::Footprint;
use crate::session::{Session, SessionError};
use fusec_fuse::{Device, Plan, Shape};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Timed runs after which the rest is fitted into the time there is.
const PILOT_RUNS: usize = 5;

/// A run that takes longer, milliseconds, is looked at while it is timed. Shorter ones are made once more for
/// that: as many as take [`SEEN_MS`] together, and no more than [`MOST_SEEN`].
const LONG_MS: f32 = 20.0;
const SEEN_MS: f32 = 60.0;
const MOST_SEEN: f32 = 2000.0;

/// How a model is timed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Protocol {
    /// Untimed runs before the first timed one.
    pub warmups: usize,
    /// Timed runs.
    pub runs: usize,
    /// Fewer runs where these many would take longer than this, seconds; never fewer than five.
    pub most_seconds: f64,
    /// A run that takes longer than this is timed once, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_seconds: Option<f64>,
    /// Overwrite the L2 cache before each run.
    pub flush_l2: bool,
    /// Time each kernel too.
    pub per_kernel: bool,
    /// Seed of the inputs.
    pub seed: u64,
}

/// What was measured at one shape.
#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    /// Name of the regime: `decode` or `prefill`.
    pub regime: String,
    /// Sequences, and tokens of each in a run.
    pub shape: Shape,
    /// Kernel launches of a run; none on the CPU.
    pub launches: usize,
    /// How they were submitted.
    pub submission: Option<Submission>,
    /// Milliseconds of a run.
    pub milliseconds: Spread,
    /// Tokens of all sequences per second, at the median.
    pub tokens_per_second: f64,
    /// Memory for weights, states and everything in between, bytes.
    pub peak_bytes: Option<usize>,
    /// The fewest bytes that a run moves: weights, inputs and outputs once, states read and
    /// written.
    pub floor_bytes: f64,
    /// Those bytes over the memory's bandwidth and the median: 1 is the memory's speed.
    pub memory_fraction: Option<f64>,
    /// The plan's prediction, milliseconds; none for a shape that it was not made for.
    pub predicted_ms: Option<f64>,
    /// What the GPU ran at in such runs.
    pub clocks: Option<Clocks>,
    /// Why that is not known; none on the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_clocks: Option<String>,
    /// Mean cross-entropy of the next token, nats, where it was asked for ([`loss`]).
    pub loss: Option<f64>,
    /// Each kernel, in the order of its first launch.
    pub kernels: Vec<KernelTime>,
    /// The work of each kernel, in the same order; none for a shape that the plan was not made for.
    pub work: Vec<KernelWork>,
}

/// Times a model on a GPU. `plans` are those of the regimes, in order; `profile` has the bandwidth that
/// fractions are of.
pub fn on_gpu(
    executor: &mut Executor<GpuDevice>,
    plans: &[Plan],
    shape: Shape,
    protocol: Protocol,
    profile: &Device,
) -> Result<Measurement, ExecuteError> {
    let memory_tbs = profile.memory_tbs.value;
    if executor.batch() != shape.batch {
        executor.reset(shape.batch)?;
    }
    let footprint = executor.footprint(shape)?;
    let inputs = RunInputs::random(executor.graph(), shape, protocol.seed);
    let given = inputs.given();
    let mut timing = Timing {
        warmups: protocol.warmups,
        runs: protocol.runs.clamp(1, PILOT_RUNS),
        cold: protocol.flush_l2,
        longest: protocol.longest_seconds,
    };
    let pilot = executor.time_run(shape.time, &given, timing)?;
    let mut times = pilot.milliseconds;
    let slowest = times.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    let fit = (protocol.most_seconds * 1e3 / f64::from(slowest)) as usize;
    timing.runs = protocol.runs.min(fit).saturating_sub(times.len());
    timing.warmups = 0;
    let meter = Meter::open(executor.device().info().ordinal);
    let mut seen = None;
    if timing.runs > 0 {
        let mut run = || executor.time_run(shape.time, &given, timing);
        let ran = match &meter {
            // Looking takes a lock of the driver for some microseconds, which long runs do not notice.
            Ok(meter) if slowest > LONG_MS => {
                let (ran, clocks) = meter.during(&mut run);
                seen = Some(clocks);
                ran
            }
            _ => run(),
        };
        times.extend(ran?.milliseconds);
    }
    let milliseconds = Spread::of(&times);
    let clocks = match (meter, seen) {
        (Err(reason), _) => Err(reason),
        (Ok(_), Some(seen)) => seen,
        // They were run as often as there was time for.
        (Ok(meter), None) if slowest > LONG_MS => meter.during(|| ()).1,
        // Short ones are made once more to be looked at.
        (Ok(meter), None) => {
            timing.runs = (SEEN_MS / slowest).ceil().clamp(1.0, MOST_SEEN) as usize;
            let (ran, clocks) = meter.during(|| executor.time_run(shape.time, &given, timing));
            ran?;
            clocks
        }
    };
    let no_clocks = clocks.as_ref().err().cloned();

    // A manifest that runs has a regime for the shape; its index is also the plan's.
    let at = executor.manifest().regime(shape.time);
    let regime = at.and_then(|at| executor.manifest().regimes.get(at));
    let name = regime.map(|regime| regime.name.clone());
    let floor_bytes = regime.map_or(0.0, |regime| floor_bytes(regime, shape));
    let plan = at
        .and_then(|at| plans.get(at))
        .filter(|plan| plan.shape == shape);
    let kernels = match protocol.per_kernel {
        false => Vec::new(),
        true => {
            let slow = (protocol.most_seconds * 1e3 / milliseconds.median.max(1e-3)) as usize;
            let repeats = protocol.runs.min(slow).clamp(1, 25);
            let steps = executor.time_sequence(shape.time, &given, repeats)?;
            let regime = at.and_then(|at| executor.manifest().regimes.get(at));
            let run_ms = milliseconds.median;
            kernels::by_kernel(
                executor.manifest(),
                regime,
                plan,
                &steps,
                run_ms,
                Some(memory_tbs),
            )
        }
    };
    let manifest = executor.manifest();
    let regime = at.and_then(|at| manifest.regimes.get(at));
    let work = regime.zip(plan).map_or_else(Vec::new, |(regime, plan)| {
        work::by_kernel(manifest, regime, plan, profile)
    });
    Ok(Measurement {
        work,
        regime: name.unwrap_or_default(),
        shape,
        launches: pilot.launches,
        submission: Some(pilot.submission),
        tokens_per_second: tokens_per_second(shape, &milliseconds),
        peak_bytes: Some(footprint.total()),
        floor_bytes,
        memory_fraction: Some(
            floor_bytes / (memory_tbs * 1e9) / milliseconds.median.max(f64::MIN_POSITIVE),
        ),
        predicted_ms: plan.map(|plan| plan.total_us / 1e3),
        clocks: clocks.ok(),
        no_clocks,
        loss: None,
        milliseconds,
        kernels,
    })
}

/// Times a model on the CPU, from the state that the last run left.
pub fn on_cpu(
    session: &mut dyn Session,
    shape: Shape,
    protocol: Protocol,
) -> Result<Measurement, SessionError> {
    session.reset(shape.batch)?;
    let inputs = RunInputs::random(session.graph(), shape, protocol.seed);
    let given = inputs.given();
    let is_long = |seconds: f64| protocol.longest_seconds.is_some_and(|most| seconds > most);
    let began = Instant::now();
    for _ in 0..protocol.warmups {
        session.run(shape.time, &given)?;
        let seconds = began.elapsed().as_secs_f64();
        if seconds > protocol.most_seconds || is_long(seconds) {
            break;
        }
    }
    let began = Instant::now();
    let mut times = Vec::new();
    while times.len() < protocol.runs.max(1) {
        let start = Instant::now();
        session.run(shape.time, &given)?;
        let seconds = start.elapsed().as_secs_f64();
        times.push((seconds * 1e3) as f32);
        if is_long(seconds) {
            break;
        }
        let enough = times.len() >= PILOT_RUNS;
        if enough && began.elapsed().as_secs_f64() > protocol.most_seconds {
            break;
        }
    }
    let milliseconds = Spread::of(&times);
    Ok(Measurement {
        regime: if shape.time == 1 { "decode" } else { "prefill" }.into(),
        shape,
        launches: 0,
        submission: None,
        tokens_per_second: tokens_per_second(shape, &milliseconds),
        peak_bytes: Some(
            Footprint::of_interpreter(session.graph(), shape, size_of::<f32>()).total(),
        ),
        floor_bytes: 0.0,
        memory_fraction: None,
        predicted_ms: None,
        clocks: None,
        no_clocks: None,
        loss: None,
        milliseconds,
        kernels: Vec::new(),
        work: Vec::new(),
    })
}

fn tokens_per_second(shape: Shape, milliseconds: &Spread) -> f64 {
    (shape.batch * shape.time) as f64 / milliseconds.median.max(f64::MIN_POSITIVE) * 1e3
}
