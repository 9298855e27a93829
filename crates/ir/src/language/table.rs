//! Reading of TOML tables with the place of every key and value.

use super::document::{Placed, Setting};
use super::error::{Problem, Result, fail};
use super::grammar::MAX_LIST;
use super::source::Snippet;
use crate::Span;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Longest string that is no flow, step or formula, in bytes: a name in a checkpoint, a path.
const MAX_STRING: usize = 1024;

/// A table being read: knows where it is, for messages.
pub(super) struct Table<'t> {
    pub place: String,
    pub span: Span,
    base: u32,
    text: &'t str,
    pub entries: Vec<Entry<'t>>,
}

#[derive(Clone)]
pub(super) struct Entry<'t> {
    pub key: String,
    pub key_span: Span,
    pub value: &'t DeValue<'t>,
    pub value_span: Span,
}

/// A range within a file as a place in the source map.
pub(super) fn shift(range: std::ops::Range<usize>, base: u32) -> Span {
    Span {
        start: base + range.start as u32,
        end: base + range.end as u32,
    }
}

impl<'t> Table<'t> {
    pub fn new(
        place: String,
        table: &'t DeTable<'t>,
        span: Span,
        base: u32,
        text: &'t str,
    ) -> Self {
        let mut entries: Vec<Entry<'t>> = table
            .iter()
            .map(|(key, value)| Entry {
                key: key.get_ref().to_string(),
                key_span: shift(key.span(), base),
                value: value.get_ref(),
                value_span: shift(value.span(), base),
            })
            .collect();
        entries.sort_by_key(|e| e.key_span.start);
        Table {
            place,
            span,
            base,
            text,
            entries,
        }
    }

    pub fn known(&self, keys: &[&str]) -> Result<()> {
        for entry in &self.entries {
            if !keys.contains(&entry.key.as_str()) {
                return fail(
                    Problem::UnknownKey {
                        key: entry.key.clone(),
                        place: self.place.clone(),
                        known: keys.iter().map(|k| k.to_string()).collect(),
                    },
                    entry.key_span,
                );
            }
        }
        Ok(())
    }

    pub fn get(&self, key: &str) -> Option<&Entry<'t>> {
        self.entries.iter().find(|e| e.key == key)
    }

    pub fn need(&self, key: &'static str) -> Result<&Entry<'t>> {
        match self.get(key) {
            Some(entry) => Ok(entry),
            None => fail(
                Problem::MissingKey {
                    key,
                    place: self.place.clone(),
                },
                self.span,
            ),
        }
    }

    pub fn wrong<T>(&self, entry: &Entry<'_>, expected: &'static str) -> Result<T> {
        fail(
            Problem::WrongType {
                key: entry.key.clone(),
                expected,
                found: match entry.value {
                    DeValue::String(_) => "a string",
                    DeValue::Integer(_) => "an integer",
                    DeValue::Float(_) => "a number",
                    DeValue::Boolean(_) => "true or false",
                    DeValue::Datetime(_) => "a date",
                    DeValue::Array(_) => "a list",
                    DeValue::Table(_) => "a table",
                }
                .into(),
            },
            entry.value_span,
        )
    }

    pub fn table(&self, entry: &Entry<'t>, place: String) -> Result<Table<'t>> {
        match entry.value {
            DeValue::Table(table) => Ok(Table::new(
                place,
                table,
                entry.key_span,
                self.base,
                self.text,
            )),
            _ => self.wrong(entry, "a table"),
        }
    }

    /// A subtable, or an empty one when the key is absent.
    pub fn subtable(&self, key: &str) -> Result<Table<'t>> {
        match self.get(key) {
            Some(entry) => self.table(entry, format!("[{key}]")),
            None => Ok(Table {
                place: format!("[{key}]"),
                span: self.span,
                base: self.base,
                text: self.text,
                entries: Vec::new(),
            }),
        }
    }

    pub fn snippet(&self, entry: &Entry<'t>) -> Result<Snippet> {
        match entry.value {
            DeValue::String(text) => Ok(self.place_text(text, entry.value_span)),
            _ => self.wrong(entry, "a string"),
        }
    }

    /// Finds where the characters of a TOML string stand in the file, unless escapes hide them.
    pub fn place_text(&self, text: &str, span: Span) -> Snippet {
        let start = (span.start - self.base) as usize;
        let end = (span.end - self.base) as usize;
        let base = self
            .text
            .get(start..end)
            .and_then(|raw| raw.find(text))
            .map(|at| span.start + at as u32);
        Snippet {
            text: text.to_owned(),
            base,
            whole: span,
        }
    }

    pub fn string(&self, entry: &Entry<'t>) -> Result<Placed<String>> {
        match entry.value {
            DeValue::String(text) => short(text, entry.value_span),
            _ => self.wrong(entry, "a string"),
        }
    }

    /// A string or a list of strings.
    pub fn strings(&self, entry: &Entry<'t>) -> Result<Vec<Placed<String>>> {
        match entry.value {
            DeValue::Array(items) if items.len() > MAX_LIST => fail(
                Problem::TooLong {
                    what: format!("the list `{}`", entry.key),
                    limit: MAX_LIST,
                    unit: "entries",
                    advice: "give fewer",
                },
                entry.key_span,
            ),
            DeValue::Array(items) => items
                .iter()
                .map(|item: &Spanned<DeValue<'_>>| match item.get_ref() {
                    DeValue::String(text) => short(text, shift(item.span(), self.base)),
                    _ => self.wrong(entry, "a string or a list of strings"),
                })
                .collect(),
            DeValue::String(_) => Ok(vec![self.string(entry)?]),
            _ => self.wrong(entry, "a string or a list of strings"),
        }
    }

    pub fn setting(&self, entry: &Entry<'t>) -> Result<Setting> {
        Ok(match entry.value {
            DeValue::Boolean(b) => Setting::Bool(*b),
            DeValue::String(_) => Setting::Text(self.string(entry)?.value),
            DeValue::Integer(_) | DeValue::Float(_) => Setting::Number(self.number(entry)?),
            _ => return self.wrong(entry, "a number, a string, true or false"),
        })
    }

    pub fn number(&self, entry: &Entry<'t>) -> Result<f64> {
        let parsed = match entry.value {
            DeValue::Integer(i) => i64::from_str_radix(i.as_str(), i.radix())
                .ok()
                .map(|i| i as f64),
            DeValue::Float(f) => f.as_str().parse().ok(),
            _ => None,
        };
        match parsed {
            Some(number) => Ok(number),
            None => self.wrong(entry, "a number"),
        }
    }
}

fn short(text: &str, span: Span) -> Result<Placed<String>> {
    if text.len() > MAX_STRING {
        return fail(
            Problem::TooLong {
                what: "this string".into(),
                limit: MAX_STRING,
                unit: "bytes",
                advice: "shorten it",
            },
            span,
        );
    }
    Ok(Placed {
        value: text.to_owned(),
        span,
    })
}
