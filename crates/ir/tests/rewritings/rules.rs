//! What algebra allows to write instead of a term.

use super::term::{Axes, Term};

/// The terms that are equal to one by a single rule, with the names of the rules.
pub fn equal(term: &Term, axes: &Axes) -> Vec<(&'static str, Term)> {
    let rules = [
        ("commute", commuted(term)),
        ("associate", associated(term)),
        ("distribute", distributed(term)),
        ("factor", factored(term)),
        ("signs", signs(term)),
        ("quotients", quotients(term)),
        ("sums", sums(term, axes)),
    ];
    let each = rules.into_iter();
    each.flat_map(|(rule, terms)| terms.into_iter().map(move |term| (rule, term)))
        .collect()
}

fn commuted(term: &Term) -> Vec<Term> {
    match term {
        Term::Pair(op @ ('+' | '*'), a, b) => vec![Term::pair(*op, b, a)],
        Term::Call(name, arguments, axes) if name == "max" => {
            let swapped = arguments.iter().rev().cloned().collect();
            vec![Term::Call(name.clone(), swapped, axes.clone())]
        }
        _ => vec![],
    }
}

fn associated(term: &Term) -> Vec<Term> {
    let Term::Pair(op @ ('+' | '*'), a, b) = term else {
        return vec![];
    };
    let mut out = vec![];
    if let Term::Pair(inner, x, y) = a.as_ref()
        && inner == op
    {
        out.push(Term::pair(*op, x, &Term::pair(*op, y, b)));
    }
    if let Term::Pair(inner, x, y) = b.as_ref()
        && inner == op
    {
        out.push(Term::pair(*op, &Term::pair(*op, a, x), y));
    }
    out
}

/// A product or quotient over a sum or difference.
fn distributed(term: &Term) -> Vec<Term> {
    let mut out = vec![];
    if let Term::Pair(op @ ('*' | '/'), a, b) = term {
        if let Term::Pair(inner @ ('+' | '-'), x, y) = a.as_ref() {
            out.push(Term::pair(
                *inner,
                &Term::pair(*op, x, b),
                &Term::pair(*op, y, b),
            ));
        }
        if let (Term::Pair(inner @ ('+' | '-'), x, y), '*') = (b.as_ref(), op) {
            out.push(Term::pair(
                *inner,
                &Term::pair('*', a, x),
                &Term::pair('*', a, y),
            ));
        }
    }
    out
}

/// A common factor or divisor of a sum or difference.
fn factored(term: &Term) -> Vec<Term> {
    let Term::Pair(op @ ('+' | '-'), x, y) = term else {
        return vec![];
    };
    let mut out = vec![];
    if let (Term::Pair('*', a, b), Term::Pair('*', c, d)) = (x.as_ref(), y.as_ref()) {
        for ((common, p), (other, q)) in [
            ((a, b), (c, d)),
            ((b, a), (d, c)),
            ((a, b), (d, c)),
            ((b, a), (c, d)),
        ] {
            if common == other {
                out.push(Term::pair('*', common, &Term::pair(*op, p, q)));
            }
        }
    }
    if let (Term::Pair('/', a, b), Term::Pair('/', c, d)) = (x.as_ref(), y.as_ref())
        && b == d
    {
        out.push(Term::pair('/', &Term::pair(*op, a, c), b));
    }
    // `a * x + x` and the like.
    let one = Term::Number(1.0);
    if let Term::Pair('*', a, b) = x.as_ref() {
        for (factor, common) in [(a, b), (b, a)] {
            if common == y {
                out.push(Term::pair('*', common, &Term::pair(*op, factor, &one)));
            }
        }
    }
    if let Term::Pair('*', a, b) = y.as_ref() {
        for (factor, common) in [(a, b), (b, a)] {
            if common == x {
                out.push(Term::pair('*', common, &Term::pair(*op, &one, factor)));
            }
        }
    }
    out
}

fn signs(term: &Term) -> Vec<Term> {
    let mut out = vec![];
    match term {
        Term::Pair('-', a, b) => {
            out.push(Term::pair('+', a, &b.negative()));
            out.push(Term::pair('-', b, a).negative());
        }
        Term::Pair('+', a, b) => {
            out.push(Term::pair('-', a, &b.negative()));
            if let Term::Negative(b) = b.as_ref() {
                out.push(Term::pair('-', a, b));
            }
        }
        Term::Pair(op @ ('*' | '/'), a, b) => {
            out.push(Term::pair(*op, &a.negative(), b).negative());
            out.push(Term::pair(*op, &a.negative(), &b.negative()));
        }
        Term::Negative(a) => {
            out.push(Term::pair('*', &Term::Number(-1.0), a));
            match a.as_ref() {
                Term::Negative(a) => out.push(a.as_ref().clone()),
                Term::Pair('*', a, b) => out.push(Term::pair('*', a, &b.negative())),
                Term::Pair(op @ ('+' | '-'), a, b) => {
                    out.push(Term::pair(*op, &a.negative(), &b.negative()));
                }
                _ => {}
            }
        }
        _ => {}
    }
    out
}

fn quotients(term: &Term) -> Vec<Term> {
    let mut out = vec![];
    if let Term::Pair('/', a, b) = term {
        let one = Term::Number(1.0);
        if **a != one {
            out.push(Term::pair('*', a, &Term::pair('/', &one, b)));
        }
    }
    if let Term::Pair('*', x, b) = term
        && let Term::Pair('/', a, c) = x.as_ref()
    {
        out.push(Term::pair('/', &Term::pair('*', a, b), c));
    }
    out
}

/// What does not run over the summed axes goes out of a sum and into one; sums of sums.
fn sums(term: &Term, of: &Axes) -> Vec<Term> {
    let free = |term: &Term, axes: &[String]| {
        let runs = term.axes(of);
        runs.is_some_and(|runs| !axes.iter().any(|axis| runs.contains(axis)))
    };
    let summed = |term: &Term| match term {
        Term::Call(name, arguments, axes) if name == "sum" => {
            Some((arguments[0].clone(), axes.clone()))
        }
        _ => None,
    };
    let mut out = vec![];
    if let Some((inner, axes)) = summed(term) {
        match &inner {
            Term::Pair('*', a, b) if free(a, &axes) => {
                out.push(Term::pair('*', a, &b.sum(&axes)));
            }
            Term::Pair(op @ ('*' | '/'), a, b) if free(b, &axes) => {
                out.push(Term::pair(*op, &a.sum(&axes), b));
            }
            Term::Pair(op @ ('+' | '-'), a, b) => {
                out.push(Term::pair(*op, &a.sum(&axes), &b.sum(&axes)));
            }
            Term::Negative(a) => out.push(a.sum(&axes).negative()),
            _ => {}
        }
    }
    if let Term::Pair(op, a, b) = term {
        match (op, summed(a), summed(b)) {
            ('+' | '-', Some((x, over)), Some((y, also))) if over == also => {
                out.push(Term::pair(*op, &x, &y).sum(&over));
            }
            ('*', Some((x, axes)), _) if free(b, &axes) => {
                out.push(Term::pair('*', &x, b).sum(&axes));
            }
            ('*', _, Some((x, axes))) if free(a, &axes) => {
                out.push(Term::pair('*', a, &x).sum(&axes));
            }
            _ => {}
        }
    }
    out
}
