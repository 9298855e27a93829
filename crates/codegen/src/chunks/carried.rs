//! What one run leaves for the next: the state, and the last rows of stencils.

use super::{Hooks, Scope, first, sum};
use crate::CodegenError;
use crate::affine::{Grid, OffsetText};
use crate::memory::Place;
use crate::text::Text;
use fusec_ir::{Access, IndexExpr, OpKind, StateId, StateKind};
use std::collections::BTreeMap;

impl<'g> Hooks<'_, 'g> {
    /// Statements that load and store element (kj, vi) of the state.
    pub(super) fn state(&mut self) -> Result<(String, String), CodegenError> {
        let states = match &self.graph.op(self.scan).kind {
            OpKind::Scan { states, .. } => states.as_slice(),
            _ => &[],
        };
        let [state] = states[..] else {
            return Err(CodegenError::Unsupported {
                kernel: self.graph.op(self.scan).name.clone(),
                what: format!("a chunked recurrence with {} states", states.len()),
            });
        };
        let axes = &self.graph.state(state).axes;
        let index: Vec<IndexExpr> = axes.iter().map(|a| IndexExpr::axis(*a)).collect();
        let offset = self.grid.global(axes, &index);
        let mut places = vec![format!("batch * {}", self.graph.state_elements(state))];
        places.extend(offset.block_text(&|a| first(&self.first_index, a)));
        places.extend(offset.local_text(&self.key, "kj"));
        places.extend(offset.local_text(&self.value, "vi"));
        let at = places.join(" + ");
        let pointer = self.pointers.write(Place::State(state), self.names);
        Ok((
            format!("s_element = {pointer}[{at}];"),
            format!("{pointer}[{at}] = s_element;"),
        ))
    }

    /// A row that was kept: the last ones before this run, oldest first.
    pub(super) fn old_row(
        &mut self,
        tail: StateId,
        access: &Access,
        back: u32,
        scope: &Scope,
    ) -> String {
        let width = self.graph.tail_width(tail);
        let pointer = self.pointers.read(Place::OldTail(tail), self.names);
        // Row t - back of this run is row width + t - back of the tail.
        let row = match i64::from(width) - i64::from(back) {
            0 => format!("batch * {width} + t"),
            n if n > 0 => format!("batch * {width} + t + {n}"),
            n => format!("batch * {width} + t - {}", -n),
        };
        let mut places = vec![match self.graph.row_elements(access.value) {
            1 => row,
            n => format!("({row}) * {n}"),
        }];
        places.extend(self.in_row(access.value, &access.index, scope));
        format!("{pointer}[{}]", sum(places))
    }

    /// Brings stencil tails up to date; the blocks of a sequence share the work.
    pub(super) fn tails(&mut self, threads: usize, blocks: usize) -> String {
        let graph = self.graph;
        let mut text = Text::default();
        for tail in &self.body.tails {
            let StateKind::Tail { value, width } = graph.state(*tail).kind else {
                continue;
            };
            let row = graph.row_elements(value);
            let items = row * width as usize;
            let old = self.pointers.read(Place::OldTail(*tail), self.names);
            let new = self.pointers.write(Place::NewTail(*tail), self.names);
            text.line("");
            text.line(format!(
                "// The last {width} rows of {}, for the next run.",
                graph.value(value).name
            ));
            let (start, step) = match blocks {
                1 => ("tid".to_string(), threads.to_string()),
                n => (
                    format!("share * {threads} + tid"),
                    (n * threads).to_string(),
                ),
            };
            text.open(format!(
                "for (i64 item = {start}; item < {items}; item += {step})"
            ));
            text.line(format!("const int elem = (int)(item % {row});"));
            text.line(format!("const i64 t = T - {width} + item / {row};"));
            text.line("float kept;");
            text.open("if (t < 0)");
            text.line(format!("kept = {old}[batch * {items} + item + T * {row}];"));
            text.close();
            text.open("else");
            let axes = graph.value(value).axes.clone();
            let mut scope = Scope {
                space: Grid::new(graph, &[]).space(&axes),
                element: "elem".into(),
                grid_first: BTreeMap::new(),
                in_chunk: false,
                back: 0,
                known: Vec::new(),
            };
            let kept = self.read(&Access::plain(value, &axes), &mut scope, &mut text);
            text.line(format!("kept = {kept};"));
            text.close();
            text.line(format!("{new}[batch * {items} + item] = kept;"));
            text.close();
        }
        text.finish()
    }
}
