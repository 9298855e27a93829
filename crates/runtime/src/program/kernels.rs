//! Plans for all lengths of run, and the kernels that they become.

use fusec_codegen::{self as codegen, Manifest, generate};
use fusec_fuse::{Device, Planned, Shape, Submit, plan};
use fusec_ir::Graph;

use super::{Options, ProgramError};
use crate::limits;

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

/// What a model becomes for a device.
#[derive(Debug)]
pub struct Kernels {
    /// The profile of the device.
    pub profile: Device,
    /// The plans.
    pub regimes: Vec<Regime>,
    /// The kernels' sources, and everything needed to launch them.
    pub manifest: Manifest,
}

impl Kernels {
    /// Plans single steps and everything longer, as if it had the length of the options' shape, two tokens
    /// at least, and generates. `arch` is what is compiled
    /// for, if it is not that of the profile.
    pub fn new(graph: &Graph, options: &Options, arch: Option<&str>) -> Result<Self, ProgramError> {
        let profile = Device::find(&options.profile)?;
        let profile = match arch {
            Some(arch) => profile.compiled_for(arch),
            None => profile,
        };
        let shape = options.shape;
        limits::run(graph, shape)?;
        let step = Shape { time: 1, ..shape };
        let longer = shape.of_several_tokens();
        let ranges = [("decode", step, 1, Some(1)), ("prefill", longer, 2, None)];
        let mut regimes = Vec::new();
        for (name, shape, min_time, max_time) in ranges {
            regimes.push(Regime {
                name,
                min_time,
                max_time,
                planned: plan(graph, &plan_options(&profile, options, shape))?,
            });
        }
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
        let manifest = generate(&graph.name, options.storage, &planned)?;
        Ok(Self {
            profile,
            regimes,
            manifest,
        })
    }

    /// The plans for people.
    pub fn text(&self) -> String {
        let regimes = self.regimes.iter();
        let texts = regimes.map(|regime| format!("{}: {}", regime.name, regime.planned));
        texts.collect::<Vec<_>>().join("\n")
    }
}

/// What the planner is told.
pub(super) fn plan_options<'a>(
    profile: &'a Device,
    options: &Options,
    shape: Shape,
) -> fusec_fuse::Options<'a> {
    fusec_fuse::Options {
        shape,
        storage: options.storage,
        mode: options.mode,
        device: profile,
        launch: Submit::Graph,
        pins: Vec::new(),
    }
}
