//! Compiled models on disk.

use crate::sample;
use fusec_codegen::manifest::MANIFEST_VERSION;
use fusec_fuse::plan::PLAN_VERSION;
use fusec_fuse::{Device, Mode, Plan, Shape, Storage};
use fusec_runtime::plan_dir::{PlanDir, PlanDirError, read_plan_dir, write_plan_dir};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

fn compiled() -> PlanDir {
    let manifest = sample::manifest(Storage::Bf16);
    let images = |salt: u8| -> BTreeMap<String, Vec<u8>> {
        let kernels = manifest.kernels.iter();
        kernels
            .map(|k| (k.name.clone(), vec![salt, k.name.len() as u8]))
            .collect()
    };
    PlanDir {
        plans: vec![Plan {
            version: PLAN_VERSION,
            model: "sample".into(),
            device: "h200".into(),
            shape: Shape { batch: 1, time: 1 },
            storage: Storage::Bf16,
            mode: Mode::Auto,
            forms: vec![],
            claim: "optimal".into(),
            kernels: vec![],
            total_us: 1.25,
        }],
        device: Device::find("h200").expect("a profile"),
        text: "two plans\n".into(),
        tuned: None,
        cubins: BTreeMap::from([("sm_80".into(), images(1)), ("sm_90a".into(), images(2))]),
        manifest,
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_written_is_read() {
    let root = tempfile::tempdir().expect("a directory");
    let dir = root.path().join("out/sample");
    write_plan_dir(&dir, &compiled()).expect("written");
    assert_eq!(read_plan_dir(&dir).expect("read"), compiled());
    assert_eq!(
        names(&dir),
        [
            "cubins.json",
            "device.json",
            "kernels",
            "manifest.json",
            "plan.json",
            "plan.txt"
        ]
    );
    assert_eq!(
        names(&root.path().join("out")),
        ["sample"],
        "nothing temporary stays"
    );
    // A source and two cubins each, and the primitives.
    assert_eq!(names(&dir.join("kernels")).len(), 4 * 3 + 1);

    // Without a compiler there are sources only, and the old cubins go.
    let mut bare = compiled();
    bare.cubins.clear();
    write_plan_dir(&dir, &bare).expect("written again");
    let read = read_plan_dir(&dir).expect("read again");
    assert_eq!(read, bare);
    let error = read.cubins_for("sm_90a", &dir).expect_err("none");
    assert!(error.to_string().contains("only sources"), "{error}");
    let error = compiled()
        .cubins_for("sm_75", &dir)
        .expect_err("none for that")
        .to_string();
    assert!(
        error.contains("only for sm_80, sm_90a") && error.contains("--arch sm_75"),
        "{error}"
    );
}

#[test]
fn a_second_compilation_keeps_what_is_not_the_plans() {
    let root = tempfile::tempdir().expect("a directory");
    let dir = root.path().join("sample");
    write_plan_dir(&dir, &compiled()).expect("written");
    fs::write(dir.join("notes.md"), "mine").expect("a note");
    fs::write(dir.join("kernels/stale.cu"), "old").expect("a stale kernel");
    write_plan_dir(&dir, &compiled()).expect("written again");
    assert_eq!(
        fs::read_to_string(dir.join("notes.md")).expect("kept"),
        "mine"
    );
    assert!(!dir.join("kernels/stale.cu").exists());
    assert_eq!(names(root.path()), ["sample"]);
}

#[test]
fn what_is_no_plan_is_left_alone() {
    let root = tempfile::tempdir().expect("a directory");
    let home = root.path().join("home");
    fs::create_dir(&home).expect("a directory");
    fs::write(home.join("thesis.tex"), "years").expect("a file");
    let file = root.path().join("file");
    fs::write(&file, "text").expect("a file");
    for place in [&home, &file] {
        let error = write_plan_dir(place, &compiled()).expect_err("occupied");
        assert!(matches!(error, PlanDirError::NotAPlan { .. }), "{error}");
    }
    let error = read_plan_dir(&home).expect_err("no plan");
    assert!(error.to_string().contains("home"), "{error}");
    assert_eq!(names(root.path()), ["file", "home"]);
    assert_eq!(names(&home), ["thesis.tex"]);

    // Below a file there can be no directory.
    let error = write_plan_dir(&file.join("out"), &compiled()).expect_err("unwritable");
    assert!(
        error.to_string().contains(&file.display().to_string()),
        "{error}"
    );
}

#[test]
fn damage_is_found_and_named() {
    type Damage = fn(&Path);
    let cases: [(Damage, &str); 8] = [
        (
            |d| fs::write(d.join("kernels/leak.cu"), "// other").unwrap(),
            "leak.cu: it is not the source",
        ),
        (
            |d| fs::remove_file(d.join("kernels/leak.cu")).unwrap(),
            "leak.cu",
        ),
        (
            |d| fs::write(d.join("kernels/leak.sm_80.cubin"), "x").unwrap(),
            "leak.sm_80.cubin: its SHA-256",
        ),
        (
            |d| fs::remove_file(d.join("kernels/step.sm_90a.cubin")).unwrap(),
            "step.sm_90a.cubin",
        ),
        (
            |d| fs::write(d.join("manifest.json"), "{").unwrap(),
            "manifest.json",
        ),
        (
            |d| {
                let path = d.join("manifest.json");
                let text = fs::read_to_string(&path).unwrap();
                let version = format!("\"version\": {MANIFEST_VERSION}");
                fs::write(&path, text.replacen(&version, "\"version\": 7", 1)).unwrap();
            },
            "version 7",
        ),
        (
            |d| {
                let path = d.join("manifest.json");
                let text = fs::read_to_string(&path).unwrap();
                fs::write(
                    &path,
                    text.replace("\"name\": \"leak\"", "\"name\": \"../leak\""),
                )
                .unwrap();
            },
            "no C identifier",
        ),
        (
            |d| {
                let path = d.join("cubins.json");
                let text = fs::read_to_string(&path).unwrap();
                fs::write(&path, text.replacen("\"leak\"", "\"leek\"", 1)).unwrap();
            },
            "kernel `leak` has no cubin",
        ),
    ];
    for (damage, message) in cases {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("sample");
        write_plan_dir(&dir, &compiled()).expect("written");
        damage(&dir);
        let error = read_plan_dir(&dir).expect_err(message);
        assert!(error.to_string().contains(message), "{message}: {error}");
    }
}
