//! Rules about the matrix of a product: how it lies in memory, and products that are sums of a few terms.

use super::language::{Forms, Meta, Read};
use super::rule::{Maker, Rule, Site, operations};
use crate::zeros::{CHAIN, is_zero_with_relu};
use egg::Id;
use fusec_ir::{AxisId, Binary, Combine, Expr, OpKind};

/// `x @ W` with `W` transposed at load, so that what belongs to one element of `x` lies side by side.
pub struct ZeroRows;

impl Rule for ZeroRows {
    fn name(&self) -> &'static str {
        "zero-rows"
    }

    fn reason(&self) -> &'static str {
        "what of the matrix belongs to activations that are zero is not read: they are zero where a relu is"
    }

    fn condition(&self) -> &'static str {
        "zeros are expected (--zeros), the activation is zero wherever a relu is, and the matrix is the same for all rows and has the summed axes last; its copy for single rows is made at load"
    }

    fn applies_to(&self, kind: &OpKind) -> bool {
        matches!(kind, OpKind::Contract { .. })
    }

    fn rewrite(&self, forms: &mut Forms, site: &Site) -> Option<Id> {
        let wanted = site.aim.zeros > 0.0 && site.aim.rows == 1;
        if !wanted {
            return None;
        }
        let Product {
            result,
            x,
            weight,
            matrix,
            inner,
            columns,
            ..
        } = product(forms, site)?;
        // Transposed it would lie as it does.
        let lies_so = inner.is_empty() || columns.is_empty();
        if lies_so || !has_zeros(forms, x, CHAIN) {
            return None;
        }
        let transposed = [inner, columns].concat();
        let mut maker = Maker::new(forms, self.name(), site, &[]);
        let copy = maker.meta(
            format!("{}.transposed", result.name),
            false,
            transposed.clone(),
            matrix.precision,
        );
        let kind = OpKind::Map {
            expr: Expr::Input(0),
        };
        let read = site.op.reads[1].clone();
        let matrix = maker.op(kind, vec![(weight, read)], copy);
        let operands = vec![
            (x, site.op.reads[0].clone()),
            (matrix, Read::plain(&transposed)),
        ];
        Some(maker.op(site.op.kind.clone(), operands, result.clone()))
    }
}

/// `x @ W` of few terms as a sum, which is part of whatever reads it.
pub struct ShortProduct;

/// Terms of the longest sum that is taken for a short one.
const TERMS: usize = 256;
/// Results that a product has at least for each term of a sum: it widens a low rank.
const RESULTS: usize = 8;
/// Most rows of a run in which each reader may read the matrix for itself.
const ROWS: usize = 8;

impl Rule for ShortProduct {
    fn name(&self) -> &'static str {
        "short-product"
    }

    fn reason(&self) -> &'static str {
        "the second half of a low-rank pair is computed where it is read, in place of a kernel that moves next to nothing"
    }

    fn condition(&self) -> &'static str {
        "single steps of at most 8 sequences; a power of two of terms, at most 256, and 8 results for each; the matrix is the same for all rows, with the summed axis last"
    }

    fn applies_to(&self, kind: &OpKind) -> bool {
        matches!(kind, OpKind::Contract { .. })
    }

    fn rewrite(&self, forms: &mut Forms, site: &Site) -> Option<Id> {
        if !site.aim.single_steps || site.aim.rows > ROWS {
            return None;
        }
        let Product {
            summed,
            result,
            x,
            weight,
            inner,
            ..
        } = product(forms, site)?;
        let terms = forms.analysis.elements(summed);
        // Lanes beside each other add up what they have by exchanges; for other lengths all terms would go through shared
        // memory.
        let narrow = terms <= TERMS
            && terms.is_power_of_two()
            && RESULTS * terms <= forms.analysis.elements(&result.axes);
        let row = forms[x].data.as_ref().is_some_and(|meta| meta.rows);
        if !row || !narrow || inner.len() != summed.len() || site.op.reads[0].delay != 0 {
            return None;
        }
        let kind = OpKind::Reduce {
            expr: Expr::binary(Binary::Mul, Expr::Input(0), Expr::Input(1)),
            combine: Combine::Sum,
            axes: summed.to_vec(),
        };
        let operands = vec![
            (x, site.op.reads[0].clone()),
            (weight, site.op.reads[1].clone()),
        ];
        let mut maker = Maker::new(forms, self.name(), site, &[]);
        Some(maker.op(kind, operands, result.clone()))
    }
}

/// A product by a matrix that is the same for all rows and has the summed axes last.
struct Product<'s> {
    summed: &'s [AxisId],
    result: &'s Meta,
    x: Id,
    weight: Id,
    matrix: Meta,
    /// The variables along which the matrix is read: the summed ones, the others.
    inner: Vec<AxisId>,
    columns: Vec<AxisId>,
}

fn product<'s>(forms: &Forms, site: &'s Site) -> Option<Product<'s>> {
    let (OpKind::Contract { axes: summed }, [result]) = (&site.op.kind, &site.op.results[..])
    else {
        return None;
    };
    let [x, weight] = site.node.children[..] else {
        return None;
    };
    let matrix = forms[weight].data.clone()?;
    let axes = variables(&site.op.reads[1])?;
    let (inner, columns): (Vec<AxisId>, Vec<AxisId>) =
        axes.iter().partition(|a| summed.contains(a));
    let is_one = site.op.tails.is_empty() && result.rows && !matrix.rows && axes.ends_with(&inner);
    is_one.then_some(Product {
        summed,
        result,
        x,
        weight,
        matrix,
        inner,
        columns,
    })
}

/// Whether the value of an e-class is zero wherever some relu is.
fn has_zeros(forms: &Forms, class: Id, chain: usize) -> bool {
    let of = operations(forms, class);
    of.iter().any(|(node, op)| {
        let (OpKind::Map { expr }, [result]) = (&op.kind, &op.results[..]) else {
            return false;
        };
        is_zero_with_relu(expr, &|i| {
            let plain = op.reads.get(i).is_some_and(|r| r.is_plain(&result.axes));
            let child = node.children.get(i).filter(|_| plain && chain > 0);
            child.is_some_and(|child| has_zeros(forms, *child, chain - 1))
        })
    })
}

/// The variables along which a matrix is read, each of its axes by another one.
fn variables(read: &Read) -> Option<Vec<AxisId>> {
    let mut axes: Vec<AxisId> = Vec::new();
    for index in &read.index {
        let axis = index.as_axis()?;
        if axes.contains(&axis) {
            return None;
        }
        axes.push(axis);
    }
    Some(axes)
}
