//! The timer that a record is made with: a GPU, by the code of `bench`.

use super::Timer;
use crate::bench::{Protocol, Spread, on_gpu};
use crate::executor::Executor;
use crate::executor::gpu::{GpuDevice, GpuOptions};
use crate::toolchain::{Arch, Toolchain};
use crate::weights::Weights;
use fusec_codegen::Manifest;
use fusec_fuse::{Device, Plan};
use fusec_ir::Graph;
use std::error::Error;
use std::time::{Duration, Instant};

/// How long a GPU is kept busy before the measurement that counts has ended. While a plan is compiled and
/// given its weights the clocks of the GPU fall, and whichever plan is timed first would pay for it.
const BUSY: Duration = Duration::from_millis(500);

/// Times runs on a GPU, with random weights: no time depends on their values.
pub struct GpuTimer<'t> {
    ordinal: usize,
    arch: Arch,
    toolchain: &'t Toolchain,
    profile: &'t Device,
    protocol: Protocol,
    /// The last weights drawn, and for which parameters. Forms of a model mostly have the same.
    weights: Option<(String, Weights)>,
}

impl<'t> GpuTimer<'t> {
    /// On a GPU, for kernels of an architecture that it runs.
    pub fn new(
        ordinal: usize,
        arch: Arch,
        toolchain: &'t Toolchain,
        profile: &'t Device,
        protocol: Protocol,
    ) -> Self {
        GpuTimer {
            ordinal,
            arch,
            toolchain,
            profile,
            protocol,
            weights: None,
        }
    }

    fn measure(&mut self, manifest: &Manifest, plan: &Plan) -> Result<Spread, Box<dyn Error>> {
        let cubins = self.toolchain.cubins(manifest, self.arch)?;
        let Some(regime) = manifest.regimes.first() else {
            return Err("the manifest has no regime".into());
        };
        let seed = self.protocol.seed;
        let weights = weights(&mut self.weights, &regime.graph, seed)?;
        let device = GpuDevice::open(self.ordinal, manifest, &cubins, GpuOptions::default())?;
        let mut executor = Executor::new(device, manifest.clone(), weights, plan.shape)?;
        let plans = std::slice::from_ref(plan);
        let began = Instant::now();
        loop {
            let (shape, protocol) = (plan.shape, self.protocol);
            let measured = on_gpu(&mut executor, plans, shape, protocol, self.profile)?;
            if began.elapsed() >= BUSY {
                return Ok(measured.milliseconds);
            }
        }
    }
}

impl Timer for GpuTimer<'_> {
    fn time(&mut self, manifest: &Manifest, plan: &Plan) -> Result<Spread, String> {
        self.measure(manifest, plan)
            .map_err(|error| error.to_string())
    }
}

/// Weights of a graph: the known ones where its parameters are the same.
fn weights<'w>(
    known: &'w mut Option<(String, Weights)>,
    graph: &Graph,
    seed: u64,
) -> Result<&'w Weights, Box<dyn Error>> {
    let params = graph.params.iter();
    let of = params.map(|p| (&p.name, graph.row_elements(p.value), &p.init));
    let key = format!("{:?}", of.collect::<Vec<_>>());
    let made = match known.take() {
        Some((same, weights)) if same == key => weights,
        _ => Weights::random(graph, seed)?,
    };
    Ok(&known.insert((key, made)).1)
}
