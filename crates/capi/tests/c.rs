//! A program in C, compiled with the header and linked with the library, passes its own checks.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn run(command: &mut Command) -> String {
    let output = command.output().expect("the command starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}{errors}");
    text
}

/// Where the libraries of this build lie: beside the tests.
fn libraries() -> PathBuf {
    let test = env::current_exe().expect("the path of this test");
    test.parent().expect("a directory").to_path_buf()
}

#[test]
fn a_program_in_c() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().expect("a directory");
    for (compiler, standard) in [("gcc", "-std=c11"), ("g++", "-std=c++17")] {
        let program = dir.path().join(compiler);
        let language = if compiler == "g++" { "c++" } else { "c" };
        run(Command::new(compiler)
            .args([
                standard,
                "-Wall",
                "-Wextra",
                "-Werror",
                "-pedantic",
                "-x",
                language,
            ])
            .arg(root.join("tests/program.c"))
            .arg("-x")
            .arg("none")
            .arg("-I")
            .arg(root.join("include"))
            .arg("-L")
            .arg(libraries())
            .arg("-lfusec_c")
            .arg("-lm")
            .arg("-o")
            .arg(&program));
        let said = run(Command::new(&program).env("LD_LIBRARY_PATH", libraries()));
        assert!(said.ends_with("all checks passed\n"), "{said}");
    }
}
