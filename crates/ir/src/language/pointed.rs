//! A place in a model text, shown: its line, and carets below it.

use super::excerpt::Excerpt;
use super::source::SourceMap;
use crate::Span;
use std::fmt::{self, Display, Formatter};

/// A place, with the line that it stands on or begins on. Printed as error messages print places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointed {
    /// Name of the file, as in messages.
    pub file: String,
    /// Its line, from 1.
    pub line: usize,
    /// The character of the line that it begins with, from 1.
    pub column: usize,
    /// What is shown of the line.
    text: String,
    /// Characters of `text` before the place.
    before: usize,
    /// Characters of the place in `text`.
    long: usize,
}

impl SourceMap {
    /// A place to show, of several lines the first; `None` if it is in none of the files.
    pub fn point(&self, span: Span) -> Option<Pointed> {
        let (file, place) = self.locate(span)?;
        let head = file.text.get(..place.start)?;
        let begins = head.rfind('\n').map_or(0, |at| at + 1);
        let inside = file.text.get(place.clone())?;
        let first = inside.lines().next().unwrap_or_default().trim_end();
        let first = place.start..place.start + first.len();
        let (excerpt, shown) = Excerpt::new(&file.name, &file.text, &[first]);
        let (text, before, long) = excerpt.line_of(shown.first()?)?;
        Some(Pointed {
            file: file.name.clone(),
            line: head.matches('\n').count() + 1,
            column: file.text.get(begins..place.start)?.chars().count() + 1,
            text,
            before,
            long,
        })
    }
}

impl Display for Pointed {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let margin = number.len() + 1;
        writeln!(
            f,
            "{:margin$} ,-[{}:{number}:{}]",
            "", self.file, self.column
        )?;
        writeln!(f, "{number:>margin$} | {}", self.text)?;
        let (before, carets) = (self.before, "^".repeat(self.long.max(1)));
        writeln!(f, "{:margin$} : {:before$}{carets}", "", "")?;
        writeln!(f, "{:margin$} `----", "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointed(text: &str, place: std::ops::Range<usize>) -> Pointed {
        let mut sources = SourceMap::default();
        sources.add("other.toml".into(), "nothing\n".into());
        let base = sources.add("m.toml".into(), text.into());
        let span = Span {
            start: base + place.start as u32,
            end: base + place.end as u32,
        };
        sources.point(span).expect("it is in a file")
    }

    #[test]
    fn a_place_is_shown_with_its_line() {
        let text = "a = 1\n\té = tanh(S) + x\nb = 2\n";
        let at = text.find("tanh").expect("it is there");
        let shown = pointed(text, at..at + "tanh(S)".len());
        assert_eq!((shown.line, shown.column), (2, 6));
        assert_eq!(
            shown.to_string(),
            "   ,-[m.toml:2:6]\n 2 |  é = tanh(S) + x\n   :      ^^^^^^^\n   `----\n"
        );
    }

    #[test]
    fn of_several_lines_the_first_is_shown() {
        let text = "S = where(a < b,\n  S,\n  x)\n";
        let shown = pointed(text, 4..text.len() - 1).to_string();
        assert_eq!(
            shown,
            "   ,-[m.toml:1:5]\n 1 | S = where(a < b,\n   :     ^^^^^^^^^^^^\n   `----\n"
        );
    }

    #[test]
    fn long_lines_are_cut_around_the_place() {
        let text = format!("x\n{}here{}\n", "y".repeat(5000), "z".repeat(5000));
        let shown = pointed(&text, 5002..5006);
        assert_eq!((shown.line, shown.column), (2, 5001));
        let text = shown.to_string();
        assert!(text.lines().all(|line| line.len() < 240), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1].find("here"), lines[2].find("^^^^"), "{text}");
    }
}
