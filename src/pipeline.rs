//! From a graph to plans, and from plans to a manifest: the stages every compiling verb goes
//! through.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use fusec_codegen::{self as codegen, Manifest, generate};
use fusec_fuse::{Device, Known, Mode, Options, Plan, Planned, Recipe, Shape, Submit, plan_by};
use fusec_ir::{Graph, Pin, PinKind};
use fusec_runtime::limits;
use fusec_runtime::toolchain::{Arch, UnknownArch};
use fusec_runtime::tune::Tuned;

use crate::failure::{self, Failure};
use crate::flags::{ArchArgs, Names, PlanArgs};
use crate::progress::Progress;

/// A plan and the lengths of run it is for.
#[derive(Debug)]
pub struct Regime {
    /// `decode` or `prefill`.
    pub name: &'static str,
    /// Smallest T.
    pub min_time: usize,
    /// Largest T, if there is one.
    pub max_time: Option<usize>,
    /// The plan and the graph it is for.
    pub planned: Planned,
}

/// What is wanted of the planner, looked up and checked.
pub struct Planner {
    device: Device,
    options: PlanArgs,
    known: Arc<Known>,
}

impl Planner {
    /// Looks up the device profile.
    pub fn new(args: &PlanArgs) -> Result<Self, Failure> {
        let device = Device::find(&args.device_profile).map_err(failure::input)?;
        Ok(Planner {
            device,
            options: args.clone(),
            known: Arc::default(),
        })
    }

    /// The same with what was found when a model was planned before.
    pub fn knowing(self, known: &Arc<Known>) -> Self {
        Planner {
            known: known.clone(),
            ..self
        }
    }

    /// The architecture to compile for: the one given, or that of the device profile.
    pub fn arch(&self, args: &ArchArgs) -> Result<Arch, Failure> {
        match args.arch {
            Some(arch) => Ok(arch),
            None => (self.device.arch.parse()).map_err(|e: UnknownArch| failure::input(e)),
        }
    }

    /// Plans for kernels of this architecture, which may lack what the profile's has.
    pub fn compiled_for(mut self, arch: Arch) -> Self {
        self.device = self.device.compiled_for(&arch.to_string());
        self
    }

    /// A plan for one shape.
    pub fn plan(&self, graph: &Graph, shape: Shape, mode: Mode) -> Result<Planned, Failure> {
        let Shape { batch, time } = shape;
        let name = &graph.name;
        let _progress = Progress::line(format!("planning {name}, {mode}, for B={batch} T={time}"));
        self.quietly(graph, shape, mode)
    }

    /// The same without a word of it.
    fn quietly(&self, graph: &Graph, shape: Shape, mode: Mode) -> Result<Planned, Failure> {
        limits::run(graph, shape).map_err(failure::input)?;
        let planned = self.known.plan(graph, &self.options(shape, mode));
        planned.map_err(failure::input)
    }

    /// A plan by a recipe, without a word of it.
    pub fn by(&self, graph: &Graph, shape: Shape, recipe: &Recipe) -> Result<Planned, Failure> {
        limits::run(graph, shape).map_err(failure::input)?;
        plan_by(graph, &self.options(shape, recipe.mode), recipe).map_err(failure::input)
    }

    /// What the planner is told.
    pub fn options(&self, shape: Shape, mode: Mode) -> Options<'_> {
        Options {
            shape,
            storage: self.options.dtype,
            mode,
            device: &self.device,
            launch: Submit::Graph,
            pins: pins(&self.options),
        }
    }

    /// The plan without fusion, to compare with. The model's own pins are obeyed in it too.
    pub fn unfused(&self, graph: &Graph, shape: Shape) -> Result<Plan, Failure> {
        Ok(self.plan(graph, shape, Mode::Unfused)?.plan)
    }

    /// Plans for all lengths of run: single steps, and everything longer as if it had the length
    /// asked for, two tokens at least. Runs of several tokens compute `last` where it is given: the same
    /// model with the last rows of its outputs.
    pub fn regimes(&self, graph: &Graph, last: Option<&Graph>) -> Result<Vec<Regime>, Failure> {
        let Shape { batch, time } = self.options.shape.0;
        let _progress = Progress::line(format!(
            "planning {}, {}, for single steps and B={batch} T={time}",
            graph.name, self.options.plan
        ));
        self.regimes_quietly(graph, last)
    }

    /// The same without a word of it: for plans that are made side by side.
    pub fn regimes_quietly(
        &self,
        graph: &Graph,
        last: Option<&Graph>,
    ) -> Result<Vec<Regime>, Failure> {
        self.regimes_beside(graph, last, |_, graph, shape| {
            self.quietly(graph, shape, self.options.plan)
        })
    }

    /// The same, with the two plans made side by side by `plan`, which is told the regime, what it computes,
    /// and the shape.
    pub fn regimes_beside(
        &self,
        graph: &Graph,
        last: Option<&Graph>,
        plan: impl Fn(&'static str, &Graph, Shape) -> Result<Planned, Failure> + Sync,
    ) -> Result<Vec<Regime>, Failure> {
        let shape = self.options.shape.0;
        let (decode, prefill) = thread::scope(|scope| {
            let of_steps = scope.spawn(|| plan("decode", graph, Shape { time: 1, ..shape }));
            let several = shape.of_several_tokens();
            let prefill = plan("prefill", last.unwrap_or(graph), several);
            let decode = of_steps.join();
            (decode.unwrap_or_else(|panic| resume_unwind(panic)), prefill)
        });
        Ok(regimes(decode?, prefill?))
    }

    /// The same, with each plan made by `plan`, which is told the regime, what it computes, and the
    /// shape.
    pub fn regimes_by(
        &self,
        graph: &Graph,
        last: Option<&Graph>,
        mut plan: impl FnMut(&'static str, &Graph, Shape) -> Result<Planned, Failure>,
    ) -> Result<Vec<Regime>, Failure> {
        let shape = self.options.shape.0;
        let step = Shape { time: 1, ..shape };
        let decode = plan("decode", graph, step)?;
        let prefill = plan("prefill", last.unwrap_or(graph), shape.of_several_tokens())?;
        Ok(regimes(decode, prefill))
    }

    /// One plan for runs of every length, as if they had the length asked for; single steps have a plan
    /// that is for nothing else.
    pub fn one_regime(&self, graph: &Graph) -> Result<Vec<Regime>, Failure> {
        let shape = self.options.shape.0;
        let planned = self.plan(graph, shape, self.options.plan)?;
        Ok(vec![Regime {
            name: "training",
            min_time: 1,
            max_time: shape.longest_run(),
            planned,
        }])
    }

    /// The plan for one shape: that of a record where one is given, checked to be what was measured.
    pub fn plan_or_tuned(
        &self,
        graph: &Graph,
        shape: Shape,
        tuned: Option<&Tuned>,
    ) -> Result<Planned, Failure> {
        let Some(tuned) = tuned else {
            return self.plan(graph, shape, self.options.plan);
        };
        limits::run(graph, shape).map_err(failure::input)?;
        let options = &self.options(shape, Mode::Auto);
        let _progress = Progress::line(format!("planning {} as it was measured", graph.name));
        tuned.plan(graph, options).map_err(failure::input)
    }

    /// The profile that is planned with.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The kernels' sources and everything needed to launch them.
    pub fn manifest(&self, model: &str, regimes: &[Regime]) -> Result<Manifest, Failure> {
        let _progress = Progress::line(format!("generating the kernels of {model}"));
        self.manifest_quietly(model, regimes)
    }

    /// The same without a word of it.
    pub fn manifest_quietly(&self, model: &str, regimes: &[Regime]) -> Result<Manifest, Failure> {
        let planned: Vec<codegen::Planned<'_>> = regimes
            .iter()
            .map(|regime| codegen::Planned {
                name: regime.name,
                min_time: regime.min_time,
                max_time: regime.max_time,
                graph: &regime.planned.graph,
                plan: &regime.planned.plan,
            })
            .collect();
        generate(model, self.options.dtype, &planned).map_err(failure::input)
    }
}

/// The plans of all lengths of run.
fn regimes(decode: Planned, prefill: Planned) -> Vec<Regime> {
    let regime = |name, min_time, max_time, planned| Regime {
        name,
        min_time,
        max_time,
        planned,
    };
    vec![
        regime("decode", 1, Some(1), decode),
        regime("prefill", 2, None, prefill),
    ]
}

/// The pins of the command line.
fn pins(args: &PlanArgs) -> Vec<Pin> {
    let pin = |kind, names: &Names| Pin {
        kind,
        values: names.0.clone(),
        span: None,
    };
    let fuse = args.fuse.iter().map(|names| pin(PinKind::Fuse, names));
    let split = args.split.iter().map(|names| pin(PinKind::Split, names));
    fuse.chain(split).collect()
}
