//! Derivatives against central differences, in f64.
//!
//! What is differentiated is `sum of c * y` over the outputs y of a run, with random c, scaled so that
//! it is of the order of one output. The run starts in the middle of a sequence, from random states and
//! tails, so that what is carried in is read. Parameters of the same name in different layers are moved
//! together.

use std::collections::BTreeMap;

use super::{GradientError, differentiate};
use crate::interpret::{Input, InterpretError, Interpreter, Keep, State};
use crate::{Graph, OpKind, Precision, StateKind, ValueId};
use serde::Serialize;
use thiserror::Error;

/// Largest accepted difference, of the norm of the derivative.
const BOUND: f64 = 1e-6;

/// Steps of the differences, of the size of what is moved, tried in turn: a kink that lies within one
/// step does not lie within all of them, and a wrong derivative agrees with none.
const STEPS: [f64; 4] = [1e-4, 1e-5, 1e-3, 1e-6];

/// Position of the first token.
const POSITION: i64 = 3;

/// The derivatives of a model, and what they are by differences.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GradientReport {
    /// Largest accepted error.
    pub bound: f64,
    /// Operations of the model, and of it with its transpose.
    pub operations: [usize; 2],
    /// One per parameter (of all layers), number input, and state of a recurrence.
    pub checks: Vec<Checked>,
}

/// A derivative along one direction and by one element.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Checked {
    /// Parameter, input or state.
    pub name: String,
    /// `parameter`, `input` or `state`.
    pub kind: &'static str,
    /// Elements moved.
    pub elements: usize,
    /// L2 norm of the derivative.
    pub norm: f64,
    /// Largest difference from the finite difference, of the norm: along a random direction, and by
    /// the element whose derivative is the largest.
    pub error: f64,
    /// Whether both were accepted.
    pub passed: bool,
}

impl GradientReport {
    /// Whether every derivative was accepted.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }
}

/// Why derivatives could not be compared.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The graph has none.
    #[error(transparent)]
    Gradient(#[from] GradientError),
    /// A run was refused.
    #[error(transparent)]
    Interpret(#[from] InterpretError),
    /// The model gives something that is not finite, which no difference can be taken of.
    #[error(
        "the model gives numbers that are not finite on random inputs; other weights may not: --weights"
    )]
    NonFinite,
}

/// What is moved together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Param(usize),
    Input(ValueId),
    State(usize),
}

/// A point at which the model is run.
#[derive(Clone)]
struct Point {
    params: Vec<Vec<f64>>,
    inputs: BTreeMap<ValueId, Vec<f64>>,
    state: State<f64>,
}

impl Point {
    fn part(&mut self, part: Part) -> &mut Vec<f64> {
        match part {
            Part::Param(p) => &mut self.params[p],
            Part::Input(id) => self.inputs.entry(id).or_default(),
            Part::State(s) => &mut self.state.buffers[s],
        }
    }
}

/// Where a model is checked: its parameters, in their order, and its inputs `[B, T, axes...]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Sequences and tokens of each.
    pub shape: (usize, usize),
    /// Parameters.
    pub params: Vec<Vec<f64>>,
    /// Inputs that are token ids.
    pub ids: BTreeMap<ValueId, Vec<i32>>,
    /// Inputs that are numbers.
    pub numbers: BTreeMap<ValueId, Vec<f64>>,
}

/// The outputs whose sum is differentiated, and the inputs by which.
fn ends(graph: &Graph) -> (Vec<ValueId>, Vec<ValueId>) {
    let rows = |id: &ValueId| graph.value(*id).rows;
    let number = |id: &ValueId| rows(id) && graph.value(*id).precision != Precision::Index;
    let outputs = graph.outputs.iter().copied().filter(rows);
    let by = graph.inputs.iter().copied().filter(number);
    (outputs.collect(), by.collect())
}

/// The largest graph that [`check`] runs, for who wants to know its size before.
pub fn checked_graph(graph: &Graph) -> Result<Graph, GradientError> {
    let (outputs, by) = ends(graph);
    Ok(differentiate(graph, &outputs, &by)?.graph)
}

/// Compares all derivatives of a model with finite differences. `noise` gives number `.1` of the
/// random numbers of a name, of mean 0 and of the order of 1, always the same one.
pub fn check(
    graph: &Graph,
    place: Place,
    noise: &dyn Fn(&str, u64) -> f64,
) -> Result<GradientReport, CheckError> {
    let (outputs, by) = ends(graph);
    let gradient = differentiate(graph, &outputs, &by)?;
    let Place {
        shape: (batch, time),
        params,
        ids,
        numbers: inputs,
    } = place;
    let mut state = State::zero(graph, batch);
    state.position = POSITION;
    for (k, buffer) in state.buffers.iter_mut().enumerate() {
        let name = format!("{} carried", graph.states[k].name);
        for (i, x) in buffer.iter_mut().enumerate() {
            *x += 0.3 * noise(&name, i as u64);
        }
    }
    let start = Point {
        params,
        inputs,
        state,
    };
    let count: usize = outputs
        .iter()
        .map(|id| batch * time * graph.row_elements(*id))
        .sum();
    let cotangents: Vec<Vec<f64>> = outputs
        .iter()
        .enumerate()
        .map(|(k, id)| {
            let name = format!("cotangent {k}");
            let n = batch * time * graph.row_elements(*id);
            let scale = 1.0 / (count.max(1) as f64).sqrt();
            (0..n).map(|i| scale * noise(&name, i as u64)).collect()
        })
        .collect();
    let given = |point: &Point| -> BTreeMap<ValueId, Vec<f64>> { point.inputs.clone() };
    let mut interpreted = Interpreter::new(graph, start.params.clone())?;
    let mut bound = start.params.clone();
    let mut run = |point: &Point| -> Result<(f64, f64), CheckError> {
        if bound != point.params {
            interpreted.set_params(point.params.clone())?;
            bound.clone_from(&point.params);
        }
        let numbers = given(point);
        let mut all: BTreeMap<ValueId, Input<'_, f64>> = BTreeMap::new();
        all.extend(ids.iter().map(|(id, x)| (*id, Input::Ids(x))));
        all.extend(numbers.iter().map(|(id, x)| (*id, Input::Numbers(x))));
        let mut state = point.state.clone();
        let out = interpreted.run(&mut state, batch, time, &all, Keep::Outputs)?;
        let (mut total, mut size) = (0.0, 0.0);
        for (id, c) in outputs.iter().zip(&cotangents) {
            let y = out.values.get(id).and_then(|y| y.numbers());
            for (y, c) in y.unwrap_or_default().iter().zip(c) {
                total += y * c;
                size += (y * c).abs();
            }
        }
        match total.is_finite() {
            true => Ok((total, size)),
            false => Err(CheckError::NonFinite),
        }
    };

    // The derivative by everything.
    let interpreter = gradient.interpreter(start.params.clone())?;
    let mut whole = State::zero(&gradient.graph, batch);
    whole.position = POSITION;
    whole.buffers[..start.state.buffers.len()].clone_from_slice(&start.state.buffers);
    let mut all: BTreeMap<ValueId, Input<'_, f64>> = BTreeMap::new();
    all.extend(ids.iter().map(|(id, x)| (*id, Input::Ids(x))));
    all.extend(start.inputs.iter().map(|(id, x)| (*id, Input::Numbers(x))));
    let forward = gradient.forward(&interpreter, &whole, (batch, time), &all)?;
    let seeds: Vec<&[f64]> = cotangents.iter().map(Vec::as_slice).collect();
    let back = forward.backward(&seeds, &mut whole)?;
    let mut derivatives: BTreeMap<Part, Vec<f64>> = BTreeMap::new();
    let by_params = gradient.load.evaluate(&start.params, &back.sums)?;
    let params = by_params.into_iter().enumerate();
    derivatives.extend(params.map(|(p, d)| (Part::Param(p), d)));
    for id in &by {
        let zero = || vec![0.0; start.inputs[id].len()];
        let d = back.inputs.get(id).cloned().unwrap_or_else(zero);
        derivatives.insert(Part::Input(*id), d);
    }
    let states = back.states.into_iter();
    derivatives.extend(states.map(|(of, d)| (Part::State(of.index()), d)));

    let mut checks = Vec::new();
    for (name, kind, parts) in groups(graph, &by, &derivatives) {
        let d = |part: &Part| &derivatives[part];
        let elements = parts.iter().map(|p| d(p).len()).sum();
        let norm = parts.iter().flat_map(d).map(|x| x * x).sum::<f64>().sqrt();
        let mut point = start.clone();
        let mut size = 0.0;
        for part in &parts {
            size += point.part(*part).iter().map(|x| x * x).sum::<f64>();
        }
        let size = (size / f64::from(u32::try_from(elements).unwrap_or(u32::MAX))).sqrt();
        let size = if size > 1e-2 { size.min(1.0) } else { 1e-2 };
        // Along a random direction, and by the element that matters most.
        let random: BTreeMap<Part, Vec<f64>> = parts
            .iter()
            .map(|part| {
                let name = format!("direction of {name} {}", index_of(part));
                let n = d(part).len();
                (*part, (0..n).map(|i| noise(&name, i as u64)).collect())
            })
            .collect();
        let largest = parts
            .iter()
            .flat_map(|part| {
                d(part)
                    .iter()
                    .enumerate()
                    .map(move |(i, x)| (*part, i, x.abs()))
            })
            .fold((parts[0], 0, -1.0), |a, b| if b.2 > a.2 { b } else { a });
        let mut single = BTreeMap::new();
        let mut unit = vec![0.0; d(&largest.0).len()];
        if let Some(one) = unit.get_mut(largest.1) {
            *one = 1.0;
        }
        single.insert(largest.0, unit);
        let mut checked = Checked {
            name,
            kind,
            elements,
            norm,
            error: 0.0,
            passed: true,
        };
        for direction in [random, single] {
            let along = |part: &Part, u: &Vec<f64>| -> f64 {
                d(part).iter().zip(u).map(|(d, u)| d * u).sum()
            };
            let exact: f64 = direction.iter().map(|(part, u)| along(part, u)).sum();
            let mut best = f64::INFINITY;
            let mut passed = false;
            for step in STEPS {
                let h = step * size;
                let mut side = |sign: f64| {
                    let mut moved = start.clone();
                    for (part, u) in &direction {
                        for (x, u) in moved.part(*part).iter_mut().zip(u) {
                            *x += sign * h * u;
                        }
                    }
                    run(&moved)
                };
                let ((above, scale), (below, _)) = (side(1.0)?, side(-1.0)?);
                let error = ((above - below) / (2.0 * h) - exact).abs();
                let rounding = 8.0 * f64::EPSILON * scale / h;
                let scale = norm.max(exact.abs());
                let relative = if scale > 0.0 { error / scale } else { error };
                best = best.min(relative);
                passed |= error <= BOUND * scale + rounding;
                if passed {
                    break;
                }
            }
            checked.error = checked.error.max(best);
            checked.passed &= passed;
        }
        checks.push(checked);
    }
    Ok(GradientReport {
        bound: BOUND,
        operations: [gradient.forward, gradient.graph.ops.len()],
        checks,
    })
}

fn index_of(part: &Part) -> usize {
    match part {
        Part::Param(p) => *p,
        Part::Input(id) => id.index(),
        Part::State(s) => *s,
    }
}

/// What is moved together: a parameter or state of all layers, an input.
fn groups(
    graph: &Graph,
    by: &[ValueId],
    derivatives: &BTreeMap<Part, Vec<f64>>,
) -> Vec<(String, &'static str, Vec<Part>)> {
    let mut groups: Vec<(String, &'static str, Vec<Part>)> = Vec::new();
    let mut add = |name: String, kind, part: Part| {
        if derivatives.get(&part).is_none_or(Vec::is_empty) {
            return;
        }
        match groups.iter_mut().find(|g| g.0 == name && g.1 == kind) {
            Some(group) => group.2.push(part),
            None => groups.push((name, kind, vec![part])),
        }
    };
    for (p, param) in graph.params.iter().enumerate() {
        add(without_layer(&param.name), "parameter", Part::Param(p));
    }
    for id in by {
        add(graph.value(*id).name.clone(), "input", Part::Input(*id));
    }
    for op in &graph.ops {
        let OpKind::Scan { states, .. } = &op.kind else {
            continue;
        };
        for id in states {
            let state = graph.state(*id);
            // There is no way along from an infinite number.
            if matches!(state.kind, StateKind::Scan { init } if init.is_finite()) {
                add(without_layer(&state.name), "state", Part::State(id.index()));
            }
        }
    }
    groups
}

/// `layers.3.time_mix.key` as `layers.*.time_mix.key`.
fn without_layer(name: &str) -> String {
    let mut parts: Vec<&str> = name.split('.').collect();
    if let ["layers", number, ..] = parts.as_mut_slice() {
        *number = "*";
    }
    parts.join(".")
}
