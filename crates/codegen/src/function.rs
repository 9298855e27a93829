//! Functions of subkernels: where a launch has several, each has a function, and those whose code
//! is the same, or differs in sizes only, call one.
//!
//! A function names its parameters itself. What the blocks of a subkernel do is in it; which blocks
//! those are, and which memory it is about, is in the kernel that calls it.

use crate::lexeme::{Lexeme, lexemes};
use crate::memory::{Pointer, Pointers, c_type};
use crate::names::{Canonical, Names};
use crate::text::Text;
use fusec_fuse::Template;
use std::collections::BTreeMap;

/// The code of one subkernel in a scope of its own.
pub struct Scoped<'g> {
    /// The template that it is an instance of.
    pub template: Template,
    /// Statements from the left margin, with marks; `block` is the subkernel's own block number.
    pub code: String,
    /// Whether it uses shared memory.
    pub shared: bool,
    /// Whether it reads the position.
    pub position: bool,
    /// The names of the marks.
    pub names: Names,
    /// What it points to.
    pub pointers: Pointers<'g>,
}

/// The functions of a kernel and the calls of them.
#[derive(Debug, Default)]
pub struct Functions {
    list: Vec<Function>,
    /// One for each subkernel.
    pub calls: Vec<String>,
}

#[derive(Debug)]
struct Function {
    name: String,
    template: Template,
    text: String,
    names: Names,
    canonical: Canonical,
    /// Marks of its template parameters.
    sizes: Vec<String>,
}

/// The most sizes in which subkernels differ that share a function.
const MOST_SIZES: usize = 8;

impl Functions {
    /// Writes the functions of some subkernels. What they point to becomes `pointers` of the
    /// kernel, with marks of `names`.
    pub fn new<'g>(
        subkernels: &[Scoped<'g>],
        pointers: &mut Pointers<'g>,
        names: &mut Names,
    ) -> Functions {
        let texts: Vec<String> = subkernels.iter().map(definition).collect();
        let codes: Vec<Code> = texts.iter().map(|text| Code::of(text)).collect();
        let alike = |i: usize, j: usize| {
            subkernels[i].template == subkernels[j].template && codes[i].shape == codes[j].shape
        };
        let mut out = Functions::default();
        let mut callee: Vec<Option<(usize, Vec<String>)>> = vec![None; texts.len()];
        for i in 0..texts.len() {
            if callee[i].is_some() {
                continue;
            }
            let mut members: Vec<usize> = (i..texts.len())
                .filter(|j| callee[*j].is_none() && alike(i, *j))
                .collect();
            if differences(&codes, &members).len() > MOST_SIZES {
                members.retain(|j| codes[*j].literals == codes[i].literals);
            }
            let sizes = differences(&codes, &members);
            for member in &members {
                let values = sizes
                    .iter()
                    .map(|at| codes[*member].literals[at[0]].clone());
                callee[*member] = Some((out.list.len(), values.collect()));
            }
            out.list
                .push(function(subkernels, &texts, &members, &codes[i], &sizes));
            out.number();
        }
        for (subkernel, callee) in subkernels.iter().zip(callee) {
            let Some((function, values)) = callee else {
                continue;
            };
            let mut arguments = Vec::new();
            if subkernel.shared {
                arguments.push("smem".to_string());
            }
            arguments.extend(["block", "B", "T"].map(String::from));
            if subkernel.position {
                arguments.push("position".into());
            }
            let places = subkernel.pointers.list().iter();
            arguments.extend(places.map(|pointer| pointers.pass(pointer, names)));
            let values = match values.is_empty() {
                true => String::new(),
                false => format!("<{}>", values.join(", ")),
            };
            let name = &out.list[function].name;
            out.calls
                .push(format!("{name}{values}({});", arguments.join(", ")));
        }
        out
    }

    /// Names the last function: its template, and a number.
    fn number(&mut self) {
        let Some((last, others)) = self.list.split_last_mut() else {
            return;
        };
        let alike = others
            .iter()
            .filter(|f| f.template == last.template)
            .count();
        let template = last.template.to_string().replace(' ', "_");
        last.name = format!("{template}_{alike}");
    }

    /// The definitions, with the identifiers of each chosen.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for function in &self.list {
            let (name, text) = (&function.name, &function.text);
            let chosen = function.names.choose(&[text]);
            let sizes = function.sizes.iter();
            let sizes: Vec<String> = sizes.map(|size| format!("int {size}")).collect();
            if !sizes.is_empty() {
                let sizes = chosen.apply(&sizes.join(", "));
                out.push_str(&format!("template <{sizes}>\n"));
            }
            out.push_str(&format!(
                "static __device__ __forceinline__ void {name}{}\n",
                chosen.apply(text)
            ));
        }
        out
    }

    /// The definitions without names.
    pub fn canonical(&self) -> String {
        let texts = self.list.iter().map(|f| f.canonical.text.as_str());
        texts.collect::<Vec<_>>().join("\n")
    }
}

/// The function of some subkernels whose code differs in these numbers only.
fn function(
    subkernels: &[Scoped<'_>],
    texts: &[String],
    members: &[usize],
    code: &Code,
    sizes: &[Vec<usize>],
) -> Function {
    let first = members[0];
    let mut names = subkernels[first].names.clone();
    let own = Canonical::of(&texts[first]);
    for other in &members[1..] {
        let others = Canonical::of(&texts[*other]);
        names.share(&own, &subkernels[*other].names, &others);
    }
    let mut marks = Vec::new();
    let mut at: BTreeMap<usize, String> = BTreeMap::new();
    for places in sizes {
        let called = places.iter().find_map(|place| code.called.get(place));
        let mark = names.fresh(called.map_or("size", String::as_str));
        at.extend(places.iter().map(|place| (*place, mark.clone())));
        marks.push(mark);
    }
    let text = with_sizes(&texts[first], &at);
    Function {
        name: String::new(),
        template: subkernels[first].template,
        canonical: Canonical::of(&text),
        text,
        names,
        sizes: marks,
    }
}

/// Code as its shape and the whole numbers in it.
struct Code {
    /// The text without names, comments and those numbers.
    shape: String,
    literals: Vec<String>,
    /// What a number is assigned to, where it is.
    called: BTreeMap<usize, String>,
}

impl Code {
    fn of(text: &str) -> Code {
        let canonical = Canonical::of(text).text;
        let mut code = Code {
            shape: String::new(),
            literals: Vec::new(),
            called: BTreeMap::new(),
        };
        let mut before = Vec::new();
        for (piece, number) in numbers(&canonical) {
            if number {
                if let [.., Lexeme::Word(name), Lexeme::Other(" = ")] = before[..] {
                    code.called.insert(code.literals.len(), name.to_lowercase());
                }
                code.literals.push(text_of(piece).to_string());
                code.shape.push('#');
            } else {
                code.shape.push_str(text_of(piece));
            }
            before.push(piece);
        }
        code
    }
}

/// The numbers in which codes of one shape differ: the places of each, in order.
fn differences(codes: &[Code], members: &[usize]) -> Vec<Vec<usize>> {
    let mut out: Vec<(Vec<&str>, Vec<usize>)> = Vec::new();
    let Some(first) = members.first() else {
        return Vec::new();
    };
    for place in 0..codes[*first].literals.len() {
        let values: Vec<&str> = members
            .iter()
            .map(|member| codes[*member].literals[place].as_str())
            .collect();
        if values.iter().all(|value| *value == values[0]) {
            continue;
        }
        match out.iter_mut().find(|(known, _)| *known == values) {
            Some((_, places)) => places.push(place),
            None => out.push((values, vec![place])),
        }
    }
    out.into_iter().map(|(_, places)| places).collect()
}

/// A text with marks in place of some of its numbers.
fn with_sizes(text: &str, at: &BTreeMap<usize, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut place = 0;
    for (piece, number) in numbers(text) {
        match at.get(&place) {
            Some(mark) if number => out.push_str(mark),
            _ => out.push_str(text_of(piece)),
        }
        place += usize::from(number);
    }
    out
}

/// The pieces of a text, and which of them are whole numbers that a template parameter can stand
/// for: no part of another number, and no argument of a pragma.
fn numbers(text: &str) -> Vec<(Lexeme<'_>, bool)> {
    let pieces: Vec<Lexeme<'_>> = lexemes(text).collect();
    let number = |i: usize| {
        let Lexeme::Word(word) = pieces[i] else {
            return false;
        };
        let digits = word.len() < 10 && word.bytes().all(|b| b.is_ascii_digit());
        let point = |at: Option<usize>, last: bool| {
            let piece = at.and_then(|at| pieces.get(at)).map(|p| text_of(*p));
            piece.is_some_and(|p| {
                if last {
                    p.ends_with('.')
                } else {
                    p.starts_with('.')
                }
            })
        };
        let before = i.checked_sub(1);
        let pragma = i.checked_sub(2).map(|at| pieces[at]) == Some(Lexeme::Word("unroll"));
        digits && !point(before, true) && !point(Some(i + 1), false) && !pragma
    };
    (0..pieces.len()).map(|i| (pieces[i], number(i))).collect()
}

fn text_of(piece: Lexeme<'_>) -> &str {
    match piece {
        Lexeme::Word(text) | Lexeme::Comment(text) | Lexeme::Other(text) => text,
    }
}

/// Parameters and body of a function, which has its name in front.
fn definition(subkernel: &Scoped<'_>) -> String {
    let mut parameters = Vec::new();
    if subkernel.shared {
        parameters.push("float* const smem".to_string());
    }
    parameters.extend(["i64 block", "const i64 B", "const i64 T"].map(String::from));
    if subkernel.position {
        parameters.push("const i64 position".into());
    }
    parameters.extend(subkernel.pointers.list().iter().map(parameter));
    let mut text = Text::default();
    text.open(format!("({})", parameters.join(", ")));
    text.line("const int tid = threadIdx.x;");
    text.lines(&subkernel.code);
    text.close();
    text.finish()
}

/// Inlined, a pointer is the kernel's own, which says whether it is restricted.
fn parameter(pointer: &Pointer) -> String {
    let constant = if pointer.written { "" } else { "const " };
    format!("{constant}{}* {}", c_type(pointer.element), pointer.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_one_shape_differs_in_sizes() {
        let code = |n: &str, m: &str| {
            Code::of(&format!(
                "constexpr int COLUMNS = {n}; // {n}\n#pragma unroll 4\nfor (i = 0; i < {n}; i += {m}) x[i * {m}] += 0.5f;"
            ))
        };
        let codes = [code("64", "2"), code("128", "2"), code("64", "3")];
        assert_eq!(codes[0].shape, codes[1].shape);
        assert_eq!(codes[0].literals, ["64", "0", "64", "2", "2"]);
        assert_eq!(codes[0].called[&0], "columns");
        assert_eq!(differences(&codes, &[0, 1]), [vec![0, 2]]);
        assert_eq!(differences(&codes, &[0, 1, 2]), [vec![0, 2], vec![3, 4]]);
        let at = BTreeMap::from([(0, "N".to_string()), (2, "N".to_string())]);
        assert_eq!(
            with_sizes("int a = 64; /* 64 */ b = 0 + 64 + 6.5f;", &at),
            "int a = N; /* 64 */ b = 0 + N + 6.5f;"
        );
        let other = Code::of("#pragma unroll 8\nx");
        assert_ne!(other.shape, Code::of("#pragma unroll 4\nx").shape);
    }
}
