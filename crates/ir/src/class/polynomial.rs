//! Polynomials of a step in Einstein notation: sums of products of reads, with at most one
//! read of a state in each, all contractions pulled to the front.
//!
//! Equal polynomials are equal values: factors are sorted, like terms are collected, and bound
//! variables are numbered by where they stand, not by the axis that was written.

use super::Reason;
use crate::{AxisId, Binary, Unary};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Most terms of a polynomial.
const MAX_TERMS: usize = 64;
/// Most work of renaming a polynomial, in atoms.
const MAX_WORK: usize = 1 << 14;
/// Deepest nesting of functions and sums.
const MAX_NESTING: usize = 48;
/// Most variables of one sum for which every order is tried.
const MAX_ORDERS: usize = 4;

/// An index variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Var {
    /// An axis of the statement.
    Axis(AxisId),
    /// Contracted with the state, at this axis of it.
    Slot(usize),
    /// Bound by an enclosing sum or maximum.
    Bound(u32),
    /// Bound by a sum that is being taken apart.
    Open(u32),
}

/// A number with an order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number(pub f64);

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Number {}
impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// A factor that no state enters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Atom {
    /// An element of an input.
    Input(usize, Vec<Var>),
    /// The index itself, as a number.
    Index(Var),
    /// The position of the token.
    Position,
    /// A function that is no polynomial.
    Unary(Unary, Polynomial),
    /// A function of two that is no polynomial.
    Binary(Binary, Polynomial, Polynomial),
    /// The sum of a product over bound variables `first..first + sizes.len()`.
    Sum {
        sizes: Vec<usize>,
        first: u32,
        body: Vec<Atom>,
    },
    /// The maximum over bound variables, likewise.
    Max {
        sizes: Vec<usize>,
        first: u32,
        of: Polynomial,
    },
}

/// A read of a state before the step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StateRead {
    pub state: usize,
    pub index: Vec<Var>,
}

/// A product. Factors are sorted descending, so that the derived order is the lexicographic
/// monomial order that division needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Monomial {
    pub state: Option<StateRead>,
    pub factors: Vec<Atom>,
}

/// A sum of products, ascending, without zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Polynomial {
    pub terms: Vec<(Monomial, Number)>,
}

fn too_large(what: &str, limit: usize) -> Reason {
    Reason::TooLarge {
        what: what.to_owned(),
        limit,
    }
}

/// How large a polynomial is: what it costs to rename it, and how deep it is.
#[derive(Clone, Copy, Debug, Default)]
struct Extent {
    work: usize,
    nesting: usize,
}

impl Extent {
    fn beside(self, other: Extent) -> Extent {
        Extent {
            work: self.work.saturating_add(other.work),
            nesting: self.nesting.max(other.nesting),
        }
    }

    fn inside(self, times: usize) -> Extent {
        Extent {
            work: self.work.saturating_mul(times).saturating_add(1),
            nesting: self.nesting + 1,
        }
    }
}

fn sorted(mut factors: Vec<Atom>) -> Vec<Atom> {
    factors.sort_by(|a, b| b.cmp(a));
    factors
}

impl Atom {
    /// Calls `visit` on every variable, bound ones included.
    pub fn variables(&self, visit: &mut dyn FnMut(Var)) {
        match self {
            Atom::Input(_, index) => index.iter().for_each(|v| visit(*v)),
            Atom::Index(v) => visit(*v),
            Atom::Position => {}
            Atom::Unary(_, of) | Atom::Max { of, .. } => of.variables(visit),
            Atom::Binary(_, a, b) => {
                a.variables(visit);
                b.variables(visit);
            }
            Atom::Sum { body, .. } => body.iter().for_each(|a| a.variables(visit)),
        }
    }

    fn extent(&self) -> Extent {
        match self {
            Atom::Input(..) | Atom::Index(_) | Atom::Position => Extent::default().inside(1),
            Atom::Unary(_, of) | Atom::Max { of, .. } => of.extent().inside(1),
            Atom::Binary(_, a, b) => a.extent().beside(b.extent()).inside(1),
            // Renaming tries every order.
            Atom::Sum { sizes, body, .. } => body
                .iter()
                .map(Atom::extent)
                .fold(Extent::default(), Extent::beside)
                .inside(orders(sizes.len()).len()),
        }
    }

    pub fn mentions(&self, wanted: impl Fn(Var) -> bool) -> bool {
        let mut found = false;
        self.variables(&mut |v| found |= wanted(v));
        found
    }

    pub fn rename(&self, f: &dyn Fn(Var) -> Var) -> Atom {
        match self {
            Atom::Input(i, index) => Atom::Input(*i, index.iter().map(|v| f(*v)).collect()),
            Atom::Index(v) => Atom::Index(f(*v)),
            Atom::Position => Atom::Position,
            Atom::Unary(u, of) => Atom::Unary(*u, of.rename(f)),
            Atom::Binary(b, x, y) => symmetric(*b, x.rename(f), y.rename(f)),
            Atom::Max { sizes, first, of } => Atom::Max {
                sizes: sizes.clone(),
                first: *first,
                of: of.rename(f),
            },
            Atom::Sum { sizes, first, body } => {
                let body: Vec<Atom> = body.iter().map(|a| a.rename(f)).collect();
                let bound: Vec<(Var, usize)> = sizes
                    .iter()
                    .enumerate()
                    .map(|(i, size)| (Var::Bound(first + i as u32), *size))
                    .collect();
                numbered_sum(bound, body, *first)
            }
        }
    }
}

/// `a op b` with the arguments of a symmetric function in order.
fn symmetric(op: Binary, a: Polynomial, b: Polynomial) -> Atom {
    match op {
        Binary::Min | Binary::Max if b < a => Atom::Binary(op, b, a),
        _ => Atom::Binary(op, a, b),
    }
}

/// The first number that no sum inside `body` binds.
fn first_free(body: &[Atom]) -> u32 {
    let mut first = 0;
    for atom in body {
        atom.variables(&mut |v| {
            if let Var::Bound(n) = v {
                first = first.max(n + 1);
            }
        });
    }
    first
}

/// The sum of `body` over `variables`.
fn closed_sum(variables: Vec<(Var, usize)>, body: Vec<Atom>) -> Atom {
    let first = first_free(&body);
    numbered_sum(variables, body, first)
}

/// The sum with its variables numbered from `first`, in the order of them that sorts lowest.
fn numbered_sum(variables: Vec<(Var, usize)>, body: Vec<Atom>, first: u32) -> Atom {
    let mut best: Option<(Vec<usize>, Vec<Atom>)> = None;
    for order in orders(variables.len()) {
        let place = |v: Var| match order.iter().position(|o| variables[*o].0 == v) {
            Some(at) => Var::Bound(first + at as u32),
            None => v,
        };
        let sizes: Vec<usize> = order.iter().map(|o| variables[*o].1).collect();
        let renamed = sorted(body.iter().map(|a| a.rename(&place)).collect());
        let better = best
            .as_ref()
            .is_none_or(|(s, b)| (&sizes, &renamed) < (s, b));
        if better {
            best = Some((sizes, renamed));
        }
    }
    let (sizes, body) = best.unwrap_or_default();
    Atom::Sum { sizes, first, body }
}

/// All orders of `0..n`; beyond [`MAX_ORDERS`] only the given one.
pub(super) fn orders(n: usize) -> Vec<Vec<usize>> {
    if n > MAX_ORDERS {
        return vec![(0..n).collect()];
    }
    let mut out: Vec<Vec<usize>> = vec![vec![]];
    for next in 0..n {
        out = out
            .iter()
            .flat_map(|order| {
                (0..=order.len()).map(move |at| {
                    let mut order = order.clone();
                    order.insert(at, next);
                    order
                })
            })
            .collect();
    }
    out
}

impl Monomial {
    pub fn variables(&self, visit: &mut dyn FnMut(Var)) {
        if let Some(read) = &self.state {
            read.index.iter().for_each(|v| visit(*v));
        }
        self.factors.iter().for_each(|a| a.variables(visit));
    }

    pub fn rename(&self, f: &dyn Fn(Var) -> Var) -> Monomial {
        Monomial {
            state: self.state.as_ref().map(|read| StateRead {
                state: read.state,
                index: read.index.iter().map(|v| f(*v)).collect(),
            }),
            factors: sorted(self.factors.iter().map(|a| a.rename(f)).collect()),
        }
    }

    /// The monomial that gives this one when multiplied by `divisor`. Both without a state.
    fn divided_by(&self, divisor: &Monomial) -> Option<Monomial> {
        let mut factors = self.factors.clone();
        for factor in &divisor.factors {
            let at = factors.iter().position(|f| f == factor)?;
            factors.remove(at);
        }
        Some(Monomial {
            state: None,
            factors,
        })
    }
}

impl Polynomial {
    fn collect(terms: impl IntoIterator<Item = (Monomial, f64)>) -> Polynomial {
        // The magnitude tells a cancelled term from a small one.
        let mut sums: BTreeMap<Monomial, (f64, f64)> = BTreeMap::new();
        for (monomial, c) in terms {
            let sum = sums.entry(monomial).or_insert((0.0, 0.0));
            sum.0 += c;
            sum.1 = sum.1.max(c.abs());
        }
        Polynomial {
            terms: sums
                .into_iter()
                .filter(|(_, (sum, size))| sum.abs() > 1e-13 * size)
                .map(|(m, (sum, _))| (m, Number(sum)))
                .collect(),
        }
    }

    fn numbers(&self) -> impl Iterator<Item = (Monomial, f64)> + '_ {
        self.terms.iter().map(|(m, c)| (m.clone(), c.0))
    }

    fn extent(&self) -> Extent {
        let factors = self.terms.iter().flat_map(|(m, _)| &m.factors);
        factors
            .map(Atom::extent)
            .fold(Extent::default(), Extent::beside)
    }

    /// Itself, if it is small enough to go on with: sizes can double with every statement.
    fn capped(self) -> Result<Polynomial, Reason> {
        let Extent { work, nesting } = self.extent();
        if self.terms.len() > MAX_TERMS {
            return Err(too_large("terms", MAX_TERMS));
        }
        if work > MAX_WORK {
            return Err(too_large("factors", MAX_WORK));
        }
        if nesting > MAX_NESTING {
            return Err(too_large("functions inside each other", MAX_NESTING));
        }
        Ok(self)
    }

    pub fn constant(c: f64) -> Polynomial {
        Polynomial::collect([(Monomial::default(), c)])
    }

    /// The index along an axis, as a number.
    pub fn index(axis: AxisId) -> Polynomial {
        Polynomial::atom(Atom::Index(Var::Axis(axis)))
    }

    /// The position of the token.
    pub fn position() -> Polynomial {
        Polynomial::atom(Atom::Position)
    }

    pub fn of(monomial: Monomial) -> Polynomial {
        Polynomial::collect([(monomial, 1.0)])
    }

    pub fn atom(atom: Atom) -> Polynomial {
        Polynomial::of(Monomial {
            state: None,
            factors: vec![atom],
        })
    }

    pub fn is_zero(&self) -> bool {
        self.terms.is_empty()
    }

    /// The number it is, if it is one.
    pub fn as_number(&self) -> Option<f64> {
        match self.terms.as_slice() {
            [] => Some(0.0),
            [(m, c)] if m.state.is_none() && m.factors.is_empty() => Some(c.0),
            _ => None,
        }
    }

    pub fn has_state(&self) -> bool {
        self.terms.iter().any(|(m, _)| m.state.is_some())
    }

    /// The terms for which `wanted` holds.
    pub fn filtered(&self, wanted: impl Fn(&Monomial) -> bool) -> Polynomial {
        Polynomial {
            terms: self
                .terms
                .iter()
                .filter(|(m, _)| wanted(m))
                .cloned()
                .collect(),
        }
    }

    /// The terms in no state.
    pub fn free(&self) -> Polynomial {
        self.filtered(|m| m.state.is_none())
    }

    pub fn variables(&self, visit: &mut dyn FnMut(Var)) {
        self.terms.iter().for_each(|(m, _)| m.variables(visit));
    }

    /// The axes that it depends on.
    pub fn axes(&self) -> Vec<AxisId> {
        let mut out = std::collections::BTreeSet::new();
        self.variables(&mut |v| {
            if let Var::Axis(a) = v {
                out.insert(a);
            }
        });
        out.into_iter().collect()
    }

    pub fn rename(&self, f: &dyn Fn(Var) -> Var) -> Polynomial {
        Polynomial::collect(self.terms.iter().map(|(m, c)| (m.rename(f), c.0)))
    }

    pub fn scale(&self, by: f64) -> Polynomial {
        Polynomial::collect(self.numbers().map(|(m, c)| (m, c * by)))
    }

    pub fn plus(&self, other: &Polynomial) -> Polynomial {
        Polynomial::collect(self.numbers().chain(other.numbers()))
    }

    pub fn minus(&self, other: &Polynomial) -> Polynomial {
        self.plus(&other.scale(-1.0))
    }

    /// The product; a product of two states is no polynomial of degree 1.
    pub fn times(&self, other: &Polynomial) -> Result<Polynomial, Reason> {
        if self.terms.len().saturating_mul(other.terms.len()) > MAX_TERMS * MAX_TERMS {
            return Err(too_large("terms", MAX_TERMS));
        }
        let mut terms = Vec::new();
        for (a, x) in &self.terms {
            for (b, y) in &other.terms {
                let state = match (&a.state, &b.state) {
                    (Some(_), Some(_)) => return Err(Reason::StateProduct),
                    (Some(read), None) | (None, Some(read)) => Some(read.clone()),
                    (None, None) => None,
                };
                let factors = a.factors.iter().chain(&b.factors).cloned().collect();
                let factors = sorted(factors);
                terms.push((Monomial { state, factors }, x.0 * y.0));
            }
        }
        Polynomial::collect(terms).capped()
    }

    pub fn unary(self, f: Unary) -> Result<Polynomial, Reason> {
        match f {
            Unary::Neg => return Ok(self.scale(-1.0)),
            Unary::Square => return self.times(&self),
            _ if self.has_state() => {
                return Err(Reason::NonLinear {
                    function: f.name().to_owned(),
                });
            }
            _ => {}
        }
        if let Some(c) = self.as_number()
            && f.eval(c).is_finite()
        {
            return Ok(Polynomial::constant(f.eval(c)));
        }
        match (f, self.terms.as_slice()) {
            // The reciprocal of a product is the product of the reciprocals.
            (Unary::Recip, [(m, c)]) => {
                let factors = m.factors.iter().map(|atom| match atom {
                    Atom::Unary(Unary::Recip, of) => of.clone(),
                    _ => {
                        Polynomial::atom(Atom::Unary(Unary::Recip, Polynomial::atom(atom.clone())))
                    }
                });
                let mut out = Polynomial::constant(1.0 / c.0);
                for factor in factors {
                    out = out.times(&factor)?;
                }
                Ok(out)
            }
            _ => Polynomial::atom(Atom::Unary(f, self)).capped(),
        }
    }

    pub fn binary(self, op: Binary, other: Polynomial) -> Result<Polynomial, Reason> {
        match op {
            Binary::Add => return self.plus(&other).capped(),
            Binary::Sub => return self.minus(&other).capped(),
            Binary::Mul => return self.times(&other),
            Binary::Div => return self.times(&other.unary(Unary::Recip)?),
            Binary::Pow if other.as_number() == Some(1.0) => return Ok(self),
            Binary::Pow if other.as_number() == Some(2.0) => return self.times(&self),
            // Where the condition does not hold, nothing of the state is left.
            Binary::When if !self.has_state() && other.has_state() => {
                let holds = Atom::Binary(Binary::When, self, Polynomial::constant(1.0));
                return other.times(&Polynomial::atom(holds));
            }
            Binary::Min
            | Binary::Max
            | Binary::Pow
            | Binary::Less
            | Binary::LessEqual
            | Binary::Equal
            | Binary::When => {}
        }
        if self.has_state() || other.has_state() {
            let function = match op {
                Binary::Min => "min",
                Binary::Max => "max",
                Binary::Pow => "pow",
                _ => "where",
            };
            return Err(Reason::NonLinear {
                function: function.to_owned(),
            });
        }
        if let (Some(a), Some(b)) = (self.as_number(), other.as_number())
            && op.eval(a, b).is_finite()
        {
            return Ok(Polynomial::constant(op.eval(a, b)));
        }
        Polynomial::atom(symmetric(op, self, other)).capped()
    }

    /// The sum over axes of the given sizes.
    pub fn sum(&self, over: &[(AxisId, usize)]) -> Result<Polynomial, Reason> {
        Polynomial::collect(self.terms.iter().map(|(m, c)| sum_of(m, c.0, over))).capped()
    }

    /// The maximum over axes, of an expression in no state.
    pub fn maximum(&self, over: &[(AxisId, usize)]) -> Result<Polynomial, Reason> {
        if self.has_state() {
            return Err(Reason::NonLinear {
                function: "max_over".to_owned(),
            });
        }
        let mut first = 0;
        self.variables(&mut |v| {
            if let Var::Bound(n) = v {
                first = first.max(n + 1);
            }
        });
        let place = |v: Var| match over.iter().position(|(a, _)| v == Var::Axis(*a)) {
            Some(at) => Var::Bound(first + at as u32),
            None => v,
        };
        let of = self.rename(&place);
        let sizes = over.iter().map(|(_, size)| *size).collect();
        Polynomial::atom(Atom::Max { sizes, first, of }).capped()
    }

    /// Quotient and remainder: no term of the remainder is divisible by the divisor's leading
    /// term. Both without a state.
    pub fn divide(&self, divisor: &Polynomial) -> (Polynomial, Polynomial) {
        let (mut left, mut quotient) = (self.clone(), Polynomial::default());
        let mut remainder = Polynomial::default();
        let Some((lead, c)) = divisor.terms.last() else {
            return (quotient, left);
        };
        // Every round removes a leading term; only rounding could bring one back.
        for _ in 0..4 * MAX_TERMS {
            let Some((top, top_c)) = left.terms.pop() else {
                break;
            };
            let Some(monomial) = top.divided_by(lead) else {
                remainder.terms.insert(0, (top, top_c));
                continue;
            };
            let part = Polynomial::collect([(monomial, top_c.0 / c.0)]);
            let mut product = match part.times(divisor) {
                Ok(product) => product,
                Err(_) => break,
            };
            product.terms.retain(|(m, _)| *m != top);
            left = left.minus(&product);
            quotient = quotient.plus(&part);
        }
        (quotient, remainder.plus(&left))
    }
}

/// One term summed over axes.
fn sum_of(term: &Monomial, c: f64, over: &[(AxisId, usize)]) -> (Monomial, f64) {
    let mut term = term.clone();
    let mut c = c;
    let mut open: Vec<(Var, usize)> = Vec::new();
    for (axis, size) in over {
        let variable = Var::Axis(*axis);
        let at_state = term
            .state
            .as_ref()
            .and_then(|read| read.index.iter().position(|v| *v == variable));
        let target = match at_state {
            Some(at) => Var::Slot(at),
            None if term.factors.iter().any(|a| a.mentions(|v| v == variable)) => {
                let target = Var::Open(open.len() as u32);
                open.push((target, *size));
                target
            }
            None => {
                c *= *size as f64;
                continue;
            }
        };
        term = term.rename(&|v| if v == variable { target } else { v });
    }
    if open.is_empty() {
        return (term, c);
    }
    // Sums inside that share a variable with this one become part of it.
    let mut factors = Vec::new();
    let mut queue = std::mem::take(&mut term.factors);
    while let Some(atom) = queue.pop() {
        let shares = atom.mentions(|v| matches!(v, Var::Open(_)));
        match atom {
            Atom::Sum { sizes, first, body } if shares => {
                let base = open.len() as u32;
                let inner = |v: Var| match v {
                    Var::Bound(n) if n >= first && n < first + sizes.len() as u32 => {
                        Var::Open(base + n - first)
                    }
                    v => v,
                };
                queue.extend(body.iter().map(|a| a.rename(&inner)));
                let opened = sizes.iter().enumerate();
                open.extend(opened.map(|(i, size)| (Var::Open(base + i as u32), *size)));
            }
            atom => factors.push(atom),
        }
    }
    // Variables connected through factors make one sum.
    while let Some(start) = open.pop() {
        let mut component = vec![start];
        let mut body: Vec<Atom> = Vec::new();
        loop {
            let touches =
                |a: &Atom| a.mentions(|v| component.iter().any(|(member, _)| *member == v));
            let (inside, outside): (Vec<Atom>, Vec<Atom>) = factors.into_iter().partition(touches);
            factors = outside;
            if inside.is_empty() {
                break;
            }
            body.extend(inside);
            let reached = |(v, _): &(Var, usize)| body.iter().any(|a| a.mentions(|w| w == *v));
            let (joined, apart): (Vec<_>, Vec<_>) = open.into_iter().partition(reached);
            component.extend(joined);
            open = apart;
        }
        factors.push(closed_sum(component, body));
    }
    term.factors = sorted(factors);
    (term, c)
}
