//! The meaning of a graph, executably: what every other way of running a model must agree with.
//!
//! [`Interpreter`] computes in f64 for checking and in f32, on all threads, for running. Each
//! operation is evaluated by itself, in the order of the graph, with nothing fused. What never
//! will live here: plans, kernels, files, or the choice of a device.
//!
//! One buffer per value, row-major `[B, T, axes...]`. An access is bound to strides over an
//! iteration space (`operand`, `view`), scalar expressions run as straight-line programs over
//! chunks (`program`), and one file holds each kind of operation.

mod attend;
mod attend_back;
mod check;
mod constants;
mod contract;
mod delay;
mod dither;
mod error;
mod evaluate;
mod gather;
mod gemm;
mod map;
mod non_finite;
mod norm;
mod operand;
mod program;
mod real;
mod run;
mod scan;
mod scatter;
mod tensor;
#[cfg(test)]
mod tests;
mod view;

pub use constants::evaluate_load_time;
pub use error::InterpretError;
pub use non_finite::{NonFinite, first_non_finite};
pub use real::{Real, StorageType};
pub use run::Run;
pub use tensor::{Input, Outputs, Params, State, Tensor};

use crate::{
    Access, AxisId, Graph, Op, OpKind, Precision, RecurrenceId, StateKind, ValueId, last_row,
};
use evaluate::{Evaluated, Get, Size};
use operand::{Affine, Dim, Space};
use program::{Operand, Program};
use scan::{Scan, Steps};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use tensor::shape_text;

/// Whether values are rounded to a storage type between operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// Everything stays in the type the interpreter computes in.
    #[default]
    None,
    /// Each value (and parameter) of [`Precision::Storage`] is rounded once it is computed: an
    /// unfused plan that stores every intermediate result.
    Op(StorageType),
    /// As `Op`, with errors of the same size and distribution that are other ones for every seed
    /// (subtractive dither). A number that the type holds stays itself, so parameters are as in
    /// `Op`. Where one badly conditioned value decides the error of a run, one way of rounding
    /// says little about another; several say how far they lie apart.
    Dithered(StorageType, u64),
    /// Every value, and every state after every step, gets an error as rounding to f32 leaves it,
    /// other ones for every seed: what f32 arithmetic makes of a model, whatever the order of its
    /// sums, up to a small factor. Of use in f64.
    Single(u64),
}

/// Which values a run hands back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// The graph's outputs; other buffers are freed after their last use.
    #[default]
    Outputs,
    /// Every value with rows, to find out where two ways of running part.
    All,
}

/// A graph with its parameters, ready to run.
#[derive(Clone, Debug)]
pub struct Interpreter<'g, F> {
    graph: &'g Graph,
    rounding: Rounding,
    /// Parameters and what is computed from them alone, at load.
    constants: BTreeMap<ValueId, Tensor<F>>,
    programs: Vec<Option<Program>>,
    recurrences: Vec<Steps>,
    /// For each value, whether it has one row for each sequence.
    one_row: Vec<bool>,
    /// For each operation, the values read by none after it.
    last_uses: Vec<Vec<ValueId>>,
}

/// Checks that a graph can be run: every id exists, every arity, shape and index range holds. What it
/// accepts reads no element that is not there.
pub fn check_graph(graph: &Graph) -> Result<(), InterpretError> {
    check::check(graph)
}

impl<'g, F: Real> Interpreter<'g, F> {
    /// Checks the graph and the parameters, and evaluates what depends on them alone.
    pub fn new(graph: &'g Graph, params: Params<F>) -> Result<Self, InterpretError> {
        Self::with_rounding(graph, params, Rounding::None)
    }

    /// As [`Interpreter::new`], rounding between operations.
    pub fn with_rounding(
        graph: &'g Graph,
        params: Params<F>,
        rounding: Rounding,
    ) -> Result<Self, InterpretError> {
        let mut interpreter = Self::bare(graph, rounding)?;
        interpreter.take_params(params)?;
        interpreter.load()?;
        Ok(interpreter)
    }

    /// Without parameters.
    fn bare(graph: &'g Graph, rounding: Rounding) -> Result<Self, InterpretError> {
        check::check(graph)?;
        let programs = graph.ops.iter().map(|op| match &op.kind {
            OpKind::Map { expr } | OpKind::Reduce { expr, .. } => Some(Program::new(expr)),
            _ => None,
        });
        Ok(Interpreter {
            graph,
            rounding,
            constants: BTreeMap::new(),
            programs: programs.collect(),
            recurrences: graph
                .recurrences
                .iter()
                .map(|r| Steps::new(graph, r))
                .collect(),
            one_row: last_row::one_row(graph),
            last_uses: last_uses(graph),
        })
    }

    /// Takes other parameters, and evaluates again what depends on them alone.
    pub fn set_params(&mut self, params: Params<F>) -> Result<(), InterpretError> {
        self.constants.clear();
        self.take_params(params)?;
        self.load()
    }

    /// The graph it runs.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// A parameter, or a value computed from parameters at load.
    pub fn constant(&self, id: ValueId) -> Option<&[F]> {
        self.constants.get(&id)?.numbers()
    }

    /// Runs `batch` x `time` positions from `state`, which is brought up to date if, and only if,
    /// the run succeeds.
    pub fn run(
        &self,
        state: &mut State<F>,
        batch: usize,
        time: usize,
        inputs: &BTreeMap<ValueId, Input<'_, F>>,
        keep: Keep,
    ) -> Result<Outputs<F>, InterpretError> {
        let mut run = self.begin(state, batch, time, inputs, keep)?;
        if let Some(id) = self.graph.inputs.iter().find(|id| !inputs.contains_key(id)) {
            return Err(run.missing_input(*id));
        }
        run.advance(self.graph.ops.len())?;
        Ok(run.finish(state))
    }

    fn check_size(&self, batch: usize, time: usize) -> Result<(), InterpretError> {
        let shape = |reason| InterpretError::Shape {
            batch,
            time,
            reason,
        };
        if batch == 0 || time == 0 {
            return Err(shape("both must be at least 1"));
        }
        let largest = (0..self.graph.values.len())
            .map(|i| self.graph.row_elements(ValueId(i as u32)))
            .max();
        batch
            .checked_mul(time)
            .and_then(|rows| rows.checked_mul(largest.unwrap_or(1)))
            .filter(|n| *n <= isize::MAX as usize / 16)
            .map(|_| ())
            .ok_or_else(|| shape("its tensors do not fit the address space"))
    }

    /// An input as the run keeps it, its type and size checked.
    fn take_input(
        &self,
        size: Size,
        id: ValueId,
        given: Input<'_, F>,
    ) -> Result<Tensor<F>, InterpretError> {
        let Size { batch, time, .. } = size;
        let value = self.graph.value(id);
        let (tensor, got) = match (given, value.precision) {
            (Input::Ids(x), Precision::Index) => (Tensor::Ids(Arc::new(x.to_vec())), x.len()),
            (Input::Numbers(x), Precision::Storage | Precision::F32) => {
                let mut x = x.to_vec();
                self.round(id, &mut x);
                let n = x.len();
                (Tensor::Numbers(Arc::new(x)), n)
            }
            (given, _) => {
                let (want, got) = match given {
                    Input::Ids(_) => ("numbers", "token ids"),
                    Input::Numbers(_) => ("token ids", "numbers"),
                };
                let name = value.name.clone();
                return Err(InterpretError::InputType { name, want, got });
            }
        };
        let rows = if value.rows { batch * time } else { 1 };
        let want = rows * self.graph.row_elements(id);
        if got != want {
            return Err(InterpretError::Elements {
                what: "input",
                name: value.name.clone(),
                shape: shape_text(self.graph, id, batch, time),
                got,
                want,
            });
        }
        Ok(tensor)
    }

    fn missing_input(&self, id: ValueId, size: Size) -> InterpretError {
        InterpretError::MissingInput {
            name: self.graph.value(id).name.clone(),
            shape: shape_text(self.graph, id, size.batch, size.time),
        }
    }

    /// Rounds a computed value as it would be stored.
    fn round(&self, id: ValueId, data: &mut [F]) {
        match (self.rounding, self.graph.value(id).precision) {
            (Rounding::Single(seed), Precision::Storage | Precision::F32) => {
                for x in data {
                    *x = dither::single(*x, seed);
                }
            }
            (Rounding::Op(storage), Precision::Storage) => {
                for x in data {
                    *x = x.rounded(storage);
                }
            }
            (Rounding::Dithered(storage, seed), Precision::Storage) => {
                for x in data {
                    *x = dither::dithered(*x, storage, seed);
                }
            }
            _ => {}
        }
    }

    /// Evaluates one operation: what [`evaluate::Evaluate`] is for each type.
    fn op<'v>(
        &self,
        at: usize,
        op: &Op,
        size: Size,
        states: &[Vec<F>],
        get: Get<'_, 'v, F>,
    ) -> Result<Evaluated<F>, InterpretError> {
        let graph = self.graph;
        let Size { batch, time, .. } = size;
        // `check` has shown that operands are computed first and are of the right type.
        let numbers = |id: ValueId| get(id).and_then(Tensor::numbers).unwrap_or(&[]);
        let tail_of = |access: &Access| access.tail.map(|s| states[s.index()].as_slice());
        let bound = || -> Vec<(Cow<'_, [F]>, Affine)> {
            let bind = |access: &Access| {
                let row = graph.row_elements(access.value);
                let data = numbers(access.value);
                let data = delay::rows(access, data, tail_of(access), (batch, time, row));
                (data, Affine::of_access(graph, access, time))
            };
            op.inputs.iter().map(bind).collect()
        };
        let mut results: Vec<Vec<F>> = op
            .outputs
            .iter()
            .map(|id| {
                let rows = match graph.value(*id).rows {
                    true if self.one_row[id.index()] => batch,
                    true => batch * time,
                    false => 1,
                };
                vec![F::ZERO; rows * graph.row_elements(*id)]
            })
            .collect();
        let mut carried = Vec::new();

        if let OpKind::Scan {
            recurrence,
            states: own,
        } = &op.kind
        {
            let operands = bound();
            let scan = Scan {
                graph,
                recurrence: graph.recurrence(*recurrence),
                steps: self.steps(*recurrence),
                inputs: operands.iter().map(|(d, a)| (&**d, a.clone())).collect(),
                states: own.iter().map(|s| states[s.index()].as_slice()).collect(),
                batch,
                time,
                position: size.position,
                single: match self.rounding {
                    Rounding::Single(seed) => Some(seed),
                    _ => None,
                },
            };
            let after = scan.run(&mut results);
            let formals = &scan.recurrence.states;
            let after = own.iter().copied().zip(after).zip(formals);
            carried.extend(after.filter(|(_, formal)| formal.kept).map(|(of, _)| of));
        } else if let OpKind::LastRow = op.kind {
            for (access, out) in op.inputs.iter().zip(&mut results) {
                let row = graph.row_elements(access.value);
                let sequences = numbers(access.value).chunks_exact(time * row);
                for (sequence, out) in sequences.zip(out.chunks_exact_mut(row)) {
                    out.copy_from_slice(&sequence[(time - 1) * row..]);
                }
            }
        } else if let (
            OpKind::Attend {
                axes,
                window,
                scale,
            },
            [query, key, value],
        ) = (&op.kind, op.inputs.as_slice())
        {
            let read = |access| attend::Rows::new(graph, access, numbers, tail_of, (batch, time));
            let heads = graph.attention_heads(op);
            let attend = attend::Attend {
                graph,
                query: read(query),
                key: read(key),
                value: read(value),
                heads: &heads,
                summed: axes,
                window: *window as usize,
                scale: F::from_f64(*scale),
                position: size.position,
            };
            let axes = &graph.value(op.outputs[0]).axes;
            attend.run((batch, time), axes, &mut results[0]);
        } else if let (
            OpKind::AttendBack {
                axes,
                window,
                scale,
            },
            [query, key, value, cotangent],
        ) = (&op.kind, op.inputs.as_slice())
        {
            let read = |access| attend::Rows::new(graph, access, numbers, tail_of, (batch, time));
            let back = attend_back::AttendBack {
                graph,
                query: read(query),
                key: read(key),
                value: read(value),
                cotangent: read(cotangent),
                axes: &graph.value(cotangent.value).axes,
                heads: &graph.attention_heads_of(op, &graph.value(cotangent.value).axes),
                summed: axes,
                window: *window as usize,
                scale: F::from_f64(*scale),
                position: size.position,
            };
            back.run((batch, time), &mut results);
        } else {
            self.pure(at, op, size, &bound(), get, &mut results[0])?;
        }
        for tail in &op.tails {
            if let StateKind::Tail { value, width } = graph.state(*tail).kind {
                let shape = (batch, time, graph.row_elements(value));
                let old = &states[tail.index()];
                let data = delay::next_tail(numbers(value), old, shape, width as usize);
                carried.push((*tail, data));
            }
        }
        for (id, data) in op.outputs.iter().zip(&mut results) {
            self.round(*id, data);
        }
        Ok((results, carried))
    }

    fn steps(&self, id: RecurrenceId) -> &Steps {
        &self.recurrences[id.index()]
    }

    /// Evaluates an operation that reads one row of each operand.
    fn pure<'v>(
        &self,
        at: usize,
        op: &Op,
        size: Size,
        operands: &[(Cow<'_, [F]>, Affine)],
        get: Get<'_, 'v, F>,
        out: &mut [F],
    ) -> Result<(), InterpretError> {
        let graph = self.graph;
        let value = graph.value(op.outputs[0]);
        let (batch, time) = if value.rows {
            (size.batch, size.time)
        } else {
            (1, 1)
        };
        let space = Space::rows(graph, batch, time, &value.axes);
        let row = Space::axes(graph, &value.axes);
        // What is summed over: with B and T where rows become one result.
        let over = |axes: &[AxisId]| match graph.sums_rows(op) {
            true => Space::rows(graph, size.batch, size.time, axes),
            false => Space::axes(graph, axes),
        };
        let views = |space: &Space| -> Vec<view::View> {
            operands
                .iter()
                .map(|(_, affine)| space.view(affine))
                .collect()
        };
        match &op.kind {
            OpKind::Map { .. } => {
                if let Some(program) = &self.programs[at] {
                    let views = views(&space);
                    let counters = counters(program, &space, size.position);
                    map::map(program, &bind(operands, &views), &counters, out);
                }
            }
            OpKind::Reduce { combine, axes, .. } => {
                if let Some(program) = &self.programs[at] {
                    let affines: Vec<Affine> = operands.iter().map(|o| o.1.clone()).collect();
                    let over = over(axes);
                    let reduction = map::Reduction::new(*combine, &space, &over, &affines);
                    let views = views(&reduction.space);
                    let counters = counters(program, &reduction.space, size.position);
                    reduction.run(program, &bind(operands, &views), &counters, out);
                }
            }
            OpKind::Norm {
                kind,
                axes,
                eps,
                gain,
                bias,
            } => {
                let (lines, along) = split(&row, |d| axes.iter().any(|a| Dim::Axis(*a) == d));
                let rows = Space::rows(graph, batch, time, &[]);
                let views = views(&rows.then(&lines).then(&along));
                let bound = bind(operands, &views);
                let norm = norm::Norm {
                    kind: *kind,
                    eps: F::from_f64(*eps),
                    input: bound[0],
                    gain: gain.then(|| bound[1]),
                    bias: bias.then(|| bound[bound.len() - 1]),
                };
                norm.run(&lines, &along, &row, out);
            }
            OpKind::CumSum { axis } => {
                let (lines, along) = split(&row, |d| d == Dim::Axis(*axis));
                let rows = Space::rows(graph, batch, time, &[]);
                let views = views(&rows.then(&lines).then(&along));
                let bound = bind(operands, &views);
                norm::cumulative_sum(bound[0], &lines, &along, &row, out);
            }
            OpKind::Contract { axes } => {
                let [(a, a_affine), (b, b_affine)] = operands else {
                    return Ok(());
                };
                let reduce = over(axes);
                contract::contract((a, a_affine), (b, b_affine), &space, &reduce, out);
            }
            OpKind::Gather => self.gather(op, size, operands, get, &space, &row, out)?,
            OpKind::Scatter { axes, index } => {
                let from = Space::axes(graph, axes);
                let views = views(&Space::rows(graph, batch, time, axes));
                let to = from.view(&Affine::of_index(graph, &value.axes, index));
                scatter::scatter(bind(operands, &views)[0], from.len(), &to, row.len(), out);
            }
            OpKind::ScatterRows => {
                let ids = get(op.inputs[1].value).and_then(Tensor::ids).unwrap_or(&[]);
                let own = Space::rows(
                    graph,
                    size.batch,
                    size.time,
                    value.axes.get(1..).unwrap_or(&[]),
                );
                scatter::scatter_rows(
                    (&operands[0].0, &own.view(&operands[0].1)),
                    (ids, &own.view(&operands[1].1)),
                    own.len(),
                    row.len() / value.axes.first().map_or(1, |a| graph.size(*a)),
                    out,
                )
                .map_err(|id| self.id_out_of_range(op, id, size))?;
            }
            OpKind::Scan { .. }
            | OpKind::Attend { .. }
            | OpKind::AttendBack { .. }
            | OpKind::LastRow => {}
        }
        Ok(())
    }

    /// The error of id number `i` of the ids that are input 1 of an operation.
    fn id_out_of_range(&self, op: &Op, (i, id): (usize, i32), size: Size) -> InterpretError {
        let graph = self.graph;
        let ids = op.inputs[1].value;
        let row_ids = graph.row_elements(ids);
        // A gather reads its table, the transpose of one gives it.
        let table = match op.kind {
            OpKind::ScatterRows => op.outputs[0],
            _ => op.inputs[0].value,
        };
        let table = graph.value(table);
        InterpretError::IdOutOfRange {
            id,
            batch: i / row_ids / size.time,
            time: i / row_ids % size.time,
            name: graph.value(ids).name.clone(),
            table: table.name.clone(),
            vocabulary: table.axes.first().map_or(0, |a| graph.size(*a)),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn gather<'v>(
        &self,
        op: &Op,
        size: Size,
        operands: &[(Cow<'_, [F]>, Affine)],
        get: Get<'_, 'v, F>,
        space: &Space,
        row: &Space,
        out: &mut [F],
    ) -> Result<(), InterpretError> {
        let graph = self.graph;
        let table = graph.value(op.inputs[0].value);
        let ids = get(op.inputs[1].value).and_then(Tensor::ids).unwrap_or(&[]);
        let vocabulary = table.axes.first().map_or(0, |a| graph.size(*a));
        let outside = |id: &i32| !usize::try_from(*id).is_ok_and(|id| id < vocabulary);
        if let Some(i) = ids.iter().position(outside) {
            return Err(self.id_out_of_range(op, (i, ids[i]), size));
        }
        let entry = graph.elements(&table.axes) / vocabulary.max(1);
        let view = space.view(&operands[1].1);
        gather::gather(
            (&operands[0].0, &operands[0].1, entry as isize),
            (ids, &view),
            row,
            out,
        );
        Ok(())
    }
}

/// Views of a program's counters over a space.
fn counters(program: &Program, space: &Space, position: i64) -> Vec<view::View> {
    let counters = program.counters().iter();
    counters.map(|c| space.counter(*c, position, 0)).collect()
}

fn bind<'a, F: Real>(
    operands: &'a [(Cow<'_, [F]>, Affine)],
    views: &'a [view::View],
) -> Vec<Operand<'a, F>> {
    operands
        .iter()
        .zip(views)
        .map(|((data, _), view)| Operand { data, view })
        .collect()
}

/// The dimensions that `along` does not choose, then those it does.
fn split(space: &Space, along: impl Fn(Dim) -> bool) -> (Space, Space) {
    let (chosen, rest) = space.0.iter().copied().partition(|d| along(d.0));
    (Space(rest), Space(chosen))
}

fn last_uses(graph: &Graph) -> Vec<Vec<ValueId>> {
    let mut last: BTreeMap<ValueId, usize> = BTreeMap::new();
    for (i, op) in graph.ops.iter().enumerate() {
        for id in op.outputs.iter().chain(op.inputs.iter().map(|a| &a.value)) {
            last.insert(*id, i);
        }
    }
    let mut out = vec![Vec::new(); graph.ops.len()];
    for (id, op) in last {
        if !graph.outputs.contains(&id) {
            out[op].push(id);
        }
    }
    out
}
