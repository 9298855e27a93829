//! The class of a recurrence follows from its equations, however they are written.

mod decays;
mod steps;

use fusec_ir::class::{classify, log_decay};
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::{OpId, OpKind};

/// Every recurrence of the zoo has a class, which follows from its text.
#[test]
fn zoo() {
    let dir = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models");
    let mut files: Vec<_> = std::fs::read_dir(&dir)
        .expect("the models are in the repository")
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    files.sort();
    let mut known = Vec::new();
    for path in &files {
        let source = ModelSource::from_path(path).expect("a model");
        let graph = match compile(&source, &Overrides::default()) {
            Ok(graph) => graph,
            Err(error) => panic!("{path:?}: {:?}", miette::Report::new(error)),
        };
        for (i, recurrence) in graph.recurrences.iter().enumerate() {
            let found = classify(&graph, recurrence);
            let scan = graph.ops.iter().position(
                |op| matches!(op.kind, OpKind::Scan { recurrence, .. } if recurrence.index() == i),
            );
            let at = OpId(scan.expect("a recurrence is used") as u32);
            for (k, class) in found.states.iter().enumerate() {
                let log = match log_decay(&graph, at, &found, k) {
                    Ok(log) => match log.lowest {
                        Some(low) => format!("log decay in [{low:.5}, 0]"),
                        None => "log decay at most 0".to_owned(),
                    },
                    Err(why) => format!("no log decay: {why}"),
                };
                let sentence = &found.sentences(&graph, recurrence)[k];
                let line = format!("{}: {}, {sentence}; {log}", recurrence.name, class.name());
                // As a whole: by components a mean's sums are classes of their own, and its division a map.
                let by_components = ["weighted_mean", "mlstm"].contains(&recurrence.name.as_str());
                assert!(by_components || class.name() != "general", "{line}");
                if !known.contains(&line) {
                    known.push(line);
                }
            }
        }
    }
    known.sort();
    insta::assert_snapshot!("classes_of_the_zoo", known.join("\n"));
}
