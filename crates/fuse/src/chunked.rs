//! The chunked forms of a recurrence: what its parts are, and how much a block holds.
//!
//! A step `S' = diag(d) S + k v^T`, read by `q S`, can be computed some tokens at a time with
//! matrix products; so can one that adds a rank-one factor to the diagonal (see [`tile`]), and one that is
//! several of these one after the other, each of which takes the place of a token.
//! Lives here: which coefficient of a recurrence is what ([`Parts`]). Never here: the sizes of a block
//! (see [`tile`]), which groups of operations may be computed so (see [`crate::fit`]), and the text of
//! a kernel.

pub mod linear;
pub mod staging;
pub mod tile;
pub mod warpgroup;
pub mod weighted;

use crate::plan::{Body, Storage};
use crate::schedule::Schedule;
use fusec_ir::class::{Class, Classified, Layout, RankOne, Read};
use fusec_ir::{
    Axis, AxisId, Graph, OpId, OpKind, Recurrence, RecurrenceId, StepKind, StepRef, classify,
};
use staging::{Staged, staged};
use std::sync::OnceLock;

/// Tokens of the largest chunk: segments are whole ones of these, whatever chunks a body has.
pub const MOST_TOKENS: usize = 64;
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

    /// Whether they are those of this graph, which may have more axes and fewer recurrences.
    pub fn hold_for(&self, graph: &Graph) -> bool {
        self.recurrences.starts_with(&graph.recurrences) && graph.axes.starts_with(&self.axes)
    }

    /// The class of a recurrence of the graph. `None` if the graph has no such recurrence.
    pub fn of(&self, graph: &Graph, recurrence: RecurrenceId) -> Option<&Classified> {
        let step = graph.recurrences.get(recurrence.index())?;
        let slot = self.found.get(recurrence.index())?;
        Some(slot.get_or_init(|| classify(graph, step)))
    }
}

/// The parts of a scan that has a chunked form. Coefficients are over the axes of `layout`.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    /// The step.
    pub step: &'a Recurrence,
    /// The statements behind the coefficients.
    pub found: &'a Classified,
    /// Heads, key and value axes of the state.
    pub layout: &'a Layout,
    /// The updates of a token, in order, at least one.
    pub updates: Vec<Update>,
    /// What a state is multiplied by beside its decay, in any of them.
    pub factor: Option<Factor>,
    /// Number of the update that reads are before or after.
    pub read_at: usize,
    /// How the outputs read the state.
    pub reads: &'a [Read],
    /// Per output, what is added to its reads, over head and value axes.
    pub rest: &'a [Option<StepRef>],
}

/// One update of the state: `S' = S (diag(decay) + a b^T) + v k^T`. All but `v` are over key axes, and
/// perhaps head axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Update {
    /// What the state is multiplied by, element by element.
    pub decay: StepRef,
    /// Contracted with the state; nothing is if `None`.
    pub a: Option<StepRef>,
    /// What that contraction is multiplied by; `None` where that is `k`, or nothing is contracted.
    pub b: Option<StepRef>,
    /// What `v` is multiplied by.
    pub k: StepRef,
    /// Over value axes, and perhaps head axes.
    pub v: StepRef,
    /// Whether it is contracted with the state that the update before it is contracted with.
    pub at_once: bool,
}

/// `a b^T`, by which a state is multiplied beside its decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor {
    /// Whether `b` is `k` in every update.
    pub along_key: bool,
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
        if !step.direction.is_forward() {
            return Err(not(
                "chunked-direction",
                "a recurrence from the first row to the last",
                format!("`{}` from the last to the first", step.name),
            ));
        }
        let [class] = found.states.as_slice() else {
            return Err(not(
                "chunked-class",
                CLASS_LIMIT,
                format!("`{}` of {} states", step.name, found.states.len()),
            ));
        };
        let plain = |decay: &StepRef, k: &StepRef, v: &StepRef| Update {
            decay: *decay,
            a: None,
            b: None,
            k: *k,
            v: *v,
            at_once: false,
        };
        let (layout, updates, read_at, reads) = match class {
            Class::DiagonalOuter {
                layout,
                decay,
                k,
                v,
                reads,
            } => (layout, vec![(plain(decay, k, v), None)], 0, reads),
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
                let factor = RankOne {
                    a: *a,
                    b: *b,
                    of_decayed: *of_decayed,
                    along_key: *along_key,
                };
                let update = (plain(decay, k, v), Some(factor));
                (layout, vec![update], 0, reads)
            }
            Class::DiagonalLowRank {
                layout,
                updates,
                read_at,
                reads,
            } => {
                let of = updates.iter();
                let of = of.map(|u| {
                    let update = Update {
                        at_once: u.at_once,
                        ..plain(&u.decay, &u.k, &u.v)
                    };
                    (update, u.factor.clone())
                });
                (layout, of.collect(), *read_at, reads)
            }
            _ => return Err(not("chunked-class", CLASS_LIMIT, class.name().to_string())),
        };
        let (updates, factor) = with_factors(found, updates);
        if updates.iter().any(|update| update.at_once) {
            let of_decayed = factor.is_some_and(|factor| factor.of_decayed);
            if !of_decayed || !SUB.is_multiple_of(updates.len()) {
                return Err(not(
                    "chunked-at-once",
                    "up to 16 factors at once, all of the state after its decay",
                    format!("{} updates of `{}`", updates.len(), step.name),
                ));
            }
        }
        let (limit, fits) = (
            "1 to 8 reads of the state",
            (1..=tile::READ_LIMIT).contains(&reads.len()),
        );
        if !fits {
            let got = format!("{} results and {} reads", found.rest.len(), reads.len());
            return Err(not("chunked-reads", limit, got));
        }
        let parts = Parts {
            step,
            found,
            layout,
            updates,
            factor,
            read_at,
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

    /// The same of what becomes of the state alone.
    pub fn without_reads(self) -> Self {
        Parts {
            reads: &[],
            rest: &[],
            ..self
        }
    }

    /// The coefficients that are needed before the products of a chunk.
    pub fn operands(&self) -> impl Iterator<Item = StepRef> + '_ {
        let own = self.updates.iter().flat_map(|u| [u.decay, u.k, u.v]);
        let factors = self.updates.iter().flat_map(|u| [u.a, u.b]).flatten();
        let queries = self.reads.iter().map(|read| read.query);
        let bonuses = self.reads.iter().filter_map(|read| read.bonus);
        own.chain(queries).chain(factors).chain(bonuses)
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
        let key = &self.layout.key;
        let mut decays = self.updates.iter().map(|update| self.axes_of(update.decay));
        decays.any(|axes| axes.iter().any(|a| key.contains(a) && graph.size(*a) > 1))
    }

    /// The operands of the scan that a coefficient is computed from.
    pub fn inputs_of(&self, item: StepRef) -> Vec<usize> {
        match item {
            StepRef::Input(i) => vec![i],
            StepRef::State(_) => Vec::new(),
            StepRef::Op(i) => {
                let op = self.found.coefficients.get(i);
                let read = op.into_iter().flat_map(|op| &op.inputs);
                // Coefficients read earlier ones only.
                let earlier = read.filter(|access| access.item < item);
                earlier.flat_map(|of| self.inputs_of(of.item)).collect()
            }
        }
    }

    /// The only update of a token, if it has one.
    pub fn only_update(&self) -> Option<&Update> {
        match self.updates.as_slice() {
            [update] => Some(update),
            _ => None,
        }
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
    "one state with a diagonal decay, perhaps rank-one factors, and outer products";

/// The updates with what multiplies the state beside its decay, in a form that all of them have.
fn with_factors(
    found: &Classified,
    updates: Vec<(Update, Option<RankOne>)>,
) -> (Vec<Update>, Option<Factor>) {
    let factors = || updates.iter().filter_map(|(u, of)| Some((u, of.as_ref()?)));
    if factors().next().is_none() {
        return (updates.into_iter().map(|(u, _)| u).collect(), None);
    }
    // After its decay a state is smaller, and no decay is multiplied into `a`.
    let of_decayed = factors().all(|(_, of)| of.of_decayed.is_some());
    let is_kept = |update: &Update| found.number(update.decay) == Some(1.0);
    // Along the key it is the pair of the decayed state, where there is one.
    let along_key = factors().all(|(update, of)| {
        let same = of_decayed || of.of_decayed.is_none() || is_kept(update);
        of.along_key.is_some() && same
    });
    let updates = updates.into_iter().map(|(update, of)| {
        let (a, b) = match (of, along_key, of_decayed) {
            (None, ..) => (None, None),
            (Some(of), true, _) => (of.along_key, None),
            (Some(of), false, true) => {
                (of.of_decayed.map(|(a, _)| a), of.of_decayed.map(|(_, b)| b))
            }
            (Some(of), false, false) => (Some(of.a), Some(of.b)),
        };
        Update { a, b, ..update }
    });
    let factor = Factor {
        along_key,
        of_decayed,
    };
    (updates.collect(), Some(factor))
}

/// The rows that arrive ahead of time in a body of the chunked template, if any.
pub fn slabs(graph: &Graph, parts: &Parts<'_>, storage: Storage, body: &Body) -> Vec<Staged> {
    match (&body.schedule, body.anchors()) {
        (Schedule::Chunked(chunk), [scan]) if chunk.ahead => {
            let by = (storage, chunk.tile.products);
            staged(graph, parts, *scan, &body.ops, &chunk.grid, by)
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
