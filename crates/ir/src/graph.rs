//! The typed dataflow graph: plain data, versioned, serialisable.
//!
//! A graph is the whole model, layers unrolled, in topological order. An
//! operation reads its operands through an [`Access`], which is affine in the
//! operation's own index variables: slices, selected indices, renamed and
//! reversed axes, broadcasts and causal delays need no operation of their own.
//!
//! Causality is a rule of the language, not of this type: a delay may be
//! negative (look-ahead), so that the graph is closed under transposition.

use crate::{Axis, AxisId, Expr, Recurrence};
use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);
        impl $name {
            /// The index as a `usize`.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}
id!(/** Index of a [`Value`] in [`Graph::values`]. */ ValueId);
id!(/** Index of an [`Op`] in [`Graph::ops`]. */ OpId);
id!(/** Index of a [`Param`] in [`Graph::params`]. */ ParamId);
id!(/** Index of a [`State`] in [`Graph::states`]. */ StateId);
id!(/** Index of a [`Recurrence`] in [`Graph::recurrences`]. */ RecurrenceId);

/// Version of the serialised form; raised whenever a field changes meaning.
pub const GRAPH_VERSION: u32 = 1;

/// A whole model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Graph {
    /// [`GRAPH_VERSION`] of the writer.
    pub version: u32,
    /// Name of the model.
    pub name: String,
    /// All atomic axes.
    pub axes: Vec<Axis>,
    /// All parameters, in order of first use.
    pub params: Vec<Param>,
    /// Concrete recurrences, shared by equal layers.
    pub recurrences: Vec<Recurrence>,
    /// All values: inputs, parameters, results.
    pub values: Vec<Value>,
    /// All operations, producers before consumers. Those that read and give nothing with rows come
    /// first: they depend on parameters only and are evaluated once, at load.
    pub ops: Vec<Op>,
    /// Everything carried from one run to the next, beside the position.
    pub states: Vec<State>,
    /// Values given by the caller at each run (token ids).
    pub inputs: Vec<ValueId>,
    /// Values handed to the caller (logits first).
    pub outputs: Vec<ValueId>,
    /// Number of repeated layers (`Op::layer` is below it).
    pub layers: u32,
    /// The user's wishes about fusion.
    pub pins: Vec<Pin>,
    /// Tensors of a checkpoint that may stay unused, as glob patterns with `*`.
    pub allow_unused: Vec<String>,
    /// The share of what a relu gives that whoever plans expects to be zero, from 0 to below 1. It changes no
    /// value.
    #[serde(default, skip_serializing_if = "is_none_of_all")]
    pub zeros: f64,
}

/// Whether a share is none.
fn is_none_of_all(share: &f64) -> bool {
    *share == 0.0
}

/// How a value is stored when it has to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// The storage type chosen for the plan (f32, bf16 or f16).
    Storage,
    /// Always f32 (decay, dt, A, states).
    F32,
    /// i32 token ids.
    Index,
}

/// A tensor: `[B, T, axes...]` when `rows`, else `[axes...]`; row-major in that order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Value {
    /// Name in the model, qualified by block, without the layer number (`time_mix.xx`).
    pub name: String,
    /// Whether it has batch and time.
    pub rows: bool,
    /// Inner axes, in storage order. Empty: one number per row.
    pub axes: Vec<AxisId>,
    /// Storage.
    pub precision: Precision,
    /// Where it comes from.
    pub def: Def,
    /// Layer it belongs to, if any.
    pub layer: Option<u32>,
}

/// The origin of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Def {
    /// Given by the caller.
    Input,
    /// A parameter.
    Param(ParamId),
    /// Output number `.1` of an operation.
    Op(OpId, u32),
}

/// A parameter of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Param {
    /// Unique name with layer number (`layers.3.time_mix.receptance`).
    pub name: String,
    /// The value that stands for it.
    pub value: ValueId,
    /// Where it is found in a checkpoint.
    pub source: Option<Source>,
    /// How it is initialised when there is no checkpoint.
    pub init: Init,
    /// Place of its declaration.
    pub span: Option<Span>,
}

/// A tensor of a checkpoint and what to do with it to get the parameter,
/// whose shape is that of its value's axes (compared by element counts per declared dimension).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// Full tensor name, layer number filled in. Alternatives are tried in order and the
    /// first that exists is read (so a tied output projection can name the embedding second);
    /// any other that exists then counts as unused unless another parameter reads it.
    pub tensors: Vec<String>,
    /// Applied in order.
    pub steps: Vec<LoadStep>,
}

/// A rearrangement at load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadStep {
    /// Keeps `start..end` of dimension `dim`.
    Slice {
        /// Dimension.
        dim: usize,
        /// First index kept.
        start: usize,
        /// One past the last index kept.
        end: usize,
    },
    /// Exchanges two dimensions.
    Transpose(usize, usize),
    /// Gives the same elements another shape.
    View(Vec<usize>),
}

/// Initialisation of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform in `[.0, .1)`.
    Uniform(f64, f64),
    /// The same number everywhere.
    Constant(f64),
    /// Natural log of a uniform draw in `[.0, .1)`.
    LogUniform(f64, f64),
}

/// A byte range in the model text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// An affine index: `base + sum of coefficient * axis`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IndexExpr {
    /// Constant part.
    pub base: i64,
    /// Coefficients of index variables, each variable at most once.
    pub terms: Vec<(AxisId, i64)>,
}

/// How an operation reads an operand.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Access {
    /// The operand.
    pub value: ValueId,
    /// Reads row `t - delay`. Rows before the first come from `tail`.
    pub delay: i32,
    /// The stencil tail that holds the rows before the first one; present iff `delay > 0`.
    pub tail: Option<StateId>,
    /// For each axis of the operand, its index in terms of the operation's index variables.
    pub index: Vec<IndexExpr>,
}

/// How a reduction combines elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Combine {
    /// Sum, from 0.
    Sum,
    /// Maximum, from -inf.
    Max,
}

/// The normalisations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// `(x - mean) / sqrt(var + eps)`, population variance.
    Layer,
    /// `x / sqrt(mean(x^2) + eps)`.
    Rms,
    /// `x / sqrt(sum(x^2) + eps)`.
    L2,
    /// `x / max(sqrt(sum(x^2)), eps)`.
    L2Max,
}

/// What an operation computes. Index variables are the output's axes, then the reduced ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpKind {
    /// `out[axes] = expr`, one element from one element of each input. With delayed
    /// inputs it is a stencil.
    Map {
        /// The expression.
        expr: Expr,
    },
    /// `out[axes] = combine over reduce of expr`. Where the output has no rows and an operand
    /// has, a sum goes over B and T as well.
    Reduce {
        /// The expression under the reduction.
        expr: Expr,
        /// How.
        combine: Combine,
        /// The reduced index variables.
        axes: Vec<AxisId>,
    },
    /// Normalises input 0 over some of its axes; statistics in f32. Then `* gain` (input 1,
    /// if `gain`) and `+ bias` (the next input, if `bias`).
    Norm {
        /// Which statistics.
        kind: NormKind,
        /// Normalised index variables (a subset of the output's axes).
        axes: Vec<AxisId>,
        /// Added where the kind says.
        eps: f64,
        /// Input 1 is a gain.
        gain: bool,
        /// The last input is a bias.
        bias: bool,
    },
    /// `out[axes] = sum over reduce of in0 * in1`. Input 0 is the activation, input 1 the
    /// weight (or another activation). An axis of the output that both inputs run over is a
    /// batch axis. Where the output has no rows and an input has, the sum goes over B and T as
    /// well.
    Contract {
        /// The summed index variables (primed where the name is also an output's).
        axes: Vec<AxisId>,
    },
    /// `out[axes] = table[id, axes...]`: input 0 is the table, whose first axis is looked up
    /// (its index expression is the constant 0) with input 1, an Index value.
    Gather,
    /// A recurrence along T. Inputs are its formal inputs in order, indexed by the formals' axes.
    Scan {
        /// The definition.
        recurrence: RecurrenceId,
        /// One per state of the definition.
        states: Vec<StateId>,
    },
    /// Causal softmax attention over a window of rows. Inputs are queries, keys and values;
    /// with `p` the absolute position of row `t` and `s` from `max(0, p - window + 1)` to `p`,
    /// `out[t, axes] = sum over s of softmax over s (scale * sum over reduce of in0[t] * in1[s]) * in2[s]`.
    /// Keys and values are read with delay `window - 1`: their tails are the cache. The axes of
    /// the output that queries or keys run over are heads; the values do not run over the
    /// summed ones.
    Attend {
        /// The index variables that queries and keys are multiplied along (primed where the
        /// name is also an output's).
        axes: Vec<AxisId>,
        /// Rows seen, the current one included; at least 1.
        window: u32,
        /// Factor of the products.
        scale: f64,
    },
    /// The last row of each operand: result `i` is that of input `i`, `[B, 1, axes...]`. Everything
    /// computed from it has one row for each sequence as well; see [`crate::last_row`].
    LastRow,
    /// Inclusive sum along an axis. At load only.
    CumSum {
        /// The axis.
        axis: AxisId,
    },
    /// The transpose of a read through an access: the output starts at 0, and every point of
    /// `axes` adds the element of input 0 there to `out[index]`.
    Scatter {
        /// The index variables.
        axes: Vec<AxisId>,
        /// For each axis of the output, its index in terms of them.
        index: Vec<IndexExpr>,
    },
    /// The transpose of a gather: `out[v, axes] = sum of in0[b, t, axes]` over the rows whose id
    /// is `v`, in the order of the rows. Input 0 has rows, input 1 is the ids, the output has no
    /// rows.
    ScatterRows,
    /// The transpose of [`OpKind::Attend`] of the same fields. Inputs are its three, then the
    /// cotangent of its result; outputs are the cotangents of the *values* that its queries, keys
    /// and values are read from, so over their axes. Rows before the first one get none.
    AttendBack {
        /// The index variables that queries and keys are multiplied along.
        axes: Vec<AxisId>,
        /// Rows seen, the current one included; at least 1.
        window: u32,
        /// Factor of the products.
        scale: f64,
    },
}

/// An operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Op {
    /// Name in the model, qualified by block, without the layer number.
    pub name: String,
    /// What it computes.
    pub kind: OpKind,
    /// Its operands.
    pub inputs: Vec<Access>,
    /// Its results (one, except for a scan and for last rows).
    pub outputs: Vec<ValueId>,
    /// Stencil tails this operation brings up to date: after a run over T rows, the tail holds
    /// the last `width` rows of the value it belongs to. The operation reads that value.
    pub tails: Vec<StateId>,
    /// Layer it belongs to, if any.
    pub layer: Option<u32>,
    /// Place in the model text.
    pub span: Option<Span>,
}

/// Something carried between runs, per batch row, f32, zero at the start unless said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Unique name with layer number.
    pub name: String,
    /// What it holds.
    pub kind: StateKind,
    /// Inner axes: storage is `[B, axes...]` for a scan, `[B, width, axes...]` for a tail.
    pub axes: Vec<AxisId>,
    /// Layer it belongs to, if any.
    pub layer: Option<u32>,
}

/// The kinds of state.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateKind {
    /// State of a recurrence.
    Scan {
        /// Initial value of every element; may be infinite.
        #[serde(with = "crate::recurrence::initial")]
        init: f64,
    },
    /// The last `width` rows of a value, oldest first: row `i` is `t = T - width + i`.
    Tail {
        /// Whose rows.
        value: ValueId,
        /// How many.
        width: u32,
    },
}

/// A wish about fusion, on names of values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Together or apart.
    pub kind: PinKind,
    /// Names of values (as `Value::name`).
    pub values: Vec<String>,
    /// Place in the model text.
    pub span: Option<Span>,
}

/// The kinds of pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PinKind {
    /// In one kernel.
    Fuse,
    /// In pairwise different kernels.
    Split,
}

impl fmt::Display for PinKind {
    /// `fuse` or `split`, as written in a model.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PinKind::Fuse => "fuse",
            PinKind::Split => "split",
        })
    }
}

impl IndexExpr {
    /// The index variable itself.
    pub fn axis(axis: AxisId) -> Self {
        IndexExpr {
            base: 0,
            terms: vec![(axis, 1)],
        }
    }

    /// A constant index.
    pub fn at(base: i64) -> Self {
        IndexExpr {
            base,
            terms: vec![],
        }
    }

    /// The same index with every variable replaced by an index expression.
    pub fn substitute(&self, f: &impl Fn(AxisId) -> IndexExpr) -> IndexExpr {
        let mut out = IndexExpr::at(self.base);
        for (axis, coefficient) in &self.terms {
            let inner = f(*axis);
            out.base += coefficient * inner.base;
            for (axis, c) in inner.terms {
                match out.terms.iter_mut().find(|(a, _)| *a == axis) {
                    Some((_, sum)) => *sum += coefficient * c,
                    None => out.terms.push((axis, coefficient * c)),
                }
            }
        }
        out.terms.retain(|(_, c)| *c != 0);
        out
    }

    /// `Some(a)` if this is the plain index variable `a`.
    pub fn as_axis(&self) -> Option<AxisId> {
        match (self.base, self.terms.as_slice()) {
            (0, [(axis, 1)]) => Some(*axis),
            _ => None,
        }
    }
}

impl Access {
    /// Reads `value` along its own axes, at the current row.
    pub fn plain(value: ValueId, axes: &[AxisId]) -> Self {
        Access {
            value,
            delay: 0,
            tail: None,
            index: axes.iter().map(|a| IndexExpr::axis(*a)).collect(),
        }
    }

    /// Whether every operand axis is indexed by the plain variable of the same axis.
    pub fn is_plain(&self, axes: &[AxisId]) -> bool {
        self.delay == 0
            && self.index.len() == axes.len()
            && self
                .index
                .iter()
                .zip(axes)
                .all(|(i, a)| i.as_axis() == Some(*a))
    }
}

impl Graph {
    /// A value by id.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// An operation by id.
    pub fn op(&self, id: OpId) -> &Op {
        &self.ops[id.index()]
    }

    /// A state by id.
    pub fn state(&self, id: StateId) -> &State {
        &self.states[id.index()]
    }

    /// A parameter by id.
    pub fn param(&self, id: ParamId) -> &Param {
        &self.params[id.index()]
    }

    /// A recurrence by id.
    pub fn recurrence(&self, id: RecurrenceId) -> &Recurrence {
        &self.recurrences[id.index()]
    }

    /// The size of an axis.
    pub fn size(&self, axis: AxisId) -> usize {
        self.axes[axis.0 as usize].size
    }

    /// The name of an axis.
    pub fn axis_name(&self, axis: AxisId) -> &str {
        &self.axes[axis.0 as usize].name
    }

    /// Number of elements over some axes (1 for none).
    pub fn elements(&self, axes: &[AxisId]) -> usize {
        axes.iter().map(|a| self.size(*a)).product()
    }

    /// Number of elements of one row of a value (the whole of it if it has no rows).
    pub fn row_elements(&self, id: ValueId) -> usize {
        self.elements(&self.value(id).axes)
    }

    /// Number of f32 elements of a state for one batch row.
    pub fn state_elements(&self, id: StateId) -> usize {
        let state = self.state(id);
        let width = match state.kind {
            StateKind::Scan { .. } => 1,
            StateKind::Tail { width, .. } => width as usize,
        };
        width * self.elements(&state.axes)
    }

    /// Of an operation that attends, the axes of the result along which the weights of rows
    /// differ: its heads. Along the others only the values differ.
    pub fn attention_heads(&self, op: &Op) -> Vec<AxisId> {
        let axes = op.outputs.first().map_or(&[][..], |v| &self.value(*v).axes);
        self.attention_heads_of(op, axes)
    }

    /// Of the axes of an attention's result, those that its queries or keys run over; `op` is the
    /// operation that attends, or its transpose.
    pub fn attention_heads_of(&self, op: &Op, axes: &[AxisId]) -> Vec<AxisId> {
        let weighs = |axis: AxisId| {
            let mut indices = op.inputs.iter().take(2).flat_map(|access| &access.index);
            indices.any(|index| index.terms.iter().any(|term| term.0 == axis))
        };
        axes.iter().copied().filter(|axis| weighs(*axis)).collect()
    }

    /// Rows that a stencil tail holds; 0 for the state of a scan.
    pub fn tail_width(&self, id: StateId) -> u32 {
        match self.state(id).kind {
            StateKind::Tail { width, .. } => width,
            StateKind::Scan { .. } => 0,
        }
    }

    /// Whether an operation is evaluated once at load: neither its results nor its operands have
    /// rows.
    pub fn is_load_time(&self, id: OpId) -> bool {
        let op = self.op(id);
        op.outputs.iter().all(|v| !self.value(*v).rows) && !self.sums_rows(op)
    }

    /// Whether an operation makes one result of all rows: it sums over B and T.
    pub fn sums_rows(&self, op: &Op) -> bool {
        op.outputs.first().is_some_and(|v| !self.value(*v).rows)
            && op.inputs.iter().any(|a| self.value(a.value).rows)
    }

    /// The operation that produces a value, if one does.
    pub fn producer(&self, id: ValueId) -> Option<OpId> {
        match self.value(id).def {
            Def::Op(op, _) => Some(op),
            Def::Input | Def::Param(_) => None,
        }
    }

    /// What is a graph's own, its name, axes and settings, without anything that it computes.
    pub fn emptied(&self) -> Graph {
        Graph {
            version: self.version,
            name: self.name.clone(),
            axes: self.axes.clone(),
            params: Vec::new(),
            recurrences: Vec::new(),
            values: Vec::new(),
            ops: Vec::new(),
            states: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            layers: self.layers,
            pins: Vec::new(),
            allow_unused: self.allow_unused.clone(),
            zeros: self.zeros,
        }
    }

    /// For each value, the operations that read it, in order, each once.
    pub fn consumers(&self) -> Vec<Vec<OpId>> {
        let mut out = vec![Vec::new(); self.values.len()];
        for (i, op) in self.ops.iter().enumerate() {
            for access in &op.inputs {
                let list: &mut Vec<OpId> = &mut out[access.value.index()];
                if list.last() != Some(&OpId(i as u32)) {
                    list.push(OpId(i as u32));
                }
            }
        }
        out
    }
}
