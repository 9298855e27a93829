//! NVRTC is fetched by pip and checked here: whatever pip brings, from an index or a cache that somebody
//! else filled, nothing but the pinned bytes comes to lie where libraries are loaded from.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use fusec_runtime::toolchain::fetch::{FetchedCopy, fetch, fetched, pinned_name};
use zip::write::SimpleFileOptions;

/// The test that a process of its own runs, and where it fetches to.
const INNER: &str = "inner";
const CACHE: &str = "FUSEC_TEST_CACHE";

/// A wheel of these members, each of so many zeros.
fn wheel(path: &Path, members: &[(&str, u64)]) {
    let mut archive = zip::ZipWriter::new(std::fs::File::create(path).expect("a file"));
    let zeros = vec![0; 1 << 20];
    for (name, bytes) in members {
        archive
            .start_file(*name, SimpleFileOptions::default())
            .expect("a member");
        for first in (0..*bytes).step_by(zeros.len()) {
            let count = (bytes - first).min(zeros.len() as u64) as usize;
            archive.write_all(&zeros[..count]).expect("written");
        }
    }
    archive.finish().expect("an archive");
}

/// What fetching says in a process with these variables. Nothing may have come of it.
fn refusal(variables: &[(&str, &Path)]) -> String {
    let cache = tempfile::tempdir().expect("a directory");
    let output = Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", INNER, "--ignored", "--nocapture"])
        .envs(variables.iter().copied())
        .env(CACHE, cache.path())
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        !matches!(fetched(cache.path()), FetchedCopy::Present(_)),
        "{said}"
    );
    let mut open = vec![cache.path().to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            assert!(path.is_dir() || name == ".lock", "{name} was left");
            assert!(!name.starts_with(".fusec-partial-"), "{name} was left");
            open.extend(path.is_dir().then_some(path));
        }
    }
    said
}

#[test]
fn what_pip_brings_is_unpacked_only_if_it_is_what_is_pinned() {
    let library = "nvidia/cu13/lib/libnvrtc.so.13";
    // The first is of the right length, byte for byte.
    for (members, says) in [
        (&[(library, 141_163_664)][..], "sha256"),
        (&[(library, 12)], "sha256"),
        (&[("nvidia/cu13/lib/libcudart.so.13", 12)], library),
        (&[("../../libnvrtc.so.13", 12)], library),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        wheel(&dir.path().join("wrong.whl"), members);
        // A pip that checks nothing.
        let python = dir.path().join("python3");
        let script = format!(
            "#!/bin/sh\nwhile [ \"$1\" != -d ]; do shift; done\ncp '{}' \"$2\"\n",
            dir.path().join("wrong.whl").display()
        );
        std::fs::write(&python, script).expect("a script");
        std::fs::set_permissions(&python, PermissionsExt::from_mode(0o755)).expect("a mode");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut first = dir.path().as_os_str().to_owned();
        first.push(":");
        first.push(path);
        let said = refusal(&[("PATH", Path::new(&first))]);
        assert!(
            said.contains("nothing was installed") && said.contains(says),
            "{says}: {said}"
        );
    }
}

#[test]
fn an_index_with_another_wheel_of_that_name_is_refused_by_its_hash() {
    let dir = tempfile::tempdir().expect("a directory");
    // `nvidia-cuda-nvrtc 13.5.37`, as pip spells the file.
    let (project, version) = {
        let name = pinned_name();
        let mut words = name.split([' ', '=']).filter(|word| !word.is_empty());
        let mut word = || words.next().expect("a name and a version").to_owned();
        (word().replace('-', "_"), word())
    };
    let file = format!("{project}-{version}-py3-none-manylinux2010_x86_64.whl");
    wheel(
        &dir.path().join(file),
        &[("nvidia/cu13/lib/libnvrtc.so.13", 12)],
    );
    let none = Path::new("1");
    let said = refusal(&[("PIP_NO_INDEX", none), ("PIP_FIND_LINKS", dir.path())]);
    assert!(said.contains("HASHES"), "{said}");
}

#[test]
#[ignore = "runs in a process with another pip"]
fn inner() {
    let cache = std::env::var_os(CACHE).expect("a place");
    let error = fetch(Path::new(&cache)).expect_err("nothing that is pinned");
    println!("{error}");
}
