//! Evaluation of expressions in a flow: what names mean there.

use super::document::Setting;
use super::error::{Fault, Problem, Result, fail, refuse};
use super::lower::Lowering;
use super::pointwise::{self, Host};
use super::scope::Axes;
use super::syntax::{Call, Ident, Node, Statement};
use super::tensor::Tensor;
use crate::{AxisId, Combine, OpKind, Precision, Span};

/// Deepest nesting of blocks and expressions together.
const MAX_NESTING: usize = 160;
/// Most expressions that a model may come to, those of every layer and every call counted.
const MAX_EVALUATIONS: usize = 1 << 22;

impl Host for Lowering<'_> {
    fn axes(&mut self) -> &mut Axes {
        &mut self.axes
    }

    fn axis(&mut self, name: &Ident) -> Result<Vec<AxisId>> {
        self.axes.atoms(name)
    }

    fn constant(&self, name: &str, _span: Span) -> Result<Option<Setting>> {
        if let Some((l, variable)) = self.layer
            && variable == name
        {
            return Ok(Some(Setting::Number(f64::from(l))));
        }
        if let Some(frame) = self.frames.last() {
            match frame.names.get(name) {
                Some(tensor) if tensor.as_number().is_none() => return Ok(None),
                Some(tensor) => return Ok(tensor.as_number().map(Setting::Number)),
                None => {}
            }
        }
        if let Some(setting) = self.settings.get(name) {
            return Ok(Some(setting.clone()));
        }
        Ok(self
            .axes
            .size_by_name(name)
            .map(|size| Setting::Number(size as f64)))
    }

    fn read(&mut self, name: &str, span: Span) -> Result<Tensor> {
        if let Some(tensor) = self.frame().names.get(name) {
            return Ok(tensor.clone());
        }
        if let Some(param) = self.parameter(name)? {
            return Ok(param);
        }
        match self.constant(name, span)? {
            Some(Setting::Number(n)) => return pointwise::finite(n, span),
            Some(other) => {
                return fail(
                    Problem::WrongType {
                        key: name.to_owned(),
                        expected: "a number",
                        found: other.type_name().to_owned(),
                    },
                    span,
                );
            }
            None => {}
        }
        let frame = self.frame();
        let mut later = None;
        Statement::targets(frame.program, &mut |target| {
            if target.text == name && later.is_none() {
                later = Some(target.span);
            }
        });
        if let Some(later) = later {
            return Err(Fault::new(
                Problem::ReadBeforeSet {
                    name: name.to_owned(),
                },
                span,
            )
            .also(span, "read here")
            .also(later, "set here"));
        }
        let mut known: Vec<String> = frame.names.keys().cloned().collect();
        match frame.block {
            Some((_, block)) => known.extend(block.params.keys().cloned()),
            None => known.extend(self.document.params.keys().cloned()),
        }
        known.extend(self.settings.keys().cloned());
        fail(
            Problem::UnknownName {
                name: name.to_owned(),
                known,
            },
            span,
        )
    }

    fn reduce(
        &mut self,
        of: Tensor,
        combine: Combine,
        axes: Vec<AxisId>,
        span: Span,
    ) -> Result<Tensor> {
        // Stencils are element-wise operations, nothing else looks back.
        let of = if of.inputs.iter().any(|i| i.delay != 0) {
            self.view(of, span)?
        } else {
            of
        };
        let rest: Vec<AxisId> = of
            .axes
            .iter()
            .filter(|a| !axes.contains(a))
            .copied()
            .collect();
        let id = self.emit(
            OpKind::Reduce {
                expr: of.expr,
                combine,
                axes,
            },
            of.inputs,
            rest.clone(),
            of.rows,
            span,
        )?;
        Ok(Tensor::value(id, &rest, of.rows))
    }

    fn contract(&mut self, a: (Tensor, &Node), b: (Tensor, &Node), span: Span) -> Result<Tensor> {
        self.project(a, b, span)
    }

    fn part(&mut self, tensor: Tensor, span: Span) -> Result<Tensor> {
        let outer = std::mem::replace(&mut self.precision, Precision::F32);
        let id = self.store(&tensor, span);
        self.precision = outer;
        Ok(Tensor::value(id?, &tensor.axes, tensor.rows))
    }

    fn apply(&mut self, call: &Call, span: Span) -> Result<Vec<Tensor>> {
        self.call(call, span)
    }

    fn outer_products(&self) -> bool {
        false
    }

    fn enter(&mut self, span: Span) -> Result<()> {
        self.evaluations += 1;
        if self.evaluations > MAX_EVALUATIONS {
            return refuse(
                format!("the model comes to more than {MAX_EVALUATIONS} expressions"),
                "use fewer layers, or shorter blocks and steps",
                span,
            );
        }
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return fail(Problem::TooDeep { limit: MAX_NESTING }, span);
        }
        Ok(())
    }

    fn leave(&mut self) {
        self.nesting -= 1;
    }
}
