//! `fusec models`: the models that are built in.

use fusec_ir::language::{Overrides, presets};
use fusec_ir::{Graph, OpKind};
use fusec_runtime::layout::{embedded, embedded_names, read_into};
use fusec_runtime::model::Model;
use serde::Serialize;

use crate::classes;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::model;
use crate::output::Output;
use crate::progress::Progress;
use crate::table::{count, wrapped};

/// Shows the models that are built in: what each is, its sizes, the class of each of its
/// recurrences, and the checkpoints that are read into it.
///
/// A checkpoint needs no model text; `fusec init NAME --from MODEL` writes one to change.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fusec models
  fusec models rwkv7
  fusec models --json | jq '.[].presets'")]
pub struct Args {
    /// Shows this one only.
    model: Option<String>,
}

#[derive(Serialize)]
struct Entry {
    model: &'static str,
    about: String,
    /// Parameters, without and with each preset.
    parameters: usize,
    presets: Vec<Preset>,
    recurrences: Vec<Recurrence>,
    /// Whether it has softmax attention.
    attention: bool,
    /// The `model_type` of the checkpoints that are read into it, or another kind of file.
    checkpoints: Vec<&'static str>,
}

#[derive(Serialize)]
struct Preset {
    name: String,
    parameters: usize,
}

#[derive(PartialEq, Serialize)]
struct Recurrence {
    name: String,
    state: String,
    class: &'static str,
}

/// Runs the verb.
pub fn run(args: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let names: Vec<&'static str> = match &args.model {
        None => embedded_names().collect(),
        Some(wanted) => vec![built_in(wanted)?],
    };
    let progress = Progress::new("counting parameters", names.len());
    let mut entries = Vec::new();
    for name in names {
        entries.push(entry(name)?);
        progress.step();
    }
    drop(progress);
    output.answer(&entries, || text(&entries))?;
    Ok(Exit::Success)
}

/// The built-in model of this name, as it is listed.
pub fn built_in(wanted: &str) -> Result<&'static str, Failure> {
    embedded_names()
        .find(|name| *name == wanted)
        .ok_or_else(|| {
            let known: Vec<&str> = embedded_names().collect();
            crate::failure::message(
                format!("there is no built-in model `{wanted}`"),
                format!("there are {}", known.join(", ")),
            )
        })
}

fn entry(name: &'static str) -> Result<Entry, Failure> {
    let sized = |preset: Option<String>| {
        let overrides = Overrides {
            preset,
            ..Overrides::default()
        };
        Model::built_in(name, &overrides).map_err(model::report)
    };
    let written = sized(None)?;
    let source = embedded(name).expect("it is listed");
    let mut sizes = Vec::new();
    for preset in presets(&source)? {
        let graph = sized(Some(preset.clone()))?.graph;
        sizes.push(Preset {
            name: preset,
            parameters: parameters(&graph),
        });
    }
    sizes.sort_by_key(|preset| preset.parameters);
    let mut recurrences: Vec<Recurrence> = Vec::new();
    for class in classes::of(&written.graph, &written.sources) {
        for (state, class_name) in class.states() {
            let found = Recurrence {
                name: class.recurrence().to_owned(),
                state: state.to_owned(),
                class: class_name,
            };
            if !recurrences.contains(&found) {
                recurrences.push(found);
            }
        }
    }
    let ops = &written.graph.ops;
    Ok(Entry {
        model: name,
        about: about(&source.text),
        parameters: parameters(&written.graph),
        presets: sizes,
        recurrences,
        attention: ops
            .iter()
            .any(|op| matches!(op.kind, OpKind::Attend { .. })),
        checkpoints: read_into(name),
    })
}

fn parameters(graph: &Graph) -> usize {
    let sizes = graph.params.iter().map(|p| graph.row_elements(p.value));
    sizes.sum()
}

/// The comment at the head of a text.
fn about(text: &str) -> String {
    let lines = text.lines().take_while(|line| line.starts_with('#'));
    let words: Vec<&str> = lines
        .map(|line| line.trim_start_matches('#').trim())
        .collect();
    words.join(" ")
}

fn text(entries: &[Entry]) -> String {
    let mut out = String::new();
    for entry in entries {
        out.push_str(&format!(
            "{}\n{}",
            entry.model,
            wrapped(&entry.about, 2, 96)
        ));
        for recurrence in &entry.recurrences {
            out.push_str(&format!(
                "    recurrence   {} (state {}): {}\n",
                recurrence.name, recurrence.state, recurrence.class
            ));
        }
        if entry.attention {
            out.push_str("    attention    over a window\n");
        }
        let mut sizes = vec![format!("as written {}", count(entry.parameters as f64))];
        let presets = entry.presets.iter();
        sizes.extend(presets.map(|p| format!("{} {}", p.name, count(p.parameters as f64))));
        out.push_str(&format!("    parameters   {}\n", sizes.join(", ")));
        if !entry.checkpoints.is_empty() {
            out.push_str(&format!(
                "    checkpoints  {}\n",
                entry.checkpoints.join(", ")
            ));
        }
        out.push('\n');
    }
    out.push_str(
        "sizes are presets: --preset NAME; checkpoints by model_type of their config.json\n",
    );
    out
}
