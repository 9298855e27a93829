//! Recurrences: the step program evaluated for each batch row and each t in order, or backwards.
//!
//! Batch rows are independent, and so are the indices of an axis that every
//! statement runs over and never mixes: such an axis is cut into slices, each a
//! smaller recurrence of its own, and the slices run in parallel.

use super::dither::single;
use super::map::{Reduction, map_piece};
use super::operand::{Affine, Dim, Space};
use super::program::{Operand, Program, Scratch};
use super::real::Real;
use super::view::View;
use crate::{AxisId, Combine, Direction, Graph, Recurrence, StepAccess, StepKind, StepRef};
use rayon::prelude::*;

/// A recurrence with its statements compiled.
#[derive(Clone, Debug)]
pub(super) struct Steps {
    programs: Vec<Program>,
    /// An axis along which the recurrence falls apart into independent ones.
    parallel: Option<AxisId>,
}

/// A run's operands.
pub(super) struct Scan<'a, F> {
    pub graph: &'a Graph,
    pub recurrence: &'a Recurrence,
    pub steps: &'a Steps,
    /// Per formal input: its buffer and where its element lies, B and T included.
    pub inputs: Vec<(&'a [F], Affine)>,
    /// Per state, `[B, axes...]`, before the run.
    pub states: Vec<&'a [F]>,
    pub batch: usize,
    pub time: usize,
    /// Position of t = 0.
    pub position: i64,
    /// Seed of the errors that states get in every step.
    pub single: Option<u64>,
}

/// Which part of the axes a task computes.
#[derive(Clone, Copy, Debug)]
struct Slice {
    axis: Option<AxisId>,
    start: usize,
    len: usize,
}

/// A statement bound to a slice.
struct Statement<'a> {
    program: &'a Program,
    inputs: Vec<(StepRef, View)>,
    space: Space,
    reduction: Option<Reduction>,
}

/// What one task hands back: its part of the outputs `[T, local axes...]` and of the states.
struct Part<F> {
    batch: usize,
    slice: Slice,
    outputs: Vec<Vec<F>>,
    states: Vec<Vec<F>>,
}

impl Steps {
    /// Compiles the statements and looks for a parallel axis.
    pub fn new(graph: &Graph, recurrence: &Recurrence) -> Self {
        let programs = recurrence.ops.iter().map(|op| Program::new(&op.expr));
        let axes = recurrence.states.first().map_or(&[][..], |s| &s.axes);
        Steps {
            programs: programs.collect(),
            parallel: axes
                .iter()
                .copied()
                .find(|a| graph.size(*a) > 1 && falls_apart(recurrence, *a)),
        }
    }
}

/// Whether no statement mixes indices of `axis`, and everything carried or returned runs over it.
fn falls_apart(recurrence: &Recurrence, axis: AxisId) -> bool {
    let runs_over = |item: StepRef| recurrence.axes_of(item).contains(&axis);
    let straight = |access: &StepAccess| {
        let whole = matches!(access.item, StepRef::Input(_));
        let mut pairs = recurrence.axes_of(access.item).iter().zip(&access.axes);
        // Another axis read along this variable needs the item beyond the slice: only inputs
        // are there as a whole.
        pairs.all(|(own, by)| (*own == axis) == (*by == axis) || (whole && *by == axis))
    };
    recurrence.states.iter().all(|s| s.axes.contains(&axis))
        && recurrence
            .ops
            .iter()
            .all(|op| op.axes.contains(&axis) && op.inputs.iter().all(straight))
        && recurrence.next.iter().all(|r| runs_over(*r))
        && recurrence.outputs.iter().all(|r| runs_over(*r))
}

impl<F: Real> Scan<'_, F> {
    /// Runs over all rows. `outputs` are `[B, T, axes...]`; returns the states after the run.
    pub fn run(&self, outputs: &mut [Vec<F>]) -> Vec<Vec<F>> {
        let mut tasks = Vec::new();
        for b in 0..self.batch {
            for slice in self.slices() {
                tasks.push((b, slice));
            }
        }
        let parts: Vec<Part<F>> = tasks
            .par_iter()
            .map(|(b, slice)| self.part(*b, *slice))
            .collect();
        let mut states: Vec<Vec<F>> = self.states.iter().map(|s| s.to_vec()).collect();
        for part in parts {
            for (item, (out, local)) in self
                .recurrence
                .outputs
                .iter()
                .zip(outputs.iter_mut().zip(&part.outputs))
            {
                let axes = self.recurrence.axes_of(*item);
                let n = self.space(axes, None).len();
                let view = self.in_whole(axes, part.slice);
                let local_n = self.space(axes, Some(part.slice)).len();
                for (t, local) in local.chunks_exact(local_n).enumerate() {
                    let row = (part.batch * self.time + t) * n;
                    view.store(&mut out[row..row + n], 0, local);
                }
            }
            for (k, (state, local)) in states.iter_mut().zip(&part.states).enumerate() {
                let axes = &self.recurrence.states[k].axes;
                let n = self.space(axes, None).len();
                let row = part.batch * n;
                self.in_whole(axes, part.slice)
                    .store(&mut state[row..row + n], 0, local);
            }
        }
        states
    }

    /// Cuts the parallel axis so that every thread has work. Results do not depend on the cut:
    /// no element's arithmetic does.
    fn slices(&self) -> Vec<Slice> {
        let Some(axis) = self.steps.parallel else {
            return vec![Slice {
                axis: None,
                start: 0,
                len: 0,
            }];
        };
        let size = self.graph.size(axis);
        let pieces = (2 * rayon::current_num_threads())
            .div_ceil(self.batch)
            .clamp(1, size);
        (0..pieces)
            .map(|i| {
                let start = i * size / pieces;
                Slice {
                    axis: Some(axis),
                    start,
                    len: (i + 1) * size / pieces - start,
                }
            })
            .collect()
    }

    fn space(&self, axes: &[AxisId], slice: Option<Slice>) -> Space {
        let mut space = Space::axes(self.graph, axes);
        for (dim, size) in &mut space.0 {
            if let Some(Slice {
                axis: Some(axis),
                len,
                ..
            }) = slice
                && *dim == Dim::Axis(axis)
            {
                *size = len;
            }
        }
        space
    }

    /// A slice's elements inside the whole item.
    fn in_whole(&self, axes: &[AxisId], slice: Slice) -> View {
        let affine = Affine::of_space(&self.space(axes, None));
        self.space(axes, Some(slice)).view(&shifted(affine, slice))
    }

    /// The view of an item over the reading statement's dimensions.
    fn item_view(&self, access: &StepAccess, space: &Space, slice: Slice) -> View {
        let own = self.recurrence.axes_of(access.item);
        let affine = match access.item {
            StepRef::Input(i) => self.inputs[i].1.clone(),
            StepRef::State(_) | StepRef::Op(_) => Affine::of_space(&self.space(own, Some(slice))),
        };
        let strides = own
            .iter()
            .zip(&access.axes)
            .map(|(own, by)| (Dim::Axis(*by), affine.stride(Dim::Axis(*own))));
        let mut renamed = Affine {
            base: affine.base,
            strides: Vec::new(),
        };
        for (dim, stride) in strides {
            // Two axes of the item may be read along one variable: a diagonal.
            match renamed.strides.iter_mut().find(|s| s.0 == dim) {
                Some(at) => at.1 += stride,
                None => renamed.strides.push((dim, stride)),
            }
        }
        match access.item {
            StepRef::Input(_) => space.view(&shifted(renamed, slice)),
            StepRef::State(_) | StepRef::Op(_) => space.view(&renamed),
        }
    }

    fn statements(&self, slice: Slice) -> Vec<Statement<'_>> {
        let bind = |(op, program)| {
            let op: &crate::StepOp = op;
            let out = self.space(&op.axes, Some(slice));
            let reduction = match &op.kind {
                StepKind::Map => None,
                StepKind::Reduce { combine, axes } => {
                    Some(self.reduction(op, *combine, &out, axes, slice))
                }
            };
            let space = reduction.as_ref().map_or(out, |r| r.space.clone());
            let inputs = op
                .inputs
                .iter()
                .map(|access| (access.item, self.item_view(access, &space, slice)))
                .collect();
            Statement {
                program,
                inputs,
                space,
                reduction,
            }
        };
        let ops = self.recurrence.ops.iter();
        ops.zip(&self.steps.programs).map(bind).collect()
    }

    fn reduction(
        &self,
        op: &crate::StepOp,
        combine: Combine,
        out: &Space,
        axes: &[AxisId],
        slice: Slice,
    ) -> Reduction {
        let reads: Vec<Affine> = op
            .inputs
            .iter()
            .map(|access| {
                let own = self.recurrence.axes_of(access.item);
                let affine = Affine::of_space(&self.space(own, Some(slice)));
                let by = own.iter().zip(&access.axes);
                Affine {
                    base: 0,
                    strides: by
                        .map(|(own, by)| (Dim::Axis(*by), affine.stride(Dim::Axis(*own))))
                        .collect(),
                }
            })
            .collect();
        Reduction::new(combine, out, &self.space(axes, Some(slice)), &reads)
    }

    fn part(&self, b: usize, slice: Slice) -> Part<F> {
        let statements = self.statements(slice);
        let mut scratch: Vec<Scratch<F>> = statements
            .iter()
            .map(|s| s.program.scratch(s.inputs.len()))
            .collect();
        let local = |axes: &[AxisId]| self.space(axes, Some(slice)).len();
        let mut temps: Vec<Vec<F>> = self
            .recurrence
            .ops
            .iter()
            .map(|op| vec![F::ZERO; local(&op.axes)])
            .collect();
        let mut states: Vec<Vec<F>> = Vec::new();
        for (state, whole) in self.recurrence.states.iter().zip(&self.states) {
            let n = self.space(&state.axes, None).len();
            let mut part = vec![F::ZERO; local(&state.axes)];
            self.in_whole(&state.axes, slice)
                .load(&whole[b * n..(b + 1) * n], 0, &mut part);
            states.push(part);
        }
        let mut next: Vec<Vec<F>> = states.clone();
        let mut outputs: Vec<Vec<F>> = self
            .recurrence
            .outputs
            .iter()
            .map(|item| vec![F::ZERO; self.time * local(self.recurrence.axes_of(*item))])
            .collect();
        // Everything copied as it is, to a next state or an output, is a plain read.
        let plain = |item: &StepRef| {
            let axes = self.recurrence.axes_of(*item).to_vec();
            let space = self.space(&axes, Some(slice));
            let access = StepAccess { item: *item, axes };
            self.item_view(&access, &space, slice)
        };
        let next_views: Vec<View> = self.recurrence.next.iter().map(plain).collect();
        let output_views: Vec<View> = self.recurrence.outputs.iter().map(plain).collect();

        for at in 0..self.time {
            let t = match self.recurrence.direction {
                Direction::Forward => at,
                Direction::Reverse => self.time - 1 - at,
            };
            let inputs: Vec<&[F]> = self
                .inputs
                .iter()
                .map(|(data, affine)| {
                    let row = affine.stride(Dim::Batch) * b as isize
                        + affine.stride(Dim::Time) * t as isize;
                    &data[row as usize..]
                })
                .collect();
            for (k, (statement, scratch)) in statements.iter().zip(&mut scratch).enumerate() {
                let mut out = std::mem::take(&mut temps[k]);
                let position = self.position + t as i64;
                let read = |item| item_data(item, &inputs, &states, &temps);
                statement.eval(scratch, read, slice, position, &mut out);
                temps[k] = out;
            }
            for ((item, view), out) in self
                .recurrence
                .outputs
                .iter()
                .zip(&output_views)
                .zip(&mut outputs)
            {
                let n = out.len() / self.time;
                let data = item_data(*item, &inputs, &states, &temps);
                view.load(data, 0, &mut out[t * n..(t + 1) * n]);
            }
            for ((item, view), next) in self.recurrence.next.iter().zip(&next_views).zip(&mut next)
            {
                view.load(item_data(*item, &inputs, &states, &temps), 0, next);
                if let Some(seed) = self.single {
                    for x in next {
                        *x = single(*x, seed);
                    }
                }
            }
            std::mem::swap(&mut states, &mut next);
        }
        Part {
            batch: b,
            slice,
            outputs,
            states,
        }
    }
}

impl Statement<'_> {
    fn eval<'a, F: Real>(
        &'a self,
        scratch: &mut Scratch<F>,
        read: impl Fn(StepRef) -> &'a [F],
        slice: Slice,
        position: i64,
        out: &mut [F],
    ) {
        let operands: Vec<Operand<'_, F>> = self
            .inputs
            .iter()
            .map(|(item, view)| Operand {
                data: read(*item),
                view,
            })
            .collect();
        let counters: Vec<View> = self
            .program
            .counters()
            .iter()
            .map(|c| {
                let first = match c {
                    super::program::Counter::Axis(a) if Some(*a) == slice.axis => slice.start,
                    _ => 0,
                };
                self.space.counter(*c, position, first)
            })
            .collect();
        match &self.reduction {
            None => map_piece(self.program, scratch, &operands, &counters, 0, out),
            Some(r) => r.piece(self.program, scratch, &operands, &counters, 0, out),
        }
    }
}

/// The buffer of an item at this step; an input's starts at its row.
fn item_data<'a, F>(
    item: StepRef,
    inputs: &[&'a [F]],
    states: &'a [Vec<F>],
    temps: &'a [Vec<F>],
) -> &'a [F] {
    match item {
        StepRef::Input(i) => inputs[i],
        StepRef::State(i) => &states[i],
        StepRef::Op(i) => &temps[i],
    }
}

/// The affine function with the slice's first index counted as 0.
fn shifted(affine: Affine, slice: Slice) -> Affine {
    let stride = slice.axis.map_or(0, |a| affine.stride(Dim::Axis(a)));
    Affine {
        base: affine.base + stride * slice.start as isize,
        strides: affine.strides,
    }
}
