//! A checkpoint that tests change: other options, other tensors, other names.

#![allow(dead_code, reason = "each test uses a part of what is here")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use fusec_ir::interpret::{Input, Tensor};
use fusec_ir::language::Overrides;
use fusec_runtime::checkpoint::Checkpoint;
use fusec_runtime::cpu::CpuSession;
use fusec_runtime::model::Model;
use fusec_runtime::session::Session;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Map, Value, json};

/// A checkpoint in memory: its options, and its tensors as extents and elements.
#[derive(Clone)]
pub struct Stored {
    /// `config.json`.
    pub options: Map<String, Value>,
    /// Extents and elements by name.
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

pub fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden")
        .join(case)
}

impl Stored {
    /// That of a golden case.
    pub fn golden(case: &str) -> Self {
        let checkpoint = Checkpoint::open(golden(case)).expect("a golden checkpoint");
        let options = checkpoint.config().and_then(Value::as_object);
        let tensors = checkpoint.names().map(|name| {
            let shape = checkpoint.tensor(name).expect("it").shape.to_vec();
            let elements = checkpoint.read_f32(name).expect("numbers");
            (name.to_string(), (shape, elements))
        });
        Stored {
            options: options.cloned().unwrap_or_default(),
            tensors: tensors.collect(),
        }
    }

    /// With an option set; null removes it.
    pub fn set(mut self, option: &str, value: Value) -> Self {
        match value {
            Value::Null => self.options.remove(option),
            value => self.options.insert(option.into(), value),
        };
        self
    }

    /// How many layers it has.
    pub fn layers(&self) -> usize {
        self.options["num_hidden_layers"]
            .as_u64()
            .expect("a number") as usize
    }

    /// The names of a tensor in every layer, or the one name if it is of no layer.
    fn names(&self, name: &str) -> BTreeSet<String> {
        let layers = (0..self.layers()).map(|l| name.replace("{l}", &l.to_string()));
        layers.collect()
    }

    /// With a tensor of every layer; `{l}` stands for the layer.
    pub fn put(mut self, name: &str, shape: &[usize], element: impl Fn(usize) -> f32) -> Self {
        for name in self.names(name) {
            let elements = (0..shape.iter().product()).map(&element).collect();
            self.tensors.insert(name, (shape.to_vec(), elements));
        }
        self
    }

    /// Without a tensor, in every layer.
    pub fn drop(mut self, name: &str) -> Self {
        for name in self.names(name) {
            self.tensors.remove(&name).expect("it was there");
        }
        self
    }

    /// With a tensor changed, in every layer.
    pub fn map(mut self, name: &str, f: impl Fn(usize, f32) -> f32) -> Self {
        for name in self.names(name) {
            let (_, elements) = self.tensors.get_mut(&name).expect("it is there");
            for (i, x) in elements.iter_mut().enumerate() {
                *x = f(i, *x);
            }
        }
        self
    }

    /// With the first layers only.
    pub fn cut(mut self, layers: usize) -> Self {
        let prefix = ["model.layers.", "backbone.layers."];
        self.tensors.retain(|name, _| {
            let number = prefix.iter().find_map(|p| name.strip_prefix(p));
            let number = number.and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
            number.is_none_or(|l| l < layers)
        });
        self.set("num_hidden_layers", json!(layers))
    }

    /// Writes it into a directory and opens that.
    pub fn open(&self, directory: &Path) -> Result<Model, String> {
        if !self.options.is_empty() {
            let config = serde_json::to_vec(&self.options).expect("JSON");
            std::fs::write(directory.join("config.json"), config).expect("written");
        }
        let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, (shape, elements))| {
                let bytes = elements.iter().flat_map(|x| x.to_le_bytes()).collect();
                (name.clone(), shape.clone(), bytes)
            })
            .collect();
        let views = bytes.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
            (name.clone(), view.expect("a view"))
        });
        let path = directory.join("model.safetensors");
        safetensors::serialize_to_file(views.collect::<Vec<_>>(), None, &path).expect("written");
        Model::open(directory, &Overrides::default()).map_err(|e| e.to_string())
    }

    /// With every tensor under another name, or without it.
    pub fn renamed(mut self, name: impl Fn(&str) -> Option<String>) -> Self {
        let tensors = std::mem::take(&mut self.tensors).into_iter();
        let tensors = tensors.filter_map(|(old, tensor)| Some((name(&old)?, tensor)));
        self.tensors = tensors.collect();
        self
    }

    /// With the last two dimensions of a tensor exchanged.
    pub fn transposed(mut self, name: &str) -> Self {
        let (shape, elements) = self.tensors.get_mut(name).expect("it is there");
        let [.., rows, columns] = shape[..] else {
            panic!("a matrix")
        };
        let old = elements.clone();
        for (at, x) in elements.iter_mut().enumerate() {
            let (matrix, row, column) = (at / (rows * columns), at / rows % columns, at % rows);
            *x = old[(matrix * rows + column) * columns + row];
        }
        let rank = shape.len();
        shape.swap(rank - 2, rank - 1);
        self
    }

    /// Logits of a prefill and of a step after it.
    pub fn logits(&self) -> Result<Vec<f32>, String> {
        let directory = tempfile::tempdir().expect("a directory");
        logits(&self.open(directory.path())?)
    }
}

/// Logits of a prefill and of a step after it.
pub fn logits(model: &Model) -> Result<Vec<f32>, String> {
    let weights = model.weights(None).map_err(|e| e.to_string())?;
    let mut session = CpuSession::<f32>::new(&model.graph, weights).expect("a session");
    session.reset(1).expect("reset");
    let mut logits = vec![];
    for ids in [&[5, 17, 3, 250, 99, 17, 8][..], &[41]] {
        let out = session.run(ids.len(), &[Input::Ids(ids)]).expect("a run");
        match out.first() {
            Some(Tensor::Numbers(numbers)) => logits.extend_from_slice(numbers),
            _ => panic!("no numbers"),
        }
    }
    Ok(logits)
}

/// The largest difference, relative to the largest magnitude.
pub fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0f32, |m, x| m.max(x.abs()));
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    worst.fold(0f32, f32::max) / largest
}
