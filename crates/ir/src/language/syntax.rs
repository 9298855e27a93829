//! The syntax tree of the expression language: what was written, nothing more.

use crate::Span;

/// A name and its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ident {
    pub text: String,
    pub span: Span,
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub kind: NodeKind,
    pub span: Span,
    /// Height of the tree, bounded by the parser so that recursion over it is safe. The left
    /// operand of a binary operator counts only where it is none itself: see [`Node::chain`].
    pub depth: usize,
    /// Operands of the chain that it is; 1 for anything but a binary operator.
    pub terms: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum NodeKind {
    Number(f64),
    Text(String),
    Name(String),
    Negate(Box<Node>),
    Not(Box<Node>),
    Binary(Operator, Box<Node>, Box<Node>),
    Call(Call),
    /// `x[A = 0, B = k]`
    Select(Box<Node>, Vec<(Ident, Node)>),
}

/// An infix operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Sub,
    Mul,
    Div,
    Rem,
    Contract,
    Power,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    And,
    Or,
}

/// A call of a function, block or recurrence.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    pub function: Ident,
    pub args: Vec<Arg>,
}

/// An argument.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Arg {
    Positional(Node),
    Keyword(Ident, Node),
    /// `N -> M`
    Rename(Ident, Ident),
}

impl Arg {
    pub fn span(&self) -> Span {
        match self {
            Arg::Positional(node) => node.span,
            Arg::Keyword(name, node) => super::source::cover(name.span, node.span),
            Arg::Rename(a, b) => super::source::cover(a.span, b.span),
        }
    }
}

/// The left of an assignment: a name and, as an assertion, its axes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Target {
    pub name: Ident,
    pub axes: Option<Vec<Ident>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Statement {
    Assign {
        targets: Vec<Target>,
        value: Node,
    },
    Return {
        values: Vec<Node>,
        span: Span,
    },
    If {
        condition: Node,
        then: Vec<Statement>,
        otherwise: Vec<Statement>,
    },
    Repeat {
        variable: Ident,
        count: Node,
        body: Vec<Statement>,
        span: Span,
    },
}

impl Statement {
    /// Calls `visit` on every target set by these statements, in order.
    pub fn targets<'a>(statements: &'a [Statement], visit: &mut impl FnMut(&'a Ident)) {
        for statement in statements {
            match statement {
                Statement::Assign { targets, .. } => {
                    targets.iter().for_each(|t| visit(&t.name));
                }
                Statement::If {
                    then, otherwise, ..
                } => {
                    Statement::targets(then, visit);
                    Statement::targets(otherwise, visit);
                }
                Statement::Repeat { body, .. } => Statement::targets(body, visit),
                Statement::Return { .. } => {}
            }
        }
    }

    /// Calls `visit` on every name read by these statements.
    pub fn reads<'a>(statements: &'a [Statement], visit: &mut impl FnMut(&'a str)) {
        for statement in statements {
            match statement {
                Statement::Assign { value, .. } => value.reads(visit),
                Statement::Return { values, .. } => values.iter().for_each(|v| v.reads(visit)),
                Statement::If {
                    condition,
                    then,
                    otherwise,
                } => {
                    condition.reads(visit);
                    Statement::reads(then, visit);
                    Statement::reads(otherwise, visit);
                }
                Statement::Repeat { count, body, .. } => {
                    count.reads(visit);
                    Statement::reads(body, visit);
                }
            }
        }
    }
}

/// A step of a [`Node::chain`].
pub(super) struct Link<'a> {
    pub operator: Operator,
    pub right: &'a Node,
    /// Everything up to and with the right operand.
    pub whole: &'a Node,
}

impl Node {
    /// `a + b - c` as `a`, and what follows it from left to right. A chain may be long, so that
    /// it has to be walked in a loop.
    pub fn chain(&self) -> (&Node, Vec<Link<'_>>) {
        let mut links = Vec::new();
        let mut first = self;
        while let NodeKind::Binary(operator, left, right) = &first.kind {
            links.push(Link {
                operator: *operator,
                right,
                whole: first,
            });
            first = left;
        }
        links.reverse();
        (first, links)
    }

    /// Calls `visit` on every name in the expression, called or read.
    pub fn reads<'a>(&'a self, visit: &mut impl FnMut(&'a str)) {
        match &self.kind {
            NodeKind::Number(_) | NodeKind::Text(_) => {}
            NodeKind::Name(name) => visit(name),
            NodeKind::Negate(a) | NodeKind::Not(a) => a.reads(visit),
            NodeKind::Binary(..) => {
                let (first, links) = self.chain();
                first.reads(visit);
                links.iter().for_each(|link| link.right.reads(visit));
            }
            NodeKind::Call(call) => {
                visit(&call.function.text);
                for arg in &call.args {
                    match arg {
                        Arg::Positional(node) | Arg::Keyword(_, node) => node.reads(visit),
                        Arg::Rename(..) => {}
                    }
                }
            }
            NodeKind::Select(of, picks) => {
                of.reads(visit);
                picks.iter().for_each(|(_, index)| index.reads(visit));
            }
        }
    }
}

/// A declared tensor of a recurrence: `S[H, i = N, j = N] = 0`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Formal {
    pub name: Ident,
    pub axes: Vec<FormalAxis>,
    /// Initial value of a state.
    pub init: Option<Node>,
}

/// An axis of a formal: a model axis, or a letter, perhaps of declared size.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FormalAxis {
    pub name: Ident,
    pub size: Option<Ident>,
}

/// A declared dimension: one axis, or several merged (`G * N`).
pub(super) type Dimension = Vec<Ident>;
