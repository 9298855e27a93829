//! Norms inside a step: what they are in a flow, written out as sums and functions of the step.

use super::super::arguments::Args;
use super::super::constant;
use super::super::error::{Result, refuse};
use super::super::pointwise::{Host, applied, combine, joined, tensor};
use super::super::syntax::{Call, Node};
use super::super::tensor::Tensor;
use crate::{AxisId, Binary, Combine, NormKind, Span, Unary};

/// A norm of the language.
pub(super) struct Norm {
    kind: NormKind,
    /// Whether the axes named are those of the groups.
    groups: bool,
}

impl Norm {
    /// The norm of this name.
    pub fn of(name: &str) -> Option<Norm> {
        let (kind, groups) = match name {
            "layer_norm" => (NormKind::Layer, false),
            "group_norm" => (NormKind::Layer, true),
            "rms_norm" => (NormKind::Rms, false),
            "group_rms_norm" => (NormKind::Rms, true),
            "l2_norm" => (NormKind::L2, false),
            "l2_norm_max" => (NormKind::L2Max, false),
            _ => return None,
        };
        Some(Norm { kind, groups })
    }

    /// What a call of it is.
    pub fn apply(&self, host: &mut dyn Host, call: &Call, span: Span) -> Result<Tensor> {
        let usage = "a tensor, axes, and eps, f(x, AXIS, ..., eps = 1e-5, gain = g, bias = b)";
        let args = Args::new(call, usage, &["eps", "gain", "bias"], span)?;
        let node = args.at(0, "a tensor")?;
        let x = tensor(host, node)?;
        let named = args.axes_of(host, 1, &x, node)?;
        if named.is_empty() {
            return args.missing("axes");
        }
        let axes: Vec<AxisId> = match self.groups {
            true => x
                .axes
                .iter()
                .filter(|a| !named.contains(a))
                .copied()
                .collect(),
            false => named,
        };
        if axes.is_empty() {
            return args.bad("and no axis is left to normalise over");
        }
        let Some(eps) = args.keyword("eps") else {
            return args.missing("`eps`");
        };
        let number = {
            let lookup = |n: &str, s: Span| host.constant(n, s);
            constant::number(eps, "eps", &lookup)?
        };
        if !number.is_finite() || number < 0.0 {
            return refuse(
                format!("eps is {number}"),
                "eps is a small number, 0 or more",
                eps.span,
            );
        }
        let x = host.part(x, node.span)?;
        let mut out = self.normalised(host, x, &axes, number, span)?;
        for (key, op) in [("gain", Binary::Mul), ("bias", Binary::Add)] {
            if let Some(with) = args.keyword(key) {
                let by = tensor(host, with)?;
                self.covered(host, &out, &by, with)?;
                out = combine(host, op, (out, node), (by, with), span)?;
            }
        }
        Ok(out)
    }

    /// Gains and biases run over axes of what is normalised.
    fn covered(&self, host: &mut dyn Host, of: &Tensor, by: &Tensor, node: &Node) -> Result<()> {
        match by.axes.iter().find(|axis| !of.axes.contains(axis)) {
            None => Ok(()),
            Some(axis) => refuse(
                format!("it has axis {}", host.axes().name(*axis)),
                "gain and bias run over axes of the normalised tensor",
                node.span,
            ),
        }
    }

    fn normalised(
        &self,
        host: &mut dyn Host,
        x: Tensor,
        axes: &[AxisId],
        eps: f64,
        span: Span,
    ) -> Result<Tensor> {
        let count = host.axes().elements(axes).unwrap_or(usize::MAX) as f64;
        let share = |host: &mut dyn Host, of: Tensor| {
            joined(host, Binary::Mul, of, Tensor::number(1.0 / count), span)
        };
        let x = match self.kind {
            NormKind::Layer => {
                let part = share(host, x.clone())?;
                let mean = host.reduce(part, Combine::Sum, axes.to_vec(), span)?;
                let centred = joined(host, Binary::Sub, x, mean, span)?;
                host.part(centred, span)?
            }
            NormKind::Rms | NormKind::L2 | NormKind::L2Max => x,
        };
        let squares = applied(host, Unary::Square, x.clone(), span)?;
        let squares = match self.kind {
            NormKind::Layer | NormKind::Rms => share(host, squares)?,
            NormKind::L2 | NormKind::L2Max => squares,
        };
        let sum = host.reduce(squares, Combine::Sum, axes.to_vec(), span)?;
        let eps = Tensor::number(eps);
        match self.kind {
            NormKind::L2Max => {
                let root = applied(host, Unary::Sqrt, sum, span)?;
                let size = joined(host, Binary::Max, root, eps, span)?;
                joined(host, Binary::Div, x, size, span)
            }
            NormKind::Layer | NormKind::Rms | NormKind::L2 => {
                let sum = joined(host, Binary::Add, sum, eps, span)?;
                let scale = applied(host, Unary::Rsqrt, sum, span)?;
                joined(host, Binary::Mul, x, scale, span)
            }
        }
    }
}
