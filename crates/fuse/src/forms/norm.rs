//! Rules about normalisations.

use super::language::{Forms, Node, Operation, Read};
use super::rule::{Maker, Rule, Site};
use egg::Id;
use fusec_ir::{AxisId, Binary, Expr, OpKind, Precision};

/// `norm(x) * h = norm'(x)` whose gain is `gain * h`, computed at load.
pub struct NormGainFold;

impl Rule for NormGainFold {
    fn name(&self) -> &'static str {
        "norm-gain-fold"
    }

    fn reason(&self) -> &'static str {
        "a gain on a normalised value costs nothing when it is part of the norm's own gain"
    }

    fn condition(&self) -> &'static str {
        "the factor is the same for all rows and runs over axes of the norm; the norm's value is used in no other way by the operation"
    }

    fn applies_to(&self, kind: &OpKind) -> bool {
        matches!(kind, OpKind::Map { .. })
    }

    fn rewrite(&self, forms: &mut Forms, site: &Site) -> Option<Id> {
        let OpKind::Map { expr } = &site.op.kind else {
            return None;
        };
        if !site.op.tails.is_empty() {
            return None;
        }
        (0..site.node.children.len()).find_map(|i| {
            let factor = sole_factor(expr, i)?;
            let norms = site.operand(forms, i);
            let (node, norm) = norms.iter().find(|(_, op)| is_free_norm(op))?;
            fold(self.name(), forms, site, i, factor, (node, norm))
        })
    }
}

fn is_free_norm(op: &Operation) -> bool {
    matches!(op.kind, OpKind::Norm { .. }) && op.tails.is_empty()
}

/// `Some(j)` if every use of operand `i` is a product with operand `j`.
pub(crate) fn sole_factor(expr: &Expr, i: usize) -> Option<usize> {
    let (mut uses, mut products) = (0, 0);
    let mut factor = None;
    let mut same = true;
    expr.walk(&mut |e| match e {
        Expr::Input(k) if *k == i => uses += 1,
        Expr::Binary(Binary::Mul, a, b) => {
            let with = match (&**a, &**b) {
                (Expr::Input(k), Expr::Input(j)) if *k == i && *j != i => *j,
                (Expr::Input(j), Expr::Input(k)) if *k == i && *j != i => *j,
                _ => return,
            };
            products += 1;
            same &= factor.is_none_or(|f| f == with);
            factor = Some(with);
        }
        _ => {}
    });
    factor.filter(|_| same && uses == products)
}

/// The expression with every product of operands `i` and `j` replaced by operand `i`.
fn drop_factor(expr: &Expr, i: usize, j: usize) -> Expr {
    match expr {
        Expr::Binary(Binary::Mul, a, b)
            if matches!((&**a, &**b), (Expr::Input(x), Expr::Input(y))
                if (*x == i && *y == j) || (*x == j && *y == i)) =>
        {
            Expr::Input(i)
        }
        Expr::Binary(op, a, b) => Expr::binary(*op, drop_factor(a, i, j), drop_factor(b, i, j)),
        Expr::Unary(f, a) => Expr::unary(*f, drop_factor(a, i, j)),
        _ => expr.clone(),
    }
}

fn fold(
    rule: &'static str,
    forms: &mut Forms,
    site: &Site,
    i: usize,
    j: usize,
    (node, norm): (&Node, &Operation),
) -> Option<Id> {
    let OpKind::Map { expr } = &site.op.kind else {
        return None;
    };
    let OpKind::Norm {
        kind,
        axes,
        eps,
        gain,
        bias,
    } = &norm.kind
    else {
        return None;
    };
    let [of_norm] = &norm.results[..] else {
        return None;
    };
    let [result] = &site.op.results[..] else {
        return None;
    };
    // The map reads the norm along its own axes, so that both speak of the same variables.
    let (read, factor_read) = (&site.op.reads[i], &site.op.reads[j]);
    let factor = site.node.children[j];
    let constant = forms[factor].data.as_ref().is_some_and(|m| !m.rows);
    if !read.is_plain(&of_norm.axes)
        || !constant
        || factor_read.delay != 0
        || !factor_read.variables().all(|v| of_norm.axes.contains(&v))
    {
        return None;
    }
    let mut maker = Maker::new(forms, rule, site, &[(node, norm)]);
    let mut operands = vec![(node.children[0], norm.reads[0].clone())];
    let product = |maker: &mut Maker<'_>, n: usize, what: &str| {
        let axes: Vec<AxisId> = of_norm
            .axes
            .iter()
            .copied()
            .filter(|a| {
                norm.reads[n].variables().any(|v| v == *a)
                    || factor_read.variables().any(|v| v == *a)
            })
            .collect();
        let name = format!("{}.{what}", of_norm.name);
        let meta = maker.meta(name, false, axes.clone(), Precision::F32);
        let folded = maker.op(
            OpKind::Map {
                expr: Expr::binary(Binary::Mul, Expr::Input(0), Expr::Input(1)),
            },
            vec![
                (node.children[n], norm.reads[n].clone()),
                (factor, factor_read.clone()),
            ],
            meta,
        );
        (folded, Read::plain(&axes))
    };
    if *gain {
        operands.push(product(&mut maker, 1, "gain"));
    } else {
        operands.push((factor, factor_read.clone()));
    }
    if *bias {
        operands.push(product(&mut maker, norm.reads.len() - 1, "bias"));
    }
    let rest = drop_factor(expr, i, j);
    let whole = rest == Expr::Input(i) && result.axes == of_norm.axes;
    let scaled = OpKind::Norm {
        kind: *kind,
        axes: axes.clone(),
        eps: *eps,
        gain: true,
        bias: *bias,
    };
    if whole {
        return Some(maker.op(scaled, operands, result.clone()));
    }
    let normed = maker.op(scaled, operands, of_norm.clone());
    // Operands that are still read, in order.
    let kept: Vec<usize> = (0..site.node.children.len())
        .filter(|k| {
            let mut used = false;
            rest.walk(&mut |e| used |= *e == Expr::Input(*k));
            used
        })
        .collect();
    let expr = rest.substitute(&|k| Expr::Input(kept.iter().position(|x| *x == k).unwrap_or(0)));
    let operands = kept
        .iter()
        .map(|k| {
            let of = if *k == i {
                normed
            } else {
                site.node.children[*k]
            };
            (of, site.op.reads[*k].clone())
        })
        .collect();
    Some(maker.op(OpKind::Map { expr }, operands, result.clone()))
}
