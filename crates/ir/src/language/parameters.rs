//! Parameters: shapes, checkpoint names, load steps, initialisation.

use super::constant;
use super::document::{ParamDecl, PerLayout, Setting};
use super::error::{Problem, Result, fail, refuse};
use super::lower::Lowering;
use super::pointwise::Host;
use super::syntax::{Arg, Call, Node, NodeKind};
use super::tensor::Tensor;
use crate::{Def, Init, LoadStep, Param, ParamId, Precision, Source, Span, Value};

const LOAD_STEPS: &str = "t(a, b), slice(dim, start, end) or view(size, ...)";
const INITS: &str = "a number, normal(sd), uniform(a, b), constant(c) or log_uniform(a, b)";

impl Lowering<'_> {
    /// The parameter of this name in the current block (or the model), made on first use.
    pub fn parameter(&mut self, name: &str) -> Result<Option<Tensor>> {
        let document = self.document;
        let block = self.frame().block;
        let found = match block {
            Some((_, block)) => block.params.get(name),
            None => document.params.get(name),
        };
        let Some(decl) = found else { return Ok(None) };
        // A parameter of the model is one tensor, also inside `repeat`.
        let layer = block.and_then(|_| self.layer_number());
        let key = (layer, block.map(|(b, _)| b.to_owned()), name.to_owned());
        if let Some(tensor) = self.params.get(&key) {
            return Ok(Some(tensor.clone()));
        }
        let (axes, dimensions) = self.axes.shape(&decl.shape)?;
        let qualified = self.qualified(name);
        self.check_elements(&axes, &qualified, decl.shape_span)?;
        let id = ParamId(self.graph.params.len() as u32);
        let value = self.value(Value {
            name: qualified.clone(),
            rows: false,
            axes: axes.clone(),
            precision: if decl.f32 {
                Precision::F32
            } else {
                Precision::Storage
            },
            def: Def::Param(id),
            layer,
        });
        let full = match layer {
            Some(l) => format!("layers.{l}.{qualified}"),
            None => qualified,
        };
        let source = self.source(decl, layer, &full)?;
        let init = self.init(decl, &dimensions, &axes)?;
        self.dimensions.insert(full.clone(), dimensions.clone());
        self.graph.params.push(Param {
            name: full,
            value,
            source,
            init,
            span: Some(decl.span),
        });
        let tensor = Tensor {
            dimensions: Some(dimensions),
            ..Tensor::value(value, &axes, false)
        };
        self.params.insert(key, tensor.clone());
        Ok(Some(tensor))
    }

    /// The choice for the setting `layout`, if there is a choice.
    fn chosen<'p, T>(&self, of: &'p PerLayout<T>) -> Result<Option<&'p T>> {
        match of {
            PerLayout::One(one) => Ok(Some(one)),
            PerLayout::Choice(choices, span) => match self.settings.get("layout") {
                Some(Setting::Text(layout)) => Ok(choices.get(layout)),
                _ => refuse(
                    "names are given per layout, but the model has no setting `layout`",
                    "add `layout = \"...\"` to [settings]",
                    *span,
                ),
            },
        }
    }

    /// Where a parameter is found; without a name of its own, by its full name.
    fn source(&self, decl: &ParamDecl, layer: Option<u32>, full: &str) -> Result<Option<Source>> {
        let Some(from) = &decl.from else {
            if decl.load.is_some() {
                return refuse(
                    "`load` without `from`",
                    "say in `from` which tensor is loaded",
                    decl.span,
                );
            }
            return Ok(Some(Source {
                tensors: vec![full.to_owned()],
                steps: Vec::new(),
            }));
        };
        let Some(names) = self.chosen(from)? else {
            return Ok(None);
        };
        let mut tensors = Vec::new();
        for name in names {
            let mut full = name.value.clone();
            if let Some((l, variable)) = self.layer
                && layer.is_some()
            {
                full = full.replace(&format!("{{{variable}}}"), &l.to_string());
            }
            if full.contains('{') || full.contains('}') {
                return refuse(
                    format!(
                        "the tensor name \"{full}\" has something in braces that is not the layer index"
                    ),
                    "the index of `repeat` can stand in braces, in parameters of blocks called there",
                    name.span,
                );
            }
            tensors.push(full);
        }
        let mut steps = Vec::new();
        if let Some(load) = &decl.load
            && let Some(calls) = self.chosen(load)?
        {
            for call in calls {
                steps.push(self.load_step(call)?);
            }
        }
        Ok(Some(Source { tensors, steps }))
    }

    fn load_step(&self, call: &Call) -> Result<LoadStep> {
        let lookup = |n: &str, s: Span| self.constant(n, s);
        let mut numbers = Vec::new();
        for arg in &call.args {
            let Arg::Positional(node) = arg else {
                return bad_step(call, "load steps have no keywords");
            };
            let n = constant::integer(node, "a load step", &lookup)?;
            match usize::try_from(n) {
                Ok(n) => numbers.push(n),
                Err(_) => return bad_step(call, "numbers in load steps are 0 or more"),
            }
        }
        Ok(match (call.function.text.as_str(), numbers.as_slice()) {
            ("t", [a, b]) => LoadStep::Transpose(*a, *b),
            ("slice", [dim, start, end]) if start < end => LoadStep::Slice {
                dim: *dim,
                start: *start,
                end: *end,
            },
            ("slice", [_, _, _]) => return bad_step(call, "the slice is empty"),
            ("view", [_, ..]) => LoadStep::View(numbers),
            ("t" | "slice" | "view", _) => return bad_step(call, "wrong number of arguments"),
            _ => return bad_step(call, "unknown load step"),
        })
    }

    fn init(&self, decl: &ParamDecl, dimensions: &[usize], axes: &[crate::AxisId]) -> Result<Init> {
        let Some(node) = &decl.init else {
            // Keeps the variance of what a matrix is applied to; a vector is small noise.
            let fan_in = match dimensions {
                [] | [_] => None,
                [.., last] => self.axes.elements(&axes[axes.len() - last..]),
            };
            return Ok(Init::Normal(match fan_in {
                Some(n) => 1.0 / (n as f64).sqrt(),
                None => 0.02,
            }));
        };
        let lookup = |n: &str, s: Span| self.constant(n, s);
        let init = match &node.kind {
            NodeKind::Call(call) => {
                let mut numbers = Vec::new();
                for arg in &call.args {
                    match arg {
                        Arg::Positional(n) => {
                            numbers.push(constant::number(n, "an initialisation", &lookup)?);
                        }
                        _ => return bad_init(node),
                    }
                }
                match (call.function.text.as_str(), numbers.as_slice()) {
                    ("normal", [sd]) if *sd >= 0.0 => Init::Normal(*sd),
                    ("uniform", [a, b]) if a <= b => Init::Uniform(*a, *b),
                    ("log_uniform", [a, b]) if *a > 0.0 && a <= b => Init::LogUniform(*a, *b),
                    ("constant", [c]) => Init::Constant(*c),
                    ("normal" | "uniform" | "log_uniform" | "constant", _) => {
                        return bad_init(node);
                    }
                    _ => Init::Constant(constant::number(node, "an initialisation", &lookup)?),
                }
            }
            _ => Init::Constant(constant::number(node, "an initialisation", &lookup)?),
        };
        let finite = match init {
            Init::Normal(a) | Init::Constant(a) => a.is_finite(),
            Init::Uniform(a, b) | Init::LogUniform(a, b) => a.is_finite() && b.is_finite(),
        };
        if finite { Ok(init) } else { bad_init(node) }
    }
}

fn bad_step<T>(call: &Call, found: &str) -> Result<T> {
    fail(
        Problem::BadArgument {
            function: call.function.text.clone(),
            takes: LOAD_STEPS.into(),
            found: found.to_owned(),
        },
        call.function.span,
    )
}

fn bad_init<T>(node: &Node) -> Result<T> {
    fail(
        Problem::BadArgument {
            function: "init".into(),
            takes: INITS.into(),
            found: "this is not one of them".into(),
        },
        node.span,
    )
}
