//! Pages of `fusec report` in a browser: a click shows the source, keys work, deep models stay quick,
//! the console stays empty. What a person does there stands in tests/report/drive.py.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Writes a page; there is no CUDA compiler in these tests.
fn page(dir: &Path, name: &str, arguments: &[&str]) -> PathBuf {
    let out = dir.join(name);
    let run = Command::new(env!("CARGO_BIN_EXE_fusec"))
        .arg("report")
        .args(arguments)
        .arg("--out")
        .arg(&out)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("FUSEC_NVRTC", "/no/such/libnvrtc.so.13")
        .env("FUSEC_CACHE_DIR", "/no/such/cache")
        .output()
        .expect("the binary starts");
    let said = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(3), "{said}");
    out
}

#[test]
fn pages_can_be_used_by_mouse_and_keyboard() {
    let dir = tempfile::tempdir().expect("a directory");
    let sizes = ["models/rwkv6.toml", "--axis", "L=3"];
    let one = page(dir.path(), "one.html", &sizes);
    let sizes = ["models/gla.toml", "--axis", "L=48"];
    let deep = page(dir.path(), "deep.html", &sizes);
    let small = ["models/gated-scan.toml", "--against", "unfused"];
    let both = page(dir.path(), "both.html", &small);
    let again = page(dir.path(), "again.html", &small);
    let read = |path: &Path| std::fs::read(path).expect("a page");
    assert!(
        read(&both) == read(&again),
        "the same plans give another page"
    );
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/report/drive.py");
    let drive = Command::new("python3")
        .arg(script)
        .args([&one, &deep, &both])
        .output()
        .expect("python3 starts");
    assert!(
        drive.status.success(),
        "{}{}",
        String::from_utf8_lossy(&drive.stdout),
        String::from_utf8_lossy(&drive.stderr)
    );
}
