//! What each function of the language means, against the formula written out.

use fusec_ir::interpret::{Input, Interpreter, Keep, State};
use fusec_ir::language::{ModelSource, Overrides, compile_with_warnings, lower};
use std::collections::BTreeMap;

const T: usize = 5;
const H: usize = 2;
const N: usize = 3;
const F: usize = 4;
const Z: usize = 2;
const K: usize = 3;

/// The input `x[H, N]` and the parameters, with the names and shapes of [`model`].
struct Data {
    x: Vec<f64>,
    params: BTreeMap<String, Vec<f64>>,
}

impl Data {
    fn x(&self, t: isize, h: usize, n: usize) -> f64 {
        match usize::try_from(t) {
            Ok(t) => self.x[(t * H + h) * N + n],
            Err(_) => 0.0,
        }
    }
    fn p(&self, name: &str, at: usize) -> f64 {
        self.params[name][at]
    }
}

fn model(flow: &str) -> String {
    let flow = flow.replace(';', "\n");
    format!(
        r#"
name = "f"
[axes]
H = {H}
N = {N}
M = {N}
C = "H * N"
F = {F}
Z = {Z}
Y = {Z}
K = {K}
[settings]
eps = 1e-2
[input]
x = "C"
[param]
g    = {{ shape = "N" }}
b    = {{ shape = "C" }}
w    = {{ shape = "F, C" }}
s    = {{ shape = "C, C" }}
m    = {{ shape = "Z, F, N" }}
taps = {{ shape = "C, K" }}
[model]
flow = """
  {flow}
"""
"#
    )
}

fn noise(seed: usize, n: usize) -> Vec<f64> {
    (0..n)
        .map(|i| ((seed * 71 + i * 37 + 11) % 101) as f64 / 50.0 - 1.0)
        .collect()
}

/// `out[t, ...]` for every t, from the formula of one element.
fn each(shape: &[usize], f: impl Fn(isize, &[usize]) -> f64) -> Vec<f64> {
    let count: usize = shape.iter().product();
    let mut out = Vec::new();
    for t in 0..T {
        for flat in 0..count {
            let mut rest = flat;
            let mut index = vec![0; shape.len()];
            for (i, size) in shape.iter().enumerate().rev() {
                index[i] = rest % size;
                rest /= size;
            }
            out.push(f(t as isize, &index));
        }
    }
    out
}

fn hn(f: impl Fn(isize, usize, usize) -> f64) -> Vec<f64> {
    each(&[H, N], |t, i| f(t, i[0], i[1]))
}

fn total(n: usize, f: impl Fn(usize) -> f64) -> f64 {
    (0..n).map(f).sum()
}

/// Sum over H and N.
fn all(f: impl Fn(usize, usize) -> f64) -> f64 {
    total(H, |h| total(N, |n| f(h, n)))
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

type Formula = fn(&Data) -> Vec<f64>;

const CASES: &[(&str, Formula)] = &[
    ("return x * g + b", |d| {
        hn(|t, h, n| d.x(t, h, n) * d.p("g", n) + d.p("b", h * N + n))
    }),
    ("return g * x", |d| hn(|t, h, n| d.x(t, h, n) * d.p("g", n))),
    ("return -x - 2 * (x - 1) / 4", |d| {
        hn(|t, h, n| -d.x(t, h, n) - 2.0 * (d.x(t, h, n) - 1.0) / 4.0)
    }),
    ("return gelu(x) + erf(2 * x)", |d| {
        hn(|t, h, n| {
            let v = d.x(t, h, n);
            v * (1.0 + libm::erf(v / 2f64.sqrt())) / 2.0 + libm::erf(2.0 * v)
        })
    }),
    ("return clamp(x, -0.5, g) + clamp(x, -inf, 0.25)", |d| {
        hn(|t, h, n| {
            let v = d.x(t, h, n);
            v.max(-0.5).min(d.p("g", n)) + v.min(0.25)
        })
    }),
    (
        "return -x ** 2 + 2 ** x ** 2 - (abs(x) + 1) ** -0.5 * 3",
        |d| {
            hn(|t, h, n| {
                let v = d.x(t, h, n);
                -v * v + 2f64.powf(v * v) - 3.0 / (v.abs() + 1.0).sqrt()
            })
        },
    ),
    // What is not chosen may be anything, also no number.
    (
        "return where(x > g, x, where(x > g, log(-1 - x * x), 2))",
        |d| {
            hn(|t, h, n| match d.x(t, h, n) > d.p("g", n) {
                true => d.x(t, h, n),
                false => 2.0,
            })
        },
    ),
    (
        "return where(not (x >= 0 and index(N) != 1) or x == g, g, where(H == 2, 7, x))",
        |d| {
            hn(|t, h, n| {
                let (v, g) = (d.x(t, h, n), d.p("g", n));
                if !(v >= 0.0 && n != 1) || v == g {
                    g
                } else {
                    7.0
                }
            })
        },
    ),
    (
        "p, q = split(x @ w, F -> Z, Y); return p + rename(q, Y -> Z)",
        |d| {
            let f = |t, f: usize| all(|h, n| d.x(t, h, n) * d.p("w", (f * H + h) * N + n));
            each(&[Z], |t, i| f(t, i[0]) + f(t, Z + i[0]))
        },
    ),
    (
        "f = x @ w; p, q = split(f, F -> Z, Y); \
         return concat(2 * q, p, Y -> F, Z -> F)",
        |d| {
            let f = |t, f: usize| all(|h, n| d.x(t, h, n) * d.p("w", (f * H + h) * N + n));
            each(&[F], |t, i| match i[0] {
                at if at < Z => 2.0 * f(t, Z + at),
                at => f(t, at - Z),
            })
        },
    ),
    ("return rename(slice(x @ w, F -> Z, 1), Z -> Y)", |d| {
        let f = |t, f: usize| all(|h, n| d.x(t, h, n) * d.p("w", (f * H + h) * N + n));
        each(&[Z], |t, i| f(t, 1 + i[0]))
    }),
    ("return sum(outer(x, x, N -> M) * index(M), M)", |d| {
        hn(|t, h, n| {
            let weighted = (0..N).map(|m| m as f64 * d.x(t, h, m));
            d.x(t, h, n) * weighted.sum::<f64>()
        })
    }),
    ("return silu(x) + sigmoid(x) * tanh(x)", |d| {
        hn(|t, h, n| {
            let v = d.x(t, h, n);
            v * sigmoid(v) + sigmoid(v) * v.tanh()
        })
    }),
    (
        "return min(x, 0.25) + max(x, g) + pow(abs(x) + 1, 1.5)",
        |d| {
            hn(|t, h, n| {
                let v = d.x(t, h, n);
                v.min(0.25) + v.max(d.p("g", n)) + (v.abs() + 1.0).powf(1.5)
            })
        },
    ),
    ("return x @ w", |d| {
        each(&[F], |t, i| {
            all(|h, n| d.x(t, h, n) * d.p("w", (i[0] * H + h) * N + n))
        })
    }),
    ("return x @ s", |d| {
        hn(|t, a, c| all(|h, n| d.x(t, h, n) * d.p("s", (a * N + c) * H * N + h * N + n)))
    }),
    ("return (x[H = 1] @ m)[Z = 1]", |d| {
        each(&[F], |t, i| {
            total(N, |n| d.x(t, 1, n) * d.p("m", (F + i[0]) * N + n))
        })
    }),
    ("return rename(x, H -> Z) @ m", |d| {
        each(&[Z, F], |t, i| {
            total(N, |n| d.x(t, i[0], n) * d.p("m", (i[0] * F + i[1]) * N + n))
        })
    }),
    ("return dot(x, b, N)", |d| {
        each(&[H], |t, i| {
            total(N, |n| d.x(t, i[0], n) * d.p("b", i[0] * N + n))
        })
    }),
    ("return sum(x * g, C) + mean(x, H, N)", |d| {
        each(&[], |t, _| {
            all(|h, n| d.x(t, h, n) * d.p("g", n)) + all(|h, n| d.x(t, h, n)) / (H * N) as f64
        })
    }),
    ("return max_over(x, N)", |d| {
        each(&[H], |t, i| {
            (0..N).map(|n| d.x(t, i[0], n)).fold(f64::MIN, f64::max)
        })
    }),
    (
        "return layer_norm(x, C, eps = eps, gain = b, bias = g)",
        |d| {
            hn(|t, h, n| {
                let mean = all(|h, n| d.x(t, h, n)) / 6.0;
                let variance = all(|h, n| (d.x(t, h, n) - mean).powi(2)) / 6.0;
                (d.x(t, h, n) - mean) / (variance + 1e-2).sqrt() * d.p("b", h * N + n) + d.p("g", n)
            })
        },
    ),
    ("return group_norm(x, H, eps = 0.5)", |d| {
        hn(|t, h, n| {
            let mean = total(N, |n| d.x(t, h, n)) / 3.0;
            let variance = total(N, |n| (d.x(t, h, n) - mean).powi(2)) / 3.0;
            (d.x(t, h, n) - mean) / (variance + 0.5).sqrt()
        })
    }),
    ("return rms_norm(x, N, eps = 0.5, gain = g)", |d| {
        hn(|t, h, n| {
            d.x(t, h, n) / (total(N, |n| d.x(t, h, n).powi(2)) / 3.0 + 0.5).sqrt() * d.p("g", n)
        })
    }),
    ("return group_rms_norm(x, N, eps = 0.5)", |d| {
        hn(|t, h, n| d.x(t, h, n) / (total(H, |h| d.x(t, h, n).powi(2)) / 2.0 + 0.5).sqrt())
    }),
    ("return l2_norm(x, N, eps = 0.5)", |d| {
        hn(|t, h, n| d.x(t, h, n) / (total(N, |n| d.x(t, h, n).powi(2)) + 0.5).sqrt())
    }),
    ("return l2_norm_max(x, N, eps = 1)", |d| {
        hn(|t, h, n| d.x(t, h, n) / total(N, |n| d.x(t, h, n).powi(2)).sqrt().max(1.0))
    }),
    ("return shift(x) - x", |d| {
        hn(|t, h, n| d.x(t - 1, h, n) - d.x(t, h, n))
    }),
    ("y = 2 * x; return delay(shift(y), 2) * shift(y)", |d| {
        hn(|t, h, n| 2.0 * d.x(t - 3, h, n) * 2.0 * d.x(t - 1, h, n))
    }),
    ("return conv(x, taps)", |d| {
        hn(|t, h, n| {
            total(K, |k| {
                d.x(t + k as isize - 2, h, n) * d.p("taps", (h * N + n) * K + k)
            })
        })
    }),
    ("return sum(shift(x) * x, N)", |d| {
        each(&[H], |t, i| {
            total(N, |n| d.x(t - 1, i[0], n) * d.x(t, i[0], n))
        })
    }),
    ("return x[N = 2] + reverse(x, N)[N = 2]", |d| {
        each(&[H], |t, i| d.x(t, i[0], 2) + d.x(t, i[0], 0))
    }),
    ("return reverse(x * index(N), N)", |d| {
        hn(|t, h, n| d.x(t, h, 2 - n) * (2 - n) as f64)
    }),
    ("return x + index(C)", |d| {
        hn(|t, h, n| d.x(t, h, n) + (h * N + n) as f64)
    }),
    ("return x * position() + N", |d| {
        hn(|t, h, n| d.x(t, h, n) * t as f64 + 3.0)
    }),
    (
        "return sum(outer(rename(x, N -> M), x[H = 0]) * index(M), M)",
        |d| {
            each(&[H, N], |t, i| {
                total(N, |m| d.x(t, i[0], m) * d.x(t, 0, i[1]) * m as f64)
            })
        },
    ),
    ("return softmax(x, N)", |d| {
        hn(|t, h, n| d.x(t, h, n).exp() / total(N, |n| d.x(t, h, n).exp()))
    }),
    ("return x + cumsum(b * b, H)", |d| {
        hn(|t, h, n| d.x(t, h, n) + total(h + 1, |h| d.p("b", h * N + n).powi(2)))
    }),
    (
        "return attention(x, x * g, x * b, N, window = 3, scale = rsqrt(H * H))",
        |d| {
            hn(|t, h, n| {
                let weight = |s: isize| {
                    let product = |m: usize| d.x(t, h, m) * d.x(s, h, m) * d.p("g", m);
                    (0.5 * total(N, product)).exp()
                };
                let seen = || (t - 2).max(0)..=t;
                let value = |s: isize| d.x(s, h, n) * d.p("b", h * N + n);
                seen().map(|s| weight(s) * value(s)).sum::<f64>() / seen().map(weight).sum::<f64>()
            })
        },
    ),
    // Heads that share keys; keys and values of different axes; a window of everything.
    (
        "return attention(x, x[H = 1], rename(shift(x)[H = 0], N -> M), N, window = 5)",
        |d| {
            hn(|t, h, n| {
                let weight =
                    |s: isize| (total(N, |m| d.x(t, h, m) * d.x(s, 1, m)) / 3f64.sqrt()).exp();
                let values = (0..=t).map(|s| weight(s) * d.x(s - 1, 0, n));
                values.sum::<f64>() / (0..=t).map(weight).sum::<f64>()
            })
        },
    ),
    ("return attention(x, x, x[N = 1], H, N, window = 1)", |d| {
        each(&[H], |t, i| d.x(t, i[0], 1))
    }),
    (
        "y = f32(x * x); z[C] = y + x; if N == 3 && eps < 1 { z = z * y } else { z = x }; return z",
        |d| {
            hn(|t, h, n| {
                let v = d.x(t, h, n);
                (v * v + v) * v * v
            })
        },
    ),
    (
        "return logsigmoid(x) + softplus(x) + square(relu(x)) + sin(x) * cos(x)",
        |d| {
            hn(|t, h, n| {
                let v = d.x(t, h, n);
                sigmoid(v).ln() + v.exp().ln_1p() + v.max(0.0).powi(2) + v.sin() * v.cos()
            })
        },
    ),
    (
        "y = exp(x); return sqrt(y) + rsqrt(y) + recip(y) + log(y)",
        |d| {
            hn(|t, h, n| {
                let y = d.x(t, h, n).exp();
                y.sqrt() + 1.0 / y.sqrt() + 1.0 / y + y.ln()
            })
        },
    ),
];

#[test]
fn functions_mean_their_formulas() {
    for (flow, formula) in CASES {
        let source = ModelSource::from_text("f", model(flow));
        let forms = [compile_with_warnings, lower].map(|f| f(&source, &Overrides::default()));
        for compiled in forms {
            let graph = compiled.unwrap_or_else(|e| panic!("{flow}: {e}")).graph;
            // Parameters by declaration, so that unused ones have values too.
            let sizes = [
                ("g", N),
                ("b", H * N),
                ("w", F * H * N),
                ("s", 36),
                ("m", Z * F * N),
                ("taps", H * N * K),
            ];
            let data = Data {
                x: noise(5, T * H * N),
                params: sizes
                    .iter()
                    .enumerate()
                    .map(|(i, (name, size))| (name.to_string(), noise(i + 9, *size)))
                    .collect(),
            };
            let params = graph
                .params
                .iter()
                .map(|p| data.params[&p.name].clone())
                .collect();
            let interpreter =
                Interpreter::<f64>::new(&graph, params).unwrap_or_else(|e| panic!("{flow}: {e}"));
            let mut state = State::zero(&graph, 1);
            let inputs = [(graph.inputs[0], Input::Numbers(&data.x))].into();
            let run = interpreter
                .run(&mut state, 1, T, &inputs, Keep::Outputs)
                .unwrap_or_else(|e| panic!("{flow}: {e}"));
            let got = run.values[&graph.outputs[0]].numbers().expect("numbers");
            let mut state = State::zero(&graph, 1);
            let mut pieces = Vec::new();
            for (from, to) in [(0, 1), (1, 3), (3, T)] {
                let piece = &data.x[from * H * N..to * H * N];
                let inputs = [(graph.inputs[0], Input::Numbers(piece))].into();
                let run = interpreter
                    .run(&mut state, 1, to - from, &inputs, Keep::Outputs)
                    .unwrap_or_else(|e| panic!("{flow}: {e}"));
                let numbers = run.values[&graph.outputs[0]].numbers();
                pieces.extend_from_slice(numbers.expect("numbers"));
            }
            assert_eq!(got, pieces, "{flow}: cut in three");
            let want = formula(&data);
            assert_eq!(got.len(), want.len(), "{flow}");
            for (i, (g, w)) in got.iter().zip(&want).enumerate() {
                assert!((g - w).abs() < 1e-12, "{flow}: element {i} is {g}, not {w}");
            }
        }
    }
}
