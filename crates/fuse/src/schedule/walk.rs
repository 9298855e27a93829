//! Schedules of walks: a block takes rows of one sequence, one after the other or a run at a time.
//!
//! Threads follow from the widest thing that a block computes; shared memory from where results live
//! ([`super::placement`]). Rows, recurrences and what comes before a matrix-vector product are walks.

use super::affine::Grid;
use super::parts::{self, Parts};
use super::placement::{Layouts, Reduction};
use super::program::{self, Program};
use super::segments::{Pass, Segments};
use crate::chunked::Classes;
use crate::context::{Context, iteration_axes};
use crate::plan::GridAxis;
use fusec_ir::{
    Access, AxisId, Direction, Graph, OpId, OpKind, StateId, StateKind, StepKind, ValueId,
};
use serde::{Deserialize, Serialize};

/// A block owns a run of consecutive rows of one sequence and a tile of the grid axes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowTile {
    /// Axes spread over the grid, outermost first.
    pub grid: Vec<GridAxis>,
    /// Consecutive rows of one block.
    pub rows: u32,
    /// Threads that suit it.
    pub threads: u32,
}

/// A block owns one sequence and a tile of the grid axes, and walks along T.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanTile {
    /// Axes spread over the grid, outermost first.
    pub grid: Vec<GridAxis>,
    /// Rows for which what surrounds the recurrence is computed at once; 1: none.
    pub run: u32,
    /// Threads that suit it.
    pub threads: u32,
    /// Which row of a sequence comes first.
    #[serde(default, skip_serializing_if = "Direction::is_forward")]
    pub direction: Direction,
    /// The segments that T is cut into, each with blocks of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segments: Option<Segments>,
}

/// A walk of some operations with its statements placed.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The statements.
    pub program: Program,
    /// Where they run and their results live.
    pub layouts: Layouts,
}

/// What is walked.
#[derive(Clone, Copy, Debug)]
pub struct Walked<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// The operations, ascending.
    pub ops: &'a [OpId],
    /// The tails that they bring up to date.
    pub tails: &'a [StateId],
    /// The values that go to memory.
    pub stores: &'a [ValueId],
    /// Elements of the widest access: 16 bytes of the storage type.
    pub vector: usize,
    /// In which order the rows come.
    pub direction: Direction,
    /// The classes of the recurrences, where only what becomes of states is walked for: [`Pass::States`].
    pub states: Option<&'a Classes>,
}

/// Fewest and most threads of a block.
pub(crate) const THREADS: (usize, usize) = (64, 512);
/// Elements of a row that a thread has, of a state, and of what surrounds one.
const ROW_ELEMENTS: usize = 8;
const STATE_ELEMENTS: usize = 16;
const AROUND_ELEMENTS: usize = 32;
/// f32 elements of a 16-byte access to shared memory.
const CHUNK: usize = 4;
/// Threads of a warp.
const WARP: usize = 32;

impl<'a> Walked<'a> {
    /// The walk of some operations of a model that is planned, from the first row on.
    pub fn of(
        ctx: &Context<'a>,
        ops: &'a [OpId],
        tails: &'a [StateId],
        stores: &'a [ValueId],
    ) -> Walked<'a> {
        Walked {
            graph: ctx.graph,
            ops,
            tails,
            stores,
            vector: 16 / ctx.storage.bytes(),
            direction: Direction::Forward,
            states: None,
        }
    }

    /// The same with rows in this order.
    pub fn towards(self, direction: Direction) -> Walked<'a> {
        Walked { direction, ..self }
    }

    /// The same in a pass over segments.
    pub fn in_pass(self, segments: Option<Segments>, classes: &'a Classes) -> Walked<'a> {
        let only = segments.is_some_and(|segments| segments.pass == Pass::States);
        Walked {
            states: only.then_some(classes),
            ..self
        }
    }

    /// Threads that suit a walk: enough for its widest statement at a comfortable number of elements
    /// each.
    pub fn threads(&self, grid: &[GridAxis]) -> u32 {
        let graph = self.graph;
        let grid = Grid::new(graph, grid);
        let extent = |axes: &[AxisId]| axes.iter().map(|a| grid.extent(*a)).product::<usize>();
        let (mut state, mut widest) = (0, 1);
        for id in self.ops {
            let op = graph.op(*id);
            match &op.kind {
                OpKind::Scan { recurrence, .. } => {
                    let step = graph.recurrence(*recurrence);
                    for held in &step.states {
                        state = state.max(extent(&held.axes));
                        widest = widest.max(extent(&held.axes));
                    }
                    for op in &step.ops {
                        let over = match &op.kind {
                            StepKind::Reduce { axes, .. } => extent(axes),
                            StepKind::Map => 1,
                        };
                        widest = widest.max(extent(&op.axes) * over);
                    }
                }
                _ => widest = widest.max(extent(&iteration_axes(graph, op))),
            }
            widest = op
                .inputs
                .iter()
                .map(|access| extent(&loaded(graph, access)))
                .fold(widest, usize::max);
        }
        for tail in self.tails {
            if let StateKind::Tail { value, .. } = graph.state(*tail).kind {
                widest = widest.max(extent(&graph.value(value).axes));
            }
        }
        let wanted = match state {
            0 => widest / ROW_ELEMENTS,
            // A small state is shared by a warp for each quarter of a multiprocessor.
            state => {
                let few = (state / CHUNK).min(4 * WARP);
                let around = widest / AROUND_ELEMENTS;
                (state / STATE_ELEMENTS).max(around).max(few)
            }
        };
        wanted.next_power_of_two().clamp(THREADS.0, THREADS.1) as u32
    }

    /// The statements of a walk by blocks of `threads`, what surrounds a recurrence for `run` rows at
    /// once.
    pub fn placed(&self, grid: &[GridAxis], threads: usize, run: u32) -> Placed {
        let grid = Grid::new(self.graph, grid);
        let program = match self.states {
            None => program::lower(self.graph, self.ops, self.tails, self.direction),
            Some(classes) => program::lower_states(self.graph, self.ops, self.direction, classes),
        };
        let (program, parts) = match run {
            0 | 1 => {
                let parts = Parts::whole(&program);
                (program, parts)
            }
            run => {
                let sizes = (threads, self.vector, run as usize);
                parts::divide(&grid, program, self.stores, sizes)
            }
        };
        let layouts = Layouts::new(&grid, &program, threads, self.vector, parts);
        Placed { program, layouts }
    }

    /// Shared memory of a walk, f32 elements; `repeats` as in [`Placed::shared_floats`].
    pub fn shared_floats(
        &self,
        grid: &[GridAxis],
        threads: usize,
        run: u32,
        repeats: bool,
    ) -> usize {
        self.placed(grid, threads, run).shared_floats(repeats)
    }

    /// No less than [`Walked::shared_floats`] of a walk without runs, from sizes alone.
    pub fn shared_floats_at_most(&self, grid: &[GridAxis]) -> usize {
        let graph = self.graph;
        let grid = Grid::new(graph, grid);
        let extent = |axes: &[AxisId]| axes.iter().map(|a| grid.extent(*a)).product::<usize>();
        let own = self.ops.iter().map(|id| {
            let op = graph.op(*id);
            let loads: usize = op
                .inputs
                .iter()
                .map(|a| extent(&loaded(graph, a)) + 4)
                .sum();
            let space = match &op.kind {
                OpKind::Scan { recurrence, .. } => {
                    let step = graph.recurrence(*recurrence);
                    let states: usize = step.states.iter().map(|s| 2 * extent(&s.axes)).sum();
                    let steps = step.ops.iter().map(|op| match &op.kind {
                        StepKind::Reduce { axes, .. } => extent(&op.axes) * (1 + extent(axes)),
                        StepKind::Map => extent(&op.axes),
                    });
                    states + steps.sum::<usize>()
                }
                // The result, the terms of a sum or two statistics of a norm, a copy of earlier rows.
                _ => 4 * extent(&iteration_axes(graph, op)),
            };
            space + loads + 8 * THREADS.1 / WARP + 16
        });
        own.sum()
    }
}

impl Placed {
    /// Shared memory, f32 elements: copies that other threads read, of every row of a run where
    /// another part reads them; terms of sums that no group of lanes owns; exchanges among all threads
    /// of a block, for two rows in turn where the walk usually takes several (`repeats`).
    pub fn shared_floats(&self, repeats: bool) -> usize {
        let Placed { program, layouts } = self;
        let crossing = layouts.parts.crossing(program);
        let warps = layouts.threads.div_ceil(WARP);
        let mut floats = 0;
        let mut take = |n: usize| floats += n.next_multiple_of(CHUNK);
        for (placed, crossing) in layouts.placed.iter().zip(crossing) {
            let space = &layouts.layouts[placed.layout].space;
            if placed.shared {
                let copies = if crossing { layouts.parts.rows } else { 1 };
                take(copies * placed.shared_space.len().next_multiple_of(CHUNK));
            }
            match placed.reduction {
                Some(Reduction::Shared) => take(space.len()),
                Some(Reduction::Block) if space.len() > 1 => {
                    take(if repeats { 2 * warps } else { warps });
                }
                _ => {}
            }
        }
        floats
    }
}

/// The axes of the row that a load brings for an access.
fn loaded(graph: &Graph, access: &Access) -> Vec<AxisId> {
    let mut axes: Vec<AxisId> = Vec::new();
    if graph.value(access.value).rows {
        for (axis, _) in access.index.iter().flat_map(|i| &i.terms) {
            if !axes.contains(axis) {
                axes.push(*axis);
            }
        }
    }
    axes
}
