//! Inputs of a run: token ids and numbers, given or from a seed. Those from a seed are never zeros,
//! on which kernels run faster than on real data, and on which much that is wrong looks right.

use crate::element::{decode, encode};
use crate::weights::draws::Draws;
use fusec_codegen::Element;
use fusec_fuse::Shape;
use fusec_ir::interpret::Input;
use fusec_ir::{Graph, OpKind, Precision, ValueId};
use rayon::prelude::*;

/// Elements drawn by one thread at a time.
const CHUNK: usize = 1 << 14;

/// One input.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Numbers.
    Numbers(Vec<f32>),
    /// Token ids.
    Ids(Vec<i32>),
}

/// One input of a run per input of a graph, each `[B, T, axes...]`.
#[derive(Clone, Debug, PartialEq)]
pub struct RunInputs(Vec<Data>);

impl RunInputs {
    /// These, in the order of the graph's inputs.
    pub fn new(inputs: Vec<Data>) -> Self {
        RunInputs(inputs)
    }

    /// Each, in the order of the graph's inputs.
    pub fn into_data(self) -> Vec<Data> {
        self.0
    }

    /// Token ids `[B, T]`, for a model with no other input.
    pub fn ids(ids: Vec<i32>) -> Self {
        RunInputs(vec![Data::Ids(ids)])
    }

    /// Draws numbers from the standard normal distribution, and ids from all entries of the
    /// tables they are looked up in.
    pub fn random(graph: &Graph, shape: Shape, seed: u64) -> Self {
        let inputs = graph.inputs.iter().map(|id| {
            let value = graph.value(*id);
            let rows = match value.rows {
                true => shape.batch.saturating_mul(shape.time),
                false => 1,
            };
            let elements = rows.saturating_mul(graph.row_elements(*id));
            let draws = Draws::new(seed, &value.name);
            match value.precision {
                Precision::Index => {
                    let entries = entries(graph, *id) as f64;
                    let draw = |i| (draws.uniform(i as u64) * entries) as i32;
                    Data::Ids((0..elements).into_par_iter().map(draw).collect())
                }
                _ => Data::Numbers(
                    (0..elements)
                        .into_par_iter()
                        .with_min_len(CHUNK)
                        .map(|i| draws.normal(i as u64) as f32)
                        .collect(),
                ),
            }
        });
        RunInputs(inputs.collect())
    }

    /// The same as a device holds them: numbers rounded to `element`.
    pub fn stored_as(mut self, element: Element) -> Self {
        for data in &mut self.0 {
            if let Data::Numbers(numbers) = data {
                // Numbers of a normal distribution fit every element type for numbers.
                if let Ok(bytes) = encode("input", numbers, element) {
                    *numbers = decode(&bytes, element);
                }
            }
        }
        self
    }

    /// The inputs, in the order of the graph's.
    pub fn data(&self) -> &[Data] {
        &self.0
    }

    /// The inputs as runs take them.
    pub fn given(&self) -> Vec<Input<'_, f32>> {
        let inputs = self.0.iter();
        inputs
            .map(|data| match data {
                Data::Numbers(numbers) => Input::Numbers(numbers),
                Data::Ids(ids) => Input::Ids(ids),
            })
            .collect()
    }
}

/// Entries that all tables have in which an input is looked up; 1 where there is no table.
fn entries(graph: &Graph, input: ValueId) -> usize {
    let tables = graph
        .ops
        .iter()
        .filter_map(|op| match (&op.kind, op.inputs.as_slice()) {
            (OpKind::Gather, [table, ids]) if ids.value == input => {
                let axis = graph.value(table.value).axes.first();
                axis.map(|axis| graph.size(*axis))
            }
            _ => None,
        });
    tables.min().unwrap_or(1)
}
