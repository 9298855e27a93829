//! What of a walk can be done for several rows at once.
//!
//! Rows of a recurrence follow each other, but only what carries its state has to. The
//! rest comes before or after it, for a run of rows: teams of threads take a row each. What one
//! part computes and another needs lies in shared memory, for all rows of the run.
//!
//! Lives here: which statement belongs to which part. Never here: their text.

use super::affine::Grid;
use super::placement::{self, Reduction};
use super::program::{self, Program, Read, Src, Statement};
use fusec_ir::{AxisId, ValueId};

/// Fewest threads of a team: whole warps, which reduce without a barrier.
const WARP: usize = 32;

/// When a statement is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// For a run of rows, before the recurrence takes them.
    Before,
    /// For one row after the other.
    Step,
    /// For a run of rows, after the recurrence.
    After,
}

/// The parts of a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The part of each statement.
    pub of: Vec<Part>,
    /// Threads that work on one row before and after the recurrence.
    pub team: usize,
    /// Rows of a run.
    pub rows: usize,
}

impl Parts {
    /// Everything for one row after the other.
    pub fn whole(program: &Program) -> Parts {
        Parts {
            of: vec![Part::Step; program.statements.len()],
            team: 1,
            rows: 1,
        }
    }

    /// Whether there are rows that are worked on side by side.
    pub fn is_split(&self) -> bool {
        self.of.iter().any(|p| *p != Part::Step)
    }

    /// Statements whose results another part reads.
    pub fn crossing(&self, program: &Program) -> Vec<bool> {
        let mut out = vec![false; program.statements.len()];
        for (reader, s) in program.statements.iter().enumerate() {
            for source in sources(s) {
                out[source] |= self.of[source] != self.of[reader];
            }
        }
        out
    }
}

/// Divides the statements of a walk that takes runs of `rows`, by blocks of `threads`. What the
/// recurrence computes for `stores` is copied to memory after it, by whole teams.
pub fn divide(
    grid: &Grid,
    mut program: Program,
    stores: &[ValueId],
    (threads, vector, rows): (usize, usize, usize),
) -> (Program, Parts) {
    let parts = split(grid, &program, threads, vector, rows);
    if !parts.is_split() {
        return (program, parts);
    }
    for value in stores {
        let Some(of) = program.value.get(value).copied() else {
            continue;
        };
        let large = of_a_state(grid, &program, of);
        let s = &program.statements[of];
        let kept = s.history > 0 || program.tails.iter().any(|(_, tail, _)| *tail == of);
        if parts.of[of] == Part::Step && !large && !kept {
            let copy = program::copy(of, s);
            program.statements.push(copy);
            program.value.insert(*value, program.statements.len() - 1);
        }
    }
    let parts = split(grid, &program, threads, vector, rows);
    (program, parts)
}

fn split(grid: &Grid, program: &Program, threads: usize, vector: usize, rows: usize) -> Parts {
    let mut split = Split {
        grid,
        program,
        team: WARP,
        vector,
        part: candidates(program),
    };
    if rows < 2 {
        return Parts::whole(program);
    }
    // What reads an earlier row of something is in the recurrence, with all that it reads beside.
    for i in 0..split.part.len() {
        if split.part[i] == Part::Step {
            split.take_back(i);
        }
    }
    // As large a team as the widest statement wants that is left to it.
    let mut known = 0;
    while known != split.team {
        known = split.team;
        while split.narrow() {}
        split.team = split.wanted().clamp(WARP, threads.max(WARP));
    }
    if !threads.is_multiple_of(split.team) {
        return Parts::whole(program);
    }
    split.late();
    Parts {
        of: split.part,
        team: split.team,
        rows,
    }
}

/// What could be outside of the recurrence, by what depends on what.
fn candidates(program: &Program) -> Vec<Part> {
    let statements = &program.statements;
    let kept =
        |i: usize| statements[i].history > 0 || program.tails.iter().any(|(_, of, _)| *of == i);
    // What depends on a state or on an earlier row, and what states become, even where that depends
    // on neither: the step that takes it reads it where it lives for one row.
    let mut carried = vec![false; statements.len()];
    for state in &program.states {
        carried[state.next] = true;
    }
    for (i, s) in statements.iter().enumerate() {
        carried[i] |= s.reads.iter().any(|read| match read.src {
            Src::State(_) => true,
            Src::Statement(source) => carried[source] || read.delay > 0,
            Src::Fixed(_) | Src::Row(_) | Src::Apart { .. } | Src::Table { .. } => false,
        });
    }
    // What the next row waits for.
    let mut awaited: Vec<bool> = (0..statements.len()).map(kept).collect();
    for state in &program.states {
        awaited[state.next] = true;
    }
    for i in (0..statements.len()).rev() {
        if awaited[i] {
            sources(&statements[i]).for_each(|source| awaited[source] = true);
        }
    }
    let part = |i: usize| {
        let own = statements[i]
            .reads
            .iter()
            .any(|read| read.delay > 0 || matches!(read.src, Src::State(_)));
        match (carried[i], awaited[i]) {
            _ if kept(i) => Part::Step,
            (false, _) => Part::Before,
            (true, false) if !own => Part::After,
            _ => Part::Step,
        }
    };
    (0..statements.len()).map(part).collect()
}

struct Split<'a, 'g> {
    grid: &'a Grid<'g>,
    program: &'a Program,
    team: usize,
    vector: usize,
    part: Vec<Part>,
}

impl Split<'_, '_> {
    /// Threads for the widest statement outside of the recurrence, a vector each.
    fn wanted(&self) -> usize {
        let outside = (0..self.part.len()).filter(|i| self.part[*i] != Part::Step);
        let elements = outside.map(|i| {
            let axes = self.program.statements[i].iteration_axes();
            self.grid.space(&axes).len()
        });
        let widest = elements.max().unwrap_or(1);
        (widest / self.vector).next_power_of_two()
    }

    /// Takes statements back into the recurrence that a team cannot compute on its own, without
    /// an exchange. Returns whether there were any.
    fn narrow(&mut self) -> bool {
        let mut changed = false;
        for i in 0..self.part.len() {
            if self.part[i] == Part::Step || self.fits(i) {
                continue;
            }
            changed = true;
            let was = std::mem::replace(&mut self.part[i], Part::Step);
            if was == Part::After {
                self.take_back(i);
            }
        }
        changed
    }

    /// What a statement of the recurrence reads cannot come after it.
    fn take_back(&mut self, i: usize) {
        for source in sources(&self.program.statements[i]) {
            if self.part[source] == Part::After {
                self.part[source] = Part::Step;
                self.take_back(source);
            }
        }
    }

    fn fits(&self, i: usize) -> bool {
        let s = &self.program.statements[i];
        if let Some((_, reduced)) = &s.reduce {
            let space = self.grid.space(&s.iteration_axes());
            let results = self.grid.space(&s.axes).len();
            let layout = placement::side_by_side(space, self.team, self.vector);
            let reduction = placement::reduction(&layout, reduced, results);
            if !matches!(reduction, Reduction::Lanes(_)) {
                return false;
            }
        }
        s.reads.iter().all(|read| match read.src {
            Src::Statement(source) => match (self.part[source], self.part[i]) {
                (a, b) if a == b => self.own_element(read, source, i),
                (Part::Step | Part::After, Part::Before) => false,
                // What is as large as a state stays in the registers of its threads.
                (Part::Step, _) => !of_a_state(self.grid, self.program, source),
                _ => true,
            },
            Src::State(_) => false,
            Src::Fixed(_) | Src::Row(_) | Src::Apart { .. } | Src::Table { .. } => true,
        })
    }

    /// Whether a thread that has an element of the reader has the element that it reads.
    fn own_element(&self, read: &Read, source: usize, reader: usize) -> bool {
        let key = |s: &Statement| self.grid.space(&s.iteration_axes()).axis_set();
        let statements = &self.program.statements;
        let (from, to) = (key(&statements[source]), key(&statements[reader]));
        let plain = |(index, axis): (&fusec_ir::IndexExpr, &AxisId)| {
            index.as_axis() == Some(*axis) || self.grid.extent(*axis) == 1
        };
        from.is_empty() || from == to && read.index.iter().zip(&read.axes).all(plain)
    }

    /// What is needed after the recurrence only is computed there, where it can stay in registers.
    fn late(&mut self) {
        let statements = &self.program.statements;
        for i in (0..statements.len()).rev() {
            if self.part[i] != Part::Before {
                continue;
            }
            let mut readers = 0;
            let late = (0..statements.len()).all(|reader| {
                statements[reader].reads.iter().all(|read| {
                    if read.src != Src::Statement(i) {
                        return true;
                    }
                    readers += 1;
                    self.part[reader] == Part::After && self.own_element(read, i, reader)
                })
            });
            if late && readers > 0 {
                self.part[i] = Part::After;
            }
        }
    }
}

/// Whether a result has as many elements as a state.
fn of_a_state(grid: &Grid, program: &Program, i: usize) -> bool {
    let elements = grid.space(&program.statements[i].axes).len();
    let mut states = program.states.iter();
    states.any(|state| grid.space(&state.axes).len() <= elements)
}

fn sources(s: &Statement) -> impl Iterator<Item = usize> + '_ {
    s.reads.iter().filter_map(|read| match read.src {
        Src::Statement(source) => Some(source),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::program::{Carried, Held};
    use fusec_ir::class::Algebra;
    use fusec_ir::language::{ModelSource, Overrides, compile};
    use fusec_ir::{Combine, Expr, IndexExpr, StateId};

    /// Two axes.
    const MODEL: &str = r#"
name = "parts"
[axes]
I = 64
J = 64
[input]
x = "I, J"
[model]
flow = """
  return silu(x)
"""
"#;

    const VALUE: ValueId = ValueId(0);

    fn read(src: Src, axes: &[AxisId], delay: u32) -> Read {
        let index = axes.iter().map(|a| IndexExpr::axis(*a)).collect();
        let axes = axes.to_vec();
        Read {
            src,
            axes,
            index,
            delay,
        }
    }

    fn statement(axes: &[AxisId], reduced: &[AxisId], reads: Vec<Read>) -> Statement {
        Statement {
            name: "s".into(),
            axes: axes.to_vec(),
            reduce: (!reduced.is_empty()).then(|| (Combine::Sum, reduced.to_vec())),
            expr: Expr::Input(0),
            reads,
            history: 0,
            tail: None,
            op: None,
        }
    }

    /// k, g and u in memory; S = S * f(k); y = sum(S); z = y * silu(g); h is a stencil over u.
    fn program(i: AxisId, j: AxisId) -> Program {
        let of = Src::Statement;
        let mut statements = vec![
            statement(&[j], &[], vec![read(Src::Row(VALUE), &[j], 0)]),
            statement(&[j], &[], vec![read(of(0), &[j], 0)]),
            statement(&[i], &[], vec![read(Src::Row(VALUE), &[i], 0)]),
            statement(
                &[i, j],
                &[],
                vec![read(Src::State(0), &[i, j], 0), read(of(1), &[j], 0)],
            ),
            statement(&[i], &[j], vec![read(of(3), &[i, j], 0)]),
            statement(&[i], &[], vec![read(of(4), &[i], 0), read(of(2), &[i], 0)]),
            statement(&[i], &[], vec![read(Src::Row(VALUE), &[i], 0)]),
            statement(&[i], &[], vec![read(of(6), &[i], 0), read(of(6), &[i], 1)]),
        ];
        statements[6].history = 1;
        Program {
            statements,
            states: vec![Carried {
                state: StateId(0),
                held: Held::State,
                algebra: Algebra::Linear,
                name: "S".into(),
                axes: vec![i, j],
                next: 3,
                kept: true,
            }],
            ..Program::default()
        }
    }

    #[test]
    fn what_carries_no_state_is_computed_for_a_run_of_rows() {
        let source = ModelSource::from_text("parts", MODEL);
        let graph = compile(&source, &Overrides::default()).unwrap();
        let axis = |name: &str| {
            let at = graph.axes.iter().position(|a| a.name == name);
            AxisId(at.unwrap() as u32)
        };
        let (i, j) = (axis("I"), axis("J"));
        let grid = Grid::new(&graph, &[]);
        let program = program(i, j);
        let (before, step, after) = (Part::Before, Part::Step, Part::After);
        let parts = split(&grid, &program, 256, 8, 32);
        // The gate is loaded where it is needed; the stencil keeps rows, one after the other.
        let expected = [before, before, after, step, step, after, step, step];
        assert_eq!((parts.of.as_slice(), parts.team), (&expected[..], 32));
        assert!(!split(&grid, &program, 256, 8, 1).is_split());
    }
}
