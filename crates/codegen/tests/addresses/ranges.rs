//! The ranges of integer expressions in the text of a kernel, for one shape of a run: a reader of as much
//! C++ as kernels are written in, which evaluates every expression on intervals instead of numbers.
//!
//! Conditions narrow nothing but `x > 0 ? .. : ..`, so a range may be wider than what happens; it is never
//! narrower, but for what [`LOCATED`] says.

use std::collections::{BTreeMap, BTreeSet};

/// What a launch is given.
#[derive(Clone, Copy)]
pub struct Given {
    pub batch: i128,
    pub time: i128,
    pub blocks: i128,
    pub threads: i128,
}

/// A lambda that is not followed, since what bounds it are relations: `locate(tile, column_tiles, row_tile,
/// column_tile)` takes the tile of a lane, below `row_tiles * column_tiles`, and gives its row below the one
/// and its column below the other. What it computes on the way is below the tile's number.
const LOCATE: &str = "locate";
/// What it gives, and the variables of which the largest is above it.
const LOCATED: [(&str, &str); 2] = [("row_tile", "row_tiles"), ("column_tile", "COLUMN_TILES_")];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Int,
    Unsigned,
    Long,
    UnsignedLong,
    /// Of 4-byte integers in memory.
    Ids,
    /// To global memory.
    Global,
    /// Everything that is no integer: floats, other pointers.
    Other,
}

type Range = Option<(i128, i128)>;

#[derive(Clone, Copy, Debug)]
struct Value {
    of: Type,
    range: Range,
}

const OTHER: Value = Value {
    of: Type::Other,
    range: None,
};

impl Type {
    fn limits(self) -> Option<(i128, i128)> {
        match self {
            Type::Int => Some((i128::from(i32::MIN), i128::from(i32::MAX))),
            Type::Unsigned => Some((0, i128::from(u32::MAX))),
            Type::Long => Some((i128::from(i64::MIN), i128::from(i64::MAX))),
            Type::UnsignedLong => Some((0, i128::from(u64::MAX))),
            _ => None,
        }
    }

    fn named(name: &str) -> Option<Type> {
        Some(match name {
            "int" | "i32" => Type::Int,
            "u32" | "unsigned" => Type::Unsigned,
            "i64" => Type::Long,
            "u64" | "size_t" => Type::UnsignedLong,
            "bool" => Type::Int,
            _ => return None,
        })
    }

    /// Of the result of arithmetic, as C++ has it.
    fn with(self, other: Type) -> Type {
        let rank = |of| match of {
            Type::Int => 0,
            Type::Unsigned => 1,
            Type::Long => 2,
            _ => 3,
        };
        if rank(self) >= rank(other) {
            self
        } else {
            other
        }
    }

    fn integer(self) -> bool {
        self.limits().is_some()
    }
}

/// What does not hold for a kernel.
pub fn problems(source: &str, given: Given) -> Vec<String> {
    let mut bound: BTreeMap<(String, usize), Range> = BTreeMap::new();
    // Arguments of lambdas are those of their calls, which come later in the text.
    for _ in 0..6 {
        let mut reader = Reader::new(source, given, bound.clone());
        reader.kernel();
        if reader.calls == bound {
            return reader.problems.into_iter().collect();
        }
        bound = reader.calls;
    }
    vec!["the ranges of a lambda's arguments grow without end".into()]
}

struct Reader<'a> {
    tokens: Vec<&'a str>,
    at: usize,
    given: Given,
    scopes: Vec<BTreeMap<String, Value>>,
    /// Ranges of the arguments of lambdas, and what is found of them.
    bound: BTreeMap<(String, usize), Range>,
    calls: BTreeMap<(String, usize), Range>,
    lambdas: BTreeSet<String>,
    problems: BTreeSet<String>,
}

fn tokens(source: &str) -> Vec<&str> {
    const PAIRS: [&str; 19] = [
        "<<=", ">>=", "...", "::", "->", "++", "--", "+=", "-=", "*=", "/=", "%=", "^=", "|=",
        "&=", "<=", ">=", "==", "!=",
    ];
    const LOGIC: [&str; 4] = ["&&", "||", "<<", ">>"];
    let mut found = Vec::new();
    for line in source.lines() {
        let line = line.split("//").next().unwrap_or("");
        if line.trim_start().starts_with('#') {
            continue;
        }
        let mut rest = line.trim();
        while let Some(first) = rest.chars().next() {
            let word = |c: char| c.is_alphanumeric() || c == '_';
            let length = if word(first) {
                let number = first.is_ascii_digit();
                let part = |c: char| word(c) || (number && c == '.');
                let mut length = rest.find(|c| !part(c)).unwrap_or(rest.len());
                // 1.0e-5f
                if number && rest[..length].ends_with('e') && rest[length..].starts_with(['-', '+'])
                {
                    let more = &rest[length + 1..];
                    length += 1 + more.find(|c| !word(c)).unwrap_or(more.len());
                }
                length
            } else if first == '"' {
                rest[1..].find('"').map_or(rest.len(), |n| n + 2)
            } else {
                let known =
                    |all: &[&str]| all.iter().find(|p| rest.starts_with(**p)).map(|p| p.len());
                known(&PAIRS)
                    .or_else(|| known(&LOGIC))
                    .unwrap_or(first.len_utf8())
            };
            found.push(&rest[..length]);
            rest = rest[length..].trim_start();
        }
    }
    found
}

impl<'a> Reader<'a> {
    fn new(source: &'a str, given: Given, bound: BTreeMap<(String, usize), Range>) -> Self {
        let calls = BTreeMap::new();
        Reader {
            tokens: tokens(source),
            at: 0,
            given,
            scopes: vec![BTreeMap::new()],
            bound,
            calls,
            lambdas: BTreeSet::new(),
            problems: BTreeSet::new(),
        }
    }

    fn peek(&self) -> &'a str {
        self.ahead(0)
    }

    fn ahead(&self, n: usize) -> &'a str {
        self.tokens.get(self.at + n).copied().unwrap_or("")
    }

    fn next(&mut self) -> &'a str {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn eat(&mut self, token: &str) -> bool {
        let there = self.peek() == token;
        self.at += usize::from(there);
        there
    }

    fn problem(&mut self, what: &str, from: usize) {
        let to = self.at.min(self.tokens.len());
        let text = self.tokens[from.min(to)..to].join(" ");
        self.problems.insert(format!("{what}: {text}"));
    }

    fn define(&mut self, name: &str, value: Value) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name.to_owned(), value);
        }
    }

    fn lookup(&self, name: &str) -> Option<Value> {
        let mut scopes = self.scopes.iter().rev();
        scopes.find_map(|scope| scope.get(name).copied())
    }

    fn assign(&mut self, name: &str, range: Range) {
        let mut scopes = self.scopes.iter_mut().rev();
        if let Some(value) = scopes.find_map(|scope| scope.get_mut(name)) {
            value.range = range;
        }
    }

    /// Skips a balanced group that begins here.
    fn skip_group(&mut self) {
        let mut depth = 0;
        loop {
            match self.next() {
                "(" | "{" | "[" => depth += 1,
                ")" | "}" | "]" => depth -= 1,
                "" => return,
                _ => {}
            }
            if depth == 0 {
                return;
            }
        }
    }

    fn kernel(&mut self) {
        while self.peek() != "__global__" {
            if self.next().is_empty() {
                self.problem("there is no kernel", 0);
                return;
            }
        }
        // void __launch_bounds__(...) name(
        while self.peek() != "(" || !self.tokens[self.at - 1].starts_with("fusec_") {
            match self.peek() {
                "(" => self.skip_group(),
                "" => return,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        let mut declared: Vec<&str> = Vec::new();
        loop {
            match self.next() {
                "," | ")" => {
                    let name = declared.last().copied().unwrap_or("");
                    let value = match name {
                        "B" => self.known(Type::Long, self.given.batch, self.given.batch),
                        "T" => self.known(Type::Long, self.given.time, self.given.time),
                        // Tokens seen before, and up to a whole run more.
                        _ if declared.contains(&"i64") => self.known(Type::Long, 0, 1 << 62),
                        _ if declared.contains(&"*") && declared.contains(&"i32") => Value {
                            of: Type::Ids,
                            range: None,
                        },
                        _ if declared.contains(&"*") => Value {
                            of: Type::Global,
                            range: None,
                        },
                        _ => OTHER,
                    };
                    self.define(name, value);
                    declared.clear();
                    if self.tokens[self.at - 1] == ")" {
                        break;
                    }
                }
                "" => return,
                token => declared.push(token),
            }
        }
        self.statement();
    }

    fn known(&self, of: Type, low: i128, high: i128) -> Value {
        Value {
            of,
            range: Some((low, high)),
        }
    }

    fn statement(&mut self) {
        match self.peek() {
            "{" => {
                self.at += 1;
                self.scopes.push(BTreeMap::new());
                while !matches!(self.peek(), "}" | "") {
                    self.statement();
                }
                self.at += 1;
                self.scopes.pop();
            }
            ";" => self.at += 1,
            "if" => {
                self.at += 1;
                self.eat("constexpr");
                self.eat("(");
                self.expression(0);
                self.eat(")");
                self.statement();
                if self.eat("else") {
                    self.statement();
                }
            }
            "while" => {
                self.at += 1;
                self.forget_changed();
                self.eat("(");
                self.expression(0);
                self.eat(")");
                self.statement();
            }
            "for" => self.for_loop(),
            "break" | "continue" | "return" | "typedef" | "using" | "static_assert" => {
                self.skip_to_end()
            }
            _ if self.declares() => self.declaration(),
            _ => {
                let from = self.at;
                self.expression(0);
                while self.eat(",") {
                    self.expression(0);
                }
                if !self.eat(";") {
                    self.problem("this is not understood", from);
                    self.skip_to_end();
                }
            }
        }
    }

    fn skip_to_end(&mut self) {
        loop {
            match self.peek() {
                ";" => {
                    self.at += 1;
                    return;
                }
                "(" | "{" | "[" => self.skip_group(),
                "" => return,
                _ => self.at += 1,
            }
        }
    }

    /// What a loop changes has a range that one pass does not find.
    fn forget_changed(&mut self) {
        let mut at = self.at;
        let mut depth = 0;
        let mut first = true;
        while at < self.tokens.len() {
            match self.tokens[at] {
                "(" | "{" | "[" => depth += 1,
                ")" | "}" | "]" => {
                    depth -= 1;
                    // The head of the loop, then its body.
                    if depth == 0 && !(first && self.tokens.get(at + 1) == Some(&"{")) {
                        break;
                    }
                    first = false;
                }
                ";" if depth == 0 => break,
                "+=" | "-=" | "*=" | "/=" | "^=" | "=" | "++" | "--" => {
                    for near in [at.wrapping_sub(1), at + 1] {
                        let name = self.tokens.get(near).copied().unwrap_or("");
                        if self.lookup(name).is_some_and(|value| value.of.integer())
                            && near != at + 1
                            || matches!(self.tokens[at], "++" | "--")
                        {
                            self.assign(name, None);
                        }
                    }
                }
                _ => {}
            }
            at += 1;
        }
    }

    fn for_loop(&mut self) {
        self.at += 1;
        self.forget_changed();
        self.eat("(");
        self.scopes.push(BTreeMap::new());
        let from = self.at;
        let of = Type::named(self.peek()).unwrap_or(Type::Other);
        self.at += 1;
        let name = self.next();
        self.eat("=");
        let init = self.expression(0);
        self.converted(init, of, from);
        self.eat(";");
        // The condition, with the variable as it begins: comparisons of it that all have to hold.
        self.define(
            name,
            Value {
                of,
                range: init.range,
            },
        );
        let condition = self.at;
        let mut limit: Range = None;
        let mut below = true;
        let mut strict = true;
        loop {
            let part = self.at;
            self.expression(8);
            let order = self.peek();
            if matches!(order, "<" | "<=" | ">" | ">=" | "==" | "!=") {
                self.at += 1;
                let right = self.expression(8);
                // `kept + T < 3`: what is added to the variable is not negative.
                if self.tokens[part] == name && limit.is_none() && order != "==" && order != "!=" {
                    limit = right.range;
                    below = order.starts_with('<');
                    strict = order.len() == 1;
                }
            }
            if !self.eat("&&") {
                break;
            }
        }
        if !self.eat(";") {
            self.problem("the condition of a loop is not understood", condition);
            self.skip_to_end();
        }
        let range = match (init.range, limit) {
            (Some((low, high)), Some((least, most))) => Some(match below {
                true => (low, high.max(most - i128::from(strict))),
                false => (low.min(least + i128::from(strict)), high),
            }),
            _ => None,
        };
        self.define(name, Value { of, range });
        // The step, which is also taken after the last turn.
        while !matches!(self.peek(), ")" | "") {
            self.expression(0);
            self.eat(",");
        }
        self.eat(")");
        self.define(name, Value { of, range });
        self.statement();
        self.scopes.pop();
    }

    /// Whether a declaration begins here.
    fn declares(&self) -> bool {
        let mut n = 0;
        while matches!(self.ahead(n), "const" | "constexpr" | "static" | "volatile") {
            n += 1;
        }
        if n > 0 {
            return true;
        }
        let first = self.ahead(0);
        let word = |text: &str| text.starts_with(|c: char| c.is_alphabetic() || c == '_');
        if !word(first) {
            return false;
        }
        match self.ahead(1) {
            "*" => {
                let known = [
                    "float", "char", "bf16_t", "f16_t", "u64", "u32", "int", "Operand",
                ];
                known.contains(&first)
            }
            "<" => {
                // A template, and a name behind it.
                let mut at = 2;
                while !matches!(self.ahead(at), ">" | ";" | "(" | "") {
                    at += 1;
                }
                self.ahead(at) == ">" && word(self.ahead(at + 1))
            }
            second => word(second),
        }
    }

    fn declaration(&mut self) {
        while matches!(self.peek(), "const" | "constexpr" | "static" | "volatile") {
            self.at += 1;
        }
        let base = self.next();
        if self.peek() == "<" {
            while !matches!(self.next(), ">" | "") {}
        }
        let of = Type::named(base).unwrap_or(Type::Other);
        loop {
            let from = self.at;
            let mut pointer = false;
            while matches!(
                self.peek(),
                "*" | "const" | "&" | "__restrict__" | "volatile"
            ) {
                pointer |= self.next() == "*";
            }
            // float (&values)[8]
            let name = self.next();
            let mut array = false;
            while self.eat("[") {
                array = true;
                self.expression(0);
                self.eat("]");
            }
            let mut value = Value {
                of: if array { Type::Other } else { of },
                range: None,
            };
            if self.eat("=") {
                if base == "auto" && self.peek() == "[" {
                    self.lambda(name);
                    self.eat(";");
                    return;
                }
                let init = match self.peek() {
                    "{" => {
                        self.braces();
                        OTHER
                    }
                    _ => self.expression(1),
                };
                value = match (pointer, array) {
                    (true, _) => init,
                    (false, true) => OTHER,
                    (false, false) => self.converted(init, of, from),
                };
            } else if self.peek() == "(" {
                self.skip_group();
            }
            if value.range.is_none() && !array && value.of.integer() {
                let located = LOCATED.iter().find(|(located, _)| *located == name);
                value.range = located.and_then(|(_, above)| {
                    let all = self.scopes.iter().flatten();
                    let above = all.filter(|(name, _)| name.starts_with(above));
                    let most = above.filter_map(|(_, value)| Some(value.range?.1)).max()?;
                    Some((0, most - 1))
                });
            }
            self.define(name, value);
            if !self.eat(",") {
                break;
            }
        }
        let from = self.at;
        if !self.eat(";") {
            self.problem("a declaration is not understood", from.saturating_sub(6));
            self.skip_to_end();
        }
    }

    /// A list of initial values.
    fn braces(&mut self) {
        self.eat("{");
        while !matches!(self.peek(), "}" | "") {
            match self.peek() {
                "{" => self.braces(),
                _ => {
                    self.expression(1);
                }
            }
            self.eat(",");
        }
        self.eat("}");
    }

    fn lambda(&mut self, name: &str) {
        self.lambdas.insert(name.to_owned());
        self.skip_group();
        self.scopes.push(BTreeMap::new());
        if self.eat("(") {
            let mut declared: Vec<&str> = Vec::new();
            let mut nth = 0;
            let mut depth = 0;
            loop {
                let token = self.next();
                match token {
                    "(" | "[" => depth += 1,
                    ")" | "]" if depth > 0 => depth -= 1,
                    "," | ")" => {
                        let of = declared.iter().find_map(|word| Type::named(word));
                        let by_value = !declared.contains(&"*") && !declared.contains(&"&");
                        let of = of.filter(|_| by_value && !declared.is_empty());
                        let range = self.bound.get(&(name.to_owned(), nth)).copied().flatten();
                        if let Some(last) = declared.last().copied() {
                            let value = of.map_or(OTHER, |of| Value { of, range });
                            self.define(last, value);
                        }
                        nth += 1;
                        declared.clear();
                        if token == ")" {
                            break;
                        }
                    }
                    "" => break,
                    token => declared.push(token),
                }
            }
        }
        while self.peek() != "{" && !self.peek().is_empty() {
            self.at += 1;
        }
        match name == LOCATE {
            true => self.skip_group(),
            false => self.statement(),
        }
        self.scopes.pop();
    }

    /// A value as another type holds it; what it cannot hold is a problem.
    fn converted(&mut self, value: Value, to: Type, from: usize) -> Value {
        if !to.integer() {
            return Value {
                of: to,
                range: None,
            };
        }
        let range = value.range.filter(|_| value.of.integer());
        self.fits(to, range, from);
        // Of an unsigned product that a GPU knows by another name, or a flag.
        Value { of: to, range }
    }

    fn fits(&mut self, of: Type, range: Range, from: usize) {
        if let (Some((low, high)), Some((least, most))) = (range, of.limits())
            && (low < least || high > most)
        {
            let what = format!("{low}..={high} does not fit {of:?}");
            self.problem(&what, from);
        }
    }

    /// An expression of operators that bind at least so strongly.
    fn expression(&mut self, binding: u8) -> Value {
        let from = self.at;
        let mut left = self.unary();
        loop {
            let operator = self.peek();
            let power = match operator {
                "=" | "+=" | "-=" | "*=" | "/=" | "%=" | "^=" | "|=" | "&=" | "<<=" | ">>=" => 1,
                "?" => 2,
                "||" => 3,
                "&&" => 4,
                "|" | "^" | "&" => 5,
                "==" | "!=" => 6,
                "<" | ">" | "<=" | ">=" => 7,
                "<<" | ">>" => 8,
                "+" | "-" => 9,
                "*" | "/" | "%" => 10,
                _ => return left,
            };
            if power < binding || power == 0 {
                return left;
            }
            self.at += 1;
            left = match power {
                1 => self.assignment(operator, left, from),
                2 => self.choice(from),
                _ => {
                    let right = self.expression(power + 1);
                    self.combined(operator, left, right, from)
                }
            };
        }
    }

    fn assignment(&mut self, operator: &str, left: Value, from: usize) -> Value {
        let name = self.tokens[from];
        let plain = self.at == from + 2;
        let right = self.expression(1);
        let value = match operator {
            "=" => right,
            _ => self.combined(operator.trim_end_matches('='), left, right, from),
        };
        if plain && left.of.integer() {
            let mut kept = self.converted(value, left.of, from);
            // What lies before a lane has been taken off its blocks.
            if name == "block" {
                kept.range = kept.range.map(|(low, high)| (low.max(0), high.max(0)));
            }
            if operator != "=" || self.lookup(name).is_some_and(|value| value.range.is_some()) {
                self.assign(name, kept.range);
            }
        }
        left
    }

    /// `condition ? a : b`, from behind the question mark; `a < b ? a : b` is the smaller of both.
    fn choice(&mut self, from: usize) -> Value {
        let question = self.at - 1;
        // `low > 0 ? f(low) : 0`: what was asked holds in the first branch.
        let positive = match self.tokens[from..question] {
            [name, ">", "0"] => self
                .lookup(name)
                .and_then(|value| value.range.map(|r| (name, r))),
            _ => None,
        };
        if let Some((name, (low, high))) = positive {
            self.assign(name, Some((low.max(1), high.max(1))));
        }
        let yes = self.expression(1);
        if let Some((name, range)) = positive {
            self.assign(name, Some(range));
        }
        let colon = self.at;
        self.eat(":");
        let no = self.expression(2);
        let of = yes.of.with(no.of);
        let of = if yes.of.integer() && no.of.integer() {
            of
        } else {
            yes.of
        };
        let condition = &self.tokens[from..question];
        let (a, b) = (
            &self.tokens[question + 1..colon],
            &self.tokens[colon + 1..self.at],
        );
        let ordered = |order: &str| condition == [a, &[order], b].concat().as_slice();
        let bare = |tokens: &[&str]| -> Vec<String> {
            let kept = tokens
                .iter()
                .filter(|t| !matches!(**t, "(" | ")" | "int" | "i64"));
            kept.map(|t| (*t).to_owned()).collect()
        };
        let ordered_bare =
            |order: &str| bare(condition) == [bare(a), vec![order.to_owned()], bare(b)].concat();
        let range = match (yes.range, no.range) {
            (Some((a, b)), Some((c, d))) if ordered("<") || ordered_bare("<") => {
                Some((a.min(c), b.min(d)))
            }
            (Some((a, b)), Some((c, d))) if ordered(">") || ordered_bare(">") => {
                Some((a.max(c), b.max(d)))
            }
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            _ => None,
        };
        Value { of, range }
    }

    fn combined(&mut self, operator: &str, left: Value, right: Value, from: usize) -> Value {
        match operator {
            "<" | ">" | "<=" | ">=" | "==" | "!=" | "&&" | "||" => {
                return self.known(Type::Int, 0, 1);
            }
            _ => {}
        }
        if matches!(left.of, Type::Global | Type::Ids) && right.of.integer() {
            self.index(right, from);
            return left;
        }
        if !(left.of.integer() && right.of.integer()) {
            return OTHER;
        }
        let of = match operator {
            "<<" | ">>" => left.of,
            _ => left.of.with(right.of),
        };
        let (Some((a, b)), Some((c, d))) = (left.range, right.range) else {
            // A remainder is bounded by its divisor alone.
            let range = match (operator, right.range) {
                ("%", Some((_, d))) => Some((0, d - 1)),
                ("&", Some((0.., d))) => Some((0, d)),
                _ => None,
            };
            return Value { of, range };
        };
        let corners = |f: fn(i128, i128) -> Option<i128>| {
            let all = [f(a, c), f(a, d), f(b, c), f(b, d)];
            let all: Option<Vec<i128>> = all.into_iter().collect();
            all.and_then(|all| Some((*all.iter().min()?, *all.iter().max()?)))
        };
        let range = match operator {
            "+" => corners(i128::checked_add),
            "-" => corners(i128::checked_sub),
            "*" => corners(i128::checked_mul),
            "/" if c > 0 => corners(i128::checked_div),
            "%" if c > 0 => Some((if a < 0 { 1 - d } else { 0 }, b.max(0).min(d - 1))),
            "<<" if c >= 0 && d < 64 => Some((a << c, b << d)),
            ">>" if c >= 0 && d < 64 => Some((a >> d, b >> c)),
            "&" if c >= 0 => Some((0, d)),
            "^" | "|" if a >= 0 && c >= 0 => {
                let bits = 128 - b.max(d).leading_zeros();
                Some((0, (1i128 << bits) - 1))
            }
            _ => None,
        };
        self.fits(of, range, from);
        Value { of, range }
    }

    /// An index into global memory.
    fn index(&mut self, index: Value, from: usize) {
        match index.range {
            None => self.problem("nothing is known of this index", from),
            // Elements have up to four bytes, and addresses 64 bits.
            Some((low, high)) if low.min(-high) < -(1 << 60) => {
                self.problem("an address does not fit 64 bits", from);
            }
            Some(_) => {}
        }
    }

    fn unary(&mut self) -> Value {
        let from = self.at;
        match self.peek() {
            "-" => {
                self.at += 1;
                let value = self.unary();
                let range = value.range.map(|(low, high)| (-high, -low));
                self.fits(value.of, range, from);
                Value { range, ..value }
            }
            "+" => {
                self.at += 1;
                self.unary()
            }
            "!" => {
                self.at += 1;
                self.unary();
                self.known(Type::Int, 0, 1)
            }
            "~" => {
                self.at += 1;
                let value = self.unary();
                Value {
                    range: None,
                    ..value
                }
            }
            "*" => {
                self.at += 1;
                let value = self.unary();
                self.element(value)
            }
            "&" => {
                self.at += 1;
                self.unary();
                OTHER
            }
            "++" | "--" => {
                self.at += 1;
                let name = self.peek();
                let step = if self.tokens[from] == "++" { 1 } else { -1 };
                let value = self.unary();
                let range = value.range.map(|(low, high)| (low + step, high + step));
                self.fits(value.of, range, from);
                self.assign(name, range);
                Value { range, ..value }
            }
            "(" => {
                let cast = Type::named(self.ahead(1)).filter(|_| self.ahead(2) == ")");
                if let Some(to) = cast {
                    self.at += 3;
                    let value = self.unary();
                    return self.converted(value, to, from);
                }
                if self.ahead(1) == "void" {
                    self.at += 3;
                    self.unary();
                    return OTHER;
                }
                // (float*)s
                if matches!(self.ahead(2), "*") && self.ahead(3) == ")" {
                    self.at += 4;
                    return self.unary();
                }
                self.at += 1;
                let mut value = self.expression(0);
                while self.eat(",") {
                    value = self.expression(0);
                }
                if !self.eat(")") {
                    self.problem("this is not understood", from);
                }
                self.postfix(value)
            }
            _ => self.primary(),
        }
    }

    /// What a pointer points to.
    fn element(&self, pointer: Value) -> Value {
        match pointer.of {
            Type::Ids => self.known(Type::Int, i128::from(i32::MIN), i128::from(i32::MAX)),
            _ => OTHER,
        }
    }

    fn postfix(&mut self, mut value: Value) -> Value {
        loop {
            let from = self.at.saturating_sub(1);
            match self.peek() {
                "[" => {
                    self.at += 1;
                    let index = self.expression(0);
                    if matches!(value.of, Type::Global | Type::Ids) {
                        self.index(index, from);
                    }
                    self.eat("]");
                    value = self.element(value);
                }
                "." | "->" => {
                    self.at += 2;
                    value = OTHER;
                }
                "(" => {
                    self.arguments("");
                    value = OTHER;
                }
                "++" | "--" => self.at += 1,
                _ => return value,
            }
        }
    }

    fn primary(&mut self) -> Value {
        let from = self.at;
        let token = self.next();
        let first = token.chars().next().unwrap_or(' ');
        if first.is_ascii_digit() {
            return self.number(token);
        }
        if token == "true" || token == "false" {
            return self.known(Type::Int, 0, 1);
        }
        if matches!(token, "threadIdx" | "blockIdx" | "gridDim" | "blockDim") {
            self.at += 2;
            let Given {
                blocks, threads, ..
            } = self.given;
            return match token {
                "threadIdx" => self.known(Type::Unsigned, 0, threads - 1),
                "blockIdx" => self.known(Type::Unsigned, 0, blocks - 1),
                // A device may start fewer.
                "gridDim" => self.known(Type::Unsigned, 1, blocks),
                _ => self.known(Type::Unsigned, threads, threads),
            };
        }
        if !(first.is_alphabetic() || first == '_' || first == '"') {
            if !token.is_empty() {
                self.problem("this is not understood", from);
            }
            return OTHER;
        }
        while self.peek() == "::" {
            self.at += 2;
        }
        // A template's arguments.
        if self.peek() == "<" && self.lookup(token).is_none() {
            let mut at = 1;
            let plain = |t: &str| {
                t.chars()
                    .all(|c| c.is_alphanumeric() || "_*,-+:".contains(c))
            };
            while plain(self.ahead(at)) && !self.ahead(at).is_empty() {
                at += 1;
            }
            if self.ahead(at) == ">" && self.ahead(at + 1) == "(" {
                self.at += at + 1;
            }
        }
        if self.peek() == "(" {
            if let Some(to) = Type::named(token) {
                self.at += 1;
                let value = self.expression(0);
                self.eat(")");
                return self.converted(value, to, from);
            }
            let arguments = self.arguments(token);
            let value = match (token, arguments.as_slice()) {
                ("min", [a, b]) => {
                    let both = a.range.zip(b.range);
                    let range = both.map(|((a, b), (c, d))| (a.min(c), b.min(d)));
                    Value {
                        of: a.of.with(b.of),
                        range,
                    }
                }
                ("lowest_bit", _) => self.known(Type::Int, 0, 31),
                ("count_bits", _) => self.known(Type::Int, 0, 32),
                ("smem_u32", _) => self.known(Type::Unsigned, 0, 1 << 20),
                // A pointer stays what it is.
                ("reinterpret_cast", [a]) => *a,
                _ => OTHER,
            };
            return self.postfix(value);
        }
        match self.lookup(token) {
            Some(value) => self.postfix(value),
            None => self.postfix(OTHER),
        }
    }

    fn arguments(&mut self, callee: &str) -> Vec<Value> {
        if callee == LOCATE {
            self.skip_group();
            return Vec::new();
        }
        self.eat("(");
        let mut found = Vec::new();
        while !matches!(self.peek(), ")" | "") {
            let before = self.at;
            let value = match self.peek() {
                "{" => {
                    self.braces();
                    OTHER
                }
                _ => self.expression(1),
            };
            if self.lambdas.contains(callee) {
                let key = (callee.to_owned(), found.len());
                let range = match (self.calls.get(&key), value.range) {
                    (None, range) => range,
                    (Some(Some((a, b))), Some((c, d))) => Some((*a.min(&c), *b.max(&d))),
                    _ => None,
                };
                self.calls.insert(key, range);
            }
            found.push(value);
            if !self.eat(",") && self.peek() != ")" {
                self.problem("an argument is not understood", before);
                while !matches!(self.peek(), ")" | ";" | "") {
                    self.at += 1;
                }
            }
        }
        self.eat(")");
        found
    }

    fn number(&mut self, token: &str) -> Value {
        let hex = token.strip_prefix("0x");
        let float = hex.is_none() && (token.contains(['.', 'e']) || token.ends_with('f'));
        if float {
            return OTHER;
        }
        let digits = token.trim_end_matches(['u', 'l', 'U', 'L']);
        let suffix = &token[digits.len()..];
        let value = match hex {
            Some(_) => i128::from_str_radix(digits.trim_start_matches("0x"), 16),
            None => digits.parse(),
        };
        let Ok(value) = value else {
            return OTHER;
        };
        let of = match (suffix.contains(['l', 'L']), suffix.contains(['u', 'U'])) {
            (false, false) if value <= i128::from(i32::MAX) => Type::Int,
            (false, _) if value <= i128::from(u32::MAX) && hex.is_some() => Type::Unsigned,
            (false, true) if value <= i128::from(u32::MAX) => Type::Unsigned,
            (_, true) => Type::UnsignedLong,
            _ => Type::Long,
        };
        self.known(of, value, value)
    }
}
