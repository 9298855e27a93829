//! `fusec calibrate`: a device profile by measurement, and its fitted figures from recorded results.

mod fit;

use std::path::PathBuf;

use fusec_fuse::Device as Profile;
use fusec_runtime::bench::now;
use fusec_runtime::calibrate::{PARTS, calibrate, text};
use fusec_runtime::executor::gpu::gpu;
use fusec_runtime::toolchain::Toolchain;

use crate::device::Device;
use crate::exit::Exit;
use crate::failure::{self, Failure};
use crate::flags::ToolchainArgs;
use crate::output::Output;
use crate::place;
use crate::progress::Progress;

/// Measures a GPU and writes a device profile, which --device-profile takes: memory, L2 cache,
/// arithmetic, special functions, barriers, launches, and what fusec's own matrix product and
/// recurrences reach. Takes under two minutes; nothing else should use the GPU meanwhile.
///
/// With --fit nothing is measured: the figures of the cost model that no single measurement gives are
/// fitted to results of `fusec bench --per-kernel --out`, and each model is predicted from the others.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fusec calibrate --out devices/mine.toml
  fusec calibrate --device cuda:1 --name left --out left.toml
  fusec calibrate --fit bench/results/h200/2026-11-29-*.json --out fitted.toml")]
pub struct Args {
    /// The GPU: cuda:N.
    #[arg(long, default_value_t = Device::Cuda(0))]
    device: Device,
    /// Short name of the profile; by default from the GPU's own name.
    #[arg(long)]
    name: Option<String>,
    /// Where the profile goes; by default stdout.
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Fit the `fitted` table of a profile to these results instead.
    #[arg(long, value_name = "RESULTS", num_args = 1..)]
    fit: Vec<PathBuf>,
    /// The profile whose fitted figures are kept, or fitted anew.
    #[arg(long, value_name = "NAME", default_value = "h200")]
    device_profile: String,
    #[command(flatten)]
    toolchain: ToolchainArgs,
}

/// Runs the verb.
pub fn run(args: &Args, output: &mut Output) -> Result<Exit, Failure> {
    if let Some(path) = &args.out {
        place::check(path, args.fit.iter().map(PathBuf::as_path))?;
    }
    if !args.fit.is_empty() {
        return fit::run(args, &args.fit, output);
    }
    let ordinal = match args.device {
        Device::Cuda(ordinal) => ordinal,
        Device::Auto => 0,
        Device::Cpu | Device::Emulator => {
            return Err(failure::message(
                format!("{} is no GPU, and only GPUs have profiles", args.device),
                "give --device cuda:N",
            ));
        }
    };
    // That there is no GPU is said before a compiler is looked for.
    let info = gpu(ordinal).map_err(failure::input)?;
    let toolchain = Toolchain::discover(&args.toolchain.options()).map_err(|error| {
        let exit = match error.is_unavailable() {
            true => Exit::NoToolchain,
            false => Exit::Input,
        };
        failure::input(error).with_exit(exit)
    })?;
    let planned_as = Profile::find(&args.device_profile).map_err(failure::input)?;
    let progress = Progress::new("measuring", PARTS.len());
    let name = args.name.as_deref();
    let device = calibrate(ordinal, name, &toolchain, &planned_as, |part| {
        tracing::info!("measuring: {part}");
        progress.step();
    })
    .map_err(failure::input)?;
    drop(progress);
    let note = format!(
        "{}. Measured by fusec {} calibrate on {}, driver for CUDA {}.",
        info.name,
        env!("CARGO_PKG_VERSION"),
        now(),
        info.driver
    );
    let text = text(&device, &note);
    if let Some(path) = &args.out {
        place::write(path, text.as_bytes())?;
    }
    output.answer(&device, || text)?;
    Ok(Exit::Success)
}
