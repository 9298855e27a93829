//! The formulas of the chunked form with a rank-one factor, as `fusec_fuse::chunked::tile` states
//! them, written out in f64: they give what the interpreter gives a step at a time.

use std::collections::BTreeMap;

use fusec_fuse::chunked::SUB;
use fusec_ir::interpret::{Input, Interpreter, Keep, State};
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::{Graph, ValueId};

const KEYS: usize = 5;
const VALUES: usize = 3;
type Key = [f64; KEYS];
type Value = [f64; VALUES];

/// One token: query, key, value, the two vectors of the factor, decay.
#[derive(Clone, Copy)]
struct Token {
    q: Key,
    k: Key,
    v: Value,
    a: Key,
    b: Key,
    d: Key,
}

fn dot(a: &Key, b: &Key) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn weighted(a: &Key, by: &Key) -> Key {
    std::array::from_fn(|j| a[j] * by[j])
}

/// D(s, t): the product of the decays after token s through token t, both counted from 1; 0 is the
/// state before the first.
fn decay(tokens: &[Token], s: usize, t: usize) -> Key {
    let of = tokens.get(s..t).unwrap_or(&[]).iter();
    of.fold([1.0; KEYS], |all, token| weighted(&all, &token.d))
}

/// Results after each step and before it, and the state after all. `S` has a row for each value.
fn sub_chunk(tokens: &[Token], state: &mut [Key; VALUES], decayed: bool) -> Vec<(Value, Value)> {
    let n = tokens.len();
    let back = usize::from(!decayed);
    let read = |through: usize, with: &Key, state: &[Key; VALUES]| -> Value {
        let with = weighted(with, &decay(tokens, 0, through));
        std::array::from_fn(|i| dot(&state[i], &with))
    };
    // L and M: products of a with the b and k of earlier tokens.
    let between = |s: usize, through: usize, right: &Key, left: &Key| {
        dot(&weighted(right, &decay(tokens, s, through)), left)
    };
    // The inverse of I - L, a column after the other, by substitution.
    let mut inverse = vec![vec![0.0; n]; n];
    #[allow(clippy::needless_range_loop, reason = "indices as in the formula")]
    for column in 0..n {
        for row in column..n {
            let earlier = (column..row).map(|s| {
                let l = between(s + 1, row + 1 - back, &tokens[s].b, &tokens[row].a);
                l * inverse[s][column]
            });
            inverse[row][column] = f64::from(u8::from(row == column)) + earlier.sum::<f64>();
        }
    }
    // A S + M V.
    let sums: Vec<Value> = (0..n)
        .map(|t| {
            let of_state = read(t + 1 - back, &tokens[t].a, state);
            std::array::from_fn(|i| {
                let mixed = (0..t).map(|s| {
                    let m = between(s + 1, t + 1 - back, &tokens[s].k, &tokens[t].a);
                    m * tokens[s].v[i]
                });
                of_state[i] + mixed.sum::<f64>()
            })
        })
        .collect();
    let u: Vec<Value> = (0..n)
        .map(|t| std::array::from_fn(|i| (0..=t).map(|s| inverse[t][s] * sums[s][i]).sum()))
        .collect();
    let result = |t: usize, through: usize, seen: usize| -> Value {
        let q = &tokens[t].q;
        let of_state = read(through, q, state);
        std::array::from_fn(|i| {
            let of_tokens = (0..seen).map(|s| {
                between(s + 1, through, &tokens[s].b, q) * u[s][i]
                    + between(s + 1, through, &tokens[s].k, q) * tokens[s].v[i]
            });
            of_state[i] + of_tokens.sum::<f64>()
        })
    };
    let results = (0..n).map(|t| (result(t, t + 1, t + 1), result(t, t, t)));
    let results = results.collect();
    let whole = decay(tokens, 0, n);
    for (i, row) in state.iter_mut().enumerate() {
        *row = weighted(row, &whole);
        for (s, token) in tokens.iter().enumerate() {
            let rest = decay(tokens, s + 1, n);
            for j in 0..KEYS {
                row[j] += (u[s][i] * token.b[j] + token.v[i] * token.k[j]) * rest[j];
            }
        }
    }
    results
}

/// The same where b is k: only u + v is needed.
fn along_key(tokens: &[Token], state: &mut [Key; VALUES], decayed: bool) -> Vec<(Value, Value)> {
    let n = tokens.len();
    let back = usize::from(!decayed);
    let between = |s: usize, through: usize, left: &Key| {
        dot(
            &weighted(&tokens[s].k, &decay(tokens, s + 1, through)),
            left,
        )
    };
    let mut w: Vec<Value> = Vec::new();
    for t in 0..n {
        let a = weighted(&tokens[t].a, &decay(tokens, 0, t + 1 - back));
        w.push(std::array::from_fn(|i| {
            let earlier = (0..t).map(|s| between(s, t + 1 - back, &tokens[t].a) * w[s][i]);
            dot(&state[i], &a) + tokens[t].v[i] + earlier.sum::<f64>()
        }));
    }
    let result = |t: usize, through: usize, seen: usize| -> Value {
        let q = weighted(&tokens[t].q, &decay(tokens, 0, through));
        std::array::from_fn(|i| {
            let of_tokens = (0..seen).map(|s| between(s, through, &tokens[t].q) * w[s][i]);
            dot(&state[i], &q) + of_tokens.sum::<f64>()
        })
    };
    let results = (0..n).map(|t| (result(t, t + 1, t + 1), result(t, t, t)));
    let results = results.collect();
    let whole = decay(tokens, 0, n);
    for (i, row) in state.iter_mut().enumerate() {
        *row = weighted(row, &whole);
        for (s, token) in tokens.iter().enumerate() {
            let rest = decay(tokens, s + 1, n);
            for j in 0..KEYS {
                row[j] += w[s][i] * token.k[j] * rest[j];
            }
        }
    }
    results
}

fn model(decayed: bool) -> Graph {
    let step = match decayed {
        false => "u = sum(S * a, j)\nS = S * d + u * b + v * k",
        true => "S = S * d\nS = S + sum(S * a, j) * b + v * k",
    };
    let text = format!(
        "name = \"steps\"\n[axes]\nJ = {KEYS}\nI = {VALUES}\n\
         [input]\nq = \"J\"\nk = \"J\"\nv = \"I\"\na = \"J\"\nb = \"J\"\nd = \"J\"\n\
         [recurrence.r]\ninputs = \"q[j], k[j], v[i], a[j], b[j], d[j]\"\n\
         state = \"S[i = I, j = J]\"\noutputs = \"y[i], before[i]\"\nstep = \"\"\"\n\
         before = sum(S * q, j)\n{step}\ny = sum(S * q, j)\n\"\"\"\n\
         [model]\nflow = \"\"\"\ny, before = r(q, k, v, a, b, d)\nreturn y, before\n\"\"\"\n"
    );
    let source = ModelSource::from_text("steps", text.clone());
    compile(&source, &Overrides::default()).unwrap_or_else(|error| panic!("{text}\n{error:?}"))
}

/// Tokens whose factor keeps the state bounded, decays from 0 to 1 with both ends among them.
fn draw(count: usize, along: bool) -> Vec<Token> {
    let mut seed = 1u64;
    let mut number = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as f64 / f64::from(1u32 << 30) - 1.0
    };
    (0..count)
        .map(|_| {
            let mut key = || std::array::from_fn(|_| 0.4 * number());
            let (q, k, a, b): (Key, Key, Key, Key) = (key(), key(), key(), key());
            let v = std::array::from_fn(|_| number());
            let d = std::array::from_fn(|_| (1.2 * number()).abs().min(1.0));
            let d = d.map(|d: f64| if d < 0.1 { 0.0 } else { d });
            let b = if along { k } else { b };
            Token { q, k, v, a, b, d }
        })
        .collect()
}

#[test]
fn the_formulas_of_a_chunk_give_what_steps_give() {
    for (decayed, along) in [(false, false), (true, false), (false, true), (true, true)] {
        let graph = model(decayed);
        let interpreter =
            Interpreter::<f64>::new(&graph, Default::default()).expect("a sound graph");
        let mut stepwise = State::zero(&graph, 1);
        let mut state = [[0.0; KEYS]; VALUES];
        // Runs follow each other from the state that the one before leaves.
        for count in [1, 2, 15, 16, 17, 37, 64, 100] {
            let tokens = draw(count, along);
            let flat = |of: &dyn Fn(&Token) -> Vec<f64>| -> Vec<f64> {
                tokens.iter().flat_map(of).collect()
            };
            let rows = [
                flat(&|t| t.q.to_vec()),
                flat(&|t| t.k.to_vec()),
                flat(&|t| t.v.to_vec()),
                flat(&|t| t.a.to_vec()),
                flat(&|t| t.b.to_vec()),
                flat(&|t| t.d.to_vec()),
            ];
            let inputs = graph.inputs.iter().zip(&rows);
            let inputs: BTreeMap<ValueId, Input<'_, f64>> =
                inputs.map(|(id, row)| (*id, Input::Numbers(row))).collect();
            let outputs = interpreter
                .run(&mut stepwise, 1, count, &inputs, Keep::Outputs)
                .expect("it runs");
            let expected = |n: usize| {
                outputs.values[&graph.outputs[n]]
                    .numbers()
                    .expect("numbers")
            };
            let subs = tokens.chunks(SUB);
            let got: Vec<(Value, Value)> = match along {
                false => subs
                    .flat_map(|sub| sub_chunk(sub, &mut state, decayed))
                    .collect(),
                true => subs
                    .flat_map(|sub| along_key(sub, &mut state, decayed))
                    .collect(),
            };
            let scale = expected(0).iter().fold(1e-30, |m: f64, x| m.max(x.abs()));
            for (t, (after, before)) in got.iter().enumerate() {
                for i in 0..VALUES {
                    for (n, got) in [(0, after[i]), (1, before[i])] {
                        let error = (got - expected(n)[t * VALUES + i]).abs() / scale;
                        assert!(
                            error < 1e-12,
                            "decayed {decayed}, along {along}, {count} tokens: token {t}, result {n} is off by {error:e}"
                        );
                    }
                }
            }
        }
    }
}
