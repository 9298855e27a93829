//! Two states that are one complex number, turned and shrunk at every token: a diagonal decay after a change of
//! basis.
//!
//! With `z = a + i b` the step is `z' = d u z + f`, where `u = cos x + i sin x` and `d` and `f` do not depend on the
//! states. Of the running product `P' = u P` of the rotations, which begins at 1, `z = P w` with
//! `w' = d w + f / P'`: the real and the imaginary part of `w` are recurrences of their own, which only decay, and
//! what reads `z` reads them with queries that are turned instead. Exact whatever `P` is, as long as it is not 0:
//! that rounding errors keep it from having modulus 1 is part of what is divided by.
//!
//! Of value where the state is an outer product that is summed over some of its axes, since both sides of that
//! product, and `P`, are much smaller than the state.

use super::coefficients::Coefficients;
use super::form::{Subject, exact, mentions, products};
use super::normal::Normal;
use super::polynomial::{Atom, Polynomial, Var};
use super::{Class, classify};
use crate::{
    AxisId, Binary, Combine, Expr, Graph, Places, Recurrence, StepAccess, StepInput, StepKind,
    StepOp, StepRef, StepState, Unary,
};
use std::collections::BTreeSet;

/// How much larger a state has to be than the product of rotations.
const LEAST_SHARE: usize = 4;

/// A step in the turned basis.
#[derive(Clone, Debug)]
pub struct Turned {
    /// The running product: states are its real and imaginary part; so are the results, those after the step and
    /// then those before it. Its inputs are those of the step with these numbers.
    pub product: (Recurrence, Vec<usize>),
    /// The axes of the product.
    pub axes: Vec<AxisId>,
    /// The two states. Beside inputs of the step each has some of [`Given`].
    pub parts: [(Recurrence, Vec<Given>); 2],
    /// Per output of the step, the outputs of the parts that it is the sum of; at least one.
    pub outputs: Vec<[Option<usize>; 2]>,
}

/// An input of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// Input number `.0` of the step.
    Input(usize),
    /// Result number `.0` of the product.
    Product(usize),
    /// The real part of `P / |P|^2`, of the product after the step, or its imaginary part.
    Inverse(usize),
}

/// The step in the turned basis, if it is such a step, and each of its parts then has an algorithm with products of
/// matrices.
pub fn turned(graph: &Graph, step: &Recurrence) -> Option<Turned> {
    let [a, b] = step.states.as_slice() else {
        return None;
    };
    if a.axes != b.axes || !step.direction.is_forward() || !(a.kept && b.kept) {
        return None;
    }
    let normal = Normal::of(graph, step).ok()?;
    let rotation = Rotation::of(graph, step, &normal)?;
    let axes = rotation.axes(&a.axes)?;
    if graph.elements(&axes).saturating_mul(LEAST_SHARE) > graph.elements(&a.axes) {
        return None;
    }
    let reads = reads(graph, step)?;
    let writer = Writer {
        graph,
        step,
        normal: &normal,
        rotation: &rotation,
        axes: &axes,
        reads: &reads,
    };
    let product = writer.product()?;
    let (first, of_first) = writer.part(0)?;
    let (second, of_second) = writer.part(1)?;
    let outputs = of_first.into_iter().zip(of_second);
    Some(Turned {
        product,
        parts: [first, second],
        outputs: outputs.map(|(a, b)| [a, b]).collect(),
        axes,
    })
}

/// Whether the two states of a step are a complex number that is multiplied by another at every token.
pub(super) fn is_turned(graph: &Graph, step: &Recurrence, normal: &Normal) -> bool {
    step.states.len() == 2
        && step.states[0].axes == step.states[1].axes
        && Matrix::of(graph, step, normal).is_some()
}

/// `a + i b`, by which the states are multiplied; `b` is not zero.
struct Matrix {
    real: Polynomial,
    imaginary: Polynomial,
}

impl Matrix {
    fn of(graph: &Graph, step: &Recurrence, normal: &Normal) -> Option<Self> {
        let coefficient = |next: usize, state: usize| -> Option<Polynomial> {
            let subject = subject(graph, step, state, &normal.next[next]);
            let parts = subject.parts(&normal.next[next]).ok()?;
            parts.contracted.is_zero().then_some(parts.diagonal)
        };
        let (real, imaginary) = (coefficient(0, 0)?, coefficient(1, 0)?);
        let opposite = coefficient(0, 1)?.scale(-1.0);
        let turns = real == coefficient(1, 1)? && imaginary == opposite && !imaginary.is_zero();
        turns.then_some(Matrix { real, imaginary })
    }
}

/// `d (cos x + i sin x)`.
struct Rotation {
    decay: Polynomial,
    cos: Polynomial,
    sin: Polynomial,
}

impl Rotation {
    fn of(graph: &Graph, step: &Recurrence, normal: &Normal) -> Option<Self> {
        let Matrix { real, imaginary } = Matrix::of(graph, step, normal)?;
        let (leading, _) = real.terms.last()?;
        leading.factors.iter().find_map(|atom| {
            let Atom::Unary(f @ (Unary::Cos | Unary::Sin), x) = atom else {
                return None;
            };
            let other = match f {
                Unary::Cos => Unary::Sin,
                _ => Unary::Cos,
            };
            let cos = Polynomial::atom(atom.clone());
            let sin = Polynomial::atom(Atom::Unary(other, x.clone()));
            let decay = exact(&real, &cos)?;
            let of_sin = exact(&imaginary, &sin)?;
            let sin = match of_sin {
                same if same == decay => sin,
                same if same == decay.scale(-1.0) => sin.scale(-1.0),
                _ => return None,
            };
            Some(Rotation { decay, cos, sin })
        })
    }

    /// The axes of the state over which angles differ; `None` if they differ over others.
    fn axes(&self, of_state: &[AxisId]) -> Option<Vec<AxisId>> {
        let own = self.cos.axes();
        let known = own.iter().all(|axis| of_state.contains(axis));
        let axes = of_state.iter().filter(|axis| own.contains(axis));
        known.then(|| axes.copied().collect())
    }
}

fn subject<'a>(
    graph: &'a Graph,
    step: &'a Recurrence,
    state: usize,
    update: &'a Polynomial,
) -> Subject<'a> {
    Subject {
        graph,
        step,
        state,
        axes: &step.states[state].axes,
        update,
        added: Polynomial::default(),
    }
}

/// How an output reads the two states, before the step or after it.
struct Read {
    /// Whether it is that before the step.
    before: bool,
    /// What each of them is multiplied by.
    queries: [Polynomial; 2],
    /// Summed axes.
    over: Vec<AxisId>,
}

/// The reads of each output, and what is added to them.
struct Reads {
    outputs: Vec<(Vec<Read>, Polynomial)>,
    /// The axes that all of them sum over, at least one.
    key: Vec<AxisId>,
}

/// `None` where outputs are no sums over the same axes of the states.
fn reads(graph: &Graph, step: &Recurrence) -> Option<Reads> {
    // The states after the step are told from those before it by numbers of their own.
    let after = |item: &mut StepRef| {
        if let Some(state) = step.next.iter().position(|next| next == item) {
            *item = StepRef::State(2 + state);
        }
    };
    let mut marked = step.clone();
    marked.states.extend(step.states.iter().cloned());
    marked.next.clear();
    let reads = marked.ops.iter_mut().flat_map(|op| &mut op.inputs);
    reads.map(|access| &mut access.item).for_each(after);
    marked.outputs.iter_mut().for_each(after);
    let marked = marked.with_outputs(&(0..step.outputs.len()).collect::<Vec<_>>());
    let normal = Normal::of(graph, &marked).ok()?;
    let mut slots: Option<BTreeSet<usize>> = None;
    let mut outputs = Vec::new();
    for y in &normal.outputs {
        let mut of = Vec::new();
        for before in [true, false] {
            let mut queries = [Polynomial::default(), Polynomial::default()];
            for (state, query) in queries.iter_mut().enumerate() {
                let number = if before { state } else { 2 + state };
                let subject = subject(graph, &marked, number, y);
                let parts = subject.parts(y).ok()?;
                if !parts.diagonal.is_zero() {
                    return None;
                }
                if parts.contracted.is_zero() {
                    continue;
                }
                if *slots.get_or_insert_with(|| parts.slots.clone()) != parts.slots {
                    return None;
                }
                *query = subject.unslotted(&parts.contracted);
            }
            if queries.iter().any(|query| !query.is_zero()) {
                of.push((before, queries));
            }
        }
        outputs.push((of, y.free()));
    }
    let key: Vec<AxisId> = slots?.iter().map(|s| step.states[0].axes[*s]).collect();
    let outputs = outputs.into_iter().map(|(of, rest)| {
        let of = of.into_iter().map(|(before, queries)| Read {
            before,
            queries,
            over: key.clone(),
        });
        (of.collect(), rest)
    });
    Some(Reads {
        outputs: outputs.collect(),
        key: key.clone(),
    })
}

struct Writer<'a> {
    graph: &'a Graph,
    step: &'a Recurrence,
    normal: &'a Normal,
    rotation: &'a Rotation,
    /// Those of the product.
    axes: &'a [AxisId],
    reads: &'a Reads,
}

/// Results of the product: after the step, then before it.
const RESULTS: [&str; 4] = ["turn", "turn_i", "turn_before", "turn_before_i"];
/// What is made of the first two of them.
const INVERSE: [&str; 2] = ["back", "back_i"];

impl Writer<'_> {
    /// The running product of the rotations.
    fn product(&self) -> Option<(Recurrence, Vec<usize>)> {
        let state = |name: &str, init: f64| StepState {
            name: name.to_owned(),
            axes: self.axes.to_vec(),
            init,
            kept: true,
        };
        let mut out = self.bare(vec![state(RESULTS[0], 1.0), state(RESULTS[1], 0.0)]);
        let mut coefficients = Coefficients::new(self.graph, &out);
        let cos = coefficients.emit("cos", &self.rotation.cos).ok()?;
        let sin = coefficients.emit("sin", &self.rotation.sin).ok()?;
        out.ops = coefficients.ops;
        let (real, imaginary) = (StepRef::State(0), StepRef::State(1));
        let product = |i: usize| Expr::binary(Binary::Mul, Expr::Input(i), Expr::Input(i + 1));
        let of = |op: Binary| Expr::binary(op, product(0), product(2));
        for (name, op, reads) in [
            (RESULTS[0], Binary::Sub, [cos, real, sin, imaginary]),
            (RESULTS[1], Binary::Add, [cos, imaginary, sin, real]),
        ] {
            // The order of reads is that of the products.
            let next = statement(&mut out, name, self.axes, vec![], &reads, of(op));
            out.next.push(next);
        }
        out.outputs = [out.next.clone(), vec![real, imaginary]].concat();
        let inputs = out.drop_unused_inputs();
        Some((out, inputs))
    }

    fn bare(&self, states: Vec<StepState>) -> Recurrence {
        Recurrence {
            states,
            ops: vec![],
            next: vec![],
            outputs: vec![],
            ..self.step.clone()
        }
    }

    /// State number `which` in the turned basis, and the number of what it adds to each output.
    #[allow(clippy::type_complexity, reason = "two lists beside a definition")]
    fn part(&self, which: usize) -> Option<((Recurrence, Vec<Given>), Vec<Option<usize>>)> {
        let mut out = self.bare(vec![self.step.states[which].clone()]);
        let own = out.inputs.len();
        let mut given: Vec<Given> = (0..own).map(Given::Input).collect();
        for (n, name) in RESULTS.iter().chain(&INVERSE).enumerate() {
            given.push(match n.checked_sub(RESULTS.len()) {
                None => Given::Product(n),
                Some(n) => Given::Inverse(n),
            });
            out.inputs.push(StepInput {
                name: (*name).to_owned(),
                axes: self.axes.to_vec(),
            });
        }
        let index: Vec<Var> = self.axes.iter().map(|axis| Var::Axis(*axis)).collect();
        let input = |n: usize| Polynomial::atom(Atom::Input(own + n, index.clone()));
        let template = out.clone();
        let mut coefficients = Coefficients::new(self.graph, &template);
        let decay = coefficients.emit("decay", &self.rotation.decay).ok()?;
        let added = [self.normal.next[0].free(), self.normal.next[1].free()];
        let (same, other) = (input(4), input(5));
        let straight = added[which].times(&same).ok()?;
        let crossed = added[1 - which].times(&other).ok()?;
        let added = match which {
            0 => straight.plus(&crossed),
            _ => straight.minus(&crossed),
        };
        let is_key = |atom: &Atom| mentions(atom, &self.reads.key);
        let by_value = products(&added, is_key);
        let by_key = products(&added, |atom| !is_key(atom));
        let pairs: Vec<(Polynomial, Polynomial)> = match by_key.len() < by_value.len() {
            true => by_key.into_iter().map(|(v, k)| (k, v)).collect(),
            false => by_value,
        };
        let mut terms = vec![decay, StepRef::State(0)];
        for (n, (k, v)) in pairs.iter().enumerate() {
            terms.push(coefficients.emit(&format!("k{n}"), k).ok()?);
            terms.push(coefficients.emit(&format!("v{n}"), v).ok()?);
        }
        // Queries, the axes that they sum over, and what is added, per output.
        let mut wanted = Vec::new();
        for (n, (reads, rest)) in self.reads.outputs.iter().enumerate() {
            let mut of = Vec::new();
            for (m, read) in reads.iter().enumerate() {
                let at = if read.before { 2 } else { 0 };
                let (real, imaginary) = (input(at), input(at + 1));
                let [a, b] = &read.queries;
                let query = match which {
                    0 => a.times(&real).ok()?.plus(&b.times(&imaginary).ok()?),
                    _ => b.times(&real).ok()?.minus(&a.times(&imaginary).ok()?),
                };
                if !query.is_zero() {
                    let query = coefficients.emit(&format!("q{n}_{m}"), &query).ok()?;
                    of.push((query, read.before, read.over.clone()));
                }
            }
            let rest = match which == 0 && !rest.is_zero() {
                true => Some(coefficients.emit(&format!("rest{n}"), rest).ok()?),
                false => None,
            };
            wanted.push((of, rest));
        }
        out.ops = coefficients.ops;
        let axes = out.states[0].axes.clone();
        let name = out.states[0].name.clone();
        let sum = |n: usize| {
            let product =
                |i: usize| Expr::binary(Binary::Mul, Expr::Input(2 * i), Expr::Input(2 * i + 1));
            let products = (1..n).map(product);
            products.fold(product(0), |a, b| Expr::binary(Binary::Add, a, b))
        };
        let next = statement(&mut out, &name, &axes, vec![], &terms, sum(terms.len() / 2));
        out.next = vec![next];
        let mut numbers = Vec::new();
        for ((of, rest), item) in wanted.into_iter().zip(&self.step.outputs) {
            let axes = self.step.axes_of(*item).to_vec();
            let mut parts: Vec<StepRef> = rest.into_iter().collect();
            for (query, before, over) in of {
                let state = if before { StepRef::State(0) } else { next };
                parts.push(statement(
                    &mut out,
                    "read",
                    &axes,
                    over,
                    &[query, state],
                    sum(1),
                ));
            }
            let together = (0..parts.len()).map(Expr::Input);
            let together = together.reduce(|a, b| Expr::binary(Binary::Add, a, b));
            numbers.push(match (together, parts.as_slice()) {
                (None, _) => None,
                (Some(_), [one]) if out.axes_of(*one) == axes.as_slice() => {
                    out.outputs.push(*one);
                    Some(out.outputs.len() - 1)
                }
                (Some(expr), _) => {
                    let sum = statement(&mut out, "read", &axes, vec![], &parts, expr);
                    out.outputs.push(sum);
                    Some(out.outputs.len() - 1)
                }
            });
        }
        let used = out.drop_unused_inputs();
        let given = used.into_iter().map(|i| given[i]).collect();
        let found = classify(self.graph, &out);
        let fast = match found.states.as_slice() {
            [Class::DiagonalOuter { layout, .. } | Class::DiagonalLowRank { layout, .. }] => {
                !layout.value.is_empty()
            }
            _ => false,
        };
        fast.then_some(((out, given), numbers))
    }
}

/// Adds a statement that reads items along their own axes.
fn statement(
    to: &mut Recurrence,
    name: &str,
    axes: &[AxisId],
    over: Vec<AxisId>,
    reads: &[StepRef],
    expr: Expr,
) -> StepRef {
    let inputs = reads.iter().map(|item| StepAccess {
        item: *item,
        axes: to.axes_of(*item).to_vec(),
    });
    let inputs = inputs.collect();
    let kind = match over.is_empty() {
        true => StepKind::Map,
        false => StepKind::Reduce {
            combine: Combine::Sum,
            axes: over,
        },
    };
    to.ops.push(StepOp {
        name: name.to_owned(),
        axes: axes.to_vec(),
        kind,
        expr,
        inputs,
        places: Places::default(),
    });
    StepRef::Op(to.ops.len() - 1)
}
