//! What follows one after the other in a block: steps of recurrences, and exchanges among its
//! threads.

use super::lane::Lane;
use super::work::Steps;
use crate::context::{instructions, iteration_axes, reduced_axes, step_work};
use crate::schedule::{Pass, Schedule, Segments};
use fusec_ir::{OpId, OpKind, Recurrence, RecurrenceId, StepKind, StepRef};
use std::collections::BTreeMap;

/// Instructions for an element of an operation that is neither a map nor a reduction.
const OF_OTHERS: usize = 8;

impl Lane<'_> {
    /// Exchanges among all threads of a block, for one row: sums that do not wait for each other
    /// share one where rows follow each other.
    pub(super) fn exchanges(&self) -> f64 {
        let graph = self.ctx.graph;
        let mut after: BTreeMap<OpId, usize> = BTreeMap::new();
        let mut all = 0;
        for id in &self.body.ops {
            let op = graph.op(*id);
            let product = matches!(op.kind, OpKind::Contract { .. } | OpKind::Attend { .. });
            let exchanging = !reduced_axes(op).is_empty() && !product;
            let makers = op.inputs.iter().filter_map(|a| graph.producer(a.value));
            let before = makers.filter_map(|p| after.get(&p)).max();
            let chain = before.copied().unwrap_or(0) + usize::from(exchanging);
            after.insert(*id, chain);
            all += usize::from(exchanging);
        }
        let chain = after.into_values().max().unwrap_or(0);
        match self.body.schedule {
            Schedule::Row(_) | Schedule::Scan(_) => chain as f64,
            _ => all as f64,
        }
    }

    /// The steps of the recurrences of the scan template.
    pub(super) fn steps(&self, run: u32, exchanges: f64) -> Steps {
        let graph = self.ctx.graph;
        let body = self.body;
        let segments = body.schedule.segments();
        let walked = segments.map_or(1, Segments::walked);
        let spread = (self.blocks / (self.ctx.shape.batch * walked)).max(1) as f64;
        let only_states = segments.is_some_and(|segments| segments.pass == Pass::States);
        let mut steps = Steps {
            steps: match segments {
                Some(segments) => segments.rows(self.ctx.shape.time, run.max(1) as usize) as f64,
                None => self.ctx.shape.time as f64,
            },
            run: if self.takes_runs(run) {
                f64::from(run)
            } else {
                1.0
            },
            surrounded: body.ops.len() > body.anchors().len(),
            exchanges,
            sums: 0.0,
            around: 0.0,
            recurrences: vec![],
        };
        for id in &body.ops {
            let instructions = match &graph.op(*id).kind {
                OpKind::Scan { recurrence, .. } => {
                    let (flops, special, _) = step_work(graph, graph.recurrence(*recurrence));
                    // What states alone become is no sum. A product is carried instead of the results' sums.
                    let (longest, sums) = match only_states {
                        true => (1.0, 0.0),
                        false => (
                            self.longest_sum(*recurrence),
                            awaited_sums(graph.recurrence(*recurrence)),
                        ),
                    };
                    steps.sums = steps.sums.max(sums);
                    steps
                        .recurrences
                        .push((longest, flops / spread, special / spread));
                    continue;
                }
                OpKind::Map { expr } | OpKind::Reduce { expr, .. } => instructions(expr) + 1,
                _ => OF_OTHERS,
            };
            steps.around += (self.elements(*id) * instructions) as f64;
        }
        steps
    }

    /// Elements that one block goes through for an operation, in one row.
    fn elements(&self, id: OpId) -> usize {
        let axes = iteration_axes(self.ctx.graph, self.ctx.graph.op(id));
        axes.into_iter().map(|axis| self.extent(axis)).product()
    }

    /// Whether the rows of a scan come in runs. Rows that later rows need come one at a time.
    fn takes_runs(&self, run: u32) -> bool {
        let delayed = |id: &OpId| self.ctx.graph.op(*id).inputs.iter().any(|a| a.delay != 0);
        run > 1 && !self.body.ops.iter().any(delayed)
    }

    /// Most elements over which a step sums.
    fn longest_sum(&self, recurrence: RecurrenceId) -> f64 {
        let steps = self.ctx.graph.recurrence(recurrence).ops.iter();
        let sums = steps.filter_map(|op| match &op.kind {
            StepKind::Reduce { axes, .. } => {
                Some(axes.iter().map(|a| self.extent(*a)).product::<usize>())
            }
            StepKind::Map => None,
        });
        sums.max().unwrap_or(1) as f64
    }
}

/// Sums, one after the other, that the next states of a step wait for.
fn awaited_sums(recurrence: &Recurrence) -> f64 {
    let mut depth: Vec<usize> = Vec::new();
    let of = |depth: &[usize], item: &StepRef| match item {
        StepRef::Op(i) => depth.get(*i).copied().unwrap_or(0),
        StepRef::Input(_) | StepRef::State(_) => 0,
    };
    for op in &recurrence.ops {
        let before = op.inputs.iter().map(|access| of(&depth, &access.item));
        let before = before.max().unwrap_or(0);
        depth.push(before + usize::from(op.kind != StepKind::Map));
    }
    let next = recurrence.next.iter().map(|item| of(&depth, item));
    next.max().unwrap_or(0) as f64
}
