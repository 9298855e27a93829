//! How long a row of a value may be in kernels.

use fusec_ir::Graph;

/// Most elements of a row: an index into it, and what a tile adds behind its end, fits 32 bits.
pub const MAX_ROW: usize = 1 << 30;

/// The first value, or state of a sequence, with more than [`MAX_ROW`] elements, and how many it has.
pub fn longer_row(graph: &Graph) -> Option<(&str, usize)> {
    let values = graph.values.iter().filter(|value| value.rows);
    let rows = values.map(|value| (value.name.as_str(), graph.elements(&value.axes)));
    let states = graph.states.iter();
    let states = states.map(|state| (state.name.as_str(), graph.elements(&state.axes)));
    rows.chain(states).find(|(_, got)| *got > MAX_ROW)
}
