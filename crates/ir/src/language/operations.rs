//! The functions of a flow that are operations of their own: contractions, norms,
//! stencils, look-ups, and calls of blocks and recurrences.

use super::arguments::Args;
use super::constant;
use super::error::{Fault, Problem, Result, fail, refuse};
use super::functions;
use super::lower::Lowering;
use super::pointwise::{self, Host, called};
use super::syntax::{Arg, Call, Node};
use super::tensor::{Tensor, union};
use crate::{
    Access, AxisId, Binary, Combine, Expr, IndexExpr, NormKind, OpKind, Precision, Span, Unary,
};

/// Longest stencil, in tokens.
const MAX_DELAY: i64 = 4096;
/// Most taps of a convolution: each is written out in the stencil.
const MAX_TAPS: usize = 64;

/// Names of the functions of a flow that are none of a step.
pub(super) const FUNCTIONS: [&str; 20] = [
    "attention",
    "layer_norm",
    "rms_norm",
    "l2_norm",
    "l2_norm_max",
    "group_norm",
    "group_rms_norm",
    "shift",
    "delay",
    "conv",
    "gather",
    "position",
    "dot",
    "outer",
    "softmax",
    "cumsum",
    "split",
    "slice",
    "concat",
    "f32",
];

/// Names of all functions of the language.
pub(super) fn functions() -> impl Iterator<Item = &'static str> {
    let unary = functions::UNARY.iter().map(|(name, _)| *name);
    unary.chain(functions::COMMON).chain(FUNCTIONS)
}

/// The arguments of a call of a block or recurrence, in the order of its formals.
pub(super) fn bind<'c>(call: &'c Call, formals: &[String], span: Span) -> Result<Vec<&'c Node>> {
    let mut given: Vec<Option<&Node>> = vec![None; formals.len()];
    let mut next = 0;
    let name = &call.function.text;
    for arg in &call.args {
        let (at, node) = match arg {
            Arg::Positional(node) => {
                let at = next;
                next += 1;
                if at >= formals.len() {
                    return fail(
                        Problem::BadArgument {
                            function: name.clone(),
                            takes: format!("({})", formals.join(", ")),
                            found: format!("got one more than {}", formals.len()),
                        },
                        node.span,
                    );
                }
                (at, node)
            }
            Arg::Keyword(key, node) => match formals.iter().position(|f| *f == key.text) {
                Some(at) => (at, node),
                None => {
                    return fail(
                        Problem::UnknownArgument {
                            function: name.clone(),
                            name: key.text.clone(),
                            known: formals.to_vec(),
                        },
                        key.span,
                    );
                }
            },
            Arg::Rename(..) => {
                return fail(
                    Problem::BadArgument {
                        function: name.clone(),
                        takes: format!("({})", formals.join(", ")),
                        found: "`->` belongs into rename(x, A -> B)".into(),
                    },
                    arg.span(),
                );
            }
        };
        if given[at].replace(node).is_some() {
            return fail(
                Problem::Twice {
                    what: "argument",
                    name: formals[at].clone(),
                },
                node.span,
            );
        }
    }
    given
        .into_iter()
        .zip(formals)
        .map(|(node, formal)| match node {
            Some(node) => Ok(node),
            None => fail(
                Problem::MissingArgument {
                    function: name.clone(),
                    argument: format!("`{formal}`"),
                    usage: format!("{name}({})", formals.join(", ")),
                },
                span,
            ),
        })
        .collect()
}

impl<'a> Lowering<'a> {
    /// A call of anything but the common functions.
    pub fn call(&mut self, call: &Call, span: Span) -> Result<Vec<Tensor>> {
        let name = call.function.text.as_str();
        let document = self.document;
        if let Some((name, block)) = document.blocks.get_key_value(name) {
            return self.call_block(name, block, call, span);
        }
        if let Some((name, recurrence)) = document.recurrences.get_key_value(name) {
            return self.call_recurrence(name, recurrence, call, span);
        }
        if name == "split" {
            return self.split(call, span);
        }
        let one = match name {
            "layer_norm" => self.norm(call, NormKind::Layer, false, span)?,
            "group_norm" => self.norm(call, NormKind::Layer, true, span)?,
            "rms_norm" => self.norm(call, NormKind::Rms, false, span)?,
            "group_rms_norm" => self.norm(call, NormKind::Rms, true, span)?,
            "l2_norm" => self.norm(call, NormKind::L2, false, span)?,
            "l2_norm_max" => self.norm(call, NormKind::L2Max, false, span)?,
            "shift" => {
                let args = Args::new(call, "one tensor, shift(x)", &[], span)?;
                args.at_most(1)?;
                self.delayed(args.at(0, "a tensor")?, 1, span)?
            }
            "delay" => {
                let args = Args::new(call, "a tensor and a number, delay(x, k)", &[], span)?;
                args.at_most(2)?;
                let steps = self.integer(args.at(1, "the number of tokens")?, "the delay")?;
                self.delayed(args.at(0, "a tensor")?, steps, span)?
            }
            "conv" => self.conv(call, span)?,
            "gather" => self.gather(call, span)?,
            "position" => {
                let args = Args::new(call, "nothing, position()", &[], span)?;
                args.at_most(0)?;
                Tensor {
                    expr: Expr::Position,
                    inputs: Vec::new(),
                    axes: Vec::new(),
                    rows: true,
                    dimensions: None,
                }
            }
            "dot" => self.dot(call, span)?,
            "outer" => self.outer(call, span)?,
            "slice" => self.slice(call, span)?,
            "concat" => self.concat(call, span)?,
            "attention" => self.attention(call, span)?,
            "softmax" => self.softmax(call, span)?,
            "cumsum" => self.cumsum(call, span)?,
            "f32" => {
                let args = Args::new(call, "one tensor, f32(x)", &[], span)?;
                args.at_most(1)?;
                let node = args.at(0, "a tensor")?;
                let outer = std::mem::replace(&mut self.precision, Precision::F32);
                let kept = pointwise::tensor(self, node).and_then(|tensor| {
                    if tensor.as_number().is_some() {
                        return Ok(tensor);
                    }
                    let id = self.store(&tensor, span)?;
                    Ok(Tensor::value(id, &tensor.axes, tensor.rows))
                });
                self.precision = outer;
                kept?
            }
            _ => {
                let mut known: Vec<String> = document.blocks.keys().cloned().collect();
                known.extend(document.recurrences.keys().cloned());
                known.extend(functions().map(str::to_owned));
                return fail(
                    Problem::UnknownFunction {
                        name: name.to_owned(),
                        known,
                    },
                    call.function.span,
                );
            }
        };
        Ok(vec![one])
    }

    /// A whole number that is known when the model is compiled.
    pub fn integer(&mut self, node: &Node, what: &str) -> Result<i64> {
        let lookup = |n: &str, s: Span| self.constant(n, s);
        constant::integer(node, what, &lookup)
    }

    /// `x @ w`: sums over the last declared dimension of `w`.
    pub fn project(
        &mut self,
        x: (Tensor, &Node),
        w: (Tensor, &Node),
        span: Span,
    ) -> Result<Tensor> {
        let (xn, wn) = (x.1, w.1);
        let summed = match (&w.0.dimensions, w.0.axes.len()) {
            (_, 0) => {
                return refuse(
                    "`@` needs a matrix on its right",
                    "multiply a number with `*`",
                    span,
                );
            }
            (Some(dimensions), _) => dimensions.last().copied().unwrap_or(1),
            (None, _) => 1,
        };
        let w = self.view(w.0, wn.span)?;
        let x = self.view(x.0, xn.span)?;
        let (kept, contracted) = w.axes.split_at(w.axes.len() - summed);
        // Pairs each summed axis of w with the axis of x of that name.
        let mut pairs: Vec<(AxisId, AxisId)> = Vec::new();
        for k in contracted {
            let free = |a: &&AxisId| !pairs.iter().any(|(p, _)| p == *a);
            let found = x.axes.iter().filter(free).find(|a| **a == *k).or_else(|| {
                x.axes
                    .iter()
                    .filter(free)
                    .find(|a| self.axes.same_base(**a, *k))
            });
            match found {
                Some(a) => pairs.push((*a, *k)),
                None => {
                    let (left, right) = (self.axes.describe(&x.axes), self.axes.describe(&w.axes));
                    return Err(Fault::new(
                        Problem::ShapeMismatch {
                            left: format!("{}{left}", called(xn, "the left side ")),
                            right: format!("{}{right}", called(wn, "the right side ")),
                            why: format!(
                                "`@` sums over {}, the last dimension of the right side, but the \
                                 left has no axis {}",
                                self.axes.describe(contracted),
                                self.axes.name(*k).trim_end_matches('\'')
                            ),
                            advice: "a weight is declared [out, in]; use dot(a, b, AXIS) to name \
                                     the summed axis"
                                .into(),
                        },
                        span,
                    )
                    .also(xn.span, left)
                    .also(wn.span, right));
                }
            }
        }
        let renamed = |a: AxisId| {
            pairs
                .iter()
                .find(|(from, _)| *from == a)
                .map_or(a, |(_, to)| *to)
        };
        let rest: Vec<AxisId> = x
            .axes
            .iter()
            .filter(|a| !pairs.iter().any(|(p, _)| p == *a))
            .copied()
            .collect();
        let mut out = rest;
        out.extend(
            kept.iter()
                .filter(|a| !x.axes.contains(a) || pairs.iter().any(|(p, _)| p == *a)),
        );
        let clash = out
            .iter()
            .enumerate()
            .find(|(i, a)| contracted.contains(a) || out[..*i].contains(a));
        if let Some((_, axis)) = clash {
            return fail(
                Problem::AxisTwice {
                    axis: self.axes.name(*axis).to_owned(),
                    place: "this contraction".into(),
                },
                span,
            );
        }
        let x = x.reindex(out.clone(), &|a| IndexExpr::axis(renamed(a)));
        let rows = x.rows || w.rows;
        // The activation is operand 0, wherever it was written.
        let mut inputs = [x.inputs, w.inputs].concat();
        if !x.rows && w.rows {
            inputs.reverse();
        }
        let axes = contracted.to_vec();
        let id = self.emit(OpKind::Contract { axes }, inputs, out.clone(), rows, span)?;
        Ok(Tensor::value(id, &out, rows))
    }

    fn dot(&mut self, call: &Call, span: Span) -> Result<Tensor> {
        let args = Args::new(
            call,
            "two tensors and axes, dot(a, b, AXIS, ...)",
            &[],
            span,
        )?;
        let (an, bn) = (args.at(0, "two tensors")?, args.at(1, "a second tensor")?);
        let a = pointwise::tensor(self, an)?;
        let b = pointwise::tensor(self, bn)?;
        let axes = args.axes_of(self, 2, &a, an)?;
        args.axes_of(self, 2, &b, bn)?;
        if axes.is_empty() {
            return args.missing("the axes to sum over");
        }
        let out: Vec<AxisId> = union(&a.axes, &b.axes)
            .into_iter()
            .filter(|x| !axes.contains(x))
            .collect();
        let rows = a.rows || b.rows;
        let mut inputs = vec![self.access(&a, an.span)?, self.access(&b, bn.span)?];
        if !a.rows && b.rows {
            inputs.reverse();
        }
        let id = self.emit(OpKind::Contract { axes }, inputs, out.clone(), rows, span)?;
        Ok(Tensor::value(id, &out, rows))
    }

    fn norm(&mut self, call: &Call, kind: NormKind, group: bool, span: Span) -> Result<Tensor> {
        let usage = if group {
            "a tensor, the axes of the groups, and eps, \
             f(x, GROUP, ..., eps = 1e-5, gain = g, bias = b)"
        } else {
            "a tensor, its normalised axes, and eps, f(x, AXIS, ..., eps = 1e-5, gain = g, bias = b)"
        };
        let args = Args::new(call, usage, &["eps", "gain", "bias"], span)?;
        let node = args.at(0, "a tensor")?;
        let x = pointwise::tensor(self, node)?;
        let named = args.axes_of(self, 1, &x, node)?;
        if named.is_empty() {
            return args.missing("axes");
        }
        let axes: Vec<AxisId> = if group {
            x.axes
                .iter()
                .filter(|a| !named.contains(a))
                .copied()
                .collect()
        } else {
            named
        };
        if axes.is_empty() {
            return args.bad("and no axis is left to normalise over");
        }
        let Some(eps) = args.keyword("eps") else {
            return args.missing("`eps`");
        };
        let eps_value = {
            let lookup = |n: &str, s: Span| self.constant(n, s);
            constant::number(eps, "eps", &lookup)?
        };
        if !eps_value.is_finite() || eps_value < 0.0 {
            return refuse(
                format!("eps is {eps_value}"),
                "eps is a small number, 0 or more",
                eps.span,
            );
        }
        let mut inputs = vec![self.access(&x, node.span)?];
        let (mut gain, mut bias) = (false, false);
        for (key, present) in [("gain", &mut gain), ("bias", &mut bias)] {
            let Some(n) = args.keyword(key) else { continue };
            let t = pointwise::tensor(self, n)?;
            if let Some(axis) = t.axes.iter().find(|a| !x.axes.contains(a)) {
                let (left, right) = (self.axes.describe(&x.axes), self.axes.describe(&t.axes));
                return Err(Fault::new(
                    Problem::ShapeMismatch {
                        left: format!("{}{left}", called(node, "the normalised tensor ")),
                        right: format!("{}{right}", called(n, &format!("the {key} "))),
                        why: format!("{key} has axis {}", self.axes.name(*axis)),
                        advice: "gain and bias run over axes of the normalised tensor".into(),
                    },
                    n.span,
                )
                .also(node.span, left)
                .also(n.span, right));
            }
            if t.rows {
                return refuse(
                    format!("{key} depends on the input"),
                    "multiply or add it after the norm",
                    n.span,
                );
            }
            inputs.push(self.access(&t, n.span)?);
            *present = true;
        }
        let (out, rows) = (x.axes, x.rows);
        let op = OpKind::Norm {
            kind,
            axes,
            eps: eps_value,
            gain,
            bias,
        };
        let id = self.emit(op, inputs, out.clone(), rows, span)?;
        Ok(Tensor::value(id, &out, rows))
    }

    fn delayed(&mut self, node: &Node, steps: i64, span: Span) -> Result<Tensor> {
        if steps < 0 {
            return fail(Problem::NonCausal { steps: -steps }, span);
        }
        if steps > MAX_DELAY {
            return fail(
                Problem::BadSize {
                    what: "the delay".into(),
                    size: steps.to_string(),
                    limit: MAX_DELAY.to_string(),
                },
                span,
            );
        }
        let x = pointwise::tensor(self, node)?;
        self.delay(x, node, steps as i32, span)
    }

    fn delay(&mut self, x: Tensor, node: &Node, steps: i32, span: Span) -> Result<Tensor> {
        if !x.rows {
            return refuse(
                format!("{} has no time to delay", called(node, "this tensor")),
                "delay what depends on the tokens",
                span,
            );
        }
        if steps == 0 {
            return Ok(x);
        }
        let mut access = match x.as_access() {
            Some(access) => access.clone(),
            None => Access::plain(self.store(&x, node.span)?, &x.axes),
        };
        if self.graph.value(access.value).precision == Precision::Index {
            return refuse(
                "token ids cannot be delayed",
                "look the tokens up first, then delay what was found",
                span,
            );
        }
        access.delay += steps;
        Ok(Tensor {
            expr: Expr::Input(0),
            inputs: vec![access],
            axes: x.axes,
            rows: true,
            dimensions: None,
        })
    }

    /// Causal depthwise convolution: the last tap is the current token.
    fn conv(&mut self, call: &Call, span: Span) -> Result<Tensor> {
        let args = Args::new(call, "a tensor and its taps, conv(x, w)", &[], span)?;
        args.at_most(2)?;
        let (xn, wn) = (args.at(0, "a tensor")?, args.at(1, "the taps")?);
        let x = pointwise::tensor(self, xn)?;
        let w = pointwise::tensor(self, wn)?;
        let Some((taps, channels)) = w.axes.split_last() else {
            return args.bad("but the taps have no axis");
        };
        let (taps, width) = (*taps, self.axes.size(*taps));
        let channels = channels.to_vec();
        let outside = channels.iter().find(|a| !x.axes.contains(a));
        if outside.is_some() || x.axes.contains(&taps) {
            let (left, right) = (self.axes.describe(&x.axes), self.axes.describe(&w.axes));
            return Err(Fault::new(
                Problem::ShapeMismatch {
                    left: format!("{}{left}", called(xn, "the signal ")),
                    right: format!("{}{right}", called(wn, "the taps ")),
                    why: match outside {
                        Some(axis) => format!("the signal has no axis {}", self.axes.name(*axis)),
                        None => "the signal has the axis of the taps".into(),
                    },
                    advice: "taps are [channels..., width], channels as in the signal".into(),
                },
                span,
            )
            .also(xn.span, left)
            .also(wn.span, right));
        }
        if width > MAX_TAPS {
            return fail(
                Problem::BadSize {
                    what: "the number of taps".into(),
                    size: width.to_string(),
                    limit: MAX_TAPS.to_string(),
                },
                wn.span,
            );
        }
        let x = self.view(x, xn.span)?;
        let w = self.view(w, wn.span)?;
        let mut sum = Tensor::number(0.0);
        for k in 0..width {
            let tap = w.reindex(channels.clone(), &|a| {
                if a == taps {
                    IndexExpr::at(k as i64)
                } else {
                    IndexExpr::axis(a)
                }
            });
            let past = self.delay(x.clone(), xn, (width - 1 - k) as i32, span)?;
            let product = Tensor::binary(Binary::Mul, past, tap);
            sum = pointwise::joined(self, Binary::Add, sum, product, span)?;
        }
        Ok(sum)
    }

    fn gather(&mut self, call: &Call, span: Span) -> Result<Tensor> {
        let args = Args::new(call, "a table and ids, gather(table, ids)", &[], span)?;
        args.at_most(2)?;
        let (tn, idn) = (args.at(0, "a table")?, args.at(1, "ids")?);
        let table = pointwise::tensor(self, tn)?;
        let ids = pointwise::tensor(self, idn)?;
        let indices = ids
            .as_access()
            .is_some_and(|access| self.graph.value(access.value).precision == Precision::Index);
        if !indices {
            return refuse(
                format!("{} is not a tensor of token ids", called(idn, "this")),
                "look up with an input declared as \"token\"",
                idn.span,
            );
        }
        let first = table.dimensions.as_ref().and_then(|d| d.first().copied());
        if table.axes.is_empty() || table.rows || first.is_some_and(|n| n != 1) {
            return refuse(
                "the table must be a parameter whose first dimension is one axis",
                "declare it as `shape = \"V, C\"`",
                tn.span,
            );
        }
        let id = self.store(&table, tn.span)?;
        let out = table.axes[1..].to_vec();
        let mut row = Access::plain(id, &table.axes);
        row.index[0] = IndexExpr::at(0);
        let ids = self.access(&ids, idn.span)?;
        let id = self.emit(OpKind::Gather, vec![row, ids], out.clone(), true, span)?;
        Ok(Tensor::value(id, &out, true))
    }

    fn softmax(&mut self, call: &Call, span: Span) -> Result<Tensor> {
        let args = Args::new(call, "a tensor and axes, softmax(x, AXIS, ...)", &[], span)?;
        let node = args.at(0, "a tensor")?;
        let x = pointwise::tensor(self, node)?;
        let axes = args.axes_of(self, 1, &x, node)?;
        if axes.is_empty() {
            return args.missing("the axes to normalise over");
        }
        let x = self.view(x, node.span)?;
        let top = self.reduce(x.clone(), Combine::Max, axes.clone(), span)?;
        let e = Tensor::binary(Binary::Sub, x, top).unary(Unary::Exp);
        let e = self.view(e, span)?;
        let total = self.reduce(e.clone(), Combine::Sum, axes, span)?;
        Ok(Tensor::binary(Binary::Div, e, total))
    }

    fn cumsum(&mut self, call: &Call, span: Span) -> Result<Tensor> {
        let args = Args::new(call, "a tensor and an axis, cumsum(x, AXIS)", &[], span)?;
        args.at_most(2)?;
        let node = args.at(0, "a tensor")?;
        let x = pointwise::tensor(self, node)?;
        let axes = args.axes_of(self, 1, &x, node)?;
        let [axis] = axes.as_slice() else {
            return args.bad("but the axis must be one that is no product");
        };
        if x.rows {
            return refuse(
                "a cumulative sum of what depends on the tokens",
                "along T, write a recurrence; cumsum is for parameters",
                span,
            );
        }
        let input = self.access(&x, node.span)?;
        let id = self.emit(
            OpKind::CumSum { axis: *axis },
            vec![input],
            x.axes.clone(),
            false,
            span,
        )?;
        Ok(Tensor::value(id, &x.axes, false))
    }
}
