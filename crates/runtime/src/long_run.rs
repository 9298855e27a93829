//! Long runs of single steps against runs of many tokens, and whether the same steps give the same bits.
//!
//! Errors are `||steps - runs|| / ||runs||`, of the first output and of each state, after the same tokens.
//! What lives here: the two comparisons. What is expected of a few tokens is in [`crate::verify`].

use fusec_fuse::Shape;
use fusec_ir::Graph;
use fusec_ir::interpret::{Input, Tensor};
use serde::Serialize;

use crate::executor::HostState;
use crate::inputs::{Data, RunInputs};
use crate::session::{Session, SessionError};

/// Late in a run the error is at most so many times that of its first tenth.
pub const DRIFT: f64 = 4.0;

/// Errors after some tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mark {
    /// Tokens of each sequence so far.
    pub tokens: usize,
    /// Error of the first output after the last of them; infinite where anything is not finite.
    pub output: f64,
    /// Whether its largest element is the same one, in every sequence.
    pub same_largest: bool,
    /// The largest error of a state; 0 where there is none.
    pub state: f64,
    /// Which state that is.
    pub of_state: String,
}

/// What a long run showed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LongRun {
    /// What did the work.
    pub device: String,
    /// Sequences.
    pub batch: usize,
    /// Tokens of each run that the steps are compared with, at most.
    pub chunk: usize,
    /// After 10, 20, 50, 100, ... and all tokens.
    pub marks: Vec<Mark>,
}

impl LongRun {
    /// Whether all is finite, and neither outputs nor states drift apart: beyond the first tenth of the tokens
    /// no error is above [`DRIFT`] times the largest inside of it.
    pub fn passed(&self) -> bool {
        let tokens = self.marks.last().map_or(0, |mark| mark.tokens);
        let (early, late): (Vec<&Mark>, Vec<&Mark>) = self
            .marks
            .iter()
            .partition(|mark| 10 * mark.tokens <= tokens);
        let no_drift = |error: fn(&Mark) -> f64| {
            let most = |of: &[&Mark]| of.iter().map(|mark| error(mark)).fold(0.0, f64::max);
            let bound = match early.is_empty() {
                true => f64::INFINITY,
                // Where both sides agree to the last bit for a while, that is no measure.
                false => DRIFT * most(&early).max(f64::from(f32::EPSILON)),
            };
            most(&late) <= bound
        };
        let finite = |mark: &Mark| mark.output.is_finite() && mark.state.is_finite();
        self.marks.iter().all(finite) && no_drift(|m| m.output) && no_drift(|m| m.state)
    }
}

/// Tokens after which errors are looked at.
fn marks(tokens: usize) -> Vec<usize> {
    let decades = (1..).map_while(|n| 10usize.checked_pow(n));
    let marks = decades.flat_map(|ten| [1, 2, 5].map(|n| ten.saturating_mul(n)));
    let mut marks: Vec<usize> = marks.take_while(|mark| *mark < tokens).collect();
    marks.push(tokens);
    marks
}

/// Some tokens of inputs of a longer run, as a run of their own.
fn part(graph: &Graph, of: &RunInputs, shape: Shape, from: usize, to: usize) -> RunInputs {
    fn rows<T: Copy>(all: &[T], shape: Shape, row: usize, from: usize, to: usize) -> Vec<T> {
        let sequences = all.chunks_exact((shape.time * row).max(1));
        let part = sequences.flat_map(|sequence| &sequence[from * row..to * row]);
        part.copied().collect()
    }
    let inputs = graph.inputs.iter().zip(of.data());
    let inputs = inputs.map(|(id, data)| {
        let row = graph.row_elements(*id);
        match (graph.value(*id).rows, data) {
            (false, data) => data.clone(),
            (true, Data::Numbers(all)) => Data::Numbers(rows(all, shape, row, from, to)),
            (true, Data::Ids(all)) => Data::Ids(rows(all, shape, row, from, to)),
        }
    });
    RunInputs::new(inputs.collect())
}

/// Runs `shape.time` tokens of each sequence in single steps, and again in runs of at most `chunk` tokens that
/// carry the state, and compares after some. `inputs` are those of all tokens; `watch` is called after each run.
pub fn long_run(
    session: &mut dyn Session,
    inputs: &RunInputs,
    shape: Shape,
    chunk: usize,
    watch: &mut dyn FnMut(),
) -> Result<LongRun, SessionError> {
    let graph = session.graph().clone();
    let marks = marks(shape.time);
    session.reset(shape.batch)?;
    let mut stepped = Vec::new();
    for at in 0..shape.time {
        let step = part(&graph, inputs, shape, at, at + 1);
        if marks.contains(&(at + 1)) {
            let output = first_output(session.run_last(1, &step.given())?);
            stepped.push((output, session.state()?));
        } else {
            session.advance(1, &step.given())?;
        }
        watch();
    }
    session.reset(shape.batch)?;
    let mut found = Vec::new();
    let mut at = 0;
    for (mark, (output, state)) in marks.into_iter().zip(stepped) {
        let mut last = Vec::new();
        while at < mark {
            // A run of one token would be a step.
            let left = mark - at;
            let time = match left.checked_sub(chunk) {
                None | Some(0) => left,
                Some(1) if chunk > 2 => chunk - 1,
                Some(_) => chunk,
            };
            let run = part(&graph, inputs, shape, at, at + time);
            if left > time {
                session.advance(time, &run.given())?;
            } else {
                last = first_output(session.run_last(time, &run.given())?);
            }
            at += time;
            watch();
        }
        found.push(compared(
            &graph,
            shape.batch,
            mark,
            (&output, &state),
            (&last, &session.state()?),
        ));
    }
    Ok(LongRun {
        device: session.device(),
        batch: shape.batch,
        chunk,
        marks: found,
    })
}

fn compared(
    graph: &Graph,
    batch: usize,
    tokens: usize,
    (steps, state): (&[f32], &HostState),
    (runs, of_runs): (&[f32], &HostState),
) -> Mark {
    let of = |steps: &HostState, runs: &HostState| {
        let states = runs.tensors.iter().map(|(id, of_runs)| {
            let of_steps = steps.tensors.get(id).map_or(&[][..], Vec::as_slice);
            (error(of_steps, of_runs), graph.state(*id).name.clone())
        });
        states.max_by(|a, b| a.0.total_cmp(&b.0))
    };
    let (state, of_state) = of(state, of_runs).unwrap_or_default();
    let row = (runs.len() / batch.max(1)).max(1);
    let mut largest = steps.chunks(row).zip(runs.chunks(row));
    Mark {
        tokens,
        output: error(steps, runs),
        same_largest: largest.all(|(a, b)| place_of_largest(a) == place_of_largest(b)),
        state,
        of_state,
    }
}

fn place_of_largest(of: &[f32]) -> Option<usize> {
    let places = of.iter().enumerate();
    let largest = places.reduce(|best, next| if next.1 > best.1 { next } else { best });
    largest.map(|(at, _)| at)
}

/// `||got - expected|| / ||expected||`; infinite where that is no number.
fn error(got: &[f32], expected: &[f32]) -> f64 {
    if got.len() != expected.len() {
        return f64::INFINITY;
    }
    let square = |x: f64| x * x;
    let both = got.iter().zip(expected);
    let apart: f64 = both
        .map(|(a, b)| square(f64::from(*a) - f64::from(*b)))
        .sum();
    let whole: f64 = expected.iter().map(|x| square(f64::from(*x))).sum();
    match (apart.sqrt(), whole.sqrt()) {
        (0.0, _) => 0.0,
        (apart, whole) => match apart / whole {
            error if error.is_finite() => error,
            _ => f64::INFINITY,
        },
    }
}

fn first_output(outputs: Vec<Tensor<f32>>) -> Vec<f32> {
    let first = outputs.first().and_then(Tensor::numbers);
    first.unwrap_or_default().to_vec()
}

/// Whether single steps gave the same bits each time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Repeated {
    /// What did the work.
    pub device: String,
    /// Sequences.
    pub batch: usize,
    /// Steps of each time.
    pub steps: usize,
    /// How many times they were done.
    pub times: usize,
    /// Times that were not as the first in every bit of every output and state.
    pub differing: usize,
    /// The first difference.
    pub first: Option<Difference>,
}

/// A number that was not the same again.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Which time, from 1 on; the first is 0.
    pub time: usize,
    /// Which step, from 0 on; a state is looked at after the last.
    pub step: usize,
    /// The output or state.
    pub name: String,
    /// Which of its elements.
    pub element: usize,
    /// The number of the first time.
    pub was: f32,
    /// What it was now.
    pub is: f32,
}

/// Does the same single steps from the same state `times` times and compares every bit. `inputs` are those of
/// `shape.time` steps; `watch` is called after each time.
pub fn repeated(
    session: &mut dyn Session,
    inputs: &RunInputs,
    shape: Shape,
    times: usize,
    watch: &mut dyn FnMut(),
) -> Result<Repeated, SessionError> {
    let graph = session.graph().clone();
    let steps = (0..shape.time).map(|at| part(&graph, inputs, shape, at, at + 1));
    let steps: Vec<RunInputs> = steps.collect();
    let mut expected: Vec<Vec<Tensor<f32>>> = Vec::new();
    let mut state = None;
    let mut differing = 0;
    let mut first = None;
    for time in 0..times {
        session.reset(shape.batch)?;
        let mut difference = None;
        for (step, inputs) in steps.iter().enumerate() {
            let given: Vec<Input<'_, f32>> = inputs.given();
            let outputs = session.run(1, &given)?;
            let Some(expected) = expected.get(step) else {
                expected.push(outputs);
                continue;
            };
            let both = graph.outputs.iter().zip(outputs.iter().zip(expected));
            for (id, (is, was)) in both {
                let numbers = |of: &Tensor<f32>| of.numbers().unwrap_or_default().to_vec();
                let found = differs(&numbers(was), &numbers(is));
                difference = difference.or(found.map(|(element, was, is)| Difference {
                    time,
                    step,
                    name: graph.value(*id).name.clone(),
                    element,
                    was,
                    is,
                }));
            }
        }
        let after = session.state()?;
        let before = state.get_or_insert_with(|| after.clone());
        for (id, was) in &before.tensors {
            let is = after.tensors.get(id).map_or(&[][..], Vec::as_slice);
            let found = differs(was, is);
            difference = difference.or(found.map(|(element, was, is)| Difference {
                time,
                step: shape.time.saturating_sub(1),
                name: graph.state(*id).name.clone(),
                element,
                was,
                is,
            }));
        }
        differing += usize::from(difference.is_some());
        first = first.or(difference);
        watch();
    }
    Ok(Repeated {
        device: session.device(),
        batch: shape.batch,
        steps: shape.time,
        times,
        differing,
        first,
    })
}

/// The first element whose bits differ, and both numbers.
fn differs(was: &[f32], is: &[f32]) -> Option<(usize, f32, f32)> {
    let mut both = was.iter().zip(is).enumerate();
    let found = both.find(|(_, (was, is))| was.to_bits() != is.to_bits());
    match found {
        Some((at, (was, is))) => Some((at, *was, *is)),
        None if was.len() != is.len() => Some((was.len().min(is.len()), f32::NAN, f32::NAN)),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(errors: &[(usize, f64)]) -> LongRun {
        let marks = errors.iter().map(|(tokens, output)| Mark {
            tokens: *tokens,
            output: *output,
            same_largest: true,
            state: 0.0,
            of_state: String::new(),
        });
        LongRun {
            device: String::new(),
            batch: 1,
            chunk: 1,
            marks: marks.collect(),
        }
    }

    #[test]
    fn marks_end_with_all_tokens() {
        assert_eq!(marks(1), [1]);
        assert_eq!(marks(10), [10]);
        assert_eq!(marks(130), [10, 20, 50, 100, 130]);
    }

    #[test]
    fn an_error_that_grows_is_drift() {
        for (errors, passed) in [
            (&[(10, 1e-3), (100, 2e-3), (1000, 3e-3)][..], true),
            (&[(10, 1e-3), (100, 2e-3), (1000, 9e-3)], false),
            (&[(10, 1e-3), (100, f64::INFINITY), (1000, 1e-3)], false),
            (&[(10, 0.0), (100, 0.0), (1000, 4e-7)], true),
            (&[(5, 0.5)], true),
        ] {
            assert_eq!(run(errors).passed(), passed, "{errors:?}");
        }
    }

    #[test]
    fn bits_are_compared_and_not_numbers() {
        assert_eq!(differs(&[0.0, f32::NAN], &[0.0, f32::NAN]), None);
        assert_eq!(differs(&[1.0, 0.0], &[1.0, -0.0]), Some((1, 0.0, -0.0)));
        assert!(differs(&[1.0], &[]).is_some());
    }
}
