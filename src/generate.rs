//! `fusec generate`: a text in, what the model goes on with out, as it comes.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use fusec_fuse::Shape;
use fusec_ir::last_row::only_last_rows;
use fusec_runtime::generation::{
    self, Draw, Ended, Flow, Generated, LanguageModel, Rate, Request, largest_run,
};
use fusec_runtime::model::Model;
use fusec_runtime::sampling::Sampling;
use fusec_runtime::weights::WeightSpec;
use fusec_text::{Decoder, StopTexts, TokenizeError, Tokenizer};
use serde::Serialize;

use crate::device::{self, Device};
use crate::exit::Exit;
use crate::failure::{self, Failure};
use crate::flags::{KernelArgs, ModelArgs};
use crate::model;
use crate::output::Output;
use crate::place;
use crate::run::read_state;
use crate::texts;

/// Goes on with a text: tokens are drawn one by one and their text streams to stdout; tokens per second
/// go to stderr.
///
/// Text becomes token ids by --tokenizer, or by the tokenizer.json or the RWKV World vocabulary in the
/// checkpoint's directory. Without one, a model of 256 tokens is taken to map bytes. The same command
/// gives the same tokens: they are drawn by --seed (docs/generation.md).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fusec generate checkpoints/rwkv7 --prompt Once --tokens 20
  fusec generate checkpoints/rwkv6 --prompt Once --temperature 0.8 --top-p 0.9 --seed 7 --tokens 20
  fusec generate checkpoints/rwkv7 --prompt Once --tokens 20 --state-out s.safetensors
  fusec generate models/hybrid.toml --weights random:0 --prompt Once --tokens 8 --json | jq .sequences[].text")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// A checkpoint, or random:SEED; by default those of the checkpoint that MODEL is.
    #[arg(long, value_name = "WEIGHTS")]
    weights: Option<WeightSpec>,
    #[command(flatten)]
    prompts: PromptArgs,
    /// Most tokens that follow.
    #[arg(long, value_name = "N", default_value_t = 256)]
    tokens: usize,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// A text that ends the answer, and is no part of it. May be repeated.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// A tokenizer.json, or an RWKV World vocabulary (rwkv_vocab_v20230424.txt).
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// The state of one sequence to go on from, as --state-out wrote it; every prompt begins there.
    #[arg(long, value_name = "FILE")]
    state_in: Option<PathBuf>,
    /// Where the state goes that has seen the prompt and the answer; of one prompt.
    #[arg(long, value_name = "FILE", conflicts_with = "batch")]
    state_out: Option<PathBuf>,
    /// Where it runs: auto, cpu, emulator, cuda:N.
    #[arg(long, default_value_t = Device::Auto)]
    device: Device,
    #[command(flatten)]
    kernels: KernelArgs,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct PromptArgs {
    /// The text to go on with.
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// A file with that text, in UTF-8.
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// Many texts, one on each line, or a .json file with an array of strings; they run together, and
    /// each ends by itself.
    #[arg(long, value_name = "FILE")]
    batch: Option<PathBuf>,
}

/// How the next token is drawn.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sampling")]
struct SamplingArgs {
    /// Divides the logits; 0 takes the likeliest token always.
    #[arg(long, default_value_t = 1.0)]
    temperature: f32,
    /// Draw from so many of the likeliest tokens; 0 for all.
    #[arg(long, value_name = "N", default_value_t = 0)]
    top_k: u32,
    /// Draw from as many of the likeliest as have this share of the probability.
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    top_p: f32,
    /// Divides the logits above 0 of tokens that were there before, and multiplies those below.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Who draws: device (where the model runs, if it runs kernels there), or host, which copies the logits
    /// of each step. The tokens are the same.
    #[arg(long, value_name = "WHERE", default_value_t = DrawArg(Draw::Device))]
    draw_on: DrawArg,
}

/// Who draws tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DrawArg(Draw);

impl fmt::Display for DrawArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Draw::Device => "device",
            Draw::Host => "host",
        })
    }
}

impl FromStr for DrawArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "device" => Ok(DrawArg(Draw::Device)),
            "host" => Ok(DrawArg(Draw::Host)),
            _ => Err(format!("`{text}` is neither device nor host")),
        }
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    model: &'a str,
    device: String,
    tokenizer: &'a str,
    /// Whether the tokens of single steps were drawn where the model runs.
    drawn_on_device: bool,
    sequences: Vec<Answered>,
    prefill: Speed,
    decode: Speed,
}

#[derive(Serialize)]
struct Answered {
    prompt_tokens: usize,
    tokens: Vec<i32>,
    text: String,
    ended: Ended,
}

#[derive(Serialize)]
struct Speed {
    #[serde(flatten)]
    rate: Rate,
    tokens_per_second: f64,
}

/// Runs the verb.
pub fn run(args: &Args, output: &mut Output) -> Result<Exit, Failure> {
    if let Some(path) = &args.state_out {
        let prompts = [
            &args.prompts.prompt_file,
            &args.prompts.batch,
            &args.tokenizer,
        ];
        let read = args.model.read(args.weights.as_ref());
        place::check(
            path,
            read.chain(prompts.into_iter().filter_map(|path| path.as_deref())),
        )?;
    }
    let model = model::open(&args.model)?;
    output.assume(&model);
    let graph = &model.graph;
    let language = LanguageModel::of(graph).map_err(failure::input)?;
    let tokenizer = tokenizer(args.tokenizer.as_deref(), &args.model.model, language)?;
    let request = request(args, &model, &tokenizer, language)?;
    let (batch, time) = largest_run(&request.prompts, language.positions);
    let shape = Shape { batch, time };
    // Of a prompt, only the last row says what comes next.
    let last = only_last_rows(graph);
    device::admit(args.device, &last, shape)?;
    let weights = model::weights(&model, args.weights.as_ref())?;
    let started = device::start_drawing(
        args.device,
        graph,
        &last,
        language.tokens,
        weights,
        &args.kernels,
        shape,
    )?;
    let mut session = started.session;

    let mut texts: Vec<Text<'_>> = Vec::new();
    texts.resize_with(request.prompts.len(), || Text::new(&tokenizer, &args.stop));
    let streams = request.prompts.len() == 1 && !output.is_json();
    let mut failed = None;
    let mut watch = |number: usize, token: i32| {
        let shown = texts[number].push(token).and_then(|(text, flow)| {
            if streams {
                output.piece(&text)?;
            }
            Ok(flow)
        });
        shown.unwrap_or_else(|failure| {
            failed = Some(failure);
            Flow::Stop
        })
    };
    let generated = generation::generate(session.as_mut(), &request, &mut watch);
    if let Some(failure) = failed {
        return Err(failure);
    }
    let generated = generated.map_err(failure::input)?;
    for text in &mut texts {
        let rest = text.finish()?;
        if streams {
            output.piece(&rest)?;
        }
    }
    if let (Some(path), Some(state)) = (&args.state_out, &generated.state) {
        state.save(graph, path).map_err(failure::input)?;
    }
    let device = session.device();
    report(&generated, &device);
    let sequences = generated.sequences.iter().zip(texts).zip(&request.prompts);
    let answer = Answer {
        model: &graph.name,
        device,
        tokenizer: tokenizer.name(),
        drawn_on_device: generated.drawn_on_device,
        sequences: sequences
            .map(|((sequence, text), prompt)| Answered {
                prompt_tokens: prompt.len(),
                tokens: sequence.tokens.clone(),
                text: text.all,
                ended: sequence.ended,
            })
            .collect(),
        prefill: generated.prefill.into(),
        decode: generated.decode.into(),
    };
    output.answer(&answer, || match streams {
        true => "\n".into(),
        false => blocks(&answer),
    })?;
    Ok(Exit::Success)
}

/// What turns text into the model's tokens.
pub fn tokenizer(
    given: Option<&Path>,
    model: &Path,
    language: LanguageModel,
) -> Result<Tokenizer, Failure> {
    if let Some(path) = given {
        return Tokenizer::open(path).map_err(failure::input);
    }
    let directory = match model.is_dir() {
        true => model,
        false => model.parent().unwrap_or(Path::new("")),
    };
    if let Some(found) = Tokenizer::beside(directory).map_err(failure::input)? {
        return Ok(found);
    }
    let bytes = Tokenizer::bytes();
    let names = Tokenizer::files().join(" nor ");
    let place = match directory.as_os_str().is_empty() {
        true => ".".into(),
        false => directory.display().to_string(),
    };
    if language.tokens == bytes.entries() {
        tracing::warn!(
            "there is neither {names} in {place}: each of the model's 256 tokens is taken to be a byte"
        );
        return Ok(bytes);
    }
    Err(failure::message(
        format!(
            "there is neither {names} in {place}, and the model's {} tokens are no bytes",
            language.tokens
        ),
        "give the model's vocabulary as --tokenizer FILE: a tokenizer.json, or the RWKV World \
         vocabulary, which the PyPI package rwkv holds (rwkv_vocab_v20230424.txt)",
    ))
}

/// Everything that generation is told.
fn request(
    args: &Args,
    model: &Model,
    tokenizer: &Tokenizer,
    language: LanguageModel,
) -> Result<Request, Failure> {
    let prompts = prompts(&args.prompts)?
        .iter()
        .enumerate()
        .map(|(number, text)| ids(tokenizer, language, number, text))
        .collect::<Result<Vec<_>, _>>()?;
    let mut ends = match &model.checkpoint {
        Some(checkpoint) => generation::ends(checkpoint).map_err(failure::input)?,
        None => Vec::new(),
    };
    ends.extend(tokenizer.end().and_then(|id| i32::try_from(id).ok()));
    let state = match &args.state_in {
        Some(path) => Some(read_state(&model.graph, path, 1)?),
        None => None,
    };
    let sampling = &args.sampling;
    Ok(Request {
        prompts,
        tokens: args.tokens,
        sampling: Sampling {
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            repetition_penalty: sampling.repetition_penalty,
            seed: sampling.seed,
        },
        ends,
        state,
        keep_state: args.state_out.is_some(),
        draw: sampling.draw_on.0,
    })
}

fn prompts(args: &PromptArgs) -> Result<Vec<String>, Failure> {
    let texts = match (&args.prompt, &args.prompt_file, &args.batch) {
        (Some(text), ..) => vec![text.clone()],
        (_, Some(path), _) => vec![read(path)?],
        (.., Some(path)) => {
            let text = read(path)?;
            match path.extension().is_some_and(|ending| ending == "json") {
                false => text.lines().map(str::to_owned).collect(),
                true => serde_json::from_str(&text).map_err(|error| {
                    failure::message(
                        format!("{} is no JSON array of strings: {error}", path.display()),
                        "write [\"first prompt\", \"second prompt\"], or one prompt a line in a file \
                         with another ending",
                    )
                })?,
            }
        }
        _ => Vec::new(),
    };
    match texts.is_empty() {
        false => Ok(texts),
        true => Err(failure::message(
            "there is no prompt",
            "give --prompt, --prompt-file, or a --batch of at least one line",
        )),
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    texts::text(path).map_err(|error| {
        failure::message(
            format!("cannot read {}: {error}", path.display()),
            "give a file of text in UTF-8",
        )
    })
}

/// The ids of a prompt, each one of the model's.
fn ids(
    tokenizer: &Tokenizer,
    language: LanguageModel,
    number: usize,
    text: &str,
) -> Result<Vec<i32>, Failure> {
    let ids = tokenizer.encode(text).map_err(failure::input)?;
    if let Some(id) = ids.iter().find(|id| **id as usize >= language.tokens) {
        return Err(failure::message(
            format!(
                "prompt {number} has the token {id} by {}, and the model has {}",
                tokenizer.name(),
                language.tokens
            ),
            "give the vocabulary that the model was trained with as --tokenizer FILE",
        ));
    }
    if ids.is_empty() {
        return Err(failure::message(
            format!("prompt {number} has no tokens"),
            "a model needs at least one token to go on from",
        ));
    }
    // Below the number of the model's tokens.
    Ok(ids.into_iter().map(|id| id as i32).collect())
}

/// The text of a sequence as it grows.
struct Text<'a> {
    decoder: Decoder<'a>,
    stops: StopTexts,
    stopped: bool,
    all: String,
}

impl<'a> Text<'a> {
    fn new(tokenizer: &'a Tokenizer, stops: &[String]) -> Self {
        Text {
            decoder: tokenizer.decoder(),
            stops: StopTexts::new(stops.iter().cloned()),
            stopped: false,
            all: String::new(),
        }
    }

    /// One more token: what can be shown, and whether there is more to come.
    fn push(&mut self, token: i32) -> Result<(String, Flow), Failure> {
        let id = u32::try_from(token).unwrap_or_default();
        let text = self.decoder.push(id).map_err(failure::input)?;
        let passed = self.stops.push(&text);
        self.all.push_str(&passed.text);
        self.stopped = passed.stopped;
        let flow = match passed.stopped {
            true => Flow::Stop,
            false => Flow::On,
        };
        Ok((passed.text, flow))
    }

    /// What is left to show when there is no more.
    fn finish(&mut self) -> Result<String, Failure> {
        if self.stopped {
            return Ok(String::new());
        }
        let rest: Result<String, TokenizeError> = self.decoder.finish();
        let passed = self.stops.push(&rest.map_err(failure::input)?);
        let mut rest = passed.text;
        if !passed.stopped {
            rest.push_str(&self.stops.finish());
        }
        self.all.push_str(&rest);
        Ok(rest)
    }
}

impl From<Rate> for Speed {
    fn from(rate: Rate) -> Self {
        Speed {
            tokens_per_second: rate.per_second(),
            rate,
        }
    }
}

/// The speeds, beside the text and not in it.
fn report(generated: &Generated, device: &str) {
    let part = |name: &str, rate: Rate| {
        format!(
            "{name} {} tokens in {:.3} s ({:.1} tokens/s)",
            rate.tokens,
            rate.seconds,
            rate.per_second()
        )
    };
    let (prefill, decode) = (
        part("prefill", generated.prefill),
        part("decode", generated.decode),
    );
    // That nobody reads stderr is no reason to fail.
    let _ = writeln!(io::stderr(), "{device}: {prefill}, {decode}");
}

/// The answers to many prompts, each under a line with its number.
fn blocks(answer: &Answer<'_>) -> String {
    let blocks = answer.sequences.iter().enumerate();
    blocks
        .map(|(number, answered)| format!("==> {number}\n{}\n", answered.text))
        .collect()
}
