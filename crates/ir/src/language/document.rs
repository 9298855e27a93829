//! The model file: TOML tables to declarations, every one with its place.

use super::error::{Fault, Problem, Result, fail, refuse};
use super::grammar;
use super::nesting::{MAX_TOML_NESTING, too_deep};
use super::source::{MAX_MODEL_BYTES, MAX_SOURCE_BYTES, ModelSource, SourceMap, join_include};
use super::syntax::{Dimension, Formal, Node, Statement};
use super::table::{Entry, Table, shift};
use super::token::check_name;
use crate::{PinKind, Span};
use indexmap::IndexMap;
use std::collections::BTreeSet;
use std::path::PathBuf;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A named constant of a model.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// A switch.
    Bool(bool),
    /// A number.
    Number(f64),
    /// A word.
    Text(String),
}

impl Setting {
    /// For messages.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Setting::Bool(_) => "true or false",
            Setting::Number(_) => "a number",
            Setting::Text(_) => "a string",
        }
    }
}

/// Something and its place.
#[derive(Clone, Debug)]
pub(super) struct Placed<T> {
    pub value: T,
    pub span: Span,
}

#[derive(Clone, Debug)]
pub(super) enum AxisSize {
    Number(i64),
    Formula(Node),
}

#[derive(Clone, Debug)]
pub(super) enum InputKind {
    /// Token ids.
    Token,
    /// Numbers over these axes.
    Shape(Vec<Dimension>),
}

/// A value of a parameter key: one for all layouts, or one per value of the setting `layout`.
#[derive(Clone, Debug)]
pub(super) enum PerLayout<T> {
    One(T),
    Choice(IndexMap<String, T>, Span),
}

#[derive(Clone, Debug)]
pub(super) struct ParamDecl {
    pub span: Span,
    pub shape: Vec<Dimension>,
    pub shape_span: Span,
    pub from: Option<PerLayout<Vec<Placed<String>>>>,
    pub load: Option<PerLayout<Vec<super::syntax::Call>>>,
    pub init: Option<Node>,
    pub f32: bool,
}

#[derive(Clone, Debug)]
pub(super) struct BlockDecl {
    pub args: Vec<Placed<String>>,
    pub params: IndexMap<String, ParamDecl>,
    pub flow: Vec<Statement>,
    pub pins: Vec<PinDecl>,
    pub span: Span,
}

#[derive(Clone, Debug)]
pub(super) struct RecurrenceDecl {
    pub inputs: Vec<Formal>,
    pub states: Vec<Formal>,
    pub outputs: Vec<Formal>,
    pub step: Vec<Statement>,
    pub span: Span,
}

#[derive(Clone, Debug)]
pub(super) struct PinDecl {
    pub kind: PinKind,
    pub names: Vec<Placed<String>>,
    pub span: Span,
}

/// Values of axes and settings under a name.
pub(super) type Preset = Placed<Vec<(Placed<String>, Setting)>>;

/// A model file and everything it includes.
#[derive(Clone, Debug, Default)]
pub(super) struct Document {
    pub name: String,
    pub axes: IndexMap<String, Placed<AxisSize>>,
    pub settings: IndexMap<String, Placed<Setting>>,
    pub presets: IndexMap<String, Preset>,
    pub inputs: IndexMap<String, Placed<InputKind>>,
    pub params: IndexMap<String, ParamDecl>,
    pub blocks: IndexMap<String, BlockDecl>,
    pub recurrences: IndexMap<String, RecurrenceDecl>,
    pub flow: Vec<Statement>,
    pub flow_span: Span,
    pub pins: Vec<PinDecl>,
    pub allow_unused: Vec<String>,
}

/// Reads the main file and its includes.
pub(super) fn read(source: &ModelSource<'_>, sources: &mut SourceMap) -> Result<Document> {
    let mut document = Document::default();
    let mut reader = Reader {
        source,
        sources,
        document: &mut document,
        included: BTreeSet::new(),
        pending: Vec::new(),
    };
    reader.main()?;
    while let Some((path, span)) = reader.pending.pop() {
        reader.included(path, span)?;
    }
    Ok(document)
}

struct Reader<'a, 's> {
    source: &'a ModelSource<'s>,
    sources: &'a mut SourceMap,
    document: &'a mut Document,
    included: BTreeSet<PathBuf>,
    pending: Vec<(PathBuf, Span)>,
}

/// Most axes that a model declares.
const MAX_AXES: usize = 1024;

const PARAM_KEYS: [&str; 5] = ["shape", "from", "load", "init", "precision"];

impl Reader<'_, '_> {
    fn main(&mut self) -> Result<()> {
        let text = self.source.text.clone();
        let base = self.add(self.source.name.clone(), text.clone(), Span::default())?;
        let parsed = parse(&text, base)?;
        let root = Table::new(
            "the model".into(),
            parsed.get_ref(),
            shift(0..0, base),
            base,
            &text,
        );
        root.known(&[
            "name",
            "include",
            "allow_unused",
            "axes",
            "settings",
            "preset",
            "input",
            "param",
            "block",
            "recurrence",
            "model",
        ])?;
        let name = root.string(root.need("name")?)?;
        title(&name)?;
        self.document.name = name.value;
        if let Some(entry) = root.get("allow_unused") {
            self.document.allow_unused = root
                .strings(entry)?
                .into_iter()
                .map(|pattern| pattern.value)
                .collect();
        }
        let presets = root.subtable("preset")?;
        for entry in &presets.entries {
            let table = presets.table(entry, format!("[preset.{}]", entry.key))?;
            let mut values = Vec::new();
            for e in &table.entries {
                let key = Placed {
                    value: e.key.clone(),
                    span: e.key_span,
                };
                values.push((key, table.setting(e)?));
            }
            self.document.presets.insert(
                entry.key.clone(),
                Placed {
                    value: values,
                    span: entry.key_span,
                },
            );
        }
        let inputs = root.subtable("input")?;
        for entry in &inputs.entries {
            named(entry)?;
            let snippet = inputs.snippet(entry)?;
            let value = if snippet.text.trim() == "token" {
                InputKind::Token
            } else {
                InputKind::Shape(grammar::shape(&snippet)?)
            };
            let span = entry.key_span;
            self.document
                .inputs
                .insert(entry.key.clone(), Placed { value, span });
        }
        self.document.params = params(&root)?;
        let entry = root.need("model")?;
        let model = root.table(entry, "[model]".into())?;
        model.known(&["flow", "fuse", "split"])?;
        let flow = model.need("flow")?;
        self.document.flow = grammar::program(&model.snippet(flow)?)?;
        self.document.flow_span = flow.key_span;
        self.document.pins = pins(&model)?;
        self.shared(&root, PathBuf::new())
    }

    fn included(&mut self, path: PathBuf, span: Span) -> Result<()> {
        if !self.included.insert(path.clone()) {
            return Ok(());
        }
        let text = (self.source.loader)(&path).map_err(|error| {
            Fault::new(
                Problem::Include {
                    path: path.display().to_string(),
                    reason: error.to_string(),
                },
                span,
            )
        })?;
        let base = self.add(path.display().to_string(), text.clone(), span)?;
        let parsed = parse(&text, base)?;
        let root = Table::new(
            "an included file".into(),
            parsed.get_ref(),
            shift(0..0, base),
            base,
            &text,
        );
        root.known(&["include", "axes", "settings", "block", "recurrence"])?;
        self.shared(&root, path)
    }

    fn add(&mut self, name: String, text: String, span: Span) -> Result<u32> {
        let read: usize = self.sources.files().iter().map(|f| f.text.len()).sum();
        let (what, all, limit) = match text.len() > MAX_SOURCE_BYTES {
            true => (format!("`{name}`"), text.len(), MAX_SOURCE_BYTES),
            false => {
                let what = format!("the model with `{name}`");
                (what, read + text.len(), MAX_MODEL_BYTES)
            }
        };
        if all > limit {
            return fail(
                Problem::TooLong {
                    what,
                    limit,
                    unit: "bytes",
                    advice: "is it a model text? large constants belong into a checkpoint",
                },
                span,
            );
        }
        if self.sources.files().len() >= 256 {
            return refuse("the model has more than 256 files", "include fewer", span);
        }
        Ok(self.sources.add(name, text))
    }

    /// What the main file and an included one have in common. Axes and settings that are
    /// already known win: an included file gives defaults.
    fn shared(&mut self, root: &Table<'_>, path: PathBuf) -> Result<()> {
        if let Some(entry) = root.get("include") {
            for include in root.strings(entry)? {
                match join_include(&path, &include.value) {
                    Some(path) => self.pending.push((path, include.span)),
                    None => {
                        return fail(
                            Problem::Include {
                                path: include.value,
                                reason: "it leaves the directory of the file".into(),
                            },
                            include.span,
                        );
                    }
                }
            }
        }
        let axes = root.subtable("axes")?;
        if self.document.axes.len() + axes.entries.len() > MAX_AXES {
            return fail(
                Problem::TooLong {
                    what: "[axes]".into(),
                    limit: MAX_AXES,
                    unit: "entries",
                    advice: "declare the axes that are used",
                },
                axes.span,
            );
        }
        for entry in &axes.entries {
            let value = match entry.value {
                DeValue::Integer(_) => AxisSize::Number(axes.number(entry)? as i64),
                DeValue::String(_) => {
                    AxisSize::Formula(grammar::expression(&axes.snippet(entry)?)?)
                }
                _ => return axes.wrong(entry, "a size or a formula like \"H * N\""),
            };
            named(entry)?;
            let span = super::source::cover(entry.key_span, entry.value_span);
            self.document
                .axes
                .entry(entry.key.clone())
                .or_insert(Placed { value, span });
        }
        let settings = root.subtable("settings")?;
        for entry in &settings.entries {
            named(entry)?;
            let value = settings.setting(entry)?;
            let span = entry.key_span;
            self.document
                .settings
                .entry(entry.key.clone())
                .or_insert(Placed { value, span });
        }
        let blocks = root.subtable("block")?;
        for entry in &blocks.entries {
            callable(entry)?;
            let table = blocks.table(entry, format!("[block.{}]", entry.key))?;
            let block = block(&table)?;
            let twice = self.document.blocks.insert(entry.key.clone(), block);
            once(twice.map(|b| b.span), "block", entry)?;
        }
        let recurrences = root.subtable("recurrence")?;
        for entry in &recurrences.entries {
            callable(entry)?;
            let table = recurrences.table(entry, format!("[recurrence.{}]", entry.key))?;
            let recurrence = recurrence(&table)?;
            let twice = self
                .document
                .recurrences
                .insert(entry.key.clone(), recurrence);
            once(twice.map(|r| r.span), "recurrence", entry)?;
        }
        Ok(())
    }
}

fn parse(text: &str, base: u32) -> Result<Spanned<DeTable<'_>>> {
    if let Some(at) = too_deep(text) {
        let message = format!("brackets are nested more than {MAX_TOML_NESTING} deep");
        return fail(Problem::Toml { message }, shift(at..at + 1, base));
    }
    DeTable::parse(text).map_err(|error| {
        Fault::new(
            Problem::Toml {
                message: error.message().to_owned(),
            },
            shift(error.span().unwrap_or(0..0), base),
        )
    })
}

fn once(first: Option<Span>, what: &'static str, entry: &Entry<'_>) -> Result<()> {
    match first {
        None => Ok(()),
        Some(first) => Err(Fault::new(
            Problem::Twice {
                what,
                name: entry.key.clone(),
            },
            entry.key_span,
        )
        .also(first, "first defined here")
        .also(entry.key_span, "and again here")),
    }
}

fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Refuses what is not a name of the language.
fn check_word(name: &str, span: Span) -> Result<()> {
    check_name(name, span)?;
    if is_name(name) {
        return Ok(());
    }
    refuse(
        format!("`{name}` is not a name"),
        "names are letters, digits and `_`, and start with a letter or `_`",
        span,
    )
}

fn named(entry: &Entry<'_>) -> Result<()> {
    check_word(&entry.key, entry.key_span)
}

/// Refuses a block or recurrence that could not be called, for its name means something else.
fn callable(entry: &Entry<'_>) -> Result<()> {
    named(entry)?;
    let what = match entry.key.as_str() {
        "and" | "or" | "not" | "if" | "else" | "repeat" | "return" => "a word",
        name if super::operations::functions().any(|f| f == name) => "a function",
        _ => return Ok(()),
    };
    refuse(
        format!("`{}` is {what} of the language", entry.key),
        "choose another name",
        entry.key_span,
    )
}

/// Refuses a name of a model that could not stand in a path or a comment.
fn title(name: &Placed<String>) -> Result<()> {
    check_name(&name.value, name.span)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.+ ".contains(c);
    let first = name.value.chars().next();
    if first.is_some_and(|c| c.is_ascii_alphanumeric()) && name.value.chars().all(plain) {
        return Ok(());
    }
    refuse(
        format!("\"{}\" cannot be the name of a model", name.value),
        "it is letters, digits, spaces and `_ - . +`, and starts with a letter or a digit",
        name.span,
    )
}

fn block(table: &Table<'_>) -> Result<BlockDecl> {
    table.known(&["args", "param", "flow", "fuse", "split"])?;
    let args = match table.get("args") {
        Some(entry) => table.strings(entry)?,
        None => Vec::new(),
    };
    for (i, arg) in args.iter().enumerate() {
        check_word(&arg.value, arg.span)?;
        if args[..i].iter().any(|a| a.value == arg.value) {
            return fail(
                Problem::Twice {
                    what: "argument",
                    name: arg.value.clone(),
                },
                arg.span,
            );
        }
    }
    Ok(BlockDecl {
        args,
        params: params(table)?,
        flow: grammar::program(&table.snippet(table.need("flow")?)?)?,
        pins: pins(table)?,
        span: table.span,
    })
}

fn recurrence(table: &Table<'_>) -> Result<RecurrenceDecl> {
    table.known(&["inputs", "state", "step", "outputs"])?;
    let states = grammar::formals(&table.snippet(table.need("state")?)?)?;
    let outputs = grammar::formals(&table.snippet(table.need("outputs")?)?)?;
    let inputs = match table.get("inputs") {
        Some(entry) => grammar::formals(&table.snippet(entry)?)?,
        None => Vec::new(),
    };
    if outputs.is_empty() || states.is_empty() {
        return refuse(
            format!("{} has no state or no output", table.place),
            "a recurrence carries at least one state and returns at least one output",
            table.span,
        );
    }
    for (i, formal) in inputs.iter().chain(&states).enumerate() {
        if let Some(first) = inputs
            .iter()
            .chain(&states)
            .take(i)
            .find(|f| f.name.text == formal.name.text)
        {
            return Err(Fault::new(
                Problem::Twice {
                    what: "tensor",
                    name: formal.name.text.clone(),
                },
                formal.name.span,
            )
            .also(first.name.span, "first declared here"));
        }
    }
    for formal in inputs.iter().chain(&states).chain(&outputs) {
        for (i, axis) in formal.axes.iter().enumerate() {
            if formal.axes[..i]
                .iter()
                .any(|a| a.name.text == axis.name.text)
            {
                return fail(
                    Problem::AxisTwice {
                        axis: axis.name.text.clone(),
                        place: format!("`{}`", formal.name.text),
                    },
                    axis.name.span,
                );
            }
        }
    }
    if let Some(init) = inputs
        .iter()
        .chain(&outputs)
        .find_map(|formal| formal.init.as_ref())
    {
        return refuse(
            "only a state has an initial value",
            "remove `= ...`",
            init.span,
        );
    }
    Ok(RecurrenceDecl {
        inputs,
        states,
        outputs,
        step: grammar::program(&table.snippet(table.need("step")?)?)?,
        span: table.span,
    })
}

fn pins(table: &Table<'_>) -> Result<Vec<PinDecl>> {
    let mut out = Vec::new();
    for (key, kind) in [("fuse", PinKind::Fuse), ("split", PinKind::Split)] {
        if let Some(entry) = table.get(key) {
            let names = table.strings(entry)?;
            if names.len() < 2 {
                return refuse(
                    format!("`{key}` names fewer than two values"),
                    "name at least two values",
                    entry.value_span,
                );
            }
            out.push(PinDecl {
                kind,
                names,
                span: entry.value_span,
            });
        }
    }
    Ok(out)
}

fn params(table: &Table<'_>) -> Result<IndexMap<String, ParamDecl>> {
    let mut out = IndexMap::new();
    let Some(entry) = table.get("param") else {
        return Ok(out);
    };
    let list = table.table(entry, "a table of parameters".into())?;
    for entry in &list.entries {
        named(entry)?;
        let decl = list.table(entry, format!("parameter `{}`", entry.key))?;
        decl.known(&PARAM_KEYS)?;
        let shape = decl.need("shape")?;
        let init = match decl.get("init") {
            None => None,
            Some(e) => match e.value {
                DeValue::String(_) => Some(grammar::expression(&decl.snippet(e)?)?),
                _ => Some(Node {
                    kind: super::syntax::NodeKind::Number(decl.number(e)?),
                    span: e.value_span,
                    depth: 1,
                    terms: 1,
                }),
            },
        };
        let precision = match decl.get("precision") {
            None => false,
            Some(e) => match decl.string(e)?.value.as_str() {
                "f32" => true,
                "storage" => false,
                _ => return decl.wrong(e, "\"f32\" or \"storage\""),
            },
        };
        let param = ParamDecl {
            span: entry.key_span,
            shape: grammar::shape(&decl.snippet(shape)?)?,
            shape_span: shape.value_span,
            from: match decl.get("from") {
                Some(e) => Some(per_layout(&decl, e, |t, e| t.strings(e))?),
                None => None,
            },
            load: match decl.get("load") {
                Some(e) => Some(per_layout(&decl, e, |t, e| grammar::calls(&t.snippet(e)?))?),
                None => None,
            },
            init,
            f32: precision,
        };
        out.insert(entry.key.clone(), param);
    }
    Ok(out)
}

fn per_layout<'t, T>(
    table: &Table<'t>,
    entry: &Entry<'t>,
    read: impl Fn(&Table<'t>, &Entry<'t>) -> Result<T>,
) -> Result<PerLayout<T>> {
    match entry.value {
        DeValue::Table(_) => {
            let choices = table.table(entry, format!("`{}`", entry.key))?;
            let mut out = IndexMap::new();
            for choice in &choices.entries {
                out.insert(choice.key.clone(), read(&choices, choice)?);
            }
            Ok(PerLayout::Choice(out, entry.value_span))
        }
        _ => Ok(PerLayout::One(read(table, entry)?)),
    }
}
