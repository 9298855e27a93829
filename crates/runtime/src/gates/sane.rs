//! G1: outputs have their shape, are finite, and come out the same token by token.

use super::equal::accepted_apart;
use super::{Gate, GateError, Verdict, scientific};
use crate::inputs::{Data, RunInputs};
use crate::session::{Session, SessionError, run_finite};
use fusec_fuse::{Shape, Storage};
use fusec_ir::interpret::Tensor;

/// Runs `shape` of random inputs at once; then all but the last token, and the last from the state that
/// this leaves, which may differ as two plans may. `with` says which weights these are. A value that is not finite fails the gate and is
/// named.
pub fn sane(
    session: &mut dyn Session,
    shape: Shape,
    seed: u64,
    with: &str,
    storage: Storage,
) -> Result<Gate, GateError> {
    let gate = |verdict, figure: String, details| Gate {
        gate: "G1",
        asks: "the forward pass is sane",
        verdict,
        figure,
        details,
    };
    let Shape { batch, time } = shape;
    session.reset(batch)?;
    let inputs = RunInputs::random(session.graph(), shape, seed);
    let outputs = match run_finite(session, time, &inputs.given()) {
        Ok(outputs) => outputs,
        Err(SessionError::NonFinite(found)) => {
            let figure = format!("with {with}, a number that is not finite: {found}");
            return Ok(gate(Verdict::Fail, figure, vec![]));
        }
        Err(error) => return Err(error.into()),
    };
    let graph = session.graph();
    let mut wrong = Vec::new();
    for (id, output) in graph.outputs.iter().zip(&outputs) {
        let want = batch * time * graph.row_elements(*id);
        let got = output.numbers().map_or(0, <[f32]>::len);
        if got != want {
            let name = &graph.value(*id).name;
            wrong.push(format!("`{name}` has {got} numbers, expected {want}"));
        }
    }
    if outputs.len() != graph.outputs.len() {
        wrong.push(format!(
            "{} outputs, expected {}",
            outputs.len(),
            graph.outputs.len()
        ));
    }
    if !wrong.is_empty() {
        return Ok(gate(
            Verdict::Fail,
            "outputs of another shape".into(),
            wrong,
        ));
    }
    let largest = magnitude(&outputs);
    let mut apart = 0.0f64;
    if time > 1 {
        let last = rows(session, &inputs, shape, time - 1, 1);
        let before = rows(session, &inputs, shape, 0, time - 1);
        session.reset(batch)?;
        session.run(time - 1, &before.given())?;
        let stepped = session.run(1, &last.given())?;
        for (whole, step) in outputs.iter().zip(&stepped) {
            let (Some(whole), Some(step)) = (whole.numbers(), step.numbers()) else {
                continue;
            };
            let width = step.len() / batch;
            let ends = whole.chunks(width * time);
            let ends = ends.filter_map(|row| row.get(width * (time - 1)..));
            for (end, step) in ends.zip(step.chunks(width)) {
                let differences = end.iter().zip(step).map(|(a, b)| f64::from((a - b).abs()));
                apart = differences.fold(apart, f64::max);
            }
        }
    }
    let accepted = accepted_apart(storage);
    let relative = apart / largest.max(f64::MIN_POSITIVE);
    let figure = format!(
        "with {with}, {} finite, largest {largest:.3}; last token from a carried state {} \
         apart, accepted {accepted:.0e}",
        outputs
            .iter()
            .filter_map(Tensor::numbers)
            .map(<[f32]>::len)
            .sum::<usize>(),
        scientific(relative),
    );
    Ok(match relative <= accepted {
        true => gate(Verdict::Pass, figure, vec![]),
        false => gate(Verdict::Fail, figure, vec![]),
    })
}

fn magnitude(outputs: &[Tensor<f32>]) -> f64 {
    let numbers = outputs.iter().filter_map(Tensor::numbers).flatten();
    numbers.fold(0.0, |most: f64, x| most.max(f64::from(x.abs())))
}

/// Some tokens of each sequence of inputs.
pub(crate) fn rows(
    session: &dyn Session,
    inputs: &RunInputs,
    shape: Shape,
    from: usize,
    count: usize,
) -> RunInputs {
    fn cut<T: Copy>(all: &[T], shape: Shape, from: usize, count: usize) -> Vec<T> {
        let width = all.len() / (shape.batch * shape.time).max(1);
        let sequences = all.chunks((width * shape.time).max(1));
        let parts = sequences.filter_map(|row| row.get(width * from..width * (from + count)));
        parts.flatten().copied().collect()
    }
    let graph = session.graph();
    let data = inputs.data().iter().zip(&graph.inputs);
    RunInputs::new(
        data.map(|(data, id)| match (data, graph.value(*id).rows) {
            (Data::Numbers(all), true) => Data::Numbers(cut(all, shape, from, count)),
            (Data::Ids(all), true) => Data::Ids(cut(all, shape, from, count)),
            (whole, false) => whole.clone(),
        })
        .collect(),
    )
}
