//! The models of the zoo are planned, fused, and quickly.

mod common;

use common::{h200, model, models, options, zoo};
use fusec_fuse::forms::Aim;
use fusec_fuse::{Mode, Planned, Shape, Storage, forms, launches_per_layer, plan};
use fusec_ir::interpret::{Input, Interpreter, Keep, State};
use fusec_ir::language::{ModelSource, presets};
use fusec_ir::{Graph, Precision, ValueId};
use std::collections::BTreeMap;

fn planned(graph: &Graph, batch: usize, time: usize, mode: Mode) -> Planned {
    let device = h200();
    match plan(graph, &options(&device, batch, time, mode)) {
        Ok(planned) => planned,
        Err(error) => panic!("{}: {error}", graph.name),
    }
}

#[test]
fn every_model_is_planned_in_every_mode_and_gets_fewer_launches() {
    for name in zoo() {
        let graph = model(&name, None);
        for (batch, time) in [(1, 1), (1, 2048), (8, 2048)] {
            let unfused = planned(&graph, batch, time, Mode::Unfused);
            let start = std::time::Instant::now();
            let auto = planned(&graph, batch, time, Mode::Auto);
            println!("{name} B={batch} T={time}: {:?}\n{auto}", start.elapsed());
            let greedy = planned(&graph, batch, time, Mode::Greedy);
            println!("greedy {:.1} us", greedy.plan.total_us);
            // Form 0 of every model is the model as written; seeds pick forms in turn.
            let mut random = (0..3).map(|seed| planned(&graph, batch, time, Mode::Random(seed)));
            assert!(
                launches_per_layer(&auto.plan) < launches_per_layer(&unfused.plan),
                "{name}"
            );
            assert!(auto.plan.total_us <= greedy.plan.total_us + 0.1, "{name}");
            assert!(auto.plan.total_us < unfused.plan.total_us, "{name}");
            assert!(
                random.any(|p| p.plan.kernels.len() < unfused.plan.kernels.len()),
                "{name}"
            );
        }
    }
}

/// What a graph computes in f64 from fixed token ids and parameters: a prefill and a step.
fn outputs(graph: &Graph) -> Vec<f64> {
    let numbers = |seed: usize, n: usize| -> Vec<f64> {
        (0..n)
            .map(|i| (((seed * 7919 + i * 104_729) % 2003) as f64 / 1001.5 - 1.0) * 0.5)
            .collect()
    };
    let params = (0..graph.params.len())
        .map(|i| numbers(i, graph.row_elements(graph.params[i].value)))
        .collect();
    let interpreter = Interpreter::<f64>::new(graph, params).expect("a sound graph");
    let mut state = State::zero(graph, 2);
    let mut out = vec![];
    for (run, time) in [6, 1].into_iter().enumerate() {
        let ids: Vec<i32> = (0..2 * time).map(|i| ((i * 5 + run) % 7) as i32).collect();
        let inputs: BTreeMap<ValueId, Input<'_, f64>> = graph
            .inputs
            .iter()
            .map(|v| (*v, Input::Ids(&ids)))
            .collect();
        let got = interpreter
            .run(&mut state, 2, time, &inputs, Keep::Outputs)
            .expect("a run");
        for v in &graph.outputs {
            out.extend(got.values[v].numbers().expect("numbers"));
        }
    }
    out
}

#[test]
fn every_form_of_every_model_computes_the_same() {
    for name in zoo() {
        let path = models().join(format!("{name}.toml"));
        let source = ModelSource::from_path(&path).expect("a model of the repository");
        let has_tiny = presets(&source).is_ok_and(|p| p.iter().any(|p| p == "tiny"));
        let graph = model(&name, has_tiny.then_some("tiny"));
        let takes_ids = |v: &ValueId| graph.value(*v).precision == Precision::Index;
        if !graph.inputs.iter().all(takes_ids) {
            continue;
        }
        let expected = outputs(&graph);
        let scale = expected.iter().fold(0f64, |m, x| m.max(x.abs()));
        assert!(scale > 0.0 && scale.is_finite(), "{name}");
        let (step, long) = (Shape { batch: 1, time: 1 }, Shape { batch: 8, time: 64 });
        let mut graph = graph;
        for (storage, shape, zeros) in [(Storage::F32, step, 0.5), (Storage::Bf16, long, 0.0)] {
            graph.zeros = zeros;
            let aim = Aim::of(&graph, shape, storage);
            let (found, _) = forms::enumerate(&graph, aim).expect("forms");
            for form in found {
                let got = outputs(&form.graph);
                let worst = expected
                    .iter()
                    .zip(&got)
                    .fold(0f64, |m, (a, b)| m.max((a - b).abs()));
                assert!(worst <= 1e-9 * scale, "{name} {:?}: {worst}", form.rules);
            }
        }
    }
}
