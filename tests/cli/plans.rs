//! The CUDA text that a small model becomes, in both storage types, as snapshots in tests/plans/.
//!
//! A change in it is a change of what users run: read it, then `cargo xtask bless`. The plans of
//! all models are in `tests/plans.rs`.

use std::fs;
use std::path::Path;

use crate::command::fusec;

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
