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

/// Compiles a program with the header, links it with the library and runs it: what it prints.
fn compiled_and_run(dir: &Path, (compiler, standard): (&str, &str), source: &Path) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = dir.join(compiler);
    let language = if compiler == "g++" { "c++" } else { "c" };
    run(Command::new(compiler)
        .args([standard, "-Wall", "-Wextra", "-Werror", "-pedantic"])
        // C++ warns of `= {0}`, which is how C writes zeros.
        .arg("-Wno-missing-field-initializers")
        .args(["-x", language])
        .arg(source)
        .args(["-x", "none", "-I"])
        .arg(root.join("include"))
        .arg("-L")
        .arg(libraries())
        .args(["-lfusec_c", "-lm", "-o"])
        .arg(&program));
    run(Command::new(&program).env("LD_LIBRARY_PATH", libraries()))
}

#[test]
fn a_program_in_c_and_in_cpp() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/program.c");
    let dir = tempfile::tempdir().expect("a directory");
    for how in [("gcc", "-std=c11"), ("g++", "-std=c++17")] {
        let said = compiled_and_run(dir.path(), how, &source);
        assert!(said.ends_with("all checks passed\n"), "{said}");
    }
}

#[test]
fn the_program_of_the_book_prints_what_the_book_says() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/c.md");
    let page = std::fs::read_to_string(page).expect("a page");
    let block = |kind: &str| {
        let (_, rest) = page
            .split_once(&format!("```{kind}\n"))
            .expect("a block begins");
        rest.split_once("```").expect("and ends").0.to_owned()
    };
    let dir = tempfile::tempdir().expect("a directory");
    let source = dir.path().join("program.c");
    std::fs::write(&source, block("c")).expect("a file");
    let said = compiled_and_run(dir.path(), ("gcc", "-std=c11"), &source);
    assert_eq!(said, block("text"));
}
