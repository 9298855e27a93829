//! Parameters, and what depends on them alone: evaluated once, before any run.

use super::tensor::shape_text;
use super::{InterpretError, Interpreter, Params, Real, Rounding, Size, Tensor};
use crate::{Def, Graph, OpId, ParamId, Precision, ValueId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The operations evaluated once at load, on the given parameters: their results by value.
///
/// `param` gives each parameter row-major over the axes of its value. Executors use this to
/// fill what a plan takes as load-time constants.
pub fn evaluate_load_time<F: Real>(
    graph: &Graph,
    param: &impl Fn(ParamId) -> Vec<F>,
) -> Result<BTreeMap<ValueId, Vec<F>>, InterpretError> {
    let mut interpreter = Interpreter::bare(graph, Rounding::None)?;
    // The others may be most of the memory there is.
    let load_time = (0..graph.ops.len() as u32).filter(|i| graph.is_load_time(OpId(*i)));
    let read = load_time.flat_map(|i| &graph.op(OpId(i)).inputs);
    for id in read.map(|access| access.value).collect::<BTreeSet<_>>() {
        if let Def::Param(given) = graph.value(id).def {
            interpreter.take_param(id, Arc::new(param(given)))?;
        }
    }
    interpreter.load()?;
    let computed = interpreter.constants.into_iter();
    Ok(computed
        .filter(|(id, _)| matches!(graph.value(*id).def, Def::Op(..)))
        .filter_map(|(id, tensor)| match tensor {
            Tensor::Numbers(x) => Some((id, Arc::unwrap_or_clone(x))),
            Tensor::Ids(_) => None,
        })
        .collect())
}

impl<'g, F: Real> Interpreter<'g, F> {
    /// Evaluates what depends on the parameters alone.
    pub(super) fn load(&mut self) -> Result<(), InterpretError> {
        let graph = self.graph;
        for (i, op) in graph.ops.iter().enumerate() {
            if graph.is_load_time(OpId(i as u32)) {
                let size = Size {
                    batch: 1,
                    time: 1,
                    position: 0,
                };
                let constants = std::mem::take(&mut self.constants);
                let (results, _) = F::evaluate(self, i, op, size, &[], &|id| constants.get(&id))?;
                self.constants = constants;
                for (id, data) in op.outputs.iter().zip(results) {
                    self.constants.insert(*id, Tensor::Numbers(Arc::new(data)));
                }
            }
        }
        Ok(())
    }

    pub(super) fn take_params(&mut self, params: Params<F>) -> Result<(), InterpretError> {
        let graph = self.graph;
        if params.len() != graph.params.len() {
            return Err(InterpretError::Malformed {
                place: "parameters".into(),
                reason: format!(
                    "{} given, the model has {}",
                    params.len(),
                    graph.params.len()
                ),
            });
        }
        let shared: Vec<Arc<Vec<F>>> = params.into_iter().map(Arc::new).collect();
        for (i, value) in graph.values.iter().enumerate() {
            let Def::Param(param) = value.def else {
                continue;
            };
            self.take_param(ValueId(i as u32), shared[param.index()].clone())?;
        }
        Ok(())
    }

    fn take_param(&mut self, id: ValueId, mut data: Arc<Vec<F>>) -> Result<(), InterpretError> {
        let graph = self.graph;
        let value = graph.value(id);
        if data.len() != graph.row_elements(id) {
            return Err(InterpretError::Elements {
                what: "parameter",
                name: value.name.clone(),
                shape: shape_text(graph, id, 1, 1),
                got: data.len(),
                want: graph.row_elements(id),
            });
        }
        if let (Rounding::Op(storage) | Rounding::Dithered(storage, _), Precision::Storage) =
            (self.rounding, value.precision)
        {
            data = Arc::new(data.iter().map(|x| x.rounded(storage)).collect());
        }
        self.constants.insert(id, Tensor::Numbers(data));
        Ok(())
    }
}
