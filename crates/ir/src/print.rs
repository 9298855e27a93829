//! A graph as text that people read.

use crate::{
    Access, AxisId, Binary, Combine, Direction, Expr, Graph, IndexExpr, Init, LoadStep, NormKind,
    Op, OpId, OpKind, Param, Precision, Recurrence, StateKind, StepKind, StepRef, Unary, ValueId,
};
use std::fmt::Write;

/// The whole graph.
pub fn graph(graph: &Graph) -> String {
    print(graph, None)
}

/// What belongs to one layer, with the recurrences it uses.
pub fn layer(graph: &Graph, layer: u32) -> String {
    print(graph, Some(layer))
}

fn print(graph: &Graph, only: Option<u32>) -> String {
    let mut out = String::new();
    let wanted = |layer: Option<u32>| only.is_none() || layer == only;
    match only {
        Some(l) => line(&mut out, format_args!("{}, layer {l}", graph.name)),
        None => line(
            &mut out,
            format_args!("{}, {} layers", graph.name, graph.layers),
        ),
    }
    let sizes: Vec<String> = graph
        .axes
        .iter()
        .map(|a| format!("{}={}", a.name, a.size))
        .collect();
    line(&mut out, format_args!("axes {}", sizes.join(" ")));
    if only.is_none() {
        for id in &graph.inputs {
            line(&mut out, format_args!("input {}", typed(graph, *id)));
        }
    }
    for param in &graph.params {
        if wanted(graph.value(param.value).layer) {
            line(&mut out, format_args!("param {}", parameter(graph, param)));
        }
    }
    for state in &graph.states {
        if wanted(state.layer) {
            let kind = match state.kind {
                StateKind::Scan { init } => format!("scan, starts at {init}"),
                StateKind::Tail { value, width } => {
                    format!("last {width} of {}", graph.value(value).name)
                }
            };
            let axes = axes(graph, &state.axes);
            line(&mut out, format_args!("state {}{axes}: {kind}", state.name));
        }
    }
    let mut used = vec![only.is_none(); graph.recurrences.len()];
    for op in &graph.ops {
        if let (OpKind::Scan { recurrence, .. }, true) = (&op.kind, wanted(op.layer)) {
            used[recurrence.index()] = true;
        }
    }
    for (recurrence, used) in graph.recurrences.iter().zip(used) {
        if used {
            print_recurrence(&mut out, graph, recurrence);
        }
    }
    for (i, op) in graph.ops.iter().enumerate() {
        if wanted(op.layer) {
            let load = if graph.is_load_time(OpId(i as u32)) {
                "load "
            } else {
                ""
            };
            line(&mut out, format_args!("{load}{}", operation(graph, op)));
        }
    }
    if only.is_none() {
        for id in &graph.outputs {
            line(&mut out, format_args!("output {}", typed(graph, *id)));
        }
        for pin in &graph.pins {
            line(
                &mut out,
                format_args!("pin {:?} {}", pin.kind, pin.values.join(", ")),
            );
        }
    }
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{text}");
}

fn axes(graph: &Graph, list: &[AxisId]) -> String {
    let names: Vec<&str> = list.iter().map(|a| graph.axis_name(*a)).collect();
    format!("[{}]", names.join(", "))
}

fn typed(graph: &Graph, id: ValueId) -> String {
    let value = graph.value(id);
    let precision = match value.precision {
        Precision::Storage => "",
        Precision::F32 => " f32",
        Precision::Index => " index",
    };
    format!("{}{}{precision}", value.name, axes(graph, &value.axes))
}

fn parameter(graph: &Graph, param: &Param) -> String {
    let mut out = format!(
        "{}{}",
        param.name,
        axes(graph, &graph.value(param.value).axes)
    );
    if graph.value(param.value).precision == Precision::F32 {
        out.push_str(" f32");
    }
    let by_full_name = |source: &&crate::Source| source.tensors == [&param.name[..]];
    if let Some(source) = param.source.as_ref().filter(|s| !by_full_name(s)) {
        let _ = write!(out, " from {}", source.tensors.join(" | "));
        for step in &source.steps {
            let _ = match step {
                LoadStep::Slice { dim, start, end } => write!(out, " slice({dim}, {start}, {end})"),
                LoadStep::Transpose(a, b) => write!(out, " t({a}, {b})"),
                LoadStep::View(shape) => write!(out, " view{shape:?}"),
            };
        }
    }
    let _ = match param.init {
        Init::Normal(sd) => write!(out, " init normal({sd})"),
        Init::Uniform(a, b) => write!(out, " init uniform({a}, {b})"),
        Init::Constant(c) => write!(out, " init {c}"),
        Init::LogUniform(a, b) => write!(out, " init log_uniform({a}, {b})"),
    };
    out
}

/// One operation, without its layer.
pub fn operation(graph: &Graph, op: &Op) -> String {
    let name = |v: ValueId| match graph.value(v).layer {
        Some(l) if graph.value(v).layer != op.layer => {
            format!("layers.{l}.{}", graph.value(v).name)
        }
        _ => graph.value(v).name.clone(),
    };
    let mut out = equation(graph, op, &name);
    for tail in &op.tails {
        let _ = write!(out, "; keeps {}", graph.state(*tail).name);
    }
    out
}

/// One operation as an equation, its operands under the names given.
pub fn equation(graph: &Graph, op: &Op, name: &dyn Fn(ValueId) -> String) -> String {
    let results: Vec<String> = op.outputs.iter().map(|v| typed(graph, *v)).collect();
    let operand = |i: usize| match op.inputs.get(i) {
        Some(access) => read(graph, access, name),
        None => format!("?{i}"),
    };
    let axis = |a: AxisId| graph.axis_name(a).to_owned();
    let all = || -> String {
        let list: Vec<String> = (0..op.inputs.len()).map(operand).collect();
        list.join(", ")
    };
    let right = match &op.kind {
        OpKind::Map { expr } => expression(expr, &operand, &axis),
        OpKind::Reduce {
            expr,
            combine,
            axes: over,
        } => format!(
            "{} over {} of {}",
            combine_name(*combine),
            axes(graph, over),
            expression(expr, &operand, &axis)
        ),
        OpKind::Norm {
            kind,
            axes: over,
            eps,
            gain,
            bias,
        } => {
            let name = match kind {
                NormKind::Layer => "layer_norm",
                NormKind::Rms => "rms_norm",
                NormKind::L2 => "l2_norm",
                NormKind::L2Max => "l2_norm_max",
            };
            let mut out = format!(
                "{name} over {} of {}, eps {eps}",
                axes(graph, over),
                operand(0)
            );
            if *gain {
                let _ = write!(out, ", gain {}", operand(1));
            }
            if *bias {
                let _ = write!(out, ", bias {}", operand(1 + usize::from(*gain)));
            }
            out
        }
        OpKind::Contract { axes: over } => {
            format!("{} @ {} over {}", operand(0), operand(1), axes(graph, over))
        }
        OpKind::Gather => format!("{} at {}", operand(0), operand(1)),
        OpKind::Scan { recurrence, .. } => {
            format!("{}({})", graph.recurrence(*recurrence).name, all())
        }
        OpKind::Attend {
            axes: over,
            window,
            scale,
        } => format!(
            "attend {} to {} over {}, scale {scale}, window {window}: {}",
            operand(0),
            operand(1),
            axes(graph, over),
            operand(2)
        ),
        OpKind::LastRow => format!("last row of {}", all()),
        OpKind::CumSum { axis: a } => format!("cumsum over {} of {}", axis(*a), operand(0)),
        OpKind::Scatter { index, .. } => {
            let index: Vec<String> = index.iter().map(|i| self::index(graph, i)).collect();
            format!("scatter {} to [{}]", operand(0), index.join(", "))
        }
        OpKind::ScatterRows => format!("scatter {} to {}", operand(0), operand(1)),
        OpKind::AttendBack {
            axes: over,
            window,
            scale,
        } => format!(
            "attend back over {}, scale {scale}, window {window}: {}",
            axes(graph, over),
            all()
        ),
    };
    format!("{} = {right}", results.join(", "))
}

/// A read of a value: `x`, `x(t-1)`, `m[0, H, N]`.
fn read(graph: &Graph, access: &Access, name: &dyn Fn(ValueId) -> String) -> String {
    let value = graph.value(access.value);
    let mut out = name(access.value);
    let in_place = access.index.len() == value.axes.len()
        && access
            .index
            .iter()
            .zip(&value.axes)
            .all(|(i, a)| i.as_axis() == Some(*a));
    if !in_place {
        let list: Vec<String> = access.index.iter().map(|i| index(graph, i)).collect();
        let _ = write!(out, "[{}]", list.join(", "));
    }
    match access.delay {
        0 => {}
        d if d > 0 => {
            let _ = write!(out, "(t-{d})");
        }
        d => {
            let _ = write!(out, "(t+{})", -i64::from(d));
        }
    }
    out
}

fn index(graph: &Graph, index: &IndexExpr) -> String {
    let mut out = String::new();
    for (axis, c) in &index.terms {
        let name = graph.axis_name(*axis);
        match (*c, out.is_empty()) {
            (1, true) => out.push_str(name),
            (1, false) => {
                let _ = write!(out, "+{name}");
            }
            (-1, _) => {
                let _ = write!(out, "-{name}");
            }
            (c, true) => {
                let _ = write!(out, "{c}*{name}");
            }
            (c, false) => {
                let _ = write!(out, "{c:+}*{name}");
            }
        }
    }
    if out.is_empty() {
        return index.base.to_string();
    }
    if index.base != 0 {
        let _ = write!(out, "{:+}", index.base);
    }
    out
}

fn combine_name(combine: Combine) -> &'static str {
    match combine {
        Combine::Sum => "sum",
        Combine::Max => "max",
    }
}

/// An expression in the notation of the language.
pub fn expression(
    expr: &Expr,
    input: &dyn Fn(usize) -> String,
    axis: &dyn Fn(AxisId) -> String,
) -> String {
    fn level(expr: &Expr) -> u8 {
        match expr {
            _ if expr.choice().is_some() => 4,
            Expr::Binary(Binary::Add | Binary::Sub, ..) => 1,
            Expr::Binary(Binary::Mul | Binary::Div, ..) => 2,
            Expr::Unary(Unary::Neg, _) => 3,
            Expr::Const(c) if *c < 0.0 => 3,
            _ => 4,
        }
    }
    let inner = |e: &Expr, least: u8| {
        let text = expression(e, input, axis);
        if level(e) < least {
            format!("({text})")
        } else {
            text
        }
    };
    match expr {
        Expr::Input(i) => input(*i),
        Expr::Const(c) => c.to_string(),
        Expr::Index(a) => format!("index({})", axis(*a)),
        Expr::Position => "position()".into(),
        Expr::Unary(Unary::Neg, a) => format!("-{}", inner(a, 4)),
        Expr::Unary(f, a) => format!("{}({})", f.name(), inner(a, 0)),
        Expr::Binary(op, a, b) => match op {
            Binary::Add => match expr.choice() {
                Some((c, a, b)) => {
                    format!("where({}, {}, {})", inner(c, 0), inner(a, 0), inner(b, 0))
                }
                None => format!("{} + {}", inner(a, 1), inner(b, 1)),
            },
            Binary::Sub => format!("{} - {}", inner(a, 1), inner(b, 2)),
            Binary::Mul => format!("{} * {}", inner(a, 2), inner(b, 2)),
            Binary::Div => format!("{} / {}", inner(a, 2), inner(b, 3)),
            Binary::Min => format!("min({}, {})", inner(a, 0), inner(b, 0)),
            Binary::Max => format!("max({}, {})", inner(a, 0), inner(b, 0)),
            Binary::Pow => format!("pow({}, {})", inner(a, 0), inner(b, 0)),
            Binary::Less => format!("({} < {})", inner(a, 0), inner(b, 0)),
            Binary::LessEqual => format!("({} <= {})", inner(a, 0), inner(b, 0)),
            Binary::Equal => format!("({} == {})", inner(a, 0), inner(b, 0)),
            Binary::When => format!("where({}, {}, 0)", inner(a, 0), inner(b, 0)),
        },
    }
}

/// A recurrence: its formals, its states, its step.
pub fn step(graph: &Graph, recurrence: &Recurrence) -> String {
    let mut out = String::new();
    print_recurrence(&mut out, graph, recurrence);
    out
}

fn print_recurrence(out: &mut String, graph: &Graph, r: &Recurrence) {
    let name = |item: StepRef| match item {
        StepRef::Input(i) => r.inputs[i].name.clone(),
        StepRef::State(i) => r.states[i].name.clone(),
        StepRef::Op(i) if r.states.iter().any(|s| s.name == r.ops[i].name) => {
            format!("{}'", r.ops[i].name)
        }
        StepRef::Op(i) => r.ops[i].name.clone(),
    };
    let inputs: Vec<String> = r
        .inputs
        .iter()
        .map(|i| format!("{}{}", i.name, axes(graph, &i.axes)))
        .collect();
    let order = match r.direction {
        Direction::Forward => "",
        Direction::Reverse => " from the last row to the first",
    };
    line(
        out,
        format_args!("recurrence {}({}){order}", r.name, inputs.join(", ")),
    );
    for (state, next) in r.states.iter().zip(&r.next) {
        let (n, a, init) = (&state.name, axes(graph, &state.axes), state.init);
        line(
            out,
            format_args!("  state {n}{a} = {init}, then {}", name(*next)),
        );
    }
    for (i, op) in r.ops.iter().enumerate() {
        let operand = |i: usize| match op.inputs.get(i) {
            Some(access) => {
                let item = name(access.item);
                if r.axes_of(access.item) == access.axes {
                    item
                } else {
                    format!("{item}{}", axes(graph, &access.axes))
                }
            }
            None => format!("?{i}"),
        };
        let body = expression(&op.expr, &operand, &|a| graph.axis_name(a).to_owned());
        let body = match &op.kind {
            StepKind::Map => body,
            StepKind::Reduce {
                combine,
                axes: over,
            } => {
                format!(
                    "{} over {} of {body}",
                    combine_name(*combine),
                    axes(graph, over)
                )
            }
        };
        let left = name(StepRef::Op(i));
        line(
            out,
            format_args!("  {left}{} = {body}", axes(graph, &op.axes)),
        );
    }
    let outputs: Vec<String> = r.outputs.iter().map(|o| name(*o)).collect();
    line(out, format_args!("  returns {}", outputs.join(", ")));
}
