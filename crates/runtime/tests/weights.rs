//! Weights: what a parameter gets from a checkpoint or a seed, and what is said when it gets none.

use std::path::Path;

use fusec_codegen::Element;
use fusec_ir::{
    Axis, AxisId, Def, Graph, Init, LoadStep, Param, ParamId, Precision, Source, Value, ValueId,
    graph::GRAPH_VERSION,
};
use fusec_runtime::{
    checkpoint::Checkpoint,
    weights::{WeightSpec, Weights},
};
use safetensors::{Dtype, tensor::TensorView};

const AXES: [(&str, usize); 5] = [("C", 6), ("H", 2), ("N", 3), ("K", 4), ("one", 1)];

/// A graph of parameters alone: name, axes, where from, how initialised.
struct Model(Graph);

impl Model {
    fn new() -> Self {
        let axes = AXES.map(|(name, size)| Axis {
            name: name.into(),
            size,
        });
        Self(Graph {
            version: GRAPH_VERSION,
            name: "toy".into(),
            axes: axes.into(),
            params: vec![],
            recurrences: vec![],
            values: vec![],
            ops: vec![],
            states: vec![],
            inputs: vec![],
            outputs: vec![],
            layers: 1,
            pins: vec![],
            allow_unused: vec![],
            zeros: 0.0,
        })
    }

    fn param(mut self, name: &str, axes: &[&str], source: Option<Source>, init: Init) -> Self {
        let axis = |name: &&str| {
            AXES.iter()
                .position(|a| a.0 == *name)
                .map(|i| AxisId(i as u32))
        };
        let id = |len: usize| len as u32;
        self.0.values.push(Value {
            name: name.into(),
            rows: false,
            axes: axes.iter().filter_map(axis).collect(),
            precision: if name.ends_with("_log") {
                Precision::F32
            } else {
                Precision::Storage
            },
            def: Def::Param(ParamId(id(self.0.params.len()))),
            layer: None,
        });
        let value = ValueId(id(self.0.values.len()) - 1);
        self.0.params.push(Param {
            name: name.into(),
            value,
            source,
            init,
            span: None,
        });
        self
    }

    /// A parameter that is read from a tensor.
    fn from(self, name: &str, axes: &[&str], tensors: &[&str], steps: &[LoadStep]) -> Self {
        let tensors = tensors.iter().map(|t| t.to_string()).collect();
        let source = Source {
            tensors,
            steps: steps.to_vec(),
        };
        self.param(name, axes, Some(source), Init::Constant(0.0))
    }

    fn drawn(self, name: &str, axes: &[&str], init: Init) -> Self {
        self.param(name, axes, None, init)
    }
}

/// Writes tensors that count 0, 1, 2, ...
fn checkpoint(file: &Path, tensors: &[(&str, &[usize])]) -> Checkpoint {
    let data: Vec<(String, Vec<u8>, Vec<usize>)> = tensors
        .iter()
        .map(|(name, shape)| {
            let values =
                (0..shape.iter().product::<usize>()).flat_map(|i| (i as f32).to_le_bytes());
            (name.to_string(), values.collect(), shape.to_vec())
        })
        .collect();
    let views = data.iter().map(|(name, bytes, shape)| {
        (
            name,
            TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap(),
        )
    });
    safetensors::serialize_to_file(views, None, file).unwrap();
    Checkpoint::open(file).unwrap()
}

fn file() -> tempfile::TempPath {
    tempfile::Builder::new()
        .suffix(".safetensors")
        .tempfile()
        .unwrap()
        .into_temp_path()
}

#[test]
fn parameters_are_slices_transposes_and_views_of_tensors() {
    let slice = |start, end| LoadStep::Slice { dim: 0, start, end };
    let model = Model::new()
        .from("merged", &["H", "N", "K"], &["dense"], &[])
        .from("head", &["K"], &["absent", "packed"], &[slice(0, 4)])
        .from("tail", &["H"], &["packed"], &[slice(4, 6)])
        .from("conv", &["C", "K"], &["conv"], &[])
        .from(
            "swapped",
            &["K", "C"],
            &["square"],
            &[LoadStep::Transpose(0, 1)],
        )
        .from(
            "both",
            &["C", "K"],
            &["flat"],
            &[LoadStep::View(vec![4, 6]), LoadStep::Transpose(0, 1)],
        )
        .from(
            "copied",
            &["H", "N"],
            &["odd"],
            &[LoadStep::Transpose(0, 1), LoadStep::View(vec![2, 3])],
        )
        .from("tied", &["C", "K"], &["dense"], &[]);
    let file = file();
    let checkpoint = checkpoint(
        &file,
        &[
            ("dense", &[6, 4]),
            ("packed", &[6]),
            ("conv", &[6, 1, 4]),
            ("square", &[6, 4]),
            ("flat", &[24]),
            ("odd", &[2, 3]),
        ],
    );
    let weights = Weights::from_checkpoint(&model.0, &checkpoint).unwrap();
    let count = |n: usize| (0..n).map(|i| i as f32).collect::<Vec<_>>();
    let columns = |rows: usize, columns: usize| {
        (0..columns * rows)
            .map(|i| (i % rows * columns + i / rows) as f32)
            .collect::<Vec<_>>()
    };
    let expected = [
        count(24),
        count(4),
        vec![4.0, 5.0],
        count(24),
        columns(6, 4),
        columns(4, 6),
        columns(2, 3),
        count(24),
    ];
    for ((param, got), want) in model.0.params.iter().zip(weights.params()).zip(expected) {
        assert_eq!(*got, want, "{}", param.name);
    }
}

#[test]
fn everything_that_does_not_fit_comes_in_one_error() {
    let mut model = Model::new()
        .from("good", &["C"], &["good"], &[])
        .from("lost", &["C"], &["goods", "gods"], &[])
        .from("turned", &["K", "C"], &["wide"], &[])
        .from(
            "cut",
            &["C"],
            &["short"],
            &[LoadStep::Slice {
                dim: 0,
                start: 2,
                end: 8,
            }],
        )
        .from("bent", &["C"], &["short"], &[LoadStep::View(vec![5])])
        .drawn("free", &["C"], Init::Normal(1.0));
    model.0.allow_unused = vec!["*.inv_freq".into()];
    let file = file();
    let tensors: [(&str, &[usize]); 5] = [
        ("good", &[6]),
        ("wide", &[6, 4]),
        ("short", &[6]),
        ("extra.bias", &[3]),
        ("rotary.inv_freq", &[3]),
    ];
    let message = Weights::from_checkpoint(&model.0, &checkpoint(&file, &tensors))
        .unwrap_err()
        .to_string();
    let expected = [
        &format!("{}: does not fit the model 'toy':", file.display()),
        "  parameter 'lost': no tensor 'goods' or 'gods' (nearest name: 'good')",
        "  parameter 'turned' is [K=4, C=6], tensor 'wide' gives [6, 4]",
        "  parameter 'cut': tensor 'short' of shape [6]: cannot take 2..8 of dimension 0",
        "  parameter 'bent': tensor 'short' of shape [6]: cannot be viewed as [5]",
        "  parameter 'free': the model names no tensor for it (give it a source, or use random:SEED)",
        "  tensor 'extra.bias' [3] is used by no parameter (if that is meant: --allow-unused \
         'extra.bias', or allow_unused in the model text)",
    ];
    assert_eq!(message.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn rows_that_no_slice_takes_are_reported() {
    let slice = |start, end| LoadStep::Slice { dim: 0, start, end };
    let parts = |end: usize| {
        Model::new()
            .from("a", &["N", "C"], &["packed"], &[slice(0, 3)])
            .from(
                "again",
                &["C", "N"],
                &["packed"],
                &[slice(0, 3), LoadStep::Transpose(0, 1)],
            )
            .from("b", &["H", "C"], &["packed"], &[slice(end - 2, end)])
    };
    let file = file();
    let checkpoint = checkpoint(&file, &[("packed", &[6, 6])]);
    let message = Weights::from_checkpoint(&parts(5).0, &checkpoint)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("'packed' [6, 6]: parameters use 30 of its 36 elements"),
        "{message}"
    );

    let mut meant = parts(6);
    meant.0.allow_unused = vec!["packed".into()];
    assert!(Weights::from_checkpoint(&meant.0, &checkpoint).is_ok());
}

#[test]
fn numbers_that_are_not_finite_are_refused_with_their_place() {
    let file = file();
    let data: Vec<u8> = [0.0, 1.0, f32::NAN, 2.0]
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    let view = TensorView::new(Dtype::F32, vec![4], &data).unwrap();
    safetensors::serialize_to_file([("x", view)], None, &file).unwrap();
    let model = Model::new().from("x", &["K"], &["x"], &[]);
    let message = Weights::from_checkpoint(&model.0, &Checkpoint::open(&file).unwrap())
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("parameter 'x': tensor 'x': element 2 of the parameter is NaN"),
        "{message}"
    );
}

#[test]
fn a_seed_and_a_name_decide_every_number() {
    let model = |names: &[&str]| {
        names.iter().fold(Model::new(), |m, name| {
            m.drawn(name, &["C", "K"], Init::Normal(0.5))
        })
    };
    let both = Weights::random(&model(&["a", "b"]).0, 7).unwrap();
    let swapped = Weights::random(&model(&["b", "a"]).0, 7).unwrap();
    assert_eq!(
        both.params()[0],
        swapped.params()[1],
        "neither order nor neighbours matter"
    );
    assert_ne!(both.params()[0], both.params()[1], "names matter");
    assert_ne!(
        both,
        Weights::random(&model(&["a", "b"]).0, 8).unwrap(),
        "seeds matter"
    );
    // Frozen, from a second implementation of the description in Python: other devices must draw
    // the same.
    assert_eq!(
        both.to_f64()[0][..4],
        [
            0.05451202392578125,
            -0.5838088989257812,
            -1.0427169799804688,
            0.035919189453125
        ]
    );
}

#[test]
fn initial_weights_are_as_declared_and_random_ones_hide_nothing() {
    let model = Model::new()
        .drawn("gain", &["C"], Init::Constant(1.0))
        .drawn("zero", &["C", "K"], Init::Constant(0.0))
        .drawn("flat", &["C"], Init::Uniform(2.0, 2.0))
        .drawn("range", &["C"], Init::Uniform(-3.0, -2.0))
        .drawn("log", &["C"], Init::LogUniform(1.0, 16.0));
    let initial = Weights::initial(&model.0, 3).unwrap();
    assert_eq!(initial.params()[0], [1.0; 6]);
    assert_eq!(initial.params()[1], [0.0; 24]);
    assert_eq!(initial.params()[2], [2.0; 6]);
    let random = Weights::random(&model.0, 3).unwrap();
    let ranges = [
        (0.9, 1.1),
        (-0.1, 0.1),
        (1.8, 2.2),
        (-3.0, -2.0),
        (0.0, 16f32.ln()),
    ];
    for ((param, values), (low, high)) in model.0.params.iter().zip(random.params()).zip(ranges) {
        assert!(
            values.iter().all(|x| (low..high).contains(x)),
            "{} {values:?}",
            param.name
        );
        assert!(
            values.windows(2).all(|w| w[0] != w[1]),
            "{} {values:?}",
            param.name
        );
    }
    assert_eq!(
        initial.params()[3..],
        random.params()[3..],
        "only constants are spread"
    );
}

#[test]
fn impossible_initialisations_are_refused_by_name() {
    for init in [
        Init::Normal(-1.0),
        Init::Normal(f64::NAN),
        Init::Uniform(1.0, 0.0),
        Init::LogUniform(0.0, 1.0),
        Init::Constant(f64::INFINITY),
        Init::Constant(1e300),
    ] {
        let model = Model::new().drawn("w", &["C"], init);
        let message = Weights::initial(&model.0, 0).unwrap_err().to_string();
        assert!(
            message.starts_with("parameter 'w': cannot be initialised"),
            "{message}"
        );
    }
}

#[test]
fn storage_types_round_and_refuse_what_they_cannot_hold() {
    let model = Model::new()
        .drawn("w", &["one"], Init::Constant(1.0 + 1.0 / 512.0))
        .drawn("a_log", &["one"], Init::Constant(70000.0));
    let weights = Weights::initial(&model.0, 0).unwrap();
    let (w, a) = (ParamId(0), ParamId(1));
    assert_eq!(
        weights.encode(&model.0, w, Element::F32).unwrap(),
        (1.0f32 + 1.0 / 512.0).to_le_bytes()
    );
    assert_eq!(
        weights.encode(&model.0, w, Element::Bf16).unwrap(),
        [0x80, 0x3f]
    );
    assert_eq!(
        weights.encode(&model.0, w, Element::F16).unwrap(),
        [0x02, 0x3c]
    );
    let refused = weights
        .encode(&model.0, a, Element::F16)
        .unwrap_err()
        .to_string();
    assert_eq!(
        refused,
        "parameter 'a_log': element 0 is 70000, which F16 cannot hold"
    );
    assert!(weights.encode(&model.0, ParamId(2), Element::F32).is_err());

    // What must stay f32 is not rounded, and so does not overflow.
    let rounded = weights.rounded(&model.0, Element::F16).unwrap();
    assert_eq!(rounded.params(), [vec![1.0 + 1.0 / 512.0], vec![70000.0]]);
    assert_eq!(
        weights.rounded(&model.0, Element::Bf16).unwrap().params(),
        [vec![1.0], vec![70000.0]]
    );
}

#[test]
fn weights_are_asked_for_by_seed_or_path() {
    for (text, spec) in [
        ("random:7", WeightSpec::Random(7)),
        (
            "dir/model.pth",
            WeightSpec::Checkpoint("dir/model.pth".into()),
        ),
        ("./random:x", WeightSpec::Checkpoint("./random:x".into())),
    ] {
        assert_eq!(text.parse(), Ok(spec), "{text}");
    }
    for text in [
        "random:",
        "random:x",
        "random:-1",
        "random:18446744073709551616",
    ] {
        let refused = text.parse::<WeightSpec>().unwrap_err().to_string();
        assert!(refused.contains("random:N"), "{text}: {refused}");
    }
    let model = Model::new().drawn("w", &["C"], Init::Normal(1.0));
    assert_eq!(
        WeightSpec::Random(7).load(&model.0).unwrap(),
        Weights::random(&model.0, 7).unwrap()
    );
    let message = WeightSpec::Checkpoint("no/such".into())
        .load(&model.0)
        .unwrap_err()
        .to_string();
    assert!(message.contains("no/such"), "{message}");
}
