//! What a model goes on with: the same tokens on every device and under every plan, alone and in a
//! batch, and after thousands of steps what one long run gives.

use fusec_fuse::{Mode, Storage};
use fusec_ir::Graph;
use fusec_ir::interpret::{Input, Tensor};
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::last_row::only_last_rows;
use fusec_runtime::cpu::CpuSession;
use fusec_runtime::generation::{Draw, Ended, Flow, GenerateError, Generated, Request, generate};
use fusec_runtime::sampling::Sampling;
use fusec_runtime::session::Session;
use fusec_runtime::weights::Weights;

use common::{Case, emulate, root};

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
                let mut session = emulate(&case, &weights(&graph)).expect("kernels");
                let got = run(&mut session, &request).sequences;
                assert_eq!(got, expected, "{name} {mode} {sampling:?}");
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
