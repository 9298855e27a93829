//! What is timed: a plan of a model, a compiled directory, or the interpreter.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use fusec_codegen::Manifest;
use fusec_fuse::{Device as Profile, Mode, Plan, Shape, Storage};
use fusec_ir::Graph;
use fusec_runtime::bench::{check, compiler_of, loss, on_cpu, on_gpu};
use fusec_runtime::cpu::CpuSession;
use fusec_runtime::executor::Executor;
use fusec_runtime::executor::gpu::{GpuDevice, GpuInfo, GpuOptions};
use fusec_runtime::model::Model;
use fusec_runtime::plan_dir::{PlanDir, is_plan_dir, read_plan_dir};
use fusec_runtime::session::Session;
use fusec_runtime::toolchain::Toolchain;
use fusec_runtime::weights::{WeightSpec, Weights};

use super::Args;
use super::report::{Config, SubjectReport};
use crate::device::{self, Device, arch_of, carried_cubins, own_cubins};
use crate::failure::{self, Failure};
use crate::flags::{Logits, PlanArgs, ShapeArg};
use crate::pipeline::Planner;
use crate::progress::Progress;
use crate::{kernels, model};

/// The run that a model is timed for if nobody says otherwise.
pub const USUAL: Shape = Shape {
    batch: 8,
    time: 2048,
};

/// One thing to time.
pub struct Subject {
    name: String,
    /// The runs to time.
    pub shapes: Vec<Shape>,
    kind: Kind,
}

enum Kind {
    /// A plan of a model, made and compiled here.
    Plan {
        model: std::rc::Rc<Model>,
        mode: Mode,
        gpu: GpuInfo,
        toolchain: std::rc::Rc<Toolchain>,
    },
    /// A directory.
    Dir {
        compiled: Box<PlanDir>,
        path: PathBuf,
        gpu: GpuInfo,
    },
    /// The interpreter.
    Cpu { model: std::rc::Rc<Model> },
}

/// Weights that were made already: plans of one model share them.
#[derive(Default)]
pub struct Weighed(Option<(String, Weights)>);

/// A plan with its kernels' sources.
pub struct Prepared {
    manifest: Manifest,
    plans: Vec<Plan>,
}

/// A manifest with all that it takes to run it.
struct Runnable {
    manifest: Manifest,
    plans: Vec<Plan>,
    cubins: BTreeMap<String, Vec<u8>>,
}

/// Everything that the command line names.
pub fn subjects(args: &Args, gpu: Option<&GpuInfo>) -> Result<Vec<Subject>, Failure> {
    let mut dirs = args.plan_dir.clone();
    let mut list = Vec::new();
    match &args.model {
        Some(path) if is_plan_dir(path) => dirs.insert(0, path.clone()),
        Some(path) => list = of_model(args, path, gpu)?,
        None => {}
    }
    for path in dirs {
        let Some(gpu) = gpu else {
            return Err(failure::message(
                format!(
                    "{} holds kernels for GPUs, and there is no GPU",
                    path.display()
                ),
                "run this where a GPU is, or give the model to time the interpreter on the CPU",
            ));
        };
        let compiled = Box::new(read_plan_dir(&path).map_err(failure::input)?);
        if !args.trust_foreign_code {
            compiled.check_generated(&path).map_err(failure::input)?;
        }
        let shape = compiled.manifest.regimes.last().map(|regime| regime.shape);
        list.push(Subject {
            name: model::short_name(&path),
            shapes: args.shapes(shape.unwrap_or(USUAL)),
            kind: Kind::Dir {
                compiled,
                path,
                gpu: gpu.clone(),
            },
        });
    }
    Ok(list)
}

fn of_model(
    args: &Args,
    path: &std::path::Path,
    gpu: Option<&GpuInfo>,
) -> Result<Vec<Subject>, Failure> {
    let mut opened = model::open(&args.model_args(path.to_path_buf()))?;
    args.training.apply_beside(args.logits, &mut opened)?;
    let opened = std::rc::Rc::new(opened);
    // What computes less is another subject, in records as well.
    let name = match args.logits.logits {
        _ if args.training.training => format!("{}, training", model::short_name(path)),
        Logits::All => model::short_name(path),
        Logits::Last => format!("{}, last rows", model::short_name(path)),
    };
    // So is what leaves zeros out.
    let name = match opened.graph.zeros {
        0.0 => name,
        share => format!("{name}, zeros {share}"),
    };
    let Some(gpu) = gpu else {
        if !args.against.is_empty() {
            return Err(failure::message(
                "plans can be compared on a GPU only: the interpreter runs none",
                "leave --against out, or run this where a GPU is",
            ));
        }
        return Ok(vec![Subject {
            name,
            shapes: args.shapes(USUAL),
            kind: Kind::Cpu { model: opened },
        }]);
    };
    // Before anything is planned for it.
    let toolchain = Toolchain::discover(&args.toolchain.options()).map_err(failure::input)?;
    let toolchain = std::rc::Rc::new(toolchain);
    let mut list = Vec::new();
    // A plan is for one shape.
    for shape in args.shapes(USUAL) {
        for mode in args.modes() {
            list.push(Subject {
                name: format!("{name} {mode}"),
                shapes: vec![shape],
                kind: Kind::Plan {
                    model: opened.clone(),
                    mode,
                    gpu: gpu.clone(),
                    toolchain: toolchain.clone(),
                },
            });
        }
    }
    Ok(list)
}

/// Plans those of some subjects that are models, side by side: nothing is timed meanwhile.
pub fn prepare(args: &Args, subjects: &[Subject]) -> Vec<Option<Result<Prepared, Failure>>> {
    let _progress = Progress::line("planning");
    thread::scope(|scope| {
        let started: Vec<_> = subjects
            .iter()
            .map(|subject| match &subject.kind {
                Kind::Plan {
                    model, mode, gpu, ..
                } => {
                    let graph = &model.graph;
                    let shape = subject.shapes.first().copied().unwrap_or(USUAL);
                    Some(scope.spawn(move || planned(args, graph, shape, *mode, gpu)))
                }
                _ => None,
            })
            .collect();
        let ended = |one: thread::ScopedJoinHandle<'_, _>| {
            one.join().unwrap_or_else(|panic| resume_unwind(panic))
        };
        started.into_iter().map(|one| one.map(ended)).collect()
    })
}

fn planned(
    args: &Args,
    graph: &Graph,
    shape: Shape,
    mode: Mode,
    gpu: &GpuInfo,
) -> Result<Prepared, Failure> {
    let planner = Planner::new(&PlanArgs {
        shape: ShapeArg(shape),
        dtype: args.dtype,
        plan: mode,
        device_profile: args.device_profile.clone(),
        fuse: Vec::new(),
        split: Vec::new(),
    })?;
    let planner = planner.compiled_for(arch_of(gpu)?);
    let last = args.logits.logits.asked(graph);
    let regimes = match args.training.training {
        true => planner.one_regime(graph)?,
        false => planner.regimes_quietly(graph, last.as_ref())?,
    };
    Ok(Prepared {
        manifest: planner.manifest_quietly(&graph.name, &regimes)?,
        plans: regimes.into_iter().map(|r| r.planned.plan).collect(),
    })
}

impl Subject {
    /// What is known before anything is timed.
    pub fn report(&self) -> SubjectReport {
        let (model, plan, storage) = match &self.kind {
            Kind::Cpu { model } => (model.graph.name.clone(), None, None),
            Kind::Plan { model, mode, .. } => (model.graph.name.clone(), Some(*mode), None),
            Kind::Dir { compiled, .. } => (
                compiled.manifest.model.clone(),
                compiled.plans.first().map(|plan| plan.mode),
                Some(compiled.manifest.storage),
            ),
        };
        SubjectReport {
            name: self.name.clone(),
            model,
            config: None,
            plan: plan.map(|mode| mode.to_string()),
            parameters: match &self.kind {
                Kind::Cpu { model } | Kind::Plan { model, .. } => count(&model.graph),
                Kind::Dir { compiled, .. } => {
                    let first = compiled.manifest.regimes.first();
                    first.map_or(0, |regime| count(&regime.graph))
                }
            },
            storage,
            weights: String::new(),
            assembler: Vec::new(),
            kernels: BTreeMap::new(),
            check: None,
            measurements: Vec::new(),
            error: None,
        }
    }

    /// Times it at every shape; what is a model's was prepared before.
    pub fn time(
        &self,
        args: &Args,
        prepared: Option<Result<Prepared, Failure>>,
        weighed: &mut Weighed,
        progress: &Progress,
        report: &mut SubjectReport,
    ) -> Result<(), Failure> {
        let (runnable, gpu) = match &self.kind {
            Kind::Cpu { model } => {
                for shape in &self.shapes {
                    device::admit(Device::Cpu, &model.graph, *shape)?;
                }
                let weights = weighed.weights(args, &model.graph, Some(model), report)?;
                let last = args.logits.logits.asked(&model.graph);
                let graph = last.as_ref().unwrap_or(&model.graph);
                let session = CpuSession::<f32>::new(graph, weights.clone());
                let mut session = session.map_err(failure::input)?;
                if args.check {
                    let checked = check(&mut session, weights, Storage::F32, args.protocol().seed);
                    report.check = Some(checked.map_err(failure::input)?);
                }
                report.config = Some(self.config(args, &model.graph));
                for shape in &self.shapes {
                    let measured = on_cpu(&mut session, *shape, args.protocol());
                    let mut measured = measured.map_err(failure::input)?;
                    measured.loss = self.loss(args, &mut session, *shape)?;
                    report.measurements.push(measured);
                    progress.step();
                }
                return Ok(());
            }
            Kind::Plan { gpu, toolchain, .. } => {
                let Some(prepared) = prepared else {
                    return Ok(());
                };
                let Prepared { manifest, plans } = prepared?;
                let artifacts = kernels::compile(toolchain, &manifest, arch_of(gpu)?)?;
                let cubins = artifacts.into_iter().map(|(image, a)| (image, a.cubin));
                let runnable = Runnable {
                    cubins: cubins.collect(),
                    manifest,
                    plans,
                };
                (runnable, gpu)
            }
            Kind::Dir {
                compiled,
                path,
                gpu,
            } => {
                let cubins = match args.trust_foreign_code {
                    true => carried_cubins(compiled, gpu, path)?,
                    false => own_cubins(compiled, gpu, path, &args.toolchain)?,
                };
                let runnable = Runnable {
                    cubins,
                    manifest: compiled.manifest.clone(),
                    plans: compiled.plans.clone(),
                };
                (runnable, gpu)
            }
        };
        let Runnable {
            manifest,
            plans,
            cubins,
        } = runnable;
        report.storage = Some(manifest.storage);
        report.assembler = compiler_of(cubins.values().map(Vec::as_slice));
        let kernels = manifest.kernels.iter();
        report.kernels = kernels
            .map(|kernel| (kernel.name.clone(), kernel.source_sha256.clone()))
            .collect();
        let Some(graph) = manifest.regimes.first().map(|regime| regime.graph.clone()) else {
            return Ok(());
        };
        report.config = Some(self.config(args, &graph));
        for shape in &self.shapes {
            device::admit(Device::Cuda(gpu.ordinal), &graph, *shape)?;
        }
        let own = match &self.kind {
            Kind::Plan { model, .. } => Some(model.as_ref()),
            _ => None,
        };
        let weights = weighed.weights(args, &graph, own, report)?;
        let device = GpuDevice::open(gpu.ordinal, &manifest, &cubins, GpuOptions::default());
        let device = device.map_err(failure::input)?;
        let largest = self.shapes.iter().max_by_key(|s| s.batch * s.time);
        let shape = largest.copied().unwrap_or(USUAL);
        let storage = manifest.storage;
        let mut executor =
            Executor::new(device, manifest, weights, shape).map_err(failure::input)?;
        if args.check {
            let checked = check(&mut executor, weights, storage, args.protocol().seed);
            report.check = Some(checked.map_err(failure::input)?);
        }
        let roof = Profile::find(&args.device_profile).map_err(failure::input)?;
        for shape in &self.shapes {
            let measured = on_gpu(&mut executor, &plans, *shape, args.protocol(), &roof);
            let mut measured = measured.map_err(failure::input)?;
            measured.loss = self.loss(args, &mut executor, *shape)?;
            report.measurements.push(measured);
            progress.step();
        }
        Ok(())
    }

    /// The loss of a run, where plans are compared with each other or with the interpreter.
    fn loss(
        &self,
        args: &Args,
        session: &mut dyn Session,
        shape: Shape,
    ) -> Result<Option<f64>, Failure> {
        match args.sweep.is_some() || args.check {
            true => loss(session, shape, args.protocol().seed).map_err(failure::input),
            false => Ok(None),
        }
    }

    /// All that the model was made with.
    fn config(&self, args: &Args, graph: &Graph) -> Config {
        let axes = graph.axes.iter();
        let sizes = axes.map(|axis| (axis.name.clone(), axis.size));
        let mut config = Config {
            axes: sizes.collect(),
            profile: args.device_profile.clone(),
            zeros: (graph.zeros > 0.0).then_some(graph.zeros),
            ..Config::default()
        };
        // A directory says what it was compiled with in its manifest.
        if !matches!(self.kind, Kind::Dir { .. }) {
            config.text = args.model.clone();
            config.preset = args.preset.clone();
            config.chosen = (args.axes.iter())
                .map(|of| format!("{}={}", of.axis, of.size))
                .collect();
            config.settings = (args.settings.iter())
                .map(|of| format!("{}={}", of.name, of.value))
                .collect();
            config.logits = Some(args.logits.logits.to_string());
            config.training = args.training.training;
        }
        config
    }
}

impl Weighed {
    /// The weights of a graph: those asked for, else those of the model's checkpoint, else random
    /// ones. Made once for graphs with equal parameters.
    fn weights(
        &mut self,
        args: &Args,
        graph: &Graph,
        model: Option<&Model>,
        report: &mut SubjectReport,
    ) -> Result<&Weights, Failure> {
        let checkpoint = model.filter(|model| model.checkpoint.is_some());
        let usual = WeightSpec::Random(1);
        let spec = match (&args.weights, checkpoint) {
            (Some(spec), _) => Some(spec),
            (None, Some(_)) => None,
            (None, None) => Some(&usual),
        };
        report.weights = match spec {
            Some(WeightSpec::Random(seed)) => format!("random:{seed}"),
            Some(WeightSpec::Checkpoint(path)) => path.display().to_string(),
            None => "those of the checkpoint".into(),
        };
        let key = format!("{} {:?}", report.weights, parameters(graph));
        let made = match self.0.take() {
            Some((known, weights)) if known == key => weights,
            _ => {
                let began = Instant::now();
                let made = match (spec, checkpoint) {
                    (Some(spec), _) => spec.load(graph).map_err(failure::input)?,
                    (None, Some(model)) => model.weights(None).map_err(model::report)?,
                    (None, None) => usual.load(graph).map_err(failure::input)?,
                };
                tracing::info!("weights made in {:.1} s", began.elapsed().as_secs_f64());
                made
            }
        };
        Ok(&self.0.insert((key, made)).1)
    }
}

/// Numbers in all parameters.
fn count(graph: &Graph) -> usize {
    let params = graph.params.iter();
    params.map(|param| graph.row_elements(param.value)).sum()
}

/// Name, size and initial value of each parameter.
fn parameters(graph: &Graph) -> Vec<(&str, usize, String)> {
    let params = graph.params.iter();
    params
        .map(|param| {
            let elements = graph.row_elements(param.value);
            (param.name.as_str(), elements, format!("{:?}", param.init))
        })
        .collect()
}
