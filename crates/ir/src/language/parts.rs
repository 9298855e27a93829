//! Parts of an axis: taken apart, cut out, put one after the other, and every pair of two axes.

use super::arguments::{self, Args};
use super::error::{Problem, Result, fail, refuse};
use super::functions;
use super::lower::Lowering;
use super::pointwise::{self, called};
use super::syntax::{Call, Ident, Node};
use super::tensor::Tensor;
use crate::{AxisId, Binary, IndexExpr, OpKind, Span};

impl Lowering<'_> {
    /// The parts of a tensor along an axis, one after the other, each over an axis of its own.
    pub fn split(&mut self, call: &Call, span: Span) -> Result<Vec<Tensor>> {
        let usage = "a tensor and the axes of its parts, split(x, A -> B, C, ...)";
        let args = Args::new(call, usage, &[], span)?;
        let node = args.at(0, "a tensor")?;
        let x = pointwise::tensor(self, node)?;
        let [(whole, first)] = args.renames[..] else {
            return args.missing("the axis that is split");
        };
        let atom = self.one_atom(whole)?;
        pointwise::need_axis(self, &x, node, atom, whole)?;
        let mut parts = vec![first.clone()];
        for part in args.positional.iter().skip(1) {
            parts.push(arguments::axis_name(part)?);
        }
        let mut places: Vec<(AxisId, usize)> = Vec::new();
        let mut end = 0;
        for part in &parts {
            let to = self.one_atom(part)?;
            self.free_for(&x, node, (atom, whole), (to, part))?;
            places.push((to, end));
            end += self.axes.size(to);
        }
        self.adds_up(end, atom, whole, span)?;
        let x = self.view(x, node.span)?;
        let parts = places.into_iter();
        let parts = parts.map(|(to, start)| part_of(&x, atom, to, start as i64));
        Ok(parts.collect())
    }

    /// `slice(x, A -> B, FROM)`: as many elements of an axis as another one has.
    pub fn slice(&mut self, call: &Call, span: Span) -> Result<Tensor> {
        let usage = "a tensor, an axis, the axis of its part, and where that begins, slice(x, A -> B, FROM)";
        let args = Args::new(call, usage, &[], span)?;
        args.at_most(2)?;
        let node = args.at(0, "a tensor")?;
        let x = pointwise::tensor(self, node)?;
        let [(whole, part)] = args.renames[..] else {
            return args.missing("the axis that is cut and that of its part");
        };
        let at = args.at(1, "where the part begins")?;
        let start = self.integer(at, "where the part begins")?;
        let (from, to) = (self.one_atom(whole)?, self.one_atom(part)?);
        self.free_for(&x, node, (from, whole), (to, part))?;
        let (size, of_part) = (self.axes.size(from) as i64, self.axes.size(to) as i64);
        if start < 0 || start.saturating_add(of_part) > size {
            return refuse(
                format!(
                    "elements {start} to {} of `{}`, which has {size}",
                    start.saturating_add(of_part).saturating_sub(1),
                    whole.text
                ),
                match of_part <= size {
                    true => format!(
                        "a part of {of_part} elements begins at 0 to {}",
                        size - of_part
                    ),
                    false => format!(
                        "cut along an axis of at most {size} elements; `{}` has {of_part}",
                        part.text
                    ),
                },
                at.span,
            );
        }
        let x = self.view(x, node.span)?;
        Ok(part_of(&x, from, to, start))
    }

    /// `concat(x, y, A -> C, B -> C)`: tensors one after the other along an axis.
    pub fn concat(&mut self, call: &Call, span: Span) -> Result<Tensor> {
        let usage =
            "tensors, and the axis of each with that of the result, concat(x, y, A -> C, B -> C)";
        let args = Args::new(call, usage, &[], span)?;
        if args.renames.len() != args.positional.len() || args.renames.len() < 2 {
            return args.bad(&format!(
                "got {} tensors and {} axes",
                args.positional.len(),
                args.renames.len()
            ));
        }
        let whole = args.renames[0].1;
        let to = self.one_atom(whole)?;
        let mut parts = Vec::new();
        let mut end = 0;
        for (node, (own, of)) in args.positional.iter().zip(&args.renames) {
            if of.text != whole.text {
                return refuse(
                    format!("`{}` and `{}`, where one axis is made", whole.text, of.text),
                    "name the same axis after every `->`",
                    of.span,
                );
            }
            let x = pointwise::tensor(self, node)?;
            let from = self.one_atom(own)?;
            self.free_for(&x, node, (from, own), (to, of))?;
            parts.push((x, *node, from, end));
            end += self.axes.size(from);
        }
        self.adds_up(end, to, whole, span)?;
        let mut out: Option<Tensor> = None;
        for (x, node, from, start) in parts {
            let placed = self.placed(&x, node, (from, to), start)?;
            out = Some(match out {
                None => placed,
                Some(before) => self.beside(before, placed, node)?,
            });
        }
        match out {
            Some(out) => Ok(out),
            None => args.missing("tensors"),
        }
    }

    /// Refuses parts that have more or fewer elements together than their axis.
    fn adds_up(&self, parts: usize, axis: AxisId, named: &Ident, span: Span) -> Result<()> {
        let size = self.axes.size(axis);
        if parts != size {
            return refuse(
                format!(
                    "the parts of `{}` have {parts} elements, it has {size}",
                    named.text
                ),
                "the sizes of the parts add up to that of the axis",
                span,
            );
        }
        Ok(())
    }

    /// A tensor along a longer axis, from element `start` on, and 0 elsewhere.
    fn placed(
        &mut self,
        x: &Tensor,
        node: &Node,
        (from, to): (AxisId, AxisId),
        start: usize,
    ) -> Result<Tensor> {
        let out: Vec<AxisId> = x
            .axes
            .iter()
            .map(|a| if *a == from { to } else { *a })
            .collect();
        let index = x.axes.iter().map(|axis| match *axis == from {
            true => IndexExpr {
                base: start as i64,
                terms: vec![(from, 1)],
            },
            false => IndexExpr::axis(*axis),
        });
        let kind = OpKind::Scatter {
            axes: x.axes.clone(),
            index: index.collect(),
        };
        let input = self.access(x, node.span)?;
        let id = self.emit(kind, vec![input], out.clone(), x.rows, node.span)?;
        Ok(Tensor::value(id, &out, x.rows))
    }

    /// The sum of two parts over the same axes.
    fn beside(&mut self, a: Tensor, b: Tensor, node: &Node) -> Result<Tensor> {
        let same = a.axes.len() == b.axes.len() && a.axes.iter().all(|axis| b.axes.contains(axis));
        if !same {
            let (left, right) = (self.axes.describe(&a.axes), self.axes.describe(&b.axes));
            return fail(
                Problem::ShapeMismatch {
                    left: format!("the parts before {left}"),
                    right: format!("{}{right}", called(node, "this part ")),
                    why: "parts differ in the axis that is put together only".into(),
                    advice: "add 0 * x of a part that has all axes, or sum over one".into(),
                },
                node.span,
            );
        }
        pointwise::joined(self, Binary::Add, a, b, node.span)
    }

    /// `outer(a, b)`, or of a tensor with one over the same axes, `outer(a, b, N -> M)`.
    pub fn outer(&mut self, call: &Call, span: Span) -> Result<Tensor> {
        let usage = "two tensors, and new names for axes that both have, outer(a, b, N -> M)";
        let args = Args::new(call, usage, &[], span)?;
        args.at_most(2)?;
        let (first, second) = (args.at(0, "two tensors")?, args.at(1, "a second tensor")?);
        let a = pointwise::tensor(self, first)?;
        let b = pointwise::tensor(self, second)?;
        let b = match args.renames.is_empty() {
            true => b,
            false => functions::rename(self, b, second, &args)?,
        };
        if !b.axes.is_empty()
            && a.axes.len() == b.axes.len()
            && a.axes.iter().all(|x| b.axes.contains(x))
        {
            let axes = self.axes.describe(&a.axes);
            return refuse(
                format!("both sides of this product run over {axes}, so there are no pairs"),
                "name the second axis of the pairs, outer(a, b, N -> M), or write a * b",
                span,
            );
        }
        pointwise::joined(self, Binary::Mul, a, b, span)
    }

    /// The axis that is no product.
    fn one_atom(&mut self, name: &Ident) -> Result<AxisId> {
        match self.axes.atoms(name)?[..] {
            [atom] => Ok(atom),
            _ => refuse(
                format!("axis `{}` is a product", name.text),
                "name one of its factors, or an axis that is no product",
                name.span,
            ),
        }
    }

    /// Checks that a tensor has the first axis, and not the second beside it.
    fn free_for(
        &mut self,
        x: &Tensor,
        node: &Node,
        (from, name): (AxisId, &Ident),
        (to, other): (AxisId, &Ident),
    ) -> Result<()> {
        pointwise::need_axis(self, x, node, from, name)?;
        if to != from && x.axes.contains(&to) {
            return fail(
                Problem::AxisTwice {
                    axis: other.text.clone(),
                    place: format!("what becomes of {}", called(node, "the tensor")),
                },
                other.span,
            );
        }
        Ok(())
    }
}

/// The elements of a view along an axis from `start` on, over another one.
fn part_of(x: &Tensor, from: AxisId, to: AxisId, start: i64) -> Tensor {
    let axes = x.axes.iter().map(|a| if *a == from { to } else { *a });
    x.reindex(axes.collect(), &|a| match a == from {
        true => IndexExpr {
            base: start,
            terms: vec![(to, 1)],
        },
        false => IndexExpr::axis(a),
    })
}
