use fusec_ir::*;
struct G {
    g: Graph,
}
impl G {
    fn axis(&mut self, name: &str, size: usize) -> AxisId {
        self.g.axes.push(Axis {
            name: name.into(),
            size,
        });
        AxisId(self.g.axes.len() as u32 - 1)
    }
    fn value(
        &mut self,
        name: &str,
        rows: bool,
        axes: &[AxisId],
        precision: Precision,
        def: Def,
    ) -> ValueId {
        self.g.values.push(Value {
            name: name.into(),
            rows,
            axes: axes.to_vec(),
            precision,
            def,
            layer: None,
        });
        ValueId(self.g.values.len() as u32 - 1)
    }
    fn param(&mut self, name: &str, axes: &[AxisId]) -> ValueId {
        let p = ParamId(self.g.params.len() as u32);
        let v = self.value(name, false, axes, Precision::Storage, Def::Param(p));
        self.g.params.push(Param {
            name: name.into(),
            value: v,
            source: None,
            init: Init::Normal(0.1),
            span: None,
        });
        v
    }
    fn op(&mut self, name: &str, kind: OpKind, inputs: Vec<Access>, axes: &[AxisId]) -> ValueId {
        let o = OpId(self.g.ops.len() as u32);
        let v = self.value(name, true, axes, Precision::Storage, Def::Op(o, 0));
        self.g.ops.push(Op {
            name: name.into(),
            kind,
            inputs,
            outputs: vec![v],
            tails: vec![],
            layer: None,
            span: None,
        });
        v
    }
    fn a(&self, v: ValueId) -> Access {
        Access::plain(v, &self.g.value(v).axes)
    }
}
fn main() {
    let mut b = G {
        g: Graph {
            version: 1,
            name: "look".into(),
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
        },
    };
    let v = b.axis("V", 256);
    let h = b.axis("H", 2);
    let n = b.axis("N", 64);
    let hp = b.axis("H'", 2);
    let np = b.axis("N'", 64);
    let i = b.axis("i", 64);
    let j = b.axis("j", 64);
    let ids = b.value("ids", true, &[], Precision::Index, Def::Input);
    b.g.inputs.push(ids);
    let emb = b.param("emb", &[v, h, n]);
    let lnw = b.param("ln_w", &[h, n]);
    let mu = b.param("mu", &[h, n]);
    let wr = b.param("receptance", &[h, n, h, n]);
    let x = b.op(
        "x",
        OpKind::Gather,
        vec![
            Access {
                value: emb,
                delay: 0,
                tail: None,
                index: vec![IndexExpr::at(0), IndexExpr::axis(h), IndexExpr::axis(n)],
            },
            b.a(ids),
        ],
        &[h, n],
    );
    let xn = b.op(
        "xn",
        OpKind::Norm {
            kind: NormKind::Layer,
            axes: vec![h, n],
            eps: 1e-5,
            gain: true,
            bias: false,
        },
        vec![b.a(x), b.a(lnw)],
        &[h, n],
    );
    b.g.states.push(State {
        name: "xn.tail".into(),
        kind: StateKind::Tail {
            value: xn,
            width: 1,
        },
        axes: vec![h, n],
        layer: None,
    });
    let mut d = b.a(xn);
    d.delay = 1;
    d.tail = Some(StateId(0));
    let e = Expr::binary(
        Binary::Add,
        Expr::Input(0),
        Expr::binary(
            Binary::Mul,
            Expr::binary(Binary::Sub, Expr::Input(1), Expr::Input(0)),
            Expr::Input(2),
        ),
    );
    let xr = b.op(
        "xr",
        OpKind::Map { expr: e },
        vec![b.a(xn), d, b.a(mu)],
        &[h, n],
    );
    b.g.ops.last_mut().unwrap().tails = vec![StateId(0)];
    let w = Access {
        value: wr,
        delay: 0,
        tail: None,
        index: vec![
            IndexExpr::axis(h),
            IndexExpr::axis(n),
            IndexExpr::axis(hp),
            IndexExpr::axis(np),
        ],
    };
    let xa = Access {
        value: xr,
        delay: 0,
        tail: None,
        index: vec![IndexExpr::axis(hp), IndexExpr::axis(np)],
    };
    let r = b.op(
        "r",
        OpKind::Contract { axes: vec![hp, np] },
        vec![xa, w],
        &[h, n],
    );
    let k = b.op(
        "k",
        OpKind::Map {
            expr: Expr::unary(Unary::Sigmoid, Expr::Input(0)),
        },
        vec![b.a(r)],
        &[h, n],
    );
    let rec = Recurrence {
        name: "delta".into(),
        inputs: vec![
            StepInput {
                name: "k".into(),
                axes: vec![h, j],
            },
            StepInput {
                name: "v".into(),
                axes: vec![h, i],
            },
        ],
        states: vec![StepState {
            name: "S".into(),
            axes: vec![h, i, j],
            init: 0.0,
        }],
        ops: vec![
            StepOp {
                name: "sa".into(),
                axes: vec![h, i],
                kind: StepKind::Reduce {
                    combine: Combine::Sum,
                    axes: vec![j],
                },
                expr: Expr::binary(Binary::Mul, Expr::Input(0), Expr::Input(1)),
                inputs: vec![
                    StepAccess {
                        item: StepRef::State(0),
                        axes: vec![h, i, j],
                    },
                    StepAccess {
                        item: StepRef::Input(0),
                        axes: vec![h, j],
                    },
                ],
            },
            StepOp {
                name: "S2".into(),
                axes: vec![h, i, j],
                kind: StepKind::Map,
                expr: Expr::binary(
                    Binary::Add,
                    Expr::binary(Binary::Mul, Expr::Input(0), Expr::Const(0.9)),
                    Expr::binary(
                        Binary::Mul,
                        Expr::binary(Binary::Sub, Expr::Input(1), Expr::Input(3)),
                        Expr::Input(2),
                    ),
                ),
                inputs: vec![
                    StepAccess {
                        item: StepRef::State(0),
                        axes: vec![h, i, j],
                    },
                    StepAccess {
                        item: StepRef::Input(1),
                        axes: vec![h, i],
                    },
                    StepAccess {
                        item: StepRef::Input(0),
                        axes: vec![h, j],
                    },
                    StepAccess {
                        item: StepRef::Op(0),
                        axes: vec![h, i],
                    },
                ],
            },
            StepOp {
                name: "y".into(),
                axes: vec![h, i],
                kind: StepKind::Reduce {
                    combine: Combine::Sum,
                    axes: vec![j],
                },
                expr: Expr::binary(Binary::Mul, Expr::Input(0), Expr::Input(1)),
                inputs: vec![
                    StepAccess {
                        item: StepRef::Op(1),
                        axes: vec![h, i, j],
                    },
                    StepAccess {
                        item: StepRef::Input(0),
                        axes: vec![h, j],
                    },
                ],
            },
        ],
        next: vec![StepRef::Op(1)],
        outputs: vec![StepRef::Op(2)],
    };
    b.g.recurrences.push(rec);
    b.g.states.push(State {
        name: "wkv.S".into(),
        kind: StateKind::Scan { init: 0.0 },
        axes: vec![h, i, j],
        layer: None,
    });
    let f = |v, bx: AxisId| Access {
        value: v,
        delay: 0,
        tail: None,
        index: vec![IndexExpr::axis(h), IndexExpr::axis(bx)],
    };
    let y = b.op(
        "y",
        OpKind::Scan {
            recurrence: RecurrenceId(0),
            states: vec![StateId(1)],
        },
        vec![f(k, j), f(xr, i)],
        &[h, i],
    );
    let gn = b.op(
        "gn",
        OpKind::Norm {
            kind: NormKind::Rms,
            axes: vec![i],
            eps: 1e-5,
            gain: false,
            bias: false,
        },
        vec![b.a(y)],
        &[h, i],
    );
    let out = b.op(
        "out",
        OpKind::Map {
            expr: Expr::binary(
                Binary::Mul,
                Expr::Input(0),
                Expr::unary(Unary::Silu, Expr::Input(1)),
            ),
        },
        vec![
            b.a(gn),
            Access {
                value: r,
                delay: 0,
                tail: None,
                index: vec![IndexExpr::axis(h), IndexExpr::axis(i)],
            },
        ],
        &[h, i],
    );
    b.g.outputs.push(out);
    let g = b.g;
    let dev = fusec_fuse::Device::find("h200").unwrap();
    let t: usize = std::env::args().nth(1).map_or(37, |s| s.parse().unwrap());
    let mode: fusec_fuse::Mode = std::env::args()
        .nth(2)
        .map_or(fusec_fuse::Mode::Unfused, |s| s.parse().unwrap());
    let p = fusec_fuse::plan(
        &g,
        &fusec_fuse::Options {
            shape: fusec_fuse::Shape { batch: 1, time: t },
            storage: fusec_fuse::Storage::Bf16,
            mode,
            device: &dev,
            launch: fusec_fuse::Launch::Graph,
            pins: vec![],
        },
    )
    .unwrap();
    let m = fusec_codegen::generate(
        "look",
        fusec_fuse::Storage::Bf16,
        90,
        &[fusec_codegen::Planned {
            name: "prefill",
            min_time: 1,
            max_time: None,
            graph: &p.graph,
            plan: &p.plan,
        }],
    )
    .unwrap();
    for k in &m.kernels {
        println!("{}", k.source);
    }
}
