//! A small builder of graphs for tests.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod random;

use fusec_fuse::context::Context;
use fusec_fuse::{Device, Mode, Options, Shape, Storage, Submit};
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::*;
use std::path::{Path, PathBuf};

pub struct Build {
    pub graph: Graph,
    pub layer: Option<u32>,
}

impl Build {
    pub fn new() -> Build {
        Build {
            graph: Graph {
                version: graph::GRAPH_VERSION,
                name: "test".into(),
                axes: vec![],
                params: vec![],
                recurrences: vec![],
                values: vec![],
                ops: vec![],
                states: vec![],
                inputs: vec![],
                outputs: vec![],
                layers: 0,
                pins: vec![],
                allow_unused: vec![],
                zeros: 0.0,
            },
            layer: None,
        }
    }

    /// An axis; the same name and size give the same one, as in the model language.
    pub fn axis(&mut self, name: &str, size: usize) -> AxisId {
        let axes = self.graph.axes.iter();
        if let Some(i) = axes
            .into_iter()
            .position(|a| a.name == name && a.size == size)
        {
            return AxisId(i as u32);
        }
        self.graph.axes.push(Axis {
            name: name.into(),
            size,
        });
        AxisId(self.graph.axes.len() as u32 - 1)
    }

    fn value(&mut self, name: &str, rows: bool, axes: &[AxisId], def: Def) -> ValueId {
        self.graph.values.push(Value {
            name: name.into(),
            rows,
            axes: axes.to_vec(),
            precision: Precision::Storage,
            def,
            layer: self.layer,
        });
        ValueId(self.graph.values.len() as u32 - 1)
    }

    pub fn input(&mut self, name: &str, axes: &[AxisId]) -> ValueId {
        let v = self.value(name, true, axes, Def::Input);
        self.graph.inputs.push(v);
        v
    }

    pub fn param(&mut self, name: &str, axes: &[AxisId]) -> ValueId {
        let id = ParamId(self.graph.params.len() as u32);
        let v = self.value(name, false, axes, Def::Param(id));
        let name = match self.layer {
            Some(layer) => format!("layers.{layer}.{name}"),
            None => name.to_string(),
        };
        self.graph.params.push(Param {
            name,
            value: v,
            source: None,
            init: Init::Normal(0.5),
            span: None,
        });
        v
    }

    pub fn op(
        &mut self,
        name: &str,
        kind: OpKind,
        inputs: Vec<Access>,
        axes: &[AxisId],
    ) -> ValueId {
        let id = OpId(self.graph.ops.len() as u32);
        let rows = inputs.iter().any(|a| self.graph.value(a.value).rows);
        let v = self.value(name, rows, axes, Def::Op(id, 0));
        let owned: Vec<StateId> = inputs.iter().filter_map(|a| a.tail).collect();
        let tails = owned
            .into_iter()
            .filter(|s| !self.graph.ops.iter().any(|op| op.tails.contains(s)))
            .collect();
        self.graph.ops.push(Op {
            name: name.into(),
            kind,
            inputs,
            outputs: vec![v],
            tails,
            layer: self.layer,
            span: None,
        });
        v
    }

    pub fn read(&self, v: ValueId) -> Access {
        Access::plain(v, &self.graph.value(v).axes)
    }

    /// Reads row `t - delay`, with a tail of its own.
    pub fn late(&mut self, v: ValueId, delay: i32) -> Access {
        let axes = self.graph.value(v).axes.clone();
        let tail = StateId(self.graph.states.len() as u32);
        self.graph.states.push(State {
            name: format!("tail{}", tail.0),
            kind: StateKind::Tail {
                value: v,
                width: delay as u32,
            },
            axes: axes.clone(),
            layer: self.layer,
        });
        Access {
            delay,
            tail: Some(tail),
            ..Access::plain(v, &axes)
        }
    }

    /// Sum of its operands, over the axes of the first, each read along its own axes.
    pub fn add(&mut self, name: &str, of: &[ValueId]) -> ValueId {
        let axes = self.graph.value(of[0]).axes.clone();
        let inputs = of.iter().map(|v| self.read(*v)).collect();
        self.sum(name, inputs, &axes)
    }

    pub fn sum(&mut self, name: &str, inputs: Vec<Access>, axes: &[AxisId]) -> ValueId {
        let expr = (1..inputs.len()).fold(Expr::Input(0), |e, i| {
            Expr::binary(Binary::Add, e, Expr::Input(i))
        });
        self.op(name, OpKind::Map { expr }, inputs, axes)
    }

    pub fn unary(&mut self, name: &str, f: Unary, of: ValueId) -> ValueId {
        let axes = self.graph.value(of).axes.clone();
        let inputs = vec![self.read(of)];
        let expr = Expr::unary(f, Expr::Input(0));
        self.op(name, OpKind::Map { expr }, inputs, &axes)
    }

    pub fn norm(&mut self, name: &str, of: ValueId, over: &[AxisId]) -> ValueId {
        let axes = self.graph.value(of).axes.clone();
        let inputs = vec![self.read(of)];
        let kind = OpKind::Norm {
            kind: NormKind::Rms,
            axes: over.to_vec(),
            eps: 1e-5,
            gain: false,
            bias: false,
        };
        self.op(name, kind, inputs, &axes)
    }

    pub fn reduce(&mut self, name: &str, of: ValueId, over: &[AxisId]) -> ValueId {
        let mut axes = self.graph.value(of).axes.clone();
        axes.retain(|a| !over.contains(a));
        let inputs = vec![self.read(of)];
        let kind = OpKind::Reduce {
            expr: Expr::Input(0),
            combine: Combine::Sum,
            axes: over.to_vec(),
        };
        self.op(name, kind, inputs, &axes)
    }

    /// Attention over 8 rows, with products along `of`; the result is over `axes`.
    pub fn attend(
        &mut self,
        name: &str,
        (q, k, v): (ValueId, ValueId, ValueId),
        of: &[AxisId],
        axes: &[AxisId],
    ) -> ValueId {
        let inputs = vec![self.read(q), self.late(k, 7), self.late(v, 7)];
        let kind = OpKind::Attend {
            axes: of.to_vec(),
            window: 8,
            scale: 0.5,
        };
        self.op(name, kind, inputs, axes)
    }

    /// `of[k] * W[k, out]` with a new matrix.
    pub fn project(&mut self, name: &str, of: ValueId, out: &[AxisId]) -> ValueId {
        let of = self.read(of);
        self.project_access(name, of, out)
    }

    pub fn project_access(&mut self, name: &str, of: Access, out: &[AxisId]) -> ValueId {
        let k = self.graph.value(of.value).axes.clone();
        let summed: Vec<AxisId> = k
            .iter()
            .map(|a| {
                if out.contains(a) {
                    let (name, size) = (self.graph.axis_name(*a).to_string(), self.graph.size(*a));
                    self.axis(&format!("{name}'"), size)
                } else {
                    *a
                }
            })
            .collect();
        let w = self.param(&format!("{name}.w"), &[&k[..], out].concat());
        let mut index = Access::plain(w, &summed).index;
        index.extend(Access::plain(w, out).index);
        let weight = Access {
            value: w,
            delay: 0,
            tail: None,
            index,
        };
        let activation = Access {
            index: Access::plain(of.value, &summed).index,
            ..of
        };
        self.op(
            name,
            OpKind::Contract { axes: summed },
            vec![activation, weight],
            out,
        )
    }

    /// `h = decay * h + x` over the axes of `x`; returns `h` after the step.
    pub fn ema(&mut self, name: &str, decay: ValueId, x: ValueId) -> ValueId {
        let axes = self.graph.value(x).axes.clone();
        let item = |item| StepAccess {
            item,
            axes: axes.clone(),
        };
        let step = Recurrence {
            name: "ema".into(),
            inputs: ["a", "x"]
                .map(|n| StepInput {
                    name: n.into(),
                    axes: axes.clone(),
                })
                .to_vec(),
            states: vec![StepState {
                name: "h".into(),
                axes: axes.clone(),
                init: 0.0,
                kept: true,
            }],
            ops: vec![StepOp {
                places: fusec_ir::Places::default(),
                name: "h".into(),
                axes: axes.clone(),
                kind: StepKind::Map,
                expr: Expr::binary(
                    Binary::Add,
                    Expr::binary(Binary::Mul, Expr::Input(0), Expr::Input(1)),
                    Expr::Input(2),
                ),
                inputs: vec![
                    item(StepRef::Input(0)),
                    item(StepRef::State(0)),
                    item(StepRef::Input(1)),
                ],
            }],
            next: vec![StepRef::Op(0)],
            outputs: vec![StepRef::Op(0)],
            direction: fusec_ir::Direction::Forward,
        };
        let inputs = vec![self.read(decay), self.read(x)];
        self.scan(name, step, inputs)
    }

    /// `S[a, b] = decay[a] S[a, b] + k[a] v[b]`, `y[b] = sum_a q[a] S[a, b]`, all beside `heads`.
    #[allow(clippy::too_many_arguments, reason = "the operands of a recurrence")]
    pub fn outer(
        &mut self,
        name: &str,
        heads: &[AxisId],
        (a, b): (AxisId, AxisId),
        decay: Access,
        k: Access,
        v: Access,
        q: Access,
    ) -> ValueId {
        let with = |last: &[AxisId]| -> Vec<AxisId> { [heads, last].concat() };
        let item = |item, axes: Vec<AxisId>| StepAccess { item, axes };
        let input = |name: &str, axes: Vec<AxisId>| StepInput {
            name: name.into(),
            axes,
        };
        let mul = |x, y| Expr::binary(Binary::Mul, x, y);
        let step = Recurrence {
            name: "outer".into(),
            inputs: vec![
                input("d", with(&[a])),
                input("k", with(&[a])),
                input("v", with(&[b])),
                input("q", with(&[a])),
            ],
            states: vec![StepState {
                name: "S".into(),
                axes: with(&[a, b]),
                init: 0.0,
                kept: true,
            }],
            ops: vec![
                StepOp {
                    places: fusec_ir::Places::default(),
                    name: "S".into(),
                    axes: with(&[a, b]),
                    kind: StepKind::Map,
                    expr: Expr::binary(
                        Binary::Add,
                        mul(Expr::Input(0), Expr::Input(1)),
                        mul(Expr::Input(2), Expr::Input(3)),
                    ),
                    inputs: vec![
                        item(StepRef::Input(0), with(&[a])),
                        item(StepRef::State(0), with(&[a, b])),
                        item(StepRef::Input(1), with(&[a])),
                        item(StepRef::Input(2), with(&[b])),
                    ],
                },
                StepOp {
                    places: fusec_ir::Places::default(),
                    name: "y".into(),
                    axes: with(&[b]),
                    kind: StepKind::Reduce {
                        combine: Combine::Sum,
                        axes: vec![a],
                    },
                    expr: mul(Expr::Input(0), Expr::Input(1)),
                    inputs: vec![
                        item(StepRef::Input(3), with(&[a])),
                        item(StepRef::Op(0), with(&[a, b])),
                    ],
                },
            ],
            next: vec![StepRef::Op(0)],
            outputs: vec![StepRef::Op(1)],
            direction: fusec_ir::Direction::Forward,
        };
        self.scan(name, step, vec![decay, k, v, q])
    }

    pub fn scan(&mut self, name: &str, step: Recurrence, inputs: Vec<Access>) -> ValueId {
        let recurrence = match self.graph.recurrences.iter().position(|r| *r == step) {
            Some(i) => RecurrenceId(i as u32),
            None => {
                self.graph.recurrences.push(step);
                RecurrenceId(self.graph.recurrences.len() as u32 - 1)
            }
        };
        let step = self.graph.recurrence(recurrence).clone();
        let states = step
            .states
            .iter()
            .map(|s| {
                self.graph.states.push(State {
                    name: format!("state{}", self.graph.states.len()),
                    kind: StateKind::Scan { init: s.init },
                    axes: s.axes.clone(),
                    layer: self.layer,
                });
                StateId(self.graph.states.len() as u32 - 1)
            })
            .collect();
        let axes = step.axes_of(step.outputs[0]).to_vec();
        self.op(name, OpKind::Scan { recurrence, states }, inputs, &axes)
    }

    /// The recurrence of a value, from the last row to the first.
    pub fn backwards(&mut self, value: ValueId) {
        let op = self.of(value);
        let last = RecurrenceId(self.graph.recurrences.len() as u32);
        if let OpKind::Scan { recurrence, .. } = &mut self.graph.ops[op.index()].kind {
            let step = self.graph.recurrences[recurrence.index()].clone();
            *recurrence = last;
            self.graph.recurrences.push(Recurrence {
                direction: fusec_ir::Direction::Reverse,
                ..step
            });
        }
    }

    /// A read of a later row.
    pub fn early(&self, value: ValueId, rows: i32) -> Access {
        Access {
            delay: -rows,
            ..self.read(value)
        }
    }

    pub fn output(mut self, of: &[ValueId]) -> Graph {
        self.graph.outputs = of.to_vec();
        self.graph
    }

    pub fn of(&self, v: ValueId) -> OpId {
        self.graph.producer(v).expect("made by an operation")
    }
}

pub fn h200() -> Device {
    Device::find("h200").expect("compiled in")
}

pub fn context<'a>(graph: &'a Graph, device: &'a Device, batch: usize, time: usize) -> Context<'a> {
    Context::new(graph, Shape { batch, time }, Storage::F32, device, 1.0)
}

pub fn options(device: &Device, batch: usize, time: usize, mode: Mode) -> Options<'_> {
    Options {
        shape: Shape { batch, time },
        storage: Storage::Bf16,
        mode,
        device,
        launch: Submit::Graph,
        pins: vec![],
    }
}

/// The models of the repository.
pub fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

/// A model of the zoo.
pub fn model(name: &str, preset: Option<&str>) -> Graph {
    let path = models().join(format!("{name}.toml"));
    let source = ModelSource::from_path(&path).expect("a model of the repository");
    let overrides = Overrides {
        preset: preset.map(String::from),
        ..Overrides::default()
    };
    match compile(&source, &overrides) {
        Ok(graph) => graph,
        Err(error) => panic!("{name}: {error}"),
    }
}

/// Every `.toml` of models/, by name.
pub fn zoo() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(models())
        .expect("models/")
        .filter_map(|entry| {
            let path = entry.expect("an entry").path();
            let is_model = path.extension().is_some_and(|e| e == "toml");
            let stem = path.file_stem()?.to_str()?.to_string();
            is_model.then_some(stem)
        })
        .collect();
    names.sort();
    names
}
