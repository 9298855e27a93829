//! The grammar: tokens to syntax tree, by recursive descent.

use super::error::{Problem, Result, fail};
use super::source::{Snippet, cover};
use super::syntax::*;
use super::token::{Token, TokenKind, tokens};
use crate::Span;

/// Deepest nesting of expressions and statements. Everything that recurses over the
/// tree relies on it.
pub(super) const MAX_DEPTH: usize = 100;
/// Most terms of one expression that are joined by operators, one after the other. What
/// walks such a chain does so in a loop.
const MAX_TERMS: usize = 1000;
/// Most entries of a list between commas.
pub(super) const MAX_LIST: usize = 256;

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

/// A program: the text of a flow or of a step.
pub(super) fn program(snippet: &Snippet) -> Result<Vec<Statement>> {
    let mut parser = Parser::new(snippet)?;
    let statements = parser.statements()?;
    parser.end("a statement")?;
    Ok(statements)
}

/// A single expression.
pub(super) fn expression(snippet: &Snippet) -> Result<Node> {
    let mut parser = Parser::new(snippet)?;
    parser.newlines();
    let node = parser.expression(0)?;
    parser.newlines();
    parser.end("an operator or the end of the expression")?;
    Ok(node)
}

/// The declarations of a recurrence: `r[H, j], w[H, j]`.
pub(super) fn formals(snippet: &Snippet) -> Result<Vec<Formal>> {
    let mut parser = Parser::new(snippet)?;
    let mut out = Vec::new();
    parser.newlines();
    while !parser.at_end() {
        out.push(parser.formal()?);
        parser.listed(out.len())?;
        parser.newlines();
        if !parser.accept(",") {
            break;
        }
        parser.newlines();
    }
    parser.end("`,` or the end")?;
    Ok(out)
}

/// A shape: `C, G * N`.
pub(super) fn shape(snippet: &Snippet) -> Result<Vec<Dimension>> {
    let mut parser = Parser::new(snippet)?;
    let mut out = Vec::new();
    parser.newlines();
    while !parser.at_end() {
        let mut dimension = vec![parser.name("the name of an axis")?];
        while parser.accept("*") {
            dimension.push(parser.name("the name of an axis")?);
            parser.listed(dimension.len())?;
        }
        out.push(dimension);
        parser.listed(out.len())?;
        parser.newlines();
        if !parser.accept(",") {
            break;
        }
        parser.newlines();
    }
    parser.end("`,`, `*` or the end of the shape")?;
    Ok(out)
}

/// A list of calls: `view(Z, R, C), t(1, 2)`.
pub(super) fn calls(snippet: &Snippet) -> Result<Vec<Call>> {
    let mut parser = Parser::new(snippet)?;
    let mut out = Vec::new();
    parser.newlines();
    while !parser.at_end() {
        let node = parser.expression(0)?;
        match node.kind {
            NodeKind::Call(call) => out.push(call),
            _ => {
                return fail(
                    Problem::Syntax {
                        expected: "a step like `t(0, 1)`".into(),
                        found: "something else".into(),
                    },
                    node.span,
                );
            }
        }
        parser.listed(out.len())?;
        parser.newlines();
        if !parser.accept(",") {
            break;
        }
        parser.newlines();
    }
    parser.end("`,` or the end")?;
    Ok(out)
}

impl Parser {
    fn new(snippet: &Snippet) -> Result<Self> {
        Ok(Parser {
            tokens: tokens(snippet)?,
            at: 0,
            depth: 0,
        })
    }

    fn token(&self) -> &Token {
        // The last token is `End` and is never passed.
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn kind(&self) -> &TokenKind {
        &self.token().kind
    }

    fn following(&self) -> &TokenKind {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].kind
    }

    fn advance(&mut self) -> Token {
        let token = self.token().clone();
        self.at += 1;
        token
    }

    fn at_end(&self) -> bool {
        *self.kind() == TokenKind::End
    }

    fn is(&self, symbol: &str) -> bool {
        matches!(self.kind(), TokenKind::Symbol(s) if *s == symbol)
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.kind(), TokenKind::Name(n) if n == word)
    }

    fn accept(&mut self, symbol: &str) -> bool {
        let found = self.is(symbol);
        if found {
            self.advance();
        }
        found
    }

    fn expect(&mut self, symbol: &'static str) -> Result<Span> {
        if self.is(symbol) {
            Ok(self.advance().span)
        } else {
            self.unexpected(format!("`{symbol}`"))
        }
    }

    fn unexpected<T>(&self, expected: impl Into<String>) -> Result<T> {
        fail(
            Problem::Syntax {
                expected: expected.into(),
                found: self.kind().describe(),
            },
            self.token().span,
        )
    }

    fn newlines(&mut self) {
        while *self.kind() == TokenKind::Newline {
            self.advance();
        }
    }

    fn end(&mut self, expected: &str) -> Result<()> {
        self.newlines();
        if self.at_end() {
            Ok(())
        } else {
            self.unexpected(expected)
        }
    }

    fn name(&mut self, expected: &str) -> Result<Ident> {
        match self.kind() {
            TokenKind::Name(text) => {
                let text = text.clone();
                let span = self.advance().span;
                Ok(Ident { text, span })
            }
            _ => self.unexpected(expected),
        }
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= MAX_DEPTH {
            return fail(Problem::TooDeep { limit: MAX_DEPTH }, self.token().span);
        }
        self.depth += 1;
        let out = parse(self);
        self.depth -= 1;
        out
    }

    fn statements(&mut self) -> Result<Vec<Statement>> {
        let mut out = Vec::new();
        loop {
            self.newlines();
            if self.at_end() || self.is("}") {
                return Ok(out);
            }
            out.push(self.deeper(Self::statement)?);
            if !(self.at_end() || self.is("}") || *self.kind() == TokenKind::Newline) {
                return self.unexpected("an operator or the end of the line");
            }
        }
    }

    fn braces(&mut self) -> Result<Vec<Statement>> {
        self.expect("{")?;
        let body = self.statements()?;
        self.expect("}")?;
        Ok(body)
    }

    fn statement(&mut self) -> Result<Statement> {
        // A word in front of `=` is a name, whatever the word.
        let assigns = matches!(self.following(), TokenKind::Symbol("=" | "," | "["));
        if self.is_word("return") && !assigns {
            let mut span = self.advance().span;
            let mut values = vec![self.expression(0)?];
            while self.accept(",") {
                values.push(self.expression(0)?);
                self.listed(values.len())?;
            }
            for value in &values {
                span = cover(span, value.span);
            }
            return Ok(Statement::Return { values, span });
        }
        if self.is_word("if") && !assigns {
            return self.conditional();
        }
        if self.is_word("repeat") && !assigns {
            let span = self.advance().span;
            let variable = self.name("the name of the layer index")?;
            if !self.is_word("in") {
                return self.unexpected("`in`");
            }
            self.advance();
            let count = self.expression(0)?;
            let span = cover(span, count.span);
            let body = self.braces()?;
            return Ok(Statement::Repeat {
                variable,
                count,
                body,
                span,
            });
        }
        let mut targets = vec![self.target()?];
        while self.accept(",") {
            targets.push(self.target()?);
            self.listed(targets.len())?;
        }
        self.expect("=")?;
        let value = self.expression(0)?;
        Ok(Statement::Assign { targets, value })
    }

    fn conditional(&mut self) -> Result<Statement> {
        self.advance();
        let condition = self.expression(0)?;
        let then = self.braces()?;
        let before = self.at;
        self.newlines();
        let otherwise = if self.is_word("else") {
            self.advance();
            if self.is_word("if") {
                vec![self.deeper(Self::conditional)?]
            } else {
                self.braces()?
            }
        } else {
            self.at = before;
            Vec::new()
        };
        Ok(Statement::If {
            condition,
            then,
            otherwise,
        })
    }

    fn target(&mut self) -> Result<Target> {
        let name = self.name("a name to set")?;
        let axes = if self.accept("[") {
            let mut axes = Vec::new();
            while !self.is("]") {
                axes.push(self.name("the name of an axis")?);
                self.listed(axes.len())?;
                if !self.accept(",") {
                    break;
                }
            }
            self.expect("]")?;
            Some(axes)
        } else {
            None
        };
        Ok(Target { name, axes })
    }

    fn formal(&mut self) -> Result<Formal> {
        let name = self.name("the name of a tensor")?;
        let mut axes = Vec::new();
        if self.accept("[") {
            while !self.is("]") {
                let name = self.name("the name of an axis")?;
                let size = if self.accept("=") {
                    Some(self.name("the name of the axis that gives the size")?)
                } else {
                    None
                };
                axes.push(FormalAxis { name, size });
                self.listed(axes.len())?;
                if !self.accept(",") {
                    break;
                }
            }
            self.expect("]")?;
        }
        let init = if self.accept("=") {
            Some(self.expression(0)?)
        } else {
            None
        };
        Ok(Formal { name, axes, init })
    }

    /// Refuses a list that has grown too long.
    fn listed(&self, entries: usize) -> Result<()> {
        if entries <= MAX_LIST {
            return Ok(());
        }
        fail(
            Problem::TooLong {
                what: "this list".into(),
                limit: MAX_LIST,
                unit: "entries",
                advice: "give fewer",
            },
            self.token().span,
        )
    }

    fn operator(&self) -> Option<(Operator, u8)> {
        Some(match self.kind() {
            TokenKind::Symbol(s) => match *s {
                "||" => (Operator::Or, 1),
                "&&" => (Operator::And, 2),
                "==" => (Operator::Equal, 4),
                "!=" => (Operator::NotEqual, 4),
                "<" => (Operator::Less, 4),
                "<=" => (Operator::LessEqual, 4),
                ">" => (Operator::Greater, 4),
                ">=" => (Operator::GreaterEqual, 4),
                "+" => (Operator::Add, 5),
                "-" => (Operator::Sub, 5),
                "*" => (Operator::Mul, 6),
                "/" => (Operator::Div, 6),
                "%" => (Operator::Rem, 6),
                "@" => (Operator::Contract, 6),
                _ => return None,
            },
            TokenKind::Name(n) if n == "or" => (Operator::Or, 1),
            TokenKind::Name(n) if n == "and" => (Operator::And, 2),
            _ => return None,
        })
    }

    fn expression(&mut self, binding: u8) -> Result<Node> {
        self.deeper(|p| {
            let mut left = p.prefix()?;
            while let Some((operator, strength)) = p.operator() {
                if strength <= binding {
                    break;
                }
                p.advance();
                p.newlines();
                let right = p.expression(strength)?;
                left = binary(operator, left, right)?;
            }
            Ok(left)
        })
    }

    fn prefix(&mut self) -> Result<Node> {
        let start = self.token().span;
        if self.accept("-") {
            // Binds tighter than `*`, and less tightly than `**`: -a * b is (-a) * b.
            let inner = self.deeper(Self::prefix)?;
            let (span, depth) = (cover(start, inner.span), inner.depth);
            return node(NodeKind::Negate(Box::new(inner)), span, depth);
        }
        if self.is("!") || self.is_word("not") {
            self.advance();
            let inner = self.expression(3)?;
            let (span, depth) = (cover(start, inner.span), inner.depth);
            return node(NodeKind::Not(Box::new(inner)), span, depth);
        }
        let mut out = self.primary()?;
        while self.is("[") {
            self.advance();
            let mut picks = Vec::new();
            while !self.is("]") {
                let axis = self.name("the name of an axis")?;
                self.expect("=")?;
                picks.push((axis, self.expression(0)?));
                self.listed(picks.len())?;
                if !self.accept(",") {
                    break;
                }
            }
            let end = self.expect("]")?;
            let span = cover(out.span, end);
            let depth = picks.iter().map(|p| p.1.depth).fold(out.depth, usize::max);
            out = node(NodeKind::Select(Box::new(out), picks), span, depth)?;
        }
        if self.accept("**") {
            self.newlines();
            // Of several, the last comes first; the exponent may have a sign.
            let exponent = self.deeper(Self::prefix)?;
            out = binary(Operator::Power, out, exponent)?;
        }
        Ok(out)
    }

    fn primary(&mut self) -> Result<Node> {
        let token = self.token().clone();
        let (kind, span, depth) = match token.kind {
            TokenKind::Number(n) => {
                self.advance();
                (NodeKind::Number(n), token.span, 0)
            }
            TokenKind::Text(t) => {
                self.advance();
                (NodeKind::Text(t), token.span, 0)
            }
            TokenKind::Name(name) => {
                self.advance();
                if !self.accept("(") {
                    return node(NodeKind::Name(name), token.span, 0);
                }
                let mut args = Vec::new();
                let mut depth = 0;
                while !self.is(")") {
                    let arg = self.argument()?;
                    if let Arg::Positional(n) | Arg::Keyword(_, n) = &arg {
                        depth = depth.max(n.depth);
                    }
                    args.push(arg);
                    self.listed(args.len())?;
                    if !self.accept(",") {
                        break;
                    }
                }
                let end = self.expect(")")?;
                let function = Ident {
                    text: name,
                    span: token.span,
                };
                (
                    NodeKind::Call(Call { function, args }),
                    cover(token.span, end),
                    depth,
                )
            }
            TokenKind::Symbol("(") => {
                self.advance();
                let mut inner = self.expression(0)?;
                let end = self.expect(")")?;
                inner.span = cover(token.span, end);
                return Ok(inner);
            }
            _ => return self.unexpected("an expression"),
        };
        node(kind, span, depth)
    }

    fn argument(&mut self) -> Result<Arg> {
        if matches!(self.kind(), TokenKind::Name(_)) {
            match self.following() {
                TokenKind::Symbol("=") => {
                    let name = self.name("a keyword")?;
                    self.advance();
                    return Ok(Arg::Keyword(name, self.expression(0)?));
                }
                TokenKind::Symbol("->") => {
                    let from = self.name("an axis")?;
                    self.advance();
                    return Ok(Arg::Rename(from, self.name("the new name of the axis")?));
                }
                _ => {}
            }
        }
        Ok(Arg::Positional(self.expression(0)?))
    }
}

/// `left operator right`. A chain grows to the left, and is not nested for that.
fn binary(operator: Operator, left: Node, right: Node) -> Result<Node> {
    let span = cover(left.span, right.span);
    let terms = left.terms + 1;
    if terms > MAX_TERMS {
        return fail(
            Problem::TooLong {
                what: "this expression".into(),
                limit: MAX_TERMS,
                unit: "terms",
                advice: "give a part of it a name of its own",
            },
            span,
        );
    }
    let chained = matches!(left.kind, NodeKind::Binary(..));
    let below = (left.depth - usize::from(chained)).max(right.depth);
    let kind = NodeKind::Binary(operator, Box::new(left), Box::new(right));
    Ok(Node {
        terms,
        ..node(kind, span, below)?
    })
}

/// A node over children of the given height.
fn node(kind: NodeKind, span: Span, below: usize) -> Result<Node> {
    let depth = below + 1;
    if depth > MAX_DEPTH {
        return fail(Problem::TooDeep { limit: MAX_DEPTH }, span);
    }
    Ok(Node {
        kind,
        span,
        depth,
        terms: 1,
    })
}
