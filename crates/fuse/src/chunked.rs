//! The chunked forms of a recurrence: what its parts are, and how much a block holds.
//!
//! A step `S' = diag(d) S + k v^T`, read by `q S`, can be computed some tokens at a time with
//! matrix products; so can one that adds a rank-one factor to the diagonal (see [`rank_one`]).
//! Lives here: which coefficient of a recurrence is what ([`Parts`]), and the
//! sizes that follow from a tile ([`Tile`], and [`Sizes`] for either form). Never here: which groups of
//! operations may be computed so (see [`crate::fit`]), and the text of a kernel.

pub mod rank_one;
pub mod staging;

use crate::plan::{Body, Storage};
use crate::regions::Regions;
use crate::schedule::Schedule;
use fusec_ir::class::{Class, Classified, Layout, Read};
use fusec_ir::{
    Axis, AxisId, Graph, OpId, OpKind, Recurrence, RecurrenceId, StepKind, StepRef, classify,
};
use serde::{Deserialize, Serialize};
use staging::{Room, Staged, staged};
use std::sync::OnceLock;

/// Tokens of a sub-chunk: the rows of one tensor-core tile. No factor is a product of more decays.
pub const SUB: usize = 16;
/// Value columns a block can have.
pub const VALUE_LIMIT: usize = 128;
/// Key channels a block can have.
pub const KEY_LIMIT: usize = 256;
/// Values of a token, beside its decay, that are computed once for all elements.
pub const TOKEN_VALUES: usize = 4;

/// The classes of a graph's recurrences, each found when first asked for.
#[derive(Debug, Default)]
pub struct Classes {
    recurrences: Vec<Recurrence>,
    axes: Vec<Axis>,
    found: Vec<OnceLock<Classified>>,
}

impl Classes {
    /// None found yet.
    pub fn new(graph: &Graph) -> Self {
        Classes {
            recurrences: graph.recurrences.clone(),
            axes: graph.axes.clone(),
            found: graph.recurrences.iter().map(|_| OnceLock::new()).collect(),
        }
    }

    /// Whether they are those of this graph, which may have more axes.
    pub fn hold_for(&self, graph: &Graph) -> bool {
        self.recurrences == graph.recurrences && graph.axes.starts_with(&self.axes)
    }

    /// The class of a recurrence of the graph. `None` if the graph has no such recurrence.
    pub fn of(&self, graph: &Graph, recurrence: RecurrenceId) -> Option<&Classified> {
        let step = graph.recurrences.get(recurrence.index())?;
        let slot = self.found.get(recurrence.index())?;
        Some(slot.get_or_init(|| classify(graph, step)))
    }
}

/// The parts of a scan that has a chunked form. Coefficients are over the axes of `layout`.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// The step.
    pub step: &'a Recurrence,
    /// The statements behind the coefficients.
    pub found: &'a Classified,
    /// Heads, key and value axes of the state.
    pub layout: &'a Layout,
    /// Over head and key axes.
    pub decay: StepRef,
    /// Over key axes, and perhaps head axes.
    pub k: StepRef,
    /// Over value axes, and perhaps head axes.
    pub v: StepRef,
    /// What a state is multiplied by beside its decay.
    pub factor: Option<Factor>,
    /// How the outputs read the state; one, unless there is a factor.
    pub reads: &'a [Read],
    /// Per output, what is added to its reads, over head and value axes.
    pub rest: &'a [Option<StepRef>],
}

/// `a b^T`, by which a state is multiplied beside its decay. Both are over key axes, and perhaps
/// head axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor {
    /// Contracted with the state.
    pub a: StepRef,
    /// What that contraction is multiplied by; `None` if that is `k`.
    pub b: Option<StepRef>,
    /// Whether it is the state after its decay that `a` is contracted with.
    pub of_decayed: bool,
}

/// Why a scan has no chunked form: rule, limit and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotChunked {
    /// Name of the rule.
    pub rule: &'static str,
    /// What it allows.
    pub limit: &'static str,
    /// What was found.
    pub got: String,
}

impl<'a> Parts<'a> {
    /// The parts of the scan `op`.
    pub fn of(graph: &'a Graph, classes: &'a Classes, op: OpId) -> Result<Self, NotChunked> {
        let scan = graph.op(op);
        let not = |rule, limit, got: String| NotChunked { rule, limit, got };
        let no_scan = || not("chunked-class", CLASS_LIMIT, format!("`{}`", scan.name));
        let OpKind::Scan { recurrence, .. } = &scan.kind else {
            return Err(no_scan());
        };
        let step = graph.recurrences.get(recurrence.index());
        let (Some(step), Some(found)) = (step, classes.of(graph, *recurrence)) else {
            return Err(no_scan());
        };
        let [class] = found.states.as_slice() else {
            return Err(not(
                "chunked-class",
                CLASS_LIMIT,
                format!("`{}` of {} states", step.name, found.states.len()),
            ));
        };
        let (layout, decay, k, v, reads, factor) = match class {
            Class::DiagonalOuter {
                layout,
                decay,
                k,
                v,
                reads,
            } => (layout, decay, k, v, reads, None),
            Class::DiagonalRankOne {
                layout,
                decay,
                a,
                b,
                of_decayed,
                along_key,
                k,
                v,
                reads,
            } => {
                // After its decay a state is smaller, and no decay is multiplied into `a`.
                let (with_b, of_decayed) = match of_decayed {
                    Some(pair) => (*pair, true),
                    None => ((*a, *b), false),
                };
                let (a, b) = match along_key {
                    Some(a) => (*a, None),
                    None => (with_b.0, Some(with_b.1)),
                };
                let factor = Factor { a, b, of_decayed };
                (layout, decay, k, v, reads, Some(factor))
            }
            _ => return Err(not("chunked-class", CLASS_LIMIT, class.name().to_string())),
        };
        let (limit, fits) = match factor {
            None => (
                "one result that reads the state once",
                (reads.len(), found.rest.len()) == (1, 1),
            ),
            Some(_) => (
                "1 to 8 reads of the state",
                (1..=rank_one::READ_LIMIT).contains(&reads.len()),
            ),
        };
        if !fits {
            let got = format!("{} results and {} reads", found.rest.len(), reads.len());
            return Err(not("chunked-reads", limit, got));
        }
        let parts = Parts {
            step,
            found,
            layout,
            decay: *decay,
            k: *k,
            v: *v,
            factor,
            reads,
            rest: &found.rest,
        };
        let rest = found.rest.iter().flatten().copied();
        for item in parts.operands().chain(rest) {
            if let Some(name) = parts.sum_below(item) {
                return Err(not(
                    "chunked-coefficient",
                    "a decay, key, value, factor, query and bonus that are computed element by element",
                    format!("`{name}` of `{}` is a sum", step.name),
                ));
            }
        }
        Ok(parts)
    }

    /// The coefficients that are needed before the products of a chunk.
    pub fn operands(&self) -> impl Iterator<Item = StepRef> + use<'a> {
        let factor = self.factor.into_iter();
        let factor = factor.flat_map(|f| [Some(f.a), f.b]).flatten();
        let queries = self.reads.iter().map(|read| read.query);
        let bonuses = self.reads.iter().filter_map(|read| read.bonus);
        let own = [self.decay, self.k, self.v].into_iter();
        own.chain(queries).chain(factor).chain(bonuses)
    }

    /// The first read of the state, if any: the only one where there is no factor.
    pub fn read(&self) -> Option<&'a Read> {
        self.reads.first()
    }

    /// The axes of a coefficient.
    pub fn axes_of(&self, item: StepRef) -> &'a [AxisId] {
        match item {
            StepRef::Op(i) => self.found.coefficients.get(i).map_or(&[], |op| &op.axes),
            item => self.step.axes_of(item),
        }
    }

    /// Whether every key channel has a decay of its own.
    pub fn decays_per_key(&self, graph: &Graph) -> bool {
        let axes = self.axes_of(self.decay);
        let key = &self.layout.key;
        axes.iter().any(|a| key.contains(a) && graph.size(*a) > 1)
    }

    /// The statement below a coefficient that combines elements, if there is one.
    fn sum_below(&self, item: StepRef) -> Option<&'a str> {
        let StepRef::Op(i) = item else { return None };
        let op = self.found.coefficients.get(i)?;
        if op.kind != StepKind::Map {
            return Some(&op.name);
        }
        // Coefficients read earlier ones only.
        op.inputs
            .iter()
            .filter(|access| access.item < item)
            .find_map(|access| self.sum_below(access.item))
    }
}

const CLASS_LIMIT: &str =
    "one state with a diagonal decay, perhaps a rank-one factor, and an outer product";

/// What one block holds, of either form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sizes {
    /// A diagonal decay and an outer product.
    Outer(Tile),
    /// A rank-one factor beside the decay.
    RankOne(rank_one::Tile),
}

impl Sizes {
    /// Those of a block with so many value columns and the least chunk.
    pub fn least(
        graph: &Graph,
        scan: OpId,
        parts: &Parts<'_>,
        storage: Storage,
        value: usize,
        room: Room,
    ) -> Sizes {
        let key = graph.elements(&parts.layout.key);
        match parts.factor {
            None => Sizes::Outer(Tile {
                key,
                value,
                chunk: SUB,
                per_key: parts.decays_per_key(graph),
                bonus: parts.reads.iter().any(|read| read.bonus.is_some()),
                room,
            }),
            Some(factor) => Sizes::RankOne(rank_one::Tile {
                key,
                value,
                chunk: SUB,
                decays: rank_one::Decays::of(graph, scan, parts),
                reads: parts.reads.len(),
                outputs: parts.rest.len(),
                along_key: factor.b.is_none(),
                bonus: parts.reads.iter().any(|read| read.bonus.is_some()),
                pieces: pieces(storage),
                resident: 1,
                room,
            }),
        }
    }

    /// Elements of the state of a block.
    pub fn state_elements(&self) -> usize {
        match self {
            Sizes::Outer(tile) => tile.key * tile.value,
            Sizes::RankOne(tile) => tile.key * tile.value,
        }
    }

    fn with_chunk(self, chunk: usize) -> Sizes {
        match self {
            Sizes::Outer(tile) => Sizes::Outer(Tile { chunk, ..tile }),
            Sizes::RankOne(tile) => Sizes::RankOne(rank_one::Tile { chunk, ..tile }),
        }
    }

    /// The same where `share` blocks come to a multiprocessor with `bytes` of shared memory.
    pub fn shared_by(self, share: usize, bytes: usize) -> Sizes {
        match self {
            Sizes::Outer(tile) => Sizes::Outer(tile),
            Sizes::RankOne(tile) => Sizes::RankOne(tile.shared_by(share, bytes)),
        }
    }

    /// Blocks of a multiprocessor that its registers must suffice for.
    pub fn resident(&self) -> usize {
        match self {
            Sizes::Outer(_) => 1,
            Sizes::RankOne(tile) => tile.resident,
        }
    }

    /// The largest chunk of which two blocks share a multiprocessor with `bytes` of shared memory,
    /// but not fewer than 32 tokens if one block can have those, and no more than twice the run.
    /// `None` if not even 16 tokens fit.
    ///
    /// `share` blocks come to a multiprocessor: with a rank-one factor, and one block at most, the
    /// largest chunk that it can have.
    pub fn fitting(self, bytes: usize, time: usize, share: usize) -> Option<Sizes> {
        let of = |chunk| self.with_chunk(chunk);
        let long = |sizes: &Sizes| sizes.chunk() > SUB && sizes.chunk() >= 2 * time;
        let all = || [64, 32, 16].map(of).into_iter().filter(|s| !long(s));
        let fits = |sizes: &Sizes, blocks: usize| sizes.shared_bytes() * blocks <= bytes;
        let alone = share <= 1 && matches!(self, Sizes::RankOne(_));
        let blocks = if alone { 1 } else { 2 };
        all()
            .find(|s| fits(s, blocks) && s.chunk() >= 32)
            .or_else(|| all().find(|s| fits(s, 1) && s.chunk() <= 32))
    }

    /// Tokens of a chunk.
    pub fn chunk(&self) -> usize {
        match self {
            Sizes::Outer(tile) => tile.chunk,
            Sizes::RankOne(tile) => tile.chunk,
        }
    }

    /// Key channels, all of them.
    pub fn key(&self) -> usize {
        match self {
            Sizes::Outer(tile) => tile.key,
            Sizes::RankOne(tile) => tile.key,
        }
    }

    /// Value columns of a block.
    pub fn value(&self) -> usize {
        match self {
            Sizes::Outer(tile) => tile.value,
            Sizes::RankOne(tile) => tile.value,
        }
    }

    /// Warps of a block.
    pub fn warps(&self) -> usize {
        match self {
            Sizes::Outer(tile) => tile.warps(),
            Sizes::RankOne(tile) => tile.warps(),
        }
    }

    /// Shared memory of a block, bytes.
    pub fn shared_bytes(&self) -> usize {
        match self {
            Sizes::Outer(tile) => tile.shared_bytes(),
            Sizes::RankOne(tile) => tile.shared_bytes(),
        }
    }

    /// Tensor-core work of one chunk, floating-point operations, with operands of so many numbers.
    pub fn tensor_flops(&self, pieces: usize) -> f64 {
        match self {
            Sizes::Outer(tile) => tile.tensor_flops(pieces),
            Sizes::RankOne(tile) => tile.tensor_flops(),
        }
    }

    /// Other work of one chunk, floating-point operations.
    pub fn simt_flops(&self, pieces: usize) -> f64 {
        match self {
            Sizes::Outer(tile) => tile.simt_flops(pieces),
            Sizes::RankOne(tile) => tile.simt_flops(),
        }
    }

    /// Elements of one chunk that come from and go to memory.
    pub fn elements(&self) -> f64 {
        match self {
            Sizes::Outer(tile) => tile.elements(),
            Sizes::RankOne(tile) => tile.elements(),
        }
    }
}

/// What one block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tile {
    /// Key channels, all of them.
    pub key: usize,
    /// Value columns of the block.
    pub value: usize,
    /// Tokens of a chunk.
    pub chunk: usize,
    /// Whether every key channel has a decay of its own.
    pub per_key: bool,
    /// Whether the current token has a bonus.
    pub bonus: bool,
    /// Room for rows that arrive ahead of time.
    pub room: Room,
}

/// Places of a block's data in shared memory, f32 elements, each a multiple of 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[allow(missing_docs, reason = "the template says what each is")]
pub struct Places {
    pub k_rows: usize,
    pub v_rows: usize,
    pub state: usize,
    pub decays: usize,
    pub totals: usize,
    pub local: usize,
    pub q_weights: usize,
    pub k_weights: usize,
    pub bonuses: usize,
    pub tokens: usize,
    pub staged: usize,
    /// All of it.
    pub end: usize,
}

impl Tile {
    /// Warps that share 16 tokens: eight in all, if each has value columns of its own.
    pub fn parts(&self) -> usize {
        let mut parts = (8 * SUB / self.chunk.max(1)).clamp(1, 4);
        while parts > 1 && 8 * parts > self.value {
            parts /= 2;
        }
        parts
    }

    /// Warps of a block.
    pub fn warps(&self) -> usize {
        self.chunk / SUB * self.parts()
    }

    /// Key channels, up to whole tensor-core tiles.
    pub fn key_padded(&self) -> usize {
        self.key.next_multiple_of(16)
    }

    /// Value columns, up to whole tensor-core tiles of every warp.
    pub fn value_padded(&self, parts: usize) -> usize {
        self.value.next_multiple_of(8 * parts.max(1))
    }

    /// Where everything lies, for a number of warps that share 16 tokens.
    pub fn places(&self, parts: usize) -> Places {
        let (k, v, subs) = (
            self.key_padded(),
            self.value_padded(parts),
            self.chunk.div_ceil(SUB),
        );
        let mut regions = Regions::default();
        let mut take = |floats: usize| regions.take(floats);
        // The rows of q make room for those of y.
        take(self.chunk * (k.max(v) + 8));
        let weights = if self.per_key { 0 } else { self.chunk };
        let mut places = Places {
            k_rows: take(self.chunk * (k + 8)),
            v_rows: take(self.chunk * (v + 4)),
            state: take(k * (v + 4)),
            decays: take(self.chunk * if self.per_key { k + 8 } else { 1 }),
            totals: take(subs * if self.per_key { k } else { 1 }),
            local: take(self.chunk * (SUB + 8)),
            q_weights: take(weights),
            k_weights: take(weights),
            bonuses: take(if self.bonus { self.chunk } else { 0 }),
            tokens: take(TOKEN_VALUES * self.chunk),
            staged: take(self.room.floats(self.chunk)),
            end: 0,
        };
        places.end = regions.end();
        places
    }

    /// Shared memory of a block, bytes.
    pub fn shared_bytes(&self) -> usize {
        4 * self.places(self.parts()).end
    }

    /// Tensor-core work of one chunk, floating-point operations.
    pub fn tensor_flops(&self, pieces: usize) -> f64 {
        let subs = (self.chunk / SUB) as f64;
        let (chunk, k, v) = (
            self.chunk as f64,
            self.key_padded() as f64,
            self.value_padded(self.parts()) as f64,
        );
        // Sub-chunks on and below the diagonal; every warp of 16 tokens computes their scores.
        let pairs = subs * (subs + 1.0) / 2.0 * (SUB * SUB) as f64;
        let scores = pairs * k * self.parts() as f64;
        let products = scores + pairs * v + 2.0 * chunk * k * v;
        2.0 * products * (pieces * (pieces + 1) / 2) as f64
    }

    /// Tensor-core work of one chunk for the state alone, floating-point operations.
    pub fn state_tensor_flops(&self, pieces: usize) -> f64 {
        let (k, v) = (self.key_padded(), self.value_padded(self.parts()));
        2.0 * (self.chunk * k * v * (pieces * (pieces + 1) / 2)) as f64
    }

    /// Other work of one chunk for the state alone: decays, and operands in pieces.
    pub fn state_simt_flops(&self, pieces: usize) -> f64 {
        let (chunk, k, v) = (
            self.chunk as f64,
            self.key_padded() as f64,
            self.value_padded(self.parts()) as f64,
        );
        let decays = match self.per_key {
            true => 3.0 * chunk * k,
            false => chunk * 2.0 * SUB as f64,
        };
        decays + 3.0 * pieces as f64 * chunk * (k + v) + 2.0 * k * v
    }

    /// Elements of one chunk that come from memory for the state alone: keys, decays, values.
    pub fn state_elements_of_chunk(&self) -> f64 {
        let per_key = if self.per_key { 2 } else { 1 };
        (self.chunk * (per_key * self.key + self.value)) as f64
    }

    /// Elements of one chunk that come from and go to memory: queries, keys, decays, values, results.
    pub fn elements(&self) -> f64 {
        let per_key = if self.per_key { 3 } else { 2 };
        (self.chunk * (per_key * self.key + 2 * self.value)) as f64
    }

    /// Other work of one chunk: decays, and scores inside sub-chunks where a decay per key keeps
    /// them from the tensor cores.
    pub fn simt_flops(&self, pieces: usize) -> f64 {
        let (chunk, k, v) = (
            self.chunk as f64,
            self.key_padded() as f64,
            self.value_padded(self.parts()) as f64,
        );
        let inside = if self.per_key {
            chunk * k * (1.5 * SUB as f64 + 6.0)
        } else {
            chunk * 2.0 * SUB as f64
        };
        let split = 3.0 * pieces as f64 * (chunk * (k + 2.0 * v) + k * v);
        inside + split + 2.0 * k * v
    }
}

/// The rows that arrive ahead of time in a body of the chunked template, if any.
pub fn slabs(graph: &Graph, parts: &Parts<'_>, storage: Storage, body: &Body) -> Vec<Staged> {
    match (&body.schedule, body.anchors()) {
        (Schedule::Chunked(chunk), [scan]) if chunk.ahead => {
            staged(graph, parts, *scan, &body.ops, &chunk.grid, storage)
        }
        _ => vec![],
    }
}

/// bf16 numbers that an operand is split into: what the storage type keeps of it, and all of an f32.
pub fn pieces(storage: Storage) -> usize {
    match storage {
        Storage::Bf16 => 1,
        Storage::F16 => 2,
        Storage::F32 => 3,
    }
}
