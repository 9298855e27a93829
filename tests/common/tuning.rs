//! Records of tuning as `compile --tune` makes them, with times that are given: there need not be a GPU.

use fusec_fuse::{Device, Mode, Options, Shape, Storage, Submit};
use fusec_ir::Graph;
use fusec_runtime::tune::{Bounds, Machine, PROTOCOL, TUNED_VERSION, Timer, Tuned, tune};

/// The record of a model in f32 for the H200's profile: single steps, and runs of `time` tokens.
pub fn record<T: Timer>(
    graph: &Graph,
    (batch, time): (usize, usize),
    bounds: Bounds,
    timer: impl Fn() -> T,
    (device, driver): (&str, Option<&str>),
) -> Tuned {
    let profile = Device::find("h200").expect("compiled in");
    let of = |(name, time)| {
        let options = Options {
            shape: Shape { batch, time },
            storage: Storage::F32,
            mode: Mode::Auto,
            device: &profile,
            launch: Submit::Graph,
            pins: vec![],
        };
        let tuned = tune(name, graph, &options, bounds, &mut timer(), &mut |_| {});
        tuned.expect("a plan").0
    };
    Tuned {
        version: TUNED_VERSION,
        model: graph.name.clone(),
        storage: Storage::F32,
        profile: profile.name.clone(),
        arch: profile.arch.clone(),
        pins: vec![],
        machine: Machine {
            device: device.into(),
            driver: driver.map(Into::into),
            fusec: "0".into(),
            commit: "unknown".into(),
            date: "2026-01-31T12:00:00Z".into(),
        },
        protocol: PROTOCOL,
        within: bounds.within,
        most: bounds.most,
        regimes: [("decode", 1), ("prefill", time)].map(of).into(),
    }
}
