//! Products that leave out what meets a zero: emulated kernels against the interpreter, with hardly any zeros, about
//! half, nearly all and nothing but zeros.

use fusec_fuse::{Device, Mode, Schedule, Shape, Storage, Submit, plan};
use fusec_ir::Graph;
use fusec_ir::language::{ModelSource, Overrides, compile};

use common::{Case, check_for};

mod common;

/// A product whose activations are what of `x` exceeds a threshold, squared. `F` is no multiple of a warp.
fn network(threshold: f64, flow: &str, (c, f): (usize, usize)) -> Graph {
    let text = format!(
        "name = \"zeros\"\n[axes]\nV = 64\nC = {c}\nF = {f}\n[input]\nx = \"F\"\n\
         [param]\nvalue = {{ shape = \"C, F\" }}\nkey = {{ shape = \"F, C\" }}\nscale = {{ shape = \"F\" }}\n\
         [settings]\nthreshold = {threshold}\n[model]\nflow = \"\"\"\n{flow}\n\"\"\"\n"
    );
    let source = ModelSource::from_text("zeros", text.clone());
    let mut graph =
        compile(&source, &Overrides::default()).unwrap_or_else(|e| panic!("{text}\n{e:?}"));
    graph.zeros = 0.9;
    graph
}

/// The activation is computed before the product.
const BEFORE: &str = "
y = square(relu(x - threshold)) * scale @ value
return y + 0 * sum(y @ key, F)";
/// It comes from memory, where a product has left it.
const IN_MEMORY: &str = "
y = x @ value
return square(relu(y @ key - threshold)) @ value + y";

/// Memory so slow that bytes are all that counts.
fn device() -> Device {
    let mut device = Device::find("h200").expect("profile");
    device.memory_tbs.value = 1e-4;
    device
}

#[test]
fn what_meets_a_zero_is_left_out() {
    let device = device();
    // Inputs are between -1 and 1: no zeros, half, 95 of a hundred, nothing else.
    for threshold in [-2.0, 0.0, 0.9, 2.0] {
        for (flow, size) in [
            (BEFORE, (40, 600)),
            (BEFORE, (16, 88)),
            (IN_MEMORY, (72, 520)),
        ] {
            for (storage, bound) in [
                (Storage::F32, 2e-4),
                // What just exceeds the threshold is the difference of rounded numbers.
                (Storage::Bf16, 1e-1),
                (Storage::F16, 1e-2),
            ] {
                let graph = network(threshold, flow, size);
                let options = fusec_fuse::Options {
                    shape: Shape { batch: 1, time: 1 },
                    storage,
                    mode: Mode::Auto,
                    device: &device,
                    launch: Submit::Graph,
                    pins: vec![],
                };
                let planned = plan(&graph, &options).expect("planned");
                let kernels = planned.plan.kernels.iter();
                let bodies = kernels
                    .flat_map(|k| &k.phases)
                    .flat_map(|phase| &phase.lanes);
                let mut schedules = bodies.map(|body| &body.schedule);
                let leaves_out = schedules.any(|s| matches!(s, Schedule::NonZero(_)));
                assert!(leaves_out, "{flow} {size:?} {storage}\n{planned}");
                let case = Case {
                    name: "zeros",
                    graph: &graph,
                    storage,
                    mode: Mode::Auto,
                    batch: 1,
                    times: &[1, 3, 1],
                    bound,
                };
                check_for(&case, &device)
                    .unwrap_or_else(|why| panic!("{flow} {size:?} {storage} {threshold}: {why}"));
            }
        }
    }
}
