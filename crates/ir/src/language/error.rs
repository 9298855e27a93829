//! What can be wrong with a model text, where, and what to do about it.

use super::excerpt::Excerpt;
use super::message::readable;
use super::source::SourceMap;
use crate::Span;
use miette::{Diagnostic, LabeledSpan, SourceCode};
use std::fmt;
use thiserror::Error;

/// Longest message, in bytes: a text in it may be as long as the file.
const MESSAGE: usize = 1000;

/// A problem in a model text, with its place.
#[derive(Debug)]
pub struct LanguageError(Box<Report>);

#[derive(Debug)]
struct Report {
    problem: Box<Problem>,
    message: String,
    text: Excerpt,
    labels: Vec<LabeledSpan>,
    help: String,
}

impl LanguageError {
    /// What is wrong.
    pub fn problem(&self) -> &Problem {
        &self.0.problem
    }
}

impl std::error::Error for LanguageError {}

impl fmt::Display for LanguageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl Diagnostic for LanguageError {
    fn code<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        Some(Box::new(format!("model::{}", self.0.problem.code())))
    }
    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        Some(Box::new(&self.0.help))
    }
    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.0.text)
    }
    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(self.0.labels.iter().cloned()))
    }
}

/// Something worth saying that does not stop compilation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The message.
    pub message: String,
    /// Where.
    pub span: Span,
}

/// Everything that can be wrong with a model text.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Problem {
    /// The file is not TOML.
    #[error("this is not valid TOML: {message}")]
    Toml {
        /// The TOML reader's words.
        message: String,
    },
    /// A key of the wrong type.
    #[error("`{key}` must be {expected}, but it is {found}")]
    WrongType {
        /// The key.
        key: String,
        /// What is needed.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A key that means nothing here.
    #[error("unknown key `{key}` in {place}")]
    UnknownKey {
        /// The key.
        key: String,
        /// The table that holds it.
        place: String,
        /// What may stand there.
        known: Vec<String>,
    },
    /// A key that has to be there.
    #[error("{place} has no `{key}`")]
    MissingKey {
        /// The key.
        key: &'static str,
        /// The table that should hold it.
        place: String,
    },
    /// A name that is given twice.
    #[error("{what} `{name}` is defined twice")]
    Twice {
        /// What kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// An included file that cannot be read.
    #[error("cannot include `{path}`: {reason}")]
    Include {
        /// As written.
        path: String,
        /// Why not.
        reason: String,
    },
    /// Text that does not parse.
    #[error("expected {expected}, found {found}")]
    Syntax {
        /// What could stand here.
        expected: String,
        /// What does.
        found: String,
    },
    /// Text beyond a limit.
    #[error("{what} is longer than {limit} {unit}")]
    TooLong {
        /// What is too long.
        what: String,
        /// The limit.
        limit: usize,
        /// What is counted.
        unit: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// Nesting beyond the limit.
    #[error("nested more than {limit} deep")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// A name that is not an axis.
    #[error("unknown axis `{name}`")]
    UnknownAxis {
        /// The name.
        name: String,
        /// The axes there are.
        known: Vec<String>,
    },
    /// A name that is nothing.
    #[error("unknown name `{name}`")]
    UnknownName {
        /// The name.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// A call of nothing.
    #[error("there is no function, block or recurrence called `{name}`")]
    UnknownFunction {
        /// The name.
        name: String,
        /// The functions, blocks and recurrences there are.
        known: Vec<String>,
    },
    /// A keyword that the callee does not have.
    #[error("`{function}` has no argument called `{name}`")]
    UnknownArgument {
        /// Who is called.
        function: String,
        /// The keyword.
        name: String,
        /// The arguments it has.
        known: Vec<String>,
    },
    /// An override or preset of something that the model does not have.
    #[error("the model has no {what} called `{name}`")]
    UnknownOverride {
        /// What kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
        /// The ones there are.
        known: Vec<String>,
    },
    /// An override of an axis given as one of a setting, or the other way round.
    #[error("`{name}` is {is}, not {given}")]
    OtherOverride {
        /// Its name.
        name: String,
        /// What it is, with the article.
        is: &'static str,
        /// What it was given as, with the article.
        given: &'static str,
        /// How it is given instead.
        instead: &'static str,
    },
    /// A name that is set, but further down.
    #[error("`{name}` is read before it is set")]
    ReadBeforeSet {
        /// The name.
        name: String,
    },
    /// Two tensors that do not fit.
    #[error("shapes do not match: {left} and {right}: {why}")]
    ShapeMismatch {
        /// First tensor with its axes.
        left: String,
        /// Second tensor with its axes.
        right: String,
        /// What does not fit.
        why: String,
        /// What to do.
        advice: String,
    },
    /// An axis named twice where once is possible.
    #[error("axis `{axis}` is used twice in {place}")]
    AxisTwice {
        /// The axis.
        axis: String,
        /// Where.
        place: String,
    },
    /// A result that lacks an axis or has one too many.
    #[error("{what} has axes {found}, but {expected} are declared: {why}")]
    WrongAxes {
        /// The tensor.
        what: String,
        /// Its axes.
        found: String,
        /// The declared ones.
        expected: String,
        /// Which axis is lost or left over.
        why: String,
    },
    /// A reduction or normalisation over an axis that the tensor does not have.
    #[error("{tensor} has no axis `{axis}`")]
    NoSuchAxis {
        /// The tensor with its axes.
        tensor: String,
        /// The axis.
        axis: String,
        /// Axes it does have.
        known: Vec<String>,
    },
    /// An argument that is not given.
    #[error("`{function}` needs {argument}")]
    MissingArgument {
        /// Who is called.
        function: String,
        /// What is missing.
        argument: String,
        /// How to call it.
        usage: String,
    },
    /// An argument too many, or one that cannot be used.
    #[error("`{function}` takes {takes}, {found}")]
    BadArgument {
        /// Who is called.
        function: String,
        /// What it takes.
        takes: String,
        /// What it got.
        found: String,
    },
    /// A look into the future.
    #[error("this reads {steps} steps into the future")]
    NonCausal {
        /// How far.
        steps: i64,
    },
    /// A size of zero, or beyond sense.
    #[error("{what} is {size}, which is not between 1 and {limit}")]
    BadSize {
        /// Of what.
        what: String,
        /// The size.
        size: String,
        /// The largest possible.
        limit: String,
    },
    /// Blocks, or axes, that are defined through themselves.
    #[error("{what} is defined through itself: {path}")]
    Recursion {
        /// What kind of thing.
        what: &'static str,
        /// The circle.
        path: String,
    },
    /// A number needed at compile time that is not one.
    #[error("{what} must be known when the model is compiled")]
    NotStatic {
        /// What.
        what: String,
    },
    /// Compile-time arithmetic without an answer.
    #[error("{what}")]
    Arithmetic {
        /// What went wrong.
        what: String,
        /// What to do.
        advice: String,
    },
    /// Anything else.
    #[error("{what}")]
    Other {
        /// What is wrong.
        what: String,
        /// What to do.
        advice: String,
    },
}

impl Problem {
    /// Short identifier, stable across releases.
    pub fn code(&self) -> &'static str {
        match self {
            Problem::Toml { .. } => "toml",
            Problem::WrongType { .. } => "wrong_type",
            Problem::UnknownKey { .. } => "unknown_key",
            Problem::MissingKey { .. } => "missing_key",
            Problem::Twice { .. } => "twice",
            Problem::Include { .. } => "include",
            Problem::Syntax { .. } => "syntax",
            Problem::TooLong { .. } => "too_long",
            Problem::TooDeep { .. } => "too_deep",
            Problem::UnknownAxis { .. } => "unknown_axis",
            Problem::UnknownName { .. } => "unknown_name",
            Problem::UnknownFunction { .. } => "unknown_function",
            Problem::UnknownArgument { .. } => "unknown_argument",
            Problem::UnknownOverride { .. } => "unknown_override",
            Problem::OtherOverride { .. } => "other_override",
            Problem::ReadBeforeSet { .. } => "read_before_set",
            Problem::ShapeMismatch { .. } => "shape_mismatch",
            Problem::AxisTwice { .. } => "axis_twice",
            Problem::WrongAxes { .. } => "wrong_axes",
            Problem::NoSuchAxis { .. } => "no_such_axis",
            Problem::MissingArgument { .. } => "missing_argument",
            Problem::BadArgument { .. } => "bad_argument",
            Problem::NonCausal { .. } => "non_causal",
            Problem::BadSize { .. } => "bad_size",
            Problem::Recursion { .. } => "recursion",
            Problem::NotStatic { .. } => "not_static",
            Problem::Arithmetic { .. } => "arithmetic",
            Problem::Other { .. } => "other",
        }
    }

    /// The way out.
    fn help(&self) -> String {
        match self {
            Problem::Toml { .. } => "the rest of the file cannot be read before this is".into(),
            Problem::WrongType { expected, .. } => format!("write {expected} here"),
            Problem::UnknownKey { key, known, .. } => suggest(key, known, "keys are"),
            Problem::UnknownAxis { name, known } => match nearest(name, known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("declare it in [axes]; axes are {}", listed(known)),
            },
            Problem::UnknownName { name, known } => match nearest(name, known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!(
                    "set it above, or declare it as a parameter, a setting or an argument; \
                     names here are {}",
                    listed(known)
                ),
            },
            Problem::UnknownFunction { name, known } => {
                suggest(name, known, "functions, blocks and recurrences are")
            }
            Problem::UnknownArgument { name, known, .. } => suggest(name, known, "arguments are"),
            Problem::UnknownOverride { name, known, .. } => suggest(name, known, "there are"),
            Problem::OtherOverride { name, instead, .. } => {
                format!("give it as `{instead} {name}=...`")
            }
            Problem::MissingKey { key, .. } => format!("add `{key} = ...`"),
            Problem::Twice { .. } => "rename or remove one of them".into(),
            Problem::Include { .. } => {
                "include files by a path below the directory of this file".into()
            }
            Problem::Syntax { .. } => {
                "statements are `name = expression`, one to a line; a line goes on inside ( ) and \
                 [ ] and after an operator"
                    .into()
            }
            Problem::TooLong { advice, .. } => (*advice).into(),
            Problem::TooDeep { .. } => "give a part of it a name of its own".into(),
            Problem::ReadBeforeSet { name } => {
                format!("move the statement that sets `{name}` above this one")
            }
            Problem::ShapeMismatch { advice, .. }
            | Problem::Arithmetic { advice, .. }
            | Problem::Other { advice, .. } => advice.clone(),
            Problem::AxisTwice { .. } => {
                "give the second one a name of its own: declare another axis of the same size, \
                 or use `rename(x, A -> B)`"
                    .into()
            }
            Problem::WrongAxes { .. } => {
                "an axis goes away by sum(x, AXIS), a selection x[AXIS = 0] or a contraction x @ w"
                    .into()
            }
            Problem::NoSuchAxis { axis, known, .. } => suggest(axis, known, "its axes are"),
            Problem::MissingArgument { usage, .. } => format!("usage: {usage}"),
            Problem::BadArgument { takes, .. } => format!("give {takes}"),
            Problem::NonCausal { .. } => {
                "a model may only look back: use delay(x, k) with k >= 0".into()
            }
            Problem::BadSize { .. } => "check the sizes in [axes], presets and overrides".into(),
            Problem::Recursion { .. } => "break the circle".into(),
            Problem::NotStatic { .. } => {
                "use numbers, axis sizes, settings and the layer index".into()
            }
        }
    }
}

/// A problem and its places, before the texts are known.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub problem: Box<Problem>,
    pub span: Span,
    /// Further places, each with what to say there.
    pub more: Vec<(Span, String)>,
}

pub(super) type Result<T> = std::result::Result<T, Fault>;

impl Fault {
    pub fn new(problem: Problem, span: Span) -> Self {
        Fault {
            problem: Box::new(problem),
            span,
            more: Vec::new(),
        }
    }

    /// Adds a second place.
    pub fn also(mut self, span: Span, label: impl Into<String>) -> Self {
        self.more.push((span, label.into()));
        self
    }

    /// The error that points into the text.
    pub fn resolve(self, sources: &SourceMap) -> LanguageError {
        let (file, main) = match sources.locate(self.span) {
            Some((file, range)) => (Some(file), range),
            None => (None, 0..0),
        };
        let mut places = Vec::new();
        for (span, label) in &self.more {
            // A diagnostic shows one file; places in others go without a label.
            if let Some((other, range)) = sources.locate(*span)
                && file.is_some_and(|f| f.base == other.base)
            {
                places.push((range, label.clone()));
            }
        }
        let covered = places
            .iter()
            .any(|(place, _)| place.start >= main.start && place.end <= main.end);
        if !covered {
            places.insert(0, (main, "here".to_owned()));
        }
        let (ranges, words): (Vec<_>, Vec<_>) = places.into_iter().unzip();
        let name = file.map_or("model", |f| f.name.as_str());
        let text = file.map_or("", |f| f.text.as_str());
        let (text, ranges) = Excerpt::new(name, text, &ranges);
        let labels = ranges.into_iter().zip(words);
        LanguageError(Box::new(Report {
            help: self.problem.help(),
            message: readable(&self.problem.to_string(), MESSAGE),
            problem: self.problem,
            text,
            labels: labels.map(|(at, word)| LabeledSpan::at(at, word)).collect(),
        }))
    }
}

/// `Err` with a problem and its place.
pub(super) fn fail<T>(problem: Problem, span: Span) -> Result<T> {
    Err(Fault::new(problem, span))
}

/// `Err` with a free message and the way out.
pub(super) fn refuse<T>(
    what: impl Into<String>,
    advice: impl Into<String>,
    span: Span,
) -> Result<T> {
    fail(
        Problem::Other {
            what: what.into(),
            advice: advice.into(),
        },
        span,
    )
}

fn listed(names: &[String]) -> String {
    const SHOWN: usize = 24;
    let mut out = names
        .iter()
        .take(SHOWN)
        .map(|n| format!("`{n}`"))
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        out.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    if out.is_empty() { "none".into() } else { out }
}

fn suggest(name: &str, known: &[String], intro: &str) -> String {
    match nearest(name, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("{intro} {}", listed(known)),
    }
}

/// The known name closest to a misspelt one, if one is close.
pub(super) fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let length = name.chars().count();
    let limit = 1 + length / 4;
    known
        .iter()
        .filter(|k| k.chars().count().abs_diff(length) <= limit)
        .map(|k| (distance(name, k), k.as_str()))
        .filter(|(d, k)| *d <= limit && *d < k.chars().count())
        .min()
        .map(|(_, k)| k)
}

/// Levenshtein distance, where a change of case alone counts as one.
fn distance(a: &str, b: &str) -> usize {
    if a.to_lowercase() == b.to_lowercase() {
        return (a != b) as usize;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + (ca != *cb) as usize;
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
