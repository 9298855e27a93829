//! The lane of softmax attention: its template's numbers and addresses.

use crate::CodegenError;
use crate::affine::{Grid, OffsetText, Space};
use crate::cexpr::literal;
use crate::lane::Lane;
use crate::manifest::{LaneGrid, RowUnits};
use crate::memory::{Place, Pointers, c_type};
use crate::names::Names;
use crate::render::render;
use fusec_fuse::schedule::attend::THREADS;
use fusec_fuse::{Body, Kernel, Schedule};
use fusec_ir::{Access, AxisId, Graph, IndexExpr, OpKind, StateId, StateKind, ValueId};
use serde::Serialize;
use std::collections::BTreeMap;
use tera::Context;

#[derive(Serialize)]
struct GridLine {
    name: String,
    size: usize,
}

/// How an operand's element is read at row `t`, element `e`.
#[derive(Serialize)]
struct Operand {
    /// A row of this run.
    now: String,
    /// A row before it, if any are kept.
    before: Option<String>,
}

#[derive(Serialize)]
struct TailLine {
    pointer: String,
    old: String,
    new: String,
    width: usize,
    row: usize,
}

/// The addresses of one lane.
struct Addresses<'a, 'g> {
    graph: &'g Graph,
    grid: Grid<'g>,
    first_index: BTreeMap<AxisId, String>,
    pointers: &'a mut Pointers<'g>,
    names: &'a mut Names,
}

impl Addresses<'_, '_> {
    /// The offset inside a row of element `elem` of a space.
    fn in_row(&self, value: ValueId, index: &[IndexExpr], space: &Space) -> String {
        let offset = self.grid.global(&self.graph.value(value).axes, index);
        let first = |a: AxisId| self.first_index.get(&a).cloned().unwrap_or("0".into());
        let block = offset.block_text(&first);
        let parts: Vec<String> = block
            .into_iter()
            .chain(offset.local_text(space, "elem"))
            .collect();
        match parts.is_empty() {
            true => "0".into(),
            false => parts.join(" + "),
        }
    }

    fn operand(&mut self, access: &Access, space: &Space) -> Operand {
        let value = access.value;
        let at = self.in_row(value, &access.index, space);
        let pointer = self.pointers.read(Place::Value(value), self.names);
        let row = self.graph.row_elements(value);
        let before = access.tail.and_then(|tail| {
            let (_, width) = tail_of(self.graph, tail)?;
            let old = self.pointers.read(Place::OldTail(tail), self.names);
            Some(format!(
                "{old}[(batch * {width} + {width} + t) * {row} + {at}]"
            ))
        });
        let now = match self.graph.value(value).rows {
            true => format!("{pointer}[(batch * T + t) * {row} + {at}]"),
            false => format!("{pointer}[{at}]"),
        };
        Operand { now, before }
    }

    fn tail(&mut self, tail: StateId) -> Option<TailLine> {
        let (value, width) = tail_of(self.graph, tail)?;
        Some(TailLine {
            pointer: self.pointers.read(Place::Value(value), self.names),
            old: self.pointers.read(Place::OldTail(tail), self.names),
            new: self.pointers.write(Place::NewTail(tail), self.names),
            width,
            row: self.graph.row_elements(value),
        })
    }
}

/// Whose rows a tail holds, and how many.
fn tail_of(graph: &Graph, tail: StateId) -> Option<(ValueId, usize)> {
    match graph.state(tail).kind {
        StateKind::Tail { value, width } => Some((value, width as usize)),
        StateKind::Scan { .. } => None,
    }
}

/// The code of a body that attends.
pub fn lane<'g>(
    graph: &'g Graph,
    kernel: &Kernel,
    body: &Body,
    pointers: &mut Pointers<'g>,
    names: &mut Names,
) -> Result<Lane, CodegenError> {
    let unsupported = |what: &str| CodegenError::unsupported(kernel, what);
    let [id] = body.ops[..] else {
        return Err(unsupported("attention beside other operations"));
    };
    let op = graph.op(id);
    let (
        OpKind::Attend {
            axes,
            window,
            scale,
        },
        [query, key, value],
        [result],
    ) = (&op.kind, &op.inputs[..], &op.outputs[..])
    else {
        return Err(unsupported("the attend template for another operation"));
    };
    let Schedule::Attend(tile) = &body.schedule else {
        return Err(unsupported("the attend template for another body"));
    };
    let grid = Grid::new(graph, &tile.grid);
    let mut lines = Vec::new();
    let mut first_index = BTreeMap::new();
    // Innermost first: it is the fastest to vary from block to block.
    for g in tile.grid.iter().rev() {
        let name = names.fresh(&format!("{}0", graph.axis_name(g.axis).to_lowercase()));
        lines.push(GridLine {
            name: name.clone(),
            size: graph.size(g.axis),
        });
        first_index.insert(g.axis, name);
    }
    let results = &graph.value(*result).axes;
    let own: Vec<AxisId> = results
        .iter()
        .copied()
        .filter(|a| !grid.is_grid(*a))
        .collect();
    let (summed, own) = (grid.space(axes), grid.space(&own));
    let (depth, width) = (summed.len(), own.len());
    let rows = tile.rows.max(1) as usize;
    let at = tile.places();

    let mut addresses = Addresses {
        graph,
        grid,
        first_index,
        pointers,
        names,
    };
    let stored = body.stores.contains(result);
    let mut context = Context::new();
    context.insert("rows", &rows);
    context.insert("heads", &addresses.grid.blocks());
    context.insert("grid", &lines);
    context.insert("threads", &THREADS);
    context.insert("warps", &(THREADS / 32));
    context.insert("depth", &depth);
    context.insert("width", &width);
    context.insert("tile", &tile.keys);
    context.insert("window", window);
    context.insert("scale", &literal(*scale));
    context.insert("held", &(rows * width).div_ceil(THREADS));
    context.insert("at", &at);
    context.insert("stored", &stored);
    if stored {
        context.insert("query", &addresses.operand(query, &summed));
        context.insert("key", &addresses.operand(key, &summed));
        context.insert("value", &addresses.operand(value, &own));
        let index: Vec<IndexExpr> = results.iter().map(|a| IndexExpr::axis(*a)).collect();
        let place = addresses.in_row(*result, &index, &own);
        let row = graph.row_elements(*result);
        let pointer = addresses
            .pointers
            .write(Place::Value(*result), addresses.names);
        context.insert(
            "result",
            &format!("{pointer}[(batch * T + t) * {row} + {place}]"),
        );
        let element = addresses.pointers.element(Place::Value(*result));
        context.insert("element", c_type(element));
    }
    let tails = body.tails.iter().filter_map(|t| addresses.tail(*t));
    let tails: Vec<TailLine> = tails.collect();
    context.insert("tails", &tails);
    let blocks = addresses.grid.blocks();
    let runs = match rows {
        1 => "T".to_string(),
        n => format!("((T + {}) / {n})", n - 1),
    };
    Ok(Lane {
        code: render("attend.cu", &context)?,
        grid: LaneGrid {
            blocks: blocks as u64,
            rows: RowUnits::Runs(rows as u32),
        },
        blocks: format!("B * {runs} * {blocks}"),
        shared_floats: if stored { at.end } else { 0 },
        position: stored,
        by_warpgroups: None,
    })
}
