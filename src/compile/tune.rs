//! `fusec compile --tune` and `--tuned`: plans that are chosen by measurement, here or before.

use std::str::FromStr;

use fusec_fuse::{Mode, Shape};
use fusec_ir::Graph;
use fusec_runtime::bench::Provenance;
use fusec_runtime::executor::gpu::gpu;
use fusec_runtime::limits;
use fusec_runtime::toolchain::{Arch, Toolchain};
use fusec_runtime::tune::{self, Bounds, GpuTimer, Machine, PROTOCOL, TUNED, TUNED_VERSION, Tuned};

use super::{Args, place};
use crate::device::Device;
use crate::failure::{self, Failure};
use crate::pipeline::{Planner, Regime};
use crate::progress::Progress;

/// How plans are chosen by measurement.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Measured plans")]
pub struct TuneArgs {
    /// Time the plans, and the schedules of their dearest kernels, that the cost model holds to be about
    /// as good as its choice, on a GPU; compile the fastest, and keep what was measured in tuned.json.
    /// Takes some seconds for each plan.
    #[arg(long, conflicts_with = "tuned")]
    tune: bool,
    /// The GPU that --tune times on: auto (the first) or cuda:N.
    #[arg(long, default_value_t = Device::Auto, requires = "tune")]
    device: Device,
    /// What a plan may be predicted to take more than the least, to be timed.
    #[arg(long, value_name = "SHARE", default_value_t = Share(tune::WITHIN), requires = "tune")]
    within: Share,
    /// Most plans that are timed, of each regime; the record says how many were left out.
    #[arg(long, value_name = "N", default_value_t = tune::MOST, requires = "tune")]
    most: usize,
}

/// A share, as a percentage.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Share(f64);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').unwrap_or(text).trim();
        match number.parse::<f64>() {
            Ok(percent) if (0.0..=1000.0).contains(&percent) => Ok(Share(percent / 100.0)),
            _ => Err(format!("`{text}` is no percentage from 0% to 1000%")),
        }
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}%", (self.0 * 1e4).round() / 1e2)
    }
}

/// Refuses a place whose record of measurements would be lost: what took a GPU to make.
pub fn check_place(args: &Args) -> Result<(), Failure> {
    let record = place(args).join(TUNED);
    let used = args.tuned.tuned.as_ref().map(|path| match path.is_dir() {
        true => path.join(TUNED),
        false => path.clone(),
    });
    let is_used = || match used.map(|path| path.canonicalize()) {
        Some(Ok(path)) => record.canonicalize().is_ok_and(|here| here == path),
        _ => false,
    };
    if args.tune.tune || !record.exists() || is_used() {
        return Ok(());
    }
    let dir = place(args);
    Err(failure::message(
        format!(
            "{} holds what was measured, and would be lost",
            record.display()
        ),
        format!(
            "--tuned {} compiles what was measured to be the fastest, --tune measures again; or choose \
             another place with --out, or remove the file",
            dir.display()
        ),
    ))
}

/// The plans of all regimes, measured if that is asked for, with the record of it.
pub fn regimes(
    args: &Args,
    planner: &Planner,
    arch: Arch,
    (graph, last): (&Graph, Option<&Graph>),
) -> Result<(Vec<Regime>, Option<Tuned>), Failure> {
    let tuned = args.tuned.read(&args.plan)?;
    if tuned.is_some() {
        let plan = |_, graph: &Graph, shape| planner.plan_or_tuned(graph, shape, tuned.as_ref());
        let regimes = planner.regimes_by(graph, last, plan)?;
        return Ok((regimes, tuned));
    }
    if !args.tune.tune {
        return Ok((planner.regimes(graph, last)?, None));
    }
    if args.plan.plan != Mode::Auto {
        return Err(failure::message(
            format!(
                "--tune chooses kernels by measurement, --plan {} otherwise",
                args.plan.plan
            ),
            "leave one of them out",
        ));
    }
    let ordinal = ordinal(args.tune.device)?;
    let info = gpu(ordinal).map_err(failure::input)?;
    if !info.architectures().contains(&arch.to_string()) {
        return Err(failure::message(
            format!(
                "{} runs no kernels for {arch}, which are to be timed",
                info.name
            ),
            format!(
                "plan for this GPU with --device-profile, or compile for it with --arch {}",
                crate::device::arch_of(&info)?
            ),
        ));
    }
    let toolchain = Toolchain::discover(&args.toolchain.options()).map_err(failure::input)?;
    let device = planner.device();
    let mut timer = GpuTimer::new(ordinal, arch, &toolchain, device, PROTOCOL);
    let bounds = Bounds {
        within: args.tune.within.0,
        most: args.tune.most.max(1),
    };
    let mut records = Vec::new();
    let regimes = planner.regimes_by(graph, last, |name, graph, shape: Shape| {
        limits::run(graph, shape).map_err(failure::input)?;
        let options = planner.options(shape, Mode::Auto);
        let mut shown = None;
        let mut watch = |what: &str| {
            drop(shown.take());
            shown = Some(Progress::line(format!("timing {name}: {what}")));
        };
        let tuned = tune::tune(name, graph, &options, bounds, &mut timer, &mut watch);
        let (record, planned) = tuned.map_err(failure::input)?;
        records.push(record);
        Ok(planned)
    })?;
    let built = option_env!("FUSEC_COMMIT").filter(|commit| !commit.is_empty());
    let machine = Machine::from(Provenance::new(Some(info), built.map(str::to_owned)));
    let record = Tuned {
        version: TUNED_VERSION,
        model: graph.name.clone(),
        storage: args.plan.dtype,
        profile: device.name.clone(),
        arch: device.arch.clone(),
        pins: planner.options(args.plan.shape.0, Mode::Auto).pins,
        machine,
        protocol: PROTOCOL,
        within: bounds.within,
        most: bounds.most,
        regimes: records,
    };
    Ok((regimes, Some(record)))
}

/// The GPU to time on.
fn ordinal(device: Device) -> Result<usize, Failure> {
    match device.resolved() {
        Device::Cuda(ordinal) => Ok(ordinal),
        Device::Emulator => Err(failure::message(
            "times of the emulator say nothing about a GPU",
            "choose --device cuda:N",
        )),
        Device::Auto | Device::Cpu => Err(failure::message(
            "--tune times kernels, and there is no GPU",
            "run this where a GPU is; what was measured there is used anywhere with --tuned",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_percentage() {
        for (text, share) in [("10%", 0.1), ("15", 0.15), ("0%", 0.0), ("2.5 %", 0.025)] {
            let Share(got) = text.parse().expect(text);
            assert!((got - share).abs() < 1e-12, "{text}: {got}");
        }
        for text in ["", "-1%", "ten", "nan", "1001%"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
        assert_eq!(Share(0.15).to_string(), "15%");
    }
}
