//! The work of a subkernel in counts: bytes, operations, steps, blocks.
//!
//! No rate and no other figure of a device is in it, so that recorded work can be priced again
//! when figures change. Lives here: what is counted. Never here: how a body is gone through for it
//! (`lane.rs`), and what a count costs (`price.rs`).

use crate::plan::Storage;
use serde::{Deserialize, Serialize};

/// An operand that comes from memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Read {
    /// Which value: subkernels side by side that read one find it in L2 after the first.
    pub value: u32,
    /// Bytes that are read once.
    pub bytes: f64,
    /// Of rows, which another kernel has just written: bytes of the whole value. None of parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of_rows: Option<f64>,
    /// Bytes that other blocks read again.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub again: f64,
}

/// Matrix products of many rows, in tiles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tiles {
    /// Tensor cores for this storage type, or the FP32 units.
    pub tensor_cores: Option<Storage>,
    /// Floating-point operations of the products.
    pub flops: f64,
    /// The same of whole tiles.
    pub whole_flops: f64,
    /// Whether tiles have 128 rows: smaller ones load more for each operation.
    pub large: bool,
    /// Whether warpgroups compute them.
    #[serde(default, skip_serializing_if = "is_false")]
    pub warpgroups: bool,
    /// Whether several products share one tile of activations.
    pub joined: bool,
    /// Whether activations are computed on their way in.
    pub staged: bool,
    /// Bytes that what follows the products reads.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub after_bytes: f64,
    /// Instructions of what follows them.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub after_instructions: f64,
}

/// Products of few rows, each column by some warps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// Tensor cores for this storage type, or the FP32 units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensor_cores: Option<Storage>,
    /// Whether the weights of a block are one stream.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub streamed: bool,
    /// Floating-point operations of the products.
    pub flops: f64,
    /// The same of whole tiles.
    pub whole_flops: f64,
    /// Elements of rows that all blocks together bring to shared memory.
    pub staged: f64,
    /// The same times the operations before the products.
    pub computed: f64,
}

/// Products of attention on tensor cores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attention {
    /// Tensor cores for this storage type.
    pub tensor_cores: Storage,
    /// Floating-point operations of the rows that are seen.
    pub flops: f64,
    /// The same of whole tiles.
    pub whole_flops: f64,
}

/// Tiles of keys and values that the longest-walking block of attention goes through on tensor cores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// Tiles.
    pub tiles: f64,
    /// Tensor-core products of a warp for each.
    pub products: f64,
    /// Weights of a thread for each.
    pub weights: f64,
}

/// What a block does one after the other.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Serial {
    /// Nothing.
    #[default]
    Nothing,
    /// Exchanges among the threads of a block.
    Exchanges(f64),
    /// Rows that do not depend on each other.
    Rows {
        /// Of a block.
        rows: f64,
        /// Exchanges among its threads for each.
        exchanges: f64,
        /// Whether it holds earlier rows as well.
        deep: bool,
    },
    /// The steps of recurrences.
    Steps(Steps),
    /// Chunks of a recurrence.
    Chunks(Chunks),
    /// Tiles of keys of attention.
    Keys(Keys),
}

/// The steps of recurrences of one block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Steps {
    /// Steps.
    pub steps: f64,
    /// Rows of a run, for which what surrounds the recurrence is computed at once; 1 if there is none.
    pub run: f64,
    /// Whether anything surrounds it.
    pub surrounded: bool,
    /// Exchanges of what surrounds it, for each row.
    pub exchanges: f64,
    /// Sums inside a step, one after the other, that the next states wait for.
    pub sums: f64,
    /// Instructions of a row of what surrounds it.
    pub around: f64,
    /// For each recurrence: elements of its longest sum, floating-point operations of a step, and
    /// special functions.
    pub recurrences: Vec<(f64, f64, f64)>,
}

/// The chunks of a recurrence of one block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunks {
    /// Chunks.
    pub chunks: f64,
    /// Shared memory of a block, bytes.
    pub shared_bytes: f64,
    /// Elements of its state that a thread loads before the first chunk and stores after the last.
    pub state: f64,
    /// Whether the rows of a chunk arrive while the one before is worked on.
    pub ahead: bool,
    /// Of one chunk: elements that come from and go to memory.
    pub elements: f64,
    /// Operations on registers around the recurrence.
    pub around: f64,
    /// Special functions there.
    pub around_special: f64,
    /// Loads there beside that of an operation's first operand.
    pub around_loads: f64,
    /// Elements of parameters that are loaded there: the same ones for each token, but again.
    #[serde(default)]
    pub around_parameters: f64,
    /// Sums over a warp there, of all warps.
    pub around_sums: f64,
    /// Blocks of a multiprocessor that its registers suffice for.
    pub resident: f64,
    /// Whether tokens are solved for: there is a rank-one factor.
    pub solves: bool,
    /// Sub-chunks.
    pub subs: f64,
    /// Times that tokens come to the state: one or more sub-chunks at once.
    pub spans: f64,
    /// Tensor-core products of tokens with tokens, for each sub-chunk.
    pub token_products: f64,
    /// Elements computed for pairs of tokens outside the tensor cores.
    pub pairs: f64,
    /// Tensor-core products of a warp with its columns of the state, for each sub-chunk.
    pub state_products: f64,
    /// Warps that share the value columns.
    pub value_warps: f64,
    /// Products of warpgroups of a chunk, of 64 rows, 8 columns and 16 of the sum; none where they are those of warps.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub group_products: f64,
}

/// The work of a subkernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    /// Blocks.
    pub blocks: usize,
    /// Threads that suit a block.
    pub threads: usize,
    /// Operands.
    pub reads: Vec<Read>,
    /// Bytes of states, tails and results, which go through device memory.
    pub moved_bytes: f64,
    /// Bytes that later rows of attention read again.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub seen_bytes: f64,
    /// Bytes of parameters that each run of rows reads again.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub parameter_bytes: f64,
    /// Products of many rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiles: Option<Tiles>,
    /// Products of few rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Columns>,
    /// Tensor-core operations of chunked recurrences, on bf16 numbers at any storage type.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub chunk_flops: f64,
    /// Floating-point operations of attention on the FP32 units.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub attend_flops: f64,
    /// Attention on tensor cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention: Option<Attention>,
    /// All other floating-point operations.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub flops: f64,
    /// Instructions of maps and reductions.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub instructions: f64,
    /// Special functions.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub special: f64,
    /// Accesses to memory that wait for each other, before and after the bulk of the work.
    pub trips: f64,
    /// What a block does one after the other.
    #[serde(default, skip_serializing_if = "Serial::is_nothing")]
    pub serial: Serial,
}

impl Work {
    /// Whether activations of a matrix product are computed on their way in.
    pub fn is_staged(&self) -> bool {
        self.tiles.as_ref().is_some_and(|tiles| tiles.staged)
    }
}

impl Serial {
    fn is_nothing(&self) -> bool {
        *self == Serial::Nothing
    }
}

fn is_nothing(count: &f64) -> bool {
    *count == 0.0
}

fn is_false(is: &bool) -> bool {
    !is
}
