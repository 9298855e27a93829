//! Graphs by hand.

use crate::interpret::{Input, Interpreter, Keep, Outputs, Real, State};
use crate::*;
use std::collections::BTreeMap;

/// A graph under construction with the data of its parameters and inputs.
pub struct Builder {
    pub graph: Graph,
    pub params: Vec<Vec<f64>>,
    pub inputs: BTreeMap<ValueId, Vec<f64>>,
    pub ids: BTreeMap<ValueId, Vec<i32>>,
}

/// Numbers that look random, in [-1, 1), fixed by `seed`.
pub fn noise(seed: u64, n: usize) -> Vec<f64> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
        .collect()
}

pub fn input(i: usize) -> Expr {
    Expr::Input(i)
}

pub fn mul(a: Expr, b: Expr) -> Expr {
    Expr::binary(Binary::Mul, a, b)
}

pub fn add(a: Expr, b: Expr) -> Expr {
    Expr::binary(Binary::Add, a, b)
}

impl Builder {
    pub fn new() -> Self {
        Builder {
            graph: Graph {
                version: crate::graph::GRAPH_VERSION,
                name: "test".into(),
                axes: vec![],
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
            },
            params: vec![],
            inputs: BTreeMap::new(),
            ids: BTreeMap::new(),
        }
    }

    pub fn axis(&mut self, name: &str, size: usize) -> AxisId {
        let name = name.to_string();
        self.graph.axes.push(Axis { name, size });
        AxisId(self.graph.axes.len() as u32 - 1)
    }

    fn value(&mut self, name: &str, rows: bool, axes: &[AxisId], def: Def) -> ValueId {
        self.graph.values.push(Value {
            name: name.into(),
            rows,
            axes: axes.to_vec(),
            precision: Precision::Storage,
            def,
            layer: None,
        });
        ValueId(self.graph.values.len() as u32 - 1)
    }

    pub fn param(&mut self, name: &str, axes: &[AxisId], data: Vec<f64>) -> ValueId {
        let id = ParamId(self.graph.params.len() as u32);
        let value = self.value(name, false, axes, Def::Param(id));
        self.graph.params.push(Param {
            name: name.into(),
            value,
            source: None,
            init: Init::Constant(0.0),
            span: None,
        });
        self.params.push(data);
        value
    }

    pub fn input(&mut self, name: &str, axes: &[AxisId], data: Vec<f64>) -> ValueId {
        let id = self.value(name, true, axes, Def::Input);
        self.graph.inputs.push(id);
        self.inputs.insert(id, data);
        id
    }

    pub fn ids(&mut self, name: &str, data: Vec<i32>) -> ValueId {
        let id = self.value(name, true, &[], Def::Input);
        self.graph.values[id.index()].precision = Precision::Index;
        self.graph.inputs.push(id);
        self.ids.insert(id, data);
        id
    }

    /// A plain read of a value.
    pub fn read(&self, value: ValueId) -> Access {
        Access::plain(value, &self.graph.value(value).axes)
    }

    /// A read of row `t - delay`.
    pub fn delayed(&self, value: ValueId, delay: i32, tail: Option<StateId>) -> Access {
        Access {
            delay,
            tail,
            ..self.read(value)
        }
    }

    pub fn tail(&mut self, value: ValueId, width: u32) -> StateId {
        let axes = self.graph.value(value).axes.clone();
        self.state("tail", StateKind::Tail { value, width }, &axes)
    }

    pub fn state(&mut self, name: &str, kind: StateKind, axes: &[AxisId]) -> StateId {
        let id = StateId(self.graph.states.len() as u32);
        self.graph.states.push(crate::State {
            name: format!("{name}{}", id.0),
            kind,
            axes: axes.to_vec(),
            layer: None,
        });
        id
    }

    /// An operation with one result; it has rows if an input has.
    pub fn op(
        &mut self,
        name: &str,
        kind: OpKind,
        inputs: Vec<Access>,
        axes: &[AxisId],
    ) -> ValueId {
        let rows = inputs.iter().any(|a| self.graph.value(a.value).rows);
        self.op_with(name, kind, inputs, &[axes], rows, vec![])[0]
    }

    pub fn op_with(
        &mut self,
        name: &str,
        kind: OpKind,
        inputs: Vec<Access>,
        outputs: &[&[AxisId]],
        rows: bool,
        tails: Vec<StateId>,
    ) -> Vec<ValueId> {
        let op = OpId(self.graph.ops.len() as u32);
        let outputs: Vec<ValueId> = outputs
            .iter()
            .enumerate()
            .map(|(k, axes)| self.value(name, rows, axes, Def::Op(op, k as u32)))
            .collect();
        self.graph.ops.push(Op {
            name: name.into(),
            kind,
            inputs,
            outputs: outputs.clone(),
            tails,
            layer: None,
            span: None,
        });
        outputs
    }

    pub fn output(&mut self, value: ValueId) {
        self.graph.outputs.push(value);
    }

    /// Elements `from..to` of each batch row.
    fn cut<T: Copy>(data: &[T], batch: usize, from: usize, to: usize) -> Vec<T> {
        let per_batch = data.len() / batch;
        data.chunks_exact(per_batch)
            .flat_map(|b| b[from..to].to_vec())
            .collect()
    }

    /// Runs positions `from..to` of the inputs, which hold `time` positions.
    pub fn run_part<F: Real>(
        &self,
        state: &mut State<F>,
        (batch, time): (usize, usize),
        (from, to): (usize, usize),
        keep: Keep,
    ) -> Outputs<F> {
        let real = |x: &Vec<f64>| x.iter().map(|x| F::from_f64(*x)).collect::<Vec<F>>();
        let params = self.params.iter().map(real).collect();
        let interpreter = Interpreter::new(&self.graph, params).expect("a valid graph");
        let numbers: Vec<(ValueId, Vec<F>)> = self
            .inputs
            .iter()
            .map(|(id, data)| {
                let row = data.len() / batch / time;
                (*id, Self::cut(&real(data), batch, from * row, to * row))
            })
            .collect();
        let ids: Vec<(ValueId, Vec<i32>)> = self
            .ids
            .iter()
            .map(|(id, data)| (*id, Self::cut(data, batch, from, to)))
            .collect();
        let mut given = BTreeMap::new();
        for (id, data) in &numbers {
            given.insert(*id, Input::Numbers(data.as_slice()));
        }
        for (id, data) in &ids {
            given.insert(*id, Input::Ids(data.as_slice()));
        }
        interpreter
            .run(state, batch, to - from, &given, keep)
            .expect("a valid run")
    }

    /// Runs everything from the zero state and gives one value.
    pub fn eval(&self, batch: usize, time: usize, value: ValueId) -> Vec<f64> {
        let mut state = State::zero(&self.graph, batch);
        let outputs = self.run_part::<f64>(&mut state, (batch, time), (0, time), Keep::All);
        outputs.values[&value].numbers().expect("numbers").to_vec()
    }
}
