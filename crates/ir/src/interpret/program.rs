//! Scalar expressions compiled to straight-line programs over slices.
//!
//! An instruction applies one function to a whole chunk of elements, so the
//! expression tree is walked once per operation and never per element. Equal
//! subexpressions are computed once.

use super::real::Real;
use super::view::View;
use crate::{AxisId, Binary, Expr, Unary};

/// Elements evaluated at a time: a handful of such chunks fits the first-level cache.
pub(super) const CHUNK: usize = 512;

/// Where an instruction reads.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Src {
    Input(usize),
    Counter(usize),
    Temp(usize),
    Const(f64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Function {
    Unary(Unary, Src),
    Binary(Binary, Src, Src),
}

#[derive(Clone, Copy, Debug)]
struct Instruction {
    function: Function,
    dst: usize,
}

/// A number that counts along the iteration space.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Counter {
    /// The index along an axis.
    Axis(AxisId),
    /// The absolute position of the token.
    Position,
}

/// A compiled expression.
#[derive(Clone, Debug)]
pub(super) struct Program {
    instructions: Vec<Instruction>,
    temps: usize,
    inputs: Vec<usize>,
    counters: Vec<Counter>,
    result: Src,
}

/// An operand bound to its buffer.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a, F> {
    pub data: &'a [F],
    pub view: &'a View,
}

/// Chunk buffers of one thread.
pub(super) struct Scratch<F> {
    temps: Vec<Vec<F>>,
    /// One per operand: a copy, used unless `direct` says where the operand lies in one piece.
    inputs: Vec<Vec<F>>,
    direct: Vec<Option<usize>>,
    counters: Vec<Vec<F>>,
}

impl Program {
    /// Compiles an expression.
    pub fn new(expr: &Expr) -> Self {
        let mut builder = Builder::default();
        let result = builder.emit(expr);
        builder.finish(result)
    }

    /// The counters that [`Program::eval`] wants views of, in order.
    pub fn counters(&self) -> &[Counter] {
        &self.counters
    }

    /// Buffers for an evaluation with `operands` operands.
    pub fn scratch<F: Real>(&self, operands: usize) -> Scratch<F> {
        let chunk = || vec![F::ZERO; CHUNK];
        Scratch {
            temps: (0..self.temps).map(|_| chunk()).collect(),
            inputs: (0..operands).map(|_| chunk()).collect(),
            direct: vec![None; operands],
            counters: self.counters.iter().map(|_| chunk()).collect(),
        }
    }

    /// Evaluates elements `start..start + out.len()` (at most [`CHUNK`]) of the iteration space.
    pub fn eval<F: Real>(
        &self,
        scratch: &mut Scratch<F>,
        operands: &[Operand<'_, F>],
        counters: &[View],
        start: usize,
        out: &mut [F],
    ) {
        let n = out.len();
        for &i in &self.inputs {
            let Operand { data, view } = operands[i];
            scratch.direct[i] = view.contiguous(start, n);
            if scratch.direct[i].is_none() {
                view.load(data, start, &mut scratch.inputs[i][..n]);
            }
        }
        for (view, buffer) in counters.iter().zip(&mut scratch.counters) {
            view.count(start, &mut buffer[..n]);
        }
        for (i, instruction) in self.instructions.iter().enumerate() {
            if i + 1 == self.instructions.len() {
                scratch.apply(instruction.function, operands, out);
            } else {
                // Taken out so that the others can be read; register allocation never
                // makes an instruction write what it reads.
                let mut dst = std::mem::take(&mut scratch.temps[instruction.dst]);
                scratch.apply(instruction.function, operands, &mut dst[..n]);
                scratch.temps[instruction.dst] = dst;
            }
        }
        if self.instructions.is_empty() {
            match self.result {
                Src::Const(c) => out.fill(F::from_f64(c)),
                src => out.copy_from_slice(scratch.get(src, operands, n)),
            }
        }
    }
}

impl<F: Real> Scratch<F> {
    fn get<'a>(&'a self, src: Src, operands: &[Operand<'a, F>], n: usize) -> &'a [F] {
        match src {
            Src::Input(i) => match self.direct[i] {
                Some(offset) => &operands[i].data[offset..offset + n],
                None => &self.inputs[i][..n],
            },
            Src::Counter(i) => &self.counters[i][..n],
            Src::Temp(i) => &self.temps[i][..n],
            Src::Const(_) => &[],
        }
    }

    fn apply(&self, function: Function, operands: &[Operand<'_, F>], out: &mut [F]) {
        let n = out.len();
        match function {
            Function::Unary(f, a) => F::unary(f, self.get(a, operands, n), out),
            Function::Binary(f, a, Src::Const(b)) => {
                F::binary_right(f, self.get(a, operands, n), F::from_f64(b), out)
            }
            Function::Binary(f, Src::Const(a), b) => {
                F::binary_left(f, F::from_f64(a), self.get(b, operands, n), out)
            }
            Function::Binary(f, a, b) => {
                F::binary(f, self.get(a, operands, n), self.get(b, operands, n), out)
            }
        }
    }
}

/// Emits instructions whose destinations are their own numbers; [`Builder::finish`] then
/// assigns registers.
#[derive(Default)]
struct Builder {
    functions: Vec<Function>,
    inputs: Vec<usize>,
    counters: Vec<Counter>,
}

impl Builder {
    fn emit(&mut self, expr: &Expr) -> Src {
        match expr {
            Expr::Input(i) => {
                if !self.inputs.contains(i) {
                    self.inputs.push(*i);
                }
                Src::Input(*i)
            }
            Expr::Const(c) => Src::Const(*c),
            Expr::Index(axis) => self.counter(Counter::Axis(*axis)),
            Expr::Position => self.counter(Counter::Position),
            Expr::Unary(f, a) => match self.emit(a) {
                Src::Const(a) => Src::Const(f.eval(a)),
                a => self.function(Function::Unary(*f, a)),
            },
            Expr::Binary(f, a, b) => match (self.emit(a), self.emit(b)) {
                (Src::Const(a), Src::Const(b)) => Src::Const(f.eval(a, b)),
                (a, b) => self.function(Function::Binary(*f, a, b)),
            },
        }
    }

    fn counter(&mut self, counter: Counter) -> Src {
        let at = self.counters.iter().position(|c| *c == counter);
        Src::Counter(at.unwrap_or_else(|| {
            self.counters.push(counter);
            self.counters.len() - 1
        }))
    }

    fn function(&mut self, function: Function) -> Src {
        let at = self.functions.iter().position(|f| *f == function);
        Src::Temp(at.unwrap_or_else(|| {
            self.functions.push(function);
            self.functions.len() - 1
        }))
    }

    fn finish(self, result: Src) -> Program {
        let mut last_use = vec![0; self.functions.len()];
        for (i, function) in self.functions.iter().enumerate() {
            for src in sources(function) {
                if let Src::Temp(t) = src {
                    last_use[t] = i;
                }
            }
        }
        let mut register = vec![0; self.functions.len()];
        let mut free: Vec<usize> = Vec::new();
        let mut temps = 0;
        let mut instructions = Vec::new();
        for (i, function) in self.functions.iter().enumerate() {
            let dst = free.pop().unwrap_or_else(|| {
                temps += 1;
                temps - 1
            });
            register[i] = dst;
            let rename = |src| match src {
                Src::Temp(t) => Src::Temp(register[t]),
                other => other,
            };
            instructions.push(Instruction {
                function: match *function {
                    Function::Unary(f, a) => Function::Unary(f, rename(a)),
                    Function::Binary(f, a, b) => Function::Binary(f, rename(a), rename(b)),
                },
                dst,
            });
            let mut ended: Vec<usize> = sources(function)
                .into_iter()
                .filter_map(|src| match src {
                    Src::Temp(t) if last_use[t] == i => Some(register[t]),
                    _ => None,
                })
                .collect();
            ended.dedup();
            free.extend(ended);
        }
        Program {
            instructions,
            temps,
            inputs: self.inputs,
            counters: self.counters,
            result,
        }
    }
}

fn sources(function: &Function) -> [Src; 2] {
    match *function {
        Function::Unary(_, a) => [a, Src::Const(0.0)],
        Function::Binary(_, a, b) => [a, b],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expr() -> impl Strategy<Value = Expr> {
        let leaf = prop_oneof![
            (0usize..3).prop_map(Expr::Input),
            (-2.0f64..2.0).prop_map(Expr::Const),
            Just(Expr::Index(AxisId(0))),
            Just(Expr::Position),
        ];
        leaf.prop_recursive(5, 40, 2, |inner| {
            prop_oneof![
                (
                    prop_oneof![
                        Just(Unary::Neg),
                        Just(Unary::Tanh),
                        Just(Unary::Sigmoid),
                        Just(Unary::Square)
                    ],
                    inner.clone()
                )
                    .prop_map(|(f, a)| Expr::unary(f, a)),
                (
                    prop_oneof![
                        Just(Binary::Add),
                        Just(Binary::Sub),
                        Just(Binary::Mul),
                        Just(Binary::Max)
                    ],
                    inner.clone(),
                    inner
                )
                    .prop_map(|(f, a, b)| Expr::binary(f, a, b)),
            ]
        })
    }

    fn walk(expr: &Expr, inputs: &[f64], index: f64, position: f64) -> f64 {
        match expr {
            Expr::Input(i) => inputs[*i],
            Expr::Const(c) => *c,
            Expr::Index(_) => index,
            Expr::Position => position,
            Expr::Unary(f, a) => f.eval(walk(a, inputs, index, position)),
            Expr::Binary(f, a, b) => f.eval(
                walk(a, inputs, index, position),
                walk(b, inputs, index, position),
            ),
        }
    }

    proptest! {
        #[test]
        fn a_program_is_its_tree(e in expr()) {
            let data: Vec<Vec<f64>> = (0..3)
                .map(|k| (0..6).map(|i| f64::from(i * 7 + k * 5) * 0.1 - 1.5).collect())
                .collect();
            let views = [View::new(0, [(6, 1)]), View::new(5, [(6, -1)]), View::new(2, [(6, 0)])];
            let at = |k: usize, i: usize| match k { 0 => i, 1 => 5 - i, _ => 2 };
            let operands: Vec<Operand<f64>> = data
                .iter()
                .zip(&views)
                .map(|(data, view)| Operand { data, view })
                .collect();
            let program = Program::new(&e);
            let counters: Vec<View> = program
                .counters()
                .iter()
                .map(|c| match c {
                    Counter::Axis(_) => View::new(0, [(6, 1)]),
                    Counter::Position => View::new(40, [(6, 0)]),
                })
                .collect();
            let mut out = [0.0; 6];
            program.eval(&mut program.scratch(3), &operands, &counters, 0, &mut out);
            for (i, got) in out.iter().enumerate() {
                let inputs: Vec<f64> = (0..3).map(|k| data[k][at(k, i)]).collect();
                let want = walk(&e, &inputs, i as f64, 40.0);
                prop_assert!((got - want).abs() <= 1e-12 * want.abs().max(1.0) || (got.is_nan() && want.is_nan()));
            }
        }
    }
}
