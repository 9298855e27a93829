//! Measurements by fusec's own kernels: what its matrix product reaches, and what a step of a
//! recurrence takes. The cost model is about these, not about what a GPU could do.

use super::CalibrateError;
use crate::executor::Executor;
use crate::executor::gpu::{GpuDevice, GpuOptions, Timing};
use crate::inputs::RunInputs;
use crate::toolchain::{Arch, Toolchain};
use crate::weights::Weights;
use fusec_codegen::{Planned, generate};
use fusec_fuse::schedule::ScanTile;
use fusec_fuse::{
    Asked, Device, Mode, Options, PlanError, Recipe, Schedule, Shape, Storage, Submit, plan_by,
};
use fusec_ir::Graph;
use fusec_ir::language::{ModelSource, Overrides, compile};

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
        let planned = planned(&graph, &options)?;
        let regime = Planned {
            name: "prefill",
            min_time: 1,
            max_time: None,
            graph: &planned.graph,
            plan: &planned.plan,
        };
        let manifest = generate(&graph.name, storage, &[regime])
            .map_err(|error| CalibrateError::own(error.to_string()))?;
        let cubins = self.toolchain.cubins(&manifest, self.arch)?;
        let weights = Weights::random(&planned.graph, 1)
            .map_err(|error| CalibrateError::own(error.to_string()))?;
        let device = GpuDevice::open(self.ordinal, &manifest, &cubins, GpuOptions::default())?;
        let mut executor = Executor::new(device, manifest, &weights, shapes[0])?;
        let timing = Timing {
            warmups: 4,
            runs: 15,
            cold: false,
            longest: None,
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

/// The plan of a model, recurrences a row at a time: the figure is that of a step whose row arrives alone,
/// and runs of rows are priced from it.
fn planned(graph: &Graph, options: &Options<'_>) -> Result<fusec_fuse::Planned, CalibrateError> {
    let own = |error: PlanError| CalibrateError::own(error.to_string());
    let mut recipe = Recipe::plain(options.mode);
    let usual = plan_by(graph, options, &recipe).map_err(own)?;
    let alone = |schedule: &Schedule| match schedule {
        Schedule::Scan(tile) if tile.run > 1 => Some(Schedule::Scan(ScanTile {
            run: 1,
            ..tile.clone()
        })),
        _ => None,
    };
    let kernels = usual.plan.kernels.iter();
    recipe.schedules = kernels.filter_map(|k| Asked::of(k, alone)).collect();
    plan_by(graph, options, &recipe).map_err(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_measured_with_rows_that_arrive_alone() {
        let source = ModelSource::from_text("calibrate", SCAN_MODEL);
        let graph = compile(&source, &Overrides::default()).expect("a model");
        for name in ["h200", "rtx4090", "t4"] {
            let device = Device::find(name).expect("compiled in");
            for storage in [Storage::F32, Storage::Bf16] {
                let options = Options {
                    shape: Shape {
                        batch: 1,
                        time: 2048,
                    },
                    storage,
                    mode: Mode::Unfused,
                    device: &device,
                    launch: Submit::Graph,
                    pins: Vec::new(),
                };
                let plan = planned(&graph, &options).expect("a plan").plan;
                let phases = plan.kernels.iter().flat_map(|kernel| &kernel.phases);
                let lanes: Vec<_> = phases.flat_map(|phase| &phase.lanes).collect();
                let [body] = lanes[..] else {
                    panic!("one recurrence: {lanes:?}");
                };
                let Schedule::Scan(tile) = &body.schedule else {
                    panic!("step by step: {body:?}");
                };
                assert_eq!(tile.run, 1, "{name} {storage}");
            }
        }
    }
}
