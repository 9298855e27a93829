//! What the planner makes of the recurrences of tests/recurrences/ at the sizes of models: which classes
//! the components have, and which kernels they become.

use fusec_fuse::{Device, Mode, Options, Planned, Shape, Storage, Submit, plan};
use fusec_ir::components::separate;
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::{Class, Graph, OpKind, classify};
use std::fmt::Write;
use std::path::PathBuf;

fn all() -> Vec<(String, Graph)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/recurrences");
    let mut out: Vec<(String, Graph)> = Vec::new();
    for entry in std::fs::read_dir(directory).expect("the recurrences") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy();
        let source = ModelSource::from_path(&path).expect("a model");
        let sizes = [("H", 8), ("J", 128), ("I", 128), ("C", 2048)];
        let text = std::fs::read_to_string(&path).expect("a text");
        let there = |axis: &&(&str, usize)| text.contains(&format!("\n{} = ", axis.0));
        let overrides = Overrides {
            axes: sizes
                .iter()
                .filter(there)
                .map(|(axis, size)| ((*axis).to_owned(), *size))
                .collect(),
            ..Overrides::default()
        };
        let graph = compile(&source, &overrides).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        out.push((name.into_owned(), graph));
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    out
}

fn planned(graph: &Graph, batch: usize, time: usize) -> Planned {
    let device = Device::find("h200").expect("a device");
    let options = Options {
        shape: Shape { batch, time },
        storage: Storage::Bf16,
        mode: Mode::Auto,
        device: &device,
        launch: Submit::Graph,
        pins: vec![],
    };
    plan(graph, &options).unwrap_or_else(|e| panic!("{}: {e}", graph.name))
}

/// State and class of every component.
fn classes(graph: &Graph) -> String {
    let mut out = Vec::new();
    let apart = separate(graph, |_| true);
    for op in &apart.ops {
        if let OpKind::Scan { recurrence, .. } = &op.kind {
            let step = apart.recurrence(*recurrence);
            let found = classify(&apart, step);
            let states = step.states.iter().zip(&found.states);
            out.extend(
                states.map(|(state, class)| format!("{} {}", state.name, Class::name(class))),
            );
        }
    }
    out.join(", ")
}

fn kernels(planned: &Planned) -> String {
    let of = |kernel: &fusec_fuse::Kernel| {
        let phases = kernel.phases.iter().map(|phase| {
            let lanes = phase.lanes.iter().map(|lane| lane.template().to_string());
            lanes.collect::<Vec<_>>().join(" beside ")
        });
        phases.collect::<Vec<_>>().join(" then ")
    };
    let kernels = planned.plan.kernels.iter().map(of);
    kernels.collect::<Vec<_>>().join(", ")
}

#[test]
fn recurrences_become_the_kernels_expected() {
    let mut text = String::new();
    for (name, graph) in all() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}: {}", classes(&graph));
        for (batch, time) in [(8, 2048), (1, 1)] {
            let planned = planned(&graph, batch, time);
            let tried = &planned.decisions.forms;
            let whole = tried.iter().find(|form| form.rules.is_empty());
            let total = planned.plan.total_us;
            let whole = match whole {
                Some(form) => {
                    let whole = form.total_us;
                    // Kernels are selected by whole nanoseconds.
                    assert!(total <= whole + 0.01, "{name}: {total}, whole {whole}");
                    format!("whole {whole:.1} us")
                }
                None => "whole none".to_owned(),
            };
            let _ = writeln!(
                text,
                "    B{batch} T{time}: {:.1} us, {whole}: {}{}",
                total,
                kernels(&planned),
                match planned.plan.forms.is_empty() {
                    true => String::new(),
                    false => format!(" by {}", planned.plan.forms.join(", ")),
                }
            );
        }
    }
    insta::assert_snapshot!("components", text);
}
