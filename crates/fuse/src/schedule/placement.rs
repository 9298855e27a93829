//! Where statements run and where their results live inside a block.
//!
//! All statements over the same set of axes share one [`Layout`]: thread `tid`
//! owns elements `(k * threads + tid) * vector + v`, or, of a state, chunks of four that
//! alternate with those of its neighbours ([`Layout::chunk`]). A result read by a statement
//! with the same layout stays in registers; a sum over trailing axes stays with
//! the threads that summed it (a *slice* of the layout); anything else goes
//! through shared memory.

use super::affine::{Grid, Space};
use super::parts::{Part, Parts};
use super::program::{Program, Read, Src, Statement};
use fusec_ir::AxisId;
use std::collections::BTreeMap;

/// Threads to elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The elements, in the order in which threads own them.
    pub space: Space,
    /// Consecutive elements a thread owns at a time.
    pub vector: usize,
    /// How many such vectors a thread owns.
    pub strips: usize,
    /// Elements of a vector that lie side by side; `vector` if all do. Otherwise the threads that
    /// share a row of the innermost axis take turns, a chunk each: then neighbours read
    /// neighbouring 16 bytes of a shared row, and no two of them the same bank.
    pub chunk: usize,
    /// Whether every thread owns exactly `strips` full vectors.
    pub exact: bool,
    /// Threads that share the elements: those of a block, or of a team.
    pub threads: usize,
    /// Whether each of several teams of threads has a row of its own.
    pub in_teams: bool,
}

impl Layout {
    /// Threads that take turns along the innermost axis, where chunks alternate.
    pub fn turns(&self) -> Option<usize> {
        (self.chunk < self.vector).then(|| self.space.innermost() / self.vector)
    }

    /// Elements of a thread: registers that a result takes.
    pub fn registers(&self) -> usize {
        self.vector * self.strips
    }
}

/// Lanes of a warp.
const WARP: usize = 32;
/// f32 elements of a 16-byte access to shared memory.
const CHUNK: usize = 4;
/// Elements of a row of a state that a thread has, where it shares the row with others.
const SHARED_ROW: usize = 8;
/// Lanes over which such a row is summed, at most.
const FEW: usize = 8;
/// Most elements per lane of a space that one warp handles alone.
const SMALL: usize = 4;

/// How a reduction is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Over everything: one number for the whole block.
    Block,
    /// Over trailing axes that a group of this many lanes of a warp owns.
    Lanes(usize),
    /// Through shared memory.
    Shared,
}

/// Where a statement's result lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// One register, the same in every thread.
    Uniform,
    /// Registers, by the layout of the statement.
    Registers,
    /// One register per strip, in the layout of the reducing statement.
    Slice,
    /// Shared memory only.
    Shared,
}

/// A statement placed.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Index into [`Layouts::layouts`].
    pub layout: usize,
    /// How it reduces, if it does.
    pub reduction: Option<Reduction>,
    /// Where the result lives.
    pub place: Place,
    /// Whether a copy in shared memory is needed.
    pub shared: bool,
    /// The result's elements in shared memory, in order.
    pub shared_space: Space,
}

/// The layouts of a lane.
#[derive(Clone, Debug)]
pub struct Layouts {
    /// Threads of a block.
    pub threads: usize,
    /// All layouts.
    pub layouts: Vec<Layout>,
    /// One per statement.
    pub placed: Vec<Placed>,
    /// Layout of each carried state.
    pub states: Vec<usize>,
    /// What is computed for several rows at once.
    pub parts: Parts,
}

/// Number of threads that suits a program: enough for its widest statement at a
/// comfortable number of elements each.
pub fn threads_for(grid: &Grid, program: &Program) -> usize {
    let state = program
        .states
        .iter()
        .map(|s| grid.space(&s.axes).len())
        .max()
        .unwrap_or(0);
    let widest = program
        .statements
        .iter()
        .map(|s| grid.space(&s.iteration_axes()).len())
        .max()
        .unwrap_or(1);
    let wanted = if state > 0 {
        // A small state is shared by a warp for each quarter of a multiprocessor.
        let few = (state / CHUNK).min(4 * WARP);
        (state / 16).max(widest / 32).max(few)
    } else {
        widest / 8
    };
    wanted.next_power_of_two().clamp(64, 512)
}

impl Layouts {
    /// Places every statement. `vector` is the widest vector of the storage type (16 bytes).
    pub fn new(
        grid: &Grid,
        program: &Program,
        threads: usize,
        vector: usize,
        parts: Parts,
    ) -> Self {
        let mut orders: BTreeMap<(bool, Vec<AxisId>), Space> = BTreeMap::new();
        let key = |in_teams: bool, space: &Space| (in_teams, space.axis_set());
        let in_teams = |i: usize| parts.of[i] != Part::Step;
        let statements = || program.statements.iter().enumerate();
        // Reductions first: their reduced axes should trail. Then the order of first use.
        for (i, s) in statements().filter(|(_, s)| s.reduce.is_some()) {
            let space = grid.space(&s.iteration_axes());
            orders.entry(key(in_teams(i), &space)).or_insert(space);
        }
        for (i, s) in statements() {
            let space = grid.space(&s.axes);
            orders.entry(key(in_teams(i), &space)).or_insert(space);
        }
        for s in &program.states {
            let space = grid.space(&s.axes);
            orders.entry(key(false, &space)).or_insert(space);
        }
        let index: BTreeMap<(bool, Vec<AxisId>), usize> = orders
            .keys()
            .cloned()
            .enumerate()
            .map(|(i, k)| (k, i))
            .collect();
        let stateful: Vec<(bool, Vec<AxisId>)> = program
            .states
            .iter()
            .map(|s| key(false, &grid.space(&s.axes)))
            .collect();
        let summed: Vec<(bool, Vec<AxisId>)> = statements()
            .filter(|(_, s)| s.reduce.is_some())
            .map(|(i, s)| key(in_teams(i), &grid.space(&s.iteration_axes())))
            .collect();
        let layouts: Vec<Layout> = orders
            .iter()
            .map(|(k, space)| match k.0 {
                true => side_by_side(space.clone(), parts.team, vector),
                false => {
                    let (held, summed) = (stateful.contains(k), summed.contains(k));
                    layout(space.clone(), threads, vector, held, summed)
                }
            })
            .collect();
        let find = |in_teams: bool, space: &Space| index[&key(in_teams, space)];
        let placed = statements()
            .map(|(i, s)| {
                let layout = find(in_teams(i), &grid.space(&s.iteration_axes()));
                place(grid, s, layout, &layouts[layout])
            })
            .collect();
        let states = program
            .states
            .iter()
            .map(|s| find(false, &grid.space(&s.axes)))
            .collect();
        let mut out = Layouts {
            threads,
            layouts,
            placed,
            states,
            parts,
        };
        out.share(program);
        out
    }

    /// Whether `reader` gets the result it reads from registers of its own layout.
    pub fn in_registers(&self, read: &Read, source: usize, reader: usize) -> bool {
        let placed = &self.placed[source];
        if self.parts.of[source] != self.parts.of[reader] {
            return false;
        }
        match placed.place {
            Place::Uniform => true,
            Place::Registers | Place::Slice => {
                placed.layout == self.placed[reader].layout && self.reads_plain(read)
            }
            Place::Shared => false,
        }
    }

    // Axes of extent 1 have no index variable worth comparing.
    fn reads_plain(&self, read: &Read) -> bool {
        read.index.iter().zip(&read.axes).all(|(i, a)| {
            i.as_axis() == Some(*a) || !self.layouts.iter().any(|l| l.space.axes.contains(a))
        })
    }

    fn share(&mut self, program: &Program) {
        for (reader, s) in program.statements.iter().enumerate() {
            for read in &s.reads {
                if let Src::Statement(source) = read.src
                    && !self.in_registers(read, source, reader)
                {
                    self.placed[source].shared = true;
                }
            }
        }
    }
}

/// The elements of a row among the threads of a team.
pub fn side_by_side(space: Space, team: usize, vector: usize) -> Layout {
    Layout {
        in_teams: true,
        ..layout(space, team, vector, false, true)
    }
}

/// The elements of a space among so many threads. `stateful`: a state's; `summed`: some sum or maximum is over it.
fn layout(space: Space, threads: usize, vector: usize, stateful: bool, summed: bool) -> Layout {
    let n = space.len();
    let mut v = 1;
    // A small space goes to one warp, whose reductions need no barrier.
    let per_lane = n.div_ceil(WARP);
    if summed
        && !stateful
        && per_lane <= SMALL
        && space
            .innermost()
            .is_multiple_of(per_lane.next_power_of_two())
    {
        let v = per_lane.next_power_of_two();
        return Layout {
            exact: n == threads * v,
            space,
            vector: v,
            strips: 1,
            chunk: v,
            threads,
            in_teams: false,
        };
    }
    let limit = if stateful { 32 } else { vector };
    // The smallest vector that covers the space in one strip: states are held whole, rows are
    // moved in accesses of at most 16 bytes.
    while v < limit && space.innermost().is_multiple_of(2 * v) && threads * v < n {
        v *= 2;
    }
    // Where threads share a row, each takes parts of several rows: what is read along a row is read
    // once for all of them, and a sum along it takes a few more exchanges between lanes.
    if stateful && v > SHARED_ROW && v < space.innermost() && space.innermost() <= FEW * SHARED_ROW
    {
        v = SHARED_ROW;
    }
    let strips = n.div_ceil(threads * v);
    // Chunks alternate where several threads share a row, all of it.
    let alternate =
        stateful && v > CHUNK && v < space.innermost() && space.innermost().is_multiple_of(v);
    Layout {
        exact: n == threads * v * strips,
        space,
        vector: v,
        strips,
        chunk: if alternate { CHUNK } else { v },
        threads,
        in_teams: false,
    }
}

fn place(grid: &Grid, s: &Statement, index: usize, layout: &Layout) -> Placed {
    let own: Vec<AxisId> = layout
        .space
        .axes
        .iter()
        .copied()
        .filter(|a| s.axes.contains(a))
        .collect();
    let shared_space = grid.space(&own);
    let Some((_, reduced)) = &s.reduce else {
        let place = if layout.space.len() == 1 {
            Place::Uniform
        } else {
            Place::Registers
        };
        return Placed {
            layout: index,
            reduction: None,
            place,
            shared: false,
            shared_space,
        };
    };
    let reduction = reduction(layout, reduced, shared_space.len());
    let place = match reduction {
        Reduction::Block => Place::Uniform,
        Reduction::Lanes(_) => Place::Slice,
        Reduction::Shared => Place::Shared,
    };
    let shared = place == Place::Shared;
    Placed {
        layout: index,
        reduction: Some(reduction),
        place,
        shared,
        shared_space,
    }
}

/// How the threads of a layout reduce over some of its axes to so many results.
pub fn reduction(layout: &Layout, reduced: &[AxisId], results: usize) -> Reduction {
    let space = &layout.space;
    let fallback = if results == 1 {
        Reduction::Block
    } else {
        Reduction::Shared
    };
    if results == 1 && (space.len() == 1 || space.len() > WARP * layout.vector) {
        return Reduction::Block;
    }
    let inner = space
        .axes
        .iter()
        .rev()
        .take_while(|a| reduced.contains(a))
        .count();
    let total = space.axes.iter().filter(|a| reduced.contains(a)).count();
    let extent: usize = space.extents.iter().rev().take(inner).product();
    if inner != total || !extent.is_multiple_of(layout.vector) {
        return fallback;
    }
    let lanes = extent / layout.vector;
    if lanes.is_power_of_two() && lanes <= 32 && layout.threads.is_multiple_of(lanes) {
        Reduction::Lanes(lanes)
    } else {
        fallback
    }
}
