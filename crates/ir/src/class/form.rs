//! Matching a normal form against the classes.

use super::coefficients::Coefficients;
use super::failure::{self, Failure};
use super::normal::Normal;
use super::polynomial::{Atom, Monomial, Polynomial, Var, orders};
use super::{Class, Classified, Layout, Read, Reason, low_rank, rotating};
use crate::{AxisId, Graph, Recurrence};
use std::collections::{BTreeMap, BTreeSet};

/// A state's part of a polynomial: `diagonal * S + sum over slots of contracted * S`.
#[derive(Default)]
pub(super) struct Parts {
    /// The coefficient of the element itself.
    pub diagonal: Polynomial,
    /// The coefficients of contractions, with [`Var::Slot`]s, and the contracted places.
    pub contracted: Polynomial,
    pub slots: BTreeSet<usize>,
}

/// A state under analysis.
pub(super) struct Subject<'a> {
    pub graph: &'a Graph,
    pub step: &'a Recurrence,
    pub state: usize,
    pub axes: &'a [AxisId],
    pub update: &'a Polynomial,
    /// What the update adds.
    pub added: Polynomial,
}

/// A read before its coefficients are written out.
pub(super) struct Found {
    pub output: usize,
    pub query: Polynomial,
    pub slots: BTreeSet<usize>,
    pub before: bool,
    pub bonus: Option<Polynomial>,
}

pub(super) fn classify(
    graph: &Graph,
    step: &Recurrence,
    normal: &Normal,
) -> Result<Classified, Failure> {
    let mut rest = normal.outputs.clone();
    let mut coefficients = Coefficients::new(graph, step);
    let mut states = Vec::new();
    for (state, update) in normal.next.iter().enumerate() {
        for (monomial, _) in &update.terms {
            if let Some(read) = &monomial.state
                && read.state != state
            {
                let (state_name, other) = (&step.states[state].name, &step.states[read.state].name);
                let (state_name, other) = (state_name.clone(), other.clone());
                let why = match rotating::is_turned(graph, step, normal) {
                    true => Reason::Turned {
                        state: state_name,
                        other,
                    },
                    false => Reason::Coupled {
                        state: state_name,
                        other,
                    },
                };
                let at = failure::read_of(step, step.next[state], read.state);
                return Err(Failure { why, at });
            }
        }
        let subject = Subject {
            graph,
            step,
            state,
            axes: &step.states[state].axes,
            update,
            added: update.free(),
        };
        let class = subject.classify(&mut rest, &mut coefficients);
        states.push(class.map_err(|failure| failure.within(step, step.next[state]))?);
    }
    finished(states, &rest, coefficients)
}

/// The classes of all states, and what outputs add to their reads.
pub(super) fn finished(
    states: Vec<Class>,
    rest: &[Polynomial],
    mut coefficients: Coefficients<'_>,
) -> Result<Classified, Failure> {
    let mut sums = Vec::new();
    for (i, value) in rest.iter().enumerate() {
        sums.push(match value.is_zero() {
            true => None,
            false => Some(coefficients.emit(&format!("rest{i}"), value)?),
        });
    }
    Ok(Classified {
        coefficients: coefficients.ops,
        states,
        rest: sums,
        blame: None,
    })
}

impl Subject<'_> {
    pub(super) fn name(&self) -> String {
        self.step.states[self.state].name.clone()
    }

    fn is_mine(&self, monomial: &Monomial) -> bool {
        monomial
            .state
            .as_ref()
            .is_some_and(|r| r.state == self.state)
    }

    /// A failure in the statement of an output.
    pub(super) fn in_output(&self, why: Reason, output: usize) -> Failure {
        Failure::from(why).within(self.step, self.step.outputs[output])
    }

    /// The terms in this state, sorted by what they contract.
    pub(super) fn parts(&self, of: &Polynomial) -> Result<Parts, Reason> {
        let mut out = Parts::default();
        let mut patterns: BTreeMap<BTreeSet<usize>, Polynomial> = BTreeMap::new();
        for (monomial, c) in &of.terms {
            let Some(read) = monomial.state.as_ref().filter(|r| r.state == self.state) else {
                continue;
            };
            let mut slots = BTreeSet::new();
            for (at, (v, axis)) in read.index.iter().zip(self.axes).enumerate() {
                match v {
                    Var::Slot(p) if *p == at => {
                        slots.insert(at);
                    }
                    v if *v == Var::Axis(*axis) => {}
                    _ => return Err(Reason::Permuted { state: self.name() }),
                }
            }
            let factors = monomial.factors.clone();
            let coefficient = Monomial {
                state: None,
                factors,
            };
            let term = Polynomial::of(coefficient).scale(c.0);
            let sum = patterns.entry(slots).or_default();
            *sum = sum.plus(&term);
        }
        for (slots, sum) in patterns {
            match (slots.is_empty(), out.contracted.is_zero()) {
                (true, _) => out.diagonal = sum,
                (false, true) => (out.slots, out.contracted) = (slots, sum),
                (false, false) => return Err(Reason::SeveralContractions { state: self.name() }),
            }
        }
        Ok(out)
    }

    /// Axes of this state that a polynomial depends on.
    pub(super) fn touched(&self, of: &Polynomial) -> BTreeSet<AxisId> {
        let all = of.axes();
        all.into_iter().filter(|a| self.axes.contains(a)).collect()
    }

    /// A coefficient of a contraction, with the state's axes in the place of slots.
    pub(super) fn unslotted(&self, of: &Polynomial) -> Polynomial {
        of.rename(&|v| match v {
            Var::Slot(p) => Var::Axis(self.axes[p]),
            v => v,
        })
    }

    fn classify(
        &self,
        rest: &mut [Polynomial],
        out: &mut Coefficients<'_>,
    ) -> Result<Class, Failure> {
        let update = self.parts(self.update)?;
        let mut reads = self.reads(&update, rest)?;
        if !update.contracted.is_zero() {
            return self.rank_one(&update, reads, rest, out);
        }
        if let Some(class) = low_rank::of_several_products(self, &update, &reads, out)? {
            return Ok(class);
        }
        let key = match reads.split_first() {
            Some((first, others)) if others.iter().all(|r| r.slots == first.slots) => {
                first.slots.clone()
            }
            _ => BTreeSet::new(),
        };
        if let Some(class) = self.outer(&key, &update, &mut reads, rest, out)? {
            return Ok(class);
        }
        Ok(Class::Elementwise {
            decay: out.emit("decay", &update.diagonal)?,
            add: out.emit("add", &self.added)?,
            reads: self.emit_reads(reads, out)?,
        })
    }

    /// Takes all reads of this state out of the outputs.
    pub(super) fn reads(
        &self,
        update: &Parts,
        rest: &mut [Polynomial],
    ) -> Result<Vec<Found>, Failure> {
        let mut reads = Vec::new();
        for (output, y) in rest.iter_mut().enumerate() {
            if y.terms.iter().any(|(m, _)| self.is_mine(m)) {
                let read = self.read(output, y, &update.diagonal);
                reads.push(read.map_err(|why| self.in_output(why, output))?);
            }
        }
        Ok(reads)
    }

    /// The head, key and value axes, given what depends on head and key axes only.
    pub(super) fn layout(
        &self,
        slots: &BTreeSet<usize>,
        per_key: &[&Polynomial],
        reads: &[Found],
    ) -> Layout {
        let key: Vec<AxisId> = slots.iter().map(|p| self.axes[*p]).collect();
        let mut heads = BTreeSet::new();
        let queries = reads.iter().map(|r| &r.query);
        for of in per_key.iter().copied().chain(queries) {
            heads.extend(self.touched(of));
        }
        for atom in self.added.terms.iter().flat_map(|(m, _)| &m.factors) {
            if mentions(atom, &key) {
                heads.extend(self.touched(&Polynomial::atom(atom.clone())));
            }
        }
        heads.retain(|a| !key.contains(a));
        let (heads, value) = self
            .axes
            .iter()
            .filter(|a| !key.contains(a))
            .partition(|a| heads.contains(a));
        Layout { heads, key, value }
    }

    fn outer(
        &self,
        slots: &BTreeSet<usize>,
        update: &Parts,
        reads: &mut [Found],
        rest: &mut [Polynomial],
        out: &mut Coefficients<'_>,
    ) -> Result<Option<Class>, Reason> {
        if slots.is_empty() || update.diagonal.is_zero() {
            return Ok(None);
        }
        let layout = self.layout(slots, &[&update.diagonal], reads);
        // A normaliser has one value, 1, if all keys share its decay: what else has no value axis is
        // an average by itself in every element.
        let of_decay = self.touched(&update.diagonal);
        if layout.value.is_empty() && of_decay.iter().any(|a| layout.key.contains(a)) {
            return Ok(None);
        }
        let Some((k, v)) = split(&self.added, |a| mentions(a, &layout.key))? else {
            return Ok(None);
        };
        self.bonuses(&layout, (&k, &v), reads, rest)?;
        Ok(Some(Class::DiagonalOuter {
            decay: out.emit("decay", &update.diagonal)?,
            k: out.emit("k", &k)?,
            v: out.emit("v", &v)?,
            reads: self.emit_reads(reads, out)?,
            layout,
        }))
    }

    fn rank_one(
        &self,
        update: &Parts,
        mut reads: Vec<Found>,
        rest: &mut [Polynomial],
        out: &mut Coefficients<'_>,
    ) -> Result<Class, Failure> {
        let state = || self.name();
        if let Some(read) = reads.iter().find(|r| r.slots != update.slots) {
            return Err(self.in_output(Reason::OtherRead { state: state() }, read.output));
        }
        let slot = |a: &Atom| a.mentions(|v| matches!(v, Var::Slot(_)));
        let Some((a, b)) = split(&update.contracted, slot)? else {
            let several = low_rank::of_several_products(self, update, &reads, out)?;
            return several.ok_or_else(|| Reason::NotRankOne { state: state() }.into());
        };
        let a = self.unslotted(&a);
        let layout = self.layout(&update.slots, &[&update.diagonal, &a, &b], &reads);
        let Some((k, v)) = split(&self.added, |a| mentions(a, &layout.key))? else {
            let several = low_rank::of_several_products(self, update, &reads, out)?;
            return several.ok_or_else(|| Reason::NotOuter { state: state() }.into());
        };
        self.bonuses(&layout, (&k, &v), &mut reads, rest)?;
        let of_decayed = match (exact(&a, &update.diagonal), exact(&b, &update.diagonal)) {
            (Some(a), _) => Some((a, b.clone())),
            // A decay per head may stand on either side of the product.
            (None, Some(b))
                if !update
                    .diagonal
                    .axes()
                    .iter()
                    .any(|x| layout.key.contains(x)) =>
            {
                Some((a.clone(), b))
            }
            _ => None,
        };
        let (contracted, added) = of_decayed
            .as_ref()
            .unwrap_or(&(a.clone(), b.clone()))
            .clone();
        let per_head = |c: &Polynomial| c.axes().iter().all(|x| layout.heads.contains(x));
        let along_key = match exact(&added, &k).filter(per_head) {
            Some(scale) => Some(contracted.times(&scale)?),
            None => None,
        };
        let of_decayed = match of_decayed {
            Some((a, b)) => Some((out.emit("a.decayed", &a)?, out.emit("b.decayed", &b)?)),
            None => None,
        };
        Ok(Class::DiagonalRankOne {
            decay: out.emit("decay", &update.diagonal)?,
            a: out.emit("a", &a)?,
            b: out.emit("b", &b)?,
            of_decayed,
            k: out.emit("k", &k)?,
            v: out.emit("v", &v)?,
            reads: self.emit_reads(&reads, out)?,
            along_key: match along_key {
                Some(a) => Some(out.emit("a.key", &a)?),
                None => None,
            },
            layout,
        })
    }

    /// `sum over slots of coefficient * with`, both over the state's axes.
    fn contract(
        &self,
        coefficient: &Polynomial,
        with: &Polynomial,
        slots: &BTreeSet<usize>,
    ) -> Result<Polynomial, Reason> {
        let over: Vec<(AxisId, usize)> = slots
            .iter()
            .map(|p| (self.axes[*p], self.graph.size(self.axes[*p])))
            .collect();
        coefficient.times(with)?.sum(&over)
    }

    /// Takes the read of this state out of `y`.
    fn read(&self, output: usize, y: &mut Polynomial, decay: &Polynomial) -> Result<Found, Reason> {
        let parts = self.parts(y)?;
        let along_contracted = parts
            .slots
            .iter()
            .any(|p| parts.contracted.axes().contains(&self.axes[*p]));
        let (direct, slots) = match (parts.diagonal.is_zero(), parts.contracted.is_zero()) {
            (false, true) => (parts.diagonal, BTreeSet::new()),
            (true, false) => (self.unslotted(&parts.contracted), parts.slots),
            // Both an element and a sum: what a rank-one update looks like when read as it is.
            _ => return Err(Reason::OtherRead { state: self.name() }),
        };
        if along_contracted {
            return Err(Reason::OtherRead { state: self.name() });
        }
        // A read after the step shows twice: what it multiplies the old state by is divisible by
        // the decay, and what it adds is divisible by what the update adds.
        let mut candidates: Vec<Polynomial> = exact(&direct, decay).into_iter().collect();
        for opened in self.opened(&y.free(), &slots) {
            let (quotient, _) = opened.divide(&self.added);
            if !quotient.is_zero() {
                candidates.push(quotient);
            }
        }
        for query in candidates {
            let after = self.contract(&query, self.update, &slots)?;
            let left = y.minus(&after);
            let fewer = left.free().terms.len() < y.free().terms.len() || self.added.is_zero();
            if fewer && !left.terms.iter().any(|(m, _)| self.is_mine(m)) {
                *y = left;
                return Ok(Found {
                    output,
                    query,
                    slots,
                    before: false,
                    bonus: None,
                });
            }
        }
        *y = y.filtered(|m| !self.is_mine(m));
        Ok(Found {
            output,
            query: direct,
            slots,
            before: true,
            bonus: None,
        })
    }

    /// A polynomial in no state seen as a contraction over the places `slots`: what is under the
    /// sum, over the state's axes. One per way to name the bound variables.
    fn opened(&self, of: &Polynomial, slots: &BTreeSet<usize>) -> Vec<Polynomial> {
        if slots.is_empty() {
            return vec![of.clone()];
        }
        let key: Vec<AxisId> = slots.iter().map(|p| self.axes[*p]).collect();
        let open = |order: &[usize]| {
            let mut out = Polynomial::default();
            for (monomial, c) in &of.terms {
                let at = monomial
                    .factors
                    .iter()
                    .position(|a| matches!(a, Atom::Sum { sizes, .. } if sizes.len() == key.len()));
                let Some(at) = at else { continue };
                let mut factors = monomial.factors.clone();
                if let Atom::Sum { first, body, .. } = factors.remove(at) {
                    let place = |v: Var| match v {
                        Var::Bound(n) if n >= first => order
                            .get((n - first) as usize)
                            .map_or(v, |o| Var::Axis(key[*o])),
                        v => v,
                    };
                    factors.extend(body.iter().map(|a| a.rename(&place)));
                }
                let monomial = Monomial {
                    state: None,
                    factors,
                };
                // Renaming sorts.
                let term = Polynomial::of(monomial.rename(&|v| v)).scale(c.0);
                out = out.plus(&term);
            }
            out
        };
        orders(key.len()).iter().map(|o| open(o)).collect()
    }

    /// Finds `bonus * k * v` in what outputs add to their reads.
    pub(super) fn bonuses(
        &self,
        layout: &Layout,
        (k, v): (&Polynomial, &Polynomial),
        reads: &mut [Found],
        rest: &mut [Polynomial],
    ) -> Result<(), Reason> {
        for read in reads {
            let y = &mut rest[read.output];
            let current = read.query.times(&k.times(v)?)?;
            for opened in self.opened(&y.free(), &read.slots) {
                let (bonus, _) = opened.divide(&current);
                if bonus.is_zero() || bonus.axes().iter().any(|a| layout.value.contains(a)) {
                    continue;
                }
                let part = self.contract(&bonus, &current, &read.slots)?;
                let left = y.minus(&part);
                if left.terms.len() < y.terms.len() {
                    *y = left;
                    read.bonus = Some(bonus);
                    break;
                }
            }
        }
        Ok(())
    }

    pub(super) fn emit_reads(
        &self,
        reads: impl IntoIterator<Item = impl std::borrow::Borrow<Found>>,
        out: &mut Coefficients<'_>,
    ) -> Result<Vec<Read>, Reason> {
        let mut list = Vec::new();
        for read in reads {
            let read: &Found = read.borrow();
            list.push(Read {
                output: read.output,
                query: out.emit("query", &read.query)?,
                over: read.slots.iter().map(|p| self.axes[*p]).collect(),
                before: read.before,
                bonus: match &read.bonus {
                    Some(bonus) => Some(out.emit("bonus", bonus)?),
                    None => None,
                },
            });
        }
        Ok(list)
    }
}

pub(super) fn mentions(atom: &Atom, axes: &[AxisId]) -> bool {
    atom.mentions(|v| matches!(v, Var::Axis(a) if axes.contains(&a)))
}

/// The quotient if there is no remainder.
pub(super) fn exact(of: &Polynomial, by: &Polynomial) -> Option<Polynomial> {
    let (quotient, remainder) = of.divide(by);
    (remainder.is_zero() && !quotient.is_zero()).then_some(quotient)
}

/// `left * right = of`, with every factor for which `is_left` on the left and no other.
/// `None` if it is a sum of several such products.
pub(super) fn split(
    of: &Polynomial,
    is_left: impl Fn(&Atom) -> bool,
) -> Result<Option<(Polynomial, Polynomial)>, Reason> {
    let mut products = products(of, is_left).into_iter();
    Ok(match (products.next(), products.next()) {
        (None, _) => Some((Polynomial::default(), Polynomial::default())),
        (Some(product), None) => Some(product),
        (Some(_), Some(_)) => None,
    })
}

/// Products `left * right` whose sum is `of`, likewise: as few as there are of left sides that are no
/// multiples of each other, where terms of one right side are together.
pub(super) fn products(
    of: &Polynomial,
    is_left: impl Fn(&Atom) -> bool,
) -> Vec<(Polynomial, Polynomial)> {
    let mut groups: BTreeMap<Monomial, Polynomial> = BTreeMap::new();
    for (monomial, c) in &of.terms {
        let (left, right): (Vec<Atom>, Vec<Atom>) =
            monomial.factors.iter().cloned().partition(&is_left);
        let of = |factors| Monomial {
            state: None,
            factors,
        };
        let sum = groups.entry(of(right)).or_default();
        *sum = sum.plus(&Polynomial::of(of(left)).scale(c.0));
    }
    let mut out: Vec<(Polynomial, Polynomial)> = Vec::new();
    for (right, coefficient) in groups {
        let multiple = out.iter_mut().find_map(|(left, sum)| {
            let (quotient, remainder) = coefficient.divide(left);
            let ratio = quotient.as_number().filter(|ratio| *ratio != 0.0)?;
            remainder.is_zero().then_some((sum, ratio))
        });
        if let Some((sum, ratio)) = multiple {
            *sum = sum.plus(&Polynomial::of(right).scale(ratio));
            continue;
        }
        // The number goes to the right, so that `k` stays `k` in `-k`.
        let scale = match coefficient.terms.last() {
            Some((_, c)) if coefficient.terms.iter().all(|(_, other)| *other == *c) => c.0,
            _ => 1.0,
        };
        out.push((
            coefficient.scale(1.0 / scale),
            Polynomial::of(right).scale(scale),
        ));
    }
    // The number of terms on each side is at most that of the sum.
    out
}
