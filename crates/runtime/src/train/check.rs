//! Derivatives against finite differences, at drawn weights and inputs.

use std::collections::BTreeMap;

use fusec_fuse::Shape;
use fusec_ir::Graph;
use fusec_ir::gradient::{CheckError, GradientReport, Place, check as check_at};

use crate::inputs::{Data, RunInputs};
use crate::weights::Weights;
use crate::weights::draws::Draws;

/// Compares all derivatives of a model at these weights, on inputs of a seed, with central finite
/// differences in f64.
pub fn check(
    graph: &Graph,
    weights: &Weights,
    shape: Shape,
    seed: u64,
) -> Result<GradientReport, CheckError> {
    let mut place = Place {
        shape: (shape.batch, shape.time),
        params: weights.to_f64(),
        ids: BTreeMap::new(),
        numbers: BTreeMap::new(),
    };
    let drawn = RunInputs::random(graph, shape, seed);
    for (id, data) in graph.inputs.iter().zip(drawn.into_data()) {
        match data {
            Data::Ids(ids) => drop(place.ids.insert(*id, ids)),
            Data::Numbers(x) => {
                let x = x.into_iter().map(f64::from).collect();
                place.numbers.insert(*id, x);
            }
        }
    }
    let noise = |name: &str, i: u64| Draws::new(seed, name).normal(i);
    check_at(graph, place, &noise)
}
