//! The largest sizes that are accepted from outside, and checking them before anything is computed or
//! allocated. docs/limits.md states them for people.
//!
//! Sizes of texts and files are limited where these are read. Whether a run fits the memory that there
//! is, is another question: see [`crate::memory`].

use fusec_fuse::Shape;
use fusec_ir::{AxisId, Graph, StateKind};

/// Most sequences of a run.
pub const MAX_BATCH: usize = 1 << 20;
/// Most tokens of a sequence in one run.
pub const MAX_TIME: usize = 1 << 30;
/// Most rows (sequences times tokens) of a run.
pub const MAX_ROWS: usize = 1 << 31;
/// Most single steps of a verification.
pub const MAX_STEPS: usize = 1 << 20;
/// Most elements of one tensor, at the shape of a run.
pub const MAX_ELEMENTS: u128 = 1 << 40;
/// Most elements of all tensors of a model together, at the shape of a run.
pub const MAX_TOTAL: u128 = 1 << 44;
/// Most bytes of a file of a plan directory.
pub const MAX_PLAN_BYTES: u64 = 1 << 30;
/// Most bytes of recorded times: results, tuned plans, records of others.
pub const MAX_RECORD_BYTES: u64 = 64 << 20;
/// Most bytes of a text, or of a file of token ids, that is read whole.
pub const MAX_TEXT_BYTES: u64 = 1 << 36;

/// A size that is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// A number on its own.
    #[error("{what} is {got}, allowed are 1 to {limit}")]
    Size {
        /// Of what.
        what: &'static str,
        /// The number.
        got: u128,
        /// The most that is accepted.
        limit: u128,
    },
    /// A tensor at the shape of a run.
    #[error(
        "`{tensor}` has {got} elements at B={batch}, T={time}, allowed are {limit}; use a smaller batch or a shorter run"
    )]
    Tensor {
        /// A value or state of the model.
        tensor: String,
        /// Sequences.
        batch: usize,
        /// Tokens of each.
        time: usize,
        /// Its elements.
        got: u128,
        /// The most that is accepted.
        limit: u128,
    },
    /// All tensors at the shape of a run.
    #[error(
        "the tensors of the model have {got} elements together at B={batch}, T={time}, allowed are {limit}; use a smaller batch or a shorter run"
    )]
    Total {
        /// Sequences.
        batch: usize,
        /// Tokens of each.
        time: usize,
        /// Their elements.
        got: u128,
        /// The most that is accepted.
        limit: u128,
    },
}

/// Checks a number that has to lie between 1 and a limit.
pub fn size(what: &'static str, got: usize, limit: usize) -> Result<(), LimitError> {
    if (1..=limit).contains(&got) {
        return Ok(());
    }
    Err(LimitError::Size {
        what,
        got: got as u128,
        limit: limit as u128,
    })
}

/// Checks a shape on its own.
pub fn shape(shape: Shape) -> Result<(), LimitError> {
    let Shape { batch, time } = shape;
    size("B (sequences)", batch, MAX_BATCH)?;
    size("T (tokens)", time, MAX_TIME)?;
    let rows = batch as u128 * time as u128;
    if rows <= MAX_ROWS as u128 {
        return Ok(());
    }
    Err(LimitError::Size {
        what: "B times T",
        got: rows,
        limit: MAX_ROWS as u128,
    })
}

/// Checks a shape and every tensor that a model has at it. What this accepts has sizes in bytes that fit
/// an address, one by one and all together.
pub fn run(graph: &Graph, at: Shape) -> Result<(), LimitError> {
    shape(at)?;
    let Shape { batch, time } = at;
    let rows = batch as u128 * time as u128;
    let mut total = 0u128;
    let mut check = |got: u128, name: &str| {
        total = total.saturating_add(got);
        if got <= MAX_ELEMENTS {
            return Ok(());
        }
        Err(LimitError::Tensor {
            tensor: name.to_owned(),
            batch,
            time,
            got,
            limit: MAX_ELEMENTS,
        })
    };
    for value in &graph.values {
        let times = if value.rows { rows } else { 1 };
        let got = elements(graph, &value.axes).saturating_mul(times);
        check(got, &value.name)?;
    }
    for state in &graph.states {
        let one = elements(graph, &state.axes);
        let width = match state.kind {
            StateKind::Tail { width, .. } => u128::from(width),
            StateKind::Scan { .. } => 1,
        };
        let got = one.saturating_mul(width).saturating_mul(batch as u128);
        check(got, &state.name)?;
    }
    if total <= MAX_TOTAL {
        return Ok(());
    }
    Err(LimitError::Total {
        batch,
        time,
        got: total,
        limit: MAX_TOTAL,
    })
}

fn elements(graph: &Graph, axes: &[AxisId]) -> u128 {
    let sizes = axes.iter().map(|axis| graph.size(*axis) as u128);
    sizes.fold(1, u128::saturating_mul)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusec_ir::language::{ModelSource, Overrides, compile};

    #[test]
    fn each_limit_holds_just_below_and_not_just_above() {
        let at = |batch, time| shape(Shape { batch, time });
        for (fits, batch, time) in [
            (true, 1, 1),
            (false, 0, 1),
            (false, 1, 0),
            (true, MAX_BATCH, 1),
            (false, MAX_BATCH + 1, 1),
            (true, 1, MAX_TIME),
            (false, 1, MAX_TIME + 1),
            (true, 2, MAX_TIME),
            (false, 3, MAX_TIME),
            (true, MAX_BATCH, MAX_ROWS / MAX_BATCH),
            (false, MAX_BATCH, MAX_ROWS / MAX_BATCH + 1),
            (false, usize::MAX, usize::MAX),
        ] {
            assert_eq!(at(batch, time).is_ok(), fits, "B={batch}, T={time}");
        }
    }

    fn graph(width: usize) -> Graph {
        let text = format!(
            "name = \"m\"\n[axes]\nC = {width}\n[input]\nx = \"C\"\n[model]\nflow = \"\"\"\n  y = x * 2\n  return y\n\"\"\"\n"
        );
        let source = ModelSource::from_text("m", &text);
        compile(&source, &Overrides::default()).expect("a model")
    }

    #[test]
    fn tensors_are_limited_at_the_shape_of_the_run() {
        let time = 1 << 20;
        let fits = graph(1 << 20);
        assert_eq!(run(&fits, Shape { batch: 1, time }), Ok(()));
        let error = run(
            &fits,
            Shape {
                batch: 1,
                time: time + 1,
            },
        )
        .expect_err("too large");
        let text = error.to_string();
        assert!(
            text.contains("`x` has 1099512676352 elements at B=1, T=1048577")
                && text.contains("allowed are 1099511627776"),
            "{text}"
        );
    }
}
