//! Before a product: rows from memory, maps of single elements, and whole rows that a block of few
//! computes together.

use super::{ProductLane, alignment};
use crate::affine::{Grid, OffsetText, Space, sum_text};
use crate::memory::{Place, c_type};
use crate::projection::{Product, ProjectionTile};
use crate::text::Text;
use crate::walk::{self, Walk};
use fusec_fuse::schedule::gemv::Stage;
use fusec_fuse::schedule::product::summed;
use fusec_fuse::schedule::walk::{Placed, Walked};
use fusec_fuse::schedule::{StreamTile, thin};
use fusec_ir::{Access, Direction};
use std::collections::BTreeMap;

impl<'g> ProductLane<'_, 'g> {
    /// An activation that lies in memory.
    pub(super) fn external_rows(&mut self, x: &Access, depth: &Space, product: &mut Product) {
        let graph = self.graph;
        let value = graph.value(x.value);
        let offset = self.grid.global(&value.axes, &x.index);
        let pointer = self.pointers.read(Place::Value(x.value), self.names);
        let base = self.based(&pointer, &offset);
        let stride = graph.row_elements(x.value);
        let local = offset.local_text(depth, "inner");
        if x.delay == 0 && (local.as_deref() == Some("inner") || depth.len() == 1) {
            product.x = Some(base);
            product.x_element = self.pointers.element(Place::Value(x.value));
            product.x_stride = stride;
            product.x_offset = alignment(&offset);
            return;
        }
        let at = local.unwrap_or_else(|| "0".into());
        product.prologue = match x.tail {
            Some(tail) if x.delay > 0 => {
                let (delay, old) = (
                    x.delay,
                    self.pointers.read(Place::OldTail(tail), self.names),
                );
                let width = graph.tail_width(tail);
                // Rows before the first token lie in the tail, f32.
                let base_in_row = offset.block_text(&|a| self.first(a));
                let extra = base_in_row.map(|b| format!(" + {b}")).unwrap_or_default();
                format!(
                    "activation = row % T < {delay} ? {old}[((row / T) * {width} + {width} - {delay} + row % T) * {stride}{extra} + {at}]\n    : to_f32({pointer}[(row - {delay}) * {stride}{extra} + {at}]);\n"
                )
            }
            _ => format!("activation = to_f32(*({base} + row * {stride} + {at}));\n"),
        };
    }

    /// Gemm: the maps before the product, for element `(row, inner)`.
    pub(super) fn map_prologue(&mut self, x: &Access, depth: &Space) -> String {
        let graph = self.graph;
        let value = graph.value(x.value);
        let offset = self.grid.global(&value.axes, &x.index);
        let mut parts: Vec<String> = offset.block_text(&|a| self.first(a)).into_iter().collect();
        parts.extend(offset.local_text(depth, "inner"));
        let e = sum_text(parts);
        let ops = match self.in_body(x.value) {
            Some(last) => self.body.up_to(graph, last),
            None => vec![],
        };
        // The prologue's maps run over all axes of the activation, none of them spread over blocks.
        let plain = Grid::new(graph, &[]);
        let space = plain.space(&value.axes);
        let mut text = Text::default();
        let element = if e == "inner" {
            "inner".to_string()
        } else {
            let name = self.names.fresh("at");
            text.line(format!("const int {name} = {e};"));
            name
        };
        let mut known = BTreeMap::new();
        for id in ops {
            self.element_map(&plain, id, &space, &element, &mut known, &mut text);
        }
        if let Some(name) = known.get(&x.value) {
            text.line(format!("activation = {name};"));
        }
        text.finish()
    }

    /// Gemv: the row program before a product, run by the whole block for each row of the tile.
    /// Returns its text, the end of its shared memory, and whether that may still be read at the end of
    /// the text.
    pub(super) fn stage(
        &mut self,
        stage: &Stage,
        shared_base: usize,
        tile: ProjectionTile,
    ) -> (String, usize, bool) {
        let graph = self.graph;
        let x = &graph.op(stage.anchor).inputs[0];
        // The prologue computes whole rows, whatever product of a batch the block is for.
        let plain = Grid::new(graph, &[]);
        let threads = tile.threads();
        let walked = Walked {
            graph,
            ops: &stage.ops,
            tails: &stage.tails,
            stores: &stage.stores,
            vector: 16 / self.storage.bytes(),
            direction: Direction::Forward,
            states: None,
        };
        let Placed { program, layouts } = walked.placed(&[], threads, 1);
        self.position |= walk::uses_position(&program);
        let value = graph.value(x.value);
        let depth = summed(graph, &self.grid, stage.anchor);
        let offset = self.grid.global(&value.axes, &x.index);
        // How the rows of the product lie in shared memory.
        let (pitch, operand) = match tile {
            ProjectionTile::Thin(tile) => (thin::pitch(depth.len()), Some(c_type(tile.operand))),
            ProjectionTile::Stream(StreamTile {
                operand: Some(operand),
                ..
            }) => (thin::pitch(depth.len()), Some(c_type(operand))),
            _ => (depth.len(), None),
        };
        let convert = |x: &str| match operand {
            Some(operand) => format!("from_f32<{operand}>({x})"),
            None => x.to_string(),
        };
        let mut base = shared_base.next_multiple_of(4);
        let row_buffer = (!stage.whole).then(|| {
            let name = self.names.fresh(&format!("s_{}_row", value.name));
            let at = base;
            base += stage.buffer(graph).next_multiple_of(4);
            (name, at)
        });
        let target = match &row_buffer {
            None => format!("xs + tile_row * {pitch}"),
            Some((name, _)) => name.clone(),
        };
        let mut conditions = vec!["column0 == 0".to_string()];
        conditions.extend(self.first_index.values().map(|f| format!("{f} == 0")));
        let walk = Walk {
            grid: &plain,
            program: &program,
            layouts: &layouts,
            stores: &stage.stores,
            sink: Some((x.value, target)),
            writer: Some(conditions.join(" && ")),
            first_index: BTreeMap::new(),
            direction: Direction::Forward,
            segments: None,
            met: Vec::new(),
            halo: true,
            repeats: false,
            streams: &|_| false,
            shared_base: base,
        };
        let walked = walk::emit(&walk, self.pointers, self.names);
        let mut text = Text::default();
        if let Some((name, at)) = &row_buffer {
            text.line(format!("float* const {name} = smem + {at};"));
        }
        text.open(format!(
            "for (int tile_row = 0; tile_row < {}; ++tile_row)",
            tile.rows()
        ));
        text.open("if (row0 + tile_row < rows)");
        text.line("const i64 batch = (row0 + tile_row) / T;");
        text.line("const i64 t_begin = (row0 + tile_row) % T;");
        text.line("const i64 t_end = t_begin + 1;");
        text.lines(&walked.code);
        if let Some((name, _)) = &row_buffer {
            let mut parts = vec![name.clone()];
            parts.extend(offset.block_text(&|a| self.first(a)));
            parts.extend(offset.local_text(&depth, "inner"));
            text.line("__syncthreads();");
            text.line(format!(
                "for (int inner = tid; inner < {}; inner += {threads}) xs[tile_row * {pitch} + inner] = {};",
                depth.len(),
                convert(&format!("*({})", parts.join(" + ")))
            ));
            text.line("__syncthreads();");
        }
        text.close();
        text.open("else");
        text.line(format!(
            "for (int inner = tid; inner < {}; inner += {threads}) xs[tile_row * {pitch} + inner] = {};",
            depth.len(),
            convert("0.0f")
        ));
        text.close();
        text.close();
        let reading = walked.reading && row_buffer.is_none();
        (text.finish(), walked.shared_floats, reading)
    }
}
