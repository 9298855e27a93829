//! The book in docs/: every command in it is run, every text of a model is a file for them, and what is
//! shown of an answer is in it.
//!
//! - A block of TOML or Python that begins with `# file: NAME` is written to the page's directory.
//! - A block called `console` has commands behind `$`, each run by a shell there, and below each the lines
//!   of its answer that matter, in order; `...` stands for lines, or the end of one, left out. The last
//!   command of a block ends with 0; `status=2` says otherwise, `compiler` that 3 will do, since there is
//!   no CUDA compiler in these tests.
//! - Python is compiled, not run: it needs torch, which the tests do without.

#[path = "../examples/compile_from_string.rs"]
mod compile_from_string;
#[path = "book/messages.rs"]
mod messages;
#[path = "../examples/read_state.rs"]
mod read_state;
#[path = "../examples/run_on_cpu.rs"]
mod run_on_cpu;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

/// The pages that the table of contents links, in order.
fn pages() -> Vec<String> {
    let summary = fs::read_to_string(docs().join("SUMMARY.md")).expect("a table of contents");
    let links = summary.lines().filter_map(|line| {
        let (_, rest) = line.split_once("](")?;
        Some(rest.split_once(')')?.0.to_owned())
    });
    links.collect()
}

/// A fenced block: what is said of it, its text, and its first line in the page.
struct Block {
    kind: String,
    text: String,
    line: usize,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut out = Vec::new();
    let mut open: Option<Block> = None;
    for (at, line) in page.lines().enumerate() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(kind), None) => {
                open = Some(Block {
                    kind: kind.into(),
                    text: String::new(),
                    line: at + 2,
                });
            }
            (Some(_), Some(block)) => out.push(block),
            (None, Some(mut block)) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block does not end");
    out
}

/// What a command printed, and its exit status.
fn run(dir: &Path, command: &str) -> (String, i32) {
    let program = Path::new(env!("CARGO_BIN_EXE_fusec"));
    let beside = program.parent().expect("a directory").display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("sh")
        .args(["-c", &format!("exec 2>&1; {command}")])
        .current_dir(dir)
        .env("PATH", format!("{beside}:{path}"))
        .env_remove("RUST_LOG")
        .env("FUSEC_NVRTC", "/no/such/libnvrtc.so.13")
        .env("FUSEC_CACHE_DIR", dir.join(".cache"))
        .output()
        .expect("a shell");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (text, output.status.code().unwrap_or(-1))
}

/// Whether the lines are all in an answer, in order: each is a line of it, or part of one; `...` at the
/// end of a line stands for the rest of it.
fn missing<'a>(answer: &str, lines: &[&'a str]) -> Option<&'a str> {
    let mut rest = answer.lines();
    lines
        .iter()
        .copied()
        .filter(|line| line.trim() != "...")
        .find(|line| {
            let wanted = line.trim().trim_end_matches("...").trim_end();
            !rest.any(|got| got.contains(wanted))
        })
}

/// Runs the commands of a block.
fn console(dir: &Path, place: &str, block: &Block) {
    let accepted: Vec<i32> = match block.kind.split_once(',').map(|(_, how)| how) {
        None => vec![0],
        Some("compiler") => vec![0, 3],
        Some(how) => match how.strip_prefix("status=").and_then(|s| s.parse().ok()) {
            Some(status) => vec![status],
            None => panic!("{place}: `{how}` is neither compiler nor status=N"),
        },
    };
    let mut commands: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in block.text.lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command, vec![])),
            (None, Some((_, answer))) => answer.push(line),
            (None, None) => panic!("{place}: an answer without a command"),
        }
    }
    let last = commands.len();
    for (at, (command, lines)) in commands.into_iter().enumerate() {
        let (answer, status) = run(dir, command);
        let fine = match at + 1 == last {
            true => accepted.contains(&status),
            // What comes before the last does what it should, or is shown to fail as the last does.
            false => status == 0 || accepted.contains(&status),
        };
        assert!(fine, "{place}: `{command}` ends with {status}:\n{answer}");
        if let Some(line) = missing(&answer, &lines) {
            panic!("{place}: `{command}` does not say `{line}`:\n{answer}");
        }
    }
}

#[test]
fn every_command_of_the_book_does_what_it_says() {
    for name in pages() {
        let page = fs::read_to_string(docs().join(&name)).expect("a page");
        let dir = tempfile::tempdir().expect("a directory");
        for below in ["models", "devices"] {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(below);
            std::os::unix::fs::symlink(from, dir.path().join(below)).expect("a link");
        }
        let blocks = blocks(&page);
        for block in &blocks {
            let file = block.text.lines().next();
            if let Some(file) = file.and_then(|line| line.strip_prefix("# file: ")) {
                fs::write(dir.path().join(file), &block.text).expect("a file");
            }
        }
        for block in &blocks {
            let place = format!("docs/{name}:{}", block.line);
            match block.kind.split(',').next().unwrap_or_default() {
                "console" => console(dir.path(), &place, block),
                "python" => {
                    fs::write(dir.path().join("page.py"), &block.text).expect("a file");
                    let (said, status) = run(dir.path(), "python3 -m py_compile page.py");
                    assert_eq!(status, 0, "{place}: {said}");
                }
                _ => {}
            }
        }
    }
}

#[test]
fn every_page_is_in_the_table_of_contents_and_every_link_leads_somewhere() {
    let listed: BTreeSet<String> = pages().into_iter().collect();
    let files = fs::read_dir(docs()).expect("a directory").flatten();
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    let pages: BTreeSet<String> = names
        .filter(|name| name.ends_with(".md") && name != "SUMMARY.md")
        .collect();
    assert_eq!(listed, pages);
    for name in &pages {
        let page = fs::read_to_string(docs().join(name)).expect("a page");
        for (_, rest) in page
            .match_indices("](")
            .map(|(at, _)| page.split_at(at + 2))
        {
            let link = rest.split(')').next().unwrap_or_default();
            let file = link.split('#').next().unwrap_or_default();
            let outside = link.contains("://") || file.is_empty();
            assert!(outside || docs().join(file).exists(), "docs/{name}: {link}");
        }
    }
}

#[test]
fn every_example_that_embeds_the_crates_runs() {
    compile_from_string::main().expect("it runs");
    run_on_cpu::main().expect("it runs");
    read_state::main().expect("it runs");
}
