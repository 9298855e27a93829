//! What an executor asks of the thing that runs kernels, be it a GPU or the emulator.

use super::ExecuteError;
use fusec_codegen::Element;
use fusec_fuse::Shape;

/// The regions of a model's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Region {
    /// Parameters and load-time results.
    Constants,
    /// Scan states and tails, for one batch size.
    States,
    /// Inputs, outputs and scratch.
    Arena,
    /// What the drawing of tokens keeps; empty where none are drawn.
    Drawing,
}

/// How many there are.
pub const REGIONS: usize = 4;

impl Region {
    /// All of them.
    pub const ALL: [Region; REGIONS] = [
        Region::Constants,
        Region::States,
        Region::Arena,
        Region::Drawing,
    ];

    /// What messages call it.
    pub fn name(self) -> &'static str {
        match self {
            Region::Constants => "weights",
            Region::States => "states",
            Region::Arena => "arena",
            Region::Drawing => "drawing",
        }
    }
}

/// A byte range of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where.
    pub region: Region,
    /// First byte.
    pub offset: usize,
    /// How many.
    pub bytes: usize,
}

/// An argument of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgValue {
    /// An address in the device's memory.
    Address(u64),
    /// An integer.
    Integer(i64),
    /// A tensor map.
    TensorMap(TensorMapValue),
    /// Tokens seen before this run: the only argument that differs between runs of one key.
    Position,
}

/// A tensor in the device's memory and the box of it that one copy moves, axes innermost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMapValue {
    /// Address of the first element.
    pub address: u64,
    /// Element type.
    pub element: Element,
    /// Number of axes, 1 to 5.
    pub axes: usize,
    /// Length of each axis, elements.
    pub extents: [u64; MAP_AXES],
    /// Bytes from one place on each axis to the next.
    pub strides: [u64; MAP_AXES],
    /// How much of each axis a copy moves.
    pub spans: [u32; MAP_AXES],
}

/// Axes of a tensor map, at most.
pub const MAP_AXES: usize = 5;

/// A launch with everything resolved but the position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Index of the step in its regime.
    pub step: usize,
    /// Index into the manifest's kernels.
    pub kernel: usize,
    /// Its name, for messages.
    pub name: String,
    /// The values of the model that it computes, with their layers, for messages.
    pub computes: String,
    /// Blocks; the grid is one-dimensional.
    pub grid: u32,
    /// Threads of a block.
    pub block: u32,
    /// Dynamic shared memory of a block, bytes.
    pub shared_bytes: u32,
    /// Whether all blocks must be resident at once. A device that holds fewer than `grid` starts as
    /// many as it holds.
    pub cooperative: bool,
    /// Whether any number of blocks does the work: a device that holds fewer than `grid` at once starts
    /// as many as it holds.
    pub persistent: bool,
    /// Whether it may start while the launch before it still runs.
    pub early: bool,
    /// Its arguments, one per parameter.
    pub args: Vec<ArgValue>,
    /// The buffers behind its arguments: all memory that it may touch.
    pub given: Vec<Place>,
    /// Arena buffers and new copies of tails whose contents begin with this step: whatever lies
    /// there before is not to be read.
    pub fresh: Vec<Place>,
}

/// Runs with equal keys differ in nothing but the position and the contents of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunKey {
    /// Index of the regime.
    pub regime: usize,
    /// B and T.
    pub shape: Shape,
    /// Which copy of each tail is the old one: 0 or 1.
    pub parity: usize,
    /// Whether the next tokens are drawn at its end.
    pub draws: bool,
}

/// How the launches of a run were submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Submission {
    /// One after the other, waiting for each: a fault can be pinned on its kernel.
    Stepwise,
    /// One after the other, without waiting in between.
    Stream,
    /// As one recorded graph.
    Graph,
}

/// Memory for three regions, and kernels to launch on it.
pub trait Device {
    /// What reports call it.
    fn name(&self) -> String;

    /// Bytes that can still be allocated, if there is a limit worth knowing.
    fn free_bytes(&self) -> Result<Option<usize>, ExecuteError>;

    /// Gives a region this size and returns its address, a multiple of
    /// [`crate::memory::ALIGNMENT`]. What it held before is lost, and recorded runs with it.
    fn allocate(&mut self, region: Region, bytes: usize) -> Result<u64, ExecuteError>;

    /// Copies to the device.
    fn write(&mut self, place: Place, bytes: &[u8]) -> Result<(), ExecuteError>;

    /// Copies from the device, after everything submitted before is done.
    fn read(&mut self, place: Place) -> Result<Vec<u8>, ExecuteError>;

    /// Performs one launch and waits for its end.
    fn step(&mut self, launch: &Launch, position: i64) -> Result<(), ExecuteError>;

    /// Performs the launches of a run in order and waits for their end.
    fn run(
        &mut self,
        key: RunKey,
        launches: &[Launch],
        position: i64,
    ) -> Result<Submission, ExecuteError>;

    /// As [`Device::run`], but need not wait: what comes after it, [`Device::finish`] too, does.
    fn submit(
        &mut self,
        key: RunKey,
        launches: &[Launch],
        position: i64,
    ) -> Result<Submission, ExecuteError> {
        self.run(key, launches, position)
    }

    /// Waits for the end of what was submitted, of which these launches were the last.
    fn finish(&mut self, launches: &[Launch]) -> Result<(), ExecuteError> {
        let _ = launches;
        Ok(())
    }
}
