//! What goes from one segment of T to another: see [`fusec_fuse::schedule::segments`].
//!
//! Copies of a state lie one after the other, for each sequence: first that before the first row, then what each
//! segment makes, of the first one the state after it. The products of what the second and later segments
//! multiply a state by lie likewise.

use super::Emitter;
use super::carried::StatePlace;
use crate::memory::Place;
use fusec_fuse::schedule::program::Held;
use fusec_fuse::schedule::{Pass, Segments};
use fusec_ir::AxisId;
use fusec_ir::class::{Algebra, Extreme};

/// What a segment makes of a state that met `by`, where `add` is what it makes of none, C text.
fn composed(algebra: Algebra, by: &str, state: &str, add: &str) -> String {
    match algebra {
        Algebra::Linear => format!("{by} * {state} + {add}"),
        Algebra::Extremal(Extreme::Max) => format!("fmax32({by} + {state}, {add})"),
        Algebra::Extremal(Extreme::Min) => format!("fmin32({by} + {state}, {add})"),
    }
}

/// A state that leaves no trace, C text.
fn no_state(algebra: Algebra) -> &'static str {
    match algebra {
        Algebra::Linear => "0.0f",
        Algebra::Extremal(Extreme::Max) => "-FUSEC_INF",
        Algebra::Extremal(Extreme::Min) => "FUSEC_INF",
    }
}

/// What a state has met over no rows, C text.
fn nothing_met(algebra: Algebra) -> &'static str {
    match algebra {
        Algebra::Linear => "1.0f",
        Algebra::Extremal(_) => "0.0f",
    }
}

impl<'g> Emitter<'_, 'g, '_> {
    /// The states before a block's rows: in the first pass, those before the first row, or zeros.
    pub(super) fn load_handed(&mut self) {
        let Some(segments) = self.walk.segments else {
            return;
        };
        for i in 0..self.walk.program.states.len() {
            let carried = &self.walk.program.states[i];
            let layout = self.walk.layouts.states[i];
            let name = self.state_ident[i].clone();
            let declaration = self.declaration(layout, &name);
            self.text.line(declaration);
            match (segments.pass, carried.held) {
                (Pass::States, Held::Product) => self.fill(i, nothing_met(carried.algebra)),
                (Pass::States, Held::State) => self.start(i, segments),
                (Pass::Results, _) => self.put_together(i, segments),
            }
        }
    }

    /// What a block leaves: to later segments, or, after the last one, to the next run.
    pub(super) fn hand_on(&mut self) {
        let Some(segments) = self.walk.segments else {
            return;
        };
        for i in 0..self.walk.program.states.len() {
            match (segments.pass, self.walk.program.states[i].held) {
                (Pass::States, Held::State) => {
                    let place = self.copy(i, segments, "segment + 1", true);
                    self.store_state(&place);
                }
                (Pass::States, Held::Product) => {
                    let axes = self.walk.program.states[i].axes.clone();
                    let place = self.product(i, &axes, segments, "segment - 1", true);
                    let condition = self.write_condition(&axes, Some("segment > 0".into()));
                    self.only_if(&condition.unwrap_or_default(), |s| s.store_state(&place));
                }
                (Pass::Results, _) => {
                    let carried = &self.walk.program.states[i];
                    let elements = self.walk.grid.graph().state_elements(carried.state);
                    let state = Place::State(carried.state);
                    let pointer = self.pointers.write(state, self.names);
                    let place = self.place_of(i, &pointer, format!("batch * {elements}"));
                    let last = format!("segment == {}", segments.count - 1);
                    self.only_if(&last, |s| s.store_state(&place));
                }
            }
        }
    }

    fn only_if(&mut self, condition: &str, body: impl FnOnce(&mut Self)) {
        self.text.open(format!("if ({condition})"));
        body(self);
        self.text.close();
    }

    fn fill(&mut self, i: usize, with: &str) {
        let layout = self.walk.layouts.states[i];
        let name = self.state_ident[i].clone();
        self.each_element(layout, |s| {
            vec![format!("{} = {with};", s.register(layout, &name))]
        });
    }

    /// The state before the first row, of which a copy is kept since the second pass brings it up to date.
    fn start(&mut self, i: usize, segments: Segments) {
        let carried = &self.walk.program.states[i];
        let elements = self.walk.grid.graph().state_elements(carried.state);
        let state = Place::State(carried.state);
        let pointer = self.pointers.read(state, self.names);
        let given = self.place_of(i, &pointer, format!("batch * {elements}"));
        let copy = self.copy(i, segments, "0", true);
        self.only_if("segment == 0", |s| {
            s.load_state(&given);
            s.store_state(&copy);
        });
        let without = no_state(carried.algebra);
        self.text.open("else");
        self.fill(i, without);
        self.text.close();
    }

    /// The state before a segment, from what the segments before it made.
    fn put_together(&mut self, i: usize, segments: Segments) {
        let algebra = self.algebra(i);
        self.text.line(
            match algebra {
                Algebra::Linear => {
                    "// The state before this segment, from what those before it made of one of zeros."
                }
                Algebra::Extremal(_) => {
                    "// The state before this segment, from what those before it made of one of infinities."
                }
            },
        );
        let first = self.copy(i, segments, "(segment > 0 ? 1 : 0)", false);
        self.load_state(&first);
        let axes = self.decay_axes(i);
        let made = self.copy(i, segments, "(before + 1)", false);
        let product = self.product(i, &axes, segments, "(before - 1)", false);
        let layout = self.walk.layouts.states[i];
        let l = self.layout(layout).clone();
        let (state, add) = (self.state_ident[i].clone(), self.names.fresh("made"));
        self.text.line("#pragma unroll 2");
        self.text
            .open("for (int before = 1; before < segment; ++before)");
        self.open_elements(&l);
        let decay = self.names.fresh("decay");
        match l.vector {
            1 => {
                let register = self.register(layout, &state);
                let (by, add) = (
                    format!("*({})", product.address),
                    format!("*({})", made.address),
                );
                let composed = composed(algebra, &by, &register, &add);
                self.text.line(format!("{register} = {composed};"));
            }
            v => {
                let load = |s: &Self, place: &StatePlace, name: &str| {
                    let row = Some(place.row.as_str());
                    s.load_vector(&l, row, &place.offset, "float", &place.address, name)
                };
                let (decays, adds) = (load(self, &product, &decay), load(self, &made, &add));
                self.text.line(format!("float {decay}[{v}], {add}[{v}];"));
                self.text.lines(&decays);
                self.text.lines(&adds);
                let register = self.register(layout, &state);
                self.text.line("#pragma unroll");
                let (by, add) = (format!("{decay}[nth]"), format!("{add}[nth]"));
                let composed = composed(algebra, &by, &register, &add);
                self.text.line(format!(
                    "for (int nth = 0; nth < {v}; ++nth) {register} = {composed};"
                ));
            }
        }
        self.close_elements(&l, &[]);
        self.text.close();
    }

    /// The axes of what a state meets.
    fn decay_axes(&self, i: usize) -> Vec<AxisId> {
        let met = self.walk.met.get(i);
        met.map(|(axes, _)| axes.clone()).unwrap_or_default()
    }

    /// The algebra in which a state meets it. In the second pass steps are as they were written, and do not say.
    fn algebra(&self, i: usize) -> Algebra {
        let met = self.walk.met.get(i);
        met.map_or(Algebra::Linear, |(_, algebra)| *algebra)
    }

    /// Copy number `at` of a state, in the registers of the state.
    fn copy(&mut self, i: usize, segments: Segments, at: &str, written: bool) -> StatePlace {
        let state = self.walk.program.states[i].state;
        let own = self.walk.grid.graph().state_elements(state);
        let place = Place::Segments(state, Held::State, segments.states() * own);
        let row = format!("(batch * {} + {at}) * {own}", segments.states());
        let pointer = self.pointer(place, written);
        self.place_of(i, &pointer, row)
    }

    /// Product number `at` of what multiplies a state, over some axes.
    fn product(
        &mut self,
        i: usize,
        axes: &[AxisId],
        segments: Segments,
        at: &str,
        written: bool,
    ) -> StatePlace {
        let state = self.walk.program.states[i].state;
        let own = self.walk.grid.graph().elements(axes);
        let place = Place::Segments(state, Held::Product, segments.products() * own);
        let row = format!("(batch * {} + {at}) * {own}", segments.products());
        let pointer = self.pointer(place, written);
        self.place_over(i, axes, &pointer, row)
    }

    fn pointer(&mut self, place: Place, written: bool) -> String {
        match written {
            true => self.pointers.write(place, self.names),
            false => self.pointers.read(place, self.names),
        }
    }
}
