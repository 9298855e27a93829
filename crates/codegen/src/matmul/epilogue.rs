//! After a product: what becomes of its results, a column or a run of columns at a time.

use super::ProductLane;
use crate::affine::{Grid, Offset, OffsetText, Space};
use crate::memory::{Place, c_type};
use crate::text::Text;
use fusec_fuse::Body;
use fusec_ir::{Graph, IndexExpr, OpId, StateId, StateKind, ValueId};
use std::collections::BTreeMap;

/// A line of the caches, bytes.
const LINE_BYTES: usize = 128;

impl<'g> ProductLane<'_, 'g> {
    /// Address of the first of a run of elements that lie side by side where columns do; `None`
    /// where they do not, or are not aligned, and outside of runs.
    pub(super) fn run_address(
        &self,
        grid: &Grid<'g>,
        value: ValueId,
        pointer: &str,
        offset: &Offset,
        space: &Space,
    ) -> Option<String> {
        let run = self.run.as_ref()?.columns;
        let local = offset.local_text(space, "column_first")?;
        let row = match self.graph.value(value).rows {
            true => Some(self.graph.row_elements(value)),
            false => None,
        };
        let aligned = offset.aligned(grid, space, run as i64)
            && row.is_none_or(|row| row.is_multiple_of(run));
        if local != "column_first" || !aligned {
            return None;
        }
        let mut parts = vec![pointer.to_string()];
        parts.extend(row.map(|row| format!("row * {row}")));
        parts.extend(offset.block_text(&|a| self.first(a)));
        parts.push(local);
        Some(parts.join(" + "))
    }

    /// How a run is loaded. Of rows of which the four lanes beside each other take whole lines, a warpgroup
    /// needs nothing again: they leave the L2 cache to what is multiplied. Parts of lines stay for the next run.
    pub(super) fn run_load(&self, value: ValueId) -> &'static str {
        let element = self.pointers.element(Place::Value(value));
        let run = self.run.as_ref().map_or(0, |run| run.columns);
        let whole_lines = 4 * run * element.bytes() >= LINE_BYTES;
        match self.graph.value(value).rows && self.by_warpgroups && whole_lines {
            true => "load_vec_stream",
            false => "load_vec",
        }
    }

    /// What happens to the results of the products, for element `(row, column)`.
    pub(super) fn epilogue(&mut self) -> String {
        let graph = self.graph;
        let grid = self.grid.clone();
        let space = self.columns.clone();
        let mut text = Text::default();
        let mut known: BTreeMap<ValueId, String> = BTreeMap::new();
        for id in self.body.anchors() {
            let value = graph.op(*id).outputs[0];
            known.insert(
                value,
                self.product_names.get(id).cloned().unwrap_or_default(),
            );
        }
        let body = self.body;
        for id in &body.roles.epilogue {
            self.element_map(&grid, *id, &space, "column", &mut known, &mut text);
        }
        let mut after = [body.anchors(), &body.roles.epilogue].concat();
        after.sort_unstable();
        for id in &after {
            for value in &graph.op(*id).outputs {
                if !body.stores.contains(value) {
                    continue;
                }
                let Some(name) = known.get(value).cloned() else {
                    continue;
                };
                let axes = &graph.value(*value).axes;
                let index: Vec<IndexExpr> = axes.iter().map(|a| IndexExpr::axis(*a)).collect();
                let offset = grid.global(axes, &index);
                let pointer = self.pointers.write(Place::Value(*value), self.names);
                let element = c_type(self.pointers.element(Place::Value(*value)));
                if let Some(address) = self.run_address(&grid, *value, &pointer, &offset, &space)
                    && let Some(run) = &mut self.run
                {
                    let (n, all) = (run.columns, self.names.fresh(&format!("{name}_run")));
                    let store = match self.by_warpgroups {
                        true => "store_vec_global",
                        false => "store_vec",
                    };
                    run.before.push_str(&format!("float {all}[{n}];\n"));
                    run.after
                        .push_str(&format!("{store}<{element}, {n}>({address}, {all});\n"));
                    text.line(format!("{all}[nth] = {name};"));
                    continue;
                }
                let mut parts = vec![match graph.row_elements(*value) {
                    1 => "row".to_string(),
                    n => format!("row * {n}"),
                }];
                parts.extend(offset.block_text(&|a| self.first(a)));
                parts.extend(offset.local_text(&space, "column"));
                text.line(format!(
                    "{pointer}[{}] = from_f32<{element}>({name});",
                    parts.join(" + ")
                ));
            }
        }
        self.keep_rows(&after, &space, &known, &mut text);
        text.finish()
    }

    /// Brings the tails of a single step's results up to date, for element `(row, column)`: its rows
    /// move up by one, and the last is that of the step.
    fn keep_rows(
        &mut self,
        after: &[OpId],
        space: &Space,
        known: &BTreeMap<ValueId, String>,
        text: &mut Text,
    ) {
        let graph = self.graph;
        let grid = self.grid.clone();
        let kept = after.iter().flat_map(|id| &graph.op(*id).tails);
        let kept: Vec<StateId> = kept
            .filter(|tail| self.body.tails.contains(tail))
            .copied()
            .collect();
        for tail in kept {
            let StateKind::Tail { value, width } = graph.state(tail).kind else {
                continue;
            };
            let Some(name) = known.get(&value) else {
                continue;
            };
            let axes = &graph.value(value).axes;
            let index: Vec<IndexExpr> = axes.iter().map(|a| IndexExpr::axis(*a)).collect();
            let offset = grid.global(axes, &index);
            let new = self.pointers.write(Place::NewTail(tail), self.names);
            let last = width as i32 - 1;
            for row in 0..last {
                let old = self.pointers.read(Place::OldTail(tail), self.names);
                let to = self.tail_element(tail, row, &offset, space, "column");
                let from = self.tail_element(tail, row + 1, &offset, space, "column");
                text.line(format!("{new}[{to}] = {old}[{from}];"));
            }
            let to = self.tail_element(tail, last, &offset, space, "column");
            text.line(format!("{new}[{to}] = {name};"));
        }
    }
}

/// Whether something after the products of a body needs runs of a single token: a stencil.
pub(super) fn is_of_single_steps(graph: &Graph, body: &Body) -> bool {
    let mut after = body.roles.epilogue.iter().map(|id| graph.op(*id));
    after.any(|op| !op.tails.is_empty() || op.inputs.iter().any(|access| access.delay != 0))
}
