//! Parameters from a checkpoint: which tensor, which part of it, does it fit, is anything left.
//! Reading the elements is the last step, so that a survey can be had without it.

use std::collections::{BTreeMap, BTreeSet};

use fusec_ir::{Graph, Param};
use rayon::prelude::*;

use super::{
    Mapped,
    arrange::{Arranged, Footprint},
    error::{BindProblem, WeightsError},
    glob,
};
use crate::checkpoint::{Checkpoint, TensorView};

/// Most missing tensors for which the nearest name is looked for: each takes a look at all names.
const NEAREST_LIMIT: usize = 64;

/// One parameter found.
struct Bound<'g, T> {
    tensor: &'g str,
    /// What it reads of the tensor; `None` for all of it.
    part: Option<Footprint>,
    /// What the caller made of it.
    made: T,
}

/// Where a parameter was found.
struct Found<'g, 'c> {
    tensor: &'g str,
    stored: TensorView<'c>,
    arranged: Arranged<'c>,
}

/// Binds every parameter, in order, or says everything that stands against it.
pub(super) fn bind(graph: &Graph, checkpoint: &Checkpoint) -> Result<Vec<Vec<f32>>, WeightsError> {
    survey(graph, checkpoint, |param, _, found| {
        let bad = |why: String| BindProblem::Values {
            param: param.name.clone(),
            tensor: found.tensor.to_string(),
            why,
        };
        let values = found.arranged.to_f32().map_err(bad)?;
        match values.iter().enumerate().find(|(_, x)| !x.is_finite()) {
            None => Ok(values),
            Some((at, value)) => Err(bad(format!("element {at} of the parameter is {value}"))),
        }
    })
}

/// Where every parameter is found, in order, or everything that stands against it. Elements are
/// not read.
pub(super) fn map(graph: &Graph, checkpoint: &Checkpoint) -> Result<Vec<Mapped>, WeightsError> {
    survey(graph, checkpoint, |param, axes, found| {
        let steps = param.source.iter().flat_map(|source| source.steps.clone());
        Ok(Mapped {
            param: param.name.clone(),
            shape: (axes.iter())
                .map(|(name, size)| (name.to_string(), *size))
                .collect(),
            tensor: checkpoint.stored_name(found.tensor).to_string(),
            dtype: found.stored.dtype.to_string(),
            stored: found.stored.shape.to_vec(),
            load: steps.collect(),
        })
    })
}

/// Finds every parameter and makes something of it; what is missing, does not fit or is left over
/// comes in one error.
fn survey<'g, T: Send>(
    graph: &'g Graph,
    checkpoint: &Checkpoint,
    make: impl Fn(&Param, &[(&str, usize)], &Found<'g, '_>) -> Result<T, BindProblem> + Sync,
) -> Result<Vec<T>, WeightsError> {
    let axes = graph
        .params
        .iter()
        .map(|p| axes(graph, p))
        .collect::<Result<Vec<_>, _>>()?;
    let bound: Vec<Result<Bound<'g, T>, BindProblem>> = graph
        .params
        .par_iter()
        .zip(&axes)
        .map(|(param, axes)| {
            let found = find(param, axes, checkpoint)?;
            let made = make(param, axes, &found)?;
            let arranged = &found.arranged;
            let whole = arranged.shape().iter().product::<usize>() == found.stored.numel();
            Ok(Bound {
                tensor: found.tensor,
                part: if whole { None } else { arranged.footprint() },
                made,
            })
        })
        .collect();

    let mut problems = Vec::new();
    let mut params = Vec::with_capacity(graph.params.len());
    let mut used: BTreeMap<&str, Option<BTreeSet<Footprint>>> = BTreeMap::new();
    // A tensor whose reader failed for another reason is not reported again as unused.
    let mut excused = BTreeSet::new();
    for (result, param) in bound.into_iter().zip(&graph.params) {
        match result {
            Ok(Bound { tensor, part, made }) => {
                let parts = used.entry(tensor).or_insert_with(|| Some(BTreeSet::new()));
                match (parts.as_mut(), part) {
                    (Some(parts), Some(part)) => drop(parts.insert(part)),
                    _ => *parts = None,
                }
                params.push(made);
            }
            Err(problem) => {
                problems.push(problem);
                let tensors = param.source.iter().flat_map(|source| &source.tensors);
                excused.extend(tensors.map(String::as_str));
            }
        }
    }
    let complete = problems.is_empty();
    let places: BTreeSet<_> = used.keys().map(|name| checkpoint.place(name)).collect();
    for tensor in checkpoint.names() {
        let Some(view) = checkpoint.tensor(tensor) else {
            continue;
        };
        if graph
            .allow_unused
            .iter()
            .any(|pattern| glob::matches(pattern, tensor))
        {
            continue;
        }
        let shape = view.shape.to_vec();
        match used.get(tensor) {
            // Tied weights that were saved under both names.
            None if places.contains(&checkpoint.place(tensor)) => {}
            None if !excused.contains(tensor) => {
                problems.push(BindProblem::Unused {
                    tensor: tensor.to_string(),
                    shape,
                });
            }
            // With parameters missing, the parts of others say nothing.
            Some(Some(parts)) if complete => {
                let read: usize = parts.iter().map(Footprint::elements).sum();
                if read < view.numel() {
                    problems.push(BindProblem::PartlyUsed {
                        tensor: tensor.to_string(),
                        shape,
                        used: read,
                        of: view.numel(),
                    });
                }
            }
            _ => {}
        }
    }
    if problems.is_empty() {
        return Ok(params);
    }
    for problem in problems.iter_mut().take(NEAREST_LIMIT) {
        if let BindProblem::Missing {
            tensors, nearest, ..
        } = problem
        {
            *nearest = tensors.first().and_then(|name| checkpoint.nearest(name));
        }
    }
    Err(WeightsError::Mismatch {
        file: checkpoint.path().to_path_buf(),
        model: graph.name.clone(),
        problems,
    })
}

/// Names and sizes of a parameter's axes.
pub(super) fn axes<'g>(
    graph: &'g Graph,
    param: &Param,
) -> Result<Vec<(&'g str, usize)>, WeightsError> {
    let malformed = |why: &str| WeightsError::Malformed {
        place: format!("parameter '{}'", param.name),
        why: why.to_string(),
    };
    let value = graph
        .values
        .get(param.value.index())
        .ok_or_else(|| malformed("has no value"))?;
    if value.rows {
        return Err(malformed("has batch and time"));
    }
    let axes = value.axes.iter().map(|axis| {
        let axis = graph
            .axes
            .get(axis.0 as usize)
            .ok_or_else(|| malformed("has an unknown axis"))?;
        Ok((axis.name.as_str(), axis.size))
    });
    let axes = axes.collect::<Result<Vec<_>, _>>()?;
    if axes
        .iter()
        .try_fold(4usize, |bytes, (_, size)| bytes.checked_mul(*size))
        .is_none()
    {
        return Err(malformed("is larger than an address space"));
    }
    Ok(axes)
}

/// Finds the tensor of a parameter and arranges it; its shape is then the parameter's.
fn find<'g, 'c>(
    param: &'g Param,
    axes: &[(&str, usize)],
    checkpoint: &'c Checkpoint,
) -> Result<Found<'g, 'c>, BindProblem> {
    let name = || param.name.clone();
    let Some(source) = &param.source else {
        return Err(BindProblem::NoSource { param: name() });
    };
    let mut present = source
        .tensors
        .iter()
        .filter_map(|tensor| Some((tensor, checkpoint.tensor(tensor)?)));
    // The first alternative; a second one that is there too is reported as unused, unless another
    // parameter reads it (an output projection tied to the embedding).
    let Some((tensor, view)) = present.next() else {
        return Err(BindProblem::Missing {
            param: name(),
            tensors: source.tensors.clone(),
            nearest: None,
        });
    };
    if !view.dtype.is_float() {
        return Err(BindProblem::Values {
            param: name(),
            tensor: tensor.clone(),
            why: format!(
                "it is stored as {}, and a parameter is made of floating-point numbers",
                view.dtype
            ),
        });
    }
    let mut arranged = Arranged::new(view);
    for step in &source.steps {
        let shape = arranged.shape().to_vec();
        arranged.apply(step).map_err(|why| BindProblem::Step {
            param: name(),
            tensor: tensor.clone(),
            shape,
            why,
        })?;
    }
    if !fits(arranged.shape(), axes) {
        let want: Vec<_> = axes
            .iter()
            .map(|(name, size)| format!("{name}={size}"))
            .collect();
        return Err(BindProblem::Shape {
            param: name(),
            tensor: tensor.clone(),
            want: want.join(", "),
            got: arranged.shape().to_vec(),
        });
    }
    Ok(Found {
        tensor,
        stored: view,
        arranged,
    })
}

/// Whether a tensor of that shape is stored like the axes: each of its dimensions is one axis or
/// several consecutive ones merged (`C` for `[H, N]`). Extents of 1 order nothing and are ignored.
fn fits(shape: &[usize], axes: &[(&str, usize)]) -> bool {
    let mut sizes = axes.iter().map(|&(_, size)| size).filter(|&size| size != 1);
    shape.iter().filter(|&&extent| extent != 1).all(|&extent| {
        let mut merged = 1;
        while merged < extent {
            match sizes.next() {
                Some(size) => merged *= size,
                None => return false,
            }
        }
        merged == extent
    }) && sizes.next().is_none()
}

#[cfg(test)]
mod tests {
    #[test]
    fn dimensions_may_merge_axes_but_never_split_or_reorder_them() {
        for (shape, axes, expected) in [
            (&[8, 6][..], &[8, 6][..], true),
            (&[8, 6], &[2, 4, 6], true),
            (&[8, 6], &[8, 2, 3], true),
            (&[48], &[8, 6], true),
            (&[], &[], true),
            (&[1, 1, 8], &[8], true),
            (&[8, 1, 4], &[8, 4], true),
            (&[8, 6], &[2, 4, 1, 6], true),
            (&[6, 8], &[8, 6], false),
            (&[8, 6], &[8], false),
            (&[8], &[8, 6], false),
            (&[2, 4], &[8], false),
            (&[0], &[8], false),
            (&[0], &[], false),
            (&[12], &[8, 6], false),
        ] {
            let named: Vec<_> = axes.iter().map(|&size| ("A", size)).collect();
            assert_eq!(super::fits(shape, &named), expected, "{shape:?} {axes:?}");
        }
    }
}
