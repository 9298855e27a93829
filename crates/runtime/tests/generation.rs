//! What a model goes on with: the same tokens on every device and under every plan, alone and in a
//! batch, and after thousands of steps what one long run gives.

use fusec_fuse::{Mode, Shape, Storage};
use fusec_ir::Graph;
use fusec_ir::interpret::{Input, Tensor};
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::last_row::only_last_rows;
use fusec_runtime::cpu::CpuSession;
use fusec_runtime::generation::{Draw, Ended, Flow, GenerateError, Generated, Request, generate};
use fusec_runtime::inputs::RunInputs;
use fusec_runtime::long_run::{long_run, repeated};
use fusec_runtime::sampling::Sampling;
use fusec_runtime::session::Session;
use fusec_runtime::weights::Weights;

use common::{Case, emulate_drawing, root};

mod common;

const GREEDY: Sampling = Sampling {
    temperature: 0.0,
    top_k: 0,
    top_p: 1.0,
    repetition_penalty: 1.0,
    seed: 0,
};

fn model(file: &str, axes: &[(&str, usize)]) -> Graph {
    let source = ModelSource::from_path(&root().join("models").join(file)).expect("a model file");
    let overrides = Overrides {
        axes: axes.iter().map(|(n, s)| (n.to_string(), *s)).collect(),
        ..Overrides::default()
    };
    compile(&source, &overrides).unwrap_or_else(|e| panic!("{file}: {e:?}"))
}

fn rwkv6() -> Graph {
    let axes = [
        ("V", 64),
        ("L", 1),
        ("H", 2),
        ("N", 32),
        ("R", 8),
        ("Rd", 16),
    ];
    model("rwkv6.toml", &axes)
}

fn mamba2() -> Graph {
    let axes = [
        ("V", 64),
        ("L", 1),
        ("C", 64),
        ("Hg", 4),
        ("P", 32),
        ("Ns", 32),
    ];
    model("mamba2.toml", &axes)
}

fn weights(graph: &Graph) -> Weights {
    Weights::random(graph, 7).expect("weights")
}

fn request(prompts: &[&[i32]], tokens: usize, sampling: Sampling) -> Request {
    Request {
        prompts: prompts.iter().map(|prompt| prompt.to_vec()).collect(),
        tokens,
        sampling,
        ends: Vec::new(),
        state: None,
        keep_state: false,
        draw: Draw::Device,
    }
}

fn run(session: &mut dyn Session, request: &Request) -> Generated {
    generate(session, request, &mut |_, _| Flow::On).expect("it goes on")
}

fn on_cpu(graph: &Graph, request: &Request) -> Generated {
    let mut session = CpuSession::<f32>::new(graph, weights(graph)).expect("a session");
    run(&mut session, request)
}

#[test]
fn tokens_are_equal_on_the_interpreter_and_under_every_plan() {
    let drawn = Sampling {
        temperature: 0.9,
        top_k: 20,
        top_p: 0.9,
        repetition_penalty: 1.1,
        seed: 5,
    };
    const ALL: &[Mode] = &[Mode::Unfused, Mode::Greedy, Mode::Auto, Mode::Random(1)];
    let cases = [
        ("rwkv6", rwkv6(), ALL),
        ("mamba2", mamba2(), &[Mode::Unfused, Mode::Auto][..]),
    ];
    for (name, graph, modes) in cases {
        let last = only_last_rows(&graph);
        for sampling in [GREEDY, drawn] {
            let request = request(&[&[3, 1, 4, 1, 5], &[9, 2, 6]], 20, sampling);
            let expected = on_cpu(&graph, &request).sequences;
            assert_eq!(on_cpu(&last, &request).sequences, expected, "{name} last");
            for mode in modes {
                let case = Case {
                    name,
                    graph: &last,
                    storage: Storage::F32,
                    mode: *mode,
                    batch: 2,
                    times: &[5],
                    bound: 0.0,
                };
                let weights = weights(&graph);
                let mut session = emulate_drawing(&case, &weights, 64).expect("kernels");
                let got = run(&mut session, &request);
                assert!(got.drawn_on_device);
                assert_eq!(got.sequences, expected, "{name} {mode} {sampling:?}");
            }
        }
    }
}

#[test]
fn a_batch_gives_what_each_prompt_gives_alone() {
    let prompts: [&[i32]; 4] = [&[1, 2, 3], &[7], &[4, 5, 6], &[8, 9, 10, 11, 12]];
    let retnet = model("retnet.toml", &[("V", 64), ("L", 1)]);
    for graph in [rwkv6(), retnet] {
        let sampling = Sampling {
            seed: 2,
            temperature: 1.5,
            ..GREEDY
        };
        let together = on_cpu(&graph, &request(&prompts, 12, sampling));
        let mut ends = request(&prompts, 12, sampling);
        // A token that some sequence has, and some have not at the same place.
        ends.ends = vec![together.sequences[1].tokens[4]];
        let ended = on_cpu(&graph, &ends);
        for (number, sequence) in together.sequences.iter().enumerate() {
            let greedy = request(&[prompts[number]], 12, GREEDY);
            let alone = on_cpu(&graph, &greedy).sequences;
            let batch = on_cpu(&graph, &request(&prompts, 12, GREEDY)).sequences;
            assert_eq!(batch[number], alone[0], "{} {number}", graph.name);
            let until = sequence
                .tokens
                .iter()
                .position(|token| *token == ends.ends[0]);
            let expected = &sequence.tokens[..until.unwrap_or(12)];
            assert_eq!(
                ended.sequences[number].tokens, expected,
                "{} {number}",
                graph.name
            );
            let why = if until.is_some() {
                Ended::End
            } else {
                Ended::Length
            };
            assert_eq!(ended.sequences[number].ended, why);
        }
    }
}

/// Sequences that end between two looks, at a token or a text, and a batch that becomes smaller: what a
/// device draws beyond an end is left out. Then the state is kept, and the host draws.
#[test]
fn a_device_draws_what_the_host_draws() {
    let graph = rwkv6();
    let last = only_last_rows(&graph);
    let case = Case {
        name: "rwkv6",
        graph: &last,
        storage: Storage::F32,
        mode: Mode::Auto,
        batch: 2,
        times: &[5],
        bound: 0.0,
    };
    let mut session = emulate_drawing(&case, &weights(&graph), 64).expect("kernels");
    let sampling = Sampling {
        temperature: 1.3,
        top_k: 30,
        top_p: 0.95,
        repetition_penalty: 1.2,
        seed: 4,
    };
    let prompts: [&[i32]; 4] = [&[1, 2, 3], &[7], &[4, 5, 6], &[8, 9, 10, 11, 12]];
    let mut asked = request(&prompts, 20, sampling);
    let whole = on_cpu(&graph, &asked);
    asked.ends = vec![whole.sequences[0].tokens[4]];
    let ask = |session: &mut dyn Session, asked: &Request| {
        let mut shown = Vec::new();
        let generated = generate(session, asked, &mut |number, token| {
            shown.push((number, token));
            let of = shown.iter().filter(|(other, _)| *other == number);
            match (number, of.count()) {
                (1, 9) => Flow::Stop,
                _ => Flow::On,
            }
        });
        let generated = generated.expect("it goes on");
        shown.sort_by_key(|(number, _)| *number);
        (generated, shown)
    };
    let mut cpu = CpuSession::<f32>::new(&graph, weights(&graph)).expect("a session");
    let (expected, expected_shown) = ask(&mut cpu, &asked);
    assert!(!expected.drawn_on_device);
    for draw in [Draw::Device, Draw::Host] {
        asked.draw = draw;
        let (got, shown) = ask(&mut session, &asked);
        assert_eq!(got.drawn_on_device, draw == Draw::Device);
        assert_eq!(got.sequences, expected.sequences);
        assert_eq!(shown, expected_shown);
        assert_eq!(got.decode.tokens, expected.decode.tokens);
    }
    let mut kept = request(&[&[3, 1, 4]], 9, sampling);
    kept.keep_state = true;
    let expected = on_cpu(&graph, &kept);
    let got = run(&mut session, &kept);
    assert_eq!(got.sequences, expected.sequences);
    let (got, expected) = (got.state.expect("kept"), expected.state.expect("kept"));
    assert_eq!(got.position, expected.position);
    for (id, expected) in &expected.tensors {
        let apart = expected.iter().zip(&got.tensors[id]);
        let apart = apart.fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(apart <= 1e-4, "{}: {apart}", graph.state(*id).name);
    }
}

/// Kernels for single steps against kernels for runs, and against themselves.
#[test]
fn steps_of_kernels_agree_with_runs_and_with_themselves() {
    let graph = mamba2();
    let case = Case {
        name: "mamba2",
        graph: &graph,
        storage: Storage::Bf16,
        mode: Mode::Auto,
        batch: 2,
        times: &[32],
        bound: 0.0,
    };
    let mut session = emulate_drawing(&case, &weights(&graph), 64).expect("kernels");
    let shape = Shape {
        batch: 2,
        time: 120,
    };
    let inputs = RunInputs::random(&graph, shape, 3);
    let mut runs = 0;
    let run = long_run(&mut session, &inputs, shape, 32, &mut || runs += 1).expect("it runs");
    let marks: Vec<usize> = run.marks.iter().map(|mark| mark.tokens).collect();
    assert_eq!(marks, [10, 20, 50, 100, 120]);
    assert!(run.passed(), "{run:?}");
    assert!(run.marks.iter().all(|mark| mark.output < 0.03), "{run:?}");
    let shape = Shape { batch: 2, time: 5 };
    let inputs = RunInputs::random(&graph, shape, 3);
    let repeated = repeated(&mut session, &inputs, shape, 6, &mut || ()).expect("it runs");
    assert_eq!((repeated.times, repeated.differing), (6, 0), "{repeated:?}");
}

/// Thousands of steps, each from the state of the one before, end where one run over the same tokens
/// ends.
#[test]
fn steps_do_not_drift_from_one_long_run() {
    const STEPS: usize = 4000;
    for graph in [
        rwkv6(),
        mamba2(),
        model("rwkv7.toml", &[("V", 64), ("L", 1), ("H", 1), ("N", 32)]),
    ] {
        let sampling = Sampling {
            temperature: 1.0,
            seed: 11,
            ..GREEDY
        };
        let mut request = request(&[&[1, 2, 3, 4]], STEPS, sampling);
        request.keep_state = true;
        let generated = on_cpu(&graph, &request);
        assert_eq!(generated.decode.tokens, STEPS - 1);
        let mut ids = request.prompts[0].clone();
        ids.extend(&generated.sequences[0].tokens);
        let mut session = CpuSession::<f32>::new(&graph, weights(&graph)).expect("a session");
        session.reset(1).expect("a state");
        session
            .run_last(ids.len(), &[Input::Ids(&ids)])
            .expect("it runs");
        let (stepped, whole) = (
            generated.state.expect("kept"),
            session.state().expect("a state"),
        );
        assert_eq!(stepped.position, ids.len() as i64);
        assert_eq!(whole.position, stepped.position);
        for (id, whole) in &whole.tensors {
            let scale = whole.iter().fold(1e-3f32, |m, x| m.max(x.abs()));
            let stepped = &stepped.tensors[id];
            let apart = whole
                .iter()
                .zip(stepped)
                .fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            let name = &graph.state(*id).name;
            assert!(
                apart <= 2e-4 * scale,
                "{} {name}: {apart} of {scale}",
                graph.name
            );
        }
        // And so do the logits of what comes next.
        let next = |session: &mut CpuSession<'_, f32>| -> Vec<f32> {
            let outputs = session.run(1, &[Input::Ids(&[5])]).expect("it runs");
            outputs
                .first()
                .and_then(Tensor::numbers)
                .expect("logits")
                .to_vec()
        };
        let of_whole = next(&mut session);
        session.set_state(&stepped).expect("a state");
        let of_steps = next(&mut session);
        let apart = of_whole
            .iter()
            .zip(&of_steps)
            .fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        let scale = of_whole.iter().fold(0f32, |m, x| m.max(x.abs()));
        assert!(
            apart <= 2e-4 * scale,
            "{}: logits {apart} of {scale}",
            graph.name
        );
    }
}

#[test]
fn a_prompt_longer_than_a_run_is_read_in_several() {
    let graph = rwkv6();
    let prompt: Vec<i32> = (0..2500).map(|i| i * 7 % 64).collect();
    let got = on_cpu(&graph, &request(&[&prompt], 5, GREEDY));
    assert_eq!(got.prefill.tokens, 2500);
    let mut session = CpuSession::<f32>::new(&graph, weights(&graph)).expect("a session");
    session.reset(1).expect("a state");
    let logits = session
        .run_last(2500, &[Input::Ids(&prompt)])
        .expect("it runs");
    let logits = logits[0].numbers().expect("logits");
    let best = GREEDY.next(logits, &[], 0, 0).expect("a token");
    assert_eq!(got.sequences[0].tokens[0], best as i32);
}

#[test]
fn what_cannot_go_on_says_why() {
    let graph = rwkv6();
    let mut session = CpuSession::<f32>::new(&graph, weights(&graph)).expect("a session");
    let mut fails = |request: &Request| -> GenerateError {
        generate(&mut session, request, &mut |_, _| Flow::On).expect_err("it is refused")
    };
    let empty = fails(&request(&[&[1], &[]], 3, GREEDY));
    assert!(
        empty.to_string().contains("prompt 1 has no tokens"),
        "{empty}"
    );
    let mut two = request(&[&[1], &[2]], 3, GREEDY);
    two.keep_state = true;
    assert!(fails(&two).to_string().contains("2 were given"));
    let wrong = Sampling {
        top_p: 2.0,
        ..GREEDY
    };
    assert!(
        fails(&request(&[&[1]], 3, wrong))
            .to_string()
            .contains("top-p is 2")
    );
    let scan = model("gated-scan.toml", &[]);
    let mut session = CpuSession::<f32>::new(&scan, weights(&scan)).expect("a session");
    let none = generate(&mut session, &request(&[&[1]], 3, GREEDY), &mut |_, _| {
        Flow::On
    });
    assert!(
        none.expect_err("no tokens")
            .to_string()
            .contains("is no language model")
    );
}
