//! What a model is run on: read from a file in which nothing is passed over, or drawn.

use std::path::Path;

use fusec_fuse::Shape;
use fusec_ir::interpret::Input;
use fusec_ir::{Graph, Precision};
use fusec_runtime::checkpoint::Checkpoint;
use fusec_runtime::golden;
use fusec_runtime::verify;

use crate::failure::{self, Failure};

/// The name under which tokenizers give token ids.
const IDS: &str = "input_ids";
/// The name under which tokenizers say which tokens are padding: 0.
const MASK: &str = "attention_mask";

/// An input of the model.
pub enum Given {
    /// Token ids.
    Ids(Vec<i32>),
    /// Numbers.
    Numbers(Vec<f32>),
}

impl Given {
    /// As a session takes it.
    pub fn input(&self) -> Input<'_, f32> {
        match self {
            Given::Ids(ids) => Input::Ids(ids),
            Given::Numbers(numbers) => Input::Numbers(numbers),
        }
    }
}

/// Random tokens of a shape.
pub fn random(graph: &Graph, shape: Shape, seed: u64) -> Result<Vec<Given>, Failure> {
    let vocabulary = verify::vocabulary(graph).map_err(|_| {
        failure::message(
            format!("`{}` does not take token ids alone", graph.name),
            "give its inputs with --input FILE",
        )
    })?;
    let count = shape.batch.saturating_mul(shape.time);
    let ids = verify::tokens(seed, count, vocabulary);
    let ids = ids.into_iter().filter_map(|id| i32::try_from(id).ok());
    Ok(vec![Given::Ids(ids.collect())])
}

/// Reads every input of the model; they have to agree on B and T, and nothing else may be there.
pub fn read(graph: &Graph, path: &Path) -> Result<(Shape, Vec<Given>), Failure> {
    let file = Checkpoint::open(path).map_err(failure::input)?;
    let mut shape: Option<Shape> = None;
    let mut given = Vec::new();
    let mut known = Vec::new();
    for id in &graph.inputs {
        let value = graph.value(*id);
        let is_ids = value.precision == Precision::Index;
        let alone = is_ids && graph.inputs.len() == 1;
        let name = match file.has(&value.name) {
            false if alone && file.has(IDS) => IDS,
            _ => value.name.as_str(),
        };
        known.push(name);
        if is_ids {
            let ids = file.read_i64(name).map_err(failure::input)?;
            let narrow = ids
                .iter()
                .map(|id| i32::try_from(*id))
                .collect::<Result<_, _>>();
            given.push(Given::Ids(narrow.map_err(|_| {
                failure::message(
                    format!("{}: '{name}' holds ids beyond 32 bits", path.display()),
                    "token ids are indices into the embedding table",
                )
            })?));
        } else {
            let numbers = file.read_f32(name).map_err(failure::input)?;
            given.push(Given::Numbers(numbers));
        }
        let extents = extents(&file, name);
        let [batch, time, ..] = extents[..] else {
            let expected = "[batch, time, ...]".into();
            return Err(wrong_shape(path, name, &extents, expected));
        };
        let first = *shape.get_or_insert(Shape { batch, time });
        if (first.batch, first.time) != (batch, time) {
            let expected = format!("[{}, {}, ...] as the first input", first.batch, first.time);
            return Err(wrong_shape(path, name, &extents, expected));
        }
    }
    let Some(shape) = shape else {
        return Err(failure::message(
            format!("`{}` has no inputs", graph.name),
            "run it without --input",
        ));
    };
    if file.has(MASK) && !known.contains(&MASK) {
        check_mask(&file, path, shape)?;
        known.push(MASK);
    }
    // The record of a golden case has inputs among its tensors.
    if golden::TENSORS.iter().all(|name| file.has(name)) {
        known.extend(golden::TENSORS);
    }
    let unknown: Vec<&str> = file.names().filter(|name| !known.contains(name)).collect();
    match unknown[..] {
        [] => Ok((shape, given)),
        _ => Err(not_inputs(graph, path, &unknown)),
    }
}

/// Refuses a mask that masks anything: recurrences and shifts would run through the padding.
fn check_mask(file: &Checkpoint, path: &Path, shape: Shape) -> Result<(), Failure> {
    let got = extents(file, MASK);
    if got != [shape.batch, shape.time] {
        let expected = format!("[{}, {}] as the token ids", shape.batch, shape.time);
        return Err(wrong_shape(path, MASK, &got, expected));
    }
    let mask = file.read_f64(MASK).map_err(failure::input)?;
    for (row, tokens) in mask.chunks(shape.time.max(1)).enumerate() {
        let masked = tokens.iter().filter(|token| **token != 1.0).count();
        if masked == 0 {
            continue;
        }
        let at_front = tokens.iter().take_while(|token| **token != 1.0).count() == masked;
        let at_end = tokens
            .iter()
            .rev()
            .take_while(|token| **token != 1.0)
            .count()
            == masked;
        let place = match (at_front, at_end) {
            (true, true) => "all of its tokens".into(),
            (true, false) => format!("{masked} tokens at its front"),
            (false, true) => format!("{masked} tokens at its end"),
            (false, false) => format!("{masked} of its {} tokens", tokens.len()),
        };
        return Err(failure::message(
            format!(
                "{}: '{MASK}' masks {place} in row {row}, and padding is not implemented",
                path.display()
            ),
            "give rows of one length without padding: one run for each length, or one row at a \
             time; what a run leaves goes on with --state-out and --state-in",
        ));
    }
    Ok(())
}

/// The refusal of tensors that the model does not take.
fn not_inputs(graph: &Graph, path: &Path, unknown: &[&str]) -> Failure {
    let names: Vec<String> = unknown.iter().map(|name| format!("'{name}'")).collect();
    let packed = |name: &&str| name.starts_with("cu_seqlens") || *name == "seq_idx";
    let help = if unknown.iter().any(packed) {
        "packed sequences are not implemented: give each sequence as a row of its own, those of \
         one length together"
            .to_string()
    } else {
        let inputs = graph.inputs.iter().map(|id| graph.value(*id).name.clone());
        let inputs: Vec<String> = inputs.map(|name| format!("`{name}`")).collect();
        format!("leave them out: its inputs are {}", inputs.join(", "))
    };
    let message = format!(
        "{}: {} {} no input of `{}`",
        path.display(),
        names.join(", "),
        if names.len() == 1 { "is" } else { "are" },
        graph.name
    );
    failure::message(message, help)
}

fn extents(file: &Checkpoint, name: &str) -> Vec<usize> {
    let view = file.tensor(name);
    view.map(|view| view.shape.to_vec()).unwrap_or_default()
}

fn wrong_shape(path: &Path, name: &str, got: &[usize], expected: String) -> Failure {
    failure::message(
        format!("{}: '{name}' has shape {got:?}", path.display()),
        format!("expected {expected}"),
    )
}
