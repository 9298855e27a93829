//! The text of a random model: one block of random statements, repeated, around a recurrence of a
//! random class. Values stay near 1, so that differences mean something.

use crate::common::Dice;

/// Kinds of recurrence that [`model_text`] goes round: a seed modulo this is the kind of the
/// first recurrence of its model.
pub const CLASSES: usize = 11;

/// What a value runs over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    /// H heads of N.
    Keys,
    /// H heads of M.
    Values,
    /// An axis that is no product.
    Plain,
}

impl Width {
    fn axis(self) -> &'static str {
        match self {
            Width::Keys => "C",
            Width::Values => "D",
            Width::Plain => "F",
        }
    }

    /// The channels of a head.
    fn inner(self) -> Option<&'static str> {
        match self {
            Width::Keys => Some("N"),
            Width::Values => Some("M"),
            Width::Plain => None,
        }
    }
}

struct Writer {
    dice: Dice,
    params: String,
    recurrences: String,
    lines: Vec<String>,
    pool: Vec<(String, Width)>,
    names: usize,
}

/// A model text that is the same for the same seed.
pub fn model_text(seed: u64) -> String {
    let mut dice = Dice::new(seed);
    let mut size = |sizes: &[usize]| sizes[dice.below(sizes.len())];
    let layers = size(&[1, 1, 2]);
    let h = size(&[1, 2, 3]);
    let n = size(&[4, 8, 12, 16, 32]);
    let m = size(&[5, 8, 16, 20]);
    let f = size(&[7, 24, 40, 64]);
    let ns = size(&[3, 4, 16]);
    let tokens = size(&[0, 1]) == 1;
    let mut w = Writer {
        dice,
        params: String::new(),
        recurrences: String::new(),
        lines: vec![],
        pool: vec![("x".into(), Width::Keys)],
        names: 0,
    };
    let count = 3 + w.dice.below(4);
    let first = w.dice.below(count);
    for i in 0..count {
        if i == first {
            w.recurrence(seed as usize % CLASSES);
        } else {
            w.statement();
        }
    }
    let last = w.pool.len() - 1;
    let y = w.onto(last, Width::Keys);
    let gain = w.param("C", "1");
    let lines: String = w.lines.iter().map(|line| format!("  {line}\n")).collect();
    let (input, start, emb) = match tokens {
        true => (
            "",
            "gather(emb, ids)",
            "emb = { shape = \"V, C\", init = \"normal(1)\" }\n",
        ),
        false => ("[input]\nu = \"C\"\n\n", "u", ""),
    };
    let Writer {
        params,
        recurrences,
        ..
    } = w;
    format!(
        "name = \"random-{seed}\"\n\n[axes]\nV = 23\nL = {layers}\nH = {h}\nN = {n}\nM = {m}\n\
         C = \"H * N\"\nD = \"H * M\"\nF = {f}\nNs = {ns}\nR = 3\n\
         K2 = 2\nK3 = 3\nK4 = 4\nK5 = 5\nP = {n}\n\
         NN = {}\nMM = {}\nFF = {}\n\n{input}[param]\n{emb}\
         head = {{ shape = \"V, C\" }}\n{recurrences}\n[block.layer]\nargs = [\"x\"]\n\
         flow = \"\"\"\n{lines}  return x + rms_norm({y}, C, eps = 1e-3, gain = {gain})\n\"\"\"\n\n\
         [block.layer.param]\n{params}\n[model]\nflow = \"\"\"\n  x = {start}\n  \
         repeat l in L {{ x = layer(x) }}\n  return x @ head\n\"\"\"\n",
        2 * n,
        2 * m,
        2 * f
    )
}

impl Writer {
    fn name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    fn param(&mut self, shape: &str, init: &str) -> String {
        let name = self.name("p");
        self.params.push_str(
            &format!("{name} = {{ shape = \"{shape}\", init = \"{init}\" }}\n")
                .replace("\"1\"", "1"),
        );
        name
    }

    /// A matrix with the default initialisation.
    fn matrix(&mut self, shape: &str) -> String {
        let name = self.name("w");
        self.params
            .push_str(&format!("{name} = {{ shape = \"{shape}\" }}\n"));
        name
    }

    fn push(&mut self, width: Width, expression: &str) -> String {
        let name = self.name("v");
        self.lines.push(format!("{name} = {expression}"));
        self.pool.push((name.clone(), width));
        name
    }

    /// A value that is not offered to later statements.
    fn hidden(&mut self, expression: &str) -> String {
        let name = self.name("v");
        self.lines.push(format!("{name} = {expression}"));
        name
    }

    fn choose<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.dice.below(of.len())]
    }

    /// A value of the pool, later ones more often.
    fn pick(&mut self) -> usize {
        let n = self.pool.len();
        self.dice.below(n).max(self.dice.below(n))
    }

    /// A value over `width`: that value, or a projection of it.
    fn onto(&mut self, value: usize, width: Width) -> String {
        let (name, of) = self.pool[value].clone();
        if of == width {
            return name;
        }
        let w = self.matrix(&format!("{}, {}", width.axis(), of.axis()));
        self.push(width, &format!("{name} @ {w}"))
    }

    /// Some value over `width`, by projection now and then although there is one.
    fn some(&mut self, width: Width) -> String {
        let value = self.pick();
        if self.dice.below(3) == 0 {
            let (name, of) = self.pool[value].clone();
            let w = self.matrix(&format!("{}, {}", width.axis(), of.axis()));
            return self.push(width, &format!("{name} @ {w}"));
        }
        self.onto(value, width)
    }

    fn statement(&mut self) {
        let value = self.pick();
        let (a, width) = self.pool[value].clone();
        let axis = width.axis();
        let expression = match self.dice.below(13) {
            0 => {
                let f = self.choose(&[
                    "silu",
                    "tanh",
                    "sigmoid",
                    "sin",
                    "softplus",
                    "logsigmoid",
                    "gelu",
                    "erf",
                ]);
                format!("{f}({a})")
            }
            1 => {
                let b = self.some(width);
                match self.dice.below(5) {
                    0 => format!("{a} - 0.5 * {b}"),
                    1 => format!("{a} * sigmoid({b})"),
                    2 => format!("max({a}, {b}) + min({a}, 0.1)"),
                    3 => format!("{a} / (1 + square({b}))"),
                    _ => format!("exp(-abs({a})) * {b}"),
                }
            }
            2 => {
                let (g, b) = (self.param(axis, "1"), self.param(axis, "normal(0.1)"));
                format!("{a} * {g} + {b}")
            }
            3 => {
                let g = self.param(axis, "1");
                match self.choose(&["layer_norm", "rms_norm"]) {
                    "layer_norm" => {
                        let b = self.param(axis, "normal(0.1)");
                        format!("layer_norm({a}, {axis}, eps = 1e-3, gain = {g}, bias = {b})")
                    }
                    norm => format!("{norm}({a}, {axis}, eps = 1e-3, gain = {g})"),
                }
            }
            4 => {
                let mu = self.param(axis, "uniform(0, 1)");
                format!("{a} + (shift({a}) - {a}) * {mu}")
            }
            5 => {
                let back = 1 + self.dice.below(5);
                format!("0.5 * {a} + 0.5 * delay({a}, {back})")
            }
            6 => {
                let taps = 2 + self.dice.below(4);
                let w = self.name("p");
                self.params.push_str(&format!(
                    "{w} = {{ shape = \"{axis}, K{taps}\", init = \"normal(0.5)\" }}\n"
                ));
                format!("silu(conv({a}, {w}))")
            }
            7 | 8 => {
                let to = [Width::Keys, Width::Values, Width::Plain][self.dice.below(3)];
                let w = self.matrix(&format!("{}, {axis}", to.axis()));
                self.push(to, &format!("{a} @ {w}"));
                return;
            }
            9 => {
                let (w1, w2) = (
                    self.matrix(&format!("R, {axis}")),
                    self.matrix(&format!("{axis}, R")),
                );
                format!("{a} + tanh({a} @ {w1}) @ {w2}")
            }
            10 => match width.inner() {
                Some(inner) => {
                    let b = self.some(width);
                    match self.dice.below(5) {
                        0 => format!("{a} - mean({b}, {inner})"),
                        1 => format!("tanh(sum({a} * {b}, {inner})) * {b}"),
                        2 => format!(
                            "l2_norm({a}, {inner}, eps = 1e-3) + group_norm({b}, H, eps = 1e-3)"
                        ),
                        3 => format!("softmax({a}, {inner}) + {b}"),
                        _ => format!("{a} - max_over({b}, {inner})"),
                    }
                }
                None => format!("cos({a} * 0.5 + index({axis}))"),
            },
            11 => {
                let b = self.some(width);
                let from = self.dice.below(4);
                match width {
                    Width::Keys if self.dice.below(2) == 0 => {
                        format!("0.3 * sum(outer({a}, {b}, N -> P) * sin(index(P)), P)")
                    }
                    Width::Keys => {
                        format!("slice(concat({a}, {b}, N -> NN, N -> NN), NN -> N, {from})")
                    }
                    Width::Values => {
                        format!("slice(concat({a}, {b}, M -> MM, M -> MM), MM -> M, {from})")
                    }
                    Width::Plain => {
                        format!("slice(concat({a}, {b}, F -> FF, F -> FF), FF -> F, {from})")
                    }
                }
            }
            _ => format!("{a} * cos(0.05 * position())"),
        };
        self.push(width, &expression);
    }

    fn define(&mut self, inputs: &str, state: &str, outputs: &str, step: &str) -> String {
        let name = self.name("r");
        let step: String = step.lines().map(|l| format!("  {}\n", l.trim())).collect();
        self.recurrences.push_str(&format!(
            "\n[recurrence.{name}]\ninputs  = \"{inputs}\"\nstate   = \"{state}\"\n\
             outputs = \"{outputs}\"\nstep    = \"\"\"\n{step}\"\"\"\n"
        ));
        name
    }

    /// Something between 0 and 1 that multiplies a state: of the token or a constant, over the
    /// axis or over heads.
    fn decay(&mut self, axis: &str) -> String {
        match self.dice.below(4) {
            0 => {
                let p = self.param(axis, "normal(1)");
                self.hidden(&format!("f32(exp(-softplus({p})))"))
            }
            how => {
                let value = self.pick();
                let (x, of) = self.pool[value].clone();
                let w = self.matrix(&format!("{axis}, {}", of.axis()));
                match how {
                    1 => self.hidden(&format!("f32(sigmoid({x} @ {w} + 2))")),
                    2 => self.hidden(&format!("f32(exp(-softplus({x} @ {w})))")),
                    _ => self.hidden(&format!("f32(exp(-exp({x} @ {w} - 2)))")),
                }
            }
        }
    }

    fn recurrence(&mut self, class: usize) {
        match class {
            0 => self.elementwise(),
            1 => self.outer_product(),
            2 => self.rank_one(),
            3 => self.tanh_mix(),
            4 => self.two_states(),
            5 => self.state_space(),
            6 => self.tanh_matrix(),
            7 => self.any_step(),
            8 => self.turning(),
            9 => self.at_once(),
            _ => self.both_ways(),
        }
    }

    fn elementwise(&mut self) {
        let width = [Width::Keys, Width::Values, Width::Plain][self.dice.below(3)];
        let a = width.axis();
        let x = self.some(width);
        let f = self.decay(a);
        let step = self.choose(&[
            "S = f * S + (1 - f) * x\ny = S",
            "S = S + (1 - f) * (x - S)\ny = S * x",
            "y = S + x\nS = f * S + 0.3 * x",
            "d = x - S\nS = S + (1 - f) * d\ny = tanh(S) + d",
        ]);
        let state = self.choose(&["S[A]", "S[A] = 0.5"]).replace('A', a);
        let r = self.define(&format!("x[{a}], f[{a}]"), &state, &format!("y[{a}]"), step);
        self.push(width, &format!("{r}({x}, {f})"));
    }

    /// Keys, queries and values, scaled so that the state stays near 1.
    fn heads(&mut self) -> (String, String, String) {
        let (q, k, v) = (
            self.some(Width::Keys),
            self.some(Width::Keys),
            self.some(Width::Values),
        );
        let k = self.hidden(&format!("l2_norm({k}, N, eps = 1e-2)"));
        (q, k, v)
    }

    fn outer_product(&mut self) {
        let (q, k, v) = self.heads();
        let per_head = self.dice.below(2) == 0;
        let (formal, axis) = [("d[H, j]", "C"), ("d[H]", "H")][usize::from(per_head)];
        let d = self.decay(axis);
        match self.dice.below(3) {
            0 => {
                let step = self.choose(&[
                    "S = d * S + k * v\ny = sum(q * S, j)",
                    "S = d * S\nS = S + v * k\ny = sum(S * q, j)",
                ]);
                let inputs = format!("q[H, j], k[H, j], v[H, i], {formal}");
                let r = self.define(&inputs, "S[H, j, i]", "y[H, i]", step);
                self.push(Width::Values, &format!("0.3 * {r}({q}, {k}, {v}, {d})"));
            }
            1 => {
                let u = self.param("C", "normal(0.5)");
                let inputs = format!("q[H, j], k[H, j], v[H, i], {formal}, u[H, j]");
                let step = "y = sum(q * (S + u * k * v), j)\nS = d * S + k * v";
                let r = self.define(&inputs, "S[H, j, i]", "y[H, i]", step);
                self.push(
                    Width::Values,
                    &format!("0.3 * {r}({q}, {k}, {v}, {d}, {u})"),
                );
            }
            _ => {
                let inputs = format!("q[H, j], k[H, j], v[H, i], {formal}");
                let step = "y = sum(q * S, j)\nS = d * S + (1 - d) * k * v";
                let r = self.define(&inputs, "S[H, j, i]", "y[H, i]", step);
                self.push(Width::Values, &format!("0.3 * {r}({q}, {k}, {v}, {d})"));
            }
        }
    }

    fn rank_one(&mut self) {
        let (q, k, v) = self.heads();
        let beta = self.decay("H");
        let (formal, axis) = [("d[H, j]", "C"), ("d[H]", "H")][self.dice.below(2)];
        let d = self.decay(axis);
        let step = self.choose(&[
            "S = d * S\nS = S + k * (beta * (v - sum(S * k, j)))\ny = sum(q * S, j)",
            "a = sum(d * S * k, j)\nS = d * S - beta * k * a + beta * k * v\ny = sum(S * q, j)",
            "a = sum(S * k, j)\nS = d * S - beta * a * k + v * k\ny = sum(S * q, j)",
            "y = sum(q * S, j)\ne = v - sum(S * k, j)\nS = d * S + beta * k * e",
        ]);
        let inputs = format!("q[H, j], k[H, j], v[H, i], beta[H], {formal}");
        let r = self.define(&inputs, "S[H, j, i]", "y[H, i]", step);
        self.push(
            Width::Values,
            &format!("0.3 * {r}({q}, {k}, {v}, {beta}, {d})"),
        );
    }

    fn tanh_mix(&mut self) {
        let u = self.some(Width::Keys);
        let m = self.param("H, N, N", "normal(0.2)");
        let step = self.choose(&[
            "h = tanh(u + sum(m * rename(h, i -> j), j))\ny = h",
            "c = sum(m * rename(h, i -> j), j)\nh = 0.5 * h + 0.5 * tanh(u + c)\ny = h * u + c",
        ]);
        let r = self.define("u[H, i], m[H, i, j]", "h[H, i = N]", "y[H, i]", step);
        self.push(Width::Keys, &format!("{r}({u}, {m})"));
    }

    fn two_states(&mut self) {
        if self.dice.below(2) == 0 {
            let width = [Width::Keys, Width::Values, Width::Plain][self.dice.below(3)];
            let a = width.axis();
            let (k, v) = (self.some(width), self.some(width));
            let r = self.define(
                &format!("k[{a}], v[{a}]"),
                &format!("num[{a}], den[{a}], top[{a}] = -1e30"),
                &format!("y[{a}]"),
                "m = max(top, k)\nnum = exp(top - m) * num + exp(k - m) * v\n\
                 den = exp(top - m) * den + exp(k - m)\ntop = m\ny = num / den",
            );
            self.push(width, &format!("{r}({k}, {v})"));
        } else {
            let (q, k, v) = self.heads();
            let d = self.decay("H");
            let r = self.define(
                "q[H, j], k[H, j], v[H, i], d[H]",
                "A[H, j, i], S[H, j, i]",
                "y[H, i], z[H]",
                "A = 0.5 * A + k * v\nS = d * S + (1 - d) * A\ny = sum(q * S, j)\n\
                 z = mean(sum(A * k, j), i)",
            );
            let (y, z) = (self.name("v"), self.name("v"));
            self.lines
                .push(format!("{y}, {z} = {r}({q}, {k}, {v}, {d})"));
            self.push(Width::Values, &format!("0.3 * {y} + {z}"));
        }
    }

    fn state_space(&mut self) {
        let width = [Width::Keys, Width::Values, Width::Plain][self.dice.below(3)];
        let axis = width.axis();
        let x = self.some(width);
        let mut small = |shape: &str| {
            let value = self.pick();
            let (of, width) = self.pool[value].clone();
            let w = self.matrix(&format!("{shape}, {}", width.axis()));
            format!("{of} @ {w}")
        };
        let (b, c, dt) = (small("Ns"), small("Ns"), small(axis));
        let (b, c) = (self.hidden(&b), self.hidden(&c));
        let dt = self.hidden(&format!("f32(softplus({dt}))"));
        let log = self.param(&format!("{axis}, Ns"), "uniform(-1, 1)");
        let skip = self.param(axis, "1");
        let r = self.define(
            &format!("x[{axis}], dt[{axis}], a[{axis}, s], b[s], c[s], skip[{axis}]"),
            &format!("S[{axis}, s = Ns]"),
            &format!("y[{axis}]"),
            "S = exp(dt * a) * S + dt * b * x\ny = sum(S * c, s) + skip * x",
        );
        self.push(
            width,
            &format!("0.3 * {r}({x}, {dt}, -exp({log}), {b}, {c}, {skip})"),
        );
    }

    fn tanh_matrix(&mut self) {
        let (q, k, v) = self.heads();
        let d = self.decay("C");
        let step = self.choose(&[
            "S = tanh(d * S + k * v)\ny = sum(q * S, j)",
            "e = tanh(v - sum(S * k, j))\nS = d * S + k * e\ny = sum(q * S, j)",
            "m = max_over(abs(S), j)\nS = d * S + k * v / (1 + m)\ny = sum(q * S, j) + m",
        ]);
        let r = self.define(
            "q[H, j], k[H, j], v[H, i], d[H, j]",
            "S[H, j, i]",
            "y[H, i]",
            step,
        );
        self.push(Width::Values, &format!("0.3 * {r}({q}, {k}, {v}, {d})"));
    }

    /// Two states that are turned into each other.
    fn turning(&mut self) {
        let (q, k, v) = self.heads();
        let d = self.decay("H");
        let x = self.some(Width::Keys);
        let step = self.choose(&[
            "t = d * (cos(x) * a - sin(x) * b) + k * v\nb = d * (sin(x) * a + cos(x) * b)\na = t\n\
             y = sum(q * a, j) - sum(k * b, j)",
            "c = d * cos(x)\ns = d * sin(x)\nt = c * a + s * b + k * v\nb = c * b - s * a + q * v\na = t\n\
             y = sum(q * b, j) + 0.5 * v",
            "y = sum(q * a, j)\nt = d * (cos(x) * (a + k0 * v0) - sin(x) * b) + k * v\n\
             b = d * (sin(x) * (a + k0 * v0) + cos(x) * b)\na = t\nk0 = k\nv0 = v",
        ]);
        let rows = match step.contains("k0") {
            true => ", k0[H, j], v0[H, i]",
            false => "",
        };
        let r = self.define(
            "q[H, j], k[H, j], v[H, i], d[H], x[H, j]",
            &format!("a[H, j, i], b[H, j, i]{rows}"),
            "y[H, i]",
            step,
        );
        let x = self.hidden(&format!("f32({x})"));
        self.push(
            Width::Values,
            &format!("0.2 * {r}({q}, {k}, {v}, {d}, {x})"),
        );
    }

    /// Corrections of one state that do not see each other.
    fn at_once(&mut self) {
        let (q, k, v) = self.heads();
        let l = self.some(Width::Keys);
        let l = self.hidden(&format!("l2_norm({l}, N, eps = 1e-2)"));
        let (beta, d) = (self.decay("H"), self.decay("H"));
        let step = self.choose(&[
            "S = d * S\nS = S + 0.5 * k * (beta * (v - sum(S * k, j))) + 0.5 * l * (v - sum(S * l, j))\n\
             y = sum(q * S, j)",
            "S = d * S\ny = sum(q * S, j)\n\
             S = S + 0.4 * (k * (v - sum(S * k, j)) - l * sum(S * l, j) * beta)",
            "S = d * S\nS = S - 0.5 * k * sum(S * k, j) - 0.5 * l * sum(S * l, j) + beta * k * v\n\
             S = S + k * (beta * (v - sum(S * k, j)))\ny = sum(q * S, j)",
        ]);
        let r = self.define(
            "q[H, j], k[H, j], l[H, j], v[H, i], beta[H], d[H]",
            "S[H, j, i]",
            "y[H, i]",
            step,
        );
        self.push(
            Width::Values,
            &format!("0.2 * {r}({q}, {k}, {l}, {v}, {beta}, {d})"),
        );
    }

    /// A state that is read through itself and through its transpose.
    fn both_ways(&mut self) {
        let (q, k, v) = self.heads();
        let p = self.some(Width::Values);
        let d = self.decay("H");
        let step = self.choose(&[
            "S = d * S + k * v\ny = sum(S * q, j)\nz = sum(S * p, i)",
            "z = sum(S * p, i)\nS = d * S + k * v\ny = sum(S * q, j)",
            "y = sum(S * q, j)\nz = sum(S * p, i)\nS = d * S + 0.5 * v * k",
        ]);
        let r = self.define(
            "q[H, j], p[H, i], k[H, j], v[H, i], d[H]",
            "S[H, j, i]",
            "y[H, i], z[H, j]",
            step,
        );
        let (y, z) = (self.name("v"), self.name("v"));
        self.lines
            .push(format!("{y}, {z} = {r}({q}, {p}, {k}, {v}, {d})"));
        self.push(Width::Keys, &format!("0.2 * {z}"));
        self.push(Width::Values, &format!("0.2 * {y}"));
    }

    /// A step of random expressions over two states.
    fn any_step(&mut self) {
        let (x, g) = (self.some(Width::Keys), self.some(Width::Keys));
        let t = self.step_expression(3);
        let (s, z, y) = (
            self.step_expression(2),
            self.step_expression(2),
            self.step_expression(2),
        );
        let r = self.define(
            "x[H, i], g[H, i]",
            "s[H, i = N], z[H, i = N] = 0.25",
            "y[H, i]",
            &format!(
                "t = tanh({t})\ns = 0.6 * s + 0.4 * tanh({s} + t)\nz = 0.9 * tanh({z} - t)\ny = tanh({y}) + s"
            ),
        );
        self.push(Width::Keys, &format!("{r}({x}, {g})"));
    }

    fn step_expression(&mut self, depth: usize) -> String {
        let leaf = self.choose(&["s", "z", "x", "g"]).to_string();
        if depth == 0 {
            return leaf;
        }
        let a = self.step_expression(depth - 1);
        match self.dice.below(8) {
            0 => leaf,
            1 => format!("({a} + {leaf})"),
            2 => format!("({a} * sigmoid({leaf}))"),
            3 => format!("max({a}, {leaf})"),
            4 => format!("({leaf} - mean({a}, i))"),
            5 => format!("(0.3 * sum(tanh({a}) * {leaf}, i) + {leaf})"),
            6 => format!("sin({a})"),
            _ => format!("({leaf} - max_over({a}, i) * 0.5)"),
        }
    }
}
