//! Lanes that sum over all rows: results without rows, made of values with rows.
//!
//! Here a tile and the axes of an operation become what the templates `row_sum_*.cu` are filled with; how
//! operands are read is in `operand.rs`.

mod operand;

use crate::CodegenError;
use crate::affine::{OffsetText, Space, index_text, sum_text};
use crate::cexpr::{self, Leaves};
use crate::lane::Lane;
use crate::manifest::{LaneGrid, RowUnits};
use crate::memory::{Place, Pointers, c_type};
use crate::names::Names;
use crate::render::render;
use crate::text::Text;
use fusec_fuse::schedule::RowSumTile;
use fusec_fuse::schedule::row_sum::{
    ENTRY_WARPS, ElementTile, EntryTile, PartTile, SIMT_DEPTH, SumAxes, SumMmaTile, SumSimtTile,
    THREADS, loads_together,
};
use fusec_fuse::{Body, Kernel};
use fusec_ir::{Binary, Expr, Graph, IndexExpr, Op, OpKind};
use operand::Operands;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use tera::Context;

/// An operand of a product, on its way to shared memory.
#[derive(Serialize)]
struct Side {
    /// `a` or `b`, and the same in capitals.
    name: &'static str,
    upper: &'static str,
    /// Its columns, the first of the block's, and from one row of a tile in shared memory to the next.
    columns: usize,
    first: &'static str,
    pitch: &'static str,
    /// Neighbours that are loaded together, and how many such chunks a row of a tile has.
    vector: usize,
    chunks: usize,
    /// Whether it is copied without registers.
    direct: bool,
    pointer: String,
    /// Offset of the element at `(row, inner, column)`.
    at: String,
    /// Statements that load the elements from there on to registers.
    load: String,
    /// Whether it depends on the axes that are summed with the rows.
    inner: bool,
}

/// The code of a body that sums over all rows.
pub fn lane<'g>(
    graph: &'g Graph,
    kernel: &Kernel,
    body: &Body,
    tile: &RowSumTile,
    pointers: &mut Pointers<'g>,
    names: &mut Names,
) -> Result<Lane, CodegenError> {
    let unsupported = |what: &str| CodegenError::unsupported(kernel, what);
    let ([id], true) = (&body.ops[..], graph.sums_rows(graph.op(body.ops[0]))) else {
        return Err(unsupported("sums over rows beside other operations"));
    };
    let op = graph.op(*id);
    let axes = SumAxes::of(tile, graph, op);
    let grid = axes.grid(graph);
    let mut decode = Text::default();
    let mut first_index = BTreeMap::new();
    if !matches!(tile, RowSumTile::Entries(_)) {
        decode_batch(graph, &axes, "block", &mut first_index, names, &mut decode);
    }
    let mut sum = RowSum {
        graph,
        op,
        columns: [0, 1].map(|n| grid.space(&axes.columns[n])),
        operands: Operands {
            graph,
            summed: grid.space(&axes.summed),
            grid,
            first_index,
            pointers,
            names,
        },
        axes,
        position: false,
        context: Context::new(),
    };
    let parts = tile.parts();
    sum.context.insert("decode", decode.finish().trim_end());
    sum.context.insert("parts", &parts);
    sum.context.insert("inner", &sum.operands.summed.len());
    sum.context.insert("threads", &tile.threads());
    let code = match tile {
        RowSumTile::Mma(tile) => sum.on_tensor_cores(tile)?,
        RowSumTile::Simt(tile) => sum.on_fp32_units(tile)?,
        RowSumTile::Elements(tile) => sum
            .elements(tile)?
            .ok_or_else(|| unsupported("another operation than a sum"))?,
        RowSumTile::Entries(tile) => sum.entries(tile)?,
        RowSumTile::Parts(tile) => sum.parts(tile)?,
    };
    let position = sum.position;
    let blocks = tile.blocks(graph, op);
    Ok(Lane {
        code,
        grid: LaneGrid {
            blocks: blocks as u64,
            rows: RowUnits::Once,
        },
        blocks: blocks.to_string(),
        shared_floats: tile.shared_bytes().div_ceil(4),
        position,
        by_warpgroups: None,
    })
}

/// Takes the index of each axis of the batch out of a number of blocks, the innermost first.
fn decode_batch(
    graph: &Graph,
    axes: &SumAxes,
    number: &str,
    first_index: &mut BTreeMap<fusec_ir::AxisId, String>,
    names: &mut Names,
    text: &mut Text,
) {
    for axis in axes.batch.iter().rev() {
        let name = names.fresh(&format!("{}0", graph.axis_name(*axis).to_lowercase()));
        let n = graph.size(*axis);
        text.line(format!("const int {name} = (int)({number} % {n});"));
        text.line(format!("{number} /= {n};"));
        first_index.insert(*axis, name);
    }
}

struct RowSum<'a, 'g> {
    graph: &'g Graph,
    op: &'g Op,
    axes: SumAxes,
    columns: [Space; 2],
    operands: Operands<'a, 'g>,
    position: bool,
    context: Context,
}

impl<'g> RowSum<'_, 'g> {
    /// What becomes of `value` at the element of the result with these column numbers: it is the result,
    /// or that of one part of the rows.
    fn store(&mut self, parts: usize, value: &str, columns: [&str; 2]) -> String {
        let result = self.op.outputs[0];
        let axes = &self.graph.value(result).axes;
        let index: Vec<IndexExpr> = axes.iter().map(|a| IndexExpr::axis(*a)).collect();
        let offset = self.operands.grid.global(axes, &index);
        let mut at: Vec<String> = Vec::new();
        at.extend(offset.block_text(&|a| self.operands.first(a)));
        for (space, column) in self.columns.iter().zip(columns) {
            at.extend(offset.local_text(space, column));
        }
        let at = sum_text(at);
        if parts > 1 {
            let elements = self.graph.row_elements(result);
            let pointer = self.parts_of(parts, true);
            return format!("{pointer}[part * i64({elements}) + {at}] = {value};");
        }
        let pointers = &mut *self.operands.pointers;
        let place = Place::Value(result);
        let element = c_type(pointers.element(place));
        let pointer = pointers.write(place, self.operands.names);
        format!("{pointer}[{at}] = from_f32<{element}>({value});")
    }

    /// The memory between the phase that makes parts and the one that adds them.
    fn parts_of(&mut self, parts: usize, written: bool) -> String {
        let place = Place::Parts(self.op.outputs[0], parts as u32);
        let (pointers, names) = (&mut *self.operands.pointers, &mut *self.operands.names);
        match written {
            true => pointers.write(place, names),
            false => pointers.read(place, names),
        }
    }

    /// The operands of a product with their columns in tiles.
    fn sides(&mut self, tile: [usize; 2], vectors: [usize; 2], direct: [bool; 2]) -> Vec<Side> {
        let fixed = [
            ("a", "A", "left0", "A_PITCH"),
            ("b", "B", "right0", "B_PITCH"),
        ];
        let inputs = self.op.inputs.iter().enumerate();
        let sides = inputs.take(2).map(|(n, access)| {
            let (name, upper, first, pitch) = fixed[n];
            let columns = self.columns[n].clone();
            let operand = &mut self.operands;
            let at = operand.at(access, &columns, "column");
            let target = format!("{name}_next[ti]");
            let load = operand.load(access, &columns, "column", vectors[n], &target);
            Side {
                name,
                upper,
                columns: columns.len(),
                first,
                pitch,
                vector: vectors[n],
                chunks: tile[n] / vectors[n],
                direct: direct[n],
                pointer: operand.pointer(access),
                inner: at.contains("inner"),
                at,
                load,
            }
        });
        sides.collect()
    }

    fn on_tensor_cores(&mut self, tile: &SumMmaTile) -> Result<String, CodegenError> {
        let sides = self.sides(tile.columns, tile.vectors, tile.direct);
        self.product(&sides, tile.parts);
        self.context.insert("operand", c_type(tile.operand));
        self.context.insert("tile", tile);
        self.context.insert("staged", &(tile.direct != [true; 2]));
        self.context
            .insert("stage_elements", &tile.stage_elements());
        render("row_sum_mma.cu", &self.context)
    }

    fn on_fp32_units(&mut self, tile: &SumSimtTile) -> Result<String, CodegenError> {
        let sides = self.sides(tile.columns, tile.vectors, [false; 2]);
        self.product(&sides, tile.parts);
        self.context.insert("tile", tile);
        self.context.insert("depth", &SIMT_DEPTH);
        self.context.insert("own", &tile.columns.map(|n| n / 16));
        render("row_sum_simt.cu", &self.context)
    }

    fn product(&mut self, sides: &[Side], parts: usize) {
        let store = self.store(parts, "value", ["left", "right"]);
        self.context.insert("sides", sides);
        self.context.insert("store", &store);
    }

    /// Element by element; `None` for what is no sum of an expression.
    fn elements(&mut self, tile: &ElementTile) -> Result<Option<String>, CodegenError> {
        let (graph, op) = (self.graph, self.op);
        let product = Expr::binary(Binary::Mul, Expr::Input(0), Expr::Input(1));
        let expr = match &op.kind {
            OpKind::Reduce { expr, .. } => expr,
            OpKind::Contract { .. } => &product,
            _ => return Ok(None),
        };
        let columns = self.columns[0].clone();
        let mut loads = Text::default();
        let mut read: Vec<String> = Vec::new();
        let mut used = BTreeSet::new();
        expr.walk(&mut |e| {
            if let Expr::Input(i) = e {
                used.insert(*i);
            }
            self.position |= matches!(e, Expr::Position);
        });
        for (i, access) in op.inputs.iter().enumerate() {
            if !used.contains(&i) {
                read.push(String::new());
                continue;
            }
            let value = graph.value(access.value);
            let together = tile.vector > 1
                && loads_together(graph, &self.operands.grid, access, &columns, tile.vector);
            let vector = if together { tile.vector } else { 1 };
            let name = self.operands.names.fresh(&format!("{}_in", value.name));
            loads.line(format!("float {name}[{vector}];"));
            let load = self
                .operands
                .load(access, &columns, "column", vector, &name);
            loads.lines(&load);
            read.push(match together {
                true => format!("{name}[nth]"),
                false => format!("{name}[0]"),
            });
        }
        let summed = self.operands.summed.clone();
        let index = |axis| match summed.axes.contains(&axis) {
            true => index_text(&summed, axis, "inner"),
            false => index_text(&columns, axis, "(column + nth)"),
        };
        let text = cexpr::text(
            expr,
            &Leaves {
                input: &|i| read.get(i).cloned().unwrap_or_default(),
                index: &index,
                position: "position + row % T",
                varies: None,
            },
        );
        let loads = loads.finish();
        let store = self.store(tile.parts, "value", ["element", "0"]);
        let context = &mut self.context;
        context.insert("tile", tile);
        context.insert("elements", &columns.len());
        context.insert(
            "reads_row",
            &(loads.contains("row") || text.contains("row")),
        );
        context.insert(
            "reads_inner",
            &(loads.contains("inner") || text.contains("inner")),
        );
        context.insert("loads", loads.trim_end());
        context.insert("term", &text);
        context.insert("store", &store);
        render("row_sum_elements.cu", &self.context).map(Some)
    }

    /// Rows added into a table.
    fn entries(&mut self, tile: &EntryTile) -> Result<String, CodegenError> {
        let (graph, op) = (self.graph, self.op);
        let mut decode = Text::default();
        let operands = &mut self.operands;
        decode_batch(
            graph,
            &self.axes,
            "unit",
            &mut operands.first_index,
            operands.names,
            &mut decode,
        );
        let result = op.outputs[0];
        let out = graph.value(result);
        let entries = out.axes.first().map_or(1, |a| graph.size(*a));
        let columns = self.columns[0].clone();
        let (from, ids) = (&op.inputs[0], &op.inputs[1]);
        let id = format!(
            "{}[{}]",
            operands.pointer(ids),
            operands.at(ids, &columns, "0")
        );
        let load = operands.load(from, &columns, "column", 1, "added[nth][own]");
        // The table's own entries lie one after the other, whatever they hold.
        let index: Vec<IndexExpr> = out.axes.iter().map(|a| IndexExpr::axis(*a)).collect();
        let offset = operands.grid.global(&out.axes, &index);
        let mut at = vec![format!(
            "(entry0 + entry) * i64({})",
            operands.grid.elements_after_first(&out.axes)
        )];
        at.extend(offset.block_text(&|a| operands.first(a)));
        at.extend(offset.local_text(&columns, "column"));
        let place = Place::Value(result);
        let element = c_type(operands.pointers.element(place));
        let pointer = operands.pointers.write(place, operands.names);
        let context = &mut self.context;
        context.insert("decode", decode.finish().trim_end());
        context.insert("tile", tile);
        context.insert("warps", &ENTRY_WARPS);
        context.insert("entries", &entries);
        context.insert("channels", &columns.len());
        context.insert("batch", &graph.elements(&self.axes.batch));
        context.insert("id", &id);
        // One number for each of a thread's channels: no array.
        context.insert("load", &load.trim_end().replace("[own][0]", "[own]"));
        context.insert(
            "store",
            &format!("{pointer}[{}] = from_f32<{element}>(value);", sum_text(at)),
        );
        render("row_sum_entries.cu", &self.context)
    }

    /// The parts of a result, added.
    fn parts(&mut self, tile: &PartTile) -> Result<String, CodegenError> {
        let from = self.parts_of(tile.parts, false);
        let elements = self.graph.row_elements(self.op.outputs[0]);
        let store = self.store(1, "value", ["element", "0"]);
        self.context.insert("from", &from);
        self.context.insert("elements", &elements);
        self.context.insert("store", &store);
        render("row_sum_parts.cu", &self.context)
    }
}

// The threads of a block that its template relies on.
const _: () = assert!(THREADS == 256);
