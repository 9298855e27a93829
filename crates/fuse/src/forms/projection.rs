//! Rules about products.

use super::language::{Forms, Node, Operation, Read};
use super::rule::{Maker, Rule, Site};
use crate::plan::Storage;
use egg::Id;
use fusec_ir::{AxisId, Binary, Combine, Expr, IndexExpr, NormKind, OpKind, Precision, Unary};
use std::collections::BTreeMap;

/// `norm(x) @ W`: statistics of the rows of `x`, a product of `x`, and a correction after it.
///
/// For `norm(x) = (x - mean) * r * gain + bias` the product is
/// `r * (x @ (gain W) - mean * colsum(gain W)) + bias @ W`.
pub struct LnProjection;

impl Rule for LnProjection {
    fn name(&self) -> &'static str {
        "ln-projection"
    }

    fn reason(&self) -> &'static str {
        "the normalised activation is never written: only its row statistics are"
    }

    fn condition(&self) -> &'static str {
        "the product sums over exactly the normalised axes; gain and bias are the same for all rows; the gain is folded into the matrix for f32 storage only, else it is applied to the activation"
    }

    fn applies_to(&self, kind: &OpKind) -> bool {
        matches!(kind, OpKind::Contract { .. })
    }

    fn rewrite(&self, forms: &mut Forms, site: &Site) -> Option<Id> {
        if !site.op.tails.is_empty() || site.op.reads.len() != 2 {
            return None;
        }
        let norms = site.operand(forms, 0);
        norms
            .iter()
            .filter(|(_, op)| op.tails.is_empty())
            .find_map(|(node, norm)| apply_after(self.name(), forms, site, node, norm))
    }
}

fn apply_after(
    rule: &'static str,
    forms: &mut Forms,
    site: &Site,
    node: &Node,
    norm: &Operation,
) -> Option<Id> {
    let OpKind::Norm {
        kind,
        axes: over,
        eps,
        gain,
        bias,
    } = &norm.kind
    else {
        return None;
    };
    let OpKind::Contract { axes: summed } = &site.op.kind else {
        return None;
    };
    let ([of_norm], [result]) = (&norm.results[..], &site.op.results[..]) else {
        return None;
    };
    let (by, weight_read) = (&site.op.reads[0], &site.op.reads[1]);
    let (x, weight) = (node.children[0], site.node.children[1]);
    let weight_meta = forms[weight].data.clone()?;
    // A sum over all rows is no projection of them.
    if !result.rows || weight_meta.rows || by.delay != 0 || norm.reads[0].delay != 0 {
        return None;
    }
    // Which variable of the product each axis of the norm is read by.
    let map: BTreeMap<AxisId, IndexExpr> = of_norm
        .axes
        .iter()
        .copied()
        .zip(by.index.iter().cloned())
        .collect();
    let mut images = Vec::new();
    for axis in over {
        images.push(map.get(axis)?.as_axis()?);
    }
    images.sort_unstable();
    images.dedup();
    let mut sums = summed.clone();
    sums.sort_unstable();
    if images.len() != over.len() || images != sums {
        return None;
    }
    // The matrix is read along distinct variables, which become the axes of what is made of it.
    let mut weight_axes = Vec::new();
    for index in &weight_read.index {
        let variable = index.as_axis()?;
        if weight_axes.contains(&variable) {
            return None;
        }
        weight_axes.push(variable);
    }
    let columns: Vec<AxisId> = weight_axes
        .iter()
        .copied()
        .filter(|a| !summed.contains(a))
        .collect();
    // Gain and bias in the product's variables, if those of the matrix suffice.
    let in_product = |n: usize| -> Option<Read> {
        let read = compose(&norm.reads[n], &map)?;
        let known = read.variables().all(|v| weight_axes.contains(&v));
        (read.delay == 0 && known).then_some(read)
    };
    let gain_read = if *gain { Some(in_product(1)?) } else { None };
    let bias_at = norm.reads.len() - 1;
    let bias_read = if *bias {
        Some(in_product(bias_at)?)
    } else {
        None
    };

    let statistic_axes: Vec<AxisId> = of_norm
        .axes
        .iter()
        .copied()
        .filter(|a| !over.contains(a))
        .collect();
    let statistic_read = Read {
        delay: 0,
        tail: None,
        index: statistic_axes
            .iter()
            .map(|a| map.get(a).cloned())
            .collect::<Option<_>>()?,
    };
    let count = forms.analysis.elements(over) as f64;
    let mut maker = Maker::new(forms, rule, site, &[(node, norm)]);
    let name = |what: &str| format!("{}.{what}", result.name);
    // Statistics are the norm's: every product of it shares them.
    let of_name = |what: &str| format!("{}.{what}", of_norm.name);
    let mul = |a, b| Expr::binary(Binary::Mul, a, b);
    let sub = |a, b| Expr::binary(Binary::Sub, a, b);
    let x_read = norm.reads[0].clone();

    // Row statistics.
    let statistic = |maker: &mut Maker<'_>, part: u32, what: &str, expr: Expr| {
        let meta = maker.meta(of_name(what), true, statistic_axes.clone(), Precision::F32);
        let kind = OpKind::Reduce {
            expr,
            combine: Combine::Sum,
            axes: over.clone(),
        };
        maker.shared(node, part, kind, vec![(x, x_read.clone())], meta)
    };
    let part = match kind {
        NormKind::Layer | NormKind::Rms => 1.0 / count,
        NormKind::L2 | NormKind::L2Max => 1.0,
    };
    let scaled = |e: Expr| {
        if part == 1.0 {
            e
        } else {
            mul(e, Expr::Const(part))
        }
    };
    let squares = statistic(
        &mut maker,
        1,
        "squares",
        scaled(mul(Expr::Input(0), Expr::Input(0))),
    );
    let mean = matches!(kind, NormKind::Layer)
        .then(|| statistic(&mut maker, 2, "mean", scaled(Expr::Input(0))));
    let plus_eps = |e| Expr::binary(Binary::Add, e, Expr::Const(*eps));
    let rate = match kind {
        NormKind::Rms | NormKind::L2 => Expr::unary(Unary::Rsqrt, plus_eps(Expr::Input(0))),
        NormKind::L2Max => Expr::unary(
            Unary::Recip,
            Expr::binary(
                Binary::Max,
                Expr::unary(Unary::Sqrt, Expr::Input(0)),
                Expr::Const(*eps),
            ),
        ),
        NormKind::Layer => {
            let variance = sub(Expr::Input(0), Expr::unary(Unary::Square, Expr::Input(1)));
            let variance = Expr::binary(Binary::Max, variance, Expr::Const(0.0));
            Expr::unary(Unary::Rsqrt, plus_eps(variance))
        }
    };
    let meta = maker.meta(
        of_name("rate"),
        true,
        statistic_axes.clone(),
        Precision::F32,
    );
    let rate = maker.shared(
        node,
        3,
        OpKind::Map { expr: rate },
        [Some(squares), mean]
            .into_iter()
            .flatten()
            .map(|id| (id, Read::plain(&statistic_axes)))
            .collect(),
        meta,
    );

    // The product of the raw activation.
    let fold_weight = site.aim.storage == Storage::F32;
    let raw_meta = maker.meta(name("raw"), true, result.axes.clone(), Precision::F32);
    let mut activation = (x, compose(&norm.reads[0], &map)?);
    let mut matrix = (weight, weight_read.clone());
    if let Some(gain_read) = &gain_read {
        if fold_weight {
            let meta = maker.meta(
                name("matrix"),
                false,
                weight_axes.clone(),
                weight_meta.precision,
            );
            let folded = maker.op(
                OpKind::Map {
                    expr: mul(Expr::Input(0), Expr::Input(1)),
                },
                vec![matrix.clone(), (node.children[1], gain_read.clone())],
                meta,
            );
            matrix = (folded, Read::plain(&weight_axes));
        } else {
            let meta = maker.meta(
                of_name("gained"),
                true,
                of_norm.axes.clone(),
                of_norm.precision,
            );
            let gained = maker.shared(
                node,
                4,
                OpKind::Map {
                    expr: mul(Expr::Input(0), Expr::Input(1)),
                },
                vec![
                    (x, x_read.clone()),
                    (node.children[1], norm.reads[1].clone()),
                ],
                meta,
            );
            activation = (gained, by.clone());
        }
    }
    let raw = maker.op(
        OpKind::Contract {
            axes: summed.clone(),
        },
        vec![activation, matrix.clone()],
        raw_meta,
    );

    // What the statistics and the bias add to each column.
    let column = |maker: &mut Maker<'_>, what: &str, expr: Expr, operands: Vec<(Id, Read)>| {
        let meta = maker.meta(name(what), false, columns.clone(), Precision::F32);
        let kind = OpKind::Reduce {
            expr,
            combine: Combine::Sum,
            axes: summed.clone(),
        };
        (maker.op(kind, operands, meta), Read::plain(&columns))
    };
    let mut operands = vec![
        (raw, Read::plain(&result.axes)),
        (rate, statistic_read.clone()),
    ];
    let mut inner = Expr::Input(0);
    if let Some(mean) = mean {
        let mut of = vec![(weight, weight_read.clone())];
        let mut expr = Expr::Input(0);
        if let Some(gain_read) = &gain_read {
            of.push((node.children[1], gain_read.clone()));
            expr = mul(Expr::Input(0), Expr::Input(1));
        }
        let sums = column(&mut maker, "column_sums", expr, of);
        operands.push((mean, statistic_read));
        operands.push(sums);
        inner = sub(inner, mul(Expr::Input(2), Expr::Input(3)));
    }
    let mut expr = mul(inner, Expr::Input(1));
    if let Some(bias_read) = bias_read {
        let of = vec![
            (weight, weight_read.clone()),
            (node.children[bias_at], bias_read),
        ];
        let shift = column(
            &mut maker,
            "column_bias",
            mul(Expr::Input(0), Expr::Input(1)),
            of,
        );
        expr = Expr::binary(Binary::Add, expr, Expr::Input(operands.len()));
        operands.push(shift);
    }
    Some(maker.op(OpKind::Map { expr }, operands, result.clone()))
}

/// A read in other variables: each variable replaced by its image.
fn compose(read: &Read, map: &BTreeMap<AxisId, IndexExpr>) -> Option<Read> {
    let mut index = Vec::new();
    for of in &read.index {
        let mut sum = IndexExpr::at(of.base);
        for (variable, coefficient) in &of.terms {
            let image = map.get(variable)?;
            sum.base += coefficient * image.base;
            for (axis, times) in &image.terms {
                match sum.terms.iter_mut().find(|t| t.0 == *axis) {
                    Some(term) => term.1 += coefficient * times,
                    None => sum.terms.push((*axis, coefficient * times)),
                }
            }
        }
        sum.terms.retain(|t| t.1 != 0);
        index.push(sum);
    }
    Some(Read {
        delay: read.delay,
        tail: read.tail,
        index,
    })
}
