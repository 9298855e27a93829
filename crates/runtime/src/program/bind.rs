//! Tensors of the caller against the shapes of a model.

use fusec_fuse::Shape;
use fusec_ir::{AxisId, Graph, Precision, StateId, StateKind, ValueId};
use std::collections::BTreeMap;

use super::error::TensorError;
use super::tensor::{Memory, TensorView};

/// What token ids come in.
const IDS: &str = "int32 or int64";

/// The shape of an input, a parameter, an output or a state: what precedes its axes, then these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Extents before the model's axes, by name: B and T, the width of a tail. `None`: any length.
    pub leading: Vec<(&'static str, Option<usize>)>,
    /// The model's axes, each atomic: name and size.
    pub axes: Vec<(String, usize)>,
    /// How many of the axes each dimension has.
    pub dimensions: Vec<usize>,
}

impl Wanted {
    fn new(
        graph: &Graph,
        leading: Vec<(&'static str, Option<usize>)>,
        axes: &[AxisId],
        dimensions: Option<&Vec<usize>>,
    ) -> Self {
        let axes: Vec<(String, usize)> = axes
            .iter()
            .map(|axis| (graph.axis_name(*axis).to_owned(), graph.size(*axis)))
            .collect();
        let dimensions = dimensions.filter(|d| d.iter().sum::<usize>() == axes.len());
        Self {
            leading,
            dimensions: dimensions.cloned().unwrap_or_else(|| vec![1; axes.len()]),
            axes,
        }
    }

    /// Of an input, for runs of any B and T.
    pub fn of_input(graph: &Graph, id: ValueId, dimensions: &BTreeMap<String, Vec<usize>>) -> Self {
        let value = graph.value(id);
        let rows = vec![("B", None), ("T", None)];
        Self::new(graph, rows, &value.axes, dimensions.get(&value.name))
    }

    /// Of a parameter.
    pub fn of_param(graph: &Graph, at: usize, dimensions: &BTreeMap<String, Vec<usize>>) -> Self {
        let param = &graph.params[at];
        let value = graph.value(param.value);
        Self::new(graph, Vec::new(), &value.axes, dimensions.get(&param.name))
    }

    /// Of a state, for any B: that of a recurrence with the dimensions that it declares, rows as in inputs.
    pub fn of_state(graph: &Graph, id: StateId, dimensions: &BTreeMap<String, Vec<usize>>) -> Self {
        let state = graph.state(id);
        let rows = vec![("B", None)];
        if let StateKind::Tail { width, .. } = state.kind {
            let counts = as_in_inputs(graph, &state.axes, dimensions);
            let leading = [rows, vec![("tokens", Some(width as usize))]].concat();
            return Self::new(graph, leading, &state.axes, Some(&counts));
        }
        Self::new(graph, rows, &state.axes, dimensions.get(&state.name))
    }

    /// Of an output: axes that are together one dimension of an input are one here as well.
    pub fn of_output(
        graph: &Graph,
        id: ValueId,
        dimensions: &BTreeMap<String, Vec<usize>>,
    ) -> Self {
        let axes = &graph.value(id).axes;
        let counts = as_in_inputs(graph, axes, dimensions);
        let rows = vec![("B", None), ("T", None)];
        Self::new(graph, rows, axes, Some(&counts))
    }

    /// The extents after the leading ones.
    pub fn extents(&self) -> Vec<usize> {
        let mut sizes = self.axes.iter().map(|(_, size)| *size);
        let products = self.dimensions.iter();
        products
            .map(|count| sizes.by_ref().take(*count).product())
            .collect()
    }

    /// `[B, T, H=32, N=64]`; a dimension of several axes as `H*N=2048`.
    pub fn text(&self) -> String {
        let leading = self.leading.iter().map(|(name, size)| match size {
            Some(size) => format!("{name}={size}"),
            None => (*name).to_owned(),
        });
        let mut names = self.axes.iter().map(|(name, _)| name.as_str());
        let extents = self.extents();
        let axes = self.dimensions.iter().zip(&extents).map(|(count, extent)| {
            let names: Vec<&str> = names.by_ref().take(*count).collect();
            format!("{}={extent}", names.join("*"))
        });
        format!("[{}]", leading.chain(axes).collect::<Vec<_>>().join(", "))
    }

    /// Checks a shape, whose dimensions may split or merge neighbouring axes of the model, and gives the
    /// leading extents.
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<Vec<usize>, TensorError> {
        let rank = || TensorError::Rank {
            name: name.to_owned(),
            shape: shape.to_vec(),
            want: self.text(),
        };
        let wrong = |axis: &str, got, expected| TensorError::Axis {
            name: name.to_owned(),
            shape: shape.to_vec(),
            want: self.text(),
            axis: format!("axis `{axis}`"),
            got,
            expected,
        };
        if shape.len() < self.leading.len() {
            return Err(rank());
        }
        let (leading, rest) = shape.split_at(self.leading.len());
        for ((axis, want), got) in self.leading.iter().zip(leading) {
            if let Some(want) = want
                && want != got
            {
                return Err(wrong(axis, *got, *want));
            }
        }
        // One dimension after the other takes axes until it has as many elements as these together.
        let mut axes = self.axes.iter();
        for (at, got) in rest.iter().enumerate() {
            let Some((first, size)) = axes.next() else {
                if *got == 1 {
                    continue;
                }
                return Err(rank());
            };
            let (mut names, mut product) = (first.clone(), *size);
            while product < *got {
                let Some((next, size)) = axes.next() else {
                    break;
                };
                names = format!("{names}*{next}");
                product = product.saturating_mul(*size);
            }
            if product != *got {
                // As many dimensions as declared: then the declared one is what is wrong.
                if rest.len() == self.dimensions.len() {
                    let before: usize = self.dimensions[..at].iter().sum();
                    let these = &self.axes[before..before + self.dimensions[at]];
                    let names: Vec<&str> = these.iter().map(|(name, _)| name.as_str()).collect();
                    return Err(wrong(&names.join("*"), *got, self.extents()[at]));
                }
                if rest.len() == self.axes.len() {
                    return Err(wrong(&self.axes[at].0, *got, self.axes[at].1));
                }
                return Err(match rest.len() < self.dimensions.len() {
                    true => rank(),
                    false => wrong(&names, *got, product),
                });
            }
        }
        match axes.all(|(_, size)| *size == 1) {
            true => Ok(leading.to_vec()),
            false => Err(rank()),
        }
    }
}

/// How many axes each dimension has, where runs of axes that an input declares as one dimension are one.
fn as_in_inputs(
    graph: &Graph,
    axes: &[AxisId],
    dimensions: &BTreeMap<String, Vec<usize>>,
) -> Vec<usize> {
    let mut together: Vec<&[AxisId]> = Vec::new();
    for input in &graph.inputs {
        let value = graph.value(*input);
        let mut rest = value.axes.as_slice();
        for count in dimensions.get(&value.name).into_iter().flatten() {
            let (these, others) = rest.split_at((*count).min(rest.len()));
            together.push(these);
            rest = others;
        }
    }
    let mut counts = Vec::new();
    let mut rest = axes;
    while !rest.is_empty() {
        let longest = together.iter().filter(|axes| rest.starts_with(axes));
        let count = longest.map(|axes| axes.len()).max().unwrap_or(1).max(1);
        counts.push(count);
        rest = &rest[count..];
    }
    counts
}

/// Refuses a tensor that the program cannot read.
pub(super) fn check_memory(name: &str, tensor: &TensorView<'_>) -> Result<(), TensorError> {
    match tensor.memory() {
        Memory::Host => Ok(()),
        memory => Err(TensorError::Device {
            name: name.to_owned(),
            got: memory.to_string(),
        }),
    }
}

/// The error for a tensor whose type is not the one wanted. `numbers`: the types that numbers come in.
pub(super) fn wrong_type(
    name: &str,
    tensor: &TensorView<'_>,
    precision: Precision,
    numbers: &'static str,
) -> TensorError {
    TensorError::DType {
        name: name.to_owned(),
        got: tensor.dtype().to_string(),
        want: match precision {
            Precision::Index => IDS,
            _ => numbers,
        },
    }
}

/// B and T of a run, from its inputs one after the other.
#[derive(Debug, Default)]
pub(super) struct Rows<'n> {
    shape: Option<(&'n str, Shape)>,
}

impl<'n> Rows<'n> {
    /// Takes the leading extents of an input.
    pub(super) fn agree(&mut self, name: &'n str, leading: &[usize]) -> Result<(), TensorError> {
        let [batch, time] = leading else {
            return Ok(());
        };
        let (batch, time) = (*batch, *time);
        if batch == 0 || time == 0 {
            return Err(TensorError::Empty { name: name.into() });
        }
        let (other, first) = *self.shape.get_or_insert((name, Shape { batch, time }));
        for (axis, got, expected) in [("B", batch, first.batch), ("T", time, first.time)] {
            if got != expected {
                return Err(TensorError::Rows {
                    name: name.into(),
                    axis,
                    got,
                    other: other.into(),
                    expected,
                });
            }
        }
        Ok(())
    }

    /// What they agreed on.
    pub(super) fn shape(&self) -> Option<Shape> {
        self.shape.map(|(_, shape)| shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(dimensions: &[usize]) -> Wanted {
        Wanted {
            leading: vec![("B", None), ("T", None)],
            axes: vec![("H".into(), 4), ("N".into(), 8), ("K".into(), 1)],
            dimensions: dimensions.to_vec(),
        }
    }

    #[test]
    fn neighbouring_axes_may_be_split_or_merged() {
        let wanted = wanted(&[2, 1]);
        assert_eq!(wanted.text(), "[B, T, H*N=32, K=1]");
        for shape in [
            &[2, 3, 32, 1][..],
            &[2, 3, 4, 8, 1],
            &[2, 3, 32],
            &[2, 3, 4, 8],
        ] {
            assert_eq!(wanted.check("x", shape), Ok(vec![2, 3]), "{shape:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_axis() {
        for (dimensions, shape, says) in [
            (&[1, 1, 1][..], &[2, 3, 4, 7, 1][..], "axis `N` is 7, not 8"),
            (&[1, 1, 1], &[2, 3, 5, 8, 1], "axis `H` is 5, not 4"),
            (&[2, 1], &[2, 3, 33, 1], "axis `H*N` is 33, not 32"),
            (&[2, 1], &[2, 3, 4, 9, 1], "axis `N` is 9, not 8"),
            (
                &[1, 1, 1],
                &[2],
                "has 1 axes, shape [2]; expected [B, T, H=4, N=8, K=1]",
            ),
            (&[1, 1, 1], &[2, 3], "has 2 axes"),
            (&[1, 1, 1], &[2, 3, 4, 8, 1, 6], "has 6 axes"),
        ] {
            let error = wanted(dimensions)
                .check("x", shape)
                .expect_err("it is wrong");
            let text = error.to_string();
            assert!(
                text.contains(says) && text.contains("`x`"),
                "{shape:?}: {text}"
            );
        }
    }

    #[test]
    fn inputs_agree_on_b_and_t() {
        let mut rows = Rows::default();
        assert_eq!(rows.agree("r", &[2, 5]), Ok(()));
        let error = rows.agree("k", &[2, 6]).expect_err("another T");
        assert_eq!(error.to_string(), "`k` has T=6, but `r` has T=5");
        assert_eq!(rows.shape(), Some(Shape { batch: 2, time: 5 }));
    }
}
