//! Elements placed through an access: the transpose of a read, by kernels.

use crate::common::{Case, check};
use fusec_fuse::{Mode, Storage};
use fusec_ir::graph::GRAPH_VERSION;
use fusec_ir::{
    Access, Axis, AxisId, Def, Graph, IndexExpr, Op, OpId, OpKind, Precision, Value, ValueId,
};

/// A graph that places each element of a row over axes of sizes `from` in a row over axes of sizes `to`:
/// `index` has for each axis of the result its base, and coefficients of axes of what is placed.
fn placing(from: &[usize], to: &[usize], index: &[(i64, &[(u32, i64)])]) -> Graph {
    let sizes = from.iter().chain(to).enumerate();
    let axes = sizes.map(|(i, size)| Axis {
        name: format!("A{i}"),
        size: *size,
    });
    let own: Vec<AxisId> = (0..from.len() as u32).map(AxisId).collect();
    let placed = (from.len()..from.len() + to.len()).map(|i| AxisId(i as u32));
    let value = |name: &str, axes: Vec<AxisId>, def| Value {
        name: name.into(),
        rows: true,
        axes,
        precision: Precision::Storage,
        def,
        layer: None,
    };
    let index = index.iter().map(|(base, terms)| IndexExpr {
        base: *base,
        terms: terms.iter().map(|(axis, c)| (AxisId(*axis), *c)).collect(),
    });
    Graph {
        version: GRAPH_VERSION,
        name: "placing".into(),
        axes: axes.collect(),
        params: vec![],
        recurrences: vec![],
        values: vec![
            value("x", own.clone(), Def::Input),
            value("y", placed.collect(), Def::Op(OpId(0), 0)),
        ],
        ops: vec![Op {
            name: "y".into(),
            kind: OpKind::Scatter {
                axes: own.clone(),
                index: index.collect(),
            },
            inputs: vec![Access::plain(ValueId(0), &own)],
            outputs: vec![ValueId(1)],
            tails: vec![],
            layer: None,
            span: None,
        }],
        states: vec![],
        inputs: vec![ValueId(0)],
        outputs: vec![ValueId(1)],
        layers: 0,
        pins: vec![],
        allow_unused: vec![],
        zeros: 0.0,
    }
}

/// Sizes of the axes of what is placed and of the result, and where an element goes.
type Placing<'a> = (
    &'a str,
    &'a [usize],
    &'a [usize],
    &'a [(i64, &'a [(u32, i64)])],
);

#[test]
fn elements_are_placed_where_they_were_read() {
    let cases: [Placing<'_>; 11] = [
        ("a slice", &[7], &[20], &[(5, &[(0, 1)])]),
        (
            "all in their places",
            &[4, 6],
            &[4, 6],
            &[(0, &[(0, 1)]), (0, &[(1, 1)])],
        ),
        (
            "exchanged axes",
            &[4, 6],
            &[6, 4],
            &[(0, &[(1, 1)]), (0, &[(0, 1)])],
        ),
        ("from the other end", &[9], &[9], &[(8, &[(0, -1)])]),
        ("every third", &[5], &[16], &[(1, &[(0, 3)])]),
        ("joined axes", &[3, 4], &[12], &[(0, &[(0, 4), (1, 1)])]),
        (
            "joined axes with gaps",
            &[3, 4],
            &[40],
            &[(2, &[(0, 12), (1, 3)])],
        ),
        (
            "a window that overlaps",
            &[5, 4],
            &[8],
            &[(0, &[(0, 1), (1, 1)])],
        ),
        (
            "a diagonal",
            &[5],
            &[5, 5],
            &[(0, &[(0, 1)]), (0, &[(0, 1)])],
        ),
        (
            "summed in one place",
            &[3, 5],
            &[2, 5],
            &[(1, &[]), (0, &[(1, 1)])],
        ),
        (
            "a row of more than one block",
            &[300, 4],
            &[700, 4],
            &[(50, &[(0, 2)]), (0, &[(1, 1)])],
        ),
    ];
    for (name, from, to, index) in cases {
        let graph = placing(from, to, index);
        for (storage, mode, batch, times) in [
            (Storage::F32, Mode::Unfused, 3, &[37, 1][..]),
            (Storage::Bf16, Mode::Auto, 1, &[65]),
        ] {
            let case = Case {
                name,
                graph: &graph,
                storage,
                mode,
                batch,
                times,
                bound: if storage == Storage::F32 { 1e-6 } else { 1e-2 },
            };
            check(&case).unwrap_or_else(|why| panic!("{name}: {why}"));
        }
    }
}
