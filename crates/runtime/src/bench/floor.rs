//! The fewest bytes that a run can move through device memory.

use fusec_codegen::{BufferKind, Regime};
use fusec_fuse::Shape;
use fusec_fuse::zeros::has_zeros;
use fusec_ir::{Def, Graph, Op, OpKind, ValueId};

/// Weights, inputs and outputs once, states and stencil tails read and written once; of a table
/// only the rows that are looked up, and of a matrix whose rows are left out where an activation is zero, the share
/// that is expected to be read.
pub fn floor_bytes(regime: &Regime, shape: Shape) -> f64 {
    let bytes = |buffer: &fusec_codegen::Buffer| {
        let all = buffer.bytes(shape).unwrap_or(0) as f64;
        match buffer.kind {
            BufferKind::Input(_) | BufferKind::Output(_) => all,
            BufferKind::LoadTime(id) if leaves_zeros_out(&regime.graph, id, shape) => {
                all * (1.0 - regime.graph.zeros)
            }
            BufferKind::LoadTime(_) => all,
            BufferKind::Param(id) => {
                let value = regime
                    .graph
                    .values
                    .iter()
                    .position(|value| match value.def {
                        Def::Param(param) => param == id,
                        _ => false,
                    });
                match value {
                    Some(at) if only_looked_up(&regime.graph, ValueId(at as u32)) => {
                        all.min(looked_up(&regime.graph, ValueId(at as u32), buffer, shape))
                    }
                    _ => all,
                }
            }
            BufferKind::State(_) | BufferKind::Tail(_) => 2.0 * all,
            BufferKind::Scratch(_)
            | BufferKind::Parts(_)
            | BufferKind::Segments(_)
            | BufferKind::Chunks(_) => 0.0,
        }
    };
    regime.buffers.iter().map(bytes).sum()
}

/// Whether every use of a value is as the table of a look-up.
fn only_looked_up(graph: &Graph, value: ValueId) -> bool {
    graph.ops.iter().all(|op| {
        let uses = op.inputs.iter().enumerate();
        uses.filter(|(_, access)| access.value == value)
            .all(|(at, _)| at == 0 && matches!(op.kind, OpKind::Gather))
    })
}

/// Bytes of one entry of a table for every token.
fn looked_up(graph: &Graph, table: ValueId, buffer: &fusec_codegen::Buffer, shape: Shape) -> f64 {
    let entries = graph
        .value(table)
        .axes
        .first()
        .map_or(1, |axis| graph.size(*axis).max(1));
    let entry = (buffer.elements / entries * buffer.element.bytes()) as f64;
    entry * (shape.batch * shape.time) as f64
}

/// Whether a value is only read as the matrix of products of one row that is zero wherever a relu is, and its rows that
/// meet a zero lie by themselves.
fn leaves_zeros_out(graph: &Graph, matrix: ValueId, shape: Shape) -> bool {
    let first = graph.value(matrix).axes.first();
    let readers = || {
        let reads = |op: &&Op| op.inputs.iter().any(|access| access.value == matrix);
        graph.ops.iter().filter(reads)
    };
    let one_row = shape.batch * shape.time == 1;
    let leaves_out = |op: &Op| match (&op.kind, &op.inputs[..]) {
        (OpKind::Contract { axes }, [x, w]) => {
            let outermost = first.is_some_and(|axis| axes.contains(axis));
            w.value == matrix && outermost && has_zeros(graph, x.value)
        }
        _ => false,
    };
    graph.zeros > 0.0 && one_row && readers().count() > 0 && readers().all(leaves_out)
}
