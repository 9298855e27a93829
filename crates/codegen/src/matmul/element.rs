//! Maps at one element of a row, before and after a product.

use super::ProductLane;
use crate::affine::{Grid, Offset, OffsetText, Space, index_text, sum_text};
use crate::cexpr::{self, Leaves};
use crate::memory::{Place, c_type};
use crate::text::Text;
use fusec_ir::{Access, AxisId, Expr, OpId, OpKind, StateId, ValueId};
use std::collections::BTreeMap;

impl<'g> ProductLane<'_, 'g> {
    /// One map at one element of row `row`: defines its result, remembers its name.
    pub(super) fn element_map(
        &mut self,
        grid: &Grid<'g>,
        id: OpId,
        space: &Space,
        element: &str,
        known: &mut BTreeMap<ValueId, String>,
        text: &mut Text,
    ) {
        let op = self.graph.op(id);
        let OpKind::Map { expr } = &op.kind else {
            return;
        };
        let operands: Vec<String> = op
            .inputs
            .iter()
            .map(|a| match known.get(&a.value) {
                Some(name) if a.delay == 0 => name.clone(),
                _ => self.element_operand(grid, a, space, element),
            })
            .collect();
        expr.walk(&mut |e| self.position |= matches!(e, Expr::Position));
        let index = |axis: AxisId| {
            let local = index_text(space, axis, element);
            match self.first_index.get(&axis).filter(|_| grid.is_grid(axis)) {
                Some(first) if local == "0" => first.clone(),
                Some(first) => format!("{first} + {local}"),
                None => local,
            }
        };
        let value = cexpr::text(
            expr,
            &Leaves {
                input: &|i| operands.get(i).cloned().unwrap_or_default(),
                index: &index,
                position: "position + row % T",
                varies: None,
            },
        );
        let name = self.names.fresh(&self.graph.value(op.outputs[0]).name);
        text.line(format!("const float {name} = {value};"));
        known.insert(op.outputs[0], name);
    }

    pub(super) fn element_operand(
        &mut self,
        grid: &Grid<'g>,
        access: &Access,
        space: &Space,
        element: &str,
    ) -> String {
        let graph = self.graph;
        let value = graph.value(access.value);
        let offset = grid.global(&value.axes, &access.index);
        if access.delay > 0
            && let Some(tail) = access.tail
        {
            return self.kept_operand(tail, access.delay, &offset, space, element);
        }
        let place = Place::Value(access.value);
        let pointer = self.pointers.read(place, self.names);
        let element_type = c_type(self.pointers.element(place));
        if let Some(address) = self.run_address(grid, access.value, &pointer, &offset, space) {
            if let Some(name) = self.run_operands.get(&address) {
                return format!("{name}[nth]");
            }
            let name = self.names.fresh(&format!("{}_in", value.name));
            let load = self.run_load(access.value);
            if let Some(run) = &mut self.run {
                let n = run.columns;
                run.before.push_str(&format!(
                    "float {name}[{n}];\n{load}<{element_type}, {n}>({address}, {name});\n"
                ));
            }
            self.run_operands.insert(address, name.clone());
            return format!("{name}[nth]");
        }
        let mut parts = Vec::new();
        if value.rows {
            parts.push(match graph.row_elements(access.value) {
                1 => "row".to_string(),
                n => format!("row * {n}"),
            });
        }
        parts.extend(offset.block_text(&|a| self.first(a)));
        parts.extend(offset.local_text(space, element));
        let at = sum_text(parts);
        format!("to_f32({pointer}[{at}])")
    }

    /// An element `delay` rows before that of a single step, which its tail has.
    fn kept_operand(
        &mut self,
        tail: StateId,
        delay: i32,
        offset: &Offset,
        space: &Space,
        element: &str,
    ) -> String {
        let pointer = self.pointers.read(Place::OldTail(tail), self.names);
        let width = self.graph.tail_width(tail) as i32;
        let at = self.tail_element(tail, width - delay, offset, space, element);
        format!("{pointer}[{at}]")
    }

    /// Where element `offset` of row `kept` of a sequence's tail lies; a single step has a row of each
    /// sequence.
    pub(super) fn tail_element(
        &self,
        tail: StateId,
        kept: i32,
        offset: &Offset,
        space: &Space,
        element: &str,
    ) -> String {
        let graph = self.graph;
        let n = graph.elements(&graph.state(tail).axes);
        let width = graph.tail_width(tail);
        let mut parts = vec![format!("row * {}", width as usize * n)];
        parts.extend((kept > 0).then(|| format!("{}", kept as usize * n)));
        parts.extend(offset.block_text(&|a| self.first(a)));
        parts.extend(offset.local_text(space, element));
        sum_text(parts)
    }
}
