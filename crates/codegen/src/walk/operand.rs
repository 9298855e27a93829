//! Operands: registers of the same layout, shared copies, and loads from memory.

use super::Emitter;
use super::apart::Coming;
use super::stage::Piece;
use crate::affine::Offset;
use crate::layout::{Layout, LayoutText, Place};
use crate::memory::{self, c_type};
use crate::micro::{Read, Src};
use crate::parts::Part;
use fusec_ir::{Direction, Expr, ValueId};
use std::collections::BTreeMap;

/// Registers of a thread that states and operands loaded before the walk may fill.
const INVARIANT_REGISTERS: usize = 64;

/// Declarations and loads, by layout.
pub(super) type Loads = BTreeMap<usize, (Vec<String>, Vec<String>)>;

/// Operands that are the same for all tokens.
#[derive(Default)]
pub(super) struct Invariants {
    lines: Loads,
    registers: usize,
    /// C text of an element, by layout and address.
    loaded: BTreeMap<(usize, String), String>,
}

/// A row that is loaded ahead.
#[derive(Default)]
struct Pending {
    declaration: String,
    load: String,
    /// C text of an element, as f32.
    element: String,
}

impl<'g> Emitter<'_, 'g, '_> {
    /// Declares what an operand needs in the current stage; gives the C text of its element.
    pub(super) fn operand(&mut self, reader: usize, layout: usize, read: &Read) -> String {
        let walk = self.walk;
        match read.src {
            Src::Statement(source) if walk.layouts.in_registers(read, source, reader) => {
                let placed = &walk.layouts.placed[source];
                let name = if read.delay > 0 {
                    Self::back(&self.ident[source], read.delay)
                } else {
                    self.ident[source].clone()
                };
                match placed.place {
                    Place::Slice => self.slice_register(placed.layout, &name),
                    Place::Uniform => name,
                    _ => self.register(placed.layout, &name),
                }
            }
            Src::Statement(source) => {
                let shared = self.shared_copy(source);
                let storage = walk.layouts.placed[source].shared_space.clone();
                let offset = walk.grid.shared(&storage, &read.axes, &read.index);
                let name = match walk.program.formals.get(&read.src) {
                    Some(formal) => formal,
                    None => &walk.program.statements[source].name,
                };
                let name = match self.elsewhere[source] {
                    true => name.clone(),
                    false => format!("{name}_in"),
                };
                self.load(layout, &shared, None, &offset, "float", &name)
            }
            Src::State(i) => {
                let own = walk.layouts.states[i];
                self.register(own, &self.state_ident[i])
            }
            Src::Fixed(value) => self.load_value(layout, value, None, read),
            Src::Row(value) => {
                let row = self.row_part(value, "row");
                self.load_value(layout, value, row, read)
            }
            Src::Apart { .. } => self.element_apart(layout, read),
            Src::Table { table, ids } => {
                let ids = self.pointers.read(memory::Place::Value(ids), self.names);
                let width: usize = walk
                    .grid
                    .elements_after_first(&walk.grid.graph().value(table).axes);
                let row = format!("(i64){ids}[row] * {width}");
                self.load_value(layout, table, Some(row), read)
            }
        }
    }

    /// Whether a statement is the load of a row that the previous step has started.
    pub(super) fn prefetched(&self, i: usize) -> bool {
        self.walk.repeats && self.walk.layouts.parts.of[i] == Part::Step && self.is_row(i)
    }

    /// Whether a statement is the load of a row.
    pub(super) fn is_row(&self, i: usize) -> bool {
        let s = &self.walk.program.statements[i];
        let layout = self.layout(self.walk.layouts.placed[i].layout);
        s.reduce.is_none()
            && layout.turns().is_none()
            && s.expr == Expr::Input(0)
            && match s.reads.as_slice() {
                [read] => match read.src {
                    Src::Row(_) => true,
                    // What may lie in a tail instead has another type.
                    Src::Apart { tail, .. } => tail.is_none() && !layout.in_teams,
                    _ => false,
                },
                _ => false,
            }
    }

    pub(super) fn ahead(name: &str) -> String {
        format!("{name}_ahead")
    }

    /// Before the walk: starts the loads of its first row, and loads what is the same for all.
    pub(super) fn load_before(&mut self, first: &str) {
        let coming = match (self.walk.direction, self.walk.segments) {
            (Direction::Reverse, None) => Coming::Last,
            _ => Coming::First(first),
        };
        let rows = self.rows_under_way(Self::prefetched, coming);
        let invariants = std::mem::take(&mut self.invariants.lines);
        for (layout, (declarations, loads)) in rows.into_iter().chain(invariants) {
            for declaration in declarations {
                self.text.line(declaration);
            }
            self.start_loads(layout, &loads);
        }
    }

    /// Declarations and loads of some rows that are loaded ahead.
    pub(super) fn rows_under_way(
        &mut self,
        wanted: impl Fn(&Self, usize) -> bool,
        coming: Coming<'_>,
    ) -> Loads {
        let mut rows = Loads::new();
        for i in 0..self.walk.program.statements.len() {
            if wanted(self, i) {
                let pending = self.pending(i, coming);
                let layout = self.walk.layouts.placed[i].layout;
                let lines = rows.entry(layout).or_default();
                lines.0.push(pending.declaration);
                lines.1.push(pending.load);
            }
        }
        rows
    }

    /// Loads of one layout.
    pub(super) fn start_loads(&mut self, layout: usize, loads: &[String]) {
        let l = self.layout(layout).clone();
        self.open_elements(&l);
        for load in loads {
            self.text.lines(load);
        }
        self.close_elements(&l, &[]);
    }

    /// Takes over the row that was loaded ahead, and starts the load of the next one.
    pub(super) fn take_prefetched(&mut self, i: usize) {
        let layout = self.walk.layouts.placed[i].layout;
        let name = self.ident[i].clone();
        let (direction, segments) = (self.walk.direction, self.walk.segments);
        let pending = self.pending(i, Coming::Next(direction));
        let declaration = self.declaration(layout, &name);
        let taken = format!("{} = {};", self.register(layout, &name), pending.element);
        let next = !self.layout(layout).in_teams;
        let stage = self.stage(layout);
        stage.declarations.push(declaration);
        stage.body.push(Piece::Element(taken));
        if next {
            let more = match (direction, segments) {
                (Direction::Forward, _) => "t + 1 < t_end",
                (Direction::Reverse, None) => "t > 0",
                (Direction::Reverse, Some(_)) => "t > T - t_end",
            };
            let load = pending.load;
            stage
                .body
                .push(Piece::Vector(format!("if ({more}) {load}")));
        }
        self.publish(i);
    }

    /// How a row is loaded ahead: its stored elements wait unconverted, since a conversion would
    /// wait for memory.
    fn pending(&mut self, i: usize, coming: Coming<'_>) -> Pending {
        let layout = self.walk.layouts.placed[i].layout;
        let read = self.walk.program.statements[i].reads[0].clone();
        let ahead = Self::ahead(&self.ident[i]);
        let (value, row, there) = match read.src {
            Src::Row(value) => (value, coming.row(), None),
            Src::Apart { value, delay, .. } => {
                let there = Coming::Now.is_there(delay);
                (value, coming.row_apart(delay), Some(there))
            }
            // Only rows are loaded ahead.
            _ => return Pending::default(),
        };
        let row = self.row_part(value, &row);
        let guarded = |element: String| match &there {
            Some(there) => format!("({there} ? {element} : 0.0f)"),
            None => element,
        };
        let (pointer, element, offset) = self.in_memory(value, &read);
        let l = self.layout(layout).clone();
        let address = self.address(&pointer, row.clone(), &offset, &l.space);
        let (step, v) = (offset.step(&l.space), l.vector);
        let (mut strips, mut own) = match l.strips {
            1 => (String::new(), String::new()),
            strips => (format!("[{strips}]"), "[strip]".to_string()),
        };
        if l.in_teams && self.turns() > 1 {
            strips = format!("[{}]{strips}", self.turns());
            own = format!("[turn]{own}");
        }
        let own = format!("{ahead}{own}");
        if v == 1 {
            return Pending {
                declaration: format!("{element} {ahead}{strips};"),
                load: format!("{own} = *({address});"),
                element: guarded(format!("to_f32({own})")),
            };
        }
        let whole = self.moves_whole(&l, row.as_deref(), &offset);
        let (kind, step) = match whole {
            true => ("Pending", String::new()),
            false => ("PendingEach", format!(", {step}")),
        };
        Pending {
            declaration: format!("{kind}<{element}, {v}> {ahead}{strips};"),
            load: format!("{own}.load({address}{step});"),
            element: guarded(format!("{own}.f32(nth)")),
        }
    }

    /// Loads a row straight into the registers called `name`.
    pub(super) fn direct_load(
        &mut self,
        layout: usize,
        name: &str,
        read: &Read,
        row: &str,
    ) -> String {
        let (value, row) = match read.src {
            Src::Table { table, ids } => {
                let width = self
                    .walk
                    .grid
                    .elements_after_first(&self.walk.grid.graph().value(table).axes);
                let ids = self.pointers.read(memory::Place::Value(ids), self.names);
                (table, Some(format!("(i64){ids}[{row}] * {width}")))
            }
            Src::Row(value) => (value, self.row_part(value, row)),
            Src::Fixed(value) => (value, None),
            Src::Apart { .. } => return self.load_apart(layout, name, read),
            // Only reads of memory come here.
            Src::Statement(_) | Src::State(_) => return String::new(),
        };
        let (pointer, element, offset) = self.in_memory(value, read);
        let l = self.layout(layout).clone();
        let address = self.address(&pointer, row.clone(), &offset, &l.space);
        if l.vector == 1 {
            return format!("{} = to_f32(*({address}));", self.register(layout, name));
        }
        let target = self.vector(layout, name);
        self.load_vector(&l, row.as_deref(), &offset, element, &address, &target)
    }

    pub(super) fn load_value(
        &mut self,
        layout: usize,
        value: ValueId,
        row: Option<String>,
        read: &Read,
    ) -> String {
        let (pointer, element, offset) = self.in_memory(value, read);
        let walk = self.walk;
        let hint = match walk.program.formals.get(&read.src) {
            Some(formal) => formal,
            None => &walk.grid.graph().value(value).name,
        };
        if self.walk.repeats
            && !self.layout(layout).in_teams
            && matches!(read.src, Src::Fixed(_))
            && let Some(text) = self.invariant(layout, &pointer, &offset, element, hint)
        {
            return text;
        }
        self.load(layout, &pointer, row, &offset, element, hint)
    }

    pub(super) fn load(
        &mut self,
        layout: usize,
        pointer: &str,
        row: Option<String>,
        offset: &Offset,
        element: &str,
        hint: &str,
    ) -> String {
        let l = self.layout(layout).clone();
        let (step, v) = (offset.step(&l.space), l.vector);
        let address = self.address(pointer, row.clone(), offset, &l.space);
        if let Some(name) = self.stage(layout).loaded.get(&address) {
            return name.clone();
        }
        let name = self.names.fresh(hint);
        let for_all = l.strips > 1 && l.exact && offset.repeats(&l.space, l.threads * v);
        let vector = v > 1 && step != 0;
        let load = match vector {
            true => self
                .load_component(&l, pointer, row.as_deref(), offset, element, &name)
                .unwrap_or_else(|| {
                    self.load_vector(&l, row.as_deref(), offset, element, &address, &name)
                }),
            false => format!("{name} = to_f32(*({address}));"),
        };
        let text = match vector {
            true => format!("{name}[nth]"),
            false => name.clone(),
        };
        let stage = self.stage(layout);
        let declaration = match vector {
            true => format!("float {name}[{v}];"),
            false => format!("float {name};"),
        };
        match (for_all, vector) {
            (true, _) => {
                stage.declarations.push(declaration);
                stage.first_loads.push(load);
            }
            (false, true) => stage.loads.push(format!("{declaration}\n{load}")),
            (false, false) => stage.loads.push(format!("const float {load}")),
        }
        stage.loaded.insert(address, text.clone());
        text
    }

    /// Where the elements of a value are read: pointer, C type, offset.
    pub(super) fn in_memory(
        &mut self,
        value: ValueId,
        read: &Read,
    ) -> (String, &'static str, Offset) {
        let place = memory::Place::Value(value);
        let pointer = self.pointers.read(place, self.names);
        let element = c_type(self.pointers.element(place));
        (
            pointer,
            element,
            self.walk.grid.global(&read.axes, &read.index),
        )
    }

    /// Whether the chunks of a vector lie side by side in memory, and aligned.
    pub(super) fn moves_whole(&self, layout: &Layout, row: Option<&str>, offset: &Offset) -> bool {
        offset.step(&layout.space) == 1
            && offset.aligned(self.walk.grid, &layout.space, layout.chunk as i64)
            && row_alignment(row, layout.chunk)
    }

    /// Fills the registers of one vector, `target`, with neighbours along the innermost axis.
    pub(super) fn load_vector(
        &self,
        layout: &Layout,
        row: Option<&str>,
        offset: &Offset,
        element: &str,
        address: &str,
        target: &str,
    ) -> String {
        let (step, v) = (offset.step(&layout.space), layout.vector);
        let whole = self.moves_whole(layout, row, offset);
        match (whole, layout.turns()) {
            (true, None) => format!("load_vec<{element}, {v}>({address}, {target});"),
            (true, Some(turns)) => {
                let chunk = layout.chunk;
                let apart = turns * chunk;
                format!("load_chunks<{element}, {v}, {chunk}>({address}, {apart}, {target});")
            }
            (false, _) => {
                let at = strided(layout, step);
                format!(
                    "#pragma unroll\nfor (int nth = 0; nth < {v}; ++nth) {target}[nth] = to_f32(({address})[{at}]);"
                )
            }
        }
    }

    /// Fills the registers of one vector where neighbours along the innermost axis are 2 or 4
    /// elements apart, such as one tap of a convolution: whole groups are loaded, since the other
    /// taps are wanted as well. `None` where groups are not aligned.
    fn load_component(
        &self,
        layout: &Layout,
        pointer: &str,
        row: Option<&str>,
        offset: &Offset,
        element: &str,
        target: &str,
    ) -> Option<String> {
        let (step, v) = (offset.step(&layout.space), layout.vector);
        let j = offset.base.rem_euclid(step.max(1));
        let group = Offset {
            base: offset.base - j,
            ..offset.clone()
        };
        let aligned = [2, 4].contains(&step)
            && layout.turns().is_none()
            && group.aligned(self.walk.grid, &layout.space, step)
            && row_alignment(row, step as usize);
        if !aligned {
            return None;
        }
        let address = self.address(pointer, row.map(str::to_owned), &group, &layout.space);
        Some(format!(
            "load_component<{element}, {v}, {step}>({address}, {j}, {target});"
        ))
    }

    /// An operand without rows, loaded once before the walk; `None` when that takes too many
    /// registers.
    fn invariant(
        &mut self,
        layout: usize,
        pointer: &str,
        offset: &Offset,
        element: &str,
        hint: &str,
    ) -> Option<String> {
        let l = self.layout(layout).clone();
        let address = self.address(pointer, None, offset, &l.space);
        let key = (layout, address.clone());
        if let Some(text) = self.invariants.loaded.get(&key) {
            return Some(text.clone());
        }
        // A number that is the same along the innermost axis needs one register a vector.
        let vector = if offset.step(&l.space) == 0 {
            1
        } else {
            l.vector
        };
        let states = &self.walk.layouts.states;
        let held: usize = states.iter().map(|s| self.layout(*s).registers()).sum();
        let registers = l.strips * vector;
        if self.invariants.registers + registers + held > INVARIANT_REGISTERS {
            return None;
        }
        self.invariants.registers += registers;
        let name = self.names.fresh(hint);
        let strips = match l.strips {
            1 => String::new(),
            strips => format!("[{strips}]"),
        };
        let own = self.slice_register(layout, &name);
        let (declaration, load, text) = if vector > 1 {
            let load = self
                .load_component(&l, pointer, None, offset, element, &own)
                .unwrap_or_else(|| self.load_vector(&l, None, offset, element, &address, &own));
            (
                format!("float {name}{strips}[{vector}];"),
                load,
                format!("{own}[nth]"),
            )
        } else {
            (
                format!("float {name}{strips};"),
                format!("{own} = to_f32(*({address}));"),
                own.clone(),
            )
        };
        let lines = self.invariants.lines.entry(layout).or_default();
        lines.0.push(declaration);
        lines.1.push(load);
        self.invariants.loaded.insert(key, text.clone());
        Some(text)
    }
}

/// Whether the row part of an address (`x * N`) keeps vectors of `v` elements aligned.
pub(super) fn row_alignment(row: Option<&str>, v: usize) -> bool {
    match row {
        None => true,
        Some(text) => text
            .rsplit(" * ")
            .next()
            .and_then(|n| n.parse::<usize>().ok())
            .is_some_and(|n| n % v == 0),
    }
}

/// Index of element `v` of a vector whose innermost axis has stride `step`, as C text.
pub(super) fn strided(layout: &Layout, step: i64) -> String {
    let v = layout.step_text();
    match (step, layout.turns()) {
        (1, _) => v,
        (step, None) => format!("{v} * {step}"),
        (step, Some(_)) => format!("({v}) * {step}"),
    }
}
