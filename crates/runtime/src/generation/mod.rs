//! Token ids that a model goes on with: prompts read, tokens drawn one by one, many sequences at once.
//!
//! What lives here: the loop over a [`Session`], what of the sequences runs together, and the clock.
//! What never will: text (ids only), and the law by which a token is drawn ([`crate::sampling`]).

mod ends;
mod language;
mod rows;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fusec_ir::interpret::{Input, Tensor};

use crate::executor::{GoesOn, HostState, MOST_STEPS};
use crate::sampling::{Sampling, SamplingError};
use crate::session::{Session, SessionError};

pub use ends::ends;
pub use language::{LanguageModel, NoLanguageModel};
pub use rows::{joined, rows};

/// Tokens of a prompt that are read in one run; longer prompts take several, which carry the state.
pub const CHUNK: usize = 2048;

/// What is to be generated.
#[derive(Clone, Debug)]
pub struct Request {
    /// Token ids, at least one for each sequence.
    pub prompts: Vec<Vec<i32>>,
    /// Most tokens that follow each.
    pub tokens: usize,
    /// How they are drawn.
    pub sampling: Sampling,
    /// Ids that end a sequence and are no part of it.
    pub ends: Vec<i32>,
    /// The state of one sequence that all prompts go on from.
    pub state: Option<HostState>,
    /// Whether the state after the last token is wanted; for one prompt.
    pub keep_state: bool,
    /// Who draws the tokens of single steps.
    pub draw: Draw,
}

/// Who draws tokens from the logits of single steps. The tokens are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Draw {
    /// The device that the model runs on, where it can: the host looks after every [`LOOK`] steps.
    #[default]
    Device,
    /// The host, which waits for the logits of every step.
    Host,
}

/// Steps between two looks at the tokens that a device drew: what a sequence does beyond its end is computed
/// and left out. One where the state is kept, which has to end with the sequence.
pub const LOOK: usize = 16;
const _: () = assert!(LOOK <= MOST_STEPS);

/// Whether a sequence goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It does.
    On,
    /// The token that was shown is its last.
    Stop,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// It has as many tokens as were asked for.
    Length,
    /// The model drew a token that ends a text.
    End,
    /// The caller said so.
    Stopped,
}

/// What followed a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Token ids.
    pub tokens: Vec<i32>,
    /// Why there are no more.
    pub ended: Ended,
}

/// Tokens and the time they took.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Rate {
    /// Tokens of all sequences.
    pub tokens: usize,
    /// Wall-clock seconds.
    pub seconds: f64,
}

impl Rate {
    /// Tokens in a second; 0 where there were none.
    pub fn per_second(&self) -> f64 {
        match self.tokens {
            0 => 0.0,
            tokens => tokens as f64 / self.seconds.max(1e-9),
        }
    }

    fn add(&mut self, tokens: usize, took: Duration) {
        self.tokens += tokens;
        self.seconds += took.as_secs_f64();
    }
}

/// What was generated.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// One for each prompt.
    pub sequences: Vec<Sequence>,
    /// Reading the prompts.
    pub prefill: Rate,
    /// Single steps: the tokens that went into them, of sequences that had not ended.
    pub decode: Rate,
    /// Whether the tokens of single steps were drawn on the device.
    pub drawn_on_device: bool,
    /// Where it was asked for: the state that has seen the prompt and every token of the sequence.
    pub state: Option<HostState>,
}

/// Why nothing, or no more, was generated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The model does not map tokens to logits of tokens.
    #[error(transparent)]
    Model(#[from] NoLanguageModel),
    /// The device failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// No token can be drawn.
    #[error("sequence {sequence}, token {token}: {error}")]
    Sampling {
        /// Number of the prompt.
        sequence: usize,
        /// Number of the token after it.
        token: usize,
        /// Why.
        error: SamplingError,
    },
    /// A prompt of no tokens gives no logits.
    #[error("prompt {sequence} has no tokens: there has to be one to go on from")]
    Empty {
        /// Number of the prompt.
        sequence: usize,
    },
    /// A state of other than one sequence, to start all prompts from.
    #[error(
        "the state to start from holds {got} sequences, expected one, which every prompt goes on from"
    )]
    States {
        /// Sequences of the state.
        got: usize,
    },
    /// Several sequences end at different tokens, and have no state in common.
    #[error("the state after the last token is that of one prompt, {got} were given")]
    KeepStates {
        /// Prompts.
        got: usize,
    },
}

/// Generates. `watch` is shown each token, with the number of its prompt, as soon as it is drawn.
///
/// Sequences run together where what each computes is its own: all of them, or those of equal length
/// where the model asks for the position of a token. One that ended takes no further part: when half
/// of a batch has, the others go on as a smaller one.
pub fn generate(
    session: &mut dyn Session,
    request: &Request,
    watch: &mut dyn FnMut(usize, i32) -> Flow,
) -> Result<Generated, GenerateError> {
    let model = LanguageModel::of(session.graph())?;
    request
        .sampling
        .check()
        .map_err(|error| GenerateError::Sampling {
            sequence: 0,
            token: 0,
            error,
        })?;
    if let Some(sequence) = request.prompts.iter().position(Vec::is_empty) {
        return Err(GenerateError::Empty { sequence });
    }
    match &request.state {
        Some(state) if state.batch != 1 => {
            return Err(GenerateError::States { got: state.batch });
        }
        _ => {}
    }
    if request.keep_state && request.prompts.len() != 1 {
        return Err(GenerateError::KeepStates {
            got: request.prompts.len(),
        });
    }
    let mut work = Work {
        session,
        request,
        watch,
        tokens: model.tokens,
        live: Vec::new(),
        done: vec![None; request.prompts.len()],
        prefill: Rate::default(),
        decode: Rate::default(),
        begun: false,
    };
    let drawn_on_device = work.draws_on_device();
    for group in groups(&request.prompts, model.positions) {
        work.read(&group)?;
        work.go_on()?;
    }
    let state = match request.keep_state {
        true => Some(work.session.state()?),
        false => None,
    };
    let sequences = work.done.into_iter().map(|done| {
        done.unwrap_or(Sequence {
            tokens: Vec::new(),
            ended: Ended::Length,
        })
    });
    Ok(Generated {
        sequences: sequences.collect(),
        prefill: work.prefill,
        decode: work.decode,
        drawn_on_device,
        state,
    })
}

/// Numbers of the prompts that run together, each of one length first.
fn groups(prompts: &[Vec<i32>], positions: bool) -> Vec<Vec<Vec<usize>>> {
    let mut lengths: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (number, prompt) in prompts.iter().enumerate() {
        lengths.entry(prompt.len()).or_default().push(number);
    }
    let lengths: Vec<Vec<usize>> = lengths.into_values().collect();
    match positions {
        true => lengths.into_iter().map(|length| vec![length]).collect(),
        false if lengths.is_empty() => Vec::new(),
        false => vec![lengths],
    }
}

/// The largest batch that a request runs, and the tokens of the longest run: what memory is needed for.
pub fn largest_run(prompts: &[Vec<i32>], positions: bool) -> (usize, usize) {
    let groups = groups(prompts, positions);
    let batches = groups
        .iter()
        .map(|group| group.iter().map(Vec::len).sum::<usize>());
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(1);
    (batches.max().unwrap_or(1), longest.clamp(1, CHUNK))
}

/// A sequence that has not ended, at a row of the session's state.
struct Live {
    number: usize,
    row: usize,
    tokens: Vec<i32>,
    seen: Vec<bool>,
    /// Position of the next token.
    position: u64,
    /// Whether it has ended: its row is computed, and nobody looks.
    ended: bool,
}

struct Work<'a> {
    session: &'a mut dyn Session,
    request: &'a Request,
    watch: &'a mut dyn FnMut(usize, i32) -> Flow,
    /// Tokens that can be drawn.
    tokens: usize,
    live: Vec<Live>,
    done: Vec<Option<Sequence>>,
    prefill: Rate,
    decode: Rate,
    /// Whether the device was told which sequences to draw for.
    begun: bool,
}

impl Work<'_> {
    /// Reads the prompts of a group and draws the first token of each.
    fn read(&mut self, group: &[Vec<usize>]) -> Result<(), GenerateError> {
        self.begun = false;
        self.live.clear();
        let mut states = Vec::new();
        for numbers in group {
            let start = Instant::now();
            let logits = self.read_equal(numbers)?;
            let length = self.request.prompts[numbers[0]].len();
            self.prefill.add(length * numbers.len(), start.elapsed());
            let first_row = self.live.len();
            for (row, number) in numbers.iter().enumerate() {
                let prompt = &self.request.prompts[*number];
                let before = self.request.state.as_ref().map_or(0, |s| s.position);
                let mut seen = vec![false; self.tokens];
                prompt.iter().for_each(|token| mark(&mut seen, *token));
                self.live.push(Live {
                    number: *number,
                    row: first_row + row,
                    tokens: Vec::new(),
                    seen,
                    position: before.unsigned_abs() + prompt.len() as u64,
                    ended: false,
                });
            }
            self.draw(first_row, &logits)?;
            if group.len() > 1 {
                states.push(self.session.state()?);
            }
        }
        if let Some(all) = joined(&states) {
            self.session.set_state(&all)?;
        }
        Ok(())
    }

    /// Reads prompts of equal length; the logits after each.
    fn read_equal(&mut self, numbers: &[usize]) -> Result<Tensor<f32>, GenerateError> {
        match &self.request.state {
            None => self.session.reset(numbers.len())?,
            Some(state) => {
                let same = vec![0; numbers.len()];
                self.session.set_state(&rows(state, &same))?;
            }
        }
        let prompts: Vec<&[i32]> = numbers
            .iter()
            .map(|number| self.request.prompts[*number].as_slice())
            .collect();
        let length = prompts[0].len();
        let mut logits = Tensor::Numbers(Arc::default());
        for start in (0..length).step_by(CHUNK) {
            let end = length.min(start + CHUNK);
            let ids: Vec<i32> = prompts
                .iter()
                .flat_map(|p| &p[start..end])
                .copied()
                .collect();
            logits = first(self.session.run_last(end - start, &[Input::Ids(&ids)])?);
        }
        Ok(logits)
    }

    /// Draws a token for each sequence from some row on, whose logits these are.
    fn draw(&mut self, from: usize, logits: &Tensor<f32>) -> Result<(), GenerateError> {
        let logits = logits.numbers().unwrap_or_default();
        let rows = self.live.len() - from;
        let width = logits.len() / rows.max(1);
        for live in &mut self.live[from..] {
            if live.ended {
                continue;
            }
            let row = &logits[(live.row - from) * width..][..self.tokens];
            let sampling = &self.request.sampling;
            let drawn = sampling.next(row, &live.seen, live.position, live.number as u32);
            let token = drawn.map_err(|error| GenerateError::Sampling {
                sequence: live.number,
                token: live.tokens.len(),
                error,
            })?;
            take(live, token as i32, self.request, self.watch, &mut self.done);
        }
        Ok(())
    }

    /// Single steps until every sequence has ended.
    fn go_on(&mut self) -> Result<(), GenerateError> {
        loop {
            let live = self.live.iter().filter(|live| !live.ended).count();
            if live == 0 {
                break;
            }
            if 2 * live <= self.live.len() {
                self.leave_out_ended()?;
            }
            let start = Instant::now();
            let went_in = match self.draws_on_device() {
                true => self.steps_on_device()?,
                false => {
                    let logits = self.step()?;
                    self.draw(0, &logits)?;
                    live
                }
            };
            self.decode.add(went_in, start.elapsed());
        }
        // The last token of a sequence was drawn, and seen by nobody yet.
        let unseen = |done: &Sequence| !done.tokens.is_empty();
        if self.request.keep_state && self.done.iter().flatten().any(unseen) {
            let ended_by = self.done.iter().flatten().map(|done| done.ended).next();
            if ended_by != Some(Ended::End) {
                self.step()?;
            }
        }
        Ok(())
    }

    fn draws_on_device(&mut self) -> bool {
        self.request.draw == Draw::Device && self.session.drawing().is_some()
    }

    /// Some steps whose tokens the device draws. How many tokens went into them, of sequences that had not
    /// ended.
    fn steps_on_device(&mut self) -> Result<usize, GenerateError> {
        let on = self.live.iter().filter(|live| !live.ended);
        let wanted = on.map(|live| self.request.tokens.saturating_sub(live.tokens.len()));
        let steps = match self.request.keep_state {
            true => 1,
            false => wanted.max().unwrap_or(1).clamp(1, LOOK),
        };
        let sequences = self.live.iter().map(|live| GoesOn {
            last: last_token(live, self.request),
            seen: &live.seen,
            position: live.position,
            number: live.number as u32,
        });
        let sequences: Vec<GoesOn<'_>> = sequences.collect();
        let Some(drawing) = self.session.drawing() else {
            return Ok(0);
        };
        if !self.begun {
            drawing.begin(&self.request.sampling, &sequences)?;
        }
        let drawn = drawing.draw(steps)?;
        self.begun = true;
        let mut went_in = 0;
        for step in 0..steps {
            for live in self.live.iter_mut().filter(|live| !live.ended) {
                went_in += 1;
                let Some(token) = drawn.get(live.row).and_then(|row| row.get(step)) else {
                    continue;
                };
                let token = token.clone().map_err(|error| GenerateError::Sampling {
                    sequence: live.number,
                    token: live.tokens.len(),
                    error,
                })?;
                take(live, token, self.request, self.watch, &mut self.done);
            }
        }
        Ok(went_in)
    }

    /// Runs one step with the last token of every row.
    fn step(&mut self) -> Result<Tensor<f32>, GenerateError> {
        let last = self.live.iter();
        let ids: Vec<i32> = last.map(|live| last_token(live, self.request)).collect();
        self.begun = false;
        Ok(first(self.session.run_last(1, &[Input::Ids(&ids)])?))
    }

    /// Goes on with those that have not ended as a smaller batch.
    fn leave_out_ended(&mut self) -> Result<(), GenerateError> {
        self.begun = false;
        self.live.retain(|live| !live.ended);
        let kept: Vec<usize> = self.live.iter().map(|live| live.row).collect();
        let state = rows(&self.session.state()?, &kept);
        self.session.set_state(&state)?;
        for (row, live) in self.live.iter_mut().enumerate() {
            live.row = row;
        }
        Ok(())
    }
}

/// The token that the next step reads.
fn last_token(live: &Live, request: &Request) -> i32 {
    let prompt = &request.prompts[live.number];
    live.tokens.last().or(prompt.last()).copied().unwrap_or(0)
}

/// One more token of a sequence, which may be its last.
fn take(
    live: &mut Live,
    token: i32,
    request: &Request,
    watch: &mut dyn FnMut(usize, i32) -> Flow,
    done: &mut [Option<Sequence>],
) {
    let ended = if request.tokens == 0 {
        Some(Ended::Length)
    } else if request.ends.contains(&token) {
        Some(Ended::End)
    } else {
        live.tokens.push(token);
        mark(&mut live.seen, token);
        live.position += 1;
        match watch(live.number, token) {
            Flow::Stop => Some(Ended::Stopped),
            Flow::On if live.tokens.len() >= request.tokens => Some(Ended::Length),
            Flow::On => None,
        }
    };
    if let Some(ended) = ended {
        live.ended = true;
        done[live.number] = Some(Sequence {
            tokens: live.tokens.clone(),
            ended,
        });
    }
}

fn mark(seen: &mut [bool], token: i32) {
    if let Some(seen) = usize::try_from(token).ok().and_then(|at| seen.get_mut(at)) {
        *seen = true;
    }
}

/// The first output: the logits.
fn first(outputs: Vec<Tensor<f32>>) -> Tensor<f32> {
    let none = || Tensor::Numbers(Arc::default());
    outputs.into_iter().next().unwrap_or_else(none)
}
