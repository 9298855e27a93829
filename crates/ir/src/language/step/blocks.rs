//! Blocks that a step calls: pieces of its own text with names of their own.

use super::super::document::BlockDecl;
use super::super::error::{Problem, Result, fail, refuse};
use super::super::operations::bind;
use super::super::pointwise::{self, Host};
use super::super::syntax::{Call, Node, Statement, Target};
use super::super::tensor::Tensor;
use super::Step;
use crate::Span;
use indexmap::IndexMap;

impl<'a> Step<'_, 'a> {
    /// Computes a block of the model with arguments of the step. It sees these, settings and the sizes of axes; it
    /// has no parameters.
    pub(super) fn call_block(
        &mut self,
        name: &'a str,
        block: &'a BlockDecl,
        call: &Call,
        span: Span,
    ) -> Result<Vec<Tensor>> {
        if let Some(param) = block.params.keys().next() {
            return refuse(
                format!("block `{name}` has a parameter, `{param}`, which a step cannot reach"),
                "pass it to the recurrence as an input, and to the block as an argument",
                call.function.span,
            );
        }
        if self.called.contains(&name) {
            let path = self.called.iter().copied().chain([name]);
            return fail(
                Problem::Recursion {
                    what: "a block",
                    path: path.collect::<Vec<_>>().join(" -> "),
                },
                span,
            );
        }
        let formals: Vec<String> = block.args.iter().map(|arg| arg.value.clone()).collect();
        let mut names: IndexMap<String, Tensor> = IndexMap::new();
        for (formal, node) in formals.iter().zip(bind(call, &formals, span)?) {
            let tensor = pointwise::tensor(self, node)?;
            let tensor = self.named(tensor, node.span)?;
            names.insert(formal.clone(), tensor);
        }
        self.flow.enter(span)?;
        self.called.push(name);
        let outside = std::mem::replace(&mut self.names, names);
        let program = std::mem::replace(&mut self.program, &block.flow);
        let loops = std::mem::take(&mut self.loops);
        let returned = self.flow_of_block(&block.flow);
        self.loops = loops;
        self.program = program;
        self.names = outside;
        self.called.pop();
        self.flow.leave();
        match returned? {
            Some(values) => Ok(values),
            None => refuse(
                format!("block `{name}` returns nothing"),
                "end its flow with `return ...`",
                block.span,
            ),
        }
    }

    /// Executes statements of a block up to a `return`.
    fn flow_of_block(&mut self, statements: &'a [Statement]) -> Result<Option<Vec<Tensor>>> {
        for statement in statements {
            match statement {
                Statement::Assign { targets, value } => self.assign_in_block(targets, value)?,
                Statement::If {
                    condition,
                    then,
                    otherwise,
                } => {
                    let branch = pointwise::branch(self, condition, then, otherwise)?;
                    if let Some(returned) = self.flow_of_block(branch)? {
                        return Ok(Some(returned));
                    }
                }
                Statement::Return { values, .. } => {
                    let mut out = Vec::new();
                    for value in values {
                        out.extend(pointwise::returned(self, value, values.len() == 1)?);
                    }
                    return Ok(Some(out));
                }
                Statement::Repeat { span, .. } => {
                    return refuse(
                        "`repeat` in a block that a step calls",
                        "repeat the call in the step, or write the statements there",
                        *span,
                    );
                }
            }
        }
        Ok(None)
    }

    fn assign_in_block(&mut self, targets: &[Target], value: &Node) -> Result<()> {
        let tensors = pointwise::tensors(self, value)?;
        if tensors.len() != targets.len() {
            return refuse(
                format!("{} names for {} tensors", targets.len(), tensors.len()),
                "give every returned tensor one name",
                value.span,
            );
        }
        for (target, tensor) in targets.iter().zip(tensors) {
            let tensor = match &target.axes {
                None => self.named(tensor, value.span)?,
                Some(declared) => {
                    let mut axes = Vec::new();
                    for axis in declared {
                        axes.extend(self.axis(axis)?);
                    }
                    let item = self.shaped(&target.name.text, tensor, &axes, value.span)?;
                    self.item(item, &axes)
                }
            };
            self.names.insert(target.name.text.clone(), tensor);
        }
        Ok(())
    }

    /// A tensor that can be read several times without being computed again.
    fn named(&mut self, tensor: Tensor, span: Span) -> Result<Tensor> {
        match tensor.as_number().is_some() || tensor.as_access().is_some() {
            true => Ok(tensor),
            false => self.part(tensor, span),
        }
    }
}
