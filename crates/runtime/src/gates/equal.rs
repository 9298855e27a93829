//! G5: fused kernels give what unfused ones give.

use super::entropy::{cross_entropy, vocabulary};
use super::sane::rows;
use super::{Gate, GateError, Verdict, scientific};
use crate::inputs::{Data, RunInputs};
use crate::plan_dir::sha256;
use crate::session::{Session, run_finite};
use fusec_fuse::{Shape, Storage};

/// Nats by which the loss may differ.
const fn accepted(storage: Storage) -> f64 {
    match storage {
        Storage::F32 => 1e-4,
        Storage::Bf16 | Storage::F16 => 1e-2,
    }
}

/// How far outputs may be apart, over the largest, where there is no loss.
pub(super) const fn accepted_apart(storage: Storage) -> f64 {
    match storage {
        Storage::F32 => 1e-3,
        Storage::Bf16 | Storage::F16 => 5e-2,
    }
}

/// Runs two ways of running a model on the same random tokens: compares the mean loss of predicting each
/// next token, and the `steps` tokens that each holds for likeliest one after the other. In half
/// precision two tokens may be as good as equally likely: then other tokens are a warning. A model
/// without tokens is compared by its outputs.
pub fn equal(
    fused: &mut dyn Session,
    unfused: &mut dyn Session,
    shape: Shape,
    steps: usize,
    seed: u64,
    storage: Storage,
) -> Result<Gate, GateError> {
    let gate = |verdict, figure: String| Gate {
        gate: "G5",
        asks: "fused equals unfused",
        verdict,
        figure,
        details: vec![],
    };
    let one = run(fused, shape, steps, seed)?;
    let other = run(unfused, shape, steps, seed)?;
    let (Some(a), Some(b)) = (&one.text, &other.text) else {
        let largest = one.first.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let pairs = one.first.iter().zip(&other.first);
        let apart = pairs.fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
        let relative = f64::from(apart) / f64::from(largest).max(f64::MIN_POSITIVE);
        let accepted = accepted_apart(storage);
        let figure = format!(
            "outputs {} apart, accepted {accepted:.0e}",
            scientific(relative)
        );
        return Ok(match relative <= accepted {
            true => gate(Verdict::Pass, figure),
            false => gate(Verdict::Fail, figure),
        });
    };
    let delta = a.loss - b.loss;
    let same = a.tokens == b.tokens;
    let hashes = match same {
        true => format!("the same {} greedy tokens ({})", a.tokens.len(), a.hash()),
        false => format!("other greedy tokens ({}, unfused {})", a.hash(), b.hash()),
    };
    let figure = format!(
        "loss {:.4} nats, {}{} against unfused, accepted {:.0e}; {hashes}",
        a.loss,
        if delta > 0.0 { "+" } else { "" },
        scientific(delta),
        accepted(storage)
    );
    let near = delta.abs() <= accepted(storage);
    let verdict = match (near, same, storage) {
        (true, true, _) => Verdict::Pass,
        (true, false, Storage::Bf16 | Storage::F16) => Verdict::Warn,
        _ => Verdict::Fail,
    };
    Ok(gate(verdict, figure))
}

/// What a session gave.
struct Ran {
    /// Its first output.
    first: Vec<f32>,
    /// For a model of tokens.
    text: Option<Text>,
}

struct Text {
    loss: f64,
    /// Of all sequences, step by step.
    tokens: Vec<i32>,
}

impl Text {
    /// The first digits of the SHA-256 of the tokens.
    fn hash(&self) -> String {
        let bytes: Vec<u8> = self.tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
        sha256(&bytes)[..12].to_owned()
    }
}

fn run(session: &mut dyn Session, shape: Shape, steps: usize, seed: u64) -> Result<Ran, GateError> {
    let Shape { batch, time } = shape;
    session.reset(batch)?;
    // One more than is run: the last target.
    let longer = Shape {
        time: time + 1,
        ..shape
    };
    let all = RunInputs::random(session.graph(), longer, seed);
    let inputs = rows(session, &all, longer, 0, time);
    let outputs = run_finite(session, time, &inputs.given())?;
    let first = outputs.first().and_then(|output| output.numbers());
    let first = first.unwrap_or_default().to_vec();
    let vocabulary = vocabulary(session.graph());
    let targets = rows(session, &all, longer, 1, time);
    let (Some(vocabulary), [Data::Ids(targets)]) = (vocabulary, targets.data()) else {
        return Ok(Ran { first, text: None });
    };
    let loss = cross_entropy(&first, targets, vocabulary);
    let mut next = likeliest(&first, vocabulary, batch, time);
    let mut tokens = Vec::new();
    for step in 0..steps {
        tokens.extend(&next);
        if step + 1 == steps {
            break;
        }
        let inputs = RunInputs::ids(next);
        let outputs = run_finite(session, 1, &inputs.given())?;
        let logits = outputs.first().and_then(|output| output.numbers());
        next = likeliest(logits.unwrap_or_default(), vocabulary, batch, 1);
    }
    let text = Some(Text { loss, tokens });
    Ok(Ran { first, text })
}

/// The likeliest token after the last row of each sequence, the first of equals.
fn likeliest(logits: &[f32], vocabulary: usize, batch: usize, time: usize) -> Vec<i32> {
    let last = |sequence: usize| {
        let at = (sequence * time + time - 1) * vocabulary;
        let row = logits.get(at..at + vocabulary).unwrap_or_default();
        let mut best = (0, f32::NEG_INFINITY);
        for (token, logit) in row.iter().enumerate() {
            if *logit > best.1 {
                best = (token as i32, *logit);
            }
        }
        best.0
    };
    (0..batch).map(last).collect()
}
