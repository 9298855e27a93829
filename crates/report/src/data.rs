//! What a page says: plain data, which the page's scripts read as JSON.
//!
//! Times are microseconds, sizes bytes, unless a name says otherwise.

use fusec_fuse::{Cost, Shape, Storage};
use fusec_runtime::cubin::Resources;
use fusec_runtime::occupancy::Occupancy;
use serde::Serialize;

/// Everything on a page.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Name of the model.
    pub model: String,
    /// Its file, as the user named it.
    pub source: String,
    /// Layers of the model.
    pub layers: u32,
    /// Version of the writer.
    pub fusec: String,
    /// What predictions are made of.
    pub device: DeviceFigures,
    /// The plan, and after it one to compare it with, if there is one.
    pub plans: Vec<PlanReport>,
    /// What changed from the plan to the one beside it, for each regime in words.
    pub changes: Vec<String>,
}

/// The rates of a GPU that bound kernels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceFigures {
    /// Full name.
    pub title: String,
    /// What its kernels are compiled for.
    pub arch: String,
    /// Multiprocessors.
    pub sms: f64,
    /// Device memory, TB/s.
    pub memory_tbs: f64,
    /// L2 cache, TB/s.
    pub l2_tbs: f64,
    /// Tensor cores, TFLOP/s.
    pub tensor_tflops: f64,
    /// FP32 units, TFLOP/s.
    pub fp32_tflops: f64,
    /// How these figures came about, such as "measured".
    pub from: String,
}

/// A plan: how one model became kernels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanReport {
    /// How its kernels were chosen, or where it lies.
    pub label: String,
    /// Storage type of activations and matrices.
    pub storage: Storage,
    /// Distinct kernels of all regimes.
    pub code: Vec<Code>,
    /// Why none of them is compiled.
    pub not_compiled: Option<String>,
    /// One for each range of run lengths.
    pub regimes: Vec<RegimeReport>,
}

/// A kernel's text and what it became.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Code {
    /// Its name; the file is `kernels/NAME.cu`.
    pub name: String,
    /// The kernel that it is compiled as: itself, or one that differs in names only.
    pub image: String,
    /// CUDA C++.
    pub source: String,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// As compiled, where it is.
    pub resources: Option<Resources>,
    /// How many blocks a multiprocessor holds, where that is known.
    pub occupancy: Option<Occupancy>,
}

/// A plan for some lengths of run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RegimeReport {
    /// `decode` or `prefill`.
    pub name: String,
    /// The shape that costs are for.
    pub shape: Shape,
    /// How good the selection is.
    pub claim: String,
    /// Global forms taken.
    pub forms: Vec<String>,
    /// What one run comes to.
    pub chosen: Sums,
    /// The same with one kernel per operation.
    pub unfused: Sums,
    /// The launches of a run, equal layers once, in order.
    pub parts: Vec<Part>,
    /// The part that stands for most of the model, by position.
    pub interior: usize,
    /// What lies in memory while it runs.
    pub memory: Memory,
}

/// What a run comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Sums {
    /// Launches.
    pub launches: usize,
    /// Bytes to and from device memory, predicted.
    pub bytes: f64,
    /// Predicted time.
    pub predicted_us: f64,
    /// Measured time, where it was.
    pub measured_us: Option<f64>,
}

/// Consecutive launches of one layer, or of none; of equal layers, the first stands for all.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// Its layers in words.
    pub title: String,
    /// Layers; empty outside of them.
    pub layers: Vec<u32>,
    /// How many times it is run in a row.
    pub times: usize,
    /// Its first launch.
    pub first_launch: usize,
    /// Its launches, in order.
    pub kernels: Vec<KernelReport>,
    /// Everything that these compute.
    pub ops: Vec<OpReport>,
    /// Values that go from one operation to another, or in or out.
    pub edges: Vec<Edge>,
}

/// A launch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KernelReport {
    /// Its name.
    pub name: String,
    /// Its text, in [`PlanReport::code`].
    pub code: usize,
    /// Its templates in words: `gemv x6 + scan`.
    pub template: String,
    /// What runs in it one after the other, and in each what runs side by side.
    pub phases: Vec<Vec<Lane>>,
    /// The terms of its predicted time.
    pub cost: Cost,
    /// The largest of them.
    pub limited_by: &'static str,
    /// Blocks and threads in words.
    pub launch: String,
    /// Blocks.
    pub blocks: u64,
    /// Local forms.
    pub forms: Vec<String>,
    /// Measured time, where it was.
    pub measured_us: Option<f64>,
    /// What fusion saves, in words; none for a kernel of one operation.
    pub saved: Option<String>,
    /// Other ways to compute the same operations in one launch, in words.
    pub others: Vec<String>,
    /// The kernels that give it values or take some, and why they are not part of it.
    pub neighbours: Vec<Neighbour>,
}

/// What runs on some blocks of a kernel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lane {
    /// Its template.
    pub template: String,
    /// Its schedule in words.
    pub schedule: String,
    /// Its operations, by position in [`Part::ops`].
    pub ops: Vec<usize>,
    /// Values that it writes to memory.
    pub stores: Vec<String>,
}

/// An operation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OpReport {
    /// Its name in the model.
    pub name: String,
    /// The last part of it.
    pub label: String,
    /// Its kernel, by position.
    pub kernel: usize,
    /// What it is in that kernel.
    pub role: Role,
    /// What it computes.
    pub equation: String,
    /// File and line of the model.
    pub place: Option<String>,
    /// Bytes of its results.
    pub bytes: f64,
    /// Whether they are written to memory.
    pub stored: bool,
}

/// What an operation is in its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The kernel is built around it.
    Anchor,
    /// On the way to an anchor.
    Prologue,
    /// After an anchor.
    Epilogue,
    /// Of rows, which have no anchor.
    Row,
}

/// A value from where it is made to where it is read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Edge {
    /// The operation that makes it; none if that is in another part.
    pub from: Option<usize>,
    /// The operation that reads it; none if that is in another part.
    pub to: Option<usize>,
    /// The value.
    pub value: String,
    /// Its bytes.
    pub bytes: f64,
    /// Rows before the current one that are read.
    pub delay: i32,
}

/// Another kernel that is next to one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Neighbour {
    /// Its position in the part; none for a kernel of another part.
    pub kernel: Option<usize>,
    /// Its name.
    pub name: String,
    /// Whether values come from it; else they go to it.
    pub before: bool,
    /// The values.
    pub values: Vec<String>,
    /// Bytes of the largest.
    pub bytes: f64,
    /// In a word: `illegal`, `dearer`, `pinned`, `legal` or `elsewhere`.
    pub verdict: &'static str,
    /// Why it is another kernel.
    pub why: String,
}

/// What lies in memory during a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Memory {
    /// Parameters and what is computed of them at load.
    pub constants: f64,
    /// States of recurrences and stencil tails.
    pub states: f64,
    /// The region that the buffers of a run share.
    pub arena: f64,
    /// Bytes in use during each launch, without constants and states.
    pub live: Vec<f64>,
    /// Buffers of the region. Of equal layers only those of the first are listed.
    pub buffers: Vec<BufferReport>,
    /// Buffers that are not listed.
    pub folded: usize,
}

/// A buffer's place and time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BufferReport {
    /// Its name.
    pub name: String,
    /// First byte in the region.
    pub offset: f64,
    /// Its size.
    pub bytes: f64,
    /// The first launch that needs it.
    pub first: usize,
    /// The last one.
    pub last: usize,
}
