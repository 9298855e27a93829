//! Softmax attention in a flow.

use super::arguments::Args;
use super::constant;
use super::error::{Fault, Problem, Result, fail, refuse};
use super::lower::Lowering;
use super::pointwise::{self, Host, called};
use super::syntax::{Call, Node};
use super::tensor::{Tensor, union};
use crate::{AxisId, IndexExpr, OpKind, Precision, Span};

/// Longest window, in tokens: all of it is carried from run to run.
const MAX_WINDOW: i64 = 1 << 16;

impl Lowering<'_> {
    /// `attention(q, k, v, AXIS, ..., window = W, scale = s)`.
    pub fn attention(&mut self, call: &Call, span: Span) -> Result<Tensor> {
        let args = Args::new(
            call,
            "queries, keys, values, the axes of their products, and a window, \
             attention(q, k, v, AXIS, ..., window = 4096, scale = rsqrt(AXIS))",
            &["window", "scale"],
            span,
        )?;
        let qn = args.at(0, "the queries")?;
        let kn = args.at(1, "the keys")?;
        let vn = args.at(2, "the values")?;
        let q = pointwise::tensor(self, qn)?;
        let k = pointwise::tensor(self, kn)?;
        let v = pointwise::tensor(self, vn)?;
        let named = args.axes_of(self, 3, &q, qn)?;
        args.axes_of(self, 3, &k, kn)?;
        if named.is_empty() {
            return args.missing("the axes to multiply queries and keys along");
        }
        let Some(window) = args.keyword("window") else {
            return args.missing("`window`, how many tokens are seen and kept");
        };
        let window = self.window(window)?;
        let scale = match args.keyword("scale") {
            Some(node) => {
                let lookup = |n: &str, s: Span| self.constant(n, s);
                let scale = constant::number(node, "the scale", &lookup)?;
                if !scale.is_finite() {
                    return refuse(
                        format!("the scale is {scale}"),
                        "the scale is a number; without it, 1 / sqrt of the summed elements",
                        node.span,
                    );
                }
                scale
            }
            None => {
                let elements: f64 = named.iter().map(|a| self.axes.size(*a) as f64).product();
                1.0 / elements.sqrt()
            }
        };
        let covers = |a: &Tensor, b: &Tensor| b.axes.iter().all(|x| a.axes.contains(x));
        if !covers(&q, &k) && !covers(&k, &q) {
            let (left, right) = (self.axes.describe(&q.axes), self.axes.describe(&k.axes));
            return Err(Fault::new(
                Problem::ShapeMismatch {
                    left: format!("{}{left}", called(qn, "the queries ")),
                    right: format!("{}{right}", called(kn, "the keys ")),
                    why: "queries and keys have different heads".into(),
                    advice: "the axes of one include those of the other; rename what differs"
                        .into(),
                },
                span,
            )
            .also(qn.span, left)
            .also(kn.span, right));
        }
        let heads: Vec<AxisId> = union(&q.axes, &k.axes)
            .into_iter()
            .filter(|a| !named.contains(a))
            .collect();
        let mut out = heads;
        for axis in &v.axes {
            if !out.contains(axis) {
                out.push(*axis);
            }
        }
        // The result may run over axes of the same names as the summed ones.
        let mut taken = out.clone();
        let summed: Vec<AxisId> = named
            .iter()
            .map(|axis| {
                let mut axis = *axis;
                while taken.contains(&axis) {
                    axis = self.axes.primed(axis);
                }
                taken.push(axis);
                axis
            })
            .collect();
        let renamed = |a: AxisId| {
            let at = named.iter().position(|n| *n == a);
            IndexExpr::axis(at.map_or(a, |at| summed[at]))
        };
        let mut inputs = Vec::new();
        for (x, node, cached) in [(q, qn, false), (k, kn, true), (v, vn, true)] {
            if cached {
                self.cacheable(&x, node)?;
            }
            let mut access = self.access(&x, node.span)?;
            if inputs.len() < 2 {
                for index in &mut access.index {
                    *index = index.substitute(&renamed);
                }
            }
            if cached {
                access.delay = window - 1;
            }
            inputs.push(access);
        }
        let kind = OpKind::Attend {
            axes: summed,
            window: window as u32,
            scale,
        };
        let id = self.emit(kind, inputs, out.clone(), true, span)?;
        Ok(Tensor::value(id, &out, true))
    }

    fn window(&mut self, node: &Node) -> Result<i32> {
        let window = self.integer(node, "the window")?;
        match i32::try_from(window) {
            Ok(n) if (1..=MAX_WINDOW).contains(&window) => Ok(n),
            _ => fail(
                Problem::BadSize {
                    what: "the window".into(),
                    size: window.to_string(),
                    limit: MAX_WINDOW.to_string(),
                },
                node.span,
            ),
        }
    }

    /// What is kept from run to run depends on the tokens, and is no token.
    fn cacheable(&self, x: &Tensor, node: &Node) -> Result<()> {
        if !x.rows {
            return refuse(
                format!("{} is the same for all tokens", called(node, "this tensor")),
                "attend to what depends on the tokens",
                node.span,
            );
        }
        let ids = x
            .as_access()
            .is_some_and(|a| self.graph.value(a.value).precision == Precision::Index);
        if ids {
            return refuse(
                "token ids cannot be attended to",
                "look the tokens up first",
                node.span,
            );
        }
        Ok(())
    }
}
