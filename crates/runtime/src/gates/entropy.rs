//! G2: a model that has learnt nothing yet should hold every token for about as likely.

use super::{Gate, GateError, Verdict};
use crate::inputs::RunInputs;
use crate::session::{Session, run_finite};
use fusec_fuse::Shape;
use fusec_ir::{Graph, OpKind, Precision};
use rayon::prelude::*;

/// Nats that the entropy may be below its largest value.
const ACCEPTED: f64 = 0.5;

/// The size of the vocabulary of a model that turns token ids into logits over them.
pub(crate) fn vocabulary(graph: &Graph) -> Option<usize> {
    let [input] = graph.inputs[..] else {
        return None;
    };
    let width = graph.row_elements(*graph.outputs.first()?);
    let table = graph.ops.iter().find_map(|op| match op.inputs.as_slice() {
        [table, ids] if matches!(op.kind, OpKind::Gather) && ids.value == input => {
            graph.value(table.value).axes.first().copied()
        }
        _ => None,
    })?;
    let ids = graph.value(input).precision == Precision::Index;
    (ids && graph.size(table) == width).then_some(width)
}

/// Log-probabilities of a row of logits: `x - ln(sum(exp(x)))`, in f64.
fn log_softmax(row: &[f32]) -> impl Iterator<Item = f64> + '_ {
    let most = row.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let most = f64::from(most);
    let sum: f64 = row.iter().map(|x| (f64::from(*x) - most).exp()).sum();
    row.iter().map(move |x| f64::from(*x) - most - sum.ln())
}

/// Mean cross-entropy, nats, of predicting `targets` from rows of `logits`, a row each.
pub fn cross_entropy(logits: &[f32], targets: &[i32], vocabulary: usize) -> f64 {
    let rows = logits.par_chunks(vocabulary.max(1)).zip(targets);
    let sum: f64 = rows
        .map(|(row, target)| {
            let target = usize::try_from(*target).unwrap_or(usize::MAX);
            -log_softmax(row).nth(target).unwrap_or(f64::NEG_INFINITY)
        })
        .sum();
    sum / targets.len().max(1) as f64
}

/// Runs a model with the weights that training would start from on random tokens, and compares the mean
/// entropy of what it predicts with that of not knowing, `ln V`.
pub fn undecided(session: &mut dyn Session, shape: Shape, seed: u64) -> Result<Gate, GateError> {
    let gate = |verdict, figure: String| Gate {
        gate: "G2",
        asks: "undecided at the start",
        verdict,
        figure,
        details: vec![],
    };
    let Some(vocabulary) = vocabulary(session.graph()) else {
        let why = "the model does not turn token ids into logits over them";
        return Ok(gate(Verdict::NotAvailable, why.into()));
    };
    session.reset(shape.batch)?;
    let inputs = RunInputs::random(session.graph(), shape, seed);
    let outputs = run_finite(session, shape.time, &inputs.given())?;
    let logits = outputs.first().and_then(|first| first.numbers());
    let logits = logits.unwrap_or_default();
    let rows = logits.len() / vocabulary;
    let sum: f64 = logits
        .par_chunks(vocabulary)
        .map(|row| -log_softmax(row).map(|x| x.exp() * x).sum::<f64>())
        .sum();
    let entropy = sum / rows.max(1) as f64;
    let most = (vocabulary as f64).ln();
    let figure = format!(
        "entropy {entropy:.3} nats of ln {vocabulary} = {most:.3}, accepted is {ACCEPTED} less"
    );
    let verdict = match most - entropy <= ACCEPTED {
        true => Verdict::Pass,
        false => Verdict::Warn,
    };
    Ok(gate(verdict, figure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cross_entropy_is_that_of_the_softmax() {
        // Probabilities 1/2, 1/4, 1/4, and of the second row 1/3 each.
        let logits = [2f32.ln(), 0.0, 0.0, 5.0, 5.0, 5.0];
        let loss = cross_entropy(&logits, &[0, 2], 3);
        assert!(
            (loss - (2f64.ln() + 3f64.ln()) / 2.0).abs() < 1e-6,
            "{loss}"
        );
        assert_eq!(cross_entropy(&logits, &[7, 0], 3), f64::INFINITY);
    }
}
