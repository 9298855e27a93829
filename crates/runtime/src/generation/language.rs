//! Whether a graph is a language model: token ids in, logits of tokens out.

use fusec_ir::{Expr, Graph, OpKind, Precision};

/// What generation asks about a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LanguageModel {
    /// Tokens that there are both logits and embeddings for.
    pub tokens: usize,
    /// Whether it asks for the position of a token, so that sequences of a batch have to be at the same one.
    pub positions: bool,
}

/// Why it is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{model}` is no language model: {why}. Text is generated and judged by models that map token ids to logits"
)]
pub struct NoLanguageModel {
    model: String,
    why: String,
}

impl LanguageModel {
    /// Looks at inputs and outputs.
    pub fn of(graph: &Graph) -> Result<Self, NoLanguageModel> {
        let none = |why: String| {
            Err(NoLanguageModel {
                model: graph.name.clone(),
                why,
            })
        };
        let [input] = graph.inputs[..] else {
            return none(format!("it has {} inputs, not one", graph.inputs.len()));
        };
        let ids = graph.value(input);
        if ids.precision != Precision::Index || !ids.rows || !ids.axes.is_empty() {
            return none(format!(
                "its input `{}` is no token id per position",
                ids.name
            ));
        }
        let logits = graph.outputs.first().map(|id| (*id, graph.value(*id)));
        let Some((id, logits)) = logits.filter(|(_, l)| l.rows && l.precision != Precision::Index)
        else {
            return none("its first output is no number per position".into());
        };
        let entries = graph
            .ops
            .iter()
            .filter_map(|op| match op.inputs.as_slice() {
                [table, by] if op.kind == OpKind::Gather && by.value == input => {
                    let table = graph.value(table.value);
                    table.axes.first().map(|axis| graph.size(*axis))
                }
                _ => None,
            });
        let Some(entries) = entries.min() else {
            return none(format!("it looks nothing up by `{}`", ids.name));
        };
        let wide = graph.row_elements(id);
        if logits.axes.len() != 1 || wide < entries {
            let name = &logits.name;
            return none(format!(
                "its output `{name}` has {wide} elements per position, its table {entries} entries"
            ));
        }
        Ok(LanguageModel {
            tokens: entries,
            positions: asks_for_position(graph),
        })
    }
}

/// Whether any operation reads the position of a token, or how many came before it.
fn asks_for_position(graph: &Graph) -> bool {
    graph.ops.iter().any(|op| match &op.kind {
        OpKind::Map { expr } | OpKind::Reduce { expr, .. } => {
            let mut found = false;
            expr.walk(&mut |e| found |= matches!(e, Expr::Position));
            found
        }
        OpKind::Attend { .. } => true,
        _ => false,
    })
}
