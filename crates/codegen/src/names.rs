//! Names in generated code: readable, unique, and never those of something else.
//!
//! A model may call its values anything: `int`, `round`, `threadIdx`, or what a template calls a
//! loop. So code is written with marks in place of the names that come from a model. When a
//! function is complete, each mark becomes the identifier that its name suggests, unless that word
//! means something to C++, CUDA or the prelude, or stands in the function's text already. What the
//! generator calls its own variables therefore needs no list, and a name that it does not use
//! stays as the model has it.
//!
//! Lives here: marks, the choice of identifiers, and texts with their names taken out, by which
//! equal code is found. Never here: what deserves a name.

use crate::lexeme::{Lexeme, lexemes};
use crate::prelude;
use std::collections::{BTreeMap, BTreeSet};

/// Around the number of a name that is not chosen yet: characters that no text has.
const OPEN: char = '\u{e000}';
const CLOSE: char = '\u{e001}';

/// Things of one name that are told apart by numbers: more than a kernel has.
const MOST: usize = 100_000;

/// Words of C++ (up to C++20), with the alternative spellings of its operators.
const KEYWORDS: &str = "
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t
    char32_t class compl concept const consteval constexpr constinit const_cast continue co_await
    co_return co_yield decltype default delete do double dynamic_cast else enum explicit export
    extern false final float for friend goto if import inline int long module mutable namespace new
    noexcept not not_eq nullptr operator or or_eq override private protected public register
    reinterpret_cast requires return short signed sizeof static static_assert static_cast struct
    switch template this thread_local throw true try typedef typeid typename typeof union unsigned
    using virtual void volatile wchar_t while xor xor_eq";

/// Variables of CUDA, and macros of usual compilers and headers that are spelled like variables.
const BUILT_IN: &str = "
    threadIdx blockIdx blockDim gridDim warpSize
    alloca assert environ errno i386 linux major minor offsetof stderr stdin stdout unix";

/// Whether an identifier means something to C++, CUDA or the prelude, or may do so somewhere: what
/// begins with an underscore or has two is the implementation's, and macros are spelled in capitals.
pub fn is_reserved(word: &str) -> bool {
    let listed = |list: &str| list.split_whitespace().any(|known| known == word);
    word.starts_with('_')
        || word.contains("__")
        || word.to_ascii_lowercase().starts_with("fusec")
        || in_capitals(word)
        || listed(KEYWORDS)
        || listed(BUILT_IN)
        || prelude::is_primitive(word)
}

/// Two letters and more, all of them capitals.
fn in_capitals(word: &str) -> bool {
    let mut letters = word.chars().filter(char::is_ascii_alphabetic);
    letters.clone().count() > 1 && letters.all(|c| c.is_ascii_uppercase())
}

/// The part of a model's name that tells most: its last component with letters.
pub fn last(name: &str) -> &str {
    let last = name.rsplit("::").next().unwrap_or(name);
    let mut components = last.rsplit('.');
    components
        .find(|part| part.chars().any(char::is_alphabetic))
        .unwrap_or(last)
}

/// Letters, digits and single underscores, not all in capitals; marks stay.
pub(crate) fn spelled(name: &str) -> String {
    let mut out = String::new();
    let mut marked = false;
    for c in name.chars() {
        marked = (marked || c == OPEN) && c != CLOSE;
        if marked || c == CLOSE || c.is_ascii_alphanumeric() {
            out.push(c);
        } else if !out.is_empty() && !out.ends_with('_') {
            out.push('_');
        }
    }
    let out = match in_capitals(&out) {
        true => out.to_ascii_lowercase(),
        false => out,
    };
    let out = out.trim_end_matches('_');
    let fusec = out.to_ascii_lowercase().starts_with("fusec");
    match out.chars().next() {
        None => "v".into(),
        Some(c) if c.is_ascii_digit() || fusec => format!("v_{out}"),
        Some(_) => out.to_string(),
    }
}

/// The names of one function.
#[derive(Clone, Debug, Default)]
pub struct Names {
    wanted: Vec<Wanted>,
}

/// What a mark may be called: spellings, short and telling first.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    spellings: Vec<String>,
}

/// The identifiers of all marks of a function.
#[derive(Clone, Debug)]
pub struct Chosen(Vec<String>);

/// A text with its names taken out: equal for texts that differ in nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canonical {
    /// The text, names numbered in the order in which they appear, comments left out.
    pub text: String,
    /// The marks in that order.
    marks: Vec<usize>,
}

impl Names {
    /// A mark for a name like the last component of `name`, which may have marks in it. Marks that
    /// are asked for first are the first to choose.
    pub fn fresh(&mut self, name: &str) -> String {
        self.one_of(vec![last(name).to_string()])
    }

    /// A mark for a thing with several names, of which a later one is taken where the function has
    /// something else under an earlier one.
    pub fn one_of(&mut self, names: Vec<String>) -> String {
        let spellings = names.iter().map(|name| spelled(name)).collect();
        self.wanted.push(Wanted { spellings });
        format!("{OPEN}{}{CLOSE}", self.wanted.len() - 1)
    }

    /// The identifiers of a function that consists of these texts.
    pub fn choose(&self, texts: &[&str]) -> Chosen {
        let mut taken: BTreeMap<String, Holder> = BTreeMap::new();
        // What stands around each mark, itself included: `acc_` and a mark are one word.
        let mut around: Vec<BTreeSet<(String, String)>> = vec![BTreeSet::new(); self.wanted.len()];
        for text in texts {
            for lexeme in lexemes(text) {
                let Lexeme::Word(word) = lexeme else { continue };
                let marks = marks_in(word);
                if marks.is_empty() {
                    taken.insert(word.to_string(), Holder::Text);
                }
                for (range, mark) in marks {
                    let (before, after) = (&word[..range.start], &word[range.end..]);
                    if let Some(around) = around.get_mut(mark) {
                        around.insert((before.to_string(), after.to_string()));
                    }
                }
            }
        }
        let levels = self.levels(&around);
        let mut chosen = Chosen(Vec::new());
        for (i, wanted) in self.wanted.iter().enumerate() {
            let base = chosen.apply(&wanted.spellings[levels[i]]);
            let base = base.replace("__", "_").trim_end_matches('_').to_string();
            let words = |name: &str| -> Vec<String> {
                let words = around[i].iter();
                words.map(|(a, b)| format!("{a}{name}{b}")).collect()
            };
            let holder = |name: &str| {
                let words = words(name);
                let reserved = words.iter().any(|word| is_reserved(word));
                let held = words.iter().filter_map(|word| taken.get(word));
                held.copied().chain(reserved.then_some(Holder::Text)).min()
            };
            let mut name = base.clone();
            if holder(&name) == Some(Holder::Text) {
                name.push('_');
            }
            let mut n = 1;
            while holder(&name).is_some() && n < MOST {
                n += 1;
                name = format!("{base}_{n}");
            }
            taken.extend(words(&name).into_iter().map(|word| (word, Holder::Name)));
            chosen.0.push(name);
        }
        chosen
    }

    /// Which spelling of each mark is used: as short as keeps apart what appears in the text.
    fn levels(&self, around: &[BTreeSet<(String, String)>]) -> Vec<usize> {
        let mut levels = vec![0; self.wanted.len()];
        loop {
            let mut bearers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
            for (i, wanted) in self.wanted.iter().enumerate() {
                if !around[i].is_empty() {
                    let name = wanted.spellings[levels[i]].as_str();
                    bearers.entry(name).or_default().push(i);
                }
            }
            let alike = bearers.into_values().filter(|alike| alike.len() > 1);
            let longer: Vec<usize> = alike
                .flatten()
                .filter(|i| levels[*i] + 1 < self.wanted[*i].spellings.len())
                .collect();
            if longer.is_empty() {
                return levels;
            }
            for i in longer {
                levels[i] += 1;
            }
        }
    }

    /// Names that suit this function and another one of the same canonical text: where the two
    /// disagree, what their names have in common.
    pub fn share(&mut self, own: &Canonical, other: &Names, others: &Canonical) {
        for (own, others) in own.marks.iter().zip(&others.marks) {
            let (Some(mine), Some(theirs)) = (self.wanted.get_mut(*own), other.wanted.get(*others))
            else {
                continue;
            };
            let alike = |(a, b): (&String, &String)| bare(a) == bare(b);
            if !mine.spellings.iter().zip(&theirs.spellings).all(alike) {
                let common = common(&mine.spellings[0], &theirs.spellings[0]);
                mine.spellings = vec![common];
            }
        }
    }
}

/// Who bears a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Holder {
    /// The text itself, or the language.
    Text,
    /// Another mark.
    Name,
}

impl Chosen {
    /// The text with its names.
    pub fn apply(&self, text: &str) -> String {
        replaced(text, |mark| self.0.get(mark).cloned().unwrap_or_default())
    }
}

impl Canonical {
    /// Takes the names out of a text.
    pub fn of(text: &str) -> Self {
        let mut out = Canonical {
            text: String::with_capacity(text.len()),
            marks: Vec::new(),
        };
        for lexeme in lexemes(text) {
            match lexeme {
                Lexeme::Comment(_) => {}
                Lexeme::Word(piece) | Lexeme::Other(piece) => {
                    let marks = &mut out.marks;
                    let numbered = replaced(piece, |mark| {
                        let known = marks.iter().position(|known| *known == mark);
                        let number = known.unwrap_or_else(|| {
                            marks.push(mark);
                            marks.len() - 1
                        });
                        format!("{OPEN}{number}{CLOSE}")
                    });
                    out.text.push_str(&numbered);
                }
            }
        }
        let lines = out.text.lines().map(str::trim_end);
        let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
        out.text = lines.join("\n");
        out
    }
}

/// The marks in a text, and where they stand.
fn marks_in(text: &str) -> Vec<(std::ops::Range<usize>, usize)> {
    let mut out = Vec::new();
    let mut from = 0;
    while let Some(start) = text[from..].find(OPEN).map(|at| from + at) {
        let Some(end) = text[start..].find(CLOSE).map(|at| start + at) else {
            break;
        };
        from = end + CLOSE.len_utf8();
        if let Ok(mark) = text[start + OPEN.len_utf8()..end].parse() {
            out.push((start..from, mark));
        }
    }
    out
}

fn replaced(text: &str, mut name: impl FnMut(usize) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for (range, mark) in marks_in(text) {
        out.push_str(&text[from..range.start]);
        out.push_str(&name(mark));
        from = range.end;
    }
    out.push_str(&text[from..]);
    out
}

/// A spelling without the numbers of its marks, which are counted differently in each function.
fn bare(spelling: &str) -> String {
    replaced(spelling, |_| String::new())
}

/// What two spellings have in common at their ends, whole words, around `value`.
fn common(a: &str, b: &str) -> String {
    let words = |name: &str| -> Vec<String> { name.split('_').map(str::to_string).collect() };
    let (a, b) = (words(a), words(b));
    let alike = |(x, y): &(&String, &String)| x == y || (x.contains(OPEN) && y.contains(OPEN));
    let least = a.len().min(b.len());
    let before = a.iter().zip(&b).take(least).take_while(alike).count();
    let after = a.iter().rev().zip(b.iter().rev()).take(least - before);
    let after = after.take_while(alike).count();
    let mut out = a[..before].to_vec();
    if !out
        .iter()
        .chain(&a[a.len() - after..])
        .any(|word| word.contains(OPEN))
    {
        out.push("value".into());
    }
    out.extend_from_slice(&a[a.len() - after..]);
    out.join("_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_and_unique() {
        let mut names = Names::default();
        let cases = [
            ("time_mix.xx", "xx"),
            ("channel_mix.xx", "xx_2"),
            ("float", "float_"),
            ("and", "and_"),
            ("threadIdx", "threadIdx_"),
            ("linux", "linux_"),
            ("fexp", "fexp_"),
            ("round", "round"),
            ("x.1", "x"),
            ("\"; system(", "system"),
            ("T", "T_"),
            ("k", "k"),
            ("DT", "dt"),
            ("_", "v"),
            ("__CUDA_ARCH__", "cuda_arch"),
            ("FUSEC_INF", "v_fusec_inf"),
            ("fusec_k", "v_fusec_k"),
            ("xx_2", "xx_2_2"),
            ("strip", "strip_"),
        ];
        let marks: Vec<String> = cases.iter().map(|(name, _)| names.fresh(name)).collect();
        let text = format!("const i64 T, int strip; // k\n{}", marks.join(" "));
        let chosen = names.choose(&[&text]);
        for ((name, wanted), mark) in cases.iter().zip(&marks) {
            assert_eq!(chosen.apply(mark), *wanted, "{name}");
        }
    }

    #[test]
    fn what_is_made_of_a_name_must_be_free_as_well() {
        let mut names = Names::default();
        let (a, b) = (names.fresh("a"), names.fresh("b"));
        let text = format!("acc_a; acc_{a}; {b}; thread{b}; {b}Idx");
        let chosen = names.choose(&[&text]);
        assert_eq!(chosen.apply(&text), "acc_a; acc_a_; b; threadb; bIdx");
        let (a, b) = ("Idx", "thread");
        let mut names = Names::default();
        let (a, b) = (names.fresh(a), names.fresh(b));
        let text = format!("thread{a} {b}");
        assert_eq!(names.choose(&[&text]).apply(&text), "threadIdx_ thread");
    }

    #[test]
    fn a_name_is_as_long_as_it_takes_to_tell_things_apart() {
        let long = |names: &mut Names, block: &str, name: &str| {
            names.one_of(vec![name.into(), format!("{block}_{name}")])
        };
        let mut names = Names::default();
        let marks = [
            long(&mut names, "time_mix", "x_k"),
            long(&mut names, "channel_mix", "x_k"),
            long(&mut names, "time_mix", "x_r"),
        ];
        let text = marks.join(" ");
        let apply = |names: &Names, text: &str| names.choose(&[text]).apply(text);
        assert_eq!(apply(&names, &text), "time_mix_x_k channel_mix_x_k x_r");
        // What the text does not use needs no distinction.
        assert_eq!(apply(&names, &marks[1..].join(" ")), "x_k x_r");
    }

    #[test]
    fn equal_code_is_found_and_gets_names_for_both() {
        let function = |names: [&str; 3]| {
            let mut all = Names::default();
            let marks = names.map(|name| all.fresh(name));
            let part = all.fresh(&format!("{}_part", marks[1]));
            let text = format!(
                "float* {0}; // {1}\n\nfloat {part} = {0}[{2}];\n",
                marks[0], marks[1], marks[2]
            );
            (all, text)
        };
        let (mut a, text) = function(["w_receptance", "r", "x"]);
        let (b, other) = function(["w_key", "k", "x"]);
        let (own, others) = (Canonical::of(&text), Canonical::of(&other));
        assert_eq!(own.text, others.text);
        a.share(&own, &b, &others);
        assert_eq!(
            a.choose(&[&text]).apply(&text),
            "float* w_value; // r\n\nfloat r_part = w_value[x];\n"
        );
        let third = Canonical::of(&text.replace('[', "+["));
        assert_ne!(own.text, third.text);
    }
}
