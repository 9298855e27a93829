//! Classes of recurrences, found by analysis of the step and never by name.
//!
//! The statements of a step are composed into one polynomial in the state (`normal`,
//! `polynomial`), matched against the forms for which fast algorithms are known (`form`), written
//! out again as coefficients that a kernel can compute (`coefficients`), and compared with the
//! step itself on random numbers (`probe`). A step that updates its state several times is taken apart
//! first (`updates`); one that takes the larger of a state and something is linear in another algebra (`extremal`). `decay` gives the logarithm of a decay, with a proof
//! of its range (`interval`, `relation`, `shares`, `maxima`). What never lives here: kernels, costs, and which
//! algorithm to use.

mod coefficients;
mod decay;
mod extremal;
mod failure;
mod form;
mod interval;
mod low_rank;
mod maxima;
mod normal;
mod polynomial;
mod probe;
mod reason;
mod relation;
pub mod rotating;
mod sentence;
mod shares;
mod updates;

pub use decay::{LogDecay, NoLogDecay, decay_range, log_decay};
pub use reason::Reason;

use crate::{AxisId, Graph, Recurrence, Span, StepOp, StepRef};
use failure::Failure;
use serde::{Deserialize, Serialize};

/// What the analysis of a recurrence found.
///
/// Coefficients are [`StepRef`]s: `Input(i)` is an input of the recurrence, `Op(i)` is
/// `coefficients[i]`. None is a `State`. Their axes are those of the item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Classified {
    /// Statements that compute the coefficients from the inputs alone, in order.
    pub coefficients: Vec<StepOp>,
    /// One class per state; all are [`Class::General`] if one is.
    pub states: Vec<Class>,
    /// Per output of the step, what is added to the reads of states, if anything.
    pub rest: Vec<Option<StepRef>>,
    /// The term or statement that leaves the states general, if one does and it stands in a model text.
    /// Like all places, in no file.
    #[serde(skip)]
    pub blame: Option<Span>,
}

/// How a state `S` is brought up to date. `S'` is the state after the step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// `S' = decay * S + add`, element by element.
    Elementwise {
        /// Over some of the state's axes.
        decay: StepRef,
        /// Over some of the state's axes.
        add: StepRef,
        /// How the outputs read the state.
        reads: Vec<Read>,
    },
    /// `S'[head, key, value] = decay[head, key] * S + k[head, key] * v[head, value]`, read by
    /// contracting the key axes.
    DiagonalOuter {
        /// Which axis of the state is what.
        layout: Layout,
        /// Over head and key axes (some or all); does not depend on the value axes.
        decay: StepRef,
        /// Over key axes, and perhaps head axes.
        k: StepRef,
        /// Over value axes, and perhaps head axes.
        v: StepRef,
        /// How the outputs read the state.
        reads: Vec<Read>,
    },
    /// `S' = S (diag(decay) + a b^T) + v k^T`:
    /// `S'[value, key] = decay[key] * S + (sum over key of S * a) * b[key] + v[value] * k[key]`,
    /// all of it per head.
    DiagonalRankOne {
        /// Which axis of the state is what.
        layout: Layout,
        /// As above.
        decay: StepRef,
        /// Contracted with the state before its decay.
        a: StepRef,
        /// What that contraction is multiplied by.
        b: StepRef,
        /// `(a', b')` with `a b^T = diag(decay) a' b'^T`, if there is such a pair without a
        /// division: the state is then decayed first and contracted after.
        of_decayed: Option<(StepRef, StepRef)>,
        /// `a''` with `a b^T = a'' k^T` (of the pair above, where there is one), if `b` is `k` times a
        /// number per head: both products then bring the state along one key.
        along_key: Option<StepRef>,
        /// As above.
        k: StepRef,
        /// As above.
        v: StepRef,
        /// How the outputs read the state.
        reads: Vec<Read>,
    },
    /// Several updates one after the other, at least two, each as above or without `a b^T`: with `S_0` the
    /// state before the step, `S_{n+1} = S_n (diag(decay) + a b^T) + v k^T` of update `n`, and the state after
    /// the step is that after the last update.
    DiagonalLowRank {
        /// Which axis of the state is what.
        layout: Layout,
        /// In order.
        updates: Vec<Update>,
        /// Number of the update that reads are before or after.
        read_at: usize,
        /// How the outputs read the state.
        reads: Vec<Read>,
    },
    /// `S' = max(S + shift, bound)`, or the smaller of the two, element by element: linear where the larger of
    /// two numbers takes the place of their sum and their sum that of their product.
    Extremal {
        /// Which of the two it is.
        extreme: Extreme,
        /// Over some of the state's axes.
        shift: StepRef,
        /// Over some of the state's axes.
        bound: StepRef,
        /// How the outputs read the state: with a query that is a number.
        reads: Vec<Read>,
    },
    /// None of these.
    General {
        /// Why not.
        why: Reason,
    },
}

/// The larger or the smaller of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extreme {
    /// The larger.
    Max,
    /// The smaller.
    Min,
}

impl Extreme {
    /// The function of two numbers.
    pub fn function(self) -> crate::Binary {
        match self {
            Extreme::Max => crate::Binary::Max,
            Extreme::Min => crate::Binary::Min,
        }
    }
}

/// What a run of tokens makes of a state, element by element, by two numbers: `A` of all the numbers that
/// the state meets, token by token, and `U`, what becomes of a state that leaves no trace. The composition of
/// two such maps is one again, and does not depend on where a run is cut:
/// `A = A2 A1, U = A2 U1 + U2`, and `A = A2 + A1, U = max(A2 + U1, U2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algebra {
    /// `A S + U`: `A` is a product, and a state of zeros leaves no trace.
    Linear,
    /// `max(A + S, U)` or `min(A + S, U)`: `A` is a sum, and a state of infinities leaves no trace.
    Extremal(Extreme),
}

/// An update of a [`Class::DiagonalLowRank`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// Over head and key axes (some or all).
    pub decay: StepRef,
    /// What the state is multiplied by beside its decay, if anything.
    pub factor: Option<RankOne>,
    /// Over key axes, and perhaps head axes.
    pub k: StepRef,
    /// Over value axes, and perhaps head axes.
    pub v: StepRef,
    /// Whether its factor is contracted with the state that the update before it is contracted with, which has not
    /// seen that one: `S_{n+1} = S_n diag(decay) + S_m a b^T + v k^T`, where update `m` is the first of those at once.
    /// The number of updates is a power of two then, and its factor and the decays are those of update `m` and its
    /// decay. Only the first of them has a decay.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_once: bool,
}

/// `a b^T`: the fields of [`Class::DiagonalRankOne`] of the same names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankOne {
    /// Contracted with the state before its decay.
    pub a: StepRef,
    /// What that contraction is multiplied by.
    pub b: StepRef,
    /// The same pair of the decayed state, if there is one.
    pub of_decayed: Option<(StepRef, StepRef)>,
    /// `a''` where `b` is `k` times a number per head.
    pub along_key: Option<StepRef>,
}

/// The roles of a state's axes. Each is in one list, in the state's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Independent recurrences.
    pub heads: Vec<AxisId>,
    /// Contracted by reads.
    pub key: Vec<AxisId>,
    /// Share one decay.
    pub value: Vec<AxisId>,
}

/// A read of a state: `sum over [over] of query * S`, where `S` is the state before or after the
/// step, plus `bonus * k * v` if there is a bonus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Read {
    /// Number of the step's output that it is added to.
    pub output: usize,
    /// Multiplies the state.
    pub query: StepRef,
    /// Contracted axes of the state; those of `Layout::key` where there is a layout.
    pub over: Vec<AxisId>,
    /// Whether it reads the state before the step.
    pub before: bool,
    /// Weight of the current token, over key and head axes.
    pub bonus: Option<StepRef>,
}

/// The class of every state of a recurrence of `graph`.
pub fn classify(graph: &Graph, recurrence: &Recurrence) -> Classified {
    let attempt = || -> Result<Classified, Failure> {
        let probe = probe::Probe::new(graph, recurrence)?;
        let at_once = || {
            let normal = normal::Normal::of(graph, recurrence)?;
            form::classify(graph, recurrence, &normal)
        };
        let found = match at_once() {
            Ok(found) => found,
            Err(failure) => match extremal::classify(graph, recurrence) {
                Some(found) => found,
                None => updates::classify(graph, recurrence).unwrap_or(Err(failure))?,
            },
        };
        probe.compare(&found)?;
        Ok(found)
    };
    attempt().unwrap_or_else(|Failure { why, at }| Classified {
        coefficients: vec![],
        states: vec![Class::General { why }; recurrence.states.len()],
        rest: vec![None; recurrence.outputs.len()],
        blame: at,
    })
}

impl Class {
    /// Short name: `elementwise`, `diagonal-outer`, `diagonal-rank-one`, `diagonal-low-rank`, `max-plus`,
    /// `min-plus`, `general`.
    pub fn name(&self) -> &'static str {
        match self {
            Class::Elementwise { .. } => "elementwise",
            Class::DiagonalOuter { .. } => "diagonal-outer",
            Class::DiagonalRankOne { .. } => "diagonal-rank-one",
            Class::DiagonalLowRank { .. } => "diagonal-low-rank",
            Class::Extremal { extreme, .. } => match extreme {
                Extreme::Max => "max-plus",
                Extreme::Min => "min-plus",
            },
            Class::General { .. } => "general",
        }
    }

    /// How the outputs read the state; none for [`Class::General`].
    pub fn reads(&self) -> &[Read] {
        match self {
            Class::Elementwise { reads, .. }
            | Class::DiagonalOuter { reads, .. }
            | Class::DiagonalRankOne { reads, .. }
            | Class::DiagonalLowRank { reads, .. }
            | Class::Extremal { reads, .. } => reads,
            Class::General { .. } => &[],
        }
    }

    /// What the state is multiplied by, element by element, one after the other; none where it is multiplied
    /// by nothing.
    pub fn decays(&self) -> Vec<StepRef> {
        match self {
            Class::Elementwise { decay, .. }
            | Class::DiagonalOuter { decay, .. }
            | Class::DiagonalRankOne { decay, .. } => vec![*decay],
            Class::DiagonalLowRank { updates, .. } => updates.iter().map(|u| u.decay).collect(),
            Class::Extremal { .. } | Class::General { .. } => vec![],
        }
    }

    /// The only coefficient that the state meets, element by element, and in which algebra: what a run of
    /// tokens makes of the state follows from all of these and from what it makes of no state.
    pub fn met(&self) -> Option<(StepRef, Algebra)> {
        match self {
            Class::Elementwise { decay, .. } | Class::DiagonalOuter { decay, .. } => {
                Some((*decay, Algebra::Linear))
            }
            // Without factors only the first one has a decay: see `low_rank`.
            Class::DiagonalLowRank { updates, .. }
                if updates.iter().all(|u| u.factor.is_none()) =>
            {
                updates.first().map(|u| (u.decay, Algebra::Linear))
            }
            Class::Extremal { extreme, shift, .. } => Some((*shift, Algebra::Extremal(*extreme))),
            _ => None,
        }
    }
}

impl Classified {
    /// The statement of a coefficient that is not an input.
    pub fn statement(&self, coefficient: StepRef) -> Option<&StepOp> {
        match coefficient {
            StepRef::Op(i) => self.coefficients.get(i),
            StepRef::Input(_) | StepRef::State(_) => None,
        }
    }

    /// The same recurrence, written in the form of its classes. `None` if one is general.
    pub fn rewritten(&self, recurrence: &Recurrence) -> Option<Recurrence> {
        probe::rewritten(self, recurrence)
    }
}
