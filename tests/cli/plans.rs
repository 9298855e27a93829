//! The CUDA text that a small model becomes, in both storage types, as snapshots in tests/plans/.
//!
//! A change in it is a change of what users run: read it, then `cargo xtask bless`. The plans of
//! all models are in `tests/plans.rs`.

use std::fs;
use std::path::Path;

use crate::command::{fusec, repository};

/// Compiles a model for the standard shape into `dir`.
fn compile(model: &str, dir: &Path, arguments: &[&str]) {
    let model = format!("models/{model}.toml");
    let mut all = vec![
        "compile",
        model.as_str(),
        "--out",
        dir.to_str().expect("UTF-8"),
    ];
    all.extend(arguments);
    let answer = fusec(&all);
    // There is no compiler in these tests: sources and plans are what they look at.
    assert_eq!(answer.status, Some(3), "{answer:?}");
}

fn snapshot(name: &str, text: &str) {
    insta::with_settings!({
        snapshot_path => "../plans",
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!(name, text);
    });
}

#[test]
fn kernels() {
    let dir = tempfile::tempdir().expect("a directory");
    for dtype in ["f32", "bf16"] {
        let out = dir.path().join(dtype);
        compile("gated-scan", &out, &["--dtype", dtype]);
        let plan = fs::read_to_string(out.join("plan.txt")).expect("plan.txt");
        assert!(plan.contains("gated-scan on h200"), "{plan}");
        let mut files: Vec<_> = fs::read_dir(out.join("kernels"))
            .expect("kernels")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        files.sort();
        let texts: Vec<String> = files
            .iter()
            .map(|file| {
                let name = file.file_name().expect("a name").to_string_lossy();
                let source = fs::read_to_string(file).expect("a source");
                format!("==> {name}\n{source}")
            })
            .collect();
        snapshot(&format!("gated-scan.{dtype}.cu"), &texts.join("\n"));
    }
}

/// Everything below a directory, by name.
fn files(dir: &Path) -> Vec<(String, String)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    let read = |file: &std::path::PathBuf| {
        let name = file.file_name().expect("a name").to_string_lossy();
        (name.into_owned(), fs::read_to_string(file).expect("a text"))
    };
    files.iter().map(read).collect()
}

/// The places of a graph in a manifest are those of its operations, parameters and pins.
fn without_places(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(fields) => {
            fields.remove("span");
            fields.values_mut().for_each(without_places);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(without_places),
        _ => {}
    }
}

/// Names, texts and options of kernels are what cubins are kept by.
#[test]
fn a_text_that_is_moved_gives_the_same_plans_and_kernels() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = fs::read_to_string(repository("tests/recurrences/mlstm.toml")).expect("a text");
    let moved = format!(
        "# moved\n\n{}",
        text.replace("  top =", "  # a remark\n    top  =")
    );
    let made = [("before", text), ("after", moved)].map(|(name, text)| {
        let (model, out) = (dir.path().join("mlstm.toml"), dir.path().join(name));
        fs::write(&model, text).expect("written");
        let [model, to] = [&model, &out].map(|path| path.to_str().expect("UTF-8"));
        let answer = fusec(&["compile", model, "--out", to]);
        assert_eq!(answer.status, Some(3), "{answer:?}");
        let read = |file: &str| fs::read_to_string(out.join(file)).expect("a text");
        let mut manifest = serde_json::from_str(&read("manifest.json")).expect("JSON");
        without_places(&mut manifest);
        // A directory is read only if its kernels are what its plans become.
        let read_back = fusec(&["inspect", to]);
        assert_eq!(read_back.status, Some(0), "{read_back:?}");
        let planned = (read("plan.json"), read("plan.txt"));
        (planned, files(&out.join("kernels")), manifest)
    });
    let [before, after] = made;
    assert_eq!(before, after);
}

/// A recurrent gate whose state decays a memory: two components, the first of them general.
const GATED: &str = r#"
name = "gated"
[axes]
H = 2
I = 16
J = 16
[input]
x = "H"
k = "H, J"
v = "H, I"
[param]
u = { shape = "H", init = "uniform(0, 1)" }
[recurrence.gated]
inputs  = "x[H], k[H, j], v[H, i], u[H]"
state   = "g[H], S[H, i = I, j = J]"
outputs = "y[H, i]"
step    = """
  g = sigmoid(u * g + x)
  S = g * S + k * v
  y = sum(S * k, j)
"""
[model]
flow = "return gated(x, k, v, u)"
"#;

#[test]
fn a_plan_says_which_term_leaves_a_component_general() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("gated.toml");
    fs::write(&file, GATED).expect("written");
    let model = file.to_str().expect("UTF-8");
    let answer = fusec(&["plan", model]);
    let (_, classes) = answer.stdout.split_once("recurrence ").expect("classes");
    let marked = [
        "(state g, a component of gated): general",
        "`sigmoid` is applied to a state, so the step is not linear in it",
        "g = sigmoid(u * g + x)",
        "^^^^",
        "(state S, a component of gated): diagonal-outer",
    ];
    for said in marked {
        assert!(classes.contains(said), "no `{said}` in {classes}");
    }
    let answer = fusec(&["plan", model, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&answer.stdout).expect("JSON");
    let [gate, memory] = [0, 1].map(|i| &json["recurrences"][i]["states"][0]);
    assert_eq!(gate["file"], model);
    assert_eq!((&gate["line"], &gate["column"]), (&18.into(), &7.into()));
    assert_eq!(memory["class"], "diagonal-outer");
    assert!(memory.get("line").is_none(), "{memory}");
}
