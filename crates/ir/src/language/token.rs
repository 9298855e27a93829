//! Tokens of the expression language.

use super::error::{Problem, Result, fail};
use super::source::Snippet;
use crate::Span;
use winnow::ascii::{digit0, digit1};
use winnow::combinator::{alt, delimited, opt};
use winnow::prelude::*;
use winnow::stream::{AsChar, LocatingSlice};
use winnow::token::{literal, one_of, take_till, take_while};

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum TokenKind {
    /// `1`, `2.5`, `64e-5`
    Number(f64),
    /// `receptance`, `C`, `if`
    Name(String),
    /// `"native"` or `'native'`
    Text(String),
    /// An operator or a bracket.
    Symbol(&'static str),
    /// End of a line, or `;`: ends a statement.
    Newline,
    /// End of the text.
    End,
}

impl TokenKind {
    /// For messages.
    pub fn describe(&self) -> String {
        match self {
            TokenKind::Number(n) => format!("the number {n}"),
            TokenKind::Name(n) => format!("`{n}`"),
            TokenKind::Text(t) => format!("the text \"{t}\""),
            TokenKind::Symbol(s) => format!("`{s}`"),
            TokenKind::Newline => "the end of the line".into(),
            TokenKind::End => "the end of the text".into(),
        }
    }
}

/// A token and its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub kind: TokenKind,
    pub span: Span,
}

/// Longest name, in characters.
pub(super) const MAX_NAME: usize = 64;

/// Refuses a name beyond [`MAX_NAME`].
pub(super) fn check_name(name: &str, span: Span) -> Result<()> {
    if name.chars().nth(MAX_NAME).is_none() {
        return Ok(());
    }
    let begins: String = name.chars().take(24).collect();
    fail(
        Problem::TooLong {
            what: format!("the name `{begins}...`"),
            limit: MAX_NAME,
            unit: "characters",
            advice: "choose a shorter one",
        },
        span,
    )
}

type Input<'s> = LocatingSlice<&'s str>;

/// Longest first: `->` before `-`.
const SYMBOLS: [&str; 26] = [
    "->", "**", "==", "!=", "<=", ">=", "&&", "||", "+", "-", "*", "/", "%", "@", "(", ")", "[",
    "]", "{", "}", ",", "=", "<", ">", "!", ":",
];

fn number(input: &mut Input<'_>) -> winnow::Result<TokenKind> {
    (
        digit1,
        opt(('.', digit0)),
        opt((one_of(['e', 'E']), opt(one_of(['+', '-'])), digit1)),
    )
        .take()
        .try_map(|text: &str| text.parse().map(TokenKind::Number))
        .parse_next(input)
}

fn name(input: &mut Input<'_>) -> winnow::Result<TokenKind> {
    (
        one_of(|c: char| c.is_alpha() || c == '_'),
        take_while(0.., |c: char| c.is_alphanum() || c == '_'),
    )
        .take()
        .map(|text: &str| TokenKind::Name(text.to_owned()))
        .parse_next(input)
}

fn text(input: &mut Input<'_>) -> winnow::Result<TokenKind> {
    alt((
        delimited('"', take_till(0.., ['"', '\n']), '"'),
        delimited('\'', take_till(0.., ['\'', '\n']), '\''),
    ))
    .map(|text: &str| TokenKind::Text(text.to_owned()))
    .parse_next(input)
}

fn symbol(input: &mut Input<'_>) -> winnow::Result<TokenKind> {
    for s in SYMBOLS {
        if opt(literal(s)).parse_next(input)?.is_some() {
            return Ok(TokenKind::Symbol(s));
        }
    }
    Err(winnow::error::ParserError::from_input(input))
}

fn newline(input: &mut Input<'_>) -> winnow::Result<TokenKind> {
    one_of(['\n', ';'])
        .value(TokenKind::Newline)
        .parse_next(input)
}

/// Spaces and `# comments`.
fn blank(input: &mut Input<'_>) -> winnow::Result<()> {
    (
        take_while(0.., [' ', '\t', '\r']),
        opt(('#', take_till(0.., ['\n']))),
    )
        .void()
        .parse_next(input)
}

/// Splits a text into tokens, the last of which is [`TokenKind::End`]. Line ends inside
/// round or square brackets are dropped.
pub(super) fn tokens(snippet: &Snippet) -> Result<Vec<Token>> {
    let mut input = LocatingSlice::new(snippet.text.as_str());
    let mut out: Vec<Token> = Vec::new();
    let mut open = 0usize;
    loop {
        // `blank` accepts the empty string, so it cannot fail.
        let _ = blank.parse_next(&mut input);
        let Some(first) = input.as_ref().chars().next() else {
            break;
        };
        let at = snippet.text.len() - input.as_ref().len();
        match alt((newline, number, name, text, symbol))
            .with_span()
            .parse_next(&mut input)
        {
            Ok((kind, range)) => {
                match &kind {
                    TokenKind::Name(name) => check_name(name, snippet.span(range.clone()))?,
                    TokenKind::Symbol("(" | "[") => open += 1,
                    TokenKind::Symbol(")" | "]") => open = open.saturating_sub(1),
                    TokenKind::Newline if open > 0 => continue,
                    _ => {}
                }
                out.push(Token {
                    kind,
                    span: snippet.span(range),
                });
            }
            Err(_) => {
                return fail(
                    Problem::Syntax {
                        expected: "a name, a number or an operator".into(),
                        found: format!("`{first}`"),
                    },
                    snippet.span(at..at + first.len_utf8()),
                );
            }
        }
    }
    let end = snippet.text.len();
    out.push(Token {
        kind: TokenKind::End,
        span: snippet.span(end..end),
    });
    Ok(out)
}
