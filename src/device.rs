//! The `--device` argument, and starting a model on what it names.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use fusec_codegen::Manifest;
use fusec_fuse::{Shape, Storage};
use fusec_ir::Graph;
use fusec_runtime::cache::{Contents, user_cache_dir};
use fusec_runtime::cpu::CpuSession;
use fusec_runtime::emulator::{Emulator, EmulatorError, EmulatorOptions};
use fusec_runtime::executor::gpu::{GpuDevice, GpuError, GpuInfo, GpuOptions, gpu, gpus};
use fusec_runtime::executor::{EmulatedDevice, Executor, add_drawing_kernel};
use fusec_runtime::limits;
use fusec_runtime::memory::Footprint;
use fusec_runtime::plan_dir::{PlanDir, read_plan_dir};
use fusec_runtime::session::Session;
use fusec_runtime::toolchain::{self, Arch, Toolchain, UnknownArch};
use fusec_runtime::weights::Weights;

use crate::failure::{self, Failure};
use crate::flags::{KernelArgs, ToolchainArgs};
use crate::kernels;
use crate::pipeline::Planner;
use crate::progress::Progress;

/// The emulator runs what is generated for this compute capability: tensor cores and
/// asynchronous copies, nothing that only one architecture has.
const EMULATED_ARCH: &str = "sm_90";

/// Where a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The first GPU if there is one, else the interpreter. The answer says which.
    Auto,
    /// The interpreter.
    Cpu,
    /// The generated kernels, on the CPU.
    Emulator,
    /// A GPU by number.
    Cuda(usize),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => f.write_str("auto"),
            Device::Cpu => f.write_str("cpu"),
            Device::Emulator => f.write_str("emulator"),
            Device::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "emulator" => Ok(Device::Emulator),
            "cuda" => Ok(Device::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .map(Device::Cuda)
                .ok_or_else(|| format!("`{text}` is none of auto, cpu, emulator, cuda:N")),
        }
    }
}

impl Device {
    /// What `auto` stands for on this machine, the same whenever it is asked; anything else is itself.
    pub fn resolved(self) -> Self {
        static AUTO: OnceLock<Device> = OnceLock::new();
        match self {
            Device::Auto => *AUTO.get_or_init(|| match gpus() {
                Ok(list) if !list.is_empty() => Device::Cuda(0),
                // Without a driver there is no GPU; that is what `auto` is for.
                Ok(_) | Err(GpuError::NoDriver) => Device::Cpu,
                // There may be one that does not work: no reason to stop, but one to speak.
                Err(error) => {
                    tracing::warn!("no GPU can be used, the interpreter is taken: {error}");
                    Device::Cpu
                }
            }),
            device => device,
        }
    }
}

/// A model started on a device.
pub struct Started<'g> {
    /// It.
    pub session: Box<dyn Session + 'g>,
    /// The storage type its kernels use; f32 for the interpreter.
    pub storage: Storage,
}

/// Refuses a run that is beyond the limits, or that this machine has no memory for, before any of it is
/// asked for. What a GPU needs, or the emulator, is known when there are kernels: that is refused then.
pub fn admit(device: Device, graph: &Graph, shape: Shape) -> Result<(), Failure> {
    limits::run(graph, shape).map_err(failure::input)?;
    let need = match device.resolved() {
        Device::Auto | Device::Cpu => Footprint::of_interpreter(graph, shape, size_of::<f32>()),
        Device::Emulator | Device::Cuda(_) => Footprint::of_caller(graph, shape),
    };
    need.check_host(0).map_err(failure::input)
}

/// What the memory of a run holds before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Whatever was there before.
    AsFound,
    /// NaN, for runs whose numbers are compared: what is read or handed out unwritten shows. The
    /// emulator does it always; the interpreter has no such memory.
    Poisoned,
}

/// Starts a model on a device. `shape` is that of the longest run to come; runs of several tokens
/// compute `last`, where it is given, in place of the whole model.
pub fn start<'g>(
    device: Device,
    graph: &'g Graph,
    last: Option<&'g Graph>,
    weights: Weights,
    args: &KernelArgs,
    shape: Shape,
    memory: Memory,
) -> Result<Started<'g>, Failure> {
    match device.resolved() {
        Device::Auto | Device::Cpu => {
            if args.dtype != Storage::F32 || args.plan_dir.is_some() {
                return Err(failure::message(
                    "the interpreter computes in f32 and runs no kernels",
                    "leave --dtype and --plan-dir out, or choose --device emulator or cuda:N",
                ));
            }
            let session =
                CpuSession::<f32>::new(last.unwrap_or(graph), weights).map_err(failure::input)?;
            Ok(Started {
                session: Box::new(session),
                storage: Storage::F32,
            })
        }
        Device::Emulator => emulated(Work::Model(graph, last), &weights, args, shape),
        Device::Cuda(ordinal) => {
            let options = match memory {
                Memory::AsFound => GpuOptions::default(),
                Memory::Poisoned => GpuOptions::compared(),
            };
            let work = Work::Model(graph, last);
            on_gpu((ordinal, options), work, &weights, args, shape)
        }
    }
}

/// As [`start`], for a language model that draws the first `tokens` of its tokens where it runs, if that runs kernels.
pub fn start_drawing<'g>(
    device: Device,
    graph: &'g Graph,
    last: &'g Graph,
    tokens: usize,
    weights: Weights,
    args: &KernelArgs,
    shape: Shape,
) -> Result<Started<'g>, Failure> {
    let work = Work::Language(graph, last, tokens);
    let memory = Memory::AsFound;
    match device.resolved() {
        Device::Auto | Device::Cpu => {
            start(device, graph, Some(last), weights, args, shape, memory)
        }
        Device::Emulator => emulated(work, &weights, args, shape),
        Device::Cuda(ordinal) => on_gpu(
            (ordinal, GpuOptions::default()),
            work,
            &weights,
            args,
            shape,
        ),
    }
}

/// What is run.
#[derive(Clone, Copy)]
enum Work<'a> {
    /// A model, and what runs of several tokens compute in place of it.
    Model(&'a Graph, Option<&'a Graph>),
    /// A language model, likewise, which draws so many tokens where it runs.
    Language(&'a Graph, &'a Graph, usize),
    /// A graph whose runs all have one plan.
    Alike(&'a Graph),
}

impl<'a> Work<'a> {
    fn graph(self) -> &'a Graph {
        match self {
            Work::Model(graph, _) | Work::Language(graph, ..) | Work::Alike(graph) => graph,
        }
    }
}

impl Work<'_> {
    /// Adds the kernel that draws tokens to those of the model, if tokens are drawn: its number, and theirs.
    fn add_drawing(self, manifest: &mut Manifest) -> Result<Option<(usize, usize)>, Failure> {
        let Work::Language(_, _, tokens) = self else {
            return Ok(None);
        };
        let kernel = add_drawing_kernel(manifest).map_err(failure::input)?;
        Ok(kernel.map(|kernel| (kernel, tokens)))
    }
}

/// Starts a graph on a device that runs kernels, with one plan for all runs: that for `shape`.
pub fn start_alike<'g>(
    device: Device,
    graph: &'g Graph,
    weights: &Weights,
    args: &KernelArgs,
    shape: Shape,
) -> Result<Started<'g>, Failure> {
    let work = Work::Alike(graph);
    match device.resolved() {
        Device::Auto | Device::Cpu => Err(failure::message(
            "the interpreter runs no kernels",
            "choose --device emulator or cuda:N",
        )),
        Device::Emulator => emulated(work, weights, args, shape),
        Device::Cuda(ordinal) => {
            on_gpu((ordinal, GpuOptions::default()), work, weights, args, shape)
        }
    }
}

fn emulated<'g>(
    work: Work<'_>,
    weights: &Weights,
    args: &KernelArgs,
    shape: Shape,
) -> Result<Started<'g>, Failure> {
    let mut manifest = match &args.plan_dir {
        Some(path) => compiled(path, work.graph(), args.trust_foreign_code)?.manifest,
        None => {
            let arch = EMULATED_ARCH
                .parse()
                .map_err(|e: UnknownArch| failure::input(e))?;
            generated(work, args, shape, arch)?
        }
    };
    let drawing = work.add_drawing(&mut manifest)?;
    let _progress = Progress::line("building the kernels for the emulator");
    let emulator = emulator(&args.toolchain.options()).map_err(failure::input)?;
    let device =
        EmulatedDevice::new(&emulator, &manifest, args.emulator_seed).map_err(failure::input)?;
    let storage = manifest.storage;
    let mut executor = Executor::new(device, manifest, weights, shape).map_err(failure::input)?;
    if let Some((kernel, tokens)) = drawing {
        executor.draw_with(kernel, tokens);
    }
    Ok(Started {
        session: Box::new(executor),
        storage,
    })
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

fn on_gpu<'g>(
    (ordinal, options): (usize, GpuOptions),
    work: Work<'_>,
    weights: &Weights,
    args: &KernelArgs,
    shape: Shape,
) -> Result<Started<'g>, Failure> {
    let info = gpu(ordinal).map_err(|error| {
        failure::message(
            format!("cannot run on cuda:{ordinal}: {error}"),
            "--device auto takes what there is, and says what it took",
        )
    })?;
    let (manifest, cubins, drawing) = match &args.plan_dir {
        Some(path) => {
            let mut dir = compiled(path, work.graph(), args.trust_foreign_code)?;
            // Carried kernels need no compiler here: then the host draws.
            let (cubins, drawing) = match args.trust_foreign_code {
                true => (carried_cubins(&dir, &info, path)?, None),
                false => {
                    let drawing = work.add_drawing(&mut dir.manifest)?;
                    (own_cubins(&dir, &info, path, &args.toolchain)?, drawing)
                }
            };
            (dir.manifest, cubins, drawing)
        }
        None => {
            let toolchain =
                Toolchain::discover(&args.toolchain.options()).map_err(failure::input)?;
            let arch = arch_of(&info)?;
            let mut manifest = generated(work, args, shape, arch)?;
            let drawing = work.add_drawing(&mut manifest)?;
            let artifacts = kernels::compile(&toolchain, &manifest, arch)?;
            let cubins: BTreeMap<String, Vec<u8>> = artifacts
                .into_iter()
                .map(|(image, artifact)| (image, artifact.cubin))
                .collect();
            (manifest, cubins, drawing)
        }
    };
    let device = GpuDevice::open(ordinal, &manifest, &cubins, options).map_err(failure::input)?;
    let storage = manifest.storage;
    let mut executor = Executor::new(device, manifest, weights, shape).map_err(failure::input)?;
    if let Some((kernel, tokens)) = drawing {
        executor.draw_with(kernel, tokens);
    }
    Ok(Started {
        session: Box::new(executor),
        storage,
    })
}

/// Plans and generates for runs up to `shape`.
fn generated(
    work: Work<'_>,
    args: &KernelArgs,
    shape: Shape,
    arch: Arch,
) -> Result<Manifest, Failure> {
    let planner = Planner::new(&args.plan_args(shape))?.compiled_for(arch);
    let regimes = match work {
        Work::Model(graph, last) => planner.regimes(graph, last)?,
        Work::Language(graph, last, _) => planner.regimes(graph, Some(last))?,
        Work::Alike(graph) => planner.one_regime(graph)?,
    };
    planner.manifest(&work.graph().name, &regimes)
}

/// A plan directory, checked to be of this model at these sizes, and unless foreign code is trusted,
/// to be what this program generates from its plans.
fn compiled(
    path: &std::path::Path,
    graph: &Graph,
    trust_foreign_code: bool,
) -> Result<PlanDir, Failure> {
    let dir = read_plan_dir(path).map_err(failure::input)?;
    if !trust_foreign_code {
        dir.check_generated(path).map_err(failure::input)?;
    }
    let same = dir.manifest.regimes.iter().all(|regime| {
        let other = &regime.graph;
        other.params.len() == graph.params.len()
            && other.params.iter().zip(&graph.params).all(|(a, b)| {
                a.name == b.name && other.row_elements(a.value) == graph.row_elements(b.value)
            })
    });
    if same {
        return Ok(dir);
    }
    Err(failure::message(
        format!(
            "{} was compiled from another model, or from other sizes, than `{}`",
            path.display(),
            graph.name
        ),
        "compile this model into a directory of its own and give that one",
    ))
}

/// The most specific architecture that a GPU runs and fusec compiles for.
pub fn arch_of(info: &GpuInfo) -> Result<Arch, Failure> {
    let names = info.architectures();
    names
        .iter()
        .find_map(|name| name.parse().ok())
        .ok_or_else(|| {
            failure::message(
                format!(
                    "{} (compute capability {:?}) is not a GPU that fusec compiles for",
                    info.name, info.compute_capability
                ),
                "GPUs from sm_75 on are supported",
            )
        })
}

/// Cubins of the sources of a plan directory, compiled here or taken from the user's own cache: nothing
/// shows what the carried ones were compiled from. The sources have been checked.
pub fn own_cubins(
    dir: &PlanDir,
    info: &GpuInfo,
    path: &std::path::Path,
    args: &ToolchainArgs,
) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
    let toolchain = Toolchain::discover(&args.options()).map_err(|error| {
        failure::message(
            format!(
                "nothing here shows that the cubins in {} are compiled from their sources: {error}",
                path.display()
            ),
            "if you trust whoever compiled them, --trust-foreign-code runs them as they are",
        )
    })?;
    let arch = arch_of(info)?;
    let artifacts = kernels::compile(&toolchain, &dir.manifest, arch)?;
    let images = artifacts.into_iter();
    Ok(images.map(|(image, a)| (image, a.cubin)).collect())
}

/// The cubins of a plan directory that a GPU runs, by image.
pub fn carried_cubins(
    dir: &PlanDir,
    info: &GpuInfo,
    path: &std::path::Path,
) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
    let names = info.architectures();
    let arch = names
        .iter()
        .find(|name| dir.cubins.contains_key(*name))
        .unwrap_or(&names[0]);
    dir.cubins_for(arch, path).cloned().map_err(failure::input)
}
