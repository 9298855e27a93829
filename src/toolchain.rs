//! `fusec toolchain`: which CUDA compiler is used, and where from.

use fusec_runtime::toolchain::{CacheState, Toolchain, ToolchainInfo};

use crate::exit::Exit;
use crate::failure::{self, Failure};
use crate::flags::ToolchainArgs;
use crate::output::Output;

/// Shows the CUDA compiler (NVRTC) that `compile` uses: a copy that was fetched before, or one
/// installed on the system; where there is neither, the pinned release is fetched with pip.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fusec toolchain              find it, or fetch it
  fusec toolchain --offline    only say what is there
  FUSEC_NVRTC=/usr/local/cuda/lib64/libnvrtc.so.13 fusec toolchain")]
pub struct Args {
    #[command(flatten)]
    toolchain: ToolchainArgs,
}

/// Runs the verb.
pub fn run(args: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let toolchain = Toolchain::discover(&args.toolchain.options()).map_err(|error| {
        let exit = match error.is_unavailable() {
            true => Exit::NoToolchain,
            false => Exit::Input,
        };
        failure::input(error).with_exit(exit)
    })?;
    output.answer(toolchain.info(), || text(toolchain.info()))?;
    Ok(Exit::Success)
}

fn text(info: &ToolchainInfo) -> String {
    let architectures: Vec<String> = info.architectures.iter().map(ToString::to_string).collect();
    let build = match &info.nvrtc.build {
        Some(build) => format!(", build {build}"),
        None => String::new(),
    };
    let cache = match &info.cubin_cache {
        CacheState::Ready { dir } => dir.display().to_string(),
        CacheState::Unusable { reason } => format!("not usable: {reason}"),
        CacheState::Off => "off".into(),
    };
    let mut out = format!(
        "NVRTC {}{build}\n  file           {}\n  found          {}\n  compiles for   {}\n  cubin cache    {cache}\n",
        info.nvrtc.version,
        info.nvrtc.path.display(),
        info.nvrtc.origin,
        architectures.join(" "),
    );
    for skipped in &info.skipped {
        out.push_str(&format!(
            "  passed over    {}: {}\n",
            skipped.path.display(),
            skipped.reason
        ));
    }
    out
}
