//! Statements: the operations of a lane, taken apart into single maps and reductions.
//!
//! A normalisation becomes its statistics and a map; the step of a recurrence is
//! put in place of the scan; every external row is loaded once. What comes out is
//! a straight-line program per token, independent of threads and memory layout.

use crate::chunked::Classes;
use fusec_ir::class::{Algebra, Class};
use fusec_ir::{
    Access, AxisId, Binary, Combine, Direction, Expr, Graph, IndexExpr, NormKind, Op, OpId, OpKind,
    RecurrenceId, StateId, StateKind, StepAccess, StepKind, StepOp, StepRef, Unary, ValueId,
};
use std::collections::BTreeMap;

/// Where a read comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Src {
    /// The result of an earlier statement.
    Statement(usize),
    /// A recurrence state before the step (index into [`Program::states`]).
    State(usize),
    /// A tensor without rows, in memory.
    Fixed(ValueId),
    /// A tensor with rows, in memory, at the current row.
    Row(ValueId),
    /// A tensor with rows, in memory, at a row that the walk has not come to yet. Rows before the first
    /// lie in the tail; what lies in neither is zero.
    Apart {
        /// The tensor.
        value: ValueId,
        /// How many rows back; ahead, where negative.
        delay: i32,
        /// The tail, where rows before the first are read.
        tail: Option<StateId>,
    },
    /// A row of a table, chosen by the token id at the current row.
    Table {
        /// The table.
        table: ValueId,
        /// The ids.
        ids: ValueId,
    },
}

/// One operand of a statement.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// What is read.
    pub src: Src,
    /// Its own axes.
    pub axes: Vec<AxisId>,
    /// For each of them, the index in terms of the statement's index variables.
    pub index: Vec<IndexExpr>,
    /// How many rows before the current one in the order of the walk (statements only).
    pub delay: u32,
}

/// A map or a reduction over named axes.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// Name of the result.
    pub name: String,
    /// Axes of the result.
    pub axes: Vec<AxisId>,
    /// Reduced axes, if it reduces.
    pub reduce: Option<(Combine, Vec<AxisId>)>,
    /// What it computes of its reads.
    pub expr: Expr,
    /// Its operands.
    pub reads: Vec<Read>,
    /// How many rows that the walk has been at are read of the result by later statements.
    pub history: u32,
    /// The tail that holds those rows before the first token; zeros, if none does.
    pub tail: Option<StateId>,
    /// The model-level operation it belongs to; `None` for a plain load.
    pub op: Option<OpId>,
}

/// What of a recurrence state is carried from row to row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    /// The state itself.
    State,
    /// The product of what the rows of a segment multiply it by, or the sum of what they add to it.
    Product,
}

/// A recurrence state held by the lane.
#[derive(Clone, Debug, PartialEq)]
pub struct Carried {
    /// Which.
    pub state: StateId,
    /// What of it.
    pub held: Held,
    /// How segments of T compose.
    pub algebra: Algebra,
    /// Name in the step.
    pub name: String,
    /// Its axes, in memory order.
    pub axes: Vec<AxisId>,
    /// The statement that computes it anew (same axes).
    pub next: usize,
    /// Whether it is carried to the next run.
    pub kept: bool,
}

/// A lane's work for one token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    /// In order.
    pub statements: Vec<Statement>,
    /// The carried states.
    pub states: Vec<Carried>,
    /// The statement that computes each value of the lane's operations.
    pub value: BTreeMap<ValueId, usize>,
    /// Stencil tails to bring up to date: the tail, the statement whose rows it holds, its width.
    pub tails: Vec<(StateId, usize, u32)>,
    /// What the definition of a recurrence calls the statements and values that it is given.
    pub formals: BTreeMap<Src, String>,
}

impl Statement {
    /// Result axes, then reduced axes.
    pub fn iteration_axes(&self) -> Vec<AxisId> {
        let mut axes = self.axes.clone();
        if let Some((_, reduced)) = &self.reduce {
            axes.extend(reduced);
        }
        axes
    }
}

impl Read {
    /// Whether it reads every axis by the plain variable of that axis.
    pub fn is_plain(&self) -> bool {
        self.index
            .iter()
            .zip(&self.axes)
            .all(|(i, a)| i.as_axis() == Some(*a))
    }
}

/// How many rows before the current one a read is, in the order in which a walk comes to them; negative
/// for rows that it has not come to.
pub fn rows_back(direction: Direction, access: &Access) -> i64 {
    let delay = i64::from(access.delay);
    match direction {
        Direction::Forward => delay,
        Direction::Reverse => -delay,
    }
}

/// Takes the row operations and scans of a lane apart, whose rows come in this order. `tails` are those
/// the lane updates.
pub fn lower(graph: &Graph, ops: &[OpId], tails: &[StateId], direction: Direction) -> Program {
    let mut lowering = Lowering::new(graph, direction, None);
    for id in ops {
        lowering.op(*id, graph.op(*id));
    }
    for tail in tails {
        if let StateKind::Tail { value, width } = graph.state(*tail).kind {
            let axes = graph.value(value).axes.clone();
            let access = Access::plain(value, &axes);
            let statement = match lowering.read(&access).src {
                Src::Statement(s) => lowering.in_registers(s),
                // A tail always belongs to a value with rows, which is loaded or computed.
                _ => continue,
            };
            lowering.out.tails.push((*tail, statement, width));
        }
    }
    lowering.out
}

/// The same of what becomes of states alone, and of the products of what rows multiply them by. Recurrences
/// are written in the form of their classes, none of which is general.
pub fn lower_states(
    graph: &Graph,
    ops: &[OpId],
    direction: Direction,
    classes: &Classes,
) -> Program {
    let mut lowering = Lowering::new(graph, direction, Some(classes));
    for id in ops {
        lowering.op(*id, graph.op(*id));
    }
    lowering.out.only_states()
}

struct Lowering<'g> {
    graph: &'g Graph,
    direction: Direction,
    /// The classes of recurrences, where products are carried beside their states.
    classes: Option<&'g Classes>,
    out: Program,
    /// External rows already loaded, by where they lie and index.
    loads: Vec<(Src, Vec<IndexExpr>, usize)>,
    /// Copies of the results of reductions, whose rows are kept, by the reduction.
    copies: BTreeMap<usize, usize>,
}

impl<'g> Lowering<'g> {
    fn new(graph: &'g Graph, direction: Direction, classes: Option<&'g Classes>) -> Lowering<'g> {
        Lowering {
            graph,
            direction,
            classes,
            out: Program::default(),
            loads: Vec::new(),
            copies: BTreeMap::new(),
        }
    }

    fn push(&mut self, statement: Statement) -> usize {
        self.out.statements.push(statement);
        self.out.statements.len() - 1
    }

    fn op(&mut self, id: OpId, op: &Op) {
        let graph = self.graph;
        match &op.kind {
            OpKind::Map { expr } => {
                let axes = graph.value(op.outputs[0]).axes.clone();
                let reads = self.reads(op, &axes);
                self.result(
                    id,
                    op.outputs[0],
                    op.name.clone(),
                    axes,
                    None,
                    expr.clone(),
                    reads,
                );
            }
            OpKind::Reduce {
                expr,
                combine,
                axes: reduced,
            } => {
                let axes = graph.value(op.outputs[0]).axes.clone();
                let mut iteration = axes.clone();
                iteration.extend(reduced);
                let reads = self.reads(op, &iteration);
                let reduce = Some((*combine, reduced.clone()));
                self.result(
                    id,
                    op.outputs[0],
                    op.name.clone(),
                    axes,
                    reduce,
                    expr.clone(),
                    reads,
                );
            }
            OpKind::Norm {
                kind,
                axes: over,
                eps,
                gain,
                bias,
            } => {
                self.norm(id, op, *kind, over, *eps, *gain, *bias);
            }
            OpKind::Gather => {
                let axes = graph.value(op.outputs[0]).axes.clone();
                let table = &op.inputs[0];
                let read = Read {
                    src: Src::Table {
                        table: table.value,
                        ids: op.inputs[1].value,
                    },
                    axes: graph.value(table.value).axes.clone(),
                    index: table.index.clone(),
                    delay: 0,
                };
                let name = op.name.clone();
                self.result(
                    id,
                    op.outputs[0],
                    name,
                    axes,
                    None,
                    Expr::Input(0),
                    vec![read],
                );
            }
            OpKind::Scan { recurrence, states } => self.scan(id, op, *recurrence, states),
            // Contractions, attention, last rows, placed elements and sums over rows belong to other templates,
            // cumulative sums to load time.
            OpKind::Contract { .. }
            | OpKind::Attend { .. }
            | OpKind::LastRow
            | OpKind::Scatter { .. }
            | OpKind::ScatterRows
            | OpKind::CumSum { .. } => {}
            // Refused before anything is planned.
            OpKind::AttendBack { .. } => {}
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn result(
        &mut self,
        op: OpId,
        value: ValueId,
        name: String,
        axes: Vec<AxisId>,
        reduce: Option<(Combine, Vec<AxisId>)>,
        expr: Expr,
        reads: Vec<Read>,
    ) {
        let statement = Statement {
            name,
            axes,
            reduce,
            expr,
            reads,
            history: 0,
            tail: None,
            op: Some(op),
        };
        let index = self.push(statement);
        self.out.value.insert(value, index);
    }

    fn reads(&mut self, op: &Op, iteration: &[AxisId]) -> Vec<Read> {
        op.inputs
            .iter()
            .map(|access| self.at_its_row(access, iteration))
            .collect()
    }

    /// A read at the row that the access names.
    fn at_its_row(&mut self, access: &Access, iteration: &[AxisId]) -> Read {
        let back = rows_back(self.direction, access);
        if back < 0 && !self.out.value.contains_key(&access.value) {
            let apart = Src::Apart {
                value: access.value,
                delay: access.delay,
                tail: access.tail.filter(|_| access.delay > 0),
            };
            return self.in_memory(access, apart);
        }
        let read = self.read(access);
        match back > 0 {
            true => self.delayed(read, access, iteration),
            false => read,
        }
    }

    /// A read at the current row; rows from memory go through one load statement per place.
    fn read(&mut self, access: &Access) -> Read {
        let value = self.graph.value(access.value);
        if let Some(statement) = self.out.value.get(&access.value) {
            return Read {
                src: Src::Statement(*statement),
                axes: value.axes.clone(),
                index: access.index.clone(),
                delay: 0,
            };
        }
        self.in_memory(access, Src::Row(access.value))
    }

    /// A read of what no statement computes; of rows, those at `from`.
    fn in_memory(&mut self, access: &Access, from: Src) -> Read {
        let value = self.graph.value(access.value);
        if !value.rows {
            return Read {
                src: Src::Fixed(access.value),
                axes: value.axes.clone(),
                index: access.index.clone(),
                delay: 0,
            };
        }
        let mut axes: Vec<AxisId> = Vec::new();
        for (axis, _) in access.index.iter().flat_map(|i| &i.terms) {
            if !axes.contains(axis) {
                axes.push(*axis);
            }
        }
        let known = self
            .loads
            .iter()
            .find(|(src, i, _)| *src == from && *i == access.index);
        let statement = match known {
            Some((_, _, statement)) => *statement,
            None => {
                let read = Read {
                    src: from,
                    axes: value.axes.clone(),
                    index: access.index.clone(),
                    delay: 0,
                };
                let statement = self.push(Statement {
                    name: value.name.clone(),
                    axes: axes.clone(),
                    reduce: None,
                    expr: Expr::Input(0),
                    reads: vec![read],
                    history: 0,
                    tail: None,
                    op: None,
                });
                self.loads.push((from, access.index.clone(), statement));
                statement
            }
        };
        let index = axes.iter().map(|a| IndexExpr::axis(*a)).collect();
        Read {
            src: Src::Statement(statement),
            axes,
            index,
            delay: 0,
        }
    }

    /// The same read some rows back in the order of the walk. Rows are kept where they were computed, so a reader with
    /// other index variables gets them through a copy.
    fn delayed(&mut self, read: Read, access: &Access, iteration: &[AxisId]) -> Read {
        let Src::Statement(mut source) = read.src else {
            return read;
        };
        let delay = access.delay.unsigned_abs();
        if self.out.statements[source].reduce.is_some() {
            source = self.copied(source);
        }
        let read = Read {
            src: Src::Statement(source),
            ..read
        };
        let (name, axes) = {
            let s = &mut self.out.statements[source];
            s.history = s.history.max(delay);
            s.tail = access.tail.filter(|_| access.delay > 0);
            let way = if access.delay > 0 { "prev" } else { "next" };
            (format!("{}_{way}{delay}", s.name), s.axes.clone())
        };
        let same = axes.len() == iteration.len() && axes.iter().all(|a| iteration.contains(a));
        if same && read.is_plain() {
            return Read { delay, ..read };
        }
        let own = axes.iter().map(|a| IndexExpr::axis(*a)).collect();
        let back = Read {
            src: read.src,
            axes: axes.clone(),
            index: own,
            delay,
        };
        let copy = self.push(copy_of(name, axes.clone(), back, None));
        Read {
            src: Src::Statement(copy),
            axes,
            index: read.index,
            delay: 0,
        }
    }

    /// A copy of a reduction's result: rows are kept in registers of a map.
    fn copied(&mut self, reduction: usize) -> usize {
        let s = &self.out.statements[reduction];
        let copy = Statement {
            name: format!("{}_row", s.name),
            ..copy(reduction, s)
        };
        let copy = self.push(copy);
        self.copies.insert(reduction, copy);
        copy
    }

    /// The statement that has a result in registers, of which a tail is made.
    fn in_registers(&mut self, statement: usize) -> usize {
        match (
            self.out.statements[statement].reduce.is_some(),
            self.copies.get(&statement),
        ) {
            (false, _) => statement,
            (true, Some(copy)) => *copy,
            (true, None) => self.copied(statement),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn norm(
        &mut self,
        id: OpId,
        op: &Op,
        kind: NormKind,
        over: &[AxisId],
        eps: f64,
        gain: bool,
        bias: bool,
    ) {
        let axes = self.graph.value(op.outputs[0]).axes.clone();
        let kept: Vec<AxisId> = axes.iter().copied().filter(|a| !over.contains(a)).collect();
        let reads = self.reads(op, &axes);
        let inverse = 1.0 / self.graph.elements(over) as f64;
        let mul = |a, b| Expr::binary(Binary::Mul, a, b);
        let add = |a, b| Expr::binary(Binary::Add, a, b);
        let mut statistic = |suffix: &str, expr: Expr, extra: Option<usize>| {
            let mut inputs = vec![reads[0].clone()];
            inputs.extend(extra.map(|s| statement_read(s, &kept)));
            self.push(Statement {
                name: format!("{}_{suffix}", op.name),
                axes: kept.clone(),
                reduce: Some((Combine::Sum, over.to_vec())),
                expr,
                reads: inputs,
                history: 0,
                tail: None,
                op: Some(id),
            })
        };
        let x = || Expr::Input(0);
        // Inputs of the final map: x, then the statistics, then gain and bias.
        let (statistics, normalised) = match kind {
            NormKind::Layer => {
                let centred = |mean: usize| {
                    Expr::binary(
                        Binary::Sub,
                        x(),
                        mul(Expr::Input(mean), Expr::Const(inverse)),
                    )
                };
                let sum = statistic("sum", x(), None);
                let squares = Expr::unary(Unary::Square, centred(1));
                let var = statistic("var", squares, Some(sum));
                let scale = add(mul(Expr::Input(2), Expr::Const(inverse)), Expr::Const(eps));
                (
                    vec![sum, var],
                    mul(centred(1), Expr::unary(Unary::Rsqrt, scale)),
                )
            }
            NormKind::Rms => {
                let squares = statistic("sumsq", Expr::unary(Unary::Square, x()), None);
                let scale = add(mul(Expr::Input(1), Expr::Const(inverse)), Expr::Const(eps));
                (vec![squares], mul(x(), Expr::unary(Unary::Rsqrt, scale)))
            }
            NormKind::L2 => {
                let squares = statistic("sumsq", Expr::unary(Unary::Square, x()), None);
                let scale = add(Expr::Input(1), Expr::Const(eps));
                (vec![squares], mul(x(), Expr::unary(Unary::Rsqrt, scale)))
            }
            NormKind::L2Max => {
                let squares = statistic("sumsq", Expr::unary(Unary::Square, x()), None);
                let length = Expr::unary(Unary::Sqrt, Expr::Input(1));
                let bounded = Expr::binary(Binary::Max, length, Expr::Const(eps));
                (vec![squares], Expr::binary(Binary::Div, x(), bounded))
            }
        };
        let mut inputs = vec![reads[0].clone()];
        inputs.extend(statistics.into_iter().map(|s| statement_read(s, &kept)));
        let mut expr = normalised;
        let mut rest = reads.into_iter().skip(1);
        if gain && let Some(read) = rest.next() {
            expr = mul(expr, Expr::Input(inputs.len()));
            inputs.push(read);
        }
        if bias && let Some(read) = rest.next() {
            expr = add(expr, Expr::Input(inputs.len()));
            inputs.push(read);
        }
        self.result(id, op.outputs[0], op.name.clone(), axes, None, expr, inputs);
    }

    /// An argument of a recurrence. What has no name but that of its statement in the model, and
    /// what is loaded for the recurrence, is called as the definition calls it.
    fn argument(&mut self, access: &Access, formal: &str) -> Read {
        let known = self.out.statements.len();
        // Another row comes through a copy: formals are indexed by whatever reads them.
        let read = self.at_its_row(access, &[]);
        if let Src::Statement(source) = read.src
            && let Some(statement) = self.out.statements.get_mut(source)
            && (source >= known || is_derived(&statement.name))
        {
            statement.name = formal.to_string();
        }
        let formals = &mut self.out.formals;
        formals
            .entry(read.src)
            .or_insert_with(|| formal.to_string());
        read
    }

    fn scan(&mut self, id: OpId, op: &Op, recurrence: RecurrenceId, states: &[StateId]) {
        let found = self
            .classes
            .and_then(|classes| classes.of(self.graph, recurrence));
        let written = self.graph.recurrence(recurrence);
        let rewritten = found.and_then(|found| found.rewritten(written));
        let rec = rewritten.as_ref().unwrap_or(written);
        let arguments: Vec<Read> = (op.inputs.iter().zip(&rec.inputs))
            .map(|(access, formal)| self.argument(access, &formal.name))
            .collect();
        let first_state = self.out.states.len();
        let algebra = |i: usize| {
            let class = found.and_then(|found| found.states.get(i)?.met());
            class.map_or(Algebra::Linear, |(_, algebra)| algebra)
        };
        for (i, state) in rec.states.iter().enumerate() {
            self.out.states.push(Carried {
                state: states[i],
                held: Held::State,
                algebra: algebra(i),
                name: state.name.clone(),
                axes: state.axes.clone(),
                next: usize::MAX,
                kept: state.kept,
            });
        }
        // A state lives in the registers of the threads that own its elements. Whoever needs other
        // elements, or needs them along other axes too, reads a copy, which is shared as any
        // result is.
        let copies: Vec<Option<usize>> = (0..rec.states.len())
            .map(|i| {
                let state = &rec.states[i];
                let elsewhere = rec.ops.iter().any(|step| {
                    let mut reads = step.inputs.iter();
                    reads.any(|read| {
                        read.item == StepRef::State(i)
                            && (read.axes != state.axes || !runs_over(step, &state.axes))
                    })
                });
                elsewhere.then(|| {
                    let read = Read {
                        src: Src::State(first_state + i),
                        axes: state.axes.clone(),
                        index: state.axes.iter().map(|a| IndexExpr::axis(*a)).collect(),
                        delay: 0,
                    };
                    let name = format!("{}_before", state.name);
                    self.push(copy_of(name, state.axes.clone(), read, Some(id)))
                })
            })
            .collect();
        let mut results: Vec<usize> = Vec::new();
        let read_item = |item: StepRef, axes: &[AxisId], results: &[usize]| match item {
            StepRef::Input(i) => {
                // The argument is indexed by the formal's axes; put the reader's in their place.
                let formals = &rec.inputs[i].axes;
                let argument = &arguments[i];
                let rename =
                    |a: AxisId| formals.iter().position(|f| *f == a).map_or(a, |p| axes[p]);
                let index = argument
                    .index
                    .iter()
                    .map(|e| IndexExpr {
                        base: e.base,
                        terms: e.terms.iter().map(|(a, c)| (rename(*a), *c)).collect(),
                    })
                    .collect();
                Read {
                    index,
                    ..argument.clone()
                }
            }
            StepRef::State(i) => Read {
                src: copies[i].map_or(Src::State(first_state + i), Src::Statement),
                axes: rec.states[i].axes.clone(),
                index: axes.iter().map(|a| IndexExpr::axis(*a)).collect(),
                delay: 0,
            },
            StepRef::Op(i) => Read {
                src: Src::Statement(results[i]),
                axes: rec.ops[i].axes.clone(),
                index: axes.iter().map(|a| IndexExpr::axis(*a)).collect(),
                delay: 0,
            },
        };
        for step in &rec.ops {
            let reads = step
                .inputs
                .iter()
                .map(|StepAccess { item, axes }| read_item(*item, axes, &results))
                .collect();
            let reduce = match &step.kind {
                StepKind::Map => None,
                StepKind::Reduce { combine, axes } => Some((*combine, axes.clone())),
            };
            let statement = Statement {
                name: step.name.clone(),
                axes: step.axes.clone(),
                reduce,
                expr: step.expr.clone(),
                reads,
                history: 0,
                tail: None,
                op: Some(id),
            };
            results.push(self.push(statement));
        }
        // A new state or an output that is not itself a map of the step is copied into one,
        // so that it has a place of its own.
        for (i, next) in rec.next.iter().enumerate() {
            let axes = rec.states[i].axes.clone();
            let own = match next {
                StepRef::Op(o) if matches!(rec.ops[*o].kind, StepKind::Map) => Some(results[*o]),
                _ => None,
            };
            // What the step assigns to a state is not the state yet.
            let same = own.and_then(|own| self.out.statements.get_mut(own));
            if let Some(new) = same.filter(|new| new.name == rec.states[i].name) {
                new.name = format!("{}_next", new.name);
            }
            let statement = own.unwrap_or_else(|| {
                let read = read_item(*next, &axes, &results);
                let name = format!("{}_next", rec.states[i].name);
                self.push(copy_of(name, axes, read, Some(id)))
            });
            self.out.states[first_state + i].next = statement;
        }
        // Its coefficients come first among the statements of a step in the form of its classes.
        let met = found.map(|found| found.states.iter().map(Class::met));
        for (i, met) in met.into_iter().flatten().enumerate() {
            let Some((decay, algebra)) = met else {
                continue;
            };
            let together = match algebra {
                Algebra::Linear => Binary::Mul,
                Algebra::Extremal(_) => Binary::Add,
            };
            let axes = rec.axes_of(decay).to_vec();
            let own = Read {
                src: Src::State(self.out.states.len()),
                axes: axes.clone(),
                index: axes.iter().map(|a| IndexExpr::axis(*a)).collect(),
                delay: 0,
            };
            let by = read_item(decay, &axes, &results);
            let name = format!("{}_decay", rec.states[i].name);
            let next = self.push(Statement {
                expr: Expr::binary(together, Expr::Input(0), Expr::Input(1)),
                reads: vec![own, by],
                ..copy_of_nothing(format!("{name}_next"), axes.clone(), Some(id))
            });
            self.out.states.push(Carried {
                state: states[i],
                held: Held::Product,
                algebra,
                name,
                axes,
                next,
                kept: true,
            });
        }
        for (output, item) in op.outputs.iter().zip(&rec.outputs) {
            let axes = rec.axes_of(*item).to_vec();
            let statement = match item {
                StepRef::Op(o) => results[*o],
                _ => {
                    let read = read_item(*item, &axes, &results);
                    let name = self.graph.value(*output).name.clone();
                    self.push(copy_of(name, axes, read, Some(id)))
                }
            };
            self.out.value.insert(*output, statement);
        }
    }
}

/// Whether a statement of a step goes through exactly these axes, in whatever order.
fn runs_over(step: &StepOp, axes: &[AxisId]) -> bool {
    let reduced = match &step.kind {
        StepKind::Map => &[][..],
        StepKind::Reduce { axes, .. } => axes,
    };
    step.axes.len() + reduced.len() == axes.len()
        && step.axes.iter().chain(reduced).all(|a| axes.contains(a))
}

/// Whether a name was made from that of a statement of the model, by a number.
fn is_derived(name: &str) -> bool {
    let last = name.rsplit('.').next();
    last.is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()))
}

fn statement_read(statement: usize, axes: &[AxisId]) -> Read {
    Read {
        src: Src::Statement(statement),
        axes: axes.to_vec(),
        index: axes.iter().map(|a| IndexExpr::axis(*a)).collect(),
        delay: 0,
    }
}

/// A copy of the result of statement `source`, which is `s`.
pub fn copy(source: usize, s: &Statement) -> Statement {
    let read = statement_read(source, &s.axes);
    copy_of(s.name.clone(), s.axes.clone(), read, s.op)
}

fn copy_of(name: String, axes: Vec<AxisId>, read: Read, op: Option<OpId>) -> Statement {
    Statement {
        reads: vec![read],
        ..copy_of_nothing(name, axes, op)
    }
}

/// A map of its first operand that has none yet.
fn copy_of_nothing(name: String, axes: Vec<AxisId>, op: Option<OpId>) -> Statement {
    Statement {
        name,
        axes,
        reduce: None,
        expr: Expr::Input(0),
        reads: Vec::new(),
        history: 0,
        tail: None,
        op,
    }
}

impl Program {
    /// What of it the states become, and nothing else.
    fn only_states(mut self) -> Program {
        let mut needed = vec![false; self.statements.len()];
        for state in &self.states {
            needed[state.next] = true;
        }
        // An earlier row that is kept is one of an earlier statement, as any operand is.
        for i in (0..needed.len()).rev() {
            if needed[i] {
                for read in &self.statements[i].reads {
                    if let Src::Statement(source) = read.src {
                        needed[source] = true;
                    }
                }
            }
        }
        let mut places = Vec::with_capacity(needed.len());
        let mut kept = 0;
        for needed in &needed {
            places.push(needed.then_some(kept));
            kept += usize::from(*needed);
        }
        let place = |src: Src| match src {
            Src::Statement(i) => places[i].map(Src::Statement),
            other => Some(other),
        };
        let all = std::mem::take(&mut self.statements).into_iter();
        self.statements = all
            .zip(&needed)
            .filter(|(_, n)| **n)
            .map(|(s, _)| s)
            .collect();
        let mut history = vec![0; kept];
        for read in self.statements.iter_mut().flat_map(|s| &mut s.reads) {
            read.src = place(read.src).unwrap_or(read.src);
            if let Src::Statement(source) = read.src {
                history[source] = read.delay.max(history[source]);
            }
        }
        for (s, history) in self.statements.iter_mut().zip(history) {
            s.history = history;
        }
        for state in &mut self.states {
            state.next = places[state.next].unwrap_or(state.next);
        }
        let values = std::mem::take(&mut self.value).into_iter();
        self.value = values.filter_map(|(v, s)| Some((v, places[s]?))).collect();
        let formals = std::mem::take(&mut self.formals).into_iter();
        self.formals = formals
            .filter_map(|(src, name)| Some((place(src)?, name)))
            .collect();
        self.tails.clear();
        self
    }
}
