//! What of a text an error shows: the lines of its places, long ones cut to what is around them.
//!
//! Places are those of the file: a line that is cut keeps its number, and a place in it its
//! column. What never lives here: what is said about a place.

use miette::{MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents};
use std::ops::Range;

/// Longest line, in bytes, that is shown whole.
const LINE: usize = 240;
/// What is shown of a place in a longer line, in bytes.
const PLACE: usize = 80;
/// What is shown before and after it.
const MARGIN: usize = 60;
/// Most lines that a place is shown over; of a longer one, its first line is.
const LINES: usize = 6;
/// Stands for what is left out.
const MARK: &str = "...";

/// A text with its long lines cut.
#[derive(Debug)]
pub(super) struct Excerpt {
    name: String,
    text: String,
    pieces: Vec<Piece>,
}

/// A run of bytes that is shown as it stands in the file.
#[derive(Debug)]
struct Piece {
    /// In the file.
    range: Range<usize>,
    /// Where it starts in what is shown.
    at: usize,
    /// Where its line starts in the file, if the line is cut.
    line: Option<usize>,
}

impl Excerpt {
    /// What is shown of `text` for these places, and where they are in it.
    pub fn new(name: &str, text: &str, places: &[Range<usize>]) -> (Self, Vec<Range<usize>>) {
        let places: Vec<Range<usize>> = places.iter().map(|p| few_lines(text, p)).collect();
        let mut excerpt = Excerpt {
            name: name.to_owned(),
            text: String::new(),
            pieces: Vec::new(),
        };
        let mut start = 0;
        for line in text.split_inclusive('\n') {
            let end = start + line.len();
            if line.len() <= LINE {
                excerpt.push(text, start..end, None);
            } else {
                let ended = start + line.trim_end_matches(['\r', '\n']).len();
                let mut shown = start;
                for window in windows(text, start..ended, &places) {
                    if window.start > shown {
                        excerpt.text.push_str(MARK);
                    }
                    shown = window.end;
                    excerpt.push(text, window, Some(start));
                }
                if shown < ended {
                    excerpt.text.push_str(MARK);
                }
                excerpt.push(text, ended..end, Some(start));
            }
            start = end;
        }
        let shown = places
            .iter()
            .map(|place| {
                let start = excerpt.shown(place.start);
                start..excerpt.shown(place.end).max(start)
            })
            .collect();
        (excerpt, shown)
    }

    /// The line that a place of what is shown begins on, its characters before the place, and those of
    /// the place. Tabs are spaces there, so that what is below a character stands below it.
    pub fn line_of(&self, place: &Range<usize>) -> Option<(String, usize, usize)> {
        let head = self.text.get(..place.start)?;
        let begins = head.rfind('\n').map_or(0, |at| at + 1);
        let line = self.text.get(begins..)?.lines().next()?;
        let ends = place.end.min(begins + line.len()).max(place.start);
        let count = |range: Range<usize>| Some(self.text.get(range)?.chars().count());
        let (before, long) = (count(begins..place.start)?, count(place.start..ends)?);
        Some((line.replace('\t', " "), before, long))
    }

    /// Shows a range, without what a terminal would obey.
    fn push(&mut self, text: &str, range: Range<usize>, line: Option<usize>) {
        let at = self.text.len();
        let raw = text.get(range.clone()).unwrap_or_default();
        let mut chars = raw.chars().peekable();
        while let Some(c) = chars.next() {
            let ends_line = c == '\n' || c == '\r' && chars.peek() == Some(&'\n');
            match c.len_utf8() {
                _ if ends_line || c == '\t' || !c.is_control() => self.text.push(c),
                // Of the same length, so that places stay what they are.
                1 => self.text.push('?'),
                _ => self.text.push('\u{bf}'),
            }
        }
        match self.pieces.last_mut() {
            Some(last) if line.is_none() && last.line.is_none() => last.range.end = range.end,
            _ => self.pieces.push(Piece { range, at, line }),
        }
    }

    /// Where a byte of the file is shown; one that is left out, where it would follow.
    fn shown(&self, offset: usize) -> usize {
        let after = self.pieces.partition_point(|p| p.range.start <= offset);
        match after.checked_sub(1).and_then(|i| self.pieces.get(i)) {
            Some(piece) => piece.at + offset.min(piece.range.end) - piece.range.start,
            None => 0,
        }
    }

    /// The column in the file of a byte of what is shown, if its line is cut.
    fn column(&self, shown: usize) -> Option<usize> {
        let after = self.pieces.partition_point(|p| p.at <= shown);
        let piece = self.pieces.get(after.checked_sub(1)?)?;
        let offset = piece.range.start + (shown - piece.at).min(piece.range.len());
        Some(offset - piece.line?)
    }
}

/// A place, or its first line if it runs over many.
fn few_lines(text: &str, place: &Range<usize>) -> Range<usize> {
    let inside = text.get(place.clone()).unwrap_or_default();
    let mut ends = inside.match_indices('\n').map(|(at, _)| at);
    match (ends.next(), ends.nth(LINES.saturating_sub(2))) {
        (Some(first), Some(_)) => place.start..place.start + first,
        _ => place.clone(),
    }
}

/// What is shown of a long line: what is around the places in it, or how it begins.
fn windows(text: &str, line: Range<usize>, places: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut out: Vec<Range<usize>> = places
        .iter()
        .filter(|place| place.start <= line.end && place.end >= line.start)
        .map(|place| {
            let from = place.start.max(line.start);
            let to = place.end.min(line.end).min(from + PLACE);
            let start = text.floor_char_boundary(from.saturating_sub(MARGIN));
            let end = text.ceil_char_boundary((to + MARGIN).min(text.len()));
            start.max(line.start)..end.min(line.end)
        })
        .collect();
    if out.is_empty() {
        out.push(line.start..text.ceil_char_boundary((line.start + PLACE).min(line.end)));
    }
    out.sort_by_key(|window| window.start);
    let mut merged: Vec<Range<usize>> = Vec::new();
    for window in out {
        match merged.last_mut() {
            Some(last) if window.start <= last.end + MARK.len() => {
                last.end = last.end.max(window.end);
            }
            _ => merged.push(window),
        }
    }
    merged
}

impl SourceCode for Excerpt {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        lines_before: usize,
        lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let contents = self.text.read_span(span, lines_before, lines_after)?;
        let column = match contents.column() {
            0 => 0,
            column => self.column(contents.span().offset()).unwrap_or(column),
        };
        Ok(Box::new(MietteSpanContents::new_named(
            self.name.clone(),
            contents.data(),
            *contents.span(),
            contents.line(),
            column,
            contents.line_count(),
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown of the first place, with what is around it, and its line and column.
    fn shown(text: &str, place: Range<usize>) -> (String, String, usize, usize) {
        let (excerpt, places) = Excerpt::new("m", text, &[place]);
        let span = SourceSpan::from(places[0].clone());
        let contents = excerpt.read_span(&span, 0, 0).expect("within the text");
        (
            excerpt.text.clone(),
            excerpt.text[places[0].clone()].to_owned(),
            contents.line(),
            contents.column(),
        )
    }

    #[test]
    fn short_lines_are_shown_as_they_are() {
        let text = "one\ntwo é\r\nthree\n";
        assert_eq!(shown(text, 4..7), (text.to_owned(), "two".to_owned(), 1, 0));
    }

    #[test]
    fn a_long_line_is_cut_around_the_place_which_keeps_its_column() {
        let text = format!("a\n{}here{}\nb\n", "é".repeat(5000), "x".repeat(70_000));
        let at = text.find("here").expect("it is there");
        let (all, place, line, column) = shown(&text, at..at + 4);
        assert_eq!((place.as_str(), line, column), ("here", 1, 10_000));
        assert_eq!(
            all,
            format!("a\n...{}here{}...\nb\n", "é".repeat(30), "x".repeat(60))
        );
    }

    #[test]
    fn a_place_that_is_long_itself_is_cut() {
        let text = format!("{}\n", "y".repeat(1000));
        let (all, place, _, column) = shown(&text, 100..900);
        assert_eq!(column, 100);
        assert_eq!(all.len(), 3 + MARGIN + PLACE + MARGIN + 3 + 1);
        assert_eq!(place.len(), PLACE + MARGIN);
        let many = "z\n".repeat(100);
        assert_eq!(shown(&many, 2..150).1, "z");
        assert_eq!(shown(&many, 2..7).1, "z\nz\nz");
    }

    #[test]
    fn what_a_terminal_would_obey_is_not_shown() {
        let text = "a\u{1b}[31m\rb\u{9b}c\r\n\td\n";
        let (all, ..) = shown(text, 0..1);
        assert_eq!(all, "a?[31m?b\u{bf}c\r\n\td\n");
        assert_eq!(all.len(), text.len());
    }
}
