//! A small model with everything that an executor has to handle, compiled by hand: token ids, a
//! table, a load-time result, a stencil with its tail, the position, a scan, two regimes.
//!
//!     decay = sigmoid(decay_logit)                    at load
//!     x = table[ids]
//!     d = x - x[t - 1] / 2 + position / 1000
//!     S = decay * S + d ;  y = S                      S starts at 1/4

use fusec_codegen::manifest::MANIFEST_VERSION;
use fusec_codegen::prelude::with_prelude;
use fusec_codegen::{
    Arg, Buffer, BufferKind, Element, Extent, KernelImage, KernelParam, LaneGrid, Manifest,
    ParamKind, Regime, RowUnits, Step,
};
use fusec_fuse::{Shape, Storage};
use fusec_ir::graph::GRAPH_VERSION;
use fusec_ir::recurrence::{StepAccess, StepInput, StepKind, StepOp, StepRef, StepState};
use fusec_ir::{
    Access, Axis, AxisId, Binary, Def, Expr, Graph, IndexExpr, Init, Op, OpId, OpKind, Param,
    ParamId, Precision, Recurrence, RecurrenceId, State, StateId, StateKind, Unary, Value, ValueId,
};
use sha2::{Digest, Sha256};

/// Channels.
pub const C: usize = 5;
/// Entries of the table.
pub const V: usize = 11;

const TABLE: ValueId = ValueId(0);
const LOGIT: ValueId = ValueId(1);
const IDS: ValueId = ValueId(2);
const DECAY: ValueId = ValueId(3);
const X: ValueId = ValueId(4);
const D: ValueId = ValueId(5);
const Y: ValueId = ValueId(6);
const SCAN: StateId = StateId(0);
const TAIL: StateId = StateId(1);

/// The graph.
pub fn graph() -> Graph {
    let (c, v) = (AxisId(0), AxisId(1));
    let value = |name: &str, rows, axes: &[AxisId], precision, def| Value {
        name: name.into(),
        rows,
        axes: axes.to_vec(),
        precision,
        def,
        layer: None,
    };
    let op = |name: &str, kind, inputs, output, tails: &[StateId]| Op {
        name: name.into(),
        kind,
        inputs,
        outputs: vec![output],
        tails: tails.to_vec(),
        layer: None,
        span: None,
    };
    let param = |name: &str, value, init| Param {
        name: name.into(),
        value,
        source: None,
        init,
        span: None,
    };
    let input = |i| Box::new(Expr::Input(i));
    let of = |f, a, b| Expr::Binary(f, a, b);
    let stencil = of(
        Binary::Add,
        Box::new(of(
            Binary::Sub,
            input(0),
            Box::new(of(Binary::Mul, input(1), Box::new(Expr::Const(0.5)))),
        )),
        Box::new(of(
            Binary::Mul,
            Box::new(Expr::Position),
            Box::new(Expr::Const(0.001)),
        )),
    );
    let update = of(
        Binary::Add,
        Box::new(of(Binary::Mul, input(0), input(1))),
        input(2),
    );
    let read = |item| StepAccess {
        item,
        axes: vec![c],
    };
    Graph {
        version: GRAPH_VERSION,
        name: "sample".into(),
        axes: vec![
            Axis {
                name: "C".into(),
                size: C,
            },
            Axis {
                name: "V".into(),
                size: V,
            },
        ],
        params: vec![
            param("table", TABLE, Init::Uniform(-2.0, 2.0)),
            param("decay_logit", LOGIT, Init::Uniform(-1.0, 3.0)),
        ],
        recurrences: vec![Recurrence {
            name: "leak".into(),
            inputs: ["decay", "d"]
                .map(|name| StepInput {
                    name: name.into(),
                    axes: vec![c],
                })
                .to_vec(),
            states: vec![StepState {
                name: "S".into(),
                axes: vec![c],
                init: 0.25,
                kept: true,
            }],
            ops: vec![StepOp {
                places: fusec_ir::Places::default(),
                name: "S".into(),
                axes: vec![c],
                kind: StepKind::Map,
                expr: update,
                inputs: vec![
                    read(StepRef::Input(0)),
                    read(StepRef::State(0)),
                    read(StepRef::Input(1)),
                ],
            }],
            next: vec![StepRef::Op(0)],
            outputs: vec![StepRef::Op(0)],
            direction: fusec_ir::Direction::Forward,
        }],
        values: vec![
            value(
                "table",
                false,
                &[v, c],
                Precision::Storage,
                Def::Param(ParamId(0)),
            ),
            value(
                "decay_logit",
                false,
                &[c],
                Precision::F32,
                Def::Param(ParamId(1)),
            ),
            value("ids", true, &[], Precision::Index, Def::Input),
            value("decay", false, &[c], Precision::F32, Def::Op(OpId(0), 0)),
            value("x", true, &[c], Precision::Storage, Def::Op(OpId(1), 0)),
            value("d", true, &[c], Precision::F32, Def::Op(OpId(2), 0)),
            value("y", true, &[c], Precision::F32, Def::Op(OpId(3), 0)),
        ],
        ops: vec![
            op(
                "decay",
                OpKind::Map {
                    expr: Expr::Unary(Unary::Sigmoid, input(0)),
                },
                vec![Access::plain(LOGIT, &[c])],
                DECAY,
                &[],
            ),
            op(
                "x",
                OpKind::Gather,
                vec![
                    Access {
                        value: TABLE,
                        delay: 0,
                        tail: None,
                        index: vec![IndexExpr::at(0), IndexExpr::axis(c)],
                    },
                    Access::plain(IDS, &[]),
                ],
                X,
                &[],
            ),
            op(
                "d",
                OpKind::Map { expr: stencil },
                vec![
                    Access::plain(X, &[c]),
                    Access {
                        value: X,
                        delay: 1,
                        tail: Some(TAIL),
                        index: vec![IndexExpr::axis(c)],
                    },
                ],
                D,
                &[TAIL],
            ),
            op(
                "y",
                OpKind::Scan {
                    recurrence: RecurrenceId(0),
                    states: vec![SCAN],
                },
                vec![Access::plain(DECAY, &[c]), Access::plain(D, &[c])],
                Y,
                &[],
            ),
        ],
        states: vec![
            State {
                name: "leak.S".into(),
                kind: StateKind::Scan { init: 0.25 },
                axes: vec![c],
                layer: None,
            },
            State {
                name: "x.tail".into(),
                kind: StateKind::Tail { value: X, width: 1 },
                axes: vec![c],
                layer: None,
            },
        ],
        inputs: vec![IDS],
        outputs: vec![Y],
        layers: 0,
        pins: vec![],
        allow_unused: vec![],
        zeros: 0.0,
    }
}

const LOOK_UP: &str = r#"
extern "C" __global__ void fusec_look_up(const int* ids, const STORE* table, STORE* x) {
    const i64 row = blockIdx.x;
    for (int c = threadIdx.x; c < CHANNELS; c += 32)
        x[row * CHANNELS + c] = table[i64(ids[row]) * CHANNELS + c];
}
"#;

const STENCIL: &str = r#"
extern "C" __global__ void fusec_stencil(const STORE* x, const float* before, float* after, float* d, i64 T, i64 position) {
    const i64 row = blockIdx.x, b = row / T, t = row % T;
    for (int c = threadIdx.x; c < CHANNELS; c += 32) {
        const float now = to_f32(x[row * CHANNELS + c]);
        const float previous = t > 0 ? to_f32(x[(row - 1) * CHANNELS + c]) : before[b * CHANNELS + c];
        d[row * CHANNELS + c] = now - previous * 0.5f + float(position + t) * 0.001f;
        if (t == T - 1) after[b * CHANNELS + c] = now;
    }
}
"#;

const LEAK: &str = r#"
extern "C" __global__ void fusec_leak(const float* d, const float* decay, float* S, float* y, i64 T) {
    const i64 b = blockIdx.x;
    for (int c = threadIdx.x; c < CHANNELS; c += 32) {
        float s = S[b * CHANNELS + c];
        for (i64 t = 0; t < T; ++t) {
            s = decay[c] * s + d[(b * T + t) * CHANNELS + c];
            y[(b * T + t) * CHANNELS + c] = s;
        }
        S[b * CHANNELS + c] = s;
    }
}
"#;

const DECODE: &str = r#"
extern "C" __global__ void fusec_step(const int* ids, const STORE* table, const float* before, float* after,
                                const float* decay, float* S, float* y, i64 position) {
    const i64 b = blockIdx.x;
    for (int c = threadIdx.x; c < CHANNELS; c += 32) {
        const float now = to_f32(table[i64(ids[b]) * CHANNELS + c]);
        const float d = now - before[b * CHANNELS + c] * 0.5f + float(position) * 0.001f;
        after[b * CHANNELS + c] = now;
        const float s = decay[c] * S[b * CHANNELS + c] + d;
        S[b * CHANNELS + c] = s;
        y[b * CHANNELS + c] = s;
    }
}
"#;

fn sha256(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn kernel(body: &str, storage: Storage, params: &str) -> KernelImage {
    let store = match storage {
        Storage::F32 => "float",
        Storage::Bf16 => "bf16_t",
        Storage::F16 => "f16_t",
    };
    let body = body
        .replace("STORE", store)
        .replace("CHANNELS", &C.to_string());
    let source = with_prelude(&body);
    let name = body
        .split("void fusec_")
        .nth(1)
        .and_then(|rest| rest.split('(').next())
        .expect("a kernel has a name");
    KernelImage {
        name: name.into(),
        image: name.into(),
        entry: format!("fusec_{name}"),
        source_sha256: sha256(&source),
        source,
        threads: 32,
        shared_bytes: 0,
        min_arch: 75,
        params: params
            .split(' ')
            .map(|name| KernelParam {
                name: name.into(),
                kind: if ["T", "position"].contains(&name) {
                    ParamKind::I64
                } else {
                    ParamKind::Pointer
                },
            })
            .collect(),
    }
}

/// The manifest: prefill in three kernels, decode in one.
pub fn manifest(storage: Storage) -> Manifest {
    let kernels = vec![
        kernel(LOOK_UP, storage, "ids table x"),
        kernel(STENCIL, storage, "x before after d T position"),
        kernel(LEAK, storage, "d decay S y T"),
        kernel(DECODE, storage, "ids table before after decay S y position"),
    ];
    let graph = graph();
    let buffer = |name: &str, kind, element, elements, extent| Buffer {
        name: name.into(),
        kind,
        element,
        elements,
        extent,
    };
    let store = Element::from(storage);
    let buffers = vec![
        buffer("ids", BufferKind::Input(IDS), Element::I32, 1, Extent::Rows),
        buffer(
            "table",
            BufferKind::Param(ParamId(0)),
            store,
            V * C,
            Extent::Fixed,
        ),
        buffer("x", BufferKind::Scratch(X), store, C, Extent::Rows),
        buffer(
            "x.tail",
            BufferKind::Tail(TAIL),
            Element::F32,
            C,
            Extent::Batch,
        ),
        buffer("d", BufferKind::Scratch(D), Element::F32, C, Extent::Rows),
        buffer(
            "decay",
            BufferKind::LoadTime(DECAY),
            Element::F32,
            C,
            Extent::Fixed,
        ),
        buffer(
            "leak.S",
            BufferKind::State(SCAN),
            Element::F32,
            C,
            Extent::Batch,
        ),
        buffer("y", BufferKind::Output(Y), Element::F32, C, Extent::Rows),
    ];
    let step = |kernel, rows, args: &[Arg], reads: &[usize], writes: &[usize]| Step {
        kernel,
        plan_kernel: kernel,
        lanes: vec![LaneGrid { blocks: 1, rows }],
        args: args.to_vec(),
        reads: reads.to_vec(),
        writes: writes.to_vec(),
        cooperative: false,
        persistent: false,
        early: false,
        one_row: false,
        tensor_maps: Vec::new(),
    };
    use Arg::{Buffer as At, NewTail, OldTail, Position, Time};
    let every_row = RowUnits::Tiles(1);
    let prefill = vec![
        step(0, every_row, &[At(0), At(1), At(2)], &[0, 1], &[2]),
        step(
            1,
            every_row,
            &[At(2), OldTail(3), NewTail(3), At(4), Time, Position],
            &[2, 3],
            &[3, 4],
        ),
        step(
            2,
            RowUnits::Batch,
            &[At(4), At(5), At(6), At(7), Time],
            &[4, 5, 6],
            &[6, 7],
        ),
    ];
    let decode = vec![step(
        3,
        RowUnits::Batch,
        &[
            At(0),
            At(1),
            OldTail(3),
            NewTail(3),
            At(5),
            At(6),
            At(7),
            Position,
        ],
        &[0, 1, 3, 5, 6],
        &[3, 6, 7],
    )];
    let regime = |name: &str, min_time, max_time, time, steps| Regime {
        name: name.into(),
        min_time,
        max_time,
        shape: Shape { batch: 1, time },
        graph: graph.clone(),
        buffers: buffers.clone(),
        steps,
    };
    Manifest {
        version: MANIFEST_VERSION,
        model: "sample".into(),
        storage,
        // Its kernels bring their primitives along.
        prelude: String::new(),
        prelude_sha256: sha256(""),
        kernels,
        regimes: vec![
            regime("decode", 1, Some(1), 1, decode),
            regime("prefill", 2, None, 64, prefill),
        ],
    }
}

/// Token ids, different everywhere, all inside the table.
pub fn ids(batch: usize, time: usize, seed: usize) -> Vec<i32> {
    (0..batch * time)
        .map(|i| ((i * 7 + seed * 3 + i * i / 5) % V) as i32)
        .collect()
}
