//! Operands of sums over all rows: where they lie, and how they come to registers.

use crate::affine::{Grid, OffsetText, Space, sum_text};
use crate::memory::{Place, Pointers, c_type};
use crate::names::Names;
use crate::text::Text;
use fusec_ir::{Access, AxisId, Graph};
use std::collections::BTreeMap;

/// What operands are read by: `i64 row` of the run, `int inner` along the axes that are summed with the
/// rows, and the number of a column.
pub struct Operands<'a, 'g> {
    pub graph: &'g Graph,
    pub grid: Grid<'g>,
    pub summed: Space,
    /// The index of a block along each axis of the batch.
    pub first_index: BTreeMap<AxisId, String>,
    pub pointers: &'a mut Pointers<'g>,
    pub names: &'a mut Names,
}

impl<'g> Operands<'_, 'g> {
    /// The index of a block along an axis of the batch.
    pub fn first(&self, axis: AxisId) -> String {
        let known = self.first_index.get(&axis).cloned();
        known.unwrap_or_else(|| "0".into())
    }

    /// Name of the pointer to the value that is read.
    pub fn pointer(&mut self, access: &Access) -> String {
        self.pointers.read(Place::Value(access.value), self.names)
    }

    /// Offset of an element of the current row.
    pub fn at(&self, access: &Access, columns: &Space, column: &str) -> String {
        let rows = self.graph.value(access.value).rows;
        self.offset(access, columns, column, rows.then_some("row"))
    }

    fn offset(&self, access: &Access, columns: &Space, column: &str, row: Option<&str>) -> String {
        let axes = &self.graph.value(access.value).axes;
        let offset = self.grid.global(axes, &access.index);
        let mut parts = Vec::new();
        parts.extend(row.map(|row| match self.graph.row_elements(access.value) {
            1 => row.to_string(),
            n => format!("{row} * {n}"),
        }));
        parts.extend(offset.block_text(&|a| self.first(a)));
        parts.extend(offset.local_text(&self.summed, "inner"));
        parts.extend(offset.local_text(columns, column));
        sum_text(parts)
    }

    /// Statements that fill `target[0..vector)` with neighbouring elements, the first at `column`. Rows
    /// before the first come from the tail that holds them; other rows outside of the run are zero.
    pub fn load(
        &mut self,
        access: &Access,
        columns: &Space,
        column: &str,
        vector: usize,
        target: &str,
    ) -> String {
        let place = Place::Value(access.value);
        let pointer = self.pointers.read(place, self.names);
        let element = c_type(self.pointers.element(place));
        let is_of_rows = self.graph.value(access.value).rows;
        if access.delay == 0 || !is_of_rows {
            let at = self.at(access, columns, column);
            return moved(&pointer, element, &at, vector, target);
        }
        let delay = i64::from(access.delay);
        let (inside, row) = match delay {
            d if d > 0 => (format!("row % T >= {d}"), format!("(row - {d})")),
            d => (format!("row % T + {} < T", -d), format!("(row + {})", -d)),
        };
        let now = self.offset(access, columns, column, Some(&row));
        let mut text = Text::default();
        text.open(format!("if ({inside})"));
        text.lines(&moved(&pointer, element, &now, vector, target));
        text.close();
        text.open("else");
        match access.tail.filter(|_| delay > 0) {
            Some(tail) => {
                let width = i64::from(self.graph.tail_width(tail));
                let old = self.pointers.read(Place::OldTail(tail), self.names);
                let row = format!("(row / T * {width} + {} + row % T)", width - delay);
                let before = self.offset(access, columns, column, Some(&row));
                text.lines(&moved(&old, "float", &before, vector, target));
            }
            None if vector == 1 => text.line(format!("{target}[0] = 0.0f;")),
            None => text.lines(&format!(
                "#pragma unroll\nfor (int nth = 0; nth < {vector}; ++nth) {target}[nth] = 0.0f;"
            )),
        }
        text.close();
        text.finish()
    }
}

fn moved(pointer: &str, element: &str, at: &str, vector: usize, target: &str) -> String {
    match vector {
        1 => format!("{target}[0] = to_f32({pointer}[{at}]);"),
        v => format!("load_vec<{element}, {v}>({pointer} + {at}, {target});"),
    }
}
