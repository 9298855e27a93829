//! docs/messages.md: every message of the program with what it means, as the sources have them. `cargo xtask bless`
//! writes the page again.
//!
//! A message is the text of an `#[error(..)]`, and what it means is the comment above it; or it is the first
//! argument of `refuse`, whose second says what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What messages are about, by where the source is: the first that fits.
const SECTIONS: [(&str, &str); 22] = [
    ("crates/ir/src/language", "The text of a model"),
    ("crates/ir/src/class", "Classes of recurrences"),
    ("crates/ir/src/gradient", "Derivatives"),
    ("crates/ir", "Running on the CPU"),
    ("crates/fuse/src/device", "Device profiles"),
    ("crates/fuse", "Plans"),
    ("crates/codegen", "Kernels"),
    ("crates/report", "Pages of plans"),
    ("crates/text", "Text and token ids"),
    ("crates/runtime/src/calibrate", "Measuring a device"),
    ("crates/runtime/src/checkpoint", "Checkpoints"),
    ("crates/runtime/src/layout", "Checkpoints"),
    ("crates/runtime/src/import", "Checkpoints"),
    ("crates/runtime/src/weights", "Weights"),
    ("crates/runtime/src/toolchain", "The CUDA compiler"),
    ("crates/runtime/src/cubin", "The CUDA compiler"),
    ("crates/runtime/src/executor", "Running kernels"),
    ("crates/runtime/src/emulator", "Running kernels"),
    ("crates/runtime/src/train", "Training"),
    ("crates/runtime/src/tune", "Plans chosen by measurement"),
    ("crates/runtime/src/program", "From Python and C"),
    ("", "Files, sizes and everything else"),
];

const HEAD: &str = "\
# Every message

What the program may say, and what it means or what to do then; `...` stands for what differs. Those that come
often have more words in [errors by their message](errors.md). This page is made of the sources.
";

fn sources(directory: &Path, into: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            into.insert(path);
        }
    }
}

/// The string literal that a text begins with, apart from blanks, and what follows it.
fn literal(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start();
    let text = text.strip_prefix("format!(").unwrap_or(text).trim_start();
    let mut rest = text.strip_prefix('"')?.chars();
    let mut out = String::new();
    while let Some(c) = rest.next() {
        match c {
            '"' => return Some((out, rest.as_str())),
            '\\' => match rest.next()? {
                // The text goes on where the next line begins.
                '\n' => rest = rest.as_str().trim_start().chars(),
                'n' => out.push(' '),
                other => out.push(other),
            },
            other => out.push(other),
        }
    }
    None
}

/// What follows the comma behind an argument that so many brackets are open in.
fn next_argument(mut rest: &str, mut open: usize) -> Option<&str> {
    loop {
        let at = rest.find(['(', ')', ',', '"'])?;
        let (here, after) = (&rest[at..], &rest[at + 1..]);
        rest = match &here[..1] {
            "\"" => literal(here)?.1,
            bracket_or_comma => {
                match bracket_or_comma {
                    "(" => open += 1,
                    ")" => open = open.checked_sub(1)?,
                    _ if open == 0 => return Some(after),
                    _ => {}
                }
                after
            }
        };
    }
}

/// A format with `...` for what it is filled with.
fn pattern(format: &str) -> String {
    let mut out = String::new();
    let mut rest = format;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, here) = rest.split_at(at);
        out.push_str(before);
        rest = match (here.get(..2), here.find('}')) {
            (Some(twice @ ("{{" | "}}")), _) => {
                out.push_str(&twice[1..]);
                &here[2..]
            }
            (_, Some(end)) => {
                out.push_str("...");
                &here[end + 1..]
            }
            _ => panic!("no format: {format}"),
        };
    }
    out.push_str(rest);
    // What is filled in side by side, or as a range.
    while out.contains("....") {
        out = out.replace("....", "...");
    }
    out
}

/// The comment that stands above a place in a text, as one line.
fn comment(above: &str) -> String {
    let lines = above.lines().rev();
    // Between it and the message there may be other attributes.
    let lines = lines
        .map(str::trim)
        .skip_while(|line| line.starts_with("#["));
    let mut lines: Vec<&str> = lines.map_while(|line| line.strip_prefix("///")).collect();
    lines.reverse();
    let lines: Vec<&str> = lines.into_iter().map(str::trim).collect();
    lines.join(" ")
}

/// Messages of a source with what they mean.
fn messages(source: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (at, start) in source.match_indices("#[error(") {
        // `transparent` has the words of another.
        if let Some((message, _)) = literal(&source[at + start.len()..]) {
            let line = source[..at].rfind('\n').map_or(0, |end| end + 1);
            found.push((message, comment(&source[..line])));
        }
    }
    for (at, start) in source.match_indices("refuse(") {
        let Some((message, rest)) = literal(&source[at + start.len()..]) else {
            continue;
        };
        let formatted = source[at + start.len()..]
            .trim_start()
            .starts_with("format!(");
        let advice = next_argument(rest, usize::from(formatted)).and_then(literal);
        found.push((
            message,
            advice.map(|(advice, _)| advice).unwrap_or_default(),
        ));
    }
    found
}

fn page(root: &Path) -> String {
    let mut files = BTreeSet::new();
    for below in ["src", "crates"] {
        sources(&root.join(below), &mut files);
    }
    let mut sections: BTreeMap<&str, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for file in files {
        let place = file
            .strip_prefix(root)
            .expect("below")
            .display()
            .to_string();
        if !place.contains("src/") {
            continue;
        }
        let section = SECTIONS.iter().find(|(start, _)| place.starts_with(start));
        let (_, title) = section.expect("the last fits all");
        let source = fs::read_to_string(&file).expect("a source");
        for (message, meaning) in messages(&source) {
            let message = pattern(&message);
            // A message of somebody else's, with a place before it.
            let words = message
                .split_whitespace()
                .filter(|word| !word.contains("..."));
            if words.count() < 2 {
                continue;
            }
            let meanings = sections
                .entry(title)
                .or_default()
                .entry(message)
                .or_default();
            if !meaning.is_empty() {
                meanings.insert(meaning);
            }
        }
    }
    let mut out = HEAD.to_owned();
    let titles: Vec<&str> = SECTIONS.iter().map(|(_, title)| *title).collect();
    for (at, title) in titles.iter().enumerate() {
        if titles[..at].contains(title) {
            continue;
        }
        let Some(messages) = sections.get(title) else {
            panic!("no message is about {title}");
        };
        out.push_str(&format!("\n## {title}\n\n"));
        for (message, meanings) in messages {
            let meanings: Vec<&str> = meanings.iter().map(String::as_str).collect();
            // A code span may hold what marks one, between two marks.
            out.push_str(&match message.contains('`') {
                true => format!("- `` {message} ``"),
                false => format!("- `{message}`"),
            });
            for meaning in meanings {
                out.push_str(&format!("  \n  {}", escaped(meaning)));
            }
            out.push('\n');
        }
    }
    out
}

/// A comment as Markdown: what is a name there is code here, and no link leads out of the page.
fn escaped(comment: &str) -> String {
    comment
        .replace("[`", "`")
        .replace("`]", "`")
        .replace('<', "&lt;")
}

#[test]
fn every_message_is_listed_with_what_it_means() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = root.join("docs/messages.md");
    let page = page(root);
    if std::env::var("SNAPSHOTS").is_ok_and(|how| how == "overwrite") {
        fs::write(&file, &page).expect("written");
    }
    let there = fs::read_to_string(&file).unwrap_or_default();
    let differs = there.lines().zip(page.lines()).find(|(a, b)| a != b);
    assert!(
        there == page,
        "docs/messages.md is not of these sources, `cargo xtask bless` writes it: {differs:?}"
    );
}

#[test]
fn messages_are_found_in_a_source() {
    let source = r#"
        /// There is none,
        /// or not here.
        #[allow(dead_code)]
        #[error("no {what} in `{}` \
                 at all", place)]
        None,
        #[error(transparent)]
        Other(Other),
        return refuse(format!("{} is {{odd}}", x("y")), "make it even", span);
    "#;
    let found = messages(source);
    let found: Vec<(&str, &str)> = found.iter().map(|(a, b)| (&a[..], &b[..])).collect();
    assert_eq!(
        found[0],
        ("no {what} in `{}` at all", "There is none, or not here.")
    );
    assert_eq!(pattern(found[0].0), "no ... in `...` at all");
    assert_eq!(pattern(found[1].0), "... is {odd}");
    assert_eq!(found.len(), 2);
}
