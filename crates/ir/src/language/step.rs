//! Recurrences: a call of a definition, and its step as statements over concrete axes.

mod blocks;
mod norms;

use super::bind::Slot;
use super::constant;
use super::document::{RecurrenceDecl, Setting};
use super::error::{Fault, Problem, Result, fail, refuse};
use super::functions;
use super::lower::{Lowering, axes_differ};
use super::picked::{self, Source};
use super::pointwise::{self, Host};
use super::prune;
use super::scope::Axes;
use super::syntax::{Call, Formal, Ident, Node, Statement, Target};
use super::tensor::Tensor;
use super::terms::Terms;
use crate::{
    Access, AxisId, Combine, IndexExpr, OpKind, Recurrence, RecurrenceId, Span, State, StateId,
    StateKind, StepAccess, StepInput, StepKind, StepOp, StepRef, StepState, ValueId,
};
use indexmap::IndexMap;

/// Most statements of a step, nested reductions counted.
const MAX_STEP_OPS: usize = 256;

impl<'a> Lowering<'a> {
    /// Calls a recurrence.
    pub fn call_recurrence(
        &mut self,
        name: &str,
        decl: &'a RecurrenceDecl,
        call: &Call,
        span: Span,
    ) -> Result<Vec<Tensor>> {
        let formals: Vec<String> = decl.inputs.iter().map(|f| f.name.text.clone()).collect();
        let nodes = super::operations::bind(call, &formals, span)?;
        let mut arguments = Vec::new();
        for node in &nodes {
            let tensor = pointwise::tensor(self, node)?;
            arguments.push(self.view(tensor, node.span)?);
        }
        let binding = self.bind_axes(decl, &arguments, &nodes, span)?;
        let concrete = self.concrete(decl, &binding);
        let (recurrence, sources) = self.instantiate(name, decl, &concrete)?;
        let inputs: Vec<Access> = sources
            .iter()
            .map(|source| {
                let slots = &binding.arguments[source.formal];
                let to = |axis: AxisId| {
                    let slot = slots.iter().find(|(a, _)| *a == axis).map(|(_, s)| s);
                    let axis = match slot {
                        Some(Slot::Letter(letter)) => concrete[letter],
                        Some(Slot::Atom(atom)) => *atom,
                        None => axis,
                    };
                    match source.picks.iter().find(|(picked, _)| *picked == axis) {
                        Some((_, at)) => IndexExpr::at(*at),
                        None => IndexExpr::axis(axis),
                    }
                };
                let argument = &arguments[source.formal];
                argument.reindex(Vec::new(), &to).inputs[0].clone()
            })
            .collect();
        let results: Vec<Vec<AxisId>> = recurrence
            .outputs
            .iter()
            .map(|o| recurrence.axes_of(*o).to_vec())
            .collect();
        let states: Vec<StepState> = recurrence.states.clone();
        let known = self.graph.recurrences.iter().position(|r| *r == recurrence);
        let id = RecurrenceId(known.unwrap_or_else(|| {
            self.graph.recurrences.push(recurrence);
            self.graph.recurrences.len() - 1
        }) as u32);
        let prefix = match self.layer_number() {
            Some(l) => format!("layers.{l}."),
            None => String::new(),
        };
        let mut ids = Vec::new();
        for (state, formal) in states.into_iter().zip(&decl.states) {
            let full = format!(
                "{prefix}{}",
                self.qualified(&format!("{name}.{}", state.name))
            );
            let unique = self.unique(full);
            self.check_elements(&state.axes, &unique, span)?;
            let mut dimensions = Vec::new();
            for axis in &formal.axes {
                dimensions.push(match concrete.contains_key(&axis.name.text) {
                    true => 1,
                    false => self.axes.atoms(&axis.name)?.len(),
                });
            }
            self.dimensions.insert(unique.clone(), dimensions);
            ids.push(StateId(self.graph.states.len() as u32));
            let layer = self.layer_number();
            self.graph.states.push(State {
                name: unique,
                kind: StateKind::Scan { init: state.init },
                axes: state.axes,
                layer,
            });
        }
        let kind = OpKind::Scan {
            recurrence: id,
            states: ids,
        };
        let op = self.add(kind, inputs, results.clone(), true, span)?;
        // Seen from outside, a letter is the axis of the model that it runs along.
        let outside = |axis: AxisId| {
            concrete
                .iter()
                .find(|(_, c)| **c == axis)
                .and_then(|(letter, _)| binding.letters.get(letter))
                .map_or(axis, |letter| letter.atom)
        };
        let outputs = self.graph.op(op).outputs.clone();
        let mut out = Vec::new();
        for (value, axes) in outputs.into_iter().zip(results) {
            let seen: Vec<AxisId> = axes.iter().map(|a| outside(*a)).collect();
            let tensor = Tensor::value(value, &axes, true);
            out.push(tensor.reindex(seen, &|a| IndexExpr::axis(outside(a))));
        }
        Ok(out)
    }

    fn instantiate(
        &mut self,
        name: &str,
        decl: &'a RecurrenceDecl,
        letters: &IndexMap<String, AxisId>,
    ) -> Result<(Recurrence, Vec<Source>)> {
        let mut step = Step {
            flow: self,
            letters,
            names: IndexMap::new(),
            items: Vec::new(),
            program: &decl.step,
            loops: Vec::new(),
            sources: Vec::new(),
            called: Vec::new(),
            out: Recurrence {
                name: name.to_owned(),
                inputs: Vec::new(),
                states: Vec::new(),
                ops: Vec::new(),
                next: Vec::new(),
                outputs: Vec::new(),
                direction: crate::Direction::Forward,
            },
            statement: String::new(),
            terms: Terms::default(),
        };
        for (i, formal) in decl.inputs.iter().enumerate() {
            let axes = step.formal_axes(formal)?;
            step.declare(&formal.name.text, StepRef::Input(i), &axes);
            step.sources.push(Source::whole(i));
            step.out.inputs.push(StepInput {
                name: formal.name.text.clone(),
                axes,
            });
        }
        for (i, formal) in decl.states.iter().enumerate() {
            let axes = step.formal_axes(formal)?;
            let init = match &formal.init {
                None => 0.0,
                Some(node) => {
                    let lookup = |n: &str, s: Span| step.constant(n, s);
                    let init = constant::number(node, "the initial state", &lookup)?;
                    if init.is_nan() {
                        pointwise::finite(init, node.span)?;
                    }
                    init
                }
            };
            step.declare(&formal.name.text, StepRef::State(i), &axes);
            step.out.states.push(StepState {
                name: formal.name.text.clone(),
                axes,
                init,
                kept: true,
            });
        }
        step.run(&decl.step)?;
        for (i, formal) in decl.states.iter().enumerate() {
            let axes = step.out.states[i].axes.clone();
            let next = step.result(formal, &axes)?;
            if next == StepRef::State(i) {
                return refuse(
                    format!("state `{}` is never updated", formal.name.text),
                    "set it in the step, or make it a parameter",
                    formal.name.span,
                );
            }
            step.out.next.push(next);
        }
        for formal in &decl.outputs {
            let axes = step.formal_axes(formal)?;
            let output = step.result(formal, &axes)?;
            step.out.outputs.push(output);
        }
        let (mut recurrence, mut sources) = (step.out, step.sources);
        prune::remove_dead(&mut recurrence);
        prune::remove_whole(&mut recurrence, &mut sources);
        Ok((recurrence, sources))
    }
}

/// A step being lowered. Tensors read its items: item number `n` is `ValueId(n)`.
struct Step<'s, 'a> {
    flow: &'s mut Lowering<'a>,
    letters: &'s IndexMap<String, AxisId>,
    names: IndexMap<String, Tensor>,
    items: Vec<StepRef>,
    program: &'a [Statement],
    /// The counters of the loops that are open, the innermost last.
    loops: Vec<(&'a str, i64)>,
    /// Of the inputs of `out`.
    sources: Vec<Source>,
    /// The blocks that are being computed, the innermost last.
    called: Vec<&'a str>,
    out: Recurrence,
    statement: String,
    terms: Terms,
}

impl<'a> Step<'_, 'a> {
    fn formal_axes(&mut self, formal: &Formal) -> Result<Vec<AxisId>> {
        let mut out = Vec::new();
        for axis in &formal.axes {
            out.extend(self.axis(&axis.name)?);
        }
        Ok(out)
    }

    fn item(&mut self, item: StepRef, axes: &[AxisId]) -> Tensor {
        let at = self.items.iter().position(|i| *i == item);
        let id = at.unwrap_or_else(|| {
            self.items.push(item);
            self.items.len() - 1
        });
        Tensor::value(ValueId(id as u32), axes, true)
    }

    fn declare(&mut self, name: &str, item: StepRef, axes: &[AxisId]) {
        let tensor = self.item(item, axes);
        self.names.insert(name.to_owned(), tensor);
    }

    fn run(&mut self, statements: &'a [Statement]) -> Result<()> {
        for statement in statements {
            match statement {
                Statement::Assign { targets, value } => self.assign(targets, value)?,
                Statement::If {
                    condition,
                    then,
                    otherwise,
                } => {
                    self.run(pointwise::branch(self, condition, then, otherwise)?)?;
                }
                Statement::Return { span, .. } => {
                    return refuse(
                        "a step returns what `outputs` names",
                        "set the names in `outputs` instead",
                        *span,
                    );
                }
                Statement::Repeat {
                    variable,
                    count,
                    body,
                    ..
                } => self.repeat(variable, count, body)?,
            }
        }
        Ok(())
    }

    /// Runs statements several times, with a counter from 0 on.
    fn repeat(&mut self, variable: &'a Ident, count: &Node, body: &'a [Statement]) -> Result<()> {
        let times = {
            let lookup = |n: &str, s: Span| self.constant(n, s);
            constant::integer(count, "the number of repetitions", &lookup)?
        };
        if !(0..=MAX_STEP_OPS as i64).contains(&times) {
            return fail(
                Problem::BadSize {
                    what: "the number of repetitions".into(),
                    size: times.to_string(),
                    limit: MAX_STEP_OPS.to_string(),
                },
                count.span,
            );
        }
        for i in 0..times {
            self.flow.enter(variable.span)?;
            self.loops.push((&variable.text, i));
            let done = self.run(body);
            self.loops.pop();
            self.flow.leave();
            done?;
        }
        Ok(())
    }

    fn counter(&self, name: &str) -> Option<i64> {
        let mut inwards = self.loops.iter().rev();
        inwards.find(|(n, _)| *n == name).map(|(_, at)| *at)
    }

    fn assign(&mut self, targets: &'a [Target], value: &Node) -> Result<()> {
        for target in targets {
            self.may_be_set(&target.name)?;
        }
        if let Some(target) = targets.first() {
            self.statement = target.name.text.clone();
        }
        self.terms.clear();
        let tensors = pointwise::tensors(self, value)?;
        if tensors.len() != targets.len() {
            return refuse(
                format!("{} names for {} tensors", targets.len(), tensors.len()),
                "give every returned tensor one name",
                value.span,
            );
        }
        for (target, tensor) in targets.iter().zip(tensors) {
            self.set(target, tensor, value)?;
        }
        Ok(())
    }

    /// Inputs and counters keep their values.
    fn may_be_set(&self, target: &Ident) -> Result<()> {
        let name = &target.text;
        if let Some(input) = self.out.inputs.iter().find(|i| i.name == *name) {
            return refuse(
                format!("`{}` is an input and cannot be set", input.name),
                "choose another name",
                target.span,
            );
        }
        if self.counter(name).is_some() {
            return refuse(
                format!("`{name}` counts the repetitions and cannot be set"),
                "choose another name",
                target.span,
            );
        }
        Ok(())
    }

    /// Gives a tensor its name; a state's is brought to the axes of the state.
    fn set(&mut self, target: &'a Target, tensor: Tensor, value: &Node) -> Result<()> {
        let name = &target.name.text;
        self.statement = name.clone();
        let state = self.out.states.iter().find(|s| s.name == *name);
        let wanted = match (&target.axes, state) {
            (_, Some(state)) => Some(state.axes.clone()),
            (Some(declared), None) => {
                let mut axes = Vec::new();
                for axis in declared {
                    axes.extend(self.axis(axis)?);
                }
                Some(axes)
            }
            (None, None) => None,
        };
        let tensor = match wanted {
            Some(axes) => {
                let item = self.shaped(name, tensor, &axes, value.span)?;
                self.item(item, &axes)
            }
            None if tensor.as_number().is_some() || tensor.as_access().is_some() => tensor,
            None => {
                let axes = tensor.axes.clone();
                let item = self.shaped(name, tensor, &axes, value.span)?;
                self.item(item, &axes)
            }
        };
        if let (Some(StepRef::Op(i)), Some(access)) = (
            tensor
                .as_access()
                .and_then(|a| self.items.get(a.value.index()))
                .copied(),
            tensor.as_access(),
        ) && access.is_plain(&tensor.axes)
        {
            // The last operation of a statement carries its name.
            let op = &mut self.out.ops[i];
            if op.name.starts_with(&format!("{name}.")) {
                op.name = name.clone();
            }
        }
        self.names.insert(name.clone(), tensor);
        Ok(())
    }

    /// The item that holds a tensor in the given axis order. Missing axes are broadcast;
    /// an axis too many is an error.
    fn shaped(
        &mut self,
        name: &str,
        tensor: Tensor,
        axes: &[AxisId],
        span: Span,
    ) -> Result<StepRef> {
        let table = &self.flow.axes;
        if tensor.axes.iter().any(|a| !axes.contains(a)) {
            let why = axes_differ(table, &tensor.axes, axes).unwrap_or_default();
            return fail(
                Problem::WrongAxes {
                    what: format!("`{name}`"),
                    found: table.describe(&tensor.axes),
                    expected: table.describe(axes),
                    why,
                },
                span,
            );
        }
        if let Some(access) = tensor.as_access()
            && tensor.axes == axes
            && access.is_plain(axes)
        {
            return Ok(self.items[access.value.index()]);
        }
        self.emit(tensor, StepKind::Map, axes.to_vec(), span)
    }

    /// What a state or an output is after the step.
    fn result(&mut self, formal: &Formal, axes: &[AxisId]) -> Result<StepRef> {
        let name = &formal.name.text;
        let Some(tensor) = self.names.get(name).cloned() else {
            return fail(
                Problem::UnknownName {
                    name: name.clone(),
                    known: self.names.keys().cloned().collect(),
                },
                formal.name.span,
            );
        };
        self.statement = name.clone();
        self.terms.clear();
        self.shaped(name, tensor, axes, formal.name.span)
    }

    fn emit(
        &mut self,
        tensor: Tensor,
        kind: StepKind,
        axes: Vec<AxisId>,
        span: Span,
    ) -> Result<StepRef> {
        if self.out.ops.len() >= MAX_STEP_OPS {
            return refuse(
                format!("a step of more than {MAX_STEP_OPS} operations"),
                "split the recurrence in two",
                span,
            );
        }
        let mut inputs = Vec::new();
        for access in &tensor.inputs {
            inputs.push(self.access(access, span)?);
        }
        self.flow.check_elements(&axes, &self.statement, span)?;
        let expr = tensor.expr;
        let same =
            self.out.ops.iter().position(|o| {
                o.axes == axes && o.kind == kind && o.expr == expr && o.inputs == inputs
            });
        if let Some(at) = same {
            return Ok(StepRef::Op(at));
        }
        let at = self.out.ops.len();
        let places = self.terms.places(&expr, &tensor.inputs, span);
        self.out.ops.push(StepOp {
            name: format!("{}.{at}", self.statement),
            axes,
            kind,
            expr,
            inputs,
            places,
        });
        Ok(StepRef::Op(at))
    }
}

impl Step<'_, '_> {
    /// A read of an item. One that picks parts of an input by index is a read of an input that
    /// holds no more than these.
    fn access(&mut self, access: &Access, span: Span) -> Result<StepAccess> {
        let item = self.items[access.value.index()];
        let axes: Vec<AxisId> = access.index.iter().filter_map(IndexExpr::as_axis).collect();
        if access.delay == 0 && axes.len() == access.index.len() {
            return Ok(StepAccess { item, axes });
        }
        let fixed = |index: &IndexExpr| index.terms.is_empty();
        let picks = access.index.iter().filter(|index| fixed(index)).count();
        match item {
            StepRef::Input(of) if access.delay == 0 && axes.len() + picks == access.index.len() => {
                let picked: Vec<(AxisId, i64)> = access
                    .index
                    .iter()
                    .zip(&self.out.inputs[of].axes)
                    .filter(|(index, _)| fixed(index))
                    .map(|(index, axis)| (*axis, index.base))
                    .collect();
                let input = picked::pick(&mut self.out.inputs, &mut self.sources, of, &picked);
                Ok(StepAccess {
                    item: StepRef::Input(input),
                    axes,
                })
            }
            _ => refuse(
                "a step picks parts of its inputs only, and cannot reverse or delay",
                "do it outside and pass the result as an input",
                span,
            ),
        }
    }
}

impl Host for Step<'_, '_> {
    fn axes(&mut self) -> &mut Axes {
        &mut self.flow.axes
    }

    fn axis(&mut self, name: &Ident) -> Result<Vec<AxisId>> {
        if let Some(axis) = self.letters.get(&name.text) {
            return Ok(vec![*axis]);
        }
        if self.flow.axes.size_by_name(&name.text).is_none() {
            let mut known: Vec<String> = self.letters.keys().cloned().collect();
            known.extend(self.flow.axes.names());
            return fail(
                Problem::UnknownAxis {
                    name: name.text.clone(),
                    known,
                },
                name.span,
            );
        }
        self.flow.axes.atoms(name)
    }

    fn constant(&self, name: &str, _span: Span) -> Result<Option<Setting>> {
        if let Some(at) = self.counter(name) {
            return Ok(Some(Setting::Number(at as f64)));
        }
        match self.names.get(name) {
            Some(tensor) => Ok(tensor.as_number().map(Setting::Number)),
            None => match self.flow.settings.get(name) {
                Some(setting) => Ok(Some(setting.clone())),
                None => Ok(self
                    .flow
                    .axes
                    .size_by_name(name)
                    .map(|size| Setting::Number(size as f64))),
            },
        }
    }

    fn read(&mut self, name: &str, span: Span) -> Result<Tensor> {
        if let Some(at) = self.counter(name) {
            return Ok(Tensor::number(at as f64));
        }
        if let Some(tensor) = self.names.get(name) {
            return Ok(tensor.clone());
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
        let mut later = None;
        Statement::targets(self.program, &mut |target| {
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
        fail(
            Problem::UnknownName {
                name: name.to_owned(),
                known: self.names.keys().cloned().collect(),
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
        let rest: Vec<AxisId> = of
            .axes
            .iter()
            .filter(|a| !axes.contains(a))
            .copied()
            .collect();
        let item = self.emit(of, StepKind::Reduce { combine, axes }, rest.clone(), span)?;
        Ok(self.item(item, &rest))
    }

    fn contract(&mut self, _: (Tensor, &Node), _: (Tensor, &Node), span: Span) -> Result<Tensor> {
        refuse(
            "`@` in a step",
            "name the summed axis: sum(a * b, AXIS)",
            span,
        )
    }

    fn part(&mut self, tensor: Tensor, span: Span) -> Result<Tensor> {
        let axes = tensor.axes.clone();
        let item = self.shaped("", tensor, &axes, span)?;
        Ok(self.item(item, &axes))
    }

    fn apply(&mut self, call: &Call, span: Span) -> Result<Vec<Tensor>> {
        let name = &call.function.text;
        let document = self.flow.document;
        if let Some((name, block)) = document.blocks.get_key_value(name.as_str()) {
            return self.call_block(name, block, call, span);
        }
        if let Some(norm) = norms::Norm::of(name) {
            return Ok(vec![norm.apply(self, call, span)?]);
        }
        let what = match name.as_str() {
            name if super::operations::FUNCTIONS.contains(&name) => "a function of flows",
            name if document.recurrences.contains_key(name) => "a recurrence",
            _ => {
                let mut known: Vec<String> = functions::UNARY
                    .iter()
                    .map(|(f, _)| f.to_string())
                    .collect();
                known.extend(functions::COMMON.iter().map(|f| f.to_string()));
                return fail(
                    Problem::UnknownFunction {
                        name: name.clone(),
                        known,
                    },
                    call.function.span,
                );
            }
        };
        refuse(
            format!("`{name}` is {what}, which a step cannot call"),
            "call it in the flow, on what is passed to the recurrence or on what it returns",
            call.function.span,
        )
    }

    fn outer_products(&self) -> bool {
        true
    }

    fn enter(&mut self, span: Span) -> Result<()> {
        self.flow.enter(span)
    }

    fn leave(&mut self) {
        self.flow.leave();
    }

    fn note(&mut self, of: &Tensor, span: Span) {
        self.terms.note(of, span);
    }
}
