//! The manifest: what to launch, with which memory, in which order.
//!
//! Plain data, versioned, serialisable. It holds everything an executor needs
//! beside the weights and the compiled kernels, and nothing about a driver: the
//! same manifest drives the emulator and a GPU.

pub use fusec_fuse::Element;
use fusec_fuse::{Shape, Storage};
use fusec_ir::{Graph, ParamId, StateId, ValueId};
use serde::{Deserialize, Serialize};

/// Version of the serialised form; raised whenever a field changes meaning.
pub const MANIFEST_VERSION: u32 = 2;

/// What every entry begins with: no function of a library does, nor anything in the prelude or in
/// the emulator, whatever a model calls its values.
pub const ENTRY: &str = "fusec_";

/// What people call the kernel with this entry: the name in the manifest, and of the file.
pub fn readable(entry: &str) -> &str {
    entry.strip_prefix(ENTRY).unwrap_or(entry)
}

/// A compiled model: one or more regimes that share parameters and states.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`] of the writer.
    pub version: u32,
    /// Name of the model.
    pub model: String,
    /// Storage type of activations and matrices.
    pub storage: Storage,
    /// The primitives that the kernels use: the text of `kernels/fusec.cuh`, which each of them
    /// includes. Left out of `manifest.json`.
    #[serde(skip)]
    pub prelude: String,
    /// SHA-256 of that text, hexadecimal.
    pub prelude_sha256: String,
    /// Distinct kernels of all regimes.
    pub kernels: Vec<KernelImage>,
    /// The plans, each for a range of run lengths: one for every `time` from 1 on, as far as they go.
    pub regimes: Vec<Regime>,
}

/// A plan made executable, for runs of some lengths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Regime {
    /// `decode` or `prefill`.
    pub name: String,
    /// Smallest T it is for.
    pub min_time: usize,
    /// Largest T it is for, if there is one.
    pub max_time: Option<usize>,
    /// The shape its costs were computed for.
    pub shape: Shape,
    /// The form of the model that it computes. Parameters and states have the same ids in
    /// all regimes; other values may differ.
    pub graph: Graph,
    /// Memory.
    pub buffers: Vec<Buffer>,
    /// Launches, in order.
    pub steps: Vec<Step>,
}

/// One kernel: a source file with one entry point, which includes the prelude and nothing else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelImage {
    /// Readable name; the file is `kernels/NAME.cu`.
    pub name: String,
    /// The kernel whose source is compiled for this one: itself, or an earlier one from which it
    /// differs in names and comments only.
    pub image: String,
    /// The `extern "C"` symbol in what that source is compiled to.
    pub entry: String,
    /// SHA-256 of the source text, hexadecimal.
    pub source_sha256: String,
    /// The source text. Left out of `manifest.json`; kept in `kernels/NAME.cu`.
    #[serde(skip)]
    pub source: String,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block, bytes.
    pub shared_bytes: u32,
    /// Smallest compute capability that runs it, times ten (75, 80, 90).
    pub min_arch: u32,
    /// Its parameters, in order.
    pub params: Vec<KernelParam>,
}

/// A declared parameter of a kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelParam {
    /// Name in the source.
    pub name: String,
    /// Pointer, integer or tensor map.
    pub kind: ParamKind,
}

/// The kinds of kernel parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParamKind {
    /// A device pointer.
    Pointer,
    /// A 64-bit integer.
    I64,
    /// A tensor map, by value.
    TensorMap,
}

/// A piece of memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Buffer {
    /// Readable name with layer number.
    pub name: String,
    /// What it holds, which says how long it lives.
    pub kind: BufferKind,
    /// Element type.
    pub element: Element,
    /// Elements of one row, of one batch row (states), or of the whole (parameters).
    pub elements: usize,
    /// How the number of elements grows with the run.
    pub extent: Extent,
}

/// What a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BufferKind {
    /// Written by the caller before the run.
    Input(ValueId),
    /// A parameter, uploaded once.
    Param(ParamId),
    /// The result of a load-time operation, uploaded once.
    LoadTime(ValueId),
    /// A recurrence state, updated in place.
    State(StateId),
    /// A stencil tail: two copies, one read and one written, exchanged after each run.
    Tail(StateId),
    /// Lives from the step that writes it to the last step that reads it.
    Scratch(ValueId),
    /// What blocks that have a part of the rows each leave of a value, for another phase of the same
    /// step to add: `[parts, axes...]`, f32.
    Parts(ValueId),
    /// What segments of T hand to those after them, for another phase of the same step: copies of a state, or
    /// the products of what their rows multiply it by, f32.
    Segments(StateId),
    /// What one phase of a step makes of the chunks of a recurrence with this state, for those after it: queries, keys and their
    /// products weighted by decays, and decays of chunks.
    Chunks(StateId),
    /// Read by the caller after the run.
    Output(ValueId),
}

/// How many times `elements` a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extent {
    /// Once.
    Fixed,
    /// B times.
    Batch,
    /// B times: one row for each sequence, whatever T is.
    Sequences,
    /// B * T times.
    Rows,
    /// B * ceil(T / .0) times.
    Runs(u32),
}

/// A launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Index into [`Manifest::kernels`].
    pub kernel: usize,
    /// Index into the plan's kernels, for messages.
    pub plan_kernel: usize,
    /// Blocks of each lane; the grid is one-dimensional, lanes one after the other, those of later
    /// phases last.
    pub lanes: Vec<LaneGrid>,
    /// Arguments, one per kernel parameter.
    pub args: Vec<Arg>,
    /// Indices into `buffers` that the step reads (tails: the old copy).
    pub reads: Vec<usize>,
    /// Indices into `buffers` that the step writes (tails: the new copy).
    pub writes: Vec<usize>,
    /// Whether all blocks must be resident at once (grid barriers). Such a kernel takes any grid: where
    /// a device holds fewer blocks than its lanes have, that many do the work of all.
    pub cooperative: bool,
    /// Whether any number of blocks does the work: a device starts as many as it holds at once, where
    /// the lanes have more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub persistent: bool,
    /// Whether it may start while the step before it still runs: it waits for that one's results itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub early: bool,
    /// Whether it is run as if T were 1: what it reads and writes has one row for each sequence.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub one_row: bool,
    /// Tensors that it copies boxes of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tensor_maps: Vec<TensorMap>,
}

/// A tensor in a buffer, of which a kernel copies boxes to shared memory: lines of 128 bytes, swizzled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorMap {
    /// Index into the regime's buffers.
    pub buffer: usize,
    /// Its first element.
    pub offset: usize,
    /// Its axes, innermost first: 1 to 5.
    pub axes: Vec<MapAxis>,
}

/// An axis of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapAxis {
    /// Its length. What of a box lies outside reads as zero.
    pub extent: MapExtent,
    /// Elements from one place on it to the next; 1 for the innermost.
    pub stride: usize,
    /// How much of it a copy moves.
    pub span: usize,
}

/// How far an axis of a tensor goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MapExtent {
    /// This many places.
    Fixed(usize),
    /// `B * T`.
    Rows,
}

/// How many blocks a lane has: `blocks * (B or B*T in units) `.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneGrid {
    /// Constant factor.
    pub blocks: u64,
    /// What multiplies it.
    pub rows: RowUnits,
}

/// The part of a lane's block count that depends on the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowUnits {
    /// `B`.
    Batch,
    /// `B * ceil(T / .0)`.
    Runs(u32),
    /// `ceil(B * T / .0)`.
    Tiles(u32),
    /// 1: the blocks of what has no rows.
    Once,
}

/// A kernel argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arg {
    /// Address of a buffer (parameters, inputs, scratch, outputs, scan states).
    Buffer(usize),
    /// Address of the copy of a tail that holds the rows before this run.
    OldTail(usize),
    /// Address of the copy of a tail that this run fills.
    NewTail(usize),
    /// One of the step's tensor maps.
    TensorMap(usize),
    /// B.
    Batch,
    /// T.
    Time,
    /// Absolute position of the first token of this run.
    Position,
}

impl Buffer {
    /// Bytes at a given shape; for a tail, of one copy. `None` on overflow.
    pub fn bytes(&self, shape: Shape) -> Option<usize> {
        let times = match self.extent {
            Extent::Fixed => 1,
            Extent::Batch | Extent::Sequences => shape.batch,
            Extent::Rows => shape.batch.checked_mul(shape.time)?,
            Extent::Runs(rows) => {
                let runs = shape.time.div_ceil(rows.max(1) as usize);
                shape.batch.checked_mul(runs)?
            }
        };
        self.elements
            .checked_mul(times)?
            .checked_mul(self.element.bytes())
    }
}

impl Step {
    /// The shape that it is run at in a run at a shape.
    pub fn shape(&self, run: Shape) -> Shape {
        match self.one_row {
            true => Shape { time: 1, ..run },
            false => run,
        }
    }
}

impl LaneGrid {
    /// Number of blocks at a given shape. `None` on overflow.
    pub fn count(&self, shape: Shape) -> Option<u64> {
        let (b, t) = (shape.batch as u64, shape.time as u64);
        let units = match self.rows {
            RowUnits::Batch => b,
            RowUnits::Runs(r) => b.checked_mul(t.div_ceil(u64::from(r.max(1))))?,
            RowUnits::Tiles(r) => b.checked_mul(t)?.div_ceil(u64::from(r.max(1))),
            RowUnits::Once => 1,
        };
        self.blocks.checked_mul(units)
    }
}

impl Manifest {
    /// The kernels that are compiled: those that are not compiled as another one.
    pub fn images(&self) -> impl Iterator<Item = &KernelImage> {
        self.kernels.iter().filter(|k| k.image == k.name)
    }

    /// The regime for runs of `time` tokens.
    pub fn regime(&self, time: usize) -> Option<usize> {
        self.regimes
            .iter()
            .position(|r| r.min_time <= time && r.max_time.is_none_or(|max| time <= max))
    }
}
