//! Flows to operations: executes the text of a model on tensors, unrolling layers
//! and calling blocks, and cuts it into operations as it goes.

use super::constant;
use super::document::{BlockDecl, Document, InputKind, Setting};
use super::error::{Fault, Problem, Result, Warning, fail, refuse};
use super::multiplied::store_as_multiplied;
use super::pointwise::{self, Host};
use super::scope::Axes;
use super::syntax::{Call, Ident, Node, Statement, Target};
use super::tensor::Tensor;
use crate::graph::GRAPH_VERSION;
use crate::{AxisId, Def, Graph, OpId, Precision, Span, Value, ValueId};
use indexmap::IndexMap;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Most layers a model may have.
pub(super) const MAX_LAYERS: i64 = 4096;
/// Most operations and statements a model may unroll into.
const MAX_WORK: usize = 1 << 20;

/// A block being executed, or the model itself.
pub(super) struct Frame<'a> {
    /// Name of the block; `None` for the model.
    pub block: Option<(&'a str, &'a BlockDecl)>,
    pub names: IndexMap<String, Tensor>,
    pub program: &'a [Statement],
    /// Name for what the current statement computes.
    pub statement: String,
}

/// The state of lowering a document.
pub(super) struct Lowering<'a> {
    pub document: &'a Document,
    pub axes: Axes,
    pub settings: IndexMap<String, Setting>,
    pub graph: Graph,
    pub frames: Vec<Frame<'a>>,
    /// The layer being unrolled and the name of its index.
    pub layer: Option<(u32, &'a str)>,
    /// Storage of the operations cut out at present.
    pub precision: Precision,
    pub params: HashMap<(Option<u32>, Option<String>, String), Tensor>,
    /// Atoms of each declared dimension, by input, parameter and state of a recurrence.
    pub dimensions: BTreeMap<String, Vec<usize>>,
    /// Values that have no name of the user's yet.
    pub anonymous: HashSet<ValueId>,
    pub same: HashMap<String, OpId>,
    pub taken: HashMap<(Option<u32>, String), u32>,
    /// Names given to a value that has another name already.
    pub aliases: BTreeMap<String, String>,
    work: usize,
    pub evaluations: usize,
    pub nesting: usize,
}

/// What a document becomes.
pub(super) struct Lowered {
    /// Operations in the order of the text.
    pub graph: Graph,
    /// Atoms of each declared dimension, by input, parameter and state of a recurrence.
    pub dimensions: BTreeMap<String, Vec<usize>>,
    pub warnings: Vec<Warning>,
}

/// Lowers a document.
pub(super) fn lower(
    document: &Document,
    axes: Axes,
    settings: IndexMap<String, Setting>,
) -> Result<Lowered> {
    let mut lowering = Lowering {
        document,
        axes,
        settings,
        graph: Graph {
            version: GRAPH_VERSION,
            name: document.name.clone(),
            axes: Vec::new(),
            params: Vec::new(),
            recurrences: Vec::new(),
            values: Vec::new(),
            ops: Vec::new(),
            states: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            layers: 0,
            pins: Vec::new(),
            allow_unused: document.allow_unused.clone(),
            zeros: 0.0,
        },
        frames: Vec::new(),
        layer: None,
        precision: Precision::Storage,
        params: HashMap::new(),
        dimensions: BTreeMap::new(),
        anonymous: HashSet::new(),
        same: HashMap::new(),
        taken: HashMap::new(),
        aliases: BTreeMap::new(),
        work: 0,
        evaluations: 0,
        nesting: 0,
    };
    lowering.model()?;
    let warnings = unused(document);
    let mut graph = lowering.graph;
    graph.axes = lowering.axes.into_list();
    store_as_multiplied(&mut graph, &lowering.anonymous);
    Ok(Lowered {
        graph,
        dimensions: lowering.dimensions,
        warnings,
    })
}

impl<'a> Lowering<'a> {
    fn model(&mut self) -> Result<()> {
        let document = self.document;
        let mut names = IndexMap::new();
        if document.inputs.is_empty() {
            let id = self.input("ids", &InputKind::Token)?;
            names.insert("ids".to_owned(), id);
        }
        for (name, kind) in &document.inputs {
            let tensor = self.input(name, &kind.value)?;
            names.insert(name.clone(), tensor);
        }
        self.frames.push(Frame {
            block: None,
            names,
            program: &document.flow,
            statement: String::new(),
        });
        let returned = self.run(&document.flow)?;
        let Some((values, span)) = returned else {
            return refuse(
                "the flow of the model returns nothing",
                "end it with `return logits`",
                document.flow_span,
            );
        };
        for tensor in values {
            let id = self.store(&tensor, span)?;
            if !self.graph.value(id).rows {
                return refuse(
                    "the model returns something that does not depend on its input",
                    "return what is computed from the tokens",
                    span,
                );
            }
            self.graph.outputs.push(id);
        }
        self.pins()
    }

    fn input(&mut self, name: &str, kind: &InputKind) -> Result<Tensor> {
        let ((axes, dimensions), precision) = match kind {
            InputKind::Token => (Default::default(), Precision::Index),
            InputKind::Shape(shape) => (self.axes.shape(shape)?, Precision::Storage),
        };
        self.dimensions.insert(name.to_owned(), dimensions);
        let id = self.value(Value {
            name: name.to_owned(),
            rows: true,
            axes: axes.clone(),
            precision,
            def: Def::Input,
            layer: None,
        });
        self.graph.inputs.push(id);
        Ok(Tensor::value(id, &axes, true))
    }

    pub fn value(&mut self, value: Value) -> ValueId {
        self.graph.values.push(value);
        ValueId(self.graph.values.len() as u32 - 1)
    }

    pub fn frame(&mut self) -> &mut Frame<'a> {
        self.frames.last_mut().expect("a flow is being executed")
    }

    pub fn layer_number(&self) -> Option<u32> {
        self.layer.map(|(l, _)| l)
    }

    /// `name` qualified by the block.
    pub fn qualified(&self, name: &str) -> String {
        match self.frames.last().and_then(|f| f.block) {
            Some((block, _)) => format!("{block}.{name}"),
            None => name.to_owned(),
        }
    }

    /// A name that is unique within the layer.
    pub fn unique(&mut self, name: String) -> String {
        let count = self
            .taken
            .entry((self.layer_number(), name.clone()))
            .or_insert(0);
        *count += 1;
        if *count == 1 {
            name
        } else {
            format!("{name}#{count}")
        }
    }

    pub fn spend(&mut self, span: Span) -> Result<()> {
        self.work += 1;
        if self.work > MAX_WORK {
            return refuse(
                format!("the model unrolls into more than {MAX_WORK} statements"),
                "use fewer layers or fewer nested blocks",
                span,
            );
        }
        Ok(())
    }

    /// Executes statements up to a `return`.
    fn run(&mut self, statements: &'a [Statement]) -> Result<Option<(Vec<Tensor>, Span)>> {
        for statement in statements {
            match statement {
                Statement::Assign { targets, value } => {
                    self.spend(value.span)?;
                    self.assign(targets, value)?;
                }
                Statement::Return { values, span } => {
                    self.frame().statement = "out".to_owned();
                    let mut out = Vec::new();
                    for value in values {
                        for tensor in pointwise::returned(self, value, values.len() == 1)? {
                            out.push(self.keep(tensor, "out", value.span)?);
                        }
                    }
                    return Ok(Some((out, *span)));
                }
                Statement::If {
                    condition,
                    then,
                    otherwise,
                } => {
                    let branch = pointwise::branch(self, condition, then, otherwise)?;
                    if let Some(returned) = self.run(branch)? {
                        return Ok(Some(returned));
                    }
                }
                Statement::Repeat {
                    variable,
                    count,
                    body,
                    span,
                } => self.repeat(variable, count, body, *span)?,
            }
        }
        Ok(None)
    }

    fn repeat(
        &mut self,
        variable: &'a Ident,
        count: &Node,
        body: &'a [Statement],
        span: Span,
    ) -> Result<()> {
        if self.graph.layers > 0 || self.layer.is_some() || self.frames.len() > 1 {
            return refuse(
                "a model has one `repeat`, in its own flow",
                "tell layers apart inside it with `if l == ... { }`",
                span,
            );
        }
        let layers = {
            let lookup = |n: &str, s: Span| self.constant(n, s);
            constant::integer(count, "the number of layers", &lookup)?
        };
        if !(1..=MAX_LAYERS).contains(&layers) {
            return fail(
                Problem::BadSize {
                    what: "the number of layers".into(),
                    size: layers.to_string(),
                    limit: MAX_LAYERS.to_string(),
                },
                count.span,
            );
        }
        self.graph.layers = layers as u32;
        let mut set = HashSet::new();
        Statement::targets(body, &mut |target| {
            set.insert(target.text.as_str());
        });
        for l in 0..layers as u32 {
            let before: Vec<(String, Vec<AxisId>)> = self
                .frame()
                .names
                .iter()
                .filter(|(n, t)| set.contains(n.as_str()) && t.as_number().is_none())
                .map(|(n, t)| (n.clone(), t.axes.clone()))
                .collect();
            self.layer = Some((l, &variable.text));
            if let Some((_, span)) = self.run(body)? {
                return refuse(
                    "`return` inside `repeat`",
                    "return after the closing brace",
                    span,
                );
            }
            self.layer = None;
            self.carried(&before, span)?;
        }
        Ok(())
    }

    /// A name that goes from layer to layer keeps its axes.
    fn carried(&mut self, before: &[(String, Vec<AxisId>)], span: Span) -> Result<()> {
        for (name, axes) in before {
            let Some(now) = self.frame().names.get(name).map(|t| t.axes.clone()) else {
                continue;
            };
            let same = now.len() == axes.len() && axes.iter().all(|a| now.contains(a));
            if !same {
                return fail(
                    Problem::WrongAxes {
                        what: format!("`{name}` after a layer"),
                        found: self.axes.describe(&now),
                        expected: self.axes.describe(axes),
                        why: "a name set before `repeat` keeps its axes from layer to layer".into(),
                    },
                    span,
                );
            }
        }
        Ok(())
    }

    fn assign(&mut self, targets: &'a [Target], value: &Node) -> Result<()> {
        for (i, target) in targets.iter().enumerate() {
            if targets[..i].iter().any(|t| t.name.text == target.name.text) {
                return fail(
                    Problem::Twice {
                        what: "target",
                        name: target.name.text.clone(),
                    },
                    target.name.span,
                );
            }
            self.not_a_parameter(&target.name)?;
        }
        if let Some(target) = targets.first() {
            self.frame().statement = target.name.text.clone();
        }
        let tensors = pointwise::tensors(self, value)?;
        if tensors.len() != targets.len() {
            return refuse(
                format!("{} names for {} tensors", targets.len(), tensors.len()),
                "give every returned tensor one name",
                value.span,
            );
        }
        for (target, tensor) in targets.iter().zip(tensors) {
            if let Some(declared) = &target.axes {
                self.check_axes(target, declared, &tensor)?;
            }
            self.frame().statement = target.name.text.clone();
            let tensor = self.keep(tensor, &target.name.text, value.span)?;
            self.frame().names.insert(target.name.text.clone(), tensor);
        }
        Ok(())
    }

    fn not_a_parameter(&mut self, name: &Ident) -> Result<()> {
        let declared = match self.frame().block {
            Some((_, block)) => block.params.get(&name.text),
            None => self.document.params.get(&name.text),
        };
        match declared {
            None => Ok(()),
            Some(decl) => Err(Fault::new(
                Problem::Other {
                    what: format!("`{}` is a parameter and cannot be set", name.text),
                    advice: "choose another name".into(),
                },
                name.span,
            )
            .also(decl.span, "declared here")
            .also(name.span, "set here")),
        }
    }

    fn check_axes(&mut self, target: &Target, declared: &[Ident], tensor: &Tensor) -> Result<()> {
        let mut wanted = Vec::new();
        for name in declared {
            for atom in self.axes.atoms(name)? {
                if wanted.contains(&atom) {
                    return fail(
                        Problem::AxisTwice {
                            axis: name.text.clone(),
                            place: format!("`{}`", target.name.text),
                        },
                        name.span,
                    );
                }
                wanted.push(atom);
            }
        }
        let why = axes_differ(&self.axes, &tensor.axes, &wanted);
        match why {
            None => Ok(()),
            Some(why) => fail(
                Problem::WrongAxes {
                    what: format!("`{}`", target.name.text),
                    found: self.axes.describe(&tensor.axes),
                    expected: self.axes.describe(&wanted),
                    why,
                },
                target.name.span,
            ),
        }
    }

    /// Gives a computed tensor its name. What is only a number or a view of a value stays so.
    fn keep(&mut self, tensor: Tensor, name: &str, span: Span) -> Result<Tensor> {
        if tensor.as_number().is_some() {
            return Ok(tensor);
        }
        let id = match tensor.as_access() {
            Some(access) => access.value,
            None => self.store(&tensor, span)?,
        };
        let qualified = self.qualified(name);
        let whole = tensor.as_access().is_none_or(|access| {
            access.delay == 0 && access.index.iter().all(|i| i.as_axis().is_some())
        });
        if whole && self.anonymous.remove(&id) {
            let unique = self.unique(qualified);
            if let Def::Op(op, _) = self.graph.value(id).def {
                self.graph.ops[op.index()].name = unique.clone();
            }
            self.graph.values[id.index()].name = unique;
        } else if whole {
            let known = self.graph.value(id).name.clone();
            if known != qualified {
                self.aliases.entry(qualified).or_insert(known);
            }
        }
        if tensor.as_access().is_some() {
            return Ok(tensor);
        }
        Ok(Tensor::value(id, &tensor.axes, tensor.rows))
    }

    /// Executes a block.
    pub fn call_block(
        &mut self,
        name: &'a str,
        block: &'a BlockDecl,
        call: &Call,
        span: Span,
    ) -> Result<Vec<Tensor>> {
        if self
            .frames
            .iter()
            .any(|f| f.block.is_some_and(|(n, _)| n == name))
        {
            let mut path: Vec<&str> = self
                .frames
                .iter()
                .filter_map(|f| f.block.map(|(n, _)| n))
                .collect();
            path.push(name);
            return fail(
                Problem::Recursion {
                    what: "a block",
                    path: path.join(" -> "),
                },
                span,
            );
        }
        let known: Vec<String> = block.args.iter().map(|a| a.value.clone()).collect();
        let given = super::operations::bind(call, &known, span)?;
        let mut names = IndexMap::new();
        for (arg, node) in known.into_iter().zip(given) {
            let tensor = pointwise::tensor(self, node)?;
            let tensor = if tensor.as_number().is_some() || tensor.as_access().is_some() {
                tensor
            } else {
                let id = self.store(&tensor, node.span)?;
                Tensor::value(id, &tensor.axes, tensor.rows)
            };
            names.insert(arg, tensor);
        }
        self.frames.push(Frame {
            block: Some((name, block)),
            names: IndexMap::new(),
            program: &block.flow,
            statement: String::new(),
        });
        for (arg, tensor) in names {
            // What the caller did not name is called after the argument.
            let tensor = self.keep(tensor, &arg, span)?;
            self.frame().names.insert(arg, tensor);
        }
        let precision = std::mem::replace(&mut self.precision, Precision::Storage);
        let returned = self.run(&block.flow)?;
        self.precision = precision;
        self.frames.pop();
        match returned {
            Some((values, _)) => Ok(values),
            None => refuse(
                format!("block `{name}` returns nothing"),
                "end its flow with `return ...`",
                block.span,
            ),
        }
    }
}

/// Which axis is lost or left over, if the sets differ.
pub(super) fn axes_differ(table: &Axes, found: &[AxisId], wanted: &[AxisId]) -> Option<String> {
    let minus = |a: &[AxisId], b: &[AxisId]| -> Vec<AxisId> {
        a.iter().filter(|x| !b.contains(x)).copied().collect()
    };
    let (lost, extra) = (minus(wanted, found), minus(found, wanted));
    if lost.is_empty() && extra.is_empty() {
        return None;
    }
    let mut parts = Vec::new();
    if !lost.is_empty() {
        parts.push(format!("{} is lost", table.list(&lost).join(", ")));
    }
    if !extra.is_empty() {
        parts.push(format!(
            "{} is left over, it was never summed or contracted",
            table.list(&extra).join(", ")
        ));
    }
    Some(parts.join("; "))
}

/// Parameters and names that no text mentions.
fn unused(document: &Document) -> Vec<Warning> {
    let mut out = Vec::new();
    let mut check = |params: &IndexMap<String, super::document::ParamDecl>, flow: &[Statement]| {
        let mut read = HashSet::new();
        Statement::reads(flow, &mut |name| {
            read.insert(name.to_owned());
        });
        for (name, param) in params {
            if !read.contains(name) {
                out.push(Warning {
                    message: format!("parameter `{name}` is never used"),
                    span: param.span,
                });
            }
        }
    };
    check(&document.params, &document.flow);
    for block in document.blocks.values() {
        check(&block.params, &block.flow);
    }
    out
}
