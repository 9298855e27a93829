//! A model of one recurrence, from its step and the sizes of its axes alone.
//!
//! What lives here: finding out from a step which names are inputs, states and outputs, and writing the
//! model text that says so. What never will: reading that text, which is done as for any other.

use super::error::{LanguageError, Result, refuse};
use super::source::{Snippet, SourceMap};
use super::token::{Token, TokenKind, tokens};
use crate::Span;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// A step with the sizes of its axes, and what is declared beside it.
///
/// A list that is not given is taken from the step: `S[H, i, j] = S * w[H, j] + k[H, j] * v[H, i]` says
/// over which axes each name runs, once, where it is first written. What is read and never assigned is an
/// input; what is read before it is assigned, a state; what is assigned besides and has axes, an output.
#[derive(Clone, Debug, Default)]
pub struct RecurrenceText<'a> {
    /// The step equations, as in a model text.
    pub step: &'a str,
    /// Axes and their sizes, in any order.
    pub axes: &'a [(String, usize)],
    /// As `inputs` of a recurrence: `r[H, j], v[H, i]`.
    pub inputs: Option<&'a str>,
    /// Inputs without batch and time, `A[D, N]`; the axes may stand in the step instead.
    pub constants: Option<&'a str>,
    /// As `state` of a recurrence.
    pub state: Option<&'a str>,
    /// As `outputs` of a recurrence.
    pub outputs: Option<&'a str>,
}

/// A name with its axes.
#[derive(Clone, Debug)]
struct Declared {
    name: String,
    /// What stands between the brackets, if there are any.
    axes: Option<String>,
    /// The declaration: `S[H, i, j]`, `m[H] = -inf`.
    formal: String,
}

impl Declared {
    fn new(name: &str, axes: Option<&String>) -> Self {
        Declared {
            name: name.to_owned(),
            axes: axes.cloned(),
            formal: match axes {
                Some(axes) => format!("{name}[{axes}]"),
                None => name.to_owned(),
            },
        }
    }
}

/// Words of the language that are no names.
const WORDS: [&str; 7] = ["if", "else", "and", "or", "not", "true", "false"];

impl RecurrenceText<'_> {
    /// The text of a model that takes the inputs and constants in their order and returns the outputs.
    pub fn model_text(&self) -> std::result::Result<String, LanguageError> {
        let mut sources = SourceMap::default();
        self.write(&mut sources)
            .map_err(|fault| fault.resolve(&sources))
    }

    fn write(&self, sources: &mut SourceMap) -> Result<String> {
        let step = snippet(sources, "step", self.step);
        if self.step.contains("'''") {
            return refuse(
                "a step holds no `'''`",
                "leave it out: comments begin with `#`",
                step.whole,
            );
        }
        let read = Step::read(&step)?;
        let axes = self.sizes(step.whole)?;
        let list = |sources: &mut SourceMap, what: &str, text: Option<&str>| match text {
            Some(text) => declared(&snippet(sources, what, text)).map(Some),
            None => Ok(None),
        };
        let mut constants = list(sources, "constants", self.constants)?.unwrap_or_default();
        for constant in &mut constants {
            if constant.axes.is_none() {
                *constant = Declared::new(&constant.name, read.axes.get(&constant.name));
            }
        }
        let is_constant = |name: &str| constants.iter().any(|c| c.name == name);
        let state = match list(sources, "state", self.state)? {
            Some(given) => given,
            None => read.states(),
        };
        let is_state = |name: &str| state.iter().any(|s| s.name == name);
        let inputs = match list(sources, "inputs", self.inputs)? {
            Some(given) => given,
            None => read.inputs(&axes, |name| is_constant(name) || is_state(name))?,
        };
        let outputs = match list(sources, "outputs", self.outputs)? {
            Some(given) => given,
            None => read.outputs(is_state),
        };
        for (what, names) in [
            ("inputs", &inputs),
            ("outputs", &outputs),
            ("state", &state),
        ] {
            if names.is_empty() {
                return refuse(
                    format!("the step has no {what}"),
                    "an input is read and never assigned, a state read before it is assigned, an output \
                     assigned; say over which axes a name runs where it is first written: \
                     `S[H, i, j] = S * w[H, j] + k[H, j] * v[H, i]; y[H, i] = sum(S * r[H, j], j)`",
                    step.whole,
                );
            }
        }
        let joined = |names: &[Declared]| {
            let formals: Vec<&str> = names.iter().map(|n| n.formal.as_str()).collect();
            formals.join(", ")
        };
        let bare = |names: &[Declared]| {
            let names: Vec<&str> = names.iter().map(|n| n.name.as_str()).collect();
            names.join(", ")
        };
        let formals: Vec<Declared> = inputs.iter().chain(&constants).cloned().collect();
        let mut text = String::from("name = \"recurrence\"\n\n[axes]\n");
        for (axis, size) in &axes {
            line(&mut text, format_args!("{axis} = {size}"));
        }
        text.push_str("\n[input]\n");
        for input in &inputs {
            let axes = input.axes.as_deref().unwrap_or_default();
            line(&mut text, format_args!("{} = \"{axes}\"", input.name));
        }
        if !constants.is_empty() {
            text.push_str("\n[param]\n");
        }
        for constant in &constants {
            let axes = constant.axes.as_deref().unwrap_or_default();
            let name = &constant.name;
            line(
                &mut text,
                format_args!("{name} = {{ shape = \"{axes}\", precision = \"f32\" }}"),
            );
        }
        text.push_str("\n[recurrence.step]\n");
        line(
            &mut text,
            format_args!("inputs  = \"{}\"", joined(&formals)),
        );
        line(&mut text, format_args!("state   = \"{}\"", joined(&state)));
        line(
            &mut text,
            format_args!("outputs = \"{}\"", joined(&outputs)),
        );
        line(&mut text, format_args!("step    = '''"));
        line(&mut text, format_args!("{}", read.without_axes));
        text.push_str("'''\n\n[model]\nflow = \"\"\"\n");
        let (names, arguments) = (bare(&outputs), bare(&formals));
        line(&mut text, format_args!("  {names} = step({arguments})"));
        line(&mut text, format_args!("  return {names}\n\"\"\""));
        Ok(text)
    }

    /// The axes, refused where the language could not read them back.
    fn sizes(&self, place: Span) -> Result<BTreeMap<&str, usize>> {
        let mut sizes = BTreeMap::new();
        for (axis, size) in self.axes {
            let mut letters = axis.chars();
            let begins = letters
                .next()
                .is_some_and(|c| c.is_alphabetic() || c == '_');
            if !begins || !letters.all(|c| c.is_alphanumeric() || c == '_') {
                return refuse(
                    format!("`{axis}` is no name for an axis"),
                    "names are letters, digits and `_`, and start with a letter or `_`",
                    place,
                );
            }
            sizes.insert(axis.as_str(), *size);
        }
        Ok(sizes)
    }
}

/// Writing to a string cannot fail.
fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    let _ = writeln!(text, "{arguments}");
}

fn snippet(sources: &mut SourceMap, name: &str, text: &str) -> Snippet {
    let base = sources.add(name.to_owned(), text.to_owned());
    Snippet {
        text: text.to_owned(),
        base: Some(base),
        whole: Span {
            start: base,
            end: base + text.len() as u32,
        },
    }
}

/// What a step says of its names.
struct Step {
    /// Axes by name, as first written.
    axes: BTreeMap<String, String>,
    /// Names in the order in which they first appear, with their places.
    order: Vec<(String, Span)>,
    assigned: BTreeSet<String>,
    read_first: BTreeSet<String>,
    /// The text, with the axes in brackets taken out.
    without_axes: String,
}

impl Step {
    fn read(snippet: &Snippet) -> Result<Self> {
        let base = snippet.base.unwrap_or(0);
        let tokens = tokens(snippet)?;
        let mut step = Step {
            axes: BTreeMap::new(),
            order: Vec::new(),
            assigned: BTreeSet::new(),
            read_first: BTreeSet::new(),
            without_axes: String::new(),
        };
        let mut kept = 0;
        for statement in tokens.split(|t| matches!(t.kind, TokenKind::Newline | TokenKind::End)) {
            let equals = statement.iter().position(|t| is(t, "="));
            let mut targets = Vec::new();
            let mut at = 0;
            while at < statement.len() {
                let TokenKind::Name(name) = &statement[at].kind else {
                    at += 1;
                    continue;
                };
                let called = statement.get(at + 1).is_some_and(|t| is(t, "("));
                let bracket = axes_after(statement, at);
                if let Some((close, axes)) = &bracket {
                    let known = step
                        .axes
                        .entry(name.clone())
                        .or_insert_with(|| axes.clone());
                    if known != axes {
                        return refuse(
                            format!("`{name}` runs over [{known}] before, and over [{axes}] here"),
                            "say its axes once",
                            statement[at].span,
                        );
                    }
                    let (open, end) = (statement[at].span.end, statement[*close].span.end);
                    let (open, end) = ((open - base) as usize, (end - base) as usize);
                    step.without_axes += snippet.text.get(kept..open).unwrap_or_default();
                    kept = end;
                }
                if !called && !WORDS.contains(&name.as_str()) {
                    if !step.order.iter().any(|(known, _)| known == name) {
                        step.order.push((name.clone(), statement[at].span));
                    }
                    if equals.is_some_and(|e| at < e) {
                        targets.push(name.clone());
                    } else if !step.assigned.contains(name) {
                        step.read_first.insert(name.clone());
                    }
                }
                at = bracket.map_or(at, |(close, _)| close) + 1;
            }
            step.assigned.extend(targets);
        }
        step.without_axes += snippet.text.get(kept..).unwrap_or_default();
        Ok(step)
    }

    fn declared(&self, name: &str) -> Declared {
        Declared::new(name, self.axes.get(name))
    }

    fn states(&self) -> Vec<Declared> {
        let states = self
            .order
            .iter()
            .filter(|(name, _)| self.assigned.contains(name) && self.read_first.contains(name));
        states.map(|(name, _)| self.declared(name)).collect()
    }

    /// What is read, is never assigned and is no axis. Its axes have to be known.
    fn inputs(
        &self,
        axes: &BTreeMap<&str, usize>,
        other: impl Fn(&str) -> bool,
    ) -> Result<Vec<Declared>> {
        let mut inputs = Vec::new();
        for (name, at) in &self.order {
            let is_axis = axes.contains_key(name.as_str()) && !self.axes.contains_key(name);
            if self.assigned.contains(name) || is_axis || other(name) {
                continue;
            }
            if !self.axes.contains_key(name) {
                return refuse(
                    format!("over which axes `{name}` runs is not said"),
                    format!(
                        "write them where it is first read, as in `{name}[H, j]`; `{name}[]` is one number"
                    ),
                    *at,
                );
            }
            inputs.push(self.declared(name));
        }
        Ok(inputs)
    }

    fn outputs(&self, is_state: impl Fn(&str) -> bool) -> Vec<Declared> {
        let outputs = self.order.iter().filter(|(name, _)| {
            self.assigned.contains(name) && self.axes.contains_key(name) && !is_state(name)
        });
        outputs.map(|(name, _)| self.declared(name)).collect()
    }
}

/// The names of a list such as `r[H, j], m[H] = -inf`, each with its axes.
fn declared(snippet: &Snippet) -> Result<Vec<Declared>> {
    let base = snippet.base.unwrap_or(0);
    let tokens = tokens(snippet)?;
    let text = |from: u32, to: u32| {
        let range = (from - base) as usize..(to - base) as usize;
        snippet.text.get(range).unwrap_or_default().trim()
    };
    let mut list: Vec<Declared> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let TokenKind::Name(name) = &tokens[at].kind else {
            at += 1;
            continue;
        };
        let after = |from: usize, symbol: &str| {
            let found = tokens.iter().skip(from).position(|t| is(t, symbol));
            found.map(|found| from + found)
        };
        let open = tokens.get(at + 1).is_some_and(|t| is(t, "["));
        let close = after(at, "]").filter(|_| open);
        let next = after(close.unwrap_or(at), ",").unwrap_or(tokens.len() - 1);
        list.push(Declared {
            name: name.clone(),
            axes: close
                .map(|close| text(tokens[at + 1].span.end, tokens[close].span.start).to_owned()),
            formal: text(tokens[at].span.start, tokens[next].span.start).to_owned(),
        });
        at = next + 1;
    }
    Ok(list)
}

fn is(token: &Token, symbol: &str) -> bool {
    matches!(token.kind, TokenKind::Symbol(s) if s == symbol)
}

/// The axes in brackets after the name at `at`, and where the bracket closes. What stands in brackets and
/// is no list of names (an index, `x[A = 3]`) is left for the language to judge.
fn axes_after(statement: &[Token], at: usize) -> Option<(usize, String)> {
    if !statement.get(at + 1).is_some_and(|t| is(t, "[")) {
        return None;
    }
    let mut names = Vec::new();
    for (i, token) in statement.iter().enumerate().skip(at + 2) {
        match &token.kind {
            TokenKind::Name(name) => names.push(name.as_str()),
            TokenKind::Symbol(",") => {}
            TokenKind::Symbol("]") => return Some((i, names.join(", "))),
            _ => return None,
        }
    }
    None
}
