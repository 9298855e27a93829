//! The worked examples of docs/model-language.md: each is a file of docs/examples/ word for word,
//! compiles, and its kernels equal the interpreter.

use std::collections::BTreeMap;

use common::{Case, root};
use fusec_fuse::{Mode, Storage};
use fusec_ir::language::{ModelSource, Overrides, compile};

mod common;

/// Name and text of every whole model in the page.
fn in_the_page() -> BTreeMap<String, String> {
    let page = std::fs::read_to_string(root().join("docs/model-language.md")).expect("the page");
    let fenced = page.split("```toml\n").skip(1);
    let texts = fenced.map(|rest| rest.split("```").next().expect("a split has a part"));
    let named = texts.map(|text| {
        let name = text.split('"').nth(1).expect("name = \"...\" comes first");
        (name.to_string(), text.to_string())
    });
    named.collect()
}

#[test]
fn the_page_shows_the_files_of_docs_examples() {
    let shown = in_the_page();
    assert!(shown.len() >= 5, "{:?}", shown.keys());
    let directory = root().join("docs/examples");
    let entries = std::fs::read_dir(&directory).expect("docs/examples");
    let mut files = BTreeMap::new();
    for entry in entries {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy();
        let text = std::fs::read_to_string(&path).expect("a text");
        files.insert(name.into_owned(), text);
    }
    assert_eq!(shown, files);
}

#[test]
fn kernels_of_the_examples_equal_the_interpreter() {
    for (name, text) in in_the_page() {
        let source = ModelSource::from_text(name.as_str(), text);
        let graph = compile(&source, &Overrides::default()).unwrap_or_else(|e| panic!("{e:?}"));
        for (mode, batch, times) in [
            (Mode::Auto, 3, &[37, 1, 65][..]),
            (Mode::Unfused, 1, &[65, 1, 3]),
            (Mode::Random(1), 3, &[2, 1, 300]),
        ] {
            let case = Case {
                name: &name,
                graph: &graph,
                storage: Storage::F32,
                mode,
                batch,
                times,
                bound: 5e-5,
            };
            common::check(&case).unwrap_or_else(|why| panic!("{why}"));
        }
    }
}
