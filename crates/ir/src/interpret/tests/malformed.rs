//! Nothing given from outside makes the interpreter panic: it says what is wrong.

use super::builder::{Builder, input};
use crate::interpret::{Input, Interpreter, Keep, State};
use crate::*;
use std::collections::BTreeMap;

/// `y = delayed x + w` over A, with a tail.
fn graph() -> Builder {
    let mut g = Builder::new();
    let a = g.axis("A", 3);
    let x = g.input("x", &[a], vec![0.0; 6]);
    let w = g.param("w", &[a], vec![1.0; 3]);
    let tail = g.tail(x, 1);
    let inputs = vec![g.delayed(x, 1, Some(tail)), g.read(w)];
    let kind = OpKind::Map {
        expr: super::builder::add(input(0), input(1)),
    };
    let y = g.op_with("y", kind, inputs, &[&[a]], true, vec![tail])[0];
    g.output(y);
    g
}

#[test]
fn graphs_that_break_the_rules() {
    type Break = fn(&mut Graph);
    let cases: [(&str, Break, &str); 14] = [
        (
            "no such value",
            |g| g.ops[0].inputs[0].value = ValueId(99),
            "value 99",
        ),
        (
            "too few indices",
            |g| g.ops[0].inputs[1].index.clear(),
            "0 indices",
        ),
        (
            "index out of range",
            |g| g.ops[0].inputs[1].index[0].base = 1,
            "1..=3 along `A`, which has 3",
        ),
        (
            "huge coefficient",
            |g| g.ops[0].inputs[1].index[0].terms[0].1 = i64::MAX,
            "along `A`",
        ),
        ("missing tail", |g| g.ops[0].inputs[0].tail = None, "tail"),
        ("tail too short", |g| g.ops[0].inputs[0].delay = 2, "2 rows"),
        (
            "tail nobody updates",
            |g| g.ops[0].tails.clear(),
            "0 operations",
        ),
        (
            "delay without rows",
            |g| g.ops[0].inputs[1].delay = 1,
            "no rows",
        ),
        (
            "expression input",
            |g| g.ops[0].kind = OpKind::Map { expr: input(7) },
            "input 7 of 2",
        ),
        (
            "no such axis",
            |g| g.values[0].axes = vec![AxisId(9)],
            "axis 9",
        ),
        ("size 0", |g| g.axes[0].size = 0, "size 0"),
        ("overflow", |g| g.axes[0].size = usize::MAX, "elements"),
        (
            "arity",
            |g| g.ops[0].kind = OpKind::Gather,
            "table is not indexed by 0",
        ),
        (
            "no such recurrence",
            |g| {
                g.ops[0].kind = OpKind::Scan {
                    recurrence: RecurrenceId(5),
                    states: vec![],
                }
            },
            "recurrence 5",
        ),
    ];
    for (name, break_it, says) in cases {
        let mut g = graph();
        break_it(&mut g.graph);
        let error = Interpreter::<f32>::new(&g.graph, vec![vec![1.0; 3]]).map(|_| ());
        let message = error.expect_err(name).to_string();
        assert!(message.contains(says), "{name}: {message}");
    }
}

#[test]
fn wrong_data_is_named_with_its_shape() {
    let g = graph();
    let error = Interpreter::<f64>::new(&g.graph, vec![vec![1.0; 4]]).map(|_| ());
    let message = error.expect_err("too many elements").to_string();
    assert_eq!(
        message,
        "parameter `w` has 4 elements, but its shape [A=3] has 3"
    );

    let interpreter = Interpreter::<f64>::new(&g.graph, g.params.clone()).expect("valid");
    let x = g.graph.inputs[0];
    let data = [0.0; 6];
    let run = |state: &mut State<f64>, batch, time, input: Option<Input<'_, f64>>| {
        let given: BTreeMap<_, _> = input.map(|i| (x, i)).into_iter().collect();
        interpreter
            .run(state, batch, time, &given, Keep::Outputs)
            .map(|_| ())
            .map_err(|e| e.to_string())
    };
    let zero = || State::zero(&g.graph, 1);
    let full = Some(Input::Numbers(&data[..]));
    assert_eq!(run(&mut zero(), 1, 2, full), Ok(()));
    let message = |r: Result<(), String>| r.expect_err("must be refused");
    assert_eq!(
        message(run(&mut zero(), 1, 3, full)),
        "input `x` has 6 elements, but its shape [B=1, T=3, A=3] has 9"
    );
    assert!(message(run(&mut zero(), 1, 2, None)).contains("`x` is missing"));
    let ids = [0; 2];
    let ids = Some(Input::Ids(&ids[..]));
    assert!(message(run(&mut zero(), 1, 2, ids)).contains("wants numbers"));
    assert!(message(run(&mut zero(), 2, 1, full)).contains("1 batch rows"));
    assert!(message(run(&mut zero(), 1, 0, full)).contains("at least 1"));
    assert!(message(run(&mut State::zero(&g.graph, 0), 0, 1, full)).contains("at least 1"));
    let huge = usize::MAX / 2;
    assert!(message(run(&mut zero(), 1, huge, full)).contains("address space"));
    let mut state = zero();
    state.buffers[0].push(0.0);
    assert!(message(run(&mut state, 1, 2, full)).contains("state `tail0` has 4"));
    state.buffers.clear();
    assert!(message(run(&mut state, 1, 2, full)).contains("another model"));
    let mut state = zero();
    state.position = i64::MAX;
    assert!(message(run(&mut state, 1, 2, full)).contains("overflow"));
}
