//! Are the numbers right that are computed so fast? A short run against the f64 interpreter, so
//! that no time is reported of kernels that compute something else.

use crate::cpu::CpuSession;
use crate::inputs::RunInputs;
use crate::session::{Session, SessionError, last_rows, run_finite};
use crate::weights::Weights;
use fusec_fuse::{Shape, Storage};
use fusec_ir::interpret::{Rounding, StorageType, Tensor};
use serde::Serialize;

/// Sequences, and tokens of the first run: neither a multiple of anything.
const SHAPE: Shape = Shape { batch: 2, time: 37 };
/// Single steps after it.
const STEPS: usize = 3;
/// Largest relative L2 error in f32.
const F32_BOUND: f64 = 5e-5;
/// In half precision: how many times the error of a plan that rounds after every operation.
const HALF_FACTOR: f64 = 1.5;

/// How far a device's results are from the f64 interpreter's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// Largest relative L2 error of any output, in the first run or in the steps after it.
    pub error: f64,
    /// The same output's accepted error.
    pub accepted: f64,
    /// Name of the output.
    pub output: String,
    /// Whether every output of every run is accepted.
    pub passed: bool,
}

/// Runs a session and the interpreter side by side: a short run, if there is a plan for one, and single steps.
pub fn check(
    session: &mut dyn Session,
    weights: &Weights,
    storage: Storage,
    seed: u64,
) -> Result<Check, SessionError> {
    let graph = session.graph().clone();
    let mut exact = CpuSession::<f64>::new(&graph, weights.clone())?;
    let mut rounded = match storage {
        Storage::F32 => None,
        Storage::Bf16 => Some(StorageType::Bf16),
        Storage::F16 => Some(StorageType::F16),
    }
    .map(|storage| CpuSession::<f64>::rounded(&graph, weights.clone(), Rounding::Op(storage)))
    .transpose()?;
    let first = SHAPE.time.min(session.longest_run().unwrap_or(SHAPE.time));
    session.reset(SHAPE.batch)?;
    exact.reset(SHAPE.batch)?;
    if let Some(rounded) = &mut rounded {
        rounded.reset(SHAPE.batch)?;
    }
    // Of each output, in the first run and in the steps after it together: the few numbers of a single step may
    // by chance be much nearer in one plan than in another.
    let mut found = vec![[Distance::default(); 2]; graph.outputs.len()];
    for run in 0..=STEPS {
        let time = if run == 0 { first } else { 1 };
        let shape = Shape { time, ..SHAPE };
        let inputs = RunInputs::random(&graph, shape, seed.wrapping_add(run as u64));
        let inputs = inputs.stored_as(storage.into());
        let given = inputs.given();
        let got = run_finite(session, time, &given)?;
        let want = run_finite(&mut exact, time, &given)?;
        let unfused = rounded
            .as_mut()
            .map(|rounded| rounded.run(time, &given))
            .transpose()?;
        for (at, (got, want)) in got.iter().zip(&want).enumerate() {
            let row = graph
                .outputs
                .get(at)
                .map_or(1, |id| graph.row_elements(*id));
            // A model that was asked for last rows gives no others.
            let same_rows = |of: &Tensor<f32>| match of.len() > got.len() {
                true => last_rows(of.clone(), time, row),
                false => of.clone(),
            };
            let want = &same_rows(want);
            let Some(distance) = found.get_mut(at).map(|of| &mut of[run.min(1)]) else {
                continue;
            };
            distance.error += squares(got, want, |got, want| got - want);
            distance.norm += squares(want, want, |want, _| want);
            if let Some(unfused) = unfused.as_ref().and_then(|unfused| unfused.get(at)) {
                distance.unfused += squares(&same_rows(unfused), want, |got, want| got - want);
            }
        }
    }
    let names = graph.outputs.iter().map(|id| &graph.value(*id).name);
    let checks = names.zip(&found).flat_map(|(name, regimes)| {
        regimes.iter().map(|distance| {
            let error = distance.relative(distance.error);
            let accepted = match rounded {
                Some(_) => HALF_FACTOR * distance.relative(distance.unfused),
                None => F32_BOUND,
            };
            Check {
                error,
                accepted,
                output: name.clone(),
                // Not a number is never accepted.
                passed: error <= accepted,
            }
        })
    });
    let nothing = Check {
        error: 0.0,
        accepted: F32_BOUND,
        output: String::new(),
        passed: true,
    };
    Ok(checks.fold(nothing, |worst, check| {
        let further = check.error / check.accepted > worst.error / worst.accepted;
        match worst.passed && (further || !check.passed) {
            true => check,
            false => worst,
        }
    }))
}

/// Sums of squares: of what results are off, of what those of a plan without fusion are off, and of what is
/// expected.
#[derive(Clone, Copy, Debug, Default)]
struct Distance {
    error: f64,
    unfused: f64,
    norm: f64,
}

impl Distance {
    /// The root of a sum of squares, relative to what is expected.
    fn relative(&self, squares: f64) -> f64 {
        match self.norm {
            0.0 => squares.sqrt(),
            norm => (squares / norm).sqrt(),
        }
    }
}

/// The sum of the squares of what `of` makes of two tensors of the same size.
fn squares(left: &Tensor<f32>, right: &Tensor<f32>, of: impl Fn(f64, f64) -> f64) -> f64 {
    let (Some(left), Some(right)) = (left.numbers(), right.numbers()) else {
        return f64::NAN;
    };
    if left.len() != right.len() {
        return f64::NAN;
    }
    let pairs = left.iter().zip(right);
    pairs
        .map(|(left, right)| of(f64::from(*left), f64::from(*right)).powi(2))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusec_ir::language::{ModelSource, Overrides, compile};

    const MODEL: &str = r#"
name = "sum"
[axes]
C = 8
[input]
x = "C"
[param]
w = { shape = "C", init = "normal(1)" }
[model]
flow = """
  y = x * w
  return y, shift(y) + y
"""
"#;

    #[test]
    fn a_device_passes_with_its_weights_and_not_with_others() {
        let source = ModelSource::from_text("test", MODEL);
        let graph = compile(&source, &Overrides::default()).expect("a model");
        let weights = |seed| Weights::random(&graph, seed).expect("weights");
        for (seed, passes) in [(1, true), (2, false)] {
            let mut session = CpuSession::<f32>::new(&graph, weights(seed)).expect("a session");
            let found = check(&mut session, &weights(1), Storage::F32, 3).expect("a check");
            assert_eq!(found.passed, passes, "{found:?}");
        }
        // f32 is closer than what bf16 may be.
        let mut session = CpuSession::<f32>::new(&graph, weights(1)).expect("a session");
        let found = check(&mut session, &weights(1), Storage::Bf16, 3).expect("a check");
        assert!(found.passed && found.error < found.accepted, "{found:?}");
    }
}
