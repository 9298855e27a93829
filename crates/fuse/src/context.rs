//! What every stage of planning asks about the graph: which operations are to be
//! planned, who reads what, and how large an operation's iteration space is.
//!
//! Answers only; decisions live in [`crate::fit`], [`crate::cost`] and [`crate::select`].

use crate::Device;
use crate::chunked::Classes;
use crate::elements::Elements;
use crate::plan::{Shape, Storage};
use crate::schedule::Target;
use fusec_ir::{AxisId, Graph, Op, OpId, OpKind, StepKind, ValueId, last_row};
use std::sync::Arc;

/// Everything that is fixed while one model is planned.
#[derive(Clone, Debug)]
pub struct Context<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// Shape the costs are for.
    pub shape: Shape,
    /// Storage type of activations and matrices.
    pub storage: Storage,
    /// The device profile.
    pub device: &'a Device,
    /// What of it limits schedules.
    pub target: Target,
    /// Launch overhead of one kernel, microseconds.
    pub launch_us: f64,
    /// Per value, the planned operations that read it.
    consumers: Vec<Vec<OpId>>,
    /// Per value, whether the caller gets it.
    is_output: Vec<bool>,
    /// The operations to plan, ascending.
    planned: Vec<OpId>,
    /// The classes of the recurrences.
    classes: Arc<Classes>,
    /// In which type each value lies in memory.
    elements: Elements,
    /// Per value, whether it has one row for each sequence.
    one_row: Vec<bool>,
    /// Whether the plan is for single steps: for runs of one token, and no others.
    single_steps: bool,
}

impl<'a> Context<'a> {
    /// Collects the facts. Operations evaluated at load and operations whose results reach
    /// neither an output nor a carried tail are not planned.
    pub fn new(
        graph: &'a Graph,
        shape: Shape,
        storage: Storage,
        device: &'a Device,
        launch_us: f64,
    ) -> Self {
        let mut is_output = vec![false; graph.values.len()];
        for v in &graph.outputs {
            is_output[v.index()] = true;
        }
        let planned = live_operations(graph);
        let mut consumers = vec![Vec::new(); graph.values.len()];
        for id in &planned {
            for access in &graph.op(*id).inputs {
                let list: &mut Vec<OpId> = &mut consumers[access.value.index()];
                if list.last() != Some(id) {
                    list.push(*id);
                }
            }
        }
        Context {
            graph,
            shape,
            storage,
            device,
            target: Target::of(device),
            launch_us,
            consumers,
            is_output,
            planned,
            classes: Arc::new(Classes::new(graph)),
            elements: Elements::new(graph, storage),
            one_row: last_row::one_row(graph),
            single_steps: shape.longest_run() == Some(1),
        }
    }

    /// The same, with classes that were found for another form of the graph, if they hold for it.
    pub fn with_classes(self, classes: &Arc<Classes>) -> Self {
        match classes.hold_for(self.graph) {
            true => Context {
                classes: classes.clone(),
                ..self
            },
            false => self,
        }
    }

    /// The same for what is computed for one row of each sequence.
    pub fn at_last_row(&self) -> Self {
        let mut one = self.clone();
        one.shape.time = 1;
        one
    }

    /// Whether the plan is for runs of one token and no others: earlier rows are all in tails.
    pub fn is_of_single_steps(&self) -> bool {
        self.single_steps
    }

    /// Whether an operation is computed for one row of each sequence, whatever T is.
    pub fn is_of_one_row(&self, op: OpId) -> bool {
        last_row::is_of_one_row(self.graph, op, &self.one_row)
    }

    /// The classes of the graph's recurrences.
    pub fn classes(&self) -> &Classes {
        &self.classes
    }

    /// The operations to plan, ascending.
    pub fn planned(&self) -> &[OpId] {
        &self.planned
    }

    /// The planned operations that read a value, ascending.
    pub fn readers(&self, value: ValueId) -> &[OpId] {
        &self.consumers[value.index()]
    }

    /// Whether the caller gets a value.
    pub fn is_output(&self, value: ValueId) -> bool {
        self.is_output[value.index()]
    }

    /// Rows of the run: batch times time.
    pub fn rows(&self) -> usize {
        self.shape.batch * self.shape.time
    }

    /// Bytes of one element of a value in memory.
    pub fn element_bytes(&self, value: ValueId) -> usize {
        self.elements.get(value).bytes()
    }

    /// In which type each value lies in memory.
    pub fn elements(&self) -> &Elements {
        &self.elements
    }

    /// Whether a value has left the L2 cache by the time that another kernel reads it.
    pub fn leaves_l2(&self, value: ValueId) -> bool {
        let room = self.target.l2_bytes as f64 * self.device.fitted.l2_share.value;
        self.graph.value(value).rows && self.value_bytes(value) > room
    }

    /// Bytes of a value in memory at the planned shape.
    pub fn value_bytes(&self, value: ValueId) -> f64 {
        let rows = match self.graph.value(value).rows {
            true if self.one_row[value.index()] => self.shape.batch,
            true => self.rows(),
            false => 1,
        };
        (self.graph.row_elements(value) * rows * self.element_bytes(value)) as f64
    }
}

/// The operations with rows whose results reach an output or a carried tail, ascending.
pub fn live_operations(graph: &Graph) -> Vec<OpId> {
    let mut needed = vec![false; graph.values.len()];
    for v in &graph.outputs {
        needed[v.index()] = true;
    }
    let mut live = Vec::new();
    for i in (0..graph.ops.len()).rev() {
        let (id, op) = (OpId(i as u32), &graph.ops[i]);
        if !op.tails.is_empty() || op.outputs.iter().any(|v| needed[v.index()]) {
            for access in &op.inputs {
                needed[access.value.index()] = true;
            }
            if !graph.is_load_time(id) {
                live.push(id);
            }
        }
    }
    live.reverse();
    live
}

/// Whether an operation can be part of a row body: it needs no tensor cores, no state.
pub fn is_row_op(op: &Op) -> bool {
    matches!(
        op.kind,
        OpKind::Map { .. } | OpKind::Reduce { .. } | OpKind::Norm { .. } | OpKind::Gather
    )
}

/// The index variables over which an operation combines elements.
pub fn reduced_axes(op: &Op) -> &[AxisId] {
    match &op.kind {
        OpKind::Reduce { axes, .. }
        | OpKind::Norm { axes, .. }
        | OpKind::Contract { axes }
        | OpKind::Attend { axes, .. }
        | OpKind::AttendBack { axes, .. }
        | OpKind::Scatter { axes, .. } => axes,
        OpKind::CumSum { axis } => std::slice::from_ref(axis),
        OpKind::Map { .. }
        | OpKind::Gather
        | OpKind::ScatterRows
        | OpKind::Scan { .. }
        | OpKind::LastRow => &[],
    }
}

/// All index variables of an operation other than a scan: those of its result, then those
/// it combines over and that the result lacks.
pub fn iteration_axes(graph: &Graph, op: &Op) -> Vec<AxisId> {
    let mut axes: Vec<AxisId> = op
        .outputs
        .first()
        .map(|v| graph.value(*v).axes.clone())
        .unwrap_or_default();
    for axis in reduced_axes(op) {
        if !axes.contains(axis) {
            axes.push(*axis);
        }
    }
    axes
}

/// Work and special-function evaluations of one step of a recurrence, and the block-wide
/// exchanges it needs (a statement that combines over an axis).
pub fn step_work(graph: &Graph, recurrence: &fusec_ir::Recurrence) -> (f64, f64, f64) {
    let (mut flops, mut special, mut exchanges) = (0.0, 0.0, 0.0);
    for op in &recurrence.ops {
        let mut space = graph.elements(&op.axes) as f64;
        let mut per_element = op.expr.op_count() as f64;
        if let StepKind::Reduce { axes, .. } = &op.kind {
            space *= graph.elements(axes) as f64;
            per_element += 1.0;
            exchanges += 1.0;
        }
        flops += space * per_element;
        special += space * special_count(&op.expr) as f64;
    }
    (flops, special, exchanges)
}

/// Instructions that a thread issues for one element: functions are sequences of them, counted in
/// what the compiler makes of the primitives of generated kernels.
pub fn instructions(expr: &fusec_ir::Expr) -> usize {
    use fusec_ir::{Binary, Expr, Unary};
    let mut n = 0;
    expr.walk(&mut |e| {
        n += match e {
            Expr::Unary(u, _) => match u {
                Unary::Neg | Unary::Relu | Unary::Square | Unary::Abs => 1,
                Unary::Rsqrt => 3,
                Unary::Sigmoid => 4,
                Unary::Silu => 5,
                Unary::Sqrt | Unary::Recip => 8,
                Unary::Exp => 9,
                Unary::Log => 12,
                Unary::Tanh => 22,
                Unary::Sin | Unary::Cos => 30,
                Unary::Softplus | Unary::LogSigmoid => 23,
                Unary::Erf => 24,
                Unary::Gelu => 27,
            },
            Expr::Binary(Binary::Div, ..) => 10,
            Expr::Binary(Binary::Pow, ..) => 60,
            Expr::Binary(Binary::Less | Binary::LessEqual | Binary::Equal | Binary::When, ..) => 2,
            Expr::Binary(..) => 1,
            _ => 0,
        }
    });
    n
}

/// Evaluations of functions that the special-function units compute.
pub fn special_count(expr: &fusec_ir::Expr) -> usize {
    use fusec_ir::{Binary, Expr, Unary};
    let mut n = 0;
    expr.walk(&mut |e| {
        n += match e {
            Expr::Unary(u, _) => match u {
                Unary::Neg | Unary::Relu | Unary::Square | Unary::Abs => 0,
                Unary::Exp
                | Unary::Log
                | Unary::Sqrt
                | Unary::Rsqrt
                | Unary::Recip
                | Unary::Sin
                | Unary::Cos
                | Unary::Erf
                | Unary::Gelu => 1,
                Unary::Tanh
                | Unary::Sigmoid
                | Unary::Silu
                | Unary::Softplus
                | Unary::LogSigmoid => 2,
            },
            Expr::Binary(Binary::Div, ..) => 1,
            Expr::Binary(Binary::Pow, ..) => 2,
            _ => 0,
        }
    });
    n
}
