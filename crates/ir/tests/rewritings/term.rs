//! Terms of a step, as read from its text and as written to one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};

/// A term.
#[derive(Clone, Debug, PartialEq)]
pub enum Term {
    Number(f64),
    Name(String),
    Negative(Box<Term>),
    Pair(char, Box<Term>, Box<Term>),
    /// A function, its arguments and the axes that it reduces.
    Call(String, Vec<Term>, Vec<String>),
}

/// Axes by name.
pub type Axes = BTreeMap<String, BTreeSet<String>>;

impl Term {
    pub fn pair(op: char, a: &Term, b: &Term) -> Term {
        Term::Pair(op, Box::new(a.clone()), Box::new(b.clone()))
    }

    pub fn negative(&self) -> Term {
        Term::Negative(Box::new(self.clone()))
    }

    pub fn sum(&self, axes: &[String]) -> Term {
        Term::Call("sum".into(), vec![self.clone()], axes.to_vec())
    }

    fn parts(&self) -> Vec<&Term> {
        match self {
            Term::Number(_) | Term::Name(_) => vec![],
            Term::Negative(a) => vec![a],
            Term::Pair(_, a, b) => vec![a, b],
            Term::Call(_, arguments, _) => arguments.iter().collect(),
        }
    }

    /// The term and all below it, parents first.
    pub fn all(&self) -> Vec<&Term> {
        let below = self.parts().into_iter().flat_map(Term::all);
        std::iter::once(self).chain(below).collect()
    }

    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.all().into_iter().filter_map(|term| match term {
            Term::Name(name) => Some(name),
            _ => None,
        })
    }

    /// The same with number `at` of [`Term::all`] replaced.
    pub fn with(&self, at: usize, by: &Term) -> Term {
        if at == 0 {
            return by.clone();
        }
        let mut before = 1;
        self.map(|part| {
            let first = before;
            before += part.all().len();
            match (first..before).contains(&at) {
                true => part.with(at - first, by),
                false => part.clone(),
            }
        })
    }

    /// The same with every name replaced.
    pub fn substitute(&self, by: &impl Fn(&String) -> Term) -> Term {
        match self {
            Term::Name(name) => by(name),
            term => term.map(|part| part.substitute(by)),
        }
    }

    fn map(&self, mut f: impl FnMut(&Term) -> Term) -> Term {
        match self {
            Term::Number(_) | Term::Name(_) => self.clone(),
            Term::Negative(a) => Term::Negative(Box::new(f(a))),
            Term::Pair(op, a, b) => {
                let a = f(a);
                Term::Pair(*op, Box::new(a), Box::new(f(b)))
            }
            Term::Call(name, arguments, axes) => Term::Call(
                name.clone(),
                arguments.iter().map(f).collect(),
                axes.clone(),
            ),
        }
    }

    /// The axes that it runs over; `None` if the language would not have it.
    pub fn axes(&self, of: &Axes) -> Option<BTreeSet<String>> {
        let parts: Option<Vec<_>> = self.parts().into_iter().map(|part| part.axes(of)).collect();
        let parts = parts?;
        let mut all: BTreeSet<String> = parts.iter().flatten().cloned().collect();
        match self {
            Term::Name(name) => return of.get(name).cloned(),
            Term::Pair('*', ..) => {}
            Term::Call(_, _, reduced) if !reduced.is_empty() => {
                for axis in reduced {
                    all.remove(axis).then_some(())?;
                }
            }
            _ if !parts.is_empty() && !parts.contains(&all) => return None,
            _ => {}
        }
        Some(all)
    }

    /// Its value where every axis has one element.
    pub fn value(&self, of: &BTreeMap<String, f64>) -> f64 {
        let parts: Vec<f64> = self
            .parts()
            .into_iter()
            .map(|part| part.value(of))
            .collect();
        match (self, parts.as_slice()) {
            (Term::Number(x), _) => *x,
            (Term::Name(name), _) => of[name],
            (Term::Negative(_), [a]) => -a,
            (Term::Pair('+', ..), [a, b]) => a + b,
            (Term::Pair('-', ..), [a, b]) => a - b,
            (Term::Pair('*', ..), [a, b]) => a * b,
            (Term::Pair('/', ..), [a, b]) => a / b,
            (Term::Call(name, ..), [a]) => match name.as_str() {
                "sum" => *a,
                "exp" => a.exp(),
                "cos" => a.cos(),
                "sin" => a.sin(),
                "abs" => a.abs(),
                "sqrt" => a.sqrt(),
                "rsqrt" => 1.0 / a.sqrt(),
                other => panic!("`{other}` is not known here"),
            },
            (Term::Call(name, ..), [a, b]) if name == "max" => a.max(*b),
            (other, _) => panic!("`{other}` is not known here"),
        }
    }
}

impl Display for Term {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Term::Number(x) if *x < 0.0 => write!(f, "({x})"),
            Term::Number(x) => write!(f, "{x}"),
            Term::Name(name) => f.write_str(name),
            Term::Negative(a) => write!(f, "(-{a})"),
            Term::Pair(op, a, b) => write!(f, "({a} {op} {b})"),
            Term::Call(name, arguments, axes) => {
                let arguments = arguments.iter().map(Term::to_string);
                let all: Vec<String> = arguments.chain(axes.iter().cloned()).collect();
                write!(f, "{name}({})", all.join(", "))
            }
        }
    }
}

/// Reads the term that a text is.
pub fn read(text: &str) -> Term {
    let mut tokens: Vec<String> = Vec::new();
    for c in text.chars().filter(|c| !c.is_whitespace()) {
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
        let goes_on = |last: &String| {
            let is_number = last.starts_with(|c: char| c.is_ascii_digit());
            // The exponent of a number may have a sign.
            let exponent = is_number && last.ends_with('e') && c == '-';
            exponent || is_word(c) && (last.ends_with(is_word) || last.ends_with("e-"))
        };
        match tokens.last_mut() {
            Some(last) if goes_on(last) => last.push(c),
            _ => tokens.push(c.to_string()),
        }
    }
    let mut reader = Reader { tokens, at: 0 };
    let term = reader.joined(&["+", "-"]);
    assert_eq!(reader.at, reader.tokens.len(), "{text}");
    term
}

struct Reader {
    tokens: Vec<String>,
    at: usize,
}

impl Reader {
    fn is(&self, token: &str) -> bool {
        self.tokens.get(self.at).is_some_and(|t| t == token)
    }

    fn take(&mut self, token: &str) -> bool {
        let is = self.is(token);
        self.at += usize::from(is);
        is
    }

    /// Terms joined by these operators, from left to right.
    fn joined(&mut self, operators: &[&str]) -> Term {
        let next = |reader: &mut Self| match operators {
            ["+", "-"] => reader.joined(&["*", "/"]),
            _ => reader.one(),
        };
        let mut left = next(self);
        while let Some(op) = operators.iter().find(|op| self.is(op)) {
            self.at += 1;
            let right = next(self);
            left = Term::pair(op.chars().next().expect("a sign"), &left, &right);
        }
        left
    }

    fn one(&mut self) -> Term {
        if self.take("-") {
            return self.one().negative();
        }
        if self.take("(") {
            let inner = self.joined(&["+", "-"]);
            assert!(self.take(")"));
            return inner;
        }
        let word = self.tokens[self.at].clone();
        self.at += 1;
        if let Ok(number) = word.parse() {
            return Term::Number(number);
        }
        if !self.take("(") {
            return Term::Name(word);
        }
        let (mut arguments, mut axes) = (vec![], vec![]);
        loop {
            match self.joined(&["+", "-"]) {
                Term::Name(axis) if word == "sum" && !arguments.is_empty() => axes.push(axis),
                term => arguments.push(term),
            }
            if !self.take(",") {
                break;
            }
        }
        assert!(self.take(")"));
        Term::Call(word, arguments, axes)
    }
}
