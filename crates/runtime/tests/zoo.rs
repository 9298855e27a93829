//! Models of the zoo on checkpoints in public layouts: the f64 interpreter gives what the public
//! implementation gave, for a prefill and for single steps from the state it leaves.

use std::collections::BTreeMap;
use std::path::PathBuf;

use fusec_ir::interpret::{Input, Interpreter, Keep, State};
use fusec_ir::language::{Compiled, ModelSource, Overrides, Setting, compile_with_warnings, lower};
use fusec_ir::{Graph, ValueId};
use fusec_runtime::checkpoint::Checkpoint;
use fusec_runtime::golden::GoldenCase;
use fusec_runtime::weights::Weights;

struct Case {
    directory: &'static str,
    weights: &'static str,
    model: &'static str,
    axes: &'static [(&'static str, usize)],
    settings: &'static [(&'static str, &'static str)],
}

const CASES: &[Case] = &[
    Case {
        directory: "rwkv6-native",
        weights: "model.pth",
        model: "rwkv6",
        axes: &[
            ("V", 256),
            ("L", 2),
            ("H", 2),
            ("N", 64),
            ("F", 448),
            ("R", 32),
            ("Rd", 64),
        ],
        settings: &[],
    },
    Case {
        directory: "rwkv6-fla",
        weights: "",
        model: "rwkv6",
        axes: &[
            ("V", 256),
            ("L", 2),
            ("H", 2),
            ("N", 64),
            ("F", 448),
            ("R", 32),
            ("Rd", 64),
        ],
        settings: &[("layout", "fla"), ("gn_eps", "1e-5")],
    },
    Case {
        directory: "rwkv7-native",
        weights: "model.pth",
        model: "rwkv7",
        axes: &[
            ("V", 256),
            ("L", 2),
            ("H", 2),
            ("N", 64),
            ("F", 512),
            ("Rw", 32),
            ("Ra", 32),
            ("Rv", 32),
            ("Rg", 32),
        ],
        settings: &[],
    },
    Case {
        directory: "rwkv7-fla",
        weights: "",
        model: "rwkv7",
        axes: &[
            ("V", 256),
            ("L", 2),
            ("H", 2),
            ("N", 64),
            ("F", 512),
            ("Rw", 32),
            ("Ra", 32),
            ("Rv", 32),
            ("Rg", 32),
        ],
        settings: &[("layout", "fla"), ("kk_floor", "false")],
    },
    Case {
        directory: "mamba1-hf",
        weights: "",
        model: "mamba1",
        axes: &[
            ("V", 256),
            ("L", 2),
            ("C", 64),
            ("Di", 128),
            ("Ns", 16),
            ("R", 4),
            ("K", 4),
        ],
        settings: &[("tied", "true")],
    },
    Case {
        directory: "mamba2-hf",
        weights: "",
        model: "mamba2",
        axes: &[
            ("V", 256),
            ("L", 2),
            ("C", 64),
            ("G", 1),
            ("Hg", 4),
            ("P", 32),
            ("Ns", 32),
            ("K", 4),
        ],
        settings: &[],
    },
    Case {
        directory: "mamba2-fla",
        weights: "",
        model: "mamba2",
        axes: &[
            ("V", 256),
            ("L", 2),
            ("C", 128),
            ("G", 1),
            ("Hg", 8),
            ("P", 32),
            ("Ns", 32),
            ("K", 4),
        ],
        settings: &[("norm_per_group", "true")],
    },
    Case {
        directory: "gla-fla",
        weights: "",
        model: "gla",
        axes: &[
            ("V", 256),
            ("L", 2),
            ("C", 128),
            ("H", 2),
            ("Dk", 32),
            ("Dv", 64),
            ("I", 512),
            ("R", 16),
        ],
        settings: &[],
    },
    Case {
        directory: "retnet-fla",
        weights: "",
        model: "retnet",
        axes: &[
            ("V", 256),
            ("L", 2),
            ("C", 128),
            ("H", 2),
            ("Dr", 32),
            ("Dv", 128),
            ("I", 256),
        ],
        settings: &[],
    },
    Case {
        directory: "deltanet-fla",
        weights: "",
        model: "deltanet",
        axes: &[
            ("V", 256),
            ("L", 2),
            ("C", 128),
            ("H", 2),
            ("Dk", 64),
            ("Dv", 64),
            ("I", 512),
            ("K", 4),
        ],
        settings: &[],
    },
    Case {
        directory: "gated-deltanet-fla",
        weights: "",
        model: "gated-deltanet",
        axes: &[
            ("V", 256),
            ("L", 2),
            ("C", 128),
            ("H", 2),
            ("Gv", 1),
            ("Dk", 64),
            ("Dv", 128),
            ("I", 512),
            ("K", 4),
        ],
        settings: &[],
    },
    Case {
        directory: "kda-fla",
        weights: "",
        model: "kda",
        axes: &[
            ("V", 256),
            ("L", 2),
            ("C", 128),
            ("H", 2),
            ("Gv", 1),
            ("Dk", 64),
            ("Dv", 64),
            ("I", 512),
            ("K", 4),
        ],
        settings: &[],
    },
    Case {
        directory: "hgrn-fla",
        weights: "",
        model: "hgrn",
        axes: &[("V", 256), ("L", 2), ("C", 128), ("D", 128), ("I", 512)],
        settings: &[],
    },
    Case {
        directory: "hgrn2-fla",
        weights: "",
        model: "hgrn2",
        axes: &[
            ("V", 256),
            ("L", 2),
            ("C", 128),
            ("H", 1),
            ("Dk", 128),
            ("Dv", 128),
            ("I", 512),
        ],
        settings: &[],
    },
    Case {
        directory: "deltaproduct-fla",
        weights: "",
        model: "deltaproduct",
        axes: &[],
        settings: &[],
    },
    Case {
        directory: "deltaproduct-fla-plain",
        weights: "",
        model: "deltaproduct",
        axes: &[("M", 3), ("H", 4), ("Dv", 16), ("K", 3)],
        settings: &[
            ("forget", "false"),
            ("neg_eigval", "false"),
            ("gated", "false"),
        ],
    },
    Case {
        directory: "comba-fla",
        weights: "",
        model: "comba",
        axes: &[],
        settings: &[],
    },
    Case {
        directory: "linear-attention-fla",
        weights: "",
        model: "linear-attention",
        axes: &[],
        settings: &[],
    },
    Case {
        directory: "linear-attention-fla-product",
        weights: "",
        model: "linear-attention",
        axes: &[("G", 2), ("Q", 1), ("Dk", 16), ("Part", 1), ("Dv", 32)],
        settings: &[("features", "elementwise_product"), ("normalised", "false")],
    },
    Case {
        directory: "xlstm-hf",
        weights: "",
        model: "xlstm",
        axes: &[("I", 128)],
        settings: &[("gate_cap", "3")],
    },
    Case {
        directory: "griffin-hf",
        weights: "",
        model: "griffin",
        axes: &[],
        settings: &[("window", "16")],
    },
    Case {
        directory: "lfm2-hf",
        weights: "",
        model: "lfm2",
        axes: &[],
        settings: &[],
    },
    Case {
        directory: "lfm2-hf-biases",
        weights: "",
        model: "lfm2",
        axes: &[("L", 2), ("K", 4), ("Q", 1), ("Dr", 16), ("I", 64)],
        settings: &[("mixers", "ac"), ("conv_bias", "true"), ("tied", "false")],
    },
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

impl Case {
    fn source(&self) -> ModelSource<'static> {
        let path = root().join("models").join(format!("{}.toml", self.model));
        ModelSource::from_path(&path).expect("the model is in the repository")
    }

    fn options(&self) -> Overrides {
        let setting = |text: &str| match (text.parse(), text.parse()) {
            (Ok(switch), _) => Setting::Bool(switch),
            (_, Ok(number)) => Setting::Number(number),
            _ => Setting::Text(text.to_owned()),
        };
        Overrides {
            preset: None,
            axes: self.axes.iter().map(|(n, s)| (n.to_string(), *s)).collect(),
            settings: self
                .settings
                .iter()
                .map(|(n, s)| (n.to_string(), setting(s)))
                .collect(),
        }
    }

    /// Largest error of prefill and of steps, relative to the largest expected logit.
    fn errors(&self, graph: &Graph, golden: &GoldenCase) -> (f64, f64) {
        let directory = root().join("tests/golden").join(self.directory);
        let checkpoint =
            Checkpoint::open(directory.join(self.weights)).unwrap_or_else(|e| panic!("{e}"));
        let weights =
            Weights::from_checkpoint(graph, &checkpoint).unwrap_or_else(|e| panic!("{e}"));
        let interpreter =
            Interpreter::<f64>::new(graph, weights.to_f64()).unwrap_or_else(|e| panic!("{e}"));
        let mut state = State::zero(graph, golden.batch);
        let prefill = run(
            &interpreter,
            &mut state,
            golden.batch,
            golden.length,
            &golden.input_ids,
        );
        let mut steps = vec![0.0; golden.step_logits.len()];
        for s in 0..golden.steps {
            let ids: Vec<i64> = (0..golden.batch)
                .map(|b| golden.step_ids[b * golden.steps + s])
                .collect();
            let out = run(&interpreter, &mut state, golden.batch, 1, &ids);
            for b in 0..golden.batch {
                let v = golden.vocab;
                let at = (b * golden.steps + s) * v;
                steps[at..at + v].copy_from_slice(&out[b * v..(b + 1) * v]);
            }
        }
        (
            error(&prefill, &golden.logits),
            error(&steps, &golden.step_logits),
        )
    }
}

fn run(
    interpreter: &Interpreter<'_, f64>,
    state: &mut State<f64>,
    batch: usize,
    time: usize,
    ids: &[i64],
) -> Vec<f64> {
    let graph = interpreter.graph();
    let ids: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
    let inputs: BTreeMap<ValueId, Input<'_, f64>> =
        [(graph.inputs[0], Input::Ids(&ids))].into_iter().collect();
    let out = interpreter
        .run(state, batch, time, &inputs, Keep::Outputs)
        .unwrap_or_else(|e| panic!("{e}"));
    out.values[&graph.outputs[0]]
        .numbers()
        .expect("logits are numbers")
        .to_vec()
}

fn error(got: &[f64], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0.0f64, |m, w| m.max(f64::from(*w).abs()));
    let off = got
        .iter()
        .zip(want)
        .fold(0.0f64, |m, (g, w)| m.max((g - f64::from(*w)).abs()));
    off / largest
}

#[test]
fn the_zoo_reproduces_public_implementations() {
    let mut failed = Vec::new();
    for case in CASES {
        let name = case.directory;
        let golden = GoldenCase::open(root().join("tests/golden").join(name))
            .unwrap_or_else(|e| panic!("{e}"));
        let merged = compile_with_warnings(&case.source(), &case.options());
        let cut = lower(&case.source(), &case.options());
        for (form, compiled) in [("merged", merged), ("as cut", cut)] {
            let Compiled { graph, .. } = compiled.unwrap_or_else(|e| panic!("{name}: {e}"));
            let (prefill, steps) = case.errors(&graph, &golden);
            eprintln!(
                "{name} {form}: prefill {prefill:.1e}, steps {steps:.1e}, bound {:.0e}",
                golden.bound
            );
            if !(prefill <= golden.bound && steps <= golden.bound) {
                failed.push((name, form));
            }
        }
    }
    assert!(failed.is_empty(), "beyond the bound: {failed:?}");
}
