//! Measurements by fusec's own kernels: what its matrix product reaches, and what a step of a
//! recurrence takes. The cost model is about these, not about what a GPU could do.

use super::CalibrateError;
use crate::bench::RunInputs;
use crate::executor::Executor;
use crate::executor::gpu::{GpuDevice, GpuOptions, Timing};
use crate::toolchain::{Arch, Header, Source, Toolchain};
use crate::weights::Weights;
use fusec_codegen::{Planned, generate};
use fusec_fuse::{Device, Mode, Options, Schedule, Shape, Storage, Submit, plan};
use fusec_ir::language::{ModelSource, Overrides, compile};
use std::collections::BTreeMap;

/// Rows, columns and depth of the product.
const PRODUCT: usize = 4096;

const PRODUCT_MODEL: &str = r#"
name = "product"
[axes]
C = 4096
D = 4096
[input]
x = "C"
[param]
w = { shape = "D, C" }
[model]
flow = """
  return x @ w
"""
"#;

/// A state of 64 by 64 for each of 32 heads; its time grows with T and hardly with anything else.
const SCAN_MODEL: &str = r#"
name = "scan"
[axes]
H = 32
N = 64
[input]
q = "H, N"
k = "H, N"
v = "H, N"
d = "H, N"
[recurrence.decayed]
inputs  = "q[H, j], k[H, j], v[H, i], d[H, j]"
state   = "S[H, j = N, i = N]"
outputs = "y[H, i]"
step    = """
  S = d * S + k * v
  y = sum(q * S, j)
"""
[model]
flow = """
  return decayed(q, k, v, d)
"""
"#;

/// Where and with what to measure.
pub struct Bench<'a> {
    /// The GPU.
    pub ordinal: usize,
    /// Its architecture.
    pub arch: Arch,
    /// The compiler.
    pub toolchain: &'a Toolchain,
    /// A profile to plan with; either model has only one plan.
    pub planned_as: &'a Device,
}

impl Bench<'_> {
    /// TFLOP/s of a large matrix product.
    pub fn product_tflops(&self, storage: Storage) -> Result<f64, CalibrateError> {
        let shape = Shape {
            batch: 1,
            time: PRODUCT,
        };
        let ms = self.milliseconds(PRODUCT_MODEL, storage, &[shape])?[0];
        Ok(2.0 * (PRODUCT as f64).powi(3) / ms / 1e9)
    }

    /// Microseconds of a step of a recurrence: the slope between two lengths.
    pub fn step_us(&self, storage: Storage) -> Result<f64, CalibrateError> {
        let lengths = [2048, 6144];
        let shapes = lengths.map(|time| Shape { batch: 1, time });
        let ms = self.milliseconds(SCAN_MODEL, storage, &shapes)?;
        Ok((ms[1] - ms[0]) * 1e3 / (lengths[1] - lengths[0]) as f64)
    }

    fn milliseconds(
        &self,
        model: &str,
        storage: Storage,
        shapes: &[Shape],
    ) -> Result<Vec<f64>, CalibrateError> {
        let source = ModelSource::from_text("calibrate", model);
        let graph = compile(&source, &Overrides::default())
            .map_err(|error| CalibrateError::own(error.to_string()))?;
        let options = Options {
            shape: shapes[0],
            storage,
            // One operation each, and a recurrence step by step.
            mode: Mode::Unfused,
            device: self.planned_as,
            launch: Submit::Graph,
            pins: Vec::new(),
        };
        let mut planned =
            plan(&graph, &options).map_err(|error| CalibrateError::own(error.to_string()))?;
        // The figure is that of a step whose row arrives alone; runs of rows are priced from it.
        let kernels = planned.plan.kernels.iter_mut();
        let lanes = kernels
            .flat_map(|k| &mut k.phases)
            .flat_map(|p| &mut p.lanes);
        for lane in lanes {
            if let Schedule::Scan(tile) = &mut lane.schedule {
                tile.run = 1;
            }
        }
        let regime = Planned {
            name: "prefill",
            min_time: 1,
            max_time: None,
            graph: &planned.graph,
            plan: &planned.plan,
        };
        let manifest = generate(&graph.name, storage, &[regime])
            .map_err(|error| CalibrateError::own(error.to_string()))?;
        let mut cubins = BTreeMap::new();
        for kernel in manifest.images() {
            let name = format!("{}.cu", kernel.name);
            let source = Source {
                name: &name,
                text: &kernel.source,
                headers: &[Header::prelude(&manifest)],
            };
            let artifact = self.toolchain.compile(&source, self.arch)?;
            cubins.insert(kernel.name.clone(), artifact.cubin);
        }
        let weights = Weights::random(&planned.graph, 1)
            .map_err(|error| CalibrateError::own(error.to_string()))?;
        let device = GpuDevice::open(self.ordinal, &manifest, &cubins, GpuOptions::default())?;
        let mut executor = Executor::new(device, manifest, &weights, shapes[0])?;
        let timing = Timing {
            warmups: 4,
            runs: 15,
            cold: false,
        };
        let mut out = Vec::new();
        for shape in shapes {
            let inputs = RunInputs::random(&planned.graph, *shape, 1);
            let times = executor.time_run(shape.time, &inputs.given(), timing)?;
            out.push(super::median(&times.milliseconds));
        }
        Ok(out)
    }
}
