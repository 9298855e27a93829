//! Rows that a block of a chunked recurrence brings to shared memory ahead of time.
//!
//! The elements of a row that a block reads of one operand often lie side by side. Such a slab can
//! be copied for a whole chunk while the chunk before is worked on, with the rows before the
//! first token that a stencil needs. Lives here: which operands, which elements, how much room.
//! Never here: the text that copies and reads them.

use super::linear::scaled_rows;
use super::warpgroup::{Products, VALUES};
use super::{Parts, SUB};
use crate::plan::{GridAxis, Storage};
use fusec_ir::{
    Access, AxisId, Graph, IndexExpr, OpId, OpKind, Precision, StateId, StepRef, ValueId,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How many times the elements that are read a slab may hold.
const SPARSE: usize = 2;
/// Bytes of the two kinds of copies.
const WIDE: usize = 16;
const NARROW: usize = 4;
/// Elements behind a row of an operand.
pub const OPERAND_PAD: usize = 8;

/// A slab: neighbouring elements of each row of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staged {
    /// The value, which lies in memory.
    pub value: ValueId,
    /// Constant part of the slab's first element in a row.
    pub base: i64,
    /// Coefficients of a block's first index along grid axes.
    pub block: BTreeMap<AxisId, i64>,
    /// Elements that are read.
    pub elements: usize,
    /// Rows before the first token of a chunk.
    pub halo: u32,
    /// Where rows before the first token of a run are, if they are read.
    pub tail: Option<StateId>,
    /// Whether it is read before the products of a chunk.
    pub early: bool,
    /// Whether it is read after them.
    pub late: bool,
    /// Bytes of one copy: 16 or 4.
    pub piece: usize,
    /// Elements of a row in shared memory: whole pieces, with room for those before the first one
    /// where it is not aligned.
    pub pitch: usize,
    /// Whether the slab starts at whole pieces in every block.
    pub aligned: bool,
    /// Bytes of an element.
    pub element_bytes: usize,
    /// The operand of the products whose rows it is as they are, and arrives at the place of.
    pub operand: Option<Operand>,
    /// Whether what is read before the products arrives while the chunk before is still read.
    pub overlaps: bool,
}

/// An operand of the products of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// The query of the only read.
    Query,
    /// What values are multiplied by.
    Key,
    /// What values are a multiple of, the same for all columns of a token (see [`super::linear`]).
    Value,
}

impl Staged {
    /// Copies of it in shared memory: what is read before and after the products of a chunk is
    /// there while the next one arrives, and what is read at all where some warps copy while others read.
    pub fn turns(&self) -> usize {
        1 + usize::from(self.early && (self.late || self.overlaps))
    }

    /// Elements from a row to the next one in shared memory. Those of an operand have room so that 8 of
    /// them lie in different banks.
    pub fn row_stride(&self) -> usize {
        match self.operand {
            Some(_) => self.pitch + OPERAND_PAD,
            None => self.pitch,
        }
    }

    /// f32 elements of shared memory for chunks of so many tokens, all turns; none where rows arrive at
    /// the place of an operand.
    pub fn floats(&self, chunk: usize) -> usize {
        if self.operand.is_some() {
            return 0;
        }
        let rows = chunk + self.halo as usize;
        let bytes = rows * self.pitch * self.element_bytes;
        self.turns() * bytes.next_multiple_of(WIDE) / 4
    }
}

/// The slabs of a chunked body made of `ops`; none where a token has other than 1, 2 or 4 updates: a chunk is
/// made of whole tokens then, as many rows of each slab as are whole copies.
pub fn staged(
    graph: &Graph,
    parts: &Parts<'_>,
    scan: OpId,
    ops: &[OpId],
    grid: &[GridAxis],
    (storage, products): (Storage, Products),
) -> Vec<Staged> {
    if !(SUB / 4).is_multiple_of(parts.updates.len()) {
        return vec![];
    }
    let mut reads = Reads {
        graph,
        parts,
        scan,
        ops,
        after: after(graph, ops, scan),
        grid,
        storage,
        late: false,
        found: Vec::new(),
    };
    for item in parts.operands() {
        reads.coefficient(item);
    }
    reads.late = true;
    for rest in parts.rest.iter().flatten() {
        reads.coefficient(*rest);
    }
    for id in reads.after.clone() {
        for access in &graph.op(id).inputs {
            reads.read(access, 0);
        }
    }
    let mut slabs: Vec<Staged> = reads.found.into_iter().flatten().collect();
    for slab in &mut slabs {
        slab.overlaps = products == Products::Warpgroup;
    }
    for (operand, item) in [
        (Operand::Key, parts.only_update().map(|update| update.k)),
        (Operand::Query, only_query(parts)),
    ] {
        let access = item.and_then(|item| plain_rows(graph, parts, scan, item, storage));
        let Some(access) = access else { continue };
        let mut of_value = slabs.iter_mut().filter(|slab| slab.value == access.value);
        if let (Some(slab), None) = (of_value.next(), of_value.next()) {
            let key = graph.elements(&parts.layout.key);
            let as_it_is = slab.halo == 0 && !slab.late && slab.aligned && slab.piece == WIDE;
            // As many elements as keys: nothing else varies in a block.
            if as_it_is && slab.elements == key && slab.operand.is_none() {
                slab.operand = Some(operand);
            }
        }
    }
    let value = match products {
        Products::Warp => None,
        Products::Warpgroup => scaled_rows(graph, parts, scan, ops, storage),
    };
    if let Some(access) = value {
        let mut of_value = slabs.iter_mut().filter(|slab| slab.value == access.value);
        if let (Some(slab), None) = (of_value.next(), of_value.next()) {
            let as_it_is = slab.halo == 0 && slab.aligned && slab.piece == WIDE;
            if as_it_is && slab.elements == VALUES && slab.operand.is_none() {
                slab.operand = Some(Operand::Value);
            }
        }
    }
    slabs
}

/// The query, where a step reads its state once, so that all of a chunk comes to the state at once
/// (see [`super::tile::Tile::together`]).
fn only_query(parts: &Parts<'_>) -> Option<StepRef> {
    match (parts.reads, parts.only_update()) {
        ([read], Some(_)) => Some(read.query),
        _ => None,
    }
}

/// What a coefficient reads, if it is nothing but rows of bf16 key channels in their order, whole
/// tensor-core tiles of them, that products take as they are.
fn plain_rows<'g>(
    graph: &'g Graph,
    parts: &Parts<'_>,
    scan: OpId,
    item: StepRef,
    storage: Storage,
) -> Option<&'g Access> {
    let StepRef::Input(i) = item else { return None };
    let access = graph.op(scan).inputs.get(i)?;
    let key = graph.elements(&parts.layout.key);
    let weighted = parts.factor.is_some() || parts.decays_per_key(graph) || parts.reads.len() > 1;
    if weighted || access.delay != 0 || !key.is_multiple_of(SUB) {
        return None;
    }
    operand_rows(graph, access, &parts.layout.key, storage).then_some(access)
}

/// Whether an access reads bf16 numbers that products can take as they are, and one of `axes`, the only one
/// with several elements, leads from one to the next in a row.
pub(super) fn operand_rows(
    graph: &Graph,
    access: &Access,
    axes: &[AxisId],
    storage: Storage,
) -> bool {
    let value = graph.value(access.value);
    let mut sized = axes.iter().filter(|a| graph.size(**a) > 1);
    let (Some(only), None) = (sized.next(), sized.next()) else {
        return false;
    };
    let mut read = value.axes.iter().zip(&access.index).rev();
    let last = read.find(|(axis, _)| graph.size(**axis) > 1);
    let plain = value.precision == Precision::Storage && storage == Storage::Bf16;
    plain && last.is_some_and(|(_, index)| index.as_axis() == Some(*only))
}

/// The operations of a body that depend on its recurrence.
pub fn after(graph: &Graph, ops: &[OpId], scan: OpId) -> BTreeSet<OpId> {
    let mut reached = BTreeSet::from([scan]);
    for id in ops {
        let mut inputs = graph.op(*id).inputs.iter();
        let depends = |a: &Access| {
            graph
                .producer(a.value)
                .is_some_and(|p| reached.contains(&p))
        };
        if inputs.any(depends) {
            reached.insert(*id);
        }
    }
    reached.remove(&scan);
    reached
}

/// Shared memory that slabs take, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// For each token of a chunk.
    pub token: usize,
    /// For rows before the first one.
    pub halo: usize,
}

impl Room {
    /// That of some slabs.
    pub fn of(slabs: &[Staged]) -> Room {
        let mut room = Room::default();
        for slab in slabs {
            if slab.operand.is_some() {
                continue;
            }
            let row = slab.pitch * slab.element_bytes;
            room.token += slab.turns() * row;
            room.halo += slab.turns() * (slab.halo as usize * row).next_multiple_of(WIDE);
        }
        room
    }

    /// f32 elements for chunks of so many tokens, a multiple of 16.
    pub fn floats(self, chunk: usize) -> usize {
        (self.token * chunk + self.halo) / 4
    }
}

struct Reads<'a> {
    graph: &'a Graph,
    parts: &'a Parts<'a>,
    scan: OpId,
    ops: &'a [OpId],
    after: BTreeSet<OpId>,
    grid: &'a [GridAxis],
    storage: Storage,
    late: bool,
    /// `None` in the place of a slab that an access makes too sparse.
    found: Vec<Option<Staged>>,
}

impl Reads<'_> {
    fn coefficient(&mut self, item: StepRef) {
        let own = self.parts.axes_of(item).iter();
        let by: Vec<IndexExpr> = own.map(|a| IndexExpr::axis(*a)).collect();
        self.item(item, &by);
    }

    /// An item of the step, its axes read at `by`.
    fn item(&mut self, item: StepRef, by: &[IndexExpr]) {
        let place = at(self.parts.axes_of(item), by);
        match item {
            StepRef::Input(i) => {
                if let Some(access) = self.graph.op(self.scan).inputs.get(i) {
                    let index = access.index.iter().map(|e| e.substitute(&place));
                    let access = Access {
                        index: index.collect(),
                        ..access.clone()
                    };
                    self.read(&access, 0);
                }
            }
            StepRef::Op(i) => {
                let parts = self.parts;
                let Some(op) = parts.found.coefficients.get(i) else {
                    return;
                };
                for access in op.inputs.iter().filter(|access| access.item < item) {
                    let by: Vec<IndexExpr> = access.axes.iter().map(|a| place(*a)).collect();
                    self.item(access.item, &by);
                }
            }
            StepRef::State(_) => {}
        }
    }

    /// A read of a row, `back` rows before the token's.
    fn read(&mut self, access: &Access, back: u32) {
        let graph = self.graph;
        let back = back + access.delay.unsigned_abs();
        let Some(id) = graph.producer(access.value) else {
            return self.loaded(access, back);
        };
        if id == self.scan || self.after.contains(&id) {
            return;
        }
        if self.ops.binary_search(&id).is_err() {
            return self.loaded(access, back);
        }
        let op = graph.op(id);
        if !matches!(op.kind, OpKind::Map { .. }) {
            return;
        }
        let place = at(&graph.value(access.value).axes, &access.index);
        for inner in &op.inputs {
            let index = inner.index.iter().map(|e| e.substitute(&place));
            let inner = Access {
                index: index.collect(),
                ..inner.clone()
            };
            self.read(&inner, back);
        }
    }

    /// Elements of an axis that one block has, and whether it is spread over blocks.
    fn extent(&self, axis: AxisId) -> (usize, bool) {
        let spread = self.grid.iter().find(|g| g.axis == axis);
        spread.map_or((self.graph.size(axis), false), |g| (g.tile, true))
    }

    fn loaded(&mut self, access: &Access, back: u32) {
        let graph = self.graph;
        let value = graph.value(access.value);
        if !value.rows || value.precision == Precision::Index {
            return;
        }
        let (mut base, mut reach, mut touched) = (0, 0, 1);
        let mut block: BTreeMap<AxisId, i64> = BTreeMap::new();
        let mut local: BTreeMap<AxisId, i64> = BTreeMap::new();
        let mut stride = 1i64;
        for (axis, index) in value.axes.iter().zip(&access.index).rev() {
            base += stride * index.base;
            for (axis, coefficient) in &index.terms {
                let (extent, spread) = self.extent(*axis);
                if extent > 1 {
                    *local.entry(*axis).or_default() += stride * coefficient;
                }
                if spread {
                    *block.entry(*axis).or_default() += stride * coefficient;
                }
            }
            stride *= graph.size(*axis) as i64;
        }
        let forward = base >= 0 && local.values().chain(block.values()).all(|c| *c >= 0);
        for (axis, coefficient) in &local {
            let (extent, _) = self.extent(*axis);
            reach += coefficient * (extent as i64 - 1);
            touched *= extent;
        }
        let elements = reach.unsigned_abs() as usize + 1;
        let same =
            |slab: &Staged| slab.value == access.value && slab.base == base && slab.block == block;
        let known = self.found.iter().position(|s| s.as_ref().is_some_and(same));
        if !forward || elements > SPARSE * touched {
            if let Some(known) = known {
                self.found[known] = None;
            }
            return;
        }
        let tail = access.tail.filter(|_| access.delay > 0);
        let (early, late) = (!self.late, self.late);
        let slab = match known.and_then(|known| self.found[known].take()) {
            Some(slab) => Staged {
                elements: slab.elements.max(elements),
                halo: slab.halo.max(back),
                tail: self.wider(slab.tail, tail),
                early: slab.early || early,
                late: slab.late || late,
                ..slab
            },
            None => Staged {
                value: access.value,
                base,
                block,
                elements,
                halo: back,
                tail,
                early,
                late,
                piece: 0,
                pitch: 0,
                aligned: true,
                element_bytes: match value.precision {
                    Precision::Storage => self.storage.bytes(),
                    Precision::F32 | Precision::Index => 4,
                },
                operand: None,
                overlaps: false,
            },
        };
        let slab = self.cut(slab);
        match known {
            Some(known) => self.found[known] = slab,
            None => self.found.push(slab),
        }
    }

    fn wider(&self, a: Option<StateId>, b: Option<StateId>) -> Option<StateId> {
        [a, b]
            .into_iter()
            .flatten()
            .max_by_key(|t| self.graph.tail_width(*t))
    }

    /// The slab in pieces that can be copied; `None` if rows do not start at whole ones.
    fn cut(&self, slab: Staged) -> Option<Staged> {
        let size = slab.element_bytes;
        let row = self.graph.row_elements(slab.value) * size;
        let starts = slab.block.iter().map(|(axis, coefficient)| {
            let (tile, _) = self.extent(*axis);
            *coefficient as usize * tile
        });
        let starts: Vec<usize> = starts.chain([slab.base as usize]).collect();
        let whole = |piece: usize| {
            let starts = starts
                .iter()
                .all(|start| (start * size).is_multiple_of(piece));
            starts && row.is_multiple_of(piece)
        };
        let short = slab
            .tail
            .is_some_and(|tail| self.graph.tail_width(tail) < slab.halo);
        if short || !row.is_multiple_of(NARROW) {
            return None;
        }
        let wide = whole(WIDE) && (slab.elements * size).is_multiple_of(WIDE);
        let aligned = whole(NARROW);
        let piece = if wide { WIDE } else { NARROW };
        let before = if aligned { 0 } else { NARROW / size - 1 };
        Some(Staged {
            piece,
            aligned,
            pitch: (slab.elements + before).next_multiple_of(piece / size),
            ..slab
        })
    }
}

/// The index that stands for one of `own` axes where these are read at `by`; other axes stand for
/// themselves.
pub fn at<'a>(own: &'a [AxisId], by: &'a [IndexExpr]) -> impl Fn(AxisId) -> IndexExpr + 'a {
    move |axis| {
        let at = own.iter().position(|a| *a == axis);
        let index = at.and_then(|at| by.get(at)).cloned();
        index.unwrap_or_else(|| IndexExpr::axis(axis))
    }
}
