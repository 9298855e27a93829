//! Weights from a seed.
//!
//! Which numbers: see [`super::draws`].

use fusec_ir::{Graph, Init, Param};
use rayon::prelude::*;

use super::{bind::axes, draws::Draws, error::WeightsError};

/// What becomes of constants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Constants {
    /// As declared.
    Exact,
    /// `c + a * max(1, |c|) * u`, `u` uniform in [-1, 1), `a = min(0.1, elements^(-1/4))`: for a
    /// square matrix the fourth root is one over the square root of a row's length, which keeps
    /// what it multiplies at its size.
    Spread,
}

/// Elements drawn by one thread at a time.
const CHUNK: usize = 1 << 14;

/// Draws every parameter, in order.
pub(super) fn draw(
    graph: &Graph,
    seed: u64,
    constants: Constants,
) -> Result<Vec<Vec<f32>>, WeightsError> {
    graph
        .params
        .iter()
        .map(|param| {
            let elements = axes(graph, param)?.iter().map(|(_, size)| size).product();
            draw_one(param, elements, seed, constants)
        })
        .collect()
}

fn draw_one(
    param: &Param,
    elements: usize,
    seed: u64,
    constants: Constants,
) -> Result<Vec<f32>, WeightsError> {
    let bad = |why: String| {
        Err(WeightsError::Init {
            param: param.name.clone(),
            why,
        })
    };
    let range = |a: f64, b: f64| a.is_finite() && b.is_finite() && a <= b;
    // A spread of nothing is a constant, whatever it is called.
    let init = match param.init {
        Init::Normal(0.0) => Init::Constant(0.0),
        Init::Uniform(a, b) if a == b => Init::Constant(a),
        Init::LogUniform(a, b) if a == b => Init::Constant(a.ln()),
        other => other,
    };
    let draws = Draws::new(seed, &param.name);
    let element: Box<dyn Fn(u64) -> f64 + Sync> = match init {
        Init::Normal(deviation) if deviation.is_finite() && deviation > 0.0 => {
            Box::new(move |i| deviation * draws.normal(i))
        }
        Init::Normal(deviation) => return bad(format!("its standard deviation is {deviation}")),
        Init::Uniform(a, b) if range(a, b) => Box::new(move |i| a + (b - a) * draws.uniform(i)),
        Init::LogUniform(a, b) if range(a, b) && a > 0.0 => {
            Box::new(move |i| (a + (b - a) * draws.uniform(i)).ln())
        }
        Init::Uniform(a, b) | Init::LogUniform(a, b) => {
            return bad(format!(
                "{a} to {b} is not a range that it can be drawn from"
            ));
        }
        Init::Constant(c) if !c.is_finite() => return bad(format!("its constant is {c}")),
        Init::Constant(c) => match constants {
            Constants::Exact => Box::new(move |_| c),
            Constants::Spread => {
                let spread = (elements as f64).powf(-0.25).min(0.1) * c.abs().max(1.0);
                Box::new(move |i| c + spread * (2.0 * draws.uniform(i) - 1.0))
            }
        },
    };
    let mut values = vec![0.0f32; elements];
    values
        .par_chunks_mut(CHUNK)
        .enumerate()
        .for_each(|(chunk, values)| {
            for (i, value) in values.iter_mut().enumerate() {
                *value = element((chunk * CHUNK + i) as u64) as f32;
            }
        });
    match values.iter().find(|value| !value.is_finite()) {
        None => Ok(values),
        Some(value) => bad(format!("{init:?} gives {value} in f32")),
    }
}
