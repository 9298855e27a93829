//! The walk of a block along T: the statements of a lane as nested loops.
//!
//! One mechanism serves rows, scans and the prologues of matrix-vector products:
//! a block owns a tile of the grid axes and walks some consecutive rows of one
//! sequence. Rows of a value that later rows need are kept in registers; states
//! are loaded before the first row and stored after the last. Where a recurrence is walked in runs
//! of rows, what does not carry its state is computed for the rows of a run side by side.
//!
//! One file per part of the walk: [`stage`] collects statements into loops over elements,
//! [`statement`] writes maps, [`operand`] what they read, [`reduce`] reductions, [`carried`]
//! what goes from one row to the next, [`segments`] what goes from one segment to another, [`apart`] reads rows that the walk has not come to, and [`runs`] is
//! what is done for several rows at once.

mod apart;
mod carried;
mod operand;
mod reduce;
mod runs;
mod segments;
mod stage;
mod statement;

use crate::affine::{Grid, Offset, OffsetText, Space};
use crate::layout::{Layout, Layouts, Reduction};
use crate::memory::Pointers;
use crate::micro::{Program, Src};
use crate::names::Names;
use crate::text::Text;
use fusec_fuse::schedule::Segments;
use fusec_ir::class::Algebra;
use fusec_ir::{AxisId, Direction, Expr, ValueId};
use operand::Invariants;
use reduce::BlockPart;
use stage::Stage;
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
    /// Which row comes first. Rows of a block are counted in that order.
    pub direction: Direction,
    /// The segments of which a block has one, where it has not all rows of a sequence.
    pub segments: Option<Segments>,
    /// The axes of what each state meets, and in which algebra, where there are segments.
    pub met: Vec<(Vec<AxisId>, Algebra)>,
    /// Whether rows before the first one of the block have to be walked again to fill histories.
    pub halo: bool,
    /// Whether a walk usually takes several steps. Then the rows of the next token are loaded while
    /// the current one is computed, and what is the same for all tokens is loaded once, as far as
    /// registers allow.
    pub repeats: bool,
    /// Whether a stored value is written past the caches: nothing will find it there.
    pub streams: &'a dyn Fn(ValueId) -> bool,
    /// First free f32 of the block's shared memory.
    pub shared_base: usize,
}

/// The arrays of shared memory that one row leaves to the next. What a row reads behind its last barrier
/// and the next one writes before its first needs a barrier between the two; anything else has one already.
#[derive(Default)]
struct Turn {
    /// Read since the last barrier.
    read: BTreeSet<String>,
    /// Written before the first barrier of the row.
    written_first: BTreeSet<String>,
    /// Whether the row has had a barrier.
    met: bool,
}

impl Turn {
    fn reads(&mut self, name: String) {
        self.read.insert(name);
    }

    fn writes(&mut self, name: &str) {
        if !self.met {
            self.written_first.insert(name.to_string());
        }
    }

    fn barrier(&mut self) {
        self.read.clear();
        self.met = true;
    }

    /// Whether the next row would write what this one still reads.
    fn meets(&self) -> bool {
        !self.read.is_disjoint(&self.written_first)
    }
}

/// A finished walk.
pub struct Walked {
    /// The statements, indented from the left margin.
    pub code: String,
    /// Shared memory used, f32 elements, counted from the start of the block's shared memory.
    pub shared_floats: usize,
    /// Whether some threads may still read shared memory when others have reached the end: whoever
    /// writes to the same memory next has to wait.
    pub reading: bool,
}

/// The sum of delays along the longest chain: how many earlier rows a row depends on.
fn halo_depth(program: &Program) -> u32 {
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

/// Statements whose results are read from shared memory and from nowhere else.
fn read_elsewhere(walk: &Walk<'_, '_>) -> Vec<bool> {
    let placed = walk.layouts.placed.iter();
    let mut out: Vec<bool> = placed.map(|placed| placed.shared).collect();
    for (reader, s) in walk.program.statements.iter().enumerate() {
        for read in &s.reads {
            if let Src::Statement(source) = read.src
                && walk.layouts.in_registers(read, source, reader)
            {
                out[source] = false;
            }
        }
    }
    out
}

struct Emitter<'a, 'g, 'p> {
    walk: &'a Walk<'a, 'g>,
    pointers: &'p mut Pointers<'g>,
    names: &'p mut Names,
    text: Text,
    /// Identifier of each statement's result.
    ident: Vec<String>,
    state_ident: Vec<String>,
    /// Statements whose results are read from shared memory only.
    elsewhere: Vec<bool>,
    /// Identifiers of shared copies.
    shared_ident: BTreeMap<usize, String>,
    shared_next: usize,
    scratch: Option<String>,
    /// Exchanges among all threads of the block, for each row.
    exchanges: usize,
    shared_decls: Vec<String>,
    stage: Option<Stage>,
    /// Sums over the block whose parts the open stage computes.
    parts: Vec<BlockPart>,
    /// Shared copies of results that another part reads, which have a place for each row of a run.
    rows_ident: BTreeMap<usize, String>,
    /// Whether rows outside of the recurrence are loaded ahead of time.
    brings: bool,
    /// Shared copies that the open part reads or writes.
    used: BTreeSet<usize>,
    /// Shared copies written since the last barrier.
    fresh: BTreeSet<usize>,
    /// What of shared memory may be written in the next row while it is still read in this one.
    turn: Turn,
    /// Loads before the walk of what is the same for all tokens, and the registers they fill.
    invariants: Invariants,
    /// Depth of the halo, 0 where rows are walked in order from the first.
    halo: u32,
}

/// Emits the walk of rows `t_begin..t_end` of sequence `batch`. The surrounding code defines `batch`,
/// `t_begin`, `t_end`, `tid` and the first indices.
pub fn emit<'g>(walk: &Walk<'_, 'g>, pointers: &mut Pointers<'g>, names: &mut Names) -> Walked {
    // States are what a step is about: they choose their names first.
    let states = walk.program.states.iter();
    let state_ident = states.map(|s| names.fresh(&s.name)).collect();
    // What is read from shared memory only is called by its name where it is read.
    let elsewhere = read_elsewhere(walk);
    let statements = walk.program.statements.iter().zip(&elsewhere);
    let ident = statements
        .map(|(s, elsewhere)| match elsewhere {
            true => names.fresh(&format!("{}_own", s.name)),
            false => names.fresh(&s.name),
        })
        .collect();
    let mut emitter = Emitter {
        walk,
        pointers,
        names,
        text: Text::default(),
        ident,
        state_ident,
        elsewhere,
        shared_ident: BTreeMap::new(),
        rows_ident: BTreeMap::new(),
        brings: false,
        used: BTreeSet::new(),
        shared_next: walk.shared_base,
        scratch: None,
        exchanges: walk
            .layouts
            .placed
            .iter()
            .filter(|p| {
                p.reduction == Some(Reduction::Block)
                    && walk.layouts.layouts[p.layout].space.len() > 1
            })
            .count(),
        shared_decls: Vec::new(),
        stage: None,
        parts: Vec::new(),
        fresh: BTreeSet::new(),
        turn: Turn::default(),
        invariants: Invariants::default(),
        halo: if walk.halo {
            halo_depth(walk.program)
        } else {
            0
        },
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
        reading: !emitter.turn.read.is_empty(),
    }
}

impl<'g> Emitter<'_, 'g, '_> {
    fn run(&mut self) {
        let walk = self.walk;
        let crossing = walk.layouts.parts.crossing(walk.program);
        for (i, placed) in walk.layouts.placed.iter().enumerate() {
            if placed.shared {
                let n = placed.shared_space.len();
                let name = self
                    .names
                    .fresh(&format!("s_{}", walk.program.statements[i].name));
                if crossing[i] {
                    let rows = self.names.fresh(&format!("{name}_rows"));
                    self.declare_rows(&rows, n);
                    self.rows_ident.insert(i, rows);
                } else {
                    self.declare_shared(&name, n);
                }
                self.shared_ident.insert(i, name);
            }
        }
        self.load_states();
        self.carry_old_tails();
        let depth = self.halo;
        let first = if depth > 0 {
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
        let (first_row, defined) = self.first_row(first);
        let before = std::mem::take(&mut self.text);
        if walk.layouts.parts.is_split() {
            self.runs(first);
        } else {
            self.text.open(match (walk.direction, walk.segments) {
                (Direction::Forward, _) => format!("for (i64 t = {first}; t < t_end; ++t)"),
                (Direction::Reverse, None) => "for (i64 t = T - 1; t >= 0; --t)".into(),
                (Direction::Reverse, Some(_)) => {
                    format!("for (i64 t = T - 1 - {first}; t >= T - t_end; --t)")
                }
            });
            self.say_whether_live();
            self.text.line("const i64 row = batch * T + t;");
            self.one_row(|_| true);
            self.text.close();
        }
        let rows = std::mem::replace(&mut self.text, before);
        let before = std::mem::take(&mut self.text);
        self.load_before(&first_row);
        let loads = std::mem::replace(&mut self.text, before).finish();
        if let Some(defined) = defined.filter(|_| loads.contains(&first_row)) {
            self.text.line(defined);
        }
        self.text.lines(&loads);
        self.text.lines(&rows.finish());
        self.save_states();
    }

    /// The row that is loaded before the walk, C text, and what defines it: of a segment without rows, one
    /// that is there.
    fn first_row(&self, first: &str) -> (String, Option<String>) {
        if self.walk.segments.is_none() {
            return (first.into(), None);
        }
        let row = match self.walk.direction {
            Direction::Forward => format!("{first} < T ? {first} : T - 1"),
            Direction::Reverse => format!("{first} < T ? T - 1 - {first} : 0"),
        };
        ("t_load".into(), Some(format!("const i64 t_load = {row};")))
    }

    /// Defines whether a row is one of the block's own, where others fill histories.
    fn say_whether_live(&mut self) {
        if self.halo > 0 {
            self.text.line(match self.walk.direction {
                Direction::Forward => "const bool live = t >= t_begin;",
                Direction::Reverse => "const bool live = t < T - t_begin;",
            });
        }
    }

    /// The statements of the recurrence, or all of them, for one row.
    fn one_row(&mut self, belongs: impl Fn(usize) -> bool) {
        self.turn = Turn::default();
        self.statements(belongs);
        self.write_tails();
        self.advance();
        if self.turn.meets() {
            self.text.line("__syncthreads();");
            self.turn.barrier();
        }
    }

    /// Some statements, in the order of their text.
    fn statements(&mut self, belongs: impl Fn(usize) -> bool) {
        for i in self.order().into_iter().filter(|i| belongs(*i)) {
            self.statement(i);
        }
        self.flush();
    }

    /// The statements in the order of their text: where rows follow each other, what waits for fewer
    /// sums over the block comes first, so that independent sums share one exchange.
    fn order(&self) -> Vec<usize> {
        let (program, placed) = (self.walk.program, &self.walk.layouts.placed);
        let mut level = vec![0usize; program.statements.len()];
        for (i, s) in program.statements.iter().enumerate() {
            for read in &s.reads {
                if let Src::Statement(source) = read.src {
                    let waits = placed[source].reduction == Some(Reduction::Block);
                    level[i] = level[i].max(level[source] + usize::from(waits));
                }
            }
        }
        let mut order: Vec<usize> = (0..level.len()).collect();
        if self.walk.repeats {
            order.sort_by_key(|i| level[*i]);
        }
        order
    }

    pub(super) fn declare_shared(&mut self, name: &str, floats: usize) {
        // 16-byte alignment, so that vectors can be read from it.
        self.shared_next = self.shared_next.next_multiple_of(4);
        self.shared_decls.push(format!(
            "float* const {name} = smem + {};",
            self.shared_next
        ));
        self.shared_next += floats;
    }

    pub(super) fn layout(&self, index: usize) -> &Layout {
        &self.walk.layouts.layouts[index]
    }

    pub(super) fn live(&self) -> Option<String> {
        let mut parts: Vec<String> = Vec::new();
        if self.halo > 0 {
            parts.push("live".into());
        }
        parts.extend(self.walk.writer.clone());
        (!parts.is_empty()).then(|| parts.join(" && "))
    }

    /// The condition under which this block writes a value over `axes`: all blocks along a grid
    /// axis that the value lacks compute the same, the first one writes.
    pub(super) fn write_condition(&self, axes: &[AxisId], live: Option<String>) -> Option<String> {
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
    pub(super) fn register(&self, layout: usize, name: &str) -> String {
        let l = self.layout(layout);
        match (l.space.len() == 1, l.strips > 1, l.vector > 1) {
            (true, ..) | (_, false, false) => name.to_string(),
            (_, true, false) => format!("{name}[strip]"),
            (_, false, true) => format!("{name}[nth]"),
            (_, true, true) => format!("{name}[strip][nth]"),
        }
    }

    /// The registers of one vector, as an array.
    pub(super) fn vector(&self, layout: usize, name: &str) -> String {
        if self.layout(layout).strips > 1 {
            format!("{name}[strip]")
        } else {
            name.to_string()
        }
    }

    pub(super) fn declaration(&self, layout: usize, name: &str) -> String {
        let l = self.layout(layout);
        match (l.strips > 1, l.vector > 1) {
            (false, false) => format!("float {name};"),
            (true, false) => format!("float {name}[{}];", l.strips),
            (false, true) => format!("float {name}[{}];", l.vector),
            (true, true) => format!("float {name}[{}][{}];", l.strips, l.vector),
        }
    }

    pub(super) fn slice_register(&self, layout: usize, name: &str) -> String {
        if self.layout(layout).strips > 1 {
            format!("{name}[strip]")
        } else {
            name.to_string()
        }
    }

    pub(super) fn back(name: &str, delay: u32) -> String {
        format!("{name}_back{delay}")
    }

    pub(super) fn first_index(&self, axis: AxisId) -> String {
        self.walk
            .first_index
            .get(&axis)
            .cloned()
            .unwrap_or_else(|| "0".into())
    }

    /// `pointer + row part + block part + local part`.
    pub(super) fn address(
        &self,
        pointer: &str,
        row: Option<String>,
        offset: &Offset,
        space: &Space,
    ) -> String {
        let mut parts = vec![pointer.to_string()];
        parts.extend(row);
        parts.extend(offset.block_text(&|a| self.first_index(a)));
        parts.extend(offset.local_text(space, "elem"));
        parts.join(" + ")
    }

    pub(super) fn row_part(&self, value: ValueId, row: &str) -> Option<String> {
        let graph = self.walk.grid.graph();
        graph
            .value(value)
            .rows
            .then(|| match graph.row_elements(value) {
                1 => row.to_string(),
                n => format!("{row} * {n}"),
            })
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
