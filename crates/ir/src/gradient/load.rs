//! From sums over rows to the derivatives by parameters: through what a graph evaluates at load.

use super::GradientError;
use super::transposer::{Contribution, Transposer};
use crate::interpret::{InterpretError, Real, evaluate_load_time};
use crate::{Access, Def, Graph, Init, Op, OpId, Param, ParamId, Precision, Value, ValueId};
use std::collections::BTreeMap;

/// A graph without rows whose parameters are the model's and the sums.
#[derive(Clone, Debug)]
pub struct Load {
    /// The load-time operations of the model, then their transposes.
    pub graph: Graph,
    /// What each parameter of `graph` is.
    pub given: Vec<Given>,
    /// Per parameter of the model, the value of `graph` that is the derivative by it; `None` where
    /// nothing that was differentiated depends on it.
    pub of: Vec<Option<ValueId>>,
}

/// What a parameter of the graph of a [`Load`] is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// A parameter of the model.
    Param(ParamId),
    /// Number `.0` of the sums.
    Sum(usize),
}

impl Load {
    /// `parts` are contributions to values without rows of `model`; their values are among the `sums`
    /// of `whole`.
    pub(super) fn new(
        model: &Graph,
        whole: &Graph,
        sums: &[ValueId],
        parts: Vec<(ValueId, Contribution)>,
    ) -> Result<Self, GradientError> {
        let mut graph = Graph {
            axes: whole.axes.clone(),
            ..model.emptied()
        };
        let mut given = Vec::new();
        let mut to: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        let mut param = |graph: &mut Graph, value: &Value, what: Given| -> ValueId {
            let id = ValueId(graph.values.len() as u32);
            let param = ParamId(graph.params.len() as u32);
            graph.values.push(Value {
                def: Def::Param(param),
                precision: Precision::F32,
                ..value.clone()
            });
            graph.params.push(Param {
                name: value.name.clone(),
                value: id,
                source: None,
                init: Init::Constant(0.0),
                span: None,
            });
            given.push(what);
            id
        };
        for (i, value) in model.values.iter().enumerate() {
            if let Def::Param(p) = value.def {
                let id = param(&mut graph, value, Given::Param(p));
                to.insert(ValueId(i as u32), id);
            }
        }
        let mut at_sum = BTreeMap::new();
        for (k, sum) in sums.iter().enumerate() {
            let id = param(&mut graph, whole.value(*sum), Given::Sum(k));
            at_sum.insert(*sum, id);
        }
        for (i, op) in model.ops.iter().enumerate() {
            if !model.is_load_time(OpId(i as u32)) {
                continue;
            }
            let id = OpId(graph.ops.len() as u32);
            let mut outputs = Vec::new();
            for (k, output) in op.outputs.iter().enumerate() {
                let value = ValueId(graph.values.len() as u32);
                graph.values.push(Value {
                    def: Def::Op(id, k as u32),
                    ..model.value(*output).clone()
                });
                to.insert(*output, value);
                outputs.push(value);
            }
            let mut inputs = Vec::new();
            for access in &op.inputs {
                let Some(value) = to.get(&access.value).copied() else {
                    return Err(GradientError::NotDifferentiable {
                        name: model.value(access.value).name.clone(),
                        why: "it is an input that is the same at every row",
                    });
                };
                inputs.push(Access {
                    value,
                    ..access.clone()
                });
            }
            graph.ops.push(Op {
                inputs,
                outputs,
                ..op.clone()
            });
        }
        let own = graph.ops.len();
        let wanted = super::wanted(&graph, &[]);
        let mut transposer = Transposer::new(graph, wanted);
        for (of, part) in parts {
            // An input that is the same at every row has nobody who asks for its cotangent.
            let Some(of) = to.get(&of).copied() else {
                continue;
            };
            let list = transposer.pending.entry(of).or_default();
            list.push(Contribution {
                value: at_sum[&part.value],
                ..part
            });
        }
        for i in (0..own).rev() {
            transposer.operation(OpId(i as u32))?;
        }
        let of: Vec<Option<ValueId>> = model
            .params
            .iter()
            .map(|p| transposer.cotangent(to[&p.value]))
            .collect();
        let mut graph = transposer.graph;
        graph.outputs = of.iter().flatten().copied().collect();
        Ok(Load { graph, given, of })
    }

    /// The derivatives by the model's parameters, in their order and shapes; zeros where nothing
    /// depends on one. `params` are the model's, `sums` one for each of [`super::Gradient::sums`].
    pub fn evaluate<F: Real>(
        &self,
        params: &[Vec<F>],
        sums: &[Vec<F>],
    ) -> Result<Vec<Vec<F>>, InterpretError> {
        let give = |id: ParamId| match self.given[id.index()] {
            Given::Param(p) => params[p.index()].clone(),
            Given::Sum(k) => sums[k].clone(),
        };
        let mut computed = evaluate_load_time(&self.graph, &give)?;
        Ok(self
            .of
            .iter()
            .zip(params)
            .map(|(of, param)| match of {
                None => vec![F::ZERO; param.len()],
                Some(id) => match self.graph.value(*id).def {
                    Def::Param(p) => give(p),
                    _ => computed.remove(id).unwrap_or_default(),
                },
            })
            .collect())
    }
}
