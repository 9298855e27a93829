//! The lane of softmax attention: its templates' numbers and addresses.

use crate::CodegenError;
use crate::affine::{Grid, Offset, OffsetText, Space, sum_text};
use crate::cexpr::literal;
use crate::lane::Lane;
use crate::manifest::{Element, LaneGrid, RowUnits};
use crate::memory::{Place, Pointers, c_type};
use crate::names::Names;
use crate::render::render;
use fusec_fuse::schedule::AttendTile;
use fusec_fuse::schedule::attend::{MmaTile, PADDING, STAGES, SimtTile, THREADS};
use fusec_fuse::{Body, Kernel, Schedule};
use fusec_ir::{Access, AxisId, Graph, IndexExpr, OpKind, StateId, StateKind, ValueId};
use serde::Serialize;
use std::collections::BTreeMap;
use tera::Context;

/// Elements that one access brings: 16 bytes of 16-bit elements.
const RUN: usize = 8;

/// Elements of a tail that one access writes: 16 bytes of f32.
const TAIL_RUN: usize = 4;

#[derive(Serialize)]
struct GridLine {
    name: String,
    size: usize,
}

/// How an operand's element is read at row `t`, element `elem`.
#[derive(Serialize)]
struct Operand {
    /// A row of this run.
    now: String,
    /// A row before it, if any are kept.
    before: Option<String>,
    /// What it is read from.
    pointer: String,
    /// Whether eight elements from a multiple of eight on lie side by side, aligned for one access.
    runs: bool,
    /// The same, and it is stored as the tensor cores take it.
    direct: bool,
}

/// What a block on tensor cores brings to shared memory, in tiles.
#[derive(Serialize)]
struct Side {
    name: &'static str,
    /// In words.
    what: &'static str,
    operand: Operand,
    /// Rows of a tile, the first that exists, elements of a row, what they are filled up to, and how far rows
    /// are apart, by their names in the template.
    rows: &'static str,
    low: &'static str,
    length: &'static str,
    size: &'static str,
    pitch: &'static str,
    /// Whether heads of a group are rows of the tile.
    grouped: bool,
}

#[derive(Serialize)]
struct TailLine {
    pointer: String,
    old: String,
    new: String,
    width: usize,
    row: usize,
    /// Elements that are copied at a time, and how often.
    vector: usize,
    copies: usize,
}

/// The addresses of one lane.
struct Addresses<'a, 'g> {
    graph: &'g Graph,
    grid: Grid<'g>,
    first_index: BTreeMap<AxisId, String>,
    pointers: &'a mut Pointers<'g>,
    names: &'a mut Names,
    /// What the tensor cores multiply, if it is done on them.
    operand: Option<Element>,
}

impl Addresses<'_, '_> {
    fn offset(&self, value: ValueId, index: &[IndexExpr]) -> Offset {
        self.grid.global(&self.graph.value(value).axes, index)
    }

    /// The offset inside a row of element `elem` of a space.
    fn in_row(&self, value: ValueId, index: &[IndexExpr], space: &Space) -> String {
        let offset = self.offset(value, index);
        let first = |a: AxisId| self.first_index.get(&a).cloned().unwrap_or("0".into());
        let block = offset.block_text(&first);
        let local = offset.local_text(space, "elem");
        sum_text(block.into_iter().chain(local).collect())
    }

    /// An operand over a space whose last axes have `length` elements of one head.
    fn operand(&mut self, access: &Access, space: &Space, length: usize) -> Operand {
        let value = access.value;
        let at = self.in_row(value, &access.index, space);
        let offset = self.offset(value, &access.index);
        let pointer = self.pointers.read(Place::Value(value), self.names);
        let row = self.graph.row_elements(value);
        let before = access.tail.and_then(|tail| {
            let (_, width) = tail_of(self.graph, tail)?;
            let old = self.pointers.read(Place::OldTail(tail), self.names);
            Some(format!(
                "{old}[(batch * {width} + {width} + t) * {row} + {at}]"
            ))
        });
        let (now, rows) = match self.graph.value(value).rows {
            true => (
                format!("{pointer}[(batch * T + t) * {row} + {at}]"),
                row.is_multiple_of(RUN),
            ),
            false => (format!("{pointer}[{at}]"), true),
        };
        let runs = rows
            && length.is_multiple_of(RUN)
            && space.innermost().is_multiple_of(RUN)
            && offset.step(space) == 1
            && offset.aligned(&self.grid, space, RUN as i64);
        let element = self.pointers.element(Place::Value(value));
        Operand {
            now,
            before,
            pointer,
            runs,
            direct: runs && Some(element) == self.operand,
        }
    }

    fn tail(&mut self, tail: StateId) -> Option<TailLine> {
        let (value, width) = tail_of(self.graph, tail)?;
        let row = self.graph.row_elements(value);
        let vector = if row.is_multiple_of(TAIL_RUN) {
            TAIL_RUN
        } else {
            1
        };
        Some(TailLine {
            pointer: self.pointers.read(Place::Value(value), self.names),
            old: self.pointers.read(Place::OldTail(tail), self.names),
            new: self.pointers.write(Place::NewTail(tail), self.names),
            width,
            row,
            vector,
            copies: width * row / vector,
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
    let grid = Grid::new(graph, tile.grid());
    let mut lines = Vec::new();
    let mut first_index = BTreeMap::new();
    // Innermost first: it is the fastest to vary from block to block.
    for g in tile.grid().iter().rev() {
        let name = names.fresh(&format!("{}0", graph.axis_name(g.axis).to_lowercase()));
        lines.push(GridLine {
            name: name.clone(),
            size: graph.size(g.axis),
        });
        first_index.insert(g.axis, name);
    }
    let results = &graph.value(*result).axes;
    let heads = graph.attention_heads(op);
    // Heads that a block has side by side, outside of what one of them has.
    let (group, own): (Vec<AxisId>, Vec<AxisId>) = results
        .iter()
        .filter(|a| !grid.is_grid(**a))
        .partition(|a| heads.contains(a));
    let with_group = |axes: &[AxisId]| grid.space(&[&group[..], axes].concat());
    let (queries, outcome) = (with_group(axes), with_group(&own));
    let (summed, own) = (grid.space(axes), grid.space(&own));
    let (depth, width) = (summed.len(), own.len());
    let rows = tile.rows().max(1) as usize;

    let mut addresses = Addresses {
        graph,
        grid,
        first_index,
        pointers,
        names,
        operand: match tile {
            AttendTile::Simt(_) => None,
            AttendTile::Mma(tile) => Some(tile.operand),
        },
    };
    let stored = body.stores.contains(result);
    let mut context = Context::new();
    context.insert("rows", &rows);
    context.insert("heads", &addresses.grid.blocks());
    context.insert("grid", &lines);
    context.insert("threads", &tile.threads());
    context.insert("depth", &depth);
    context.insert("width", &width);
    context.insert("window", window);
    context.insert("stored", &stored);
    if stored {
        let query = addresses.operand(query, &queries, depth);
        let key = addresses.operand(key, &summed, depth);
        let value = addresses.operand(value, &own, width);
        match tile {
            AttendTile::Simt(_) => {
                context.insert("query", &query);
                context.insert("key", &key);
                context.insert("value", &value);
            }
            AttendTile::Mma(tile) => {
                context.insert("sides", &sides(tile, query, key, value));
            }
        }
        let index: Vec<IndexExpr> = results.iter().map(|a| IndexExpr::axis(*a)).collect();
        let place = addresses.in_row(*result, &index, &outcome);
        let offset = addresses.offset(*result, &index);
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
        // Two neighbouring results, of columns that a thread has.
        let pairs = row.is_multiple_of(2)
            && width.is_multiple_of(2)
            && outcome.innermost().is_multiple_of(2)
            && offset.step(&outcome) == 1
            && offset.aligned(&addresses.grid, &outcome, 2);
        context.insert("pairs", &pairs);
    }
    let tails = body.tails.iter().filter_map(|t| addresses.tail(*t));
    let tails: Vec<TailLine> = tails.collect();
    context.insert("tails", &tails);
    let template = match tile {
        AttendTile::Simt(tile) => {
            on_fp32_units(tile, *scale, &mut context);
            "attend.cu"
        }
        AttendTile::Mma(tile) => {
            on_tensor_cores(tile, *scale, &mut context);
            "attend_mma.cu"
        }
    };
    let blocks = addresses.grid.blocks();
    let runs = match rows {
        1 => "T".to_string(),
        n => format!("((T + {}) / {n})", n - 1),
    };
    Ok(Lane {
        code: render(template, &context)?,
        grid: LaneGrid {
            blocks: blocks as u64,
            rows: RowUnits::Runs(rows as u32),
        },
        blocks: format!("B * {runs} * {blocks}"),
        shared_floats: match stored {
            true => tile.shared_bytes().div_ceil(4),
            false => 0,
        },
        position: stored,
        by_warpgroups: None,
    })
}

/// Queries, keys and values of `attend_mma.cu`.
fn sides(tile: &MmaTile, query: Operand, key: Operand, value: Operand) -> [Side; 3] {
    let queries = Side {
        name: "queries",
        what: "Queries of the block",
        operand: query,
        rows: "TILE_ROWS",
        low: "t_begin",
        length: "DEPTH",
        size: "K_SIZE",
        pitch: "K_PITCH",
        grouped: tile.group > 1,
    };
    let keys = Side {
        name: "keys",
        what: "Keys",
        operand: key,
        rows: "KEYS",
        low: "first",
        grouped: false,
        ..queries
    };
    let values = Side {
        name: "values",
        what: "Values",
        operand: value,
        length: "WIDTH",
        size: "V_SIZE",
        pitch: "V_PITCH",
        ..keys
    };
    [queries, keys, values]
}

/// What `attend.cu` needs beside addresses.
fn on_fp32_units(tile: &SimtTile, scale: f64, context: &mut Context) {
    let (rows, width) = (tile.rows.max(1) as usize, tile.width as usize);
    context.insert("warps", &(THREADS / 32));
    context.insert("tile", &tile.keys);
    context.insert("scale", &literal(scale));
    context.insert("held", &(rows * width).div_ceil(THREADS));
    context.insert("at", &tile.places());
}

/// What `attend_mma.cu` needs beside addresses. Weights are powers of two there.
fn on_tensor_cores(tile: &MmaTile, scale: f64, context: &mut Context) {
    context.insert("scale", &literal(scale * std::f64::consts::LOG2_E));
    context.insert("tile", tile);
    context.insert("operand", c_type(tile.operand));
    context.insert("key_size", &tile.key_size());
    context.insert("value_size", &tile.value_size());
    context.insert("padding", &PADDING);
    context.insert("stages", &STAGES);
}
