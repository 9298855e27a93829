//! Sessions on the devices that a program can run on.

use fusec_ir::Graph;
use std::sync::Arc;

use super::device::DeviceKind;
use super::kernels::Kernels;
use super::owned::OwnedSession;
use super::{Options, ProgramError};
use crate::cache::{Contents, user_cache_dir};
use crate::emulator::{Emulator, EmulatorError, EmulatorOptions};
use crate::executor::gpu::{GpuDevice, GpuInfo, GpuLauncher, GpuOptions, gpu};
use crate::executor::in_place::Launcher;
use crate::executor::{EmulatedDevice, EmulatedLauncher, Executor};
use crate::session::Session;
use crate::toolchain::{self, Arch, Toolchain, UnknownArch};
use crate::weights::Weights;
use fusec_codegen::Manifest;
use fusec_fuse::{Shape, Storage};
use std::collections::BTreeMap;

/// The emulator runs what is generated for this compute capability: tensor cores and asynchronous copies,
/// nothing that only one architecture has.
const EMULATED_ARCH: &str = "sm_90";
/// What memory is checked for at the start; longer runs make it grow.
const FIRST: Shape = Shape { batch: 1, time: 1 };

/// A session of whatever kind.
pub(super) type Running = Box<dyn Session + Send>;

/// The architecture that a device's kernels are for, unless the profile says.
pub(super) fn arch(device: DeviceKind) -> Result<Option<Arch>, ProgramError> {
    match device {
        DeviceKind::Auto | DeviceKind::Cpu => Ok(None),
        DeviceKind::Emulator => Ok(Some(EMULATED_ARCH.parse()?)),
        DeviceKind::Cuda(ordinal) => Ok(Some(arch_of(&gpu(ordinal)?)?)),
    }
}

/// Starts a model. `kernels` are there for every device but the interpreter.
pub(super) fn start(
    graph: &Arc<Graph>,
    options: &Options,
    kernels: Option<&Kernels>,
    weights: Weights,
) -> Result<Running, ProgramError> {
    let Some(kernels) = kernels else {
        if options.storage != Storage::F32 {
            return Err(ProgramError::InterpreterStorage {
                asked: options.storage.to_string(),
            });
        }
        return Ok(Box::new(OwnedSession::new(graph.clone(), weights)?));
    };
    let manifest = kernels.manifest.clone();
    if let DeviceKind::Cuda(ordinal) = options.device {
        let cubins = cubins(ordinal, options, &manifest)?;
        let device = GpuDevice::open(ordinal, &manifest, &cubins, GpuOptions::default())?;
        return Ok(Box::new(Executor::new(device, manifest, &weights, FIRST)?));
    }
    let emulator = emulator(&options.toolchain)?;
    let device = EmulatedDevice::new(&emulator, &manifest, options.emulator_seed)?;
    Ok(Box::new(Executor::new(device, manifest, &weights, FIRST)?))
}

/// What launches kernels on memory of the caller.
pub(super) fn launcher(
    options: &Options,
    manifest: &Manifest,
) -> Result<Box<dyn Launcher>, ProgramError> {
    if let DeviceKind::Cuda(ordinal) = options.device {
        let cubins = cubins(ordinal, options, manifest)?;
        return Ok(Box::new(GpuLauncher::open(ordinal, manifest, &cubins)?));
    }
    let emulator = emulator(&options.toolchain)?;
    let launcher = EmulatedLauncher::new(&emulator, manifest, options.emulator_seed)?;
    Ok(Box::new(launcher))
}

/// The kernels, compiled for a GPU of this machine.
fn cubins(
    ordinal: usize,
    options: &Options,
    manifest: &Manifest,
) -> Result<BTreeMap<String, Vec<u8>>, ProgramError> {
    let arch = arch_of(&gpu(ordinal)?)?;
    let toolchain = Toolchain::discover(&options.toolchain)?;
    Ok(toolchain.cubins(manifest, arch)?)
}

/// The emulator, with the user's cache of compiled kernels where there can be one.
fn emulator(options: &toolchain::Options) -> Result<Emulator, EmulatorError> {
    let emulation = EmulatorOptions::default();
    if options.no_cubin_cache {
        return Emulator::without_cache(emulation);
    }
    match user_cache_dir(options.cache_dir.as_deref()) {
        Ok(dir) => Emulator::new(&dir.join(Contents::Libraries.directory()), emulation),
        Err(error) => {
            tracing::warn!("emulating without a cache: {error}");
            Emulator::without_cache(emulation)
        }
    }
}

/// The most specific architecture that a GPU runs and that is compiled for.
fn arch_of(info: &GpuInfo) -> Result<Arch, UnknownArch> {
    let names = info.architectures();
    let known = names.iter().find_map(|name| name.parse().ok());
    known.map_or_else(|| names.first().map_or("", |n| n.as_str()).parse(), Ok)
}
