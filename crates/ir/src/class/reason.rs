//! Why a recurrence is in no class.

use serde::{Deserialize, Serialize};

/// Why a step has no fast form. Each says which statement of mathematics fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A statement of the step fails.
    #[error("`{statement}`: {why}")]
    In {
        /// The name that it sets.
        statement: String,
        /// Why.
        why: Box<Reason>,
    },
    /// `tanh(S)` and the like.
    #[error("`{function}` is applied to a state, so the step is not linear in it")]
    NonLinear {
        /// The function.
        function: String,
    },
    /// `S * S`.
    #[error("a state is multiplied by a state, so the step is not linear")]
    StateProduct,
    /// The polynomial grew too long.
    #[error("written out as a sum of products, the step has more than {limit} {what}")]
    TooLarge {
        /// What there is too much of.
        what: String,
        /// The most there may be.
        limit: usize,
    },
    /// States that read each other.
    #[error("state `{state}` reads state `{other}`: the two are coupled")]
    Coupled {
        /// The one that reads.
        state: String,
        /// The one read.
        other: String,
    },
    /// States that are the two parts of a complex number.
    #[error(
        "states `{state}` and `{other}` are turned into each other: together they are a complex number \
         that is multiplied by another, and the next token needs both"
    )]
    Turned {
        /// The first.
        state: String,
        /// The other one.
        other: String,
    },
    /// `S[j, i]` where `S[i, j]` is set, or `S[i, i]`.
    #[error("state `{state}` is read at other indices than the element it contributes to")]
    Permuted {
        /// The state.
        state: String,
    },
    /// One result contracts the state in two ways.
    #[error("state `{state}` is contracted over different axes in one sum")]
    SeveralContractions {
        /// The state.
        state: String,
    },
    /// The matrix added to the diagonal has a rank above one, or depends on the value axes.
    #[error("the update of state `{state}` multiplies it by more than a diagonal plus rank one")]
    NotRankOne {
        /// The state.
        state: String,
    },
    /// The added term is no outer product.
    #[error("what is added to state `{state}` is no product of a key side and a value side")]
    NotOuter {
        /// The state.
        state: String,
    },
    /// An output that is no contraction of the state, or one over other axes than the update.
    #[error(
        "an output is no contraction of state `{state}` over the axes that its update contracts"
    )]
    OtherRead {
        /// The state.
        state: String,
    },
    /// No axis of the right size is free for a sum.
    #[error("a coefficient sums over two axes of size {size} of which the model has only one")]
    NoAxis {
        /// The size.
        size: usize,
    },
    /// The step cannot be evaluated.
    #[error("the step cannot be evaluated: {error}")]
    Malformed {
        /// What the interpreter says.
        error: String,
    },
    /// Probing found a difference, or nothing to compare.
    #[error("probing: {what}")]
    Probe {
        /// What was seen.
        what: String,
    },
}

impl Reason {
    /// What would give the state a class, if there is a way to write it.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Reason::In { why, .. } => why.remedy(),
            Reason::NonLinear { .. } => Some(
                "apply functions to inputs, or to what is read of the state where no update needs it: \
                 that is computed after the recurrence",
            ),
            Reason::StateProduct => Some(
                "multiply what is read of the states instead, where no update needs it: that is \
                 computed after the recurrence",
            ),
            Reason::TooLarge { .. } => {
                Some("compute what depends on inputs alone outside of the step")
            }
            Reason::Coupled { .. } => Some(
                "let only one of the two read the other: they are then recurrences one after the other",
            ),
            Reason::Permuted { .. } => {
                Some("rename the axes of what is added, not those of the state")
            }
            Reason::SeveralContractions { .. } | Reason::OtherRead { .. } => {
                Some("sum over the same axes of the state wherever it is read")
            }
            Reason::NotRankOne { .. } => Some(
                "let each statement multiply the state by one `diagonal + a b^T` only: a token may have \
                 several such statements, one after the other",
            ),
            Reason::NotOuter { .. } => Some(
                "add one product of something over the summed axes and something over the others",
            ),
            Reason::NoAxis { .. } => Some("compute the sum outside of the step and pass it in"),
            Reason::Turned { .. } => Some(
                "where they are outer products, turn them by angles that are the same for all elements along \
                 one of their axes, and read them by sums over the others: they are then computed in a basis \
                 that turns with them",
            ),
            Reason::Malformed { .. } | Reason::Probe { .. } => None,
        }
    }
}
