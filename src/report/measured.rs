//! What plans take on a GPU.

use fusec_fuse::{Device as Profile, Mode, Plan};
use fusec_runtime::bench::{Measurement, Protocol, on_gpu};
use fusec_runtime::executor::Executor;
use fusec_runtime::executor::gpu::{GpuDevice, GpuInfo, GpuOptions};
use fusec_runtime::model::Model;
use fusec_runtime::weights::{WeightSpec, Weights};

use super::made::{Made, Maker};
use super::{Args, model};
use crate::failure::{self, Failure};
use crate::progress::Progress;

/// As `fusec bench` does it without further wishes.
const PROTOCOL: Protocol = Protocol {
    warmups: 10,
    runs: 100,
    most_seconds: 60.0,
    longest_seconds: None,
    flush_l2: false,
    per_kernel: true,
    seed: 1,
};

/// What was measured, for each regime.
pub struct Timed {
    /// Of each plan on the page.
    pub plans: Vec<Vec<Measurement>>,
    /// Of the plan without fusion.
    pub unfused: Vec<Measurement>,
}

/// Times all plans that a page shows, and the one without fusion.
pub fn all(
    args: &Args,
    info: &GpuInfo,
    model: &Model,
    maker: &Maker<'_>,
    plans: &[Made],
) -> Result<Timed, Failure> {
    let usual = WeightSpec::Random(1);
    let spec = match (&args.weights, &model.checkpoint) {
        (Some(spec), _) => Some(spec),
        (None, Some(_)) => None,
        (None, None) => Some(&usual),
    };
    let weights = model::weights(model, spec)?;
    let profile = Profile::find(&args.plan.device_profile).map_err(failure::input)?;
    let unfused = maker.planned(Mode::Unfused)?;
    let progress = Progress::new("timing", plans.len() + 1);
    let time = |made: &Made| {
        let measured = one(info, made, &weights, &profile);
        progress.step();
        measured
    };
    Ok(Timed {
        plans: plans.iter().map(time).collect::<Result<_, _>>()?,
        unfused: time(&unfused)?,
    })
}

fn one(
    info: &GpuInfo,
    made: &Made,
    weights: &Weights,
    profile: &Profile,
) -> Result<Vec<Measurement>, Failure> {
    let plans: Vec<Plan> = made.planned.iter().map(|p| p.plan.clone()).collect();
    let shapes = || made.manifest.regimes.iter().map(|regime| regime.shape);
    let Some(largest) = shapes().max_by_key(|shape| shape.batch * shape.time) else {
        return Ok(Vec::new());
    };
    let options = GpuOptions::default();
    let device = GpuDevice::open(info.ordinal, &made.manifest, &made.cubins, options);
    let device = device.map_err(failure::input)?;
    let executor = Executor::new(device, made.manifest.clone(), weights, largest);
    let mut executor = executor.map_err(failure::input)?;
    shapes()
        .map(|shape| {
            on_gpu(&mut executor, &plans, shape, PROTOCOL, profile).map_err(failure::input)
        })
        .collect()
}
