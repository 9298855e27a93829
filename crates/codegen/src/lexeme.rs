//! C++ text as words, comments and the rest: as much of a lexer as questions about names need.

/// A piece of a text. All pieces after one another are the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lexeme<'a> {
    /// An identifier, a keyword or a number, with its suffix.
    Word(&'a str),
    /// A comment with its marks, without the end of its line.
    Comment(&'a str),
    /// Everything else: space, operators, literals in quotes.
    Other(&'a str),
}

/// The pieces of a text.
pub fn lexemes<'a>(text: &'a str) -> impl Iterator<Item = Lexeme<'a>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let (length, kind): (usize, fn(&'a str) -> Lexeme<'a>) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), Lexeme::Comment)
        } else if let Some(comment) = rest.strip_prefix("/*") {
            let end = comment.find("*/").map_or(rest.len(), |at| at + 4);
            (end, Lexeme::Comment)
        } else if first == '"' {
            (quoted(rest), Lexeme::Other)
        } else if let Some(length) = character(rest) {
            (length, Lexeme::Other)
        } else if in_word(first) {
            let end = rest.find(|c| !in_word(c)).unwrap_or(rest.len());
            (end, Lexeme::Word)
        } else {
            let other = |c: char| matches!(c, '"' | '\'' | '/') || in_word(c);
            let next = first.len_utf8();
            let end = rest[next..].find(other).map_or(rest.len(), |at| next + at);
            (end, Lexeme::Other)
        };
        let (piece, after) = rest.split_at(length);
        rest = after;
        Some(kind(piece))
    })
}

/// Letters, digits, underscores, and the marks of names that are not chosen yet.
fn in_word(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric() || ('\u{e000}'..='\u{e001}').contains(&c)
}

/// Bytes of a literal in double quotes.
fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Bytes of a literal in single quotes, if the text begins with one.
fn character(text: &str) -> Option<usize> {
    let inside = text.strip_prefix('\'')?;
    let length = match inside.strip_prefix('\\') {
        Some(escaped) => 1 + escaped.chars().next()?.len_utf8(),
        None => inside.chars().next()?.len_utf8(),
    };
    inside[length..].starts_with('\'').then_some(length + 2)
}

/// A text without its comments, on the same lines: what a compiler makes of it is the same.
pub fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for lexeme in lexemes(text) {
        match lexeme {
            // A comment parts words, as a space does.
            Lexeme::Comment(comment) => match comment.matches('\n').count() {
                0 => out.push(' '),
                lines => out.push_str(&"\n".repeat(lines)),
            },
            Lexeme::Word(piece) | Lexeme::Other(piece) => out.push_str(piece),
        }
    }
    let lines: Vec<&str> = out.lines().map(str::trim_end).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_told_apart_and_make_up_the_text() {
        let cases = [
            ("y = f32(x); // a", vec!["y", "f32", "x"], vec!["// a"]),
            ("/* a\n */ b /c", vec!["b", "c"], vec!["/* a\n */"]),
            ("asm(\"a // \\\" b\") 0x1f", vec!["asm", "0x1f"], vec![]),
            ("/* open", vec![], vec!["/* open"]),
            ("\"open", vec![], vec![]),
            ("'\"' + '\\'' + x", vec!["x"], vec![]),
        ];
        for (text, words, comments) in cases {
            let (mut found, mut seen, mut all) = (vec![], vec![], String::new());
            for lexeme in lexemes(text) {
                match lexeme {
                    Lexeme::Word(piece) => found.push(piece),
                    Lexeme::Comment(piece) => seen.push(piece),
                    Lexeme::Other(_) => {}
                }
                let (Lexeme::Word(p) | Lexeme::Comment(p) | Lexeme::Other(p)) = lexeme;
                all.push_str(p);
            }
            assert_eq!((found, seen, all.as_str()), (words, comments, text));
        }
    }

    #[test]
    fn comments_go_and_lines_stay() {
        let text = "// of a kernel\nint a;  // b\nint/* c\nd */e;\n";
        assert_eq!(without_comments(text), "\nint a;\nint\ne;");
    }
}
