//! The lane that takes last rows: which elements are copied from where.

use crate::CodegenError;
use crate::lane::Lane;
use crate::manifest::{LaneGrid, RowUnits};
use crate::memory::{Place, Pointers};
use crate::names::Names;
use crate::render::render;
use fusec_fuse::schedule::last_row::{SHARE, THREADS};
use fusec_fuse::{Body, Kernel, Schedule};
use fusec_ir::{Graph, OpKind};
use serde::Serialize;
use tera::Context;

/// A value whose last row is copied: elements `begin..end` of those that the blocks share.
#[derive(Serialize)]
struct Copied {
    from: String,
    to: String,
    row: usize,
    begin: usize,
    end: usize,
}

/// The code of a body that takes last rows.
pub fn lane<'g>(
    graph: &'g Graph,
    kernel: &Kernel,
    body: &Body,
    pointers: &mut Pointers<'g>,
    names: &mut Names,
) -> Result<Lane, CodegenError> {
    let unsupported = |what: &str| CodegenError::unsupported(kernel, what);
    let ([id], Schedule::LastRow(tile)) = (&body.ops[..], &body.schedule) else {
        return Err(unsupported("last rows beside other operations"));
    };
    let op = graph.op(*id);
    if !matches!(op.kind, OpKind::LastRow) {
        return Err(unsupported("the last-row template for another operation"));
    }
    let mut copies = Vec::new();
    let mut begin = 0;
    for (access, result) in op.inputs.iter().zip(&op.outputs) {
        let row = graph.row_elements(*result);
        let end = begin + row;
        if body.stores.contains(result) {
            copies.push(Copied {
                from: pointers.read(Place::Value(access.value), names),
                to: pointers.write(Place::Value(*result), names),
                row,
                begin,
                end,
            });
        }
        begin = end;
    }
    let mut context = Context::new();
    context.insert("parts", &tile.parts);
    context.insert("share", &SHARE);
    context.insert("threads", &THREADS);
    context.insert("copies", &copies);
    Ok(Lane {
        code: render("last_row.cu", &context)?,
        grid: LaneGrid {
            blocks: u64::from(tile.parts),
            rows: RowUnits::Batch,
        },
        blocks: match tile.parts {
            1 => "B".into(),
            parts => format!("B * {parts}"),
        },
        shared_floats: 0,
        position: false,
        by_warpgroups: None,
    })
}
