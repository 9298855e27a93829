//! How deep brackets of a TOML text nest. What the brackets hold is left to the TOML reader.

use toml_parser::Source;
use toml_parser::lexer::TokenKind;

/// Deepest nesting of arrays and of inline tables that is read.
pub const MAX_TOML_NESTING: usize = 100;

/// The place, in bytes, of the first `[` or `{` that is more than [`MAX_TOML_NESTING`] deep among
/// those of its kind.
///
/// The TOML reader recurses on brackets of broken texts too, past a limit of its own that it keeps
/// for texts that are well formed, until the stack is gone; so this comes before it. Each kind is
/// counted alone: a closing bracket of the other kind closes nothing there. Linear in the text.
pub fn too_deep(text: &str) -> Option<usize> {
    let (mut arrays, mut tables) = (0usize, 0usize);
    for token in Source::new(text).lex() {
        match token.kind() {
            TokenKind::LeftSquareBracket => arrays += 1,
            TokenKind::LeftCurlyBracket => tables += 1,
            TokenKind::RightSquareBracket => arrays = arrays.saturating_sub(1),
            TokenKind::RightCurlyBracket => tables = tables.saturating_sub(1),
            _ => continue,
        }
        if arrays.max(tables) > MAX_TOML_NESTING {
            return Some(token.span().start());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_are_counted_where_they_are_brackets() {
        let deep = MAX_TOML_NESTING + 1;
        for (text, place) in [
            ("a = [[1], [2]]\n[b]\nc = { d = 1 }".to_owned(), None),
            ("[a]\nb = 1\n".repeat(1000), None),
            (format!("a = \"{}\"", "{".repeat(1000)), None),
            (format!("# {}", "[".repeat(1000)), None),
            ("[".repeat(deep), Some(deep - 1)),
            ("[a]\nb = { c = 1\n".repeat(deep), Some(16 * (deep - 1) + 8)),
            ("{ ]".repeat(deep), Some(3 * (deep - 1))),
        ] {
            assert_eq!(too_deep(&text), place, "{text:.40}");
        }
    }
}
