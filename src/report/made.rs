//! Plans with their kernels, as far as they are compiled: made here, or read from a directory.

use std::collections::BTreeMap;
use std::path::Path;

use fusec_codegen::{KernelImage, Manifest};
use fusec_fuse::{Device, Mode, Options, Plan, Planned, Submit};
use fusec_ir::Graph;
use fusec_report::Subject;
use fusec_report::collect::Regime;
use fusec_runtime::cubin::{self, Resources};
use fusec_runtime::plan_dir::read_plan_dir;
use fusec_runtime::toolchain::{Arch, Toolchain};

use super::measured::Timed;
use crate::failure::{self, Failure};
use crate::flags::PlanArgs;
use crate::kernels;
use crate::pipeline::Planner;

/// A plan for each length of run, with its kernels.
pub struct Made {
    /// How the kernels were chosen, or where they lie.
    pub label: String,
    /// What is launched.
    pub manifest: Manifest,
    /// In the order of the manifest's regimes.
    pub planned: Vec<Planned>,
    /// Cubins by image; none without a compiler.
    pub cubins: BTreeMap<String, Vec<u8>>,
    /// What was planned with, where it is not what the planner has.
    device: Option<Device>,
    resources: Vec<Option<Resources>>,
    missing: Option<String>,
}

/// What plans are made of.
pub struct Maker<'a> {
    /// The model.
    pub graph: &'a Graph,
    /// The same with the last rows of its outputs, where those are asked for.
    pub last: Option<&'a Graph>,
    /// How it is planned.
    pub plan: &'a PlanArgs,
    /// What kernels are compiled for.
    pub arch: Arch,
    /// The compiler, or why there is none.
    pub toolchain: Result<&'a Toolchain, &'a String>,
}

impl<'a> Maker<'a> {
    /// What is computed in runs of at most so many tokens.
    pub fn graph_of(&self, max_time: Option<usize>) -> &'a Graph {
        match max_time {
            Some(1) => self.graph,
            _ => self.last.unwrap_or(self.graph),
        }
    }

    /// Plans, generates, and compiles where there is a compiler.
    pub fn planned(&self, mode: Mode) -> Result<Made, Failure> {
        let args = PlanArgs {
            plan: mode,
            ..self.plan.clone()
        };
        let planner = Planner::new(&args)?.compiled_for(self.arch);
        let regimes = planner.regimes(self.graph, self.last)?;
        let manifest = planner.manifest(&self.graph.name, &regimes)?;
        let mut made = Made {
            label: mode.to_string(),
            planned: regimes.into_iter().map(|regime| regime.planned).collect(),
            resources: vec![None; manifest.kernels.len()],
            cubins: BTreeMap::new(),
            device: None,
            missing: self.toolchain.err().cloned(),
            manifest,
        };
        if let Ok(toolchain) = self.toolchain {
            let artifacts = kernels::compile(toolchain, &made.manifest, self.arch)?;
            let of =
                |kernel: &KernelImage| artifacts.get(&kernel.image)?.resources.get(&kernel.entry);
            let kernels = made.manifest.kernels.iter();
            made.resources = kernels.map(|kernel| of(kernel).cloned()).collect();
            let cubins = artifacts.into_iter().map(|(image, a)| (image, a.cubin));
            made.cubins = cubins.collect();
        }
        Ok(made)
    }

    /// Reads a compiled directory of the same model.
    pub fn carried(&self, path: &Path) -> Result<Made, Failure> {
        let dir = read_plan_dir(path).map_err(failure::input)?;
        dir.check_plans(path).map_err(failure::input)?;
        if dir.manifest.model != self.graph.name {
            return Err(failure::message(
                format!(
                    "{} is of the model `{}`, not of `{}`",
                    path.display(),
                    dir.manifest.model,
                    self.graph.name
                ),
                "give --against a plan of the same model",
            ));
        }
        let images = dir.cubins.first_key_value().map(|(_, images)| images);
        let resources = dir.manifest.kernels.iter().map(|kernel| {
            let Some(image) = images.and_then(|images| images.get(&kernel.image)) else {
                return Ok(None);
            };
            let mut all = cubin::resources(image).map_err(failure::input)?;
            Ok(all.remove(&kernel.entry))
        });
        let resources = resources.collect::<Result<_, Failure>>()?;
        let graphs = dir.manifest.regimes.iter().map(|regime| &regime.graph);
        let planned = graphs.zip(&dir.plans).map(|(graph, plan)| Planned {
            graph: graph.clone(),
            plan: plan.clone(),
            decisions: Default::default(),
        });
        Ok(Made {
            label: path.display().to_string(),
            planned: planned.collect(),
            resources,
            cubins: images.cloned().unwrap_or_default(),
            missing: (images.is_none()).then(|| "the directory has no cubins".into()),
            device: Some(dir.device),
            manifest: dir.manifest,
        })
    }
}

impl Made {
    /// What a page is told of it; it is number `at` of the plans.
    pub fn subject<'a>(
        &'a self,
        planner: &'a Planner,
        unfused: &'a [Plan],
        timed: Option<&'a Timed>,
        at: usize,
    ) -> Subject<'a> {
        let options = |plan: &Plan| match &self.device {
            Some(device) => Options {
                shape: plan.shape,
                storage: plan.storage,
                mode: plan.mode,
                device,
                launch: Submit::Graph,
                pins: Vec::new(),
            },
            None => planner.options(plan.shape, plan.mode),
        };
        let regimes = self.planned.iter().zip(unfused).enumerate();
        Subject {
            label: self.label.clone(),
            manifest: &self.manifest,
            regimes: regimes
                .map(|(r, (planned, unfused))| Regime {
                    planned,
                    options: options(&planned.plan),
                    unfused,
                    measured: timed.and_then(|timed| timed.plans.get(at)?.get(r)),
                    unfused_measured: timed.and_then(|timed| timed.unfused.get(r)),
                })
                .collect(),
            resources: self.resources.clone(),
            not_compiled: self.missing.clone(),
        }
    }
}
