//! Spellings of one operation that every later stage may rely on.

use fusec_ir::{Combine, Expr, Graph, OpKind};

/// The same graph with
///
/// - the activation of each product as its first operand, and
/// - products of two activations, row by row, as reductions of a pointwise product: they have no matrix
///   that stays the same for all rows, so the templates for products do not apply, and
/// - parameters that are read in slices of their last axis with that axis first.
pub fn canonical(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    for i in 0..graph.ops.len() {
        let OpKind::Contract { axes } = &graph.ops[i].kind else {
            continue;
        };
        // A template of its own takes these as they are.
        if graph.sums_rows(&graph.ops[i]) {
            continue;
        }
        let rows: Vec<bool> = graph.ops[i]
            .inputs
            .iter()
            .map(|a| graph.values[a.value.index()].rows)
            .collect();
        match rows[..] {
            [true, true] => {
                let kind = OpKind::Reduce {
                    expr: Expr::binary(fusec_ir::Binary::Mul, Expr::Input(0), Expr::Input(1)),
                    combine: Combine::Sum,
                    axes: axes.clone(),
                };
                graph.ops[i].kind = kind;
            }
            [false, true] => graph.ops[i].inputs.swap(0, 1),
            _ => {}
        }
    }
    super::transposed::slices_first(&graph)
}
