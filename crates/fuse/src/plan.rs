//! The plan: plain data, versioned, serialisable, printable.
//!
//! A plan lists the kernels of one run of a model in launch order. A kernel is a
//! list of [`Phase`]s (a grid barrier between two) of lanes (disjoint ranges of
//! blocks), each a [`Body`]: a group of operations that one template executes.
//! An operation belongs to exactly one kernel; inside a kernel, lanes may each
//! compute it for themselves.

use crate::schedule::{Launch, Schedule};
use fusec_ir::{AxisId, Graph, OpId, StateId, ValueId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Version of the serialised form; raised whenever a field changes meaning.
pub const PLAN_VERSION: u32 = 6;

/// The kernels of one run, in launch order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// [`PLAN_VERSION`] of the writer.
    pub version: u32,
    /// Name of the model.
    pub model: String,
    /// Name of the device profile whose costs were used.
    pub device: String,
    /// The shape the costs are for. The kernels run at any shape.
    pub shape: Shape,
    /// Storage type of activations and matrices.
    pub storage: Storage,
    /// How the kernels were chosen.
    pub mode: Mode,
    /// Global forms taken, by rule name, each with the values it concerns.
    pub forms: Vec<String>,
    /// Whether the selection is optimal over all legal groups, or how far from it at most
    /// ("best of N": a count cap was reached).
    pub claim: String,
    /// The kernels.
    pub kernels: Vec<Kernel>,
    /// Sum of the kernels' cost, microseconds.
    pub total_us: f64,
}

/// Batch and time of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape {
    /// Sequences.
    pub batch: usize,
    /// Tokens of each.
    pub time: usize,
}

impl Shape {
    /// Tokens of the longest run that a plan for this shape serves; `None`: any. A plan for single steps is
    /// for these alone.
    pub fn longest_run(self) -> Option<usize> {
        (self.time == 1).then_some(1)
    }

    /// The shape that runs of several tokens are planned for beside single steps.
    pub fn of_several_tokens(self) -> Shape {
        Shape {
            time: self.time.max(2),
            ..self
        }
    }
}

/// Storage type of values whose precision is `Storage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// IEEE single.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
}

/// How kernels are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Exact minimum of the cost model.
    Auto,
    /// Merge the pair that saves most until nothing saves.
    Greedy,
    /// One kernel per operation.
    Unfused,
    /// A legal plan drawn at random, for testing that every plan is right.
    Random(u64),
}

/// A launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    /// A readable name, equal for equal kernels of equal layers (`time_mix_wkv_gate`).
    pub name: String,
    /// Executed one after the other, with a grid barrier between two.
    pub phases: Vec<Phase>,
    /// All operations, ascending.
    pub ops: Vec<OpId>,
    /// Their names, in the same order: a plan can be read, and compared with another, without
    /// the graph.
    pub names: Vec<String>,
    /// Layer of its first operation, if any.
    pub layer: Option<u32>,
    /// Names of the local forms (rewrite rules) it realises.
    pub forms: Vec<String>,
    /// Threads, shared memory and blocks.
    pub launch: Launch,
    /// Its predicted cost.
    pub cost: Cost,
}

/// Bodies that run side by side on disjoint ranges of blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// The lanes, in block order.
    pub lanes: Vec<Body>,
}

/// The template that executes a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Template {
    /// A block owns a run of consecutive rows of one sequence (and a tile of the grid axes):
    /// pointwise work, reductions inside a row, stencils, look-ups.
    Row,
    /// A block owns one sequence (and a tile of the grid axes) and walks along T.
    Scan,
    /// A block owns one sequence, one head and a tile of value columns of a recurrence with a
    /// diagonal decay and an outer product, and walks along T some tokens at a time.
    Chunked,
    /// Matrix-vector products: few rows, one or more warps per output column.
    Gemv,
    /// Products of few rows on tensor cores, the weights streamed once.
    Thin,
    /// Matrix products: tiles of rows by columns.
    Gemm,
    /// A block owns a run of consecutive rows of one sequence and one head of softmax
    /// attention, and walks the keys and values that these rows see.
    Attend,
    /// A block owns a share of the last row of one sequence.
    LastRow,
    /// A block owns a share of the elements of some rows, and finds what is placed in each.
    Scatter,
    /// A block owns a tile of a result without rows, or a part of the rows that are summed for it.
    RowSum,
}

/// The operations of a body by what they are in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles {
    /// What the anchors depend on, ascending.
    pub prologue: Vec<OpId>,
    /// The contractions, scans or attention that it is built around, ascending; none of rows.
    pub anchors: Vec<OpId>,
    /// What depends on the anchors, ascending.
    pub epilogue: Vec<OpId>,
    /// Rows before the first one of a block that are computed as well.
    pub halo: u32,
}

/// A group of operations that one template executes, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// Its operations by role. Rows, and side results of what is before a recurrence, have none.
    pub roles: Roles,
    /// Everything it computes, ascending.
    pub ops: Vec<OpId>,
    /// Values that it writes to memory: needed by another kernel or by the caller.
    pub stores: Vec<ValueId>,
    /// Those of them that are written past the caches: they leave the L2 before anybody reads them.
    pub streamed: Vec<ValueId>,
    /// Stencil tails that it brings up to date.
    pub tails: Vec<StateId>,
    /// Tiles, threads, and how work is spread over blocks.
    pub schedule: Schedule,
}

impl Body {
    /// The template that executes it.
    pub fn template(&self) -> Template {
        self.schedule.template()
    }

    /// Those of its operations that `last` depends on, and `last` itself, ascending.
    pub fn up_to(&self, graph: &Graph, last: OpId) -> Vec<OpId> {
        let mut needed = BTreeSet::from([last]);
        let mut open = vec![last];
        while let Some(id) = open.pop() {
            let inputs = graph.op(id).inputs.iter();
            for maker in inputs.filter_map(|access| graph.producer(access.value)) {
                if self.ops.binary_search(&maker).is_ok() && needed.insert(maker) {
                    open.push(maker);
                }
            }
        }
        needed.into_iter().collect()
    }

    /// What it is built around.
    pub fn anchors(&self) -> &[OpId] {
        &self.roles.anchors
    }
}

/// An axis of which each block owns `tile` consecutive elements. `tile` divides the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GridAxis {
    /// Which.
    pub axis: AxisId,
    /// How many elements a block owns.
    pub tile: usize,
}

/// The terms of a kernel's predicted time. All times in microseconds, `bytes` in bytes.
/// `total_us = max(memory, tensor, simt, special, serial) + launch + barrier + latency + underfill`;
/// of a kernel with several phases, every term is the sum of what the phases have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Bytes read from and written to device memory (L2 hits excluded).
    pub bytes: f64,
    /// Bytes found in L2.
    pub l2_bytes: f64,
    /// Floating-point operations on tensor cores.
    pub tensor_flops: f64,
    /// Other floating-point operations.
    pub simt_flops: f64,
    /// Special-function evaluations (exp, rsqrt, ...).
    pub special: f64,
    /// Steps that must follow each other.
    pub serial_steps: f64,
    /// Time of the bytes.
    pub memory_us: f64,
    /// Time of the tensor-core work.
    pub tensor_us: f64,
    /// Time of the SIMT work.
    pub simt_us: f64,
    /// Time of the special functions.
    pub special_us: f64,
    /// Time of the serial steps.
    pub serial_us: f64,
    /// Launch overhead.
    pub launch_us: f64,
    /// Grid barriers between phases.
    pub barrier_us: f64,
    /// Accesses to memory that wait for each other before and after the bulk of the work.
    pub latency_us: f64,
    /// Added because too few blocks fill the GPU.
    pub underfill_us: f64,
    /// The sum as defined above.
    pub total_us: f64,
}

/// Why a group of operations is not one kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reject {
    /// Name of the rule that forbids it.
    pub rule: String,
    /// The operations at fault.
    pub ops: Vec<OpId>,
    /// What the rule allows, in words or as a number with its unit.
    pub limit: String,
    /// What was found.
    pub got: String,
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: allowed {}, got {}", self.rule, self.limit, self.got)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Template::Row => "row",
            Template::Scan => "scan",
            Template::Chunked => "chunked",
            Template::Gemv => "gemv",
            Template::Thin => "thin",
            Template::Gemm => "gemm",
            Template::Attend => "attend",
            Template::LastRow => "last row",
            Template::Scatter => "scatter",
            Template::RowSum => "row sum",
        })
    }
}

impl Storage {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Storage::F32 => 4,
            Storage::Bf16 | Storage::F16 => 2,
        }
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Storage::F32 => "f32",
            Storage::Bf16 => "bf16",
            Storage::F16 => "f16",
        })
    }
}

impl FromStr for Storage {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "f32" => Ok(Storage::F32),
            "bf16" => Ok(Storage::Bf16),
            "f16" => Ok(Storage::F16),
            _ => Err(format!("unknown storage type `{s}`: one of f32, bf16, f16")),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mode::Auto => f.write_str("auto"),
            Mode::Greedy => f.write_str("greedy"),
            Mode::Unfused => f.write_str("unfused"),
            Mode::Random(seed) => write!(f, "random:{seed}"),
        }
    }
}

impl FromStr for Mode {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "auto" => Ok(Mode::Auto),
            "greedy" => Ok(Mode::Greedy),
            "unfused" => Ok(Mode::Unfused),
            _ => s
                .strip_prefix("random:")
                .and_then(|n| n.parse().ok())
                .map(Mode::Random)
                .ok_or_else(|| {
                    format!("unknown plan `{s}`: one of auto, greedy, unfused, random:SEED")
                }),
        }
    }
}
