//! What flows and recurrence steps have in common: element-wise expressions,
//! reductions and views.

use super::constant;
use super::document::Setting;
use super::error::{Fault, Problem, Result, fail};
use super::scope::Axes;
use super::syntax::{Arg, Call, Ident, Node, NodeKind, Operator};
use super::tensor::Tensor;
use crate::{AxisId, Binary, Combine, Expr, IndexExpr, Span, Unary};

/// Where an expression is evaluated.
pub(super) trait Host {
    /// The axis table.
    fn axes(&mut self) -> &mut Axes;
    /// The atoms that an axis name stands for here.
    fn axis(&mut self, name: &Ident) -> Result<Vec<AxisId>>;
    /// A constant, if the name is one.
    fn constant(&self, name: &str, span: Span) -> Result<Option<Setting>>;
    /// A tensor by name.
    fn read(&mut self, name: &str, span: Span) -> Result<Tensor>;
    /// Cuts a reduction out as an operation of its own.
    fn reduce(
        &mut self,
        of: Tensor,
        combine: Combine,
        axes: Vec<AxisId>,
        span: Span,
    ) -> Result<Tensor>;
    /// `a @ b`.
    fn contract(&mut self, a: (Tensor, &Node), b: (Tensor, &Node), span: Span) -> Result<Tensor>;
    /// Keeps a part of an expression as a value of its own, in f32.
    fn part(&mut self, tensor: Tensor, span: Span) -> Result<Tensor>;
    /// A call of something that only this host knows.
    fn apply(&mut self, call: &Call, span: Span) -> Result<Vec<Tensor>>;
    /// Whether `a * b` may be an outer product.
    fn outer_products(&self) -> bool;
    /// Enters one level of evaluation; refuses beyond the limit.
    fn enter(&mut self, span: Span) -> Result<()>;
    /// Leaves a level.
    fn leave(&mut self);
}

/// Most function applications of one expression; longer ones are computed in parts. What
/// recurses over expressions, and files that nest like them, rely on it.
const MAX_APPLICATIONS: usize = 48;

/// `a op b`, by parts where it would be too long.
pub(super) fn joined(
    host: &mut dyn Host,
    op: Binary,
    mut a: Tensor,
    mut b: Tensor,
    span: Span,
) -> Result<Tensor> {
    loop {
        let (x, y) = (a.expr.op_count(), b.expr.op_count());
        if x + y < MAX_APPLICATIONS {
            return Ok(Tensor::binary(op, a, b));
        }
        // The longer one first: without it the other may fit.
        match x >= y {
            true => a = host.part(a, span)?,
            false => b = host.part(b, span)?,
        }
    }
}

/// `f(a)`, by parts where it would be too long.
fn applied(host: &mut dyn Host, f: Unary, a: Tensor, span: Span) -> Result<Tensor> {
    let a = match a.expr.op_count() >= MAX_APPLICATIONS {
        true => host.part(a, span)?,
        false => a,
    };
    Ok(a.unary(f))
}

/// Functions of one number in the language.
pub(super) const UNARY: [(&str, Unary); 15] = [
    ("exp", Unary::Exp),
    ("log", Unary::Log),
    ("sqrt", Unary::Sqrt),
    ("rsqrt", Unary::Rsqrt),
    ("recip", Unary::Recip),
    ("tanh", Unary::Tanh),
    ("sigmoid", Unary::Sigmoid),
    ("silu", Unary::Silu),
    ("softplus", Unary::Softplus),
    ("logsigmoid", Unary::LogSigmoid),
    ("relu", Unary::Relu),
    ("square", Unary::Square),
    ("abs", Unary::Abs),
    ("sin", Unary::Sin),
    ("cos", Unary::Cos),
];

/// Names of the functions known everywhere.
pub(super) const COMMON: [&str; 9] = [
    "min", "max", "pow", "sum", "mean", "max_over", "index", "rename", "reverse",
];

/// The value of an expression that stands for one tensor.
pub(super) fn tensor(host: &mut dyn Host, node: &Node) -> Result<Tensor> {
    let mut all = tensors(host, node)?;
    match (all.pop(), all.is_empty()) {
        (Some(one), true) => Ok(one),
        (_, _) => fail(
            Problem::Other {
                what: "this returns several tensors, but one is needed".into(),
                advice: "name them first: `a, b = f(...)`".into(),
            },
            node.span,
        ),
    }
}

/// The values of an expression; several only for the call of a block or recurrence.
pub(super) fn tensors(host: &mut dyn Host, node: &Node) -> Result<Vec<Tensor>> {
    host.enter(node.span)?;
    let out = evaluate(host, node);
    host.leave();
    out
}

fn evaluate(host: &mut dyn Host, node: &Node) -> Result<Vec<Tensor>> {
    let one = match &node.kind {
        NodeKind::Number(n) => finite(*n, node.span)?,
        NodeKind::Text(_) => return not_a_tensor("a string", node.span),
        NodeKind::Name(name) => host.read(name, node.span)?,
        NodeKind::Negate(a) => {
            let a = tensor(host, a)?;
            applied(host, Unary::Neg, a, node.span)?
        }
        NodeKind::Not(_) => return not_a_tensor("a condition", node.span),
        NodeKind::Binary(..) => {
            let (mut left_node, links) = node.chain();
            let mut left = tensor(host, left_node)?;
            for link in links {
                let op = match link.operator {
                    Operator::Add => Some(Binary::Add),
                    Operator::Sub => Some(Binary::Sub),
                    Operator::Mul => Some(Binary::Mul),
                    Operator::Div => Some(Binary::Div),
                    Operator::Contract => None,
                    _ => return not_a_tensor("a condition", link.whole.span),
                };
                let right = tensor(host, link.right)?;
                let (a, b, span) = ((left, left_node), (right, link.right), link.whole.span);
                left = match op {
                    Some(op) => combine(host, op, a, b, span)?,
                    None => host.contract(a, b, span)?,
                };
                left_node = link.whole;
            }
            left
        }
        NodeKind::Call(call) => return apply(host, call, node.span),
        NodeKind::Select(of, picks) => {
            let mut out = tensor(host, of)?;
            for (axis, index) in picks {
                out = select(host, out, of, axis, index)?;
            }
            out
        }
    };
    Ok(vec![one])
}

/// A constant as a tensor; infinities and NaN are refused.
pub(super) fn finite(n: f64, span: Span) -> Result<Tensor> {
    if n.is_finite() {
        Ok(Tensor::number(n))
    } else {
        fail(
            Problem::Arithmetic {
                what: format!("the constant {n} cannot be computed with"),
                advice: "use a finite number".into(),
            },
            span,
        )
    }
}

fn not_a_tensor<T>(what: &str, span: Span) -> Result<T> {
    fail(
        Problem::Other {
            what: format!("{what} cannot be computed with"),
            advice: "conditions stand in `if`, strings are compared there".into(),
        },
        span,
    )
}

/// What to call an operand in a message.
pub(super) fn called(node: &Node, otherwise: &str) -> String {
    match &node.kind {
        NodeKind::Name(name) => format!("`{name}`"),
        NodeKind::Call(call) => format!("`{}(...)`", call.function.text),
        NodeKind::Select(of, _) => called(of, otherwise),
        _ => otherwise.to_owned(),
    }
}

/// `a op b`, broadcast by name. The axes of one operand have to cover the other's, except
/// for a product where the host allows outer products.
pub(super) fn combine(
    host: &mut dyn Host,
    op: Binary,
    a: (Tensor, &Node),
    b: (Tensor, &Node),
    span: Span,
) -> Result<Tensor> {
    let covers = |x: &Tensor, y: &Tensor| y.axes.iter().all(|axis| x.axes.contains(axis));
    let outer = op == Binary::Mul && host.outer_products();
    if !(covers(&a.0, &b.0) || covers(&b.0, &a.0) || outer) {
        let axes = host.axes();
        let (left, right) = (axes.describe(&a.0.axes), axes.describe(&b.0.axes));
        let lacks = |x: &Tensor, y: &Tensor| {
            let missing: Vec<AxisId> = y
                .axes
                .iter()
                .filter(|axis| !x.axes.contains(axis))
                .copied()
                .collect();
            axes.list(&missing).join(", ")
        };
        let why = format!(
            "the left has no {}, the right has no {}",
            lacks(&a.0, &b.0),
            lacks(&b.0, &a.0)
        );
        let advice = match op {
            Binary::Mul => {
                "if every pair is meant, write outer(a, b); else contract with `@`, \
                            reduce with sum(x, AXIS), or rename(x, A -> B)"
            }
            _ => "contract with `@`, reduce with sum(x, AXIS), or rename(x, A -> B)",
        };
        return Err(Fault::new(
            Problem::ShapeMismatch {
                left: format!("{}{left}", called(a.1, "the left side ")),
                right: format!("{}{right}", called(b.1, "the right side ")),
                why,
                advice: advice.into(),
            },
            span,
        )
        .also(a.1.span, left)
        .also(b.1.span, right));
    }
    let out = joined(host, op, a.0, b.0, span)?;
    match out.as_number() {
        Some(n) => finite(n, span),
        None => Ok(out),
    }
}

fn select(
    host: &mut dyn Host,
    of: Tensor,
    of_node: &Node,
    axis: &Ident,
    index: &Node,
) -> Result<Tensor> {
    let atoms = host.axis(axis)?;
    let [atom] = atoms.as_slice() else {
        return fail(
            Problem::Other {
                what: format!("axis `{}` is a product", axis.text),
                advice: "select along its factors".into(),
            },
            axis.span,
        );
    };
    let atom = *atom;
    need_axis(host, &of, of_node, atom, axis)?;
    let at = {
        let lookup = |n: &str, s: Span| host.constant(n, s);
        constant::integer(index, "the selected index", &lookup)?
    };
    let size = host.axes().size(atom);
    if at < 0 || at as u64 >= size as u64 {
        return fail(
            Problem::Other {
                what: format!("index {at} is outside axis `{}` of size {size}", axis.text),
                advice: format!("indices run from 0 to {}", size - 1),
            },
            index.span,
        );
    }
    let axes = of.axes.iter().filter(|a| **a != atom).copied().collect();
    Ok(of.reindex(axes, &|a| {
        if a == atom {
            IndexExpr::at(at)
        } else {
            IndexExpr::axis(a)
        }
    }))
}

fn need_axis(
    host: &mut dyn Host,
    of: &Tensor,
    of_node: &Node,
    atom: AxisId,
    name: &Ident,
) -> Result<()> {
    if of.axes.contains(&atom) {
        return Ok(());
    }
    let axes = host.axes();
    let described = axes.describe(&of.axes);
    Err(Fault::new(
        Problem::NoSuchAxis {
            tensor: format!("{}{described}", called(of_node, "this ")),
            axis: name.text.clone(),
            known: axes.list(&of.axes),
        },
        name.span,
    )
    .also(of_node.span, described)
    .also(name.span, "not one of its axes"))
}

/// Arguments of a call, sorted by kind.
pub(super) struct Args<'c> {
    pub function: &'c Ident,
    pub usage: &'static str,
    pub positional: Vec<&'c Node>,
    pub keywords: Vec<(&'c Ident, &'c Node)>,
    pub renames: Vec<(&'c Ident, &'c Ident)>,
    pub span: Span,
}

impl<'c> Args<'c> {
    /// Checks the keywords against those the function has.
    pub fn new(
        call: &'c Call,
        usage: &'static str,
        known: &[&str],
        span: Span,
    ) -> Result<Args<'c>> {
        let mut out = Args {
            function: &call.function,
            usage,
            positional: Vec::new(),
            keywords: Vec::new(),
            renames: Vec::new(),
            span,
        };
        for arg in &call.args {
            match arg {
                Arg::Positional(node) => out.positional.push(node),
                Arg::Keyword(name, node) => {
                    if !known.contains(&name.text.as_str()) {
                        return fail(
                            Problem::UnknownArgument {
                                function: call.function.text.clone(),
                                name: name.text.clone(),
                                known: known.iter().map(|k| k.to_string()).collect(),
                            },
                            name.span,
                        );
                    }
                    if out.keyword(&name.text).is_some() {
                        return fail(
                            Problem::Twice {
                                what: "argument",
                                name: name.text.clone(),
                            },
                            name.span,
                        );
                    }
                    out.keywords.push((name, node));
                }
                Arg::Rename(from, to) => out.renames.push((from, to)),
            }
        }
        if !out.renames.is_empty() && call.function.text != "rename" {
            return out.bad("`->` belongs into rename(x, A -> B)");
        }
        Ok(out)
    }

    /// A keyword argument.
    pub fn keyword(&self, name: &str) -> Option<&'c Node> {
        self.keywords
            .iter()
            .find(|(k, _)| k.text == name)
            .map(|(_, node)| *node)
    }

    /// Positional argument number `i`, called `what`.
    pub fn at(&self, i: usize, what: &str) -> Result<&'c Node> {
        match self.positional.get(i) {
            Some(node) => Ok(node),
            None => self.missing(what),
        }
    }

    /// Refuses more than `n` positional arguments.
    pub fn at_most(&self, n: usize) -> Result<()> {
        if self.positional.len() > n {
            return self.bad(&format!("got {} arguments", self.positional.len()));
        }
        Ok(())
    }

    pub fn missing<T>(&self, what: &str) -> Result<T> {
        fail(
            Problem::MissingArgument {
                function: self.function.text.clone(),
                argument: what.to_owned(),
                usage: self.usage.into(),
            },
            self.span,
        )
    }

    pub fn bad<T>(&self, found: &str) -> Result<T> {
        fail(
            Problem::BadArgument {
                function: self.function.text.clone(),
                takes: self.usage.into(),
                found: found.to_owned(),
            },
            self.span,
        )
    }

    /// The axes named by the positional arguments from number `first` on.
    pub fn axes_of(
        &self,
        host: &mut dyn Host,
        first: usize,
        of: &Tensor,
        of_node: &Node,
    ) -> Result<Vec<AxisId>> {
        let mut out = Vec::new();
        for node in self.positional.iter().skip(first) {
            let name = axis_name(node)?;
            for atom in host.axis(&name)? {
                need_axis(host, of, of_node, atom, &name)?;
                if out.contains(&atom) {
                    return fail(
                        Problem::AxisTwice {
                            axis: name.text,
                            place: format!("`{}`", self.function.text),
                        },
                        node.span,
                    );
                }
                out.push(atom);
            }
        }
        Ok(out)
    }
}

/// An argument that has to be the name of an axis.
pub(super) fn axis_name(node: &Node) -> Result<Ident> {
    match &node.kind {
        NodeKind::Name(text) => Ok(Ident {
            text: text.clone(),
            span: node.span,
        }),
        _ => fail(
            Problem::Syntax {
                expected: "the name of an axis".into(),
                found: "an expression".into(),
            },
            node.span,
        ),
    }
}

fn apply(host: &mut dyn Host, call: &Call, span: Span) -> Result<Vec<Tensor>> {
    let name = call.function.text.as_str();
    if let Some((_, f)) = UNARY.iter().find(|(n, _)| *n == name) {
        let args = Args::new(call, "one tensor, f(x)", &[], span)?;
        args.at_most(1)?;
        let of = tensor(host, args.at(0, "a tensor")?)?;
        let out = applied(host, *f, of, span)?;
        return Ok(vec![match out.as_number() {
            Some(n) => finite(n, span)?,
            None => out,
        }]);
    }
    Ok(vec![match name {
        "min" | "max" | "pow" => {
            let args = Args::new(call, "two tensors, f(a, b)", &[], span)?;
            args.at_most(2)?;
            let (a, b) = (args.at(0, "two tensors")?, args.at(1, "a second tensor")?);
            let op = match name {
                "min" => Binary::Min,
                "max" => Binary::Max,
                _ => Binary::Pow,
            };
            let bound = |host: &mut dyn Host, node: &Node| bound_or_tensor(host, node, op);
            let x = bound(host, a)?;
            let y = bound(host, b)?;
            combine(host, op, (x, a), (y, b), span)?
        }
        "sum" | "mean" | "max_over" => {
            let args = Args::new(call, "a tensor and its axes, f(x, AXIS, ...)", &[], span)?;
            let node = args.at(0, "a tensor")?;
            let mut of = tensor(host, node)?;
            let axes = args.axes_of(host, 1, &of, node)?;
            if axes.is_empty() {
                return args.missing("the axes to reduce");
            }
            let how = if name == "max_over" {
                Combine::Max
            } else {
                Combine::Sum
            };
            if name == "mean" {
                let n = host.axes().elements(&axes).unwrap_or(usize::MAX);
                of = joined(host, Binary::Mul, of, Tensor::number(1.0 / n as f64), span)?;
            }
            host.reduce(of, how, axes, span)?
        }
        "index" => {
            let args = Args::new(call, "one axis, index(AXIS)", &[], span)?;
            args.at_most(1)?;
            let axis = axis_name(args.at(0, "an axis")?)?;
            let atoms = host.axis(&axis)?;
            // Along a product the index runs over the merged elements, row-major.
            let mut out = Tensor::number(0.0);
            for atom in atoms {
                let size = host.axes().size(atom) as f64;
                let inner = Tensor {
                    expr: Expr::Index(atom),
                    inputs: Vec::new(),
                    axes: vec![atom],
                    rows: false,
                    dimensions: None,
                };
                out = joined(host, Binary::Mul, out, Tensor::number(size), span)?;
                out = joined(host, Binary::Add, out, inner, span)?;
            }
            out
        }
        "rename" => {
            let args = Args::new(call, "a tensor and axes, rename(x, A -> B, ...)", &[], span)?;
            args.at_most(1)?;
            let node = args.at(0, "a tensor")?;
            let of = tensor(host, node)?;
            if args.renames.is_empty() {
                return args.missing("an axis and its new name");
            }
            rename(host, of, node, &args)?
        }
        "reverse" => {
            let args = Args::new(call, "a tensor and an axis, reverse(x, AXIS)", &[], span)?;
            let node = args.at(0, "a tensor")?;
            let of = tensor(host, node)?;
            let reversed = args.axes_of(host, 1, &of, node)?;
            if reversed.is_empty() {
                return args.missing("the axis to reverse");
            }
            let sizes: Vec<i64> = reversed
                .iter()
                .map(|a| host.axes().size(*a) as i64)
                .collect();
            of.reindex(
                of.axes.clone(),
                &|a| match reversed.iter().position(|r| *r == a) {
                    Some(i) => IndexExpr {
                        base: sizes[i] - 1,
                        terms: vec![(a, -1)],
                    },
                    None => IndexExpr::axis(a),
                },
            )
        }
        _ => return host.apply(call, span),
    }])
}

/// An argument of min or max: an infinite bound is allowed, and drops out.
fn bound_or_tensor(host: &mut dyn Host, node: &Node, op: Binary) -> Result<Tensor> {
    if matches!(op, Binary::Min | Binary::Max)
        && let NodeKind::Name(name) = &node.kind
        && let Some(Setting::Number(n)) = host.constant(name, node.span)?
        && n.is_infinite()
    {
        return Ok(Tensor::number(n));
    }
    tensor(host, node)
}

fn rename(host: &mut dyn Host, of: Tensor, of_node: &Node, args: &Args<'_>) -> Result<Tensor> {
    let mut pairs: Vec<(AxisId, AxisId)> = Vec::new();
    for (from, to) in &args.renames {
        let (old, new) = (host.axis(from)?, host.axis(to)?);
        let sizes = |host: &mut dyn Host, list: &[AxisId]| -> Vec<usize> {
            list.iter().map(|a| host.axes().size(*a)).collect()
        };
        if sizes(host, &old) != sizes(host, &new) {
            let axes = host.axes();
            return fail(
                Problem::ShapeMismatch {
                    left: format!("`{}`{}", from.text, axes.describe(&old)),
                    right: format!("`{}`{}", to.text, axes.describe(&new)),
                    why: "their sizes differ".into(),
                    advice: "rename an axis to one of the same size, factor by factor".into(),
                },
                super::source::cover(from.span, to.span),
            );
        }
        for (a, b) in old.into_iter().zip(new) {
            need_axis(host, &of, of_node, a, from)?;
            pairs.push((a, b));
        }
    }
    let renamed = |a: AxisId| {
        pairs
            .iter()
            .find(|(from, _)| *from == a)
            .map_or(a, |(_, to)| *to)
    };
    let axes: Vec<AxisId> = of.axes.iter().map(|a| renamed(*a)).collect();
    for (i, axis) in axes.iter().enumerate() {
        if axes[..i].contains(axis) {
            return fail(
                Problem::AxisTwice {
                    axis: host.axes().name(*axis).to_owned(),
                    place: format!("the renamed {}", called(of_node, "tensor")),
                },
                args.span,
            );
        }
    }
    Ok(of.reindex(axes, &|a| IndexExpr::axis(renamed(a))))
}
