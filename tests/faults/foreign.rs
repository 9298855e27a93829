//! Plan directories of somebody else: nothing in them is run unless it is what their plans become.

use std::fs;
use std::path::{Path, PathBuf};

use fusec_runtime::plan_dir::sha256;
use serde_json::{Value, json};

use crate::command::{Answer, answer, fusec};
use crate::tokens;

struct Compiled {
    _root: tempfile::TempDir,
    cache: PathBuf,
    model: String,
    dir: PathBuf,
}

fn compiled() -> Compiled {
    let root = tempfile::tempdir().expect("a directory");
    let (cache, dir) = (root.path().join("cache"), root.path().join("out"));
    let model = tokens(root.path());
    let out = dir.to_str().expect("a path");
    let arguments = ["compile", &model, "--out", out, "--shape", "B=2,T=40"];
    answer(&mut fusec(&cache, &arguments)).expect(3, &[]);
    Compiled {
        _root: root,
        cache,
        model,
        dir,
    }
}

impl Compiled {
    fn run(&self, more: &[&str]) -> Answer {
        let dir = self.dir.to_str().expect("a path");
        let mut arguments = vec![
            "run",
            &self.model,
            "--weights",
            "random:1",
            "--device",
            "emulator",
            "--shape",
            "B=2,T=7",
            "--plan-dir",
            dir,
        ];
        arguments.extend(more);
        answer(&mut fusec(&self.cache, &arguments))
    }

    /// Changes a file of JSON.
    fn edit(&self, file: &str, change: impl FnOnce(&mut Value)) {
        let path = self.dir.join(file);
        let text = fs::read_to_string(&path).expect("a file");
        let mut value: Value = serde_json::from_str(&text).expect("JSON");
        change(&mut value);
        fs::write(&path, value.to_string()).expect("written");
    }

    /// Changes a source, and its hash with it, so that the directory vouches for it.
    fn edit_source(&self, change: impl FnOnce(String) -> String) {
        self.edit("manifest.json", |manifest| {
            let kernel = &mut manifest["kernels"][0];
            let name = kernel["name"].as_str().expect("a name").to_owned();
            let path = self.dir.join(format!("kernels/{name}.cu"));
            let source = change(fs::read_to_string(&path).expect("a source"));
            kernel["source_sha256"] = json!(sha256(source.as_bytes()));
            fs::write(&path, source).expect("written");
        });
    }
}

#[test]
fn what_was_compiled_here_runs() {
    compiled().run(&[]).expect(0, &[]);
}

#[test]
fn sources_of_others_run_only_for_those_who_trust_them() {
    let compiled = compiled();
    let proof = compiled.dir.with_file_name("proof");
    let code = format!(
        "\nextern \"C\" int system(const char*);\nstatic int mine = system(\"touch '{}'\");\n",
        proof.display()
    );
    compiled.edit_source(|source| source + &code);
    compiled.run(&[]).expect(
        2,
        &[
            ".cu is not what this program makes of the plans",
            "--trust-foreign-code",
        ],
    );
    assert!(!proof.exists());
    compiled.run(&["--trust-foreign-code"]).expect(0, &[]);
    assert!(proof.exists(), "the flag does what it says");
}

/// Where a member of `plan.json` or `manifest.json` is.
fn at<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut Value {
    path.iter()
        .fold(value, |value, step| match step.parse::<usize>() {
            Ok(index) => &mut value[index],
            Err(_) => &mut value[*step],
        })
}

/// A change of a number, and what to call it.
type Edit<'a> = (&'a str, &'a dyn Fn(&mut Value));

#[test]
fn no_edit_of_a_size_a_place_or_a_grid_reaches_a_kernel() {
    let compiled = compiled();
    let whole: Vec<(PathBuf, Vec<u8>)> = ["manifest.json", "plan.json", "device.json"]
        .map(|file| compiled.dir.join(file))
        .map(|path| (path.clone(), fs::read(&path).expect("a file")))
        .into();
    let grow = |value: &mut Value| *value = json!(value.as_u64().unwrap_or(0) * 3 + 1);
    let shrink = |value: &mut Value| *value = json!(value.as_u64().unwrap_or(0) / 2);
    let huge = |value: &mut Value| *value = json!(1u64 << 40);
    let none = |value: &mut Value| *value = json!(0);
    let numbers: [(&str, &[&str]); 14] = [
        ("manifest.json", &["kernels", "0", "threads"]),
        ("manifest.json", &["kernels", "0", "shared_bytes"]),
        ("manifest.json", &["kernels", "1", "shared_bytes"]),
        (
            "manifest.json",
            &["regimes", "0", "buffers", "0", "elements"],
        ),
        (
            "manifest.json",
            &["regimes", "1", "buffers", "3", "elements"],
        ),
        (
            "manifest.json",
            &["regimes", "1", "steps", "0", "lanes", "0", "blocks"],
        ),
        (
            "manifest.json",
            &["regimes", "1", "steps", "1", "lanes", "0", "blocks"],
        ),
        ("manifest.json", &["regimes", "1", "steps", "0", "kernel"]),
        (
            "manifest.json",
            &["regimes", "1", "steps", "0", "plan_kernel"],
        ),
        (
            "manifest.json",
            &["regimes", "1", "graph", "axes", "0", "size"],
        ),
        (
            "manifest.json",
            &["regimes", "1", "graph", "axes", "1", "size"],
        ),
        ("plan.json", &["1", "kernels", "0", "launch", "threads"]),
        (
            "plan.json",
            &["1", "kernels", "1", "launch", "shared_bytes"],
        ),
        ("plan.json", &["1", "shape", "time"]),
    ];
    let edits: [Edit<'_>; 4] = [
        ("grow", &grow),
        ("shrink", &shrink),
        ("huge", &huge),
        ("none", &none),
    ];
    for (file, path) in numbers {
        for (name, edit) in edits {
            let mut changed = false;
            compiled.edit(file, |value| {
                let place = at(value, path);
                assert!(place.is_number(), "{path:?} is no number");
                let before = place.clone();
                edit(place);
                changed = *place != before;
            });
            let answer = compiled.run(&[]);
            if changed {
                assert_eq!(answer.status, Some(2), "{path:?} {name}: {answer:?}");
                assert!(!answer.stderr.contains("panicked"), "{}", answer.stderr);
            }
            for (path, bytes) in &whole {
                fs::write(path, bytes).expect("written");
            }
        }
    }
    compiled.run(&[]).expect(0, &[]);
}

#[test]
fn names_and_profiles_of_others_stay_words() {
    type Edit = fn(&mut Value);
    let cases: [(&str, Edit, &str); 5] = [
        (
            "manifest.json",
            |m| m["model"] = json!("m\n#include \"/etc/passwd\"\n"),
            "comment",
        ),
        (
            "manifest.json",
            |m| m["regimes"][0]["graph"]["ops"][0]["name"] = json!("x */ int evil; /*"),
            "comment",
        ),
        (
            "plan.json",
            |p| p[0]["kernels"][0]["forms"] = json!(["a\nint evil;"]),
            "comment",
        ),
        ("device.json", |d| d["arch"] = json!("sm_1"), "sm_1"),
        (
            "device.json",
            |d| d["sms"]["value"] = json!(-1.0),
            "no positive number",
        ),
    ];
    for (file, edit, says) in cases {
        let compiled = compiled();
        compiled.edit(file, edit);
        compiled.run(&[]).expect(2, &[says]);
    }
}

#[test]
fn the_flag_needs_a_directory_to_trust() {
    let arguments = [
        "run",
        "models/rwkv7.toml",
        "--weights",
        "random:1",
        "--trust-foreign-code",
    ];
    answer(&mut fusec(Path::new("/dev/null/cache"), &arguments)).expect(2, &["--plan-dir"]);
}
