//! Finding the first NaN or infinity of a run.

use super::real::Real;
use super::tensor::Outputs;
use crate::{Graph, ValueId, last_row};
use std::fmt;

/// The first element of the first value that is not a finite number.
#[derive(Clone, Debug, PartialEq)]
pub struct NonFinite {
    /// The value.
    pub value: ValueId,
    /// Its name in the model.
    pub name: String,
    /// Its layer, if any.
    pub layer: Option<u32>,
    /// Batch row and index along T of the run, for a value with rows.
    pub row: Option<(usize, usize)>,
    /// Name and index for each inner axis.
    pub index: Vec<(String, usize)>,
    /// NaN or an infinity.
    pub number: f64,
}

impl fmt::Display for NonFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.name)?;
        if let Some(layer) = self.layer {
            write!(f, " of layer {layer}")?;
        }
        write!(f, " is {} at [", self.number)?;
        let rows = self.row.map(|(b, t)| format!("B={b}, T={t}"));
        let axes = self.index.iter().map(|(name, i)| format!("{name}={i}"));
        let place: Vec<String> = rows.into_iter().chain(axes).collect();
        write!(f, "{}]", place.join(", "))
    }
}

/// Looks through the values of a run in the order they are computed. With
/// [`super::Keep::All`] the answer is where a NaN or infinity arises.
pub fn first_non_finite<F: Real>(graph: &Graph, outputs: &Outputs<F>) -> Option<NonFinite> {
    let one = last_row::one_row(graph);
    let computed = graph.ops.iter().flat_map(|op| &op.outputs);
    for id in graph.inputs.iter().chain(computed) {
        let Some(data) = outputs.values.get(id).and_then(|t| t.numbers()) else {
            continue;
        };
        let Some(at) = data.iter().position(|x| !x.finite()) else {
            continue;
        };
        let value = graph.value(*id);
        let row_elements = graph.row_elements(*id);
        let row = at / row_elements;
        let mut rest = at % row_elements;
        let mut index = Vec::new();
        for axis in value.axes.iter().rev() {
            index.push((graph.axis_name(*axis).to_string(), rest % graph.size(*axis)));
            rest /= graph.size(*axis);
        }
        index.reverse();
        return Some(NonFinite {
            value: *id,
            name: value.name.clone(),
            layer: value.layer,
            row: value.rows.then(|| match one[id.index()] {
                true => (row, outputs.time - 1),
                false => (row / outputs.time, row % outputs.time),
            }),
            index,
            number: data[at].to_f64(),
        });
    }
    None
}
