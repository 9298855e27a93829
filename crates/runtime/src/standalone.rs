//! A compiled model as a program of its own: C++ that launches the kernels with nothing but the driver, the
//! cubins that become part of it, and the weights as its kernels read them.
//!
//! ```text
//! DIR/standalone/NAME.cpp             the program
//! DIR/standalone/CMakeLists.txt       how it is built, if not by a call of g++
//! DIR/standalone/kernels/K.ARCH.cubin of each kernel that is not compiled as another one
//! DIR/standalone/weights.safetensors  parameters, and what follows from them alone, where weights were given
//! ```

use crate::element::encode;
use crate::memory::{ArenaPlan, MemoryError};
use crate::weights::{Weights, WeightsError};
use fusec_codegen::standalone::{Constant, Constants, Files, Request, standalone};
use fusec_codegen::{BufferKind, CodegenError, Element, Manifest};
use fusec_fuse::Shape;
use fusec_ir::ValueId;
use fusec_ir::interpret::evaluate_load_time;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// The directory below that of a plan.
pub const FOLDER: &str = "standalone";
/// The file of its weights.
pub const WEIGHTS: &str = "weights.safetensors";
const KERNELS: &str = "kernels";

/// Why there is no program.
#[derive(Debug, thiserror::Error)]
pub enum StandaloneError {
    /// The file system.
    #[error("cannot write {path}: {source}", path = path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The text.
    #[error(transparent)]
    Text(#[from] CodegenError),
    /// What is kept how long.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Weights that do not fit their types.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// What follows from the weights.
    #[error("what follows from the weights alone cannot be computed: {0}")]
    LoadTime(String),
}

/// The program of a manifest, and its weights if there are any.
#[derive(Debug)]
pub struct Standalone<'a> {
    manifest: &'a Manifest,
    arch: String,
    files: Files,
    constants: Constants,
    weights: Option<&'a Weights>,
    /// Of each constant that follows from the weights, its elements as kernels read them.
    computed: BTreeMap<usize, Vec<u8>>,
}

impl<'a> Standalone<'a> {
    /// Makes the program of a manifest whose cubins are compiled for `arch`. `weights` are those of the model.
    pub fn new(
        manifest: &'a Manifest,
        arch: &str,
        weights: Option<&'a Weights>,
    ) -> Result<Self, StandaloneError> {
        let constants = Constants::new(manifest);
        let lifetimes = manifest.regimes.iter().map(|regime| {
            // Which buffers are in use at the same time does not depend on the shape.
            let shape = Shape { batch: 1, time: 1 };
            let plan = ArenaPlan::scratch(regime, &manifest.kernels, shape)?;
            let slots = plan.slots.iter();
            let lifetime = slots.map(|slot| slot.map(|s| (s.lifetime.first, s.lifetime.last)));
            Ok::<_, MemoryError>(lifetime.collect())
        });
        let lifetimes: Vec<_> = lifetimes.collect::<Result<_, _>>()?;
        let files = standalone(&Request {
            manifest,
            arch,
            lifetimes: &lifetimes,
            constants: &constants,
        })?;
        let computed = match weights {
            Some(weights) => computed(manifest, &constants, weights)?,
            None => BTreeMap::new(),
        };
        Ok(Self {
            manifest,
            arch: arch.to_owned(),
            files,
            constants,
            weights,
            computed,
        })
    }

    /// What the program is called; its source is `NAME.cpp`.
    pub fn name(&self) -> &str {
        &self.files.name
    }

    /// Whether it needs weights and was given none.
    pub fn lacks_weights(&self) -> bool {
        self.weights.is_none() && !self.constants.list.is_empty()
    }

    /// Writes it below `dir`, in [`FOLDER`]. `cubins` are by image; without, they are missing.
    pub fn write(
        &self,
        dir: &Path,
        cubins: Option<&BTreeMap<String, Vec<u8>>>,
    ) -> Result<(), StandaloneError> {
        let folder = dir.join(FOLDER);
        let kernels = folder.join(KERNELS);
        std::fs::create_dir_all(&kernels).map_err(io_error(&kernels))?;
        let write =
            |path: PathBuf, bytes: &[u8]| std::fs::write(&path, bytes).map_err(io_error(&path));
        let source = format!("{}.cpp", self.files.name);
        write(folder.join(source), self.files.source.as_bytes())?;
        write(folder.join("CMakeLists.txt"), self.files.cmake.as_bytes())?;
        for (image, cubin) in cubins.into_iter().flatten() {
            write(kernels.join(format!("{image}.{}.cubin", self.arch)), cubin)?;
        }
        match self.weights {
            Some(weights) => self.write_weights(&folder.join(WEIGHTS), weights),
            None => Ok(()),
        }
    }

    /// One constant after the other, so that all are never in memory at once.
    fn write_weights(&self, path: &Path, weights: &Weights) -> Result<(), StandaloneError> {
        let file = File::create(path).map_err(io_error(path))?;
        let mut file = BufWriter::new(file);
        let header = header(&self.manifest.model, &self.constants.list);
        let length = (header.len() as u64).to_le_bytes();
        file.write_all(&length).map_err(io_error(path))?;
        file.write_all(header.as_bytes()).map_err(io_error(path))?;
        for (at, constant) in self.constants.list.iter().enumerate() {
            let encoded = match (constant.kind, self.computed.get(&at)) {
                (BufferKind::Param(id), _) => {
                    let graph = &self.manifest.regimes[constant.regime].graph;
                    &weights.encode(graph, id, constant.element)?
                }
                (_, Some(bytes)) => bytes,
                (_, None) => return Err(StandaloneError::LoadTime(constant.name.clone())),
            };
            file.write_all(encoded).map_err(io_error(path))?;
        }
        file.flush().map_err(io_error(path))
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> StandaloneError + use<> {
    let path = path.to_owned();
    move |source| StandaloneError::Io { path, source }
}

fn bytes(constant: &Constant) -> usize {
    constant.shape.iter().product::<usize>() * constant.element.bytes()
}

/// The header of a safetensors file: what lies where.
fn header(model: &str, constants: &[Constant]) -> String {
    let mut entries = Map::new();
    entries.insert("__metadata__".into(), json!({ "fusec.model": model }));
    let mut end = 0;
    for constant in constants {
        let begin = end;
        end += bytes(constant);
        let entry = json!({
            "dtype": dtype(constant.element),
            "shape": constant.shape,
            "data_offsets": [begin, end],
        });
        entries.insert(constant.name.clone(), entry);
    }
    let mut header = Value::Object(entries).to_string();
    // What follows begins where words may.
    let padding = header.len().next_multiple_of(8) - header.len();
    header.push_str(&" ".repeat(padding));
    header
}

fn dtype(element: Element) -> &'static str {
    match element {
        Element::F32 => "F32",
        Element::Bf16 => "BF16",
        Element::F16 => "F16",
        Element::I32 => "I32",
    }
}

/// The elements of what follows from the weights, by its place among the constants.
fn computed(
    manifest: &Manifest,
    constants: &Constants,
    weights: &Weights,
) -> Result<BTreeMap<usize, Vec<u8>>, StandaloneError> {
    let mut out = BTreeMap::new();
    for (at, regime) in manifest.regimes.iter().enumerate() {
        let own = constants.list.iter().enumerate();
        let own: Vec<(usize, &Constant, ValueId)> = own
            .filter(|(_, constant)| constant.regime == at)
            .filter_map(|(i, constant)| match constant.kind {
                BufferKind::LoadTime(id) => Some((i, constant, id)),
                _ => None,
            })
            .collect();
        if own.is_empty() {
            continue;
        }
        let param = |id| weights.param(id).unwrap_or_default().to_vec();
        let values = evaluate_load_time(&regime.graph, &param);
        let values = values.map_err(|error| StandaloneError::LoadTime(error.to_string()))?;
        for (i, constant, id) in own {
            let missing = || StandaloneError::LoadTime(constant.name.clone());
            let values = values.get(&id).ok_or_else(missing)?;
            let encoded = encode(&constant.name, values, constant.element);
            let encoded = encoded.map_err(|error| StandaloneError::LoadTime(error.to_string()))?;
            out.insert(i, encoded);
        }
    }
    Ok(out)
}
