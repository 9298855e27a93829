//! Several processes at once, as the ranks of one job are: on one output directory, on one cache.

use std::collections::BTreeMap;
use std::path::Path;

use crate::command::{answer, emulated_into, finish, fusec, start, unfinished};
use crate::{NUMBERS, tokens};

/// Every file below a directory with its contents.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => all.extend(contents(&path)),
            false => {
                let bytes = std::fs::read(&path).expect("a file");
                all.insert(path.display().to_string(), bytes);
            }
        }
    }
    all
}

#[test]
fn processes_that_compile_into_one_directory_all_succeed() {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = dir.path().join("cache");
    let place = dir.path().join("plans");
    let out = place.join("out");
    let arguments = ["compile", NUMBERS, "--out", out.to_str().expect("a path")];
    answer(&mut fusec(&cache, &arguments)).expect(3, &[]);
    let alone = contents(&out);
    for processes in [2, 10, 10] {
        std::fs::remove_dir_all(&place).expect("removed");
        let children: Vec<_> = (0..processes)
            .map(|_| start(&mut fusec(&cache, &arguments)))
            .collect();
        for child in children {
            finish(child).expect(3, &["no cubins were written"]);
        }
        assert_eq!(contents(&out), alone, "{processes} processes");
        assert_eq!(unfinished(&place), [""; 0]);
    }
}

#[test]
fn processes_that_fill_one_cache_all_get_the_same() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = tokens(dir.path());
    let cache = dir.path().join("cache");
    let outputs: Vec<_> = (0..10)
        .map(|n| dir.path().join(format!("{n}.out")))
        .collect();
    let children: Vec<_> = outputs
        .iter()
        .map(|output| start(&mut emulated_into(&cache, &model, output)))
        .collect();
    for child in children {
        finish(child).expect(0, &[]);
    }
    let first = std::fs::read(&outputs[0]).expect("written");
    for output in &outputs {
        assert_eq!(std::fs::read(output).expect("written"), first);
    }
    assert_eq!(unfinished(&cache), [""; 0]);
}
