//! What is carried along T: states, histories of stencils, tails.

use super::Emitter;
use super::operand::strided;
use crate::affine::Offset;
use crate::layout::{Layout, Place};
use crate::memory;
use crate::micro::Src;
use fusec_ir::{AxisId, IndexExpr, StateId, ValueId};

/// Where a state lies: its registers, and the first element of a thread in memory.
pub(super) struct StatePlace {
    pub layout: usize,
    pub name: String,
    pub address: String,
    /// The part of the address that chooses the sequence.
    pub row: String,
    pub offset: Offset,
}

impl<'g> Emitter<'_, 'g, '_> {
    /// Emits one line per element of a layout, outside the stages.
    pub(super) fn each_element(&mut self, layout: usize, line: impl Fn(&Self) -> Vec<String>) {
        let l = self.layout(layout).clone();
        self.open_elements(&l);
        let lines = line(self);
        let vector = l.vector > 1;
        if vector {
            self.text.line("#pragma unroll");
            self.text
                .open(format!("for (int nth = 0; nth < {}; ++nth)", l.vector));
        }
        for line in lines {
            self.text.line(line);
        }
        if vector {
            self.text.close();
        }
        self.close_elements(&l, &[]);
    }

    /// `pointer[...]` of one element of `axes` laid out row-major, inside the loops of a layout.
    pub(super) fn element(
        &self,
        layout: usize,
        pointer: &str,
        row: String,
        axes: &[AxisId],
    ) -> String {
        let l = self.layout(layout);
        let offset = self.row_major(axes);
        let address = self.address(pointer, Some(row), &offset, &l.space);
        if l.vector > 1 {
            format!("({address})[{}]", strided(l, offset.step(&l.space)))
        } else {
            format!("*({address})")
        }
    }

    pub(super) fn load_states(&mut self) {
        if self.walk.segments.is_some() {
            self.load_handed();
            return;
        }
        for i in 0..self.walk.program.states.len() {
            let place = self.state_place(i);
            let declaration = self.declaration(place.layout, &place.name);
            self.text.line(declaration);
            self.load_state(&place);
        }
    }

    pub(super) fn save_states(&mut self) {
        if self.walk.segments.is_some() {
            self.hand_on();
            return;
        }
        // Of a state that is one number, every thread has loaded a copy; one of them stores it, in
        // the place where others may not have looked yet.
        let states = self.walk.program.states.iter();
        let kept: Vec<usize> = states
            .enumerate()
            .filter(|(_, state)| state.kept)
            .map(|(i, _)| i)
            .collect();
        let uniform = |i: &usize| self.layout(self.walk.layouts.states[*i]).space.len() == 1;
        if kept.iter().any(uniform) {
            self.barrier();
        }
        for i in kept {
            let place = self.state_place(i);
            self.store_state(&place);
        }
    }

    /// Writes a state's registers to where it lies.
    pub(super) fn store_state(&mut self, place: &StatePlace) {
        let l = self.layout(place.layout).clone();
        self.open_elements(&l);
        let store = match l.vector {
            1 => {
                let register = self.register(place.layout, &place.name);
                let uniform = l.space.len() == 1;
                let guard = if uniform { "if (tid == 0) " } else { "" };
                format!("{guard}*({}) = {register};", place.address)
            }
            _ => {
                let source = self.vector(place.layout, &place.name);
                self.store_vector(&l, &place.row, &place.offset, &place.address, &source)
            }
        };
        self.text.lines(&store);
        self.close_elements(&l, &[]);
    }

    /// Fills a state's registers from where it lies.
    pub(super) fn load_state(&mut self, place: &StatePlace) {
        let l = self.layout(place.layout).clone();
        self.open_elements(&l);
        let load = match l.vector {
            1 => {
                let register = self.register(place.layout, &place.name);
                format!("{register} = *({});", place.address)
            }
            _ => {
                let target = self.vector(place.layout, &place.name);
                let row = Some(place.row.as_str());
                self.load_vector(&l, row, &place.offset, "float", &place.address, &target)
            }
        };
        self.text.lines(&load);
        self.close_elements(&l, &[]);
    }

    /// Where a state lies in registers and in memory.
    fn state_place(&mut self, i: usize) -> StatePlace {
        let carried = &self.walk.program.states[i];
        let state = memory::Place::State(carried.state);
        let pointer = match carried.kept {
            true => self.pointers.write(state, self.names),
            false => self.pointers.read(state, self.names),
        };
        let elements = self.walk.grid.graph().state_elements(carried.state);
        self.place_of(i, &pointer, format!("batch * {elements}"))
    }

    /// Where what is carried lies in registers and, from `pointer + row` on, in memory.
    pub(super) fn place_of(&self, i: usize, pointer: &str, row: String) -> StatePlace {
        self.place_over(i, &self.walk.program.states[i].axes, pointer, row)
    }

    /// The same of what lies there over some of its axes.
    pub(super) fn place_over(
        &self,
        i: usize,
        axes: &[AxisId],
        pointer: &str,
        row: String,
    ) -> StatePlace {
        let layout = self.walk.layouts.states[i];
        let offset = self.row_major(axes);
        let space = &self.layout(layout).space;
        StatePlace {
            layout,
            name: self.state_ident[i].clone(),
            address: self.address(pointer, Some(row.clone()), &offset, space),
            row,
            offset,
        }
    }

    /// Writes the registers of one vector to f32 memory.
    fn store_vector(
        &self,
        layout: &Layout,
        row: &str,
        offset: &Offset,
        address: &str,
        source: &str,
    ) -> String {
        let (step, v, chunk) = (offset.step(&layout.space), layout.vector, layout.chunk);
        match (self.moves_whole(layout, Some(row), offset), layout.turns()) {
            (true, None) => format!("store_vec<float, {v}>({address}, {source});"),
            (true, Some(turns)) => {
                let apart = turns * chunk;
                format!("store_chunks<float, {v}, {chunk}>({address}, {apart}, {source});")
            }
            (false, _) => {
                let at = strided(layout, step);
                format!(
                    "#pragma unroll\nfor (int nth = 0; nth < {v}; ++nth) ({address})[{at}] = {source}[nth];"
                )
            }
        }
    }

    /// At the first row the histories are the carried tails, or zeros; elsewhere the halo fills them.
    pub(super) fn load_histories(&mut self, first: &str) {
        for i in 0..self.walk.program.statements.len() {
            let s = &self.walk.program.statements[i];
            if s.history == 0 {
                continue;
            }
            let layout = self.walk.layouts.placed[i].layout;
            let base = self.ident[i].clone();
            let names: Vec<(u32, String)> =
                (1..=s.history).map(|d| (d, Self::back(&base, d))).collect();
            for (_, name) in &names {
                let declaration = self.declaration(layout, name);
                self.text.line(declaration);
            }
            let Some(tail) = s.tail else {
                let names: Vec<String> = names.into_iter().map(|(_, name)| name).collect();
                self.each_element(layout, |s| {
                    let zero = |name: &String| format!("{} = 0.0f;", s.register(layout, name));
                    names.iter().map(zero).collect()
                });
                continue;
            };
            let (value, width) = self.tail_of(tail);
            let offset = self.history_offset(i, value);
            let n = self.walk.grid.graph().row_elements(value);
            let pointer = self.pointers.read(memory::Place::OldTail(tail), self.names);
            let l = self.layout(layout).clone();
            self.open_elements(&l);
            for (d, name) in &names {
                let row = format!("(batch * {width} + {}) * {n}", width - d);
                if l.vector == 1 {
                    let register = self.register(layout, name);
                    let address = self.address(&pointer, Some(row), &offset, &l.space);
                    self.text
                        .line(format!("{register} = {first} == 0 ? *({address}) : 0.0f;"));
                    continue;
                }
                let address = self.address(&pointer, Some(row.clone()), &offset, &l.space);
                let target = self.vector(layout, name);
                let load = self.load_vector(&l, Some(&row), &offset, "float", &address, &target);
                self.text.open(format!("if ({first} == 0)"));
                self.text.lines(&load);
                self.text.close();
                self.text.open("else");
                self.text.lines(&format!(
                    "#pragma unroll\nfor (int nth = 0; nth < {}; ++nth) {target}[nth] = 0.0f;",
                    l.vector
                ));
                self.text.close();
            }
            self.close_elements(&l, &[]);
        }
    }

    /// The first element of a thread's vector in a row of `axes` laid out row-major.
    fn vector_place(
        &self,
        layout: usize,
        pointer: &str,
        row: &str,
        axes: &[AxisId],
    ) -> (String, Offset) {
        let offset = self.row_major(axes);
        let space = &self.layout(layout).space;
        let address = self.address(pointer, Some(row.to_string()), &offset, space);
        (address, offset)
    }

    /// Where the elements of a statement lie in a row of the tail that holds its history: what loads a part of
    /// a value from memory has the same part of its earlier rows.
    fn history_offset(&self, statement: usize, value: ValueId) -> Offset {
        let own = &self.walk.program.statements[statement];
        match own.reads.as_slice() {
            [read] if own.op.is_none() && read.src == Src::Row(value) => {
                self.walk.grid.global(&read.axes, &read.index)
            }
            _ => self.row_major(&self.tail_axes(statement, value)),
        }
    }

    /// Where the elements of a row of `axes` lie that is laid out row-major.
    fn row_major(&self, axes: &[AxisId]) -> Offset {
        let index: Vec<IndexExpr> = axes.iter().map(|a| IndexExpr::axis(*a)).collect();
        self.walk.grid.global(axes, &index)
    }

    pub(super) fn tail_of(&self, tail: StateId) -> (ValueId, u32) {
        match self.walk.grid.graph().state(tail).kind {
            fusec_ir::StateKind::Tail { value, width } => (value, width),
            fusec_ir::StateKind::Scan { .. } => (ValueId(0), 0),
        }
    }

    /// The axes by which a statement's rows lie in its tail: those of the value, under the names
    /// by which the statement runs over them.
    pub(super) fn tail_axes(&self, statement: usize, value: ValueId) -> Vec<AxisId> {
        let own = &self.walk.program.statements[statement];
        let axes = &self.walk.grid.graph().value(value).axes;
        if own.axes.len() == axes.len() {
            own.axes.clone()
        } else {
            axes.clone()
        }
    }

    pub(super) fn tail_guard(&self, statement: usize) -> Option<String> {
        let axes = &self.walk.program.statements[statement].axes;
        self.write_condition(axes, self.walk.writer.clone())
    }

    /// Runs shorter than a tail keep its newest old rows.
    pub(super) fn carry_old_tails(&mut self) {
        let tails = self.walk.program.tails.clone();
        for (tail, statement, width) in tails {
            if width < 2 {
                continue;
            }
            let (value, _) = self.tail_of(tail);
            let axes = self.tail_axes(statement, value);
            let n = self.walk.grid.graph().row_elements(value);
            let layout = self.walk.layouts.placed[statement].layout;
            let old = self.pointers.read(memory::Place::OldTail(tail), self.names);
            let new = self
                .pointers
                .write(memory::Place::NewTail(tail), self.names);
            let mut condition = "t_begin == 0".to_string();
            if let Some(guard) = self.tail_guard(statement) {
                condition = format!("{condition} && {guard}");
            }
            self.text.open(format!("if ({condition})"));
            self.text
                .open(format!("for (i64 kept = 0; kept + T < {width}; ++kept)"));
            let (to, from) = (
                format!("(batch * {width} + kept) * {n}"),
                format!("(batch * {width} + kept + T) * {n}"),
            );
            let l = self.layout(layout).clone();
            self.open_elements(&l);
            if l.vector == 1 {
                let to = self.element(layout, &new, to, &axes);
                let from = self.element(layout, &old, from, &axes);
                self.text.line(format!("{to} = {from};"));
            } else {
                let kept = self.names.fresh("kept_row");
                self.text.line(format!("float {kept}[{}];", l.vector));
                let (address, offset) = self.vector_place(layout, &old, &from, &axes);
                let load = self.load_vector(&l, Some(&from), &offset, "float", &address, &kept);
                let (address, offset) = self.vector_place(layout, &new, &to, &axes);
                let store = self.store_vector(&l, &to, &offset, &address, &kept);
                self.text.lines(&load);
                self.text.lines(&store);
            }
            self.close_elements(&l, &[]);
            self.text.close();
            self.text.close();
        }
    }

    pub(super) fn write_tails(&mut self) {
        let tails = self.walk.program.tails.clone();
        for (tail, statement, width) in tails {
            let (value, _) = self.tail_of(tail);
            let axes = self.tail_axes(statement, value);
            let n = self.walk.grid.graph().row_elements(value);
            let placed = self.walk.layouts.placed[statement].clone();
            let new = self
                .pointers
                .write(memory::Place::NewTail(tail), self.names);
            let mut condition = format!("t >= T - {width}");
            if let Some(guard) =
                self.write_condition(&self.walk.program.statements[statement].axes, self.live())
            {
                condition = format!("{condition} && {guard}");
            }
            let name = self.ident[statement].clone();
            let row = format!("(batch * {width} + t - (T - {width})) * {n}");
            self.text.open(format!("if ({condition})"));
            match placed.place {
                Place::Registers | Place::Uniform => {
                    let uniform = placed.place == Place::Uniform;
                    let l = self.layout(placed.layout).clone();
                    self.open_elements(&l);
                    let store = match l.vector {
                        1 => {
                            let register = self.register(placed.layout, &name);
                            let to = self.element(placed.layout, &new, row.clone(), &axes);
                            let guard = if uniform { "if (tid == 0) " } else { "" };
                            format!("{guard}{to} = {register};")
                        }
                        _ => {
                            let (address, offset) =
                                self.vector_place(placed.layout, &new, &row, &axes);
                            let source = self.vector(placed.layout, &name);
                            self.store_vector(&l, &row, &offset, &address, &source)
                        }
                    };
                    self.text.lines(&store);
                    self.close_elements(&l, &[]);
                }
                Place::Slice | Place::Shared => {
                    // Histories are kept by maps, so a tail's rows are always in registers.
                }
            }
            self.text.close();
        }
    }

    /// The end of a row: new states and histories take the place of the old.
    pub(super) fn advance(&mut self) {
        for i in 0..self.walk.program.states.len() {
            let next = self.walk.program.states[i].next;
            let layout = self.walk.layouts.states[i];
            let (state, next) = (self.state_ident[i].clone(), self.ident[next].clone());
            // Rows of another segment change no state.
            let live = if self.halo > 0 { "if (live) " } else { "" };
            self.each_element(layout, |s| {
                vec![format!(
                    "{live}{} = {};",
                    s.register(layout, &state),
                    s.register(layout, &next)
                )]
            });
        }
        for i in 0..self.walk.program.statements.len() {
            let history = self.walk.program.statements[i].history;
            if history == 0 {
                continue;
            }
            let layout = self.walk.layouts.placed[i].layout;
            let name = self.ident[i].clone();
            self.each_element(layout, |s| {
                (1..=history)
                    .rev()
                    .map(|d| {
                        let to = s.register(layout, &Self::back(&name, d));
                        let from = match d {
                            1 => s.register(layout, &name),
                            _ => s.register(layout, &Self::back(&name, d - 1)),
                        };
                        format!("{to} = {from};")
                    })
                    .collect()
            });
        }
    }
}
