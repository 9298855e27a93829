//! Small models as texts, and what they compute of made-up numbers.

use fusec_ir::interpret::{Input, Interpreter, Keep, State};
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::{Graph, ValueId};
use std::collections::BTreeMap;

/// Tokens of a run.
const T: usize = 5;

/// The graph of a text, or the report of what is wrong with it.
pub fn graph(file: &str, text: &str) -> Result<Graph, String> {
    let source = ModelSource::from_text(file, text.to_owned());
    let compiled = compile(&source, &Overrides::default());
    compiled.map_err(|error| format!("{:?}", miette::Report::new(error)))
}

/// The first output of a model of one input, in f64.
pub fn output(graph: &Graph) -> Vec<f64> {
    let numbers = |n: usize| (0..n).map(|i| ((i * 37 + 11) % 101) as f64 / 50.0 - 1.0);
    let sizes = graph
        .params
        .iter()
        .map(|p| graph.elements(&graph.value(p.value).axes));
    let params = sizes.map(|n| numbers(n).collect()).collect();
    let interpreter = Interpreter::<f64>::new(graph, params).expect("parameters that fit");
    let input = graph.inputs[0];
    let x: Vec<f64> = numbers(T * graph.row_elements(input)).collect();
    let inputs: BTreeMap<ValueId, Input<'_, f64>> =
        [(input, Input::Numbers(&x))].into_iter().collect();
    let mut state = State::zero(graph, 1);
    let out = interpreter.run(&mut state, 1, T, &inputs, Keep::Outputs);
    let out = out.unwrap_or_else(|e| panic!("{e}"));
    let values = out.values[&graph.outputs[0]].numbers();
    values.expect("numbers").to_vec()
}
