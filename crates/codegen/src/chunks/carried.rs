//! What one run leaves for the next: the state, and the last rows of stencils.

use super::{Hooks, Scope, first, sum};
use crate::CodegenError;
use crate::affine::{Grid, OffsetText};
use crate::chunked::Handed;
use crate::memory::Place;
use crate::text::Text;
use fusec_fuse::schedule::program::Held;
use fusec_fuse::schedule::{Pass, Segments};
use fusec_ir::{Access, IndexExpr, OpKind, StateId, StateKind};
use std::collections::BTreeMap;

impl<'g> Hooks<'_, 'g> {
    /// The only state.
    pub(super) fn only_state(&self) -> Result<StateId, CodegenError> {
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
        Ok(state)
    }

    /// Statements that load and store element (kj, vi) of the state.
    pub(super) fn state(&mut self) -> Result<(String, String), CodegenError> {
        let state = self.only_state()?;
        let at = self.in_state(
            state,
            format!("batch * {}", self.graph.state_elements(state)),
        );
        let kept = self.parts.step.states.iter().all(|state| state.kept);
        let place = Place::State(state);
        let pointer = match kept {
            true => self.pointers.write(place, self.names),
            false => self.pointers.read(place, self.names),
        };
        let store = match kept {
            true => format!("{pointer}[{at}] = s_element;"),
            // Another recurrence keeps the state.
            false => String::new(),
        };
        Ok((format!("s_element = {pointer}[{at}];"), store))
    }

    /// The place of element (kj, vi) in a copy of the state that begins at `start`.
    fn in_state(&self, state: StateId, start: String) -> String {
        let axes = &self.graph.state(state).axes;
        let index: Vec<IndexExpr> = axes.iter().map(|a| IndexExpr::axis(*a)).collect();
        let offset = self.grid.global(axes, &index);
        let mut places = vec![start];
        places.extend(offset.block_text(&|a| first(&self.first_index, a)));
        places.extend(offset.local_text(&self.key, "kj"));
        places.extend(offset.local_text(&self.value, "vi"));
        places.join(" + ")
    }

    /// The same statements in a pass over segments of T, and what is handed from one to another.
    pub(super) fn handed_state(
        &mut self,
        segments: Segments,
    ) -> Result<(String, String, Handed), CodegenError> {
        let graph = self.graph;
        let state = self.only_state()?;
        let own = graph.state_elements(state);
        let (copies, products) = (segments.states(), segments.products());
        // Of the updates of a token without factors the first one alone has a decay.
        let decay = self.parts.updates.first().map(|update| update.decay);
        let decay_axes = decay.map_or(vec![], |decay| self.parts.axes_of(decay).to_vec());
        let of_product = graph.elements(&decay_axes);
        let copy =
            |s: &Self, n: &str| s.in_state(state, format!("(batch * {copies} + {n}) * {own}"));
        let product = |s: &Self, n: &str| {
            let index: Vec<IndexExpr> = decay_axes.iter().map(|a| IndexExpr::axis(*a)).collect();
            let offset = s.grid.global(&decay_axes, &index);
            let mut places = vec![format!("(batch * {products} + {n}) * {of_product}")];
            places.extend(offset.block_text(&|a| first(&s.first_index, a)));
            places.extend(offset.local_text(&s.key, "kj"));
            places.join(" + ")
        };
        let states = Place::Segments(state, Held::State, copies * own);
        let decays = Place::Segments(state, Held::Product, products * of_product);
        let given = self.in_state(state, format!("batch * {own}"));
        match segments.pass {
            Pass::States => {
                let pointer = self.pointers.read(Place::State(state), self.names);
                let copied = self.pointers.write(states, self.names);
                let decayed = self.pointers.write(decays, self.names);
                let mut load = Text::default();
                load.open("if (segment == 0)");
                load.line(format!("s_element = {pointer}[{given}];"));
                load.line(format!("{copied}[{}] = s_element;", copy(self, "0")));
                load.close();
                let store = format!("{copied}[{}] = s_element;", copy(self, "segment + 1"));
                // Blocks with other value columns have the same decays: the first of them stores them.
                let others = self
                    .grid
                    .axes()
                    .iter()
                    .filter(|g| !decay_axes.contains(&g.axis));
                let conditions =
                    others.map(|g| format!("{} == 0", first(&self.first_index, g.axis)));
                let mut conditions: Vec<String> = conditions.collect();
                conditions.insert(0, "segment > 0".into());
                let store_product = format!(
                    "if ({}) {decayed}[{}] = product_element;",
                    conditions.join(" && "),
                    product(self, "segment - 1")
                );
                Ok((load.finish(), store, Handed::Leaves { store_product }))
            }
            Pass::Results => {
                let pointer = self.pointers.write(Place::State(state), self.names);
                let copied = self.pointers.read(states, self.names);
                let decayed = self.pointers.read(decays, self.names);
                let load = format!(
                    "s_element = {copied}[{}];",
                    copy(self, "(segment > 0 ? 1 : 0)")
                );
                let store = format!("{pointer}[{given}] = s_element;");
                let bring_state = format!(
                    "s_element = {decayed}[{}] * s_element + {copied}[{}];",
                    product(self, "before - 1"),
                    copy(self, "before + 1")
                );
                let handed = Handed::Takes {
                    segments: segments.count,
                    bring_state,
                };
                Ok((load, store, handed))
            }
        }
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
