//! Every example in every help text is run, in a directory laid out as a user's would be.

use std::collections::BTreeSet;
use std::fs;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread;

use serde_json::Value;

use crate::MODEL;
use crate::command::{Answer, fusec, fusec_in, repository};
use crate::tuned;

/// Golden cases that stand for the checkpoints of the examples.
const CHECKPOINTS: [(&str, &str); 2] = [("rwkv6", "rwkv6-native"), ("rwkv7", "rwkv7-native")];

/// What earlier calls of a user left: directories that were compiled.
const COMPILED: [&str; 6] = [
    "out/h200",
    "out/a100",
    "out/before",
    "out/after",
    "out/a",
    "out/b",
];

/// The model that was timed.
const TUNED: &str = "models/mamba2.toml";

/// A line of a help text.
#[derive(Debug)]
struct Example {
    verb: String,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    /// What a pipe into jq looks at.
    path: Option<String>,
}

impl Example {
    /// Whether it times plans.
    fn is_tuning(&self) -> bool {
        self.arguments.iter().any(|argument| argument == "--tune")
    }
}

/// The verbs that `fusec --help` lists.
fn verbs() -> Vec<String> {
    let help = fusec(&["--help"]).stdout;
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    commands
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .map(str::to_owned)
        .collect()
}

fn examples(verb: &str) -> Vec<Example> {
    let help = fusec(&[verb, "--help"]).stdout;
    let lines = help.lines().skip_while(|line| *line != "Examples:").skip(1);
    lines
        .take_while(|line| line.starts_with("  "))
        .map(|line| example(verb, line))
        .collect()
}

fn example(verb: &str, line: &str) -> Example {
    // What stands after a gap is a remark.
    let line = line.trim().split("   ").next().unwrap_or_default();
    let (call, pipe) = line.split_once(" | ").unwrap_or((line, ""));
    let path = pipe
        .strip_prefix("jq ")
        .map(|path| path.trim_matches('\'').to_owned());
    let mut words = call.split_whitespace().map(str::to_owned).peekable();
    let mut environment = Vec::new();
    while let Some((name, value)) = words.peek().and_then(|word| word.split_once('=')) {
        environment.push((name.to_owned(), value.to_owned()));
        words.next();
    }
    assert_eq!(words.next().as_deref(), Some("fusec"), "{line}");
    let arguments: Vec<String> = words.collect();
    let own = arguments.first().cloned().unwrap_or_default();
    // What follows a first step may be another verb's.
    assert!(
        own == verb || matches!(verb, "init" | "import" | "export"),
        "{line}"
    );
    Example {
        verb: own,
        environment,
        arguments,
        path,
    }
}

/// A directory with models and checkpoints.
fn laid_out() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |path: &str| dir.path().join(path);
    for below in ["bench", "models", "devices", "tests"] {
        std::os::unix::fs::symlink(repository(below), at(below)).expect("a link");
    }
    fs::create_dir(at("checkpoints")).expect("a directory");
    for (name, case) in CHECKPOINTS {
        let case = repository("tests/golden").join(case);
        std::os::unix::fs::symlink(case, at("checkpoints").join(name)).expect("a link");
    }
    fs::write(at("ids.safetensors"), ids()).expect("a file");
    fs::write(at("text.txt"), "to be or not to be, ".repeat(40)).expect("a file");
    dir
}

/// The same with the results of earlier calls.
fn lived_in() -> tempfile::TempDir {
    let dir = laid_out();
    for out in COMPILED {
        let profile = if out.ends_with("a100") {
            "a100"
        } else {
            "h200"
        };
        let arguments = ["compile", MODEL, "--out", out, "--device-profile", profile];
        let answer = fusec_in(dir.path(), &arguments, &[]);
        assert_eq!(answer.status, Some(3), "{answer:?}");
    }
    let record = dir.path().join("measured.json");
    fs::write(&record, tuned::record(TUNED)).expect("a file");
    let tuned = [
        "compile",
        TUNED,
        "--tuned",
        "measured.json",
        "--out",
        "out/tuned",
    ];
    let answer = fusec_in(dir.path(), &tuned, &[]);
    assert_eq!(answer.status, Some(3), "{answer:?}");
    dir
}

/// A safetensors file of token ids [1, 5].
fn ids() -> Vec<u8> {
    let header = r#"{"input_ids":{"dtype":"I64","shape":[1,5],"data_offsets":[0,40]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend((1..=5i64).flat_map(i64::to_le_bytes));
    bytes
}

/// Whether a path as jq writes it leads anywhere.
fn leads(value: &Value, path: &str) -> bool {
    let Some(rest) = path.strip_prefix('.') else {
        return path.is_empty() && !value.is_null();
    };
    if let Some(rest) = rest.strip_prefix("[]") {
        return value
            .as_array()
            .is_some_and(|items| items.iter().any(|item| leads(item, rest)));
    }
    let end = rest.find(['.', '[']).unwrap_or(rest.len());
    let (key, rest) = rest.split_at(end);
    let Some(found) = value.get(key) else {
        return false;
    };
    match rest.strip_prefix("[]") {
        Some(rest) => found
            .as_array()
            .is_some_and(|items| items.iter().any(|item| leads(item, rest))),
        None => leads(found, rest),
    }
}

/// What a shell makes of an argument: the files of a folder for one with a `*`.
fn expanded(dir: &Path, argument: &str) -> Vec<String> {
    let (folder, name) = argument.rsplit_once('/').unwrap_or((".", argument));
    let Some((start, end)) = name.split_once('*') else {
        return vec![argument.to_owned()];
    };
    let files = fs::read_dir(dir.join(folder)).expect("a folder").flatten();
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    let mut found: Vec<String> = names
        .filter(|name| name.starts_with(start) && name.ends_with(end))
        .map(|name| format!("{folder}/{name}"))
        .collect();
    found.sort();
    found
}

fn run(dir: &Path, example: &Example) -> Answer {
    let arguments = example.arguments.iter();
    let arguments: Vec<String> = arguments.flat_map(|a| expanded(dir, a)).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let environment = example.environment.iter();
    let cache = dir.join("cache").display().to_string();
    let cache = ("FUSEC_CACHE_DIR", cache.as_str());
    let environment = environment.map(|(n, v)| (n.as_str(), v.as_str()));
    let environment: Vec<_> = environment.chain([cache]).collect();
    fusec_in(dir, &arguments, &environment)
}

/// Whether a call ended because this machine has no GPU, or no driver for one.
fn needs_gpu(answer: &Answer) -> bool {
    ["GPU", "NVIDIA driver"]
        .iter()
        .any(|what| answer.stderr.contains(what))
}

/// Runs the examples of a verb one after another: some begin where the one before them ended.
fn run_all(dir: &Path, verb: &str) -> BTreeSet<String> {
    let mut run_verbs = BTreeSet::new();
    for example in examples(verb) {
        let answer = run(dir, &example);
        let statuses: &[i32] = match verb {
            // Nor need there be a GPU.
            "bench" | "calibrate" if needs_gpu(&answer) => &[2],
            "compile" if example.is_tuning() && needs_gpu(&answer) => &[2],
            // There is no CUDA compiler in these tests.
            "check" | "compile" | "inspect" | "report" | "toolchain" => &[0, 3],
            _ => &[0],
        };
        let status = answer.status.expect("it ends by itself");
        assert!(statuses.contains(&status), "{example:?}: {answer:?}");
        if let Some(path) = &example.path {
            let json: Value = serde_json::from_str(&answer.stdout).expect("--json is JSON");
            let compiled = !path.contains("resources");
            assert!(
                leads(&json, path) || !compiled,
                "{example:?}: {}",
                answer.stdout
            );
        }
        run_verbs.insert(example.verb);
    }
    run_verbs
}

#[test]
fn every_example_does_what_it_says() {
    let dir = lived_in();
    let verbs: BTreeSet<String> = verbs().into_iter().collect();
    // What `compile` writes is what others look at.
    let mut run_verbs = run_all(dir.path(), "compile");
    let others: Vec<&String> = verbs.iter().filter(|verb| *verb != "compile").collect();
    let (even, odd): (Vec<_>, Vec<_>) = others.iter().enumerate().partition(|(n, _)| n % 2 == 0);
    let side_by_side = thread::scope(|scope| {
        let halves = [even, odd].map(|half| {
            let all = |(_, verb): &(usize, &&String)| run_all(dir.path(), verb);
            scope.spawn(move || half.iter().flat_map(all).collect::<Vec<_>>())
        });
        halves.map(|half| half.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    run_verbs.extend(side_by_side.into_iter().flatten());
    assert_eq!(run_verbs, verbs);
}

/// The pages whose commands are run: lines of four spaces and a call.
const PAGES: [&str; 2] = ["README.md", "docs/generation.md"];

#[test]
fn every_command_of_a_page_does_what_it_says() {
    let dir = laid_out();
    // These are run as such.
    let verbs = verbs();
    let known = verbs.iter().flat_map(|verb| examples(verb));
    let known: BTreeSet<Vec<String>> = known.map(|example| example.arguments).collect();
    for page in PAGES {
        let text = fs::read_to_string(repository(page)).expect("a page");
        let calls = text
            .lines()
            .filter_map(|line| line.strip_prefix("    fusec "));
        let mut run_calls = 0;
        for call in calls {
            let verb = call.split_whitespace().next().unwrap_or_default();
            let example = example(verb, &format!("fusec {call}"));
            run_calls += 1;
            // What follows may begin where this ends.
            let leaves = example.arguments.iter().any(|a| a == "--state-out") || verb == "init";
            if known.contains(&example.arguments) && !leaves {
                continue;
            }
            let answer = run(dir.path(), &example);
            assert_eq!(answer.status, Some(0), "{page}: {call}: {answer:?}");
            if let Some(path) = &example.path {
                let json: Value = serde_json::from_str(&answer.stdout).expect("--json is JSON");
                assert!(leads(&json, path), "{page}: {call}: {}", answer.stdout);
            }
        }
        assert!(run_calls > 0, "{page}");
    }
}

#[test]
fn paths_lead_where_jq_would_go() {
    let value = serde_json::json!({ "a": [{ "b": 1 }, {}], "c": null });
    for (path, there) in [
        (".a[].b", true),
        (".a", true),
        (".a[].d", false),
        (".c", false),
    ] {
        assert_eq!(leads(&value, path), there, "{path}");
    }
    assert!(leads(&value["a"], ".[].b"));
}
