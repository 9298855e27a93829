//! Several updates of a state as one class: stages of a step, each diagonal plus rank one, and sums of
//! several outer products, each an update that adds one of them.

use super::coefficients::Coefficients;
use super::failure::Failure;
use super::form::{Found, Parts, Subject, exact, mentions, products};
use super::polynomial::{Atom, Polynomial, Var};
use super::{Class, Layout, RankOne, Reason, Update};
use crate::AxisId;
use std::collections::BTreeSet;

/// Most updates of a class: what a kernel does for a token grows with their number.
const MAX_UPDATES: usize = 64;

/// A part of a step that updates its state once.
pub(super) struct Stage<'a> {
    pub subject: Subject<'a>,
    pub parts: Parts,
}

/// A stage written as factors and products, before its coefficients are.
struct Written {
    decay: Polynomial,
    /// `(a, b)` of each, all of them contracted with the same state.
    factors: Vec<(Polynomial, Polynomial)>,
    /// `(k, v)` of each outer product that is added; no fewer than there are factors.
    added: Vec<(Polynomial, Polynomial)>,
}

impl Written {
    fn updates(&self) -> usize {
        self.added.len().max(1)
    }
}

/// The class of a step whose only fault is that it adds several outer products, or multiplies the state by several
/// rank-one factors beside its decay. `None` if that is not so, or if their sides hold sums: those of a step that
/// is better taken apart.
pub(super) fn of_several_products(
    subject: &Subject<'_>,
    parts: &Parts,
    reads: &[Found],
    out: &mut Coefficients<'_>,
) -> Result<Option<Class>, Failure> {
    if has_sums(&subject.added) || parts.diagonal.is_zero() {
        return Ok(None);
    }
    let Some(slots) = reads.first().map(|read| &read.slots) else {
        return Ok(None);
    };
    let contracts = parts.contracted.is_zero() || parts.slots == *slots;
    if slots.is_empty() || !contracts || reads.iter().any(|read| read.slots != *slots) {
        return Ok(None);
    }
    let factors = factors_of(subject, parts);
    if factors.iter().any(|(a, b)| has_sums(a) || has_sums(b)) {
        return Ok(None);
    }
    let layout = layout_of(subject, slots, parts, &factors, reads);
    let written = written(subject, parts, factors, &layout.key);
    // Without value axes products are elements.
    if layout.value.is_empty() || written.added.len() < 2 {
        return Ok(None);
    }
    let Some(read_at) = read_at(reads, 0, written.updates() - 1) else {
        return Ok(None);
    };
    let updates = emit(&[written], &layout, out)?;
    Ok(Some(Class::DiagonalLowRank {
        updates,
        read_at,
        reads: subject.emit_reads(reads, out)?,
        layout,
    }))
}

/// The class of stages one after the other, of which number `reading` is the one that outputs read the
/// state before or after.
pub(super) fn of_stages(
    stages: &[Stage<'_>],
    reading: usize,
    rest: &mut [Polynomial],
    out: &mut Coefficients<'_>,
) -> Result<Class, Failure> {
    let last = &stages[reading];
    let mut reads = last.subject.reads(&last.parts, rest)?;
    let contracted = stages.iter().map(|stage| &stage.parts.slots);
    let all = contracted.chain(reads.iter().map(|read| &read.slots));
    let Some(slots) = all.into_iter().find(|slots| !slots.is_empty()).cloned() else {
        let state = last.subject.name();
        return Err(Reason::NotOuter { state }.into());
    };
    if let Some(read) = reads.iter().find(|read| read.slots != slots) {
        let state = last.subject.name();
        return Err(last
            .subject
            .in_output(Reason::OtherRead { state }, read.output));
    }
    let mut factors = Vec::new();
    let mut layout: Option<Layout> = None;
    for (n, stage) in stages.iter().enumerate() {
        let (subject, parts) = (&stage.subject, &stage.parts);
        let within = |why: Reason| Failure::from(why).within(subject.step, subject.step.next[0]);
        let state = || subject.name();
        if !parts.slots.is_empty() && parts.slots != slots {
            return Err(within(Reason::SeveralContractions { state: state() }));
        }
        let own = factors_of(subject, parts);
        let reads = if n == reading { reads.as_slice() } else { &[] };
        factors.push(own.clone());
        let own = layout_of(subject, &slots, parts, &own, reads);
        layout = Some(match layout {
            Some(layout) => joined(layout, &own),
            None => own,
        });
    }
    let Some(layout) = layout else {
        let state = last.subject.name();
        return Err(Reason::NotOuter { state }.into());
    };
    let all: Vec<Written> = stages
        .iter()
        .zip(factors)
        .map(|(stage, factors)| written(&stage.subject, &stage.parts, factors, &layout.key))
        .collect();
    if let [(k, v)] = all[reading].added.as_slice() {
        last.subject.bonuses(&layout, (k, v), &mut reads, rest)?;
    }
    let first: usize = all[..reading].iter().map(Written::updates).sum();
    let Some(read_at) = read_at(&reads, first, first + all[reading].updates() - 1) else {
        let state = last.subject.name();
        return Err(Reason::OtherRead { state }.into());
    };
    let updates = emit(&all, &layout, out)?;
    Ok(Class::DiagonalLowRank {
        updates,
        read_at,
        reads: last.subject.emit_reads(&reads, out)?,
        layout,
    })
}

/// Whether coefficients of a polynomial are sums or maxima over something.
pub(super) fn has_sums(of: &Polynomial) -> bool {
    fn is_sum(atom: &Atom) -> bool {
        match atom {
            Atom::Sum { .. } | Atom::Max { .. } => true,
            Atom::Unary(_, of) => has_sums(of),
            Atom::Binary(_, a, b) => has_sums(a) || has_sums(b),
            Atom::Input(..) | Atom::Index(_) | Atom::Position => false,
        }
    }
    let factors = of.terms.iter().flat_map(|(monomial, _)| &monomial.factors);
    factors.into_iter().any(is_sum)
}

/// The update that reads are before and after, of those from `first` to `last`: all before the first,
/// or all after the last. `None` if there is no such.
fn read_at(reads: &[Found], first: usize, last: usize) -> Option<usize> {
    let before = reads.iter().filter(|read| read.before).count();
    match before {
        0 => Some(last),
        n if n == reads.len() || first == last => Some(first),
        _ => None,
    }
}

/// `(a, b)` of each product of what is contracted, over the state's axes; none where nothing is.
pub(super) fn factors_of(subject: &Subject<'_>, parts: &Parts) -> Vec<(Polynomial, Polynomial)> {
    let slot = |a: &Atom| a.mentions(|v| matches!(v, Var::Slot(_)));
    let by_right = products(&parts.contracted, slot);
    let by_left = products(&parts.contracted, |atom| !slot(atom));
    let pairs = match by_left.len() < by_right.len() {
        true => by_left.into_iter().map(|(b, a)| (a, b)).collect(),
        false => by_right,
    };
    let pairs = pairs.into_iter();
    pairs.map(|(a, b)| (subject.unslotted(&a), b)).collect()
}

fn layout_of(
    subject: &Subject<'_>,
    slots: &BTreeSet<usize>,
    parts: &Parts,
    factors: &[(Polynomial, Polynomial)],
    reads: &[Found],
) -> Layout {
    let mut per_key = vec![&parts.diagonal];
    per_key.extend(factors.iter().flat_map(|(a, b)| [a, b]));
    subject.layout(slots, &per_key, reads)
}

/// Heads of either are heads.
fn joined(mut layout: Layout, other: &Layout) -> Layout {
    let is_head = |axis: &AxisId| other.heads.contains(axis);
    let more: Vec<AxisId> = layout.value.iter().copied().filter(is_head).collect();
    layout.value.retain(|axis| !is_head(axis));
    layout.heads.extend(more);
    layout.heads.sort();
    layout
}

fn written(
    subject: &Subject<'_>,
    parts: &Parts,
    factors: Vec<(Polynomial, Polynomial)>,
    key: &[AxisId],
) -> Written {
    let is_key = |atom: &Atom| mentions(atom, key);
    let by_value = products(&subject.added, is_key);
    let by_key = products(&subject.added, |atom| !is_key(atom));
    // Of several factors each has a product along its own key, as a delta rule has.
    let mut added = match by_key.len() < by_value.len() || factors.len() > 1 {
        true => by_key.into_iter().map(|(v, k)| (k, v)).collect(),
        false => by_value,
    };
    for (n, (_, b)) in factors.iter().enumerate() {
        // Its product comes beside it: the state is then brought along one key only.
        let own = added
            .iter()
            .skip(n)
            .position(|(k, _)| exact(b, k).is_some());
        match own {
            Some(at) => {
                let product = added.remove(n + at);
                added.insert(n, product);
            }
            None if factors.len() > 1 || added.len() <= n => {
                added.insert(n, (b.clone(), Polynomial::default()));
            }
            None => {}
        }
    }
    Written {
        decay: parts.diagonal.clone(),
        factors,
        added,
    }
}

/// Writes the coefficients of all updates out.
fn emit(
    stages: &[Written],
    layout: &Layout,
    out: &mut Coefficients<'_>,
) -> Result<Vec<Update>, Reason> {
    let all: usize = stages.iter().map(Written::updates).sum();
    if all > MAX_UPDATES {
        return Err(Reason::TooLarge {
            what: "updates of a state".into(),
            limit: MAX_UPDATES,
        });
    }
    let zero = Polynomial::default();
    let mut updates = Vec::new();
    for stage in stages {
        for at in 0..stage.updates() {
            let n = updates.len();
            let (k, v) = match stage.added.get(at) {
                Some((k, v)) => (k, v),
                None => (&zero, &zero),
            };
            // What comes after all of them only adds.
            let factor = match stage.factors.get(at) {
                Some((a, b)) => Some(factor(n, (a, b), &stage.decay, (k, layout), out)?),
                None => None,
            };
            let decay = match at {
                0 => stage.decay.clone(),
                _ => Polynomial::constant(1.0),
            };
            updates.push(Update {
                decay: out.emit(&format!("decay{n}"), &decay)?,
                at_once: at > 0 && factor.is_some(),
                factor,
                k: out.emit(&format!("k{n}"), k)?,
                v: out.emit(&format!("v{n}"), v)?,
            });
        }
    }
    // Those at once are never to be cut apart, whatever power of two of them is looked at together.
    while updates.iter().any(|update| update.at_once) && !updates.len().is_power_of_two() {
        updates.push(Update {
            decay: out.emit("kept", &Polynomial::constant(1.0))?,
            factor: None,
            k: out.emit("none", &zero)?,
            v: out.emit("none", &zero)?,
            at_once: false,
        });
    }
    Ok(updates)
}

/// The factor of update number `n`, in all of its forms.
fn factor(
    n: usize,
    (a, b): (&Polynomial, &Polynomial),
    decay: &Polynomial,
    (k, layout): (&Polynomial, &Layout),
    out: &mut Coefficients<'_>,
) -> Result<RankOne, Reason> {
    let of_decayed = match (exact(a, decay), exact(b, decay)) {
        (Some(a), _) => Some((a, b.clone())),
        // A decay per head may stand on either side of the product.
        (None, Some(b)) if !decay.axes().iter().any(|x| layout.key.contains(x)) => {
            Some((a.clone(), b))
        }
        _ => None,
    };
    let (contracted, added) = match &of_decayed {
        Some((a, b)) => (a, b),
        None => (a, b),
    };
    let per_head = |c: &Polynomial| c.axes().iter().all(|x| layout.heads.contains(x));
    let along_key = match exact(added, k).filter(per_head) {
        Some(scale) => Some(contracted.times(&scale)?),
        None => None,
    };
    let mut emit = |name: &str, of: &Polynomial| out.emit(&format!("{name}{n}"), of);
    Ok(RankOne {
        a: emit("a", a)?,
        b: emit("b", b)?,
        of_decayed: match &of_decayed {
            Some((a, b)) => Some((emit("a.decayed", a)?, emit("b.decayed", b)?)),
            None => None,
        },
        along_key: match &along_key {
            Some(a) => Some(emit("a.key", a)?),
            None => None,
        },
    })
}
