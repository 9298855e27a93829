//! C identifiers from the model's names: readable, unique, never a keyword.

use std::collections::BTreeMap;

/// Hands out unique identifiers.
#[derive(Clone, Debug, Default)]
pub struct Names {
    used: BTreeMap<String, usize>,
}

// Words of C++ and CUDA, names that the generated code uses itself, and one-letter names of its loops.
const RESERVED: &[&str] = &[
    "B",
    "T",
    "alignas",
    "asm",
    "at",
    "auto",
    "b",
    "bool",
    "block",
    "break",
    "case",
    "char",
    "class",
    "const",
    "constexpr",
    "continue",
    "default",
    "delete",
    "do",
    "double",
    "e",
    "else",
    "enum",
    "explicit",
    "extern",
    "false",
    "first",
    "float",
    "for",
    "goto",
    "half",
    "i",
    "i32",
    "i64",
    "if",
    "inline",
    "int",
    "k",
    "lane",
    "live",
    "long",
    "m",
    "member",
    "n",
    "namespace",
    "new",
    "next",
    "o",
    "operator",
    "p",
    "j",
    "position",
    "register",
    "return",
    "row",
    "rows",
    "runs",
    "shared",
    "short",
    "signed",
    "sizeof",
    "smem",
    "static",
    "struct",
    "switch",
    "t",
    "t_begin",
    "t_end",
    "t_first",
    "team",
    "template",
    "this",
    "tile_row",
    "total",
    "tid",
    "true",
    "turn",
    "typedef",
    "u16",
    "u32",
    "u64",
    "u8",
    "union",
    "unsigned",
    "using",
    "v",
    "void",
    "volatile",
    "warp",
    "while",
    "y",
];

/// The identifier that a model name suggests: its last component, made safe.
pub fn identifier(name: &str) -> String {
    let last = name.rsplit("::").next().unwrap_or(name);
    let last = last
        .rsplit('.')
        .find(|p| p.chars().any(char::is_alphabetic))
        .unwrap_or(last);
    let mut out: String = last
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    if !out.starts_with(|c: char| c.is_ascii_alphabetic()) {
        out.insert_str(0, "v_");
    }
    if RESERVED.contains(&out.as_str()) || out.starts_with("FUSEC") {
        out.push('_');
    }
    out
}

impl Names {
    /// Names for a kernel beside these identifiers of its templates.
    pub fn beside<'a>(identifiers: impl IntoIterator<Item = &'a str>) -> Self {
        let used = identifiers.into_iter().map(|n| (n.to_string(), 0));
        Names {
            used: used.collect(),
        }
    }

    /// A fresh identifier close to the model's name.
    pub fn fresh(&mut self, name: &str) -> String {
        let base = identifier(name);
        let mut candidate = base.clone();
        let mut n = self.used.get(&base).copied().unwrap_or(0);
        while self.used.contains_key(&candidate) {
            n += 1;
            candidate = format!("{base}_{}", n + 1);
        }
        self.used.insert(base, n);
        self.used.entry(candidate.clone()).or_insert(0);
        candidate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_and_unique() {
        let mut names = Names::default();
        let given = [
            "time_mix.xx",
            "channel_mix.xx",
            "float",
            "x.1",
            "\"; system(",
            "T",
            "xx_2",
        ];
        let got: Vec<String> = given.iter().map(|n| names.fresh(n)).collect();
        assert_eq!(
            got,
            ["xx", "xx_2", "float_", "x", "v____system_", "T_", "xx_2_2"]
        );
    }
}
