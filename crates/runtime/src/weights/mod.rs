//! The numbers of a model: one f32 vector per parameter of a [`Graph`], row-major over the axes of
//! the parameter's value.
//!
//! They come from a checkpoint ([`Weights::from_checkpoint`]) or from a seed ([`Weights::random`],
//! [`Weights::initial`]). Load-time operations on parameters are part of the graph and are not
//! evaluated here; nor is anything packed for a particular kernel.

mod arrange;
mod bind;
pub(crate) mod draws;
mod error;
mod glob;
mod random;
mod spec;

use fusec_codegen::Element;
use fusec_ir::{Graph, LoadStep, ParamId, Precision};
use half::{bf16, f16};
use rayon::prelude::*;
use serde::Serialize;

use crate::checkpoint::Checkpoint;

pub use self::{
    error::{BindProblem, WeightsError},
    spec::{BadSeed, SpecError, WeightSpec},
};

/// One f32 vector per parameter, in [`ParamId`] order.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    params: Vec<Vec<f32>>,
}

/// Where one parameter of a model is found in a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mapped {
    /// The parameter, with its layer (`layers.3.time_mix.receptance`).
    pub param: String,
    /// Its axes and their sizes, in storage order.
    pub shape: Vec<(String, usize)>,
    /// The tensor.
    pub tensor: String,
    /// Type of the tensor's elements, as the checkpoint spells it.
    pub dtype: String,
    /// Extents of the tensor.
    pub stored: Vec<usize>,
    /// What is done with the tensor, in order, to get the parameter.
    pub load: Vec<LoadStep>,
}

/// Where every parameter is found, in [`ParamId`] order. What [`Weights::from_checkpoint`] refuses
/// because of names and shapes is refused here too; no element is read.
pub fn map(graph: &Graph, checkpoint: &Checkpoint) -> Result<Vec<Mapped>, WeightsError> {
    bind::map(graph, checkpoint)
}

impl Weights {
    /// These numbers, one vector per parameter of the graph in [`ParamId`] order, each row-major over the
    /// axes of its value.
    pub fn new(graph: &Graph, params: Vec<Vec<f32>>) -> Result<Self, WeightsError> {
        if params.len() != graph.params.len() {
            return Err(WeightsError::Malformed {
                place: format!("model `{}`", graph.name),
                why: format!(
                    "it has {} parameters, {} were given",
                    graph.params.len(),
                    params.len()
                ),
            });
        }
        for (param, values) in graph.params.iter().zip(&params) {
            let want = graph.row_elements(param.value);
            if values.len() != want {
                return Err(WeightsError::Malformed {
                    place: format!("parameter `{}`", param.name),
                    why: format!("it has {want} elements, {} were given", values.len()),
                });
            }
        }
        Ok(Self { params })
    }

    /// Zeros, for a model whose parameters come later.
    pub fn zero(graph: &Graph) -> Self {
        let params = graph.params.iter();
        Self {
            params: params
                .map(|param| vec![0.0; graph.row_elements(param.value)])
                .collect(),
        }
    }

    /// Takes the parameters from a checkpoint, as each parameter's `source` says.
    ///
    /// Every parameter must be found, every shape must fit, every number must be finite, and every
    /// tensor must be used entirely unless `allow_unused` names it; all violations come in one
    /// error.
    pub fn from_checkpoint(graph: &Graph, checkpoint: &Checkpoint) -> Result<Self, WeightsError> {
        bind::bind(graph, checkpoint).map(|params| Self { params })
    }

    /// Weights for checking and timing: as each parameter's `init` says, but constants are spread
    /// a little, so that no zero matrix or gain of one hides a wrong kernel.
    pub fn random(graph: &Graph, seed: u64) -> Result<Self, WeightsError> {
        random::draw(graph, seed, random::Constants::Spread).map(|params| Self { params })
    }

    /// Weights as training would start from: exactly what each parameter's `init` says.
    pub fn initial(graph: &Graph, seed: u64) -> Result<Self, WeightsError> {
        random::draw(graph, seed, random::Constants::Exact).map(|params| Self { params })
    }

    /// All parameters, in [`ParamId`] order.
    pub fn params(&self) -> &[Vec<f32>] {
        &self.params
    }

    /// All parameters, in [`ParamId`] order.
    pub fn into_params(self) -> Vec<Vec<f32>> {
        self.params
    }

    /// All parameters as f64 (exact), in [`ParamId`] order.
    pub fn to_f64(&self) -> Vec<Vec<f64>> {
        self.params
            .iter()
            .map(|param| param.iter().map(|&x| x.into()).collect())
            .collect()
    }

    /// One parameter; `None` when the weights belong to a graph with fewer.
    pub fn param(&self, id: ParamId) -> Option<&[f32]> {
        self.params.get(id.index()).map(Vec::as_slice)
    }

    /// The weights as a run with that storage type sees them: parameters of
    /// [`Precision::Storage`] rounded to `storage` and back, the others unchanged.
    pub fn rounded(&self, graph: &Graph, storage: Element) -> Result<Self, WeightsError> {
        let params = self.params.iter().enumerate().map(|(i, values)| {
            let param = graph
                .params
                .get(i)
                .and_then(|p| Some((p, graph.values.get(p.value.index())?)));
            match param {
                Some((param, value)) if value.precision == Precision::Storage => {
                    round(&param.name, values, storage)
                }
                _ => Ok(values.clone()),
            }
        });
        params
            .collect::<Result<_, _>>()
            .map(|params| Self { params })
    }

    /// The little-endian bytes of one parameter stored as `element`.
    pub fn encode(
        &self,
        graph: &Graph,
        id: ParamId,
        element: Element,
    ) -> Result<Vec<u8>, WeightsError> {
        let (Some(values), Some(param)) = (self.param(id), graph.params.get(id.index())) else {
            return Err(WeightsError::Malformed {
                place: format!("parameter {}", id.0),
                why: format!("these weights have {} parameters", self.params.len()),
            });
        };
        crate::element::encode(&param.name, values, element).map_err(|unfit| {
            WeightsError::Overflow {
                param: unfit.name,
                index: unfit.index,
                value: unfit.value,
                element,
            }
        })
    }
}

/// Values rounded to `element` (to nearest, ties to even); what does not fit is an error.
fn round(name: &str, values: &[f32], element: Element) -> Result<Vec<f32>, WeightsError> {
    let rounded: Vec<f32> = match element {
        Element::F32 => return Ok(values.to_vec()),
        Element::Bf16 => values
            .par_iter()
            .with_min_len(1 << 14)
            .map(|&x| bf16::from_f32(x).to_f32())
            .collect(),
        Element::F16 => values
            .par_iter()
            .with_min_len(1 << 14)
            .map(|&x| f16::from_f32(x).to_f32())
            .collect(),
        // Exact or nothing: an integer parameter has no use for rounding.
        Element::I32 => values
            .iter()
            .map(|&x| {
                if (x as i32) as f64 == f64::from(x) {
                    x
                } else {
                    f32::INFINITY
                }
            })
            .collect(),
    };
    match rounded
        .iter()
        .zip(values)
        .position(|(r, x)| !r.is_finite() && x.is_finite())
    {
        None => Ok(rounded),
        Some(index) => Err(WeightsError::Overflow {
            param: name.to_string(),
            index,
            value: values.get(index).copied().unwrap_or_default(),
            element,
        }),
    }
}
