//! The walk of a block along T: the statements of a lane as nested loops.
//!
//! One mechanism serves rows, scans and the prologues of matrix-vector products:
//! a block owns a tile of the grid axes and walks some consecutive rows of one
//! sequence. Rows of a value that later rows need are kept in registers; states
//! are loaded before the first row and stored after the last.

use crate::affine::{Grid, Offset, Space, index_text};
use crate::cexpr::{self, Leaves};
use crate::layout::{Layout, Layouts, Place, Reduction, neutral};
use crate::memory::{self, Pointers, c_type};
use crate::micro::{Program, Read, Src};
use crate::names::Names;
use crate::text::Text;
use fusec_ir::{AxisId, Combine, Expr, IndexExpr, StateId, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// What the walk needs to know about its surroundings.
pub struct Walk<'a, 'g> {
    /// Axes of the block.
    pub grid: &'a Grid<'g>,
    /// The statements.
    pub program: &'a Program,
    /// Threads to elements.
    pub layouts: &'a Layouts,
    /// Values to write to memory.
    pub stores: &'a [ValueId],
    /// A value to leave in shared memory, f32, in its own element order, and the C expression of
    /// its first element.
    pub sink: Option<(ValueId, String)>,
    /// C condition under which this block writes stores and tails (`None`: always).
    pub writer: Option<String>,
    /// First index of each grid axis.
    pub first_index: BTreeMap<AxisId, String>,
    /// Whether rows before the first one of the block have to be walked again to fill histories.
    pub halo: bool,
    /// Whether the rows of the next token are loaded while the current one is computed. For long
    /// walks, whose steps would otherwise each wait for memory.
    pub prefetch: bool,
    /// First free f32 of the block's shared memory.
    pub shared_base: usize,
}

/// A finished walk.
pub struct Walked {
    /// The statements, indented from the left margin.
    pub code: String,
    /// Shared memory used, f32 elements, counted from the start of the block's shared memory.
    pub shared_floats: usize,
}

/// The sum of delays along the longest chain: how many earlier rows a row depends on.
pub fn halo_depth(program: &Program) -> u32 {
    let mut depth = vec![0u32; program.statements.len()];
    for (i, s) in program.statements.iter().enumerate() {
        for read in &s.reads {
            if let Src::Statement(source) = read.src {
                depth[i] = depth[i].max(depth[source] + read.delay);
            }
        }
    }
    depth.into_iter().max().unwrap_or(0)
}

struct Emitter<'a, 'g, 'p> {
    walk: &'a Walk<'a, 'g>,
    pointers: &'p mut Pointers<'g>,
    names: &'p mut Names,
    text: Text,
    /// Identifier of each statement's result.
    ident: Vec<String>,
    state_ident: Vec<String>,
    /// Identifiers of shared copies.
    shared_ident: BTreeMap<usize, String>,
    shared_next: usize,
    scratch: Option<String>,
    shared_decls: Vec<String>,
    stage: Option<Stage>,
    /// Shared copies written since the last barrier.
    fresh: BTreeSet<usize>,
    /// Whether shared memory was read since the last barrier.
    read_since_barrier: bool,
}

/// Statements over one layout, collected into one loop.
#[derive(Default)]
struct Stage {
    layout: usize,
    declarations: Vec<String>,
    /// Before the elements of a vector.
    loads: Vec<String>,
    /// One entry per run of consecutive lines of the same kind.
    body: Vec<Piece>,
    /// After the guard, executed by every lane.
    after: Vec<String>,
    /// Operands already loaded in this stage: text of the place to name.
    loaded: BTreeMap<String, String>,
}

enum Piece {
    /// Per element of the vector.
    Element(String),
    /// Per vector.
    Vector(String),
}

/// Emits the walk of rows `t_begin..t_end` of sequence `b`. The surrounding code defines `b`,
/// `t_begin`, `t_end`, `tid` and the first indices.
pub fn emit<'g>(walk: &Walk<'_, 'g>, pointers: &mut Pointers<'g>, names: &mut Names) -> Walked {
    let ident = walk
        .program
        .statements
        .iter()
        .map(|s| names.fresh(&s.name))
        .collect();
    let state_ident = walk
        .program
        .states
        .iter()
        .map(|s| names.fresh(&s.name))
        .collect();
    let mut emitter = Emitter {
        walk,
        pointers,
        names,
        text: Text::default(),
        ident,
        state_ident,
        shared_ident: BTreeMap::new(),
        shared_next: walk.shared_base,
        scratch: None,
        shared_decls: Vec::new(),
        stage: None,
        fresh: BTreeSet::new(),
        read_since_barrier: false,
    };
    emitter.run();
    let mut code = String::new();
    for line in &emitter.shared_decls {
        code.push_str(line);
        code.push('\n');
    }
    code.push_str(&emitter.text.finish());
    Walked {
        code,
        shared_floats: emitter.shared_next,
    }
}

impl<'g> Emitter<'_, 'g, '_> {
    fn run(&mut self) {
        let walk = self.walk;
        for (i, placed) in walk.layouts.placed.iter().enumerate() {
            if placed.shared {
                let n = placed.shared_space.len();
                let name = self
                    .names
                    .fresh(&format!("s_{}", walk.program.statements[i].name));
                self.declare_shared(&name, n);
                self.shared_ident.insert(i, name);
            }
        }
        self.load_states();
        self.carry_old_tails();
        let depth = halo_depth(walk.program);
        let first = if walk.halo && depth > 0 {
            self.text
                .line("// Rows before t_begin fill the histories; nothing is written for them.");
            self.text.line(format!(
                "const i64 t_first = t_begin > {depth} ? t_begin - {depth} : 0;"
            ));
            "t_first"
        } else {
            "t_begin"
        };
        self.load_histories(first);
        self.load_first_rows();
        self.text
            .open(format!("for (i64 t = {first}; t < t_end; ++t)"));
        if walk.halo && depth > 0 {
            self.text.line("const bool live = t >= t_begin;");
        }
        self.text.line("const i64 row = b * T + t;");
        for i in 0..walk.program.statements.len() {
            self.statement(i);
        }
        self.flush();
        self.write_tails();
        self.advance();
        if self.read_since_barrier {
            self.text.line("__syncthreads();");
        }
        self.text.close();
        self.save_states();
    }

    fn declare_shared(&mut self, name: &str, floats: usize) {
        // 16-byte alignment, so that vectors can be read from it.
        self.shared_next = self.shared_next.next_multiple_of(4);
        self.shared_decls.push(format!(
            "float* const {name} = smem + {};",
            self.shared_next
        ));
        self.shared_next += floats;
    }

    fn layout(&self, index: usize) -> &Layout {
        &self.walk.layouts.layouts[index]
    }

    fn live(&self) -> Option<String> {
        let mut parts: Vec<String> = Vec::new();
        if self.walk.halo && halo_depth(self.walk.program) > 0 {
            parts.push("live".into());
        }
        parts.extend(self.walk.writer.clone());
        (!parts.is_empty()).then(|| parts.join(" && "))
    }

    /// The condition under which this block writes a value over `axes`: all blocks along a grid
    /// axis that the value lacks compute the same, the first one writes.
    fn write_condition(&self, axes: &[AxisId], live: Option<String>) -> Option<String> {
        let mut parts: Vec<String> = live.into_iter().collect();
        for g in self.walk.grid.axes() {
            if !axes.contains(&g.axis)
                && let Some(first) = self.walk.first_index.get(&g.axis)
            {
                parts.push(format!("{first} == 0"));
            }
        }
        (!parts.is_empty()).then(|| parts.join(" && "))
    }

    /// A register of a result, inside the loops of its layout.
    fn register(&self, layout: usize, name: &str) -> String {
        let l = self.layout(layout);
        match (l.space.len() == 1, l.strips > 1, l.vector > 1) {
            (true, ..) | (_, false, false) => name.to_string(),
            (_, true, false) => format!("{name}[k]"),
            (_, false, true) => format!("{name}[v]"),
            (_, true, true) => format!("{name}[k][v]"),
        }
    }

    /// The registers of one vector, as an array.
    fn vector(&self, layout: usize, name: &str) -> String {
        if self.layout(layout).strips > 1 {
            format!("{name}[k]")
        } else {
            name.to_string()
        }
    }

    fn declaration(&self, layout: usize, name: &str) -> String {
        let l = self.layout(layout);
        match (l.strips > 1, l.vector > 1) {
            (false, false) => format!("float {name};"),
            (true, false) => format!("float {name}[{}];", l.strips),
            (false, true) => format!("float {name}[{}];", l.vector),
            (true, true) => format!("float {name}[{}][{}];", l.strips, l.vector),
        }
    }

    fn slice_register(&self, layout: usize, name: &str) -> String {
        if self.layout(layout).strips > 1 {
            format!("{name}[k]")
        } else {
            name.to_string()
        }
    }

    fn back(name: &str, delay: u32) -> String {
        format!("{name}_back{delay}")
    }

    fn first_index(&self, axis: AxisId) -> String {
        self.walk
            .first_index
            .get(&axis)
            .cloned()
            .unwrap_or_else(|| "0".into())
    }

    /// `pointer + row part + block part + local part`.
    fn address(
        &self,
        pointer: &str,
        row: Option<String>,
        offset: &Offset,
        space: &Space,
    ) -> String {
        let mut parts = vec![pointer.to_string()];
        parts.extend(row);
        parts.extend(offset.block_text(&|a| self.first_index(a)));
        parts.extend(offset.local_text(space, "e"));
        parts.join(" + ")
    }

    fn row_part(&self, value: ValueId, row: &str) -> Option<String> {
        let graph = self.walk.grid.graph();
        graph
            .value(value)
            .rows
            .then(|| match graph.row_elements(value) {
                1 => row.to_string(),
                n => format!("{row} * {n}"),
            })
    }

    // ---- stages ----

    fn stage(&mut self, layout: usize) -> &mut Stage {
        if self.stage.as_ref().is_some_and(|s| s.layout != layout) {
            self.flush();
        }
        self.stage.get_or_insert_with(|| Stage {
            layout,
            ..Stage::default()
        })
    }

    fn barrier(&mut self) {
        self.flush();
        self.text.line("__syncthreads();");
        self.fresh.clear();
        self.read_since_barrier = false;
    }

    fn flush(&mut self) {
        let Some(stage) = self.stage.take() else {
            return;
        };
        let layout = self.layout(stage.layout).clone();
        for d in &stage.declarations {
            self.text.lines(d);
        }
        self.open_elements(&layout);
        for load in &stage.loads {
            self.text.lines(load);
        }
        let mut open = false;
        for piece in &stage.body {
            match piece {
                Piece::Element(line) => {
                    if !open && layout.vector > 1 {
                        self.text.line("#pragma unroll");
                        self.text
                            .open(format!("for (int v = 0; v < {}; ++v)", layout.vector));
                    }
                    open = true;
                    self.text.lines(line);
                }
                Piece::Vector(line) => {
                    if open && layout.vector > 1 {
                        self.text.close();
                    }
                    open = false;
                    self.text.lines(line);
                }
            }
        }
        if open && layout.vector > 1 {
            self.text.close();
        }
        self.close_elements(&layout, &stage.after);
    }

    fn open_elements(&mut self, layout: &Layout) {
        if layout.space.len() == 1 {
            return;
        }
        if layout.strips > 1 {
            self.text.line("#pragma unroll");
            self.text
                .open(format!("for (int k = 0; k < {}; ++k)", layout.strips));
        } else {
            self.text.open("");
        }
        self.text
            .line(element_number(layout, self.walk.layouts.threads));
        if !layout.exact {
            self.text.open(format!("if (e < {})", layout.space.len()));
        }
    }

    fn close_elements(&mut self, layout: &Layout, after: &[String]) {
        if layout.space.len() == 1 {
            for line in after {
                self.text.line(line);
            }
            return;
        }
        if !layout.exact {
            self.text.close();
        }
        for line in after {
            self.text.line(line);
        }
        self.text.close();
    }

    // ---- statements ----

    fn statement(&mut self, i: usize) {
        let s = &self.walk.program.statements[i];
        let placed = self.walk.layouts.placed[i].clone();
        // Shared operands must be complete before anyone reads them.
        let mut reads_shared = false;
        for read in &s.reads {
            if let Src::Statement(source) = read.src
                && !self.walk.layouts.in_registers(read, source, i)
            {
                reads_shared = true;
                if self.fresh.contains(&source) {
                    self.barrier();
                }
            }
        }
        self.read_since_barrier |= reads_shared;
        let uniform_reduction =
            placed.reduction.is_some() && self.layout(placed.layout).space.len() == 1;
        if uniform_reduction {
            self.flush();
        }
        self.stage(placed.layout);
        if self.prefetched(i) {
            self.take_prefetched(i);
            return;
        }
        if let (Expr::Input(0), [read], Place::Registers) =
            (&s.expr, s.reads.as_slice(), placed.place)
            && matches!(read.src, Src::Row(_) | Src::Fixed(_) | Src::Table { .. })
        {
            let name = self.ident[i].clone();
            let line = self.direct_load(placed.layout, &name, read, "row");
            let declaration = self.declaration(placed.layout, &self.ident[i]);
            let stage = self.stage(placed.layout);
            stage.declarations.push(declaration);
            stage.loads.push(line);
            self.publish(i);
            return;
        }
        let operands: Vec<String> = s
            .reads
            .iter()
            .map(|read| self.operand(i, placed.layout, read))
            .collect();
        let space = self.layout(placed.layout).space.clone();
        let vector = self.layout(placed.layout).vector;
        let element = if vector > 1 { "e + v" } else { "e" };
        let index = |axis: AxisId| {
            let local = index_text(&space, axis, element);
            match self.walk.first_index.get(&axis) {
                Some(first) if local == "0" => first.clone(),
                Some(first) => format!("{first} + {local}"),
                None => local,
            }
        };
        let value = cexpr::text(
            &s.expr,
            &Leaves {
                input: &|n| operands.get(n).cloned().unwrap_or_default(),
                index: &index,
                position: "position + t",
            },
        );
        match (&s.reduce, placed.reduction) {
            (Some((combine, _)), Some(reduction)) => {
                self.reduce(i, *combine, reduction, value, &space);
            }
            _ => self.map(i, value),
        }
    }

    /// Declares what an operand needs in the current stage; gives the C text of its element.
    fn operand(&mut self, reader: usize, layout: usize, read: &Read) -> String {
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
                let shared = self.shared_ident.get(&source).cloned().unwrap_or_default();
                let storage = walk.layouts.placed[source].shared_space.clone();
                let offset = walk.grid.shared(&storage, &read.axes, &read.index);
                let hint = self.walk.program.statements[source].name.clone();
                self.load(layout, &shared, None, &offset, "float", &hint)
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
    fn prefetched(&self, i: usize) -> bool {
        let s = &self.walk.program.statements[i];
        self.walk.prefetch
            && s.reduce.is_none()
            && s.expr == Expr::Input(0)
            && matches!(
                s.reads.as_slice(),
                [Read {
                    src: Src::Row(_),
                    ..
                }]
            )
    }

    fn ahead(name: &str) -> String {
        format!("{name}_ahead")
    }

    /// Starts the loads of the first row, before the walk.
    fn load_first_rows(&mut self) {
        for i in 0..self.walk.program.statements.len() {
            if !self.prefetched(i) {
                continue;
            }
            let layout = self.walk.layouts.placed[i].layout;
            let name = Self::ahead(&self.ident[i]);
            let read = self.walk.program.statements[i].reads[0].clone();
            let line = self.direct_load(layout, &name, &read, "(b * T + t_begin)");
            let declaration = self.declaration(layout, &name);
            self.text.line(declaration);
            let l = self.layout(layout).clone();
            self.open_elements(&l);
            self.text.lines(&line);
            self.close_elements(&l, &[]);
        }
    }

    /// Takes over the row that was loaded ahead, and starts the load of the next one.
    fn take_prefetched(&mut self, i: usize) {
        let layout = self.walk.layouts.placed[i].layout;
        let name = self.ident[i].clone();
        let ahead = Self::ahead(&name);
        let read = self.walk.program.statements[i].reads[0].clone();
        let load = self.direct_load(layout, &ahead, &read, "(row + 1)");
        let (declaration, register) = (
            self.declaration(layout, &name),
            self.register(layout, &name),
        );
        let taken = format!("{register} = {};", self.register(layout, &ahead));
        let next = match load.contains('\n') {
            true => format!("if (t + 1 < t_end) {{\n{load}\n}}"),
            false => format!("if (t + 1 < t_end) {load}"),
        };
        let stage = self.stage(layout);
        stage.declarations.push(declaration);
        stage.body.push(Piece::Element(taken));
        stage.body.push(Piece::Vector(next));
        self.publish(i);
    }

    /// Loads a row straight into the registers called `name`.
    fn direct_load(&mut self, layout: usize, name: &str, read: &Read, row: &str) -> String {
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
            // Only reads of memory come here.
            Src::Statement(_) | Src::State(_) => return String::new(),
        };
        let place = memory::Place::Value(value);
        let pointer = self.pointers.read(place, self.names);
        let element = c_type(self.pointers.element(place));
        let offset = self.walk.grid.global(&read.axes, &read.index);
        let l = self.layout(layout).clone();
        let address = self.address(&pointer, row.clone(), &offset, &l.space);
        let (step, v) = (offset.step(&l.space), l.vector);
        if v == 1 {
            return format!("{} = to_f32(*({address}));", self.register(layout, name));
        }
        if step == 1 && offset.aligned(&l.space, v as i64) && row_alignment(row.as_deref(), v) {
            return format!(
                "load_vec<{element}, {v}>({address}, {});",
                self.vector(layout, name)
            );
        }
        format!(
            "#pragma unroll\nfor (int v = 0; v < {v}; ++v) {} = to_f32(({address})[v * {step}]);",
            self.register(layout, name)
        )
    }

    fn load_value(
        &mut self,
        layout: usize,
        value: ValueId,
        row: Option<String>,
        read: &Read,
    ) -> String {
        let offset = self.walk.grid.global(&read.axes, &read.index);
        let place = memory::Place::Value(value);
        let pointer = self.pointers.read(place, self.names);
        let element = c_type(self.pointers.element(place));
        let hint = self.walk.grid.graph().value(value).name.clone();
        self.load(layout, &pointer, row, &offset, element, &hint)
    }

    fn load(
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
        let (line, text) = if v > 1 && step == 1 {
            let name = self.names.fresh(&format!("{hint}_in"));
            let row_aligned = row_alignment(row.as_deref(), v);
            let line = if offset.aligned(&l.space, v as i64) && row_aligned {
                format!("float {name}[{v}];\nload_vec<{element}, {v}>({address}, {name});")
            } else {
                format!(
                    "float {name}[{v}];\n#pragma unroll\nfor (int v = 0; v < {v}; ++v) {name}[v] = to_f32(({address})[v]);"
                )
            };
            (line, format!("{name}[v]"))
        } else if v > 1 && step != 0 {
            let name = self.names.fresh(&format!("{hint}_in"));
            let line = format!(
                "float {name}[{v}];\n#pragma unroll\nfor (int v = 0; v < {v}; ++v) {name}[v] = to_f32(({address})[v * {step}]);"
            );
            (line, format!("{name}[v]"))
        } else {
            let name = self.names.fresh(&format!("{hint}_in"));
            (format!("const float {name} = to_f32(*({address}));"), name)
        };
        let stage = self.stage(layout);
        stage.loads.push(line);
        stage.loaded.insert(address, text.clone());
        text
    }

    fn map(&mut self, i: usize, value: String) {
        let placed = self.walk.layouts.placed[i].clone();
        let name = self.ident[i].clone();
        let register = self.register(placed.layout, &name);
        let declaration = self.declaration(placed.layout, &name);
        let stage = self.stage(placed.layout);
        if placed.place == Place::Uniform {
            stage
                .body
                .push(Piece::Element(format!("const float {name} = {value};")));
        } else {
            stage.declarations.push(declaration);
            stage
                .body
                .push(Piece::Element(format!("{register} = {value};")));
        }
        self.publish(i);
    }

    /// Copies a map's result to shared memory and to memory, where it is wanted.
    fn publish(&mut self, i: usize) {
        let placed = self.walk.layouts.placed[i].clone();
        let name = self.ident[i].clone();
        let register = self.register(placed.layout, &name);
        let vector = self.layout(placed.layout).vector;
        if placed.shared {
            let shared = self.shared_ident[&i].clone();
            let line = if placed.place == Place::Uniform {
                Piece::Vector(format!("if (tid == 0) {shared}[0] = {name};"))
            } else if vector > 1 {
                Piece::Element(format!("{shared}[e + v] = {register};"))
            } else {
                Piece::Element(format!("{shared}[e] = {register};"))
            };
            self.stage(placed.layout).body.push(line);
            self.fresh.insert(i);
        }
        self.store_registers(i);
    }

    /// Writes a result that lives in registers to memory, where it is wanted.
    fn store_registers(&mut self, i: usize) {
        let walk = self.walk;
        for (value, statement) in &walk.program.value {
            if *statement != i {
                continue;
            }
            if walk.stores.contains(value) {
                let place = memory::Place::Value(*value);
                let pointer = self.pointers.write(place, self.names);
                let element = c_type(self.pointers.element(place));
                let axes = walk.grid.graph().value(*value).axes.clone();
                let row = self.row_part(*value, "row");
                let condition = self.write_condition(&axes, self.live());
                self.write(i, &axes, &pointer, row, element, condition);
            }
            if let Some((sink, target)) = &walk.sink
                && sink == value
            {
                let axes = walk.grid.graph().value(*value).axes.clone();
                // Rows of the halo are overwritten by the live row, which comes last.
                self.write(i, &axes, target, None, "float", None);
            }
        }
    }

    /// Adds the writes of one statement's registers to the current stage.
    fn write(
        &mut self,
        i: usize,
        axes: &[AxisId],
        pointer: &str,
        row: Option<String>,
        element: &str,
        condition: Option<String>,
    ) {
        let placed = self.walk.layouts.placed[i].clone();
        let layout = self.layout(placed.layout).clone();
        let index: Vec<IndexExpr> = axes.iter().map(|a| IndexExpr::axis(*a)).collect();
        let offset = self.walk.grid.global(axes, &index);
        let address = self.address(pointer, row.clone(), &offset, &layout.space);
        let name = self.ident[i].clone();
        let guard = |extra: Option<String>, body: String| {
            let mut parts: Vec<String> = condition.clone().into_iter().collect();
            parts.extend(extra);
            if parts.is_empty() {
                body
            } else {
                format!("if ({}) {body}", parts.join(" && "))
            }
        };
        let (step, v) = (offset.step(&layout.space), layout.vector);
        let line = match placed.place {
            Place::Uniform => Piece::Vector(guard(
                Some("tid == 0".into()),
                format!("*({address}) = from_f32<{element}>({name});"),
            )),
            _ if v > 1
                && step == 1
                && offset.aligned(&layout.space, v as i64)
                && row_alignment(row.as_deref(), v) =>
            {
                let registers = self.vector(placed.layout, &name);
                Piece::Vector(guard(
                    None,
                    format!("store_vec<{element}, {v}>({address}, {registers});"),
                ))
            }
            _ if v > 1 => {
                let register = self.register(placed.layout, &name);
                Piece::Element(guard(
                    None,
                    format!("({address})[v * {step}] = from_f32<{element}>({register});"),
                ))
            }
            _ => {
                let register = self.register(placed.layout, &name);
                Piece::Vector(guard(
                    None,
                    format!("*({address}) = from_f32<{element}>({register});"),
                ))
            }
        };
        self.stage(placed.layout).body.push(line);
    }

    fn reduce(
        &mut self,
        i: usize,
        combine: Combine,
        reduction: Reduction,
        value: String,
        space: &Space,
    ) {
        let placed = self.walk.layouts.placed[i].clone();
        let layout = self.layout(placed.layout).clone();
        let name = self.ident[i].clone();
        let accumulate = |target: &str| match combine {
            Combine::Sum => format!("{target} += {value};"),
            Combine::Max => format!("{target} = fmax32({target}, {value});"),
        };
        match reduction {
            Reduction::Block if layout.space.len() == 1 => {
                // One element: the reduction is the element itself.
                self.stage(placed.layout)
                    .body
                    .push(Piece::Element(format!("const float {name} = {value};")));
                self.flush();
                self.store_uniform(i);
            }
            Reduction::Block => {
                let part = self.names.fresh(&format!("{name}_part"));
                let threads = self.walk.layouts.threads;
                let primitive = match combine {
                    Combine::Sum => "block_sum",
                    Combine::Max => "block_max",
                };
                let scratch = self.scratch();
                let stage = self.stage(placed.layout);
                stage
                    .declarations
                    .push(format!("float {part} = {};", neutral(combine)));
                stage.body.push(Piece::Element(accumulate(&part)));
                self.flush();
                self.text.line(format!(
                    "const float {name} = {primitive}<{threads}>({part}, {scratch});"
                ));
                self.store_uniform(i);
            }
            Reduction::Lanes(lanes) => {
                let register = self.slice_register(placed.layout, &name);
                let primitive = match combine {
                    Combine::Sum => "lane_sum",
                    Combine::Max => "lane_max",
                };
                let declaration = if layout.strips > 1 {
                    format!("float {name}[{}];", layout.strips)
                } else {
                    format!("float {name} = {};", neutral(combine))
                };
                let extent = lanes * layout.vector;
                let first = format!("e % {extent} == 0");
                let in_range = (!layout.exact).then(|| format!("e < {}", space.len()));
                let shared = placed.shared.then(|| self.shared_ident[&i].clone());
                let writes = self.slice_writes(i, &layout.space);
                let stage = self.stage(placed.layout);
                stage.declarations.push(declaration);
                if layout.strips > 1 {
                    // The neutral element also for strips without elements: every lane takes
                    // part in the shuffle.
                    stage.declarations.push(format!(
                        "#pragma unroll\nfor (int k = 0; k < {}; ++k) {name}[k] = {};",
                        layout.strips,
                        neutral(combine)
                    ));
                }
                stage.body.push(Piece::Element(accumulate(&register)));
                if lanes > 1 {
                    stage
                        .after
                        .push(format!("{register} = {primitive}<{lanes}>({register});"));
                }
                let mut conditions = vec![first];
                conditions.extend(in_range);
                let condition = conditions.join(" && ");
                if let Some(shared) = shared {
                    let index = if extent == 1 {
                        "e".into()
                    } else {
                        format!("e / {extent}")
                    };
                    stage
                        .after
                        .push(format!("if ({condition}) {shared}[{index}] = {register};"));
                    self.fresh.insert(i);
                }
                for (guard, line) in writes {
                    let mut parts = vec![condition.clone()];
                    parts.extend(guard);
                    self.stage(placed.layout)
                        .after
                        .push(format!("if ({}) {line}", parts.join(" && ")));
                }
                self.flush();
            }
            Reduction::Shared => self.reduce_shared(i, combine, value),
        }
    }

    /// Each term to shared memory, then one thread per result.
    fn reduce_shared(&mut self, i: usize, combine: Combine, value: String) {
        let placed = self.walk.layouts.placed[i].clone();
        let layout = self.layout(placed.layout).clone();
        let terms = self.names.fresh(&format!("{}_terms", self.ident[i]));
        self.declare_shared(&terms, layout.space.len());
        let element = if layout.vector > 1 { "e + v" } else { "e" };
        self.stage(placed.layout)
            .body
            .push(Piece::Element(format!("{terms}[{element}] = {value};")));
        self.barrier();
        let results = placed.shared_space.clone();
        let shared = self.shared_ident.get(&i).cloned().unwrap_or_default();
        let threads = self.walk.layouts.threads;
        // Offset of result o's first term, and the loops over the reduced axes.
        let mut strides = BTreeMap::new();
        let mut stride = 1i64;
        for (axis, extent) in layout.space.axes.iter().zip(&layout.space.extents).rev() {
            strides.insert(*axis, stride);
            stride *= *extent as i64;
        }
        let kept = Offset {
            base: 0,
            local: results.axes.iter().map(|a| (*a, strides[a])).collect(),
            block: BTreeMap::new(),
        };
        let reduced: Vec<AxisId> = layout
            .space
            .axes
            .iter()
            .copied()
            .filter(|a| !results.axes.contains(a))
            .collect();
        let inner = self.walk.grid.space(&reduced);
        let over = Offset {
            base: 0,
            local: reduced.iter().map(|a| (*a, strides[a])).collect(),
            block: BTreeMap::new(),
        };
        let base = kept.local_text(&results, "o").unwrap_or_else(|| "0".into());
        let term = over.local_text(&inner, "j").unwrap_or_else(|| "0".into());
        self.text.open(format!(
            "for (int o = tid; o < {}; o += {threads})",
            results.len()
        ));
        self.text
            .line(format!("float total = {};", neutral(combine)));
        let accumulate = match combine {
            Combine::Sum => format!("total += {terms}[{base} + {term}];"),
            Combine::Max => format!("total = fmax32(total, {terms}[{base} + {term}]);"),
        };
        self.text.line(format!(
            "for (int j = 0; j < {}; ++j) {accumulate}",
            inner.len()
        ));
        self.text.line(format!("{shared}[o] = total;"));
        for (value, statement) in &self.walk.program.value {
            if *statement == i && self.walk.stores.contains(value) {
                let place = memory::Place::Value(*value);
                let pointer = self.pointers.write(place, self.names);
                let element = c_type(self.pointers.element(place));
                let axes = self.walk.grid.graph().value(*value).axes.clone();
                let index: Vec<IndexExpr> = axes.iter().map(|a| IndexExpr::axis(*a)).collect();
                let offset = self.walk.grid.global(&axes, &index);
                let mut parts = vec![pointer];
                parts.extend(self.row_part(*value, "row"));
                parts.extend(offset.block_text(&|a| self.first_index(a)));
                parts.extend(offset.local_text(&results, "o"));
                let guard = self
                    .write_condition(&axes, self.live())
                    .map(|c| format!("if ({c}) "))
                    .unwrap_or_default();
                self.text.line(format!(
                    "{guard}*({}) = from_f32<{element}>(total);",
                    parts.join(" + ")
                ));
            }
        }
        self.text.close();
        self.fresh.insert(i);
        self.read_since_barrier = true;
    }

    fn scratch(&mut self) -> String {
        if let Some(name) = &self.scratch {
            return name.clone();
        }
        let name = self.names.fresh("reduce_scratch");
        let floats = self.walk.layouts.threads.div_ceil(32);
        self.declare_shared(&name, floats);
        self.scratch = Some(name.clone());
        name
    }

    /// After a reduction over the whole block.
    fn store_uniform(&mut self, i: usize) {
        if self.walk.layouts.placed[i].shared {
            let shared = self.shared_ident[&i].clone();
            let name = self.ident[i].clone();
            self.text
                .line(format!("if (tid == 0) {shared}[0] = {name};"));
            self.fresh.insert(i);
        }
        for (guard, line) in self.slice_writes(
            i,
            &Space {
                axes: vec![],
                extents: vec![],
            },
        ) {
            let mut parts = vec!["tid == 0".to_string()];
            parts.extend(guard);
            self.text
                .line(format!("if ({}) {line}", parts.join(" && ")));
        }
    }

    /// Stores (and the sink) of a reduction's result: `(condition, statement)`, for the lane that
    /// holds it.
    fn slice_writes(&mut self, i: usize, space: &Space) -> Vec<(Option<String>, String)> {
        let mut out = Vec::new();
        let placed = self.walk.layouts.placed[i].clone();
        let register = match placed.place {
            Place::Uniform => self.ident[i].clone(),
            _ => self.slice_register(placed.layout, &self.ident[i]),
        };
        for (value, statement) in &self.walk.program.value {
            if *statement != i {
                continue;
            }
            let axes = self.walk.grid.graph().value(*value).axes.clone();
            let index: Vec<IndexExpr> = axes.iter().map(|a| IndexExpr::axis(*a)).collect();
            let offset = self.walk.grid.global(&axes, &index);
            if self.walk.stores.contains(value) {
                let place = memory::Place::Value(*value);
                let pointer = self.pointers.write(place, self.names);
                let element = c_type(self.pointers.element(place));
                let row = self.row_part(*value, "row");
                let address = self.address(&pointer, row, &offset, space);
                out.push((
                    self.write_condition(&axes, self.live()),
                    format!("*({address}) = from_f32<{element}>({register});"),
                ));
            }
            if let Some((sink, target)) = &self.walk.sink
                && sink == value
            {
                let address = self.address(target, None, &offset, space);
                out.push((None, format!("*({address}) = {register};")));
            }
        }
        out
    }

    // ---- what is carried along T ----

    /// Emits one line per element of a layout, outside the stages.
    fn each_element(&mut self, layout: usize, line: impl Fn(&Self) -> Vec<String>) {
        let l = self.layout(layout).clone();
        self.open_elements(&l);
        let lines = line(self);
        let vector = l.vector > 1;
        if vector {
            self.text.line("#pragma unroll");
            self.text
                .open(format!("for (int v = 0; v < {}; ++v)", l.vector));
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
    fn element(&self, layout: usize, pointer: &str, row: String, axes: &[AxisId]) -> String {
        let l = self.layout(layout);
        let index: Vec<IndexExpr> = axes.iter().map(|a| IndexExpr::axis(*a)).collect();
        let offset = self.walk.grid.global(axes, &index);
        let address = self.address(pointer, Some(row), &offset, &l.space);
        match (l.vector > 1, offset.step(&l.space)) {
            (true, 1) => format!("({address})[v]"),
            (true, step) => format!("({address})[v * {step}]"),
            (false, _) => format!("*({address})"),
        }
    }

    fn load_states(&mut self) {
        for i in 0..self.walk.program.states.len() {
            let carried = &self.walk.program.states[i];
            let layout = self.walk.layouts.states[i];
            let name = self.state_ident[i].clone();
            let pointer = self
                .pointers
                .write(memory::Place::State(carried.state), self.names);
            let n = self.walk.grid.graph().state_elements(carried.state);
            let axes = carried.axes.clone();
            let declaration = self.declaration(layout, &name);
            self.text.line(declaration);
            self.each_element(layout, |s| {
                let register = s.register(layout, &name);
                let place = s.element(layout, &pointer, format!("b * {n}"), &axes);
                vec![format!("{register} = {place};")]
            });
        }
    }

    fn save_states(&mut self) {
        for i in 0..self.walk.program.states.len() {
            let carried = &self.walk.program.states[i];
            let layout = self.walk.layouts.states[i];
            let name = self.state_ident[i].clone();
            let pointer = self
                .pointers
                .write(memory::Place::State(carried.state), self.names);
            let n = self.walk.grid.graph().state_elements(carried.state);
            let axes = carried.axes.clone();
            let uniform = self.layout(layout).space.len() == 1;
            self.each_element(layout, |s| {
                let register = s.register(layout, &name);
                let place = s.element(layout, &pointer, format!("b * {n}"), &axes);
                let guard = if uniform { "if (tid == 0) " } else { "" };
                vec![format!("{guard}{place} = {register};")]
            });
        }
    }

    /// At the first row the histories are the carried tails; elsewhere the halo fills them.
    fn load_histories(&mut self, first: &str) {
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
            let Some(tail) = s.tail else { continue };
            let (value, width) = self.tail_of(tail);
            let axes = self.tail_axes(i, value);
            let n = self.walk.grid.graph().row_elements(value);
            let pointer = self.pointers.read(memory::Place::OldTail(tail), self.names);
            self.each_element(layout, |s| {
                names
                    .iter()
                    .map(|(d, name)| {
                        let register = s.register(layout, name);
                        let row = format!("(b * {width} + {}) * {n}", width - d);
                        let place = s.element(layout, &pointer, row, &axes);
                        format!("{register} = {first} == 0 ? {place} : 0.0f;")
                    })
                    .collect()
            });
        }
    }

    fn tail_of(&self, tail: StateId) -> (ValueId, u32) {
        match self.walk.grid.graph().state(tail).kind {
            fusec_ir::StateKind::Tail { value, width } => (value, width),
            fusec_ir::StateKind::Scan { .. } => (ValueId(0), 0),
        }
    }

    /// The axes by which a statement's rows lie in its tail: those of the value, under the names
    /// by which the statement runs over them.
    fn tail_axes(&self, statement: usize, value: ValueId) -> Vec<AxisId> {
        let own = &self.walk.program.statements[statement];
        let axes = &self.walk.grid.graph().value(value).axes;
        if own.axes.len() == axes.len() {
            own.axes.clone()
        } else {
            axes.clone()
        }
    }

    fn tail_guard(&self, statement: usize) -> Option<String> {
        let axes = &self.walk.program.statements[statement].axes;
        self.write_condition(axes, self.walk.writer.clone())
    }

    /// Runs shorter than a tail keep its newest old rows.
    fn carry_old_tails(&mut self) {
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
                .open(format!("for (i64 i = 0; i + T < {width}; ++i)"));
            self.each_element(layout, |s| {
                let to = s.element(layout, &new, format!("(b * {width} + i) * {n}"), &axes);
                let from = s.element(layout, &old, format!("(b * {width} + i + T) * {n}"), &axes);
                vec![format!("{to} = {from};")]
            });
            self.text.close();
            self.text.close();
        }
    }

    fn write_tails(&mut self) {
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
            let row = format!("(b * {width} + t - (T - {width})) * {n}");
            self.text.open(format!("if ({condition})"));
            match placed.place {
                Place::Registers | Place::Uniform => {
                    let uniform = placed.place == Place::Uniform;
                    self.each_element(placed.layout, |s| {
                        let register = s.register(placed.layout, &name);
                        let to = s.element(placed.layout, &new, row.clone(), &axes);
                        let guard = if uniform { "if (tid == 0) " } else { "" };
                        vec![format!("{guard}{to} = {register};")]
                    });
                }
                Place::Slice | Place::Shared => {
                    // Histories are kept by maps, so a tail's rows are always in registers.
                }
            }
            self.text.close();
        }
    }

    /// The end of a row: new states and histories take the place of the old.
    fn advance(&mut self) {
        for i in 0..self.walk.program.states.len() {
            let next = self.walk.program.states[i].next;
            let layout = self.walk.layouts.states[i];
            let (state, next) = (self.state_ident[i].clone(), self.ident[next].clone());
            self.each_element(layout, |s| {
                vec![format!(
                    "{} = {};",
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

/// The line that defines `e`, the number of a thread's first element.
fn element_number(layout: &Layout, threads: usize) -> String {
    match (layout.strips > 1, layout.vector) {
        (false, 1) => "const int e = tid;".into(),
        (false, v) => format!("const int e = tid * {v};"),
        (true, 1) => format!("const int e = k * {threads} + tid;"),
        (true, v) => format!("const int e = (k * {threads} + tid) * {v};"),
    }
}

/// Whether the row part of an address (`x * N`) keeps vectors of `v` elements aligned.
fn row_alignment(row: Option<&str>, v: usize) -> bool {
    match row {
        None => true,
        Some(text) => text
            .rsplit(" * ")
            .next()
            .and_then(|n| n.parse::<usize>().ok())
            .is_some_and(|n| n % v == 0),
    }
}

/// Whether an expression needs the position of the token.
pub fn uses_position(program: &Program) -> bool {
    program.statements.iter().any(|s| {
        let mut found = false;
        s.expr.walk(&mut |e| found |= matches!(e, Expr::Position));
        found
    })
}
