//! The state of a model on the host: one form for every way of running it, and for files.

use super::StateError;
use crate::checkpoint::Checkpoint;
use fusec_ir::interpret::State;
use fusec_ir::{Graph, StateId, StateKind};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The tensor of a state file that holds the position. Names of states never begin so.
const POSITION: &str = "__position__";
/// The key of a state file's metadata that holds the model's name.
const MODEL: &str = "fusec.model";

/// Everything carried from one run to the next.
#[derive(Clone, Debug, PartialEq)]
pub struct HostState {
    /// Sequences.
    pub batch: usize,
    /// Tokens seen so far.
    pub position: i64,
    /// By state `[B, axes...]` (scans) or `[B, width, axes...]` (tails), row-major, f32.
    pub tensors: BTreeMap<StateId, Vec<f32>>,
}

impl HostState {
    /// The state before the first token.
    pub fn initial(graph: &Graph, batch: usize) -> Self {
        Self::from(State::<f32>::zero(graph, batch))
    }

    /// The interpreter's form.
    pub fn to_interpreter(&self, graph: &Graph) -> Result<State<f32>, StateError> {
        self.check(graph)?;
        Ok(State {
            batch: self.batch,
            position: self.position,
            buffers: self.tensors.values().cloned().collect(),
        })
    }

    /// Checks that this is a state of the model: every state there, each of the right size.
    pub fn check(&self, graph: &Graph) -> Result<(), StateError> {
        let impossible = |what, got: String| StateError::Value { what, got };
        if self.batch == 0 {
            return Err(impossible("batch", self.batch.to_string()));
        }
        if self.position < 0 {
            return Err(impossible("position", self.position.to_string()));
        }
        if let Some(id) = self
            .tensors
            .keys()
            .find(|id| id.index() >= graph.states.len())
        {
            return Err(StateError::Unknown {
                name: id.0.to_string(),
                model: graph.name.clone(),
            });
        }
        for (i, state) in graph.states.iter().enumerate() {
            let id = StateId(i as u32);
            let tensor = self.tensors.get(&id).ok_or_else(|| StateError::Missing {
                name: state.name.clone(),
                model: graph.name.clone(),
            })?;
            let want = self.batch.saturating_mul(graph.state_elements(id));
            if tensor.len() != want {
                return Err(StateError::Elements {
                    name: state.name.clone(),
                    batch: self.batch,
                    got: tensor.len(),
                    want,
                });
            }
        }
        Ok(())
    }

    /// Writes a safetensors file: one f32 tensor per state, under its name, and the position.
    /// The file appears whole or not at all.
    pub fn save(&self, graph: &Graph, path: &Path) -> Result<(), StateError> {
        self.check(graph)?;
        let failed = |reason: String| StateError::Write {
            path: path.to_owned(),
            reason,
        };
        let mut tensors = vec![(
            POSITION.to_owned(),
            vec![1],
            Dtype::I64,
            self.position.to_le_bytes().to_vec(),
        )];
        for (id, values) in &self.tensors {
            let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            let name = graph.state(*id).name.clone();
            tensors.push((name, self.shape(graph, *id), Dtype::F32, bytes));
        }
        let views = tensors
            .iter()
            .map(|(name, shape, dtype, bytes)| {
                let view = TensorView::new(*dtype, shape.clone(), bytes);
                view.map(|view| (name.as_str(), view))
                    .map_err(|error| failed(error.to_string()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let about = HashMap::from([(MODEL.to_owned(), graph.name.clone())]);
        let bytes = safetensors::serialize(views, Some(about))
            .map_err(|error| failed(error.to_string()))?;
        crate::plan_dir::write_whole(path, &bytes).map_err(|error| failed(error.to_string()))
    }

    /// Reads a file written by [`HostState::save`] for this model.
    pub fn load(graph: &Graph, path: &Path) -> Result<Self, StateError> {
        let file = Checkpoint::open(path).map_err(Box::new)?;
        let known =
            |name: &str| name == POSITION || graph.states.iter().any(|state| state.name == name);
        if let Some(name) = file.names().find(|name| !known(name)) {
            return Err(StateError::Unknown {
                name: name.to_owned(),
                model: graph.name.clone(),
            });
        }
        let positions = file.read_i64(POSITION).map_err(Box::new)?;
        let [position] = positions[..] else {
            return Err(StateError::Value {
                what: "position",
                got: format!("{} numbers", positions.len()),
            });
        };
        let mut batch = None;
        let mut tensors = BTreeMap::new();
        for (i, state) in graph.states.iter().enumerate() {
            let id = StateId(i as u32);
            let shape: Vec<usize> = match file.tensor(&state.name) {
                Some(view) => view.shape.to_vec(),
                None => {
                    return Err(StateError::Missing {
                        name: state.name.clone(),
                        model: graph.name.clone(),
                    });
                }
            };
            let rows = *batch.get_or_insert(shape.first().copied().unwrap_or(0));
            let values = file.read_f32(&state.name).map_err(Box::new)?;
            let want = rows.saturating_mul(graph.state_elements(id));
            if shape.first() != Some(&rows) || values.len() != want {
                return Err(StateError::Elements {
                    name: state.name.clone(),
                    batch: rows,
                    got: values.len(),
                    want,
                });
            }
            tensors.insert(id, values);
        }
        let state = Self {
            batch: batch.unwrap_or(1),
            position,
            tensors,
        };
        state.check(graph)?;
        Ok(state)
    }

    fn shape(&self, graph: &Graph, id: StateId) -> Vec<usize> {
        let state = graph.state(id);
        let mut shape = vec![self.batch];
        if let StateKind::Tail { width, .. } = state.kind {
            shape.push(width as usize);
        }
        shape.extend(state.axes.iter().map(|axis| graph.size(*axis)));
        shape
    }
}

impl From<State<f32>> for HostState {
    fn from(state: State<f32>) -> Self {
        let tensors = state.buffers.into_iter().enumerate();
        Self {
            batch: state.batch,
            position: state.position,
            tensors: tensors.map(|(i, data)| (StateId(i as u32), data)).collect(),
        }
    }
}
