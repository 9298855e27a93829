//! How long a row of a value may be in kernels.

use fusec_ir::Graph;

/// Most elements of a row: an index into it, and what a tile adds behind its end, fits 32 bits.
pub const MAX_ROW: usize = 1 << 30;

/// Kernels count the elements of a row in 32 bits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{value}` has {got} elements per token, kernels take up to {MAX_ROW}; use smaller axes, or --device cpu"
)]
pub struct LongRow {
    /// A value or a state of the model.
    pub value: String,
    /// Elements of one of its rows.
    pub got: usize,
}

/// Refuses the first value, or state of a sequence, with more than [`MAX_ROW`] elements.
pub fn check_rows(graph: &Graph) -> Result<(), LongRow> {
    let values = graph.values.iter().filter(|value| value.rows);
    let rows = values.map(|value| (&value.name, graph.elements(&value.axes)));
    let states = graph.states.iter();
    let states = states.map(|state| (&state.name, graph.elements(&state.axes)));
    match rows.chain(states).find(|(_, got)| *got > MAX_ROW) {
        None => Ok(()),
        Some((value, got)) => Err(LongRow {
            value: value.clone(),
            got,
        }),
    }
}
