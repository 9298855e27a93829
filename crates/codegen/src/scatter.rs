//! The lane that places elements: for each element of a row, which elements of the operand land there.
//!
//! A place is affine in the index variables of what is placed. The variables are found from the place one
//! after the other, by divisions where the places tell them apart; a loop goes over those that they do not.

use crate::CodegenError;
use crate::affine::{Grid, Space, index_text, sum_text};
use crate::lane::Lane;
use crate::manifest::{LaneGrid, RowUnits};
use crate::memory::{Place, Pointers, c_type};
use crate::names::Names;
use crate::render::render;
use crate::text::Text;
use fusec_fuse::schedule::scatter::{SHARE, THREADS};
use fusec_fuse::{Body, Kernel, Schedule};
use fusec_ir::{AxisId, Graph, IndexExpr, OpKind};
use std::collections::BTreeMap;
use tera::Context;

/// The code of a body that places elements.
pub fn lane<'g>(
    graph: &'g Graph,
    kernel: &Kernel,
    body: &Body,
    pointers: &mut Pointers<'g>,
    names: &mut Names,
) -> Result<Lane, CodegenError> {
    let unsupported = |what: &str| CodegenError::unsupported(kernel, what);
    let ([id], Schedule::Scatter(tile)) = (&body.ops[..], &body.schedule) else {
        return Err(unsupported("placed elements beside other operations"));
    };
    let op = graph.op(*id);
    let (OpKind::Scatter { axes, index }, [given], [result]) =
        (&op.kind, &op.inputs[..], &op.outputs[..])
    else {
        return Err(unsupported("the scatter template for another operation"));
    };
    let from = pointers.read(Place::Value(given.value), names);
    let to = pointers.write(Place::Value(*result), names);
    let element = c_type(pointers.element(Place::Value(*result)));
    let own = &graph.value(*result).axes;
    let grid = Grid::new(graph, &[]);
    let mut inverse = Inverse {
        graph,
        own,
        space: grid.space(own),
        index,
        known: BTreeMap::new(),
        names,
        text: Text::default(),
        depth: 0,
    };
    inverse.find(axes);
    let known = inverse.known;
    let (depth, mut text) = (inverse.depth, inverse.text);
    let at = place_text(graph, given.value, &given.index, &known);
    let width = graph.row_elements(given.value);
    text.line(format!("sum += to_f32({from}[row * {width} + {at}]);"));
    for _ in 0..depth {
        text.close();
    }
    let elements = graph.row_elements(*result);
    let mut context = Context::new();
    context.insert("rows", &tile.rows);
    context.insert("parts", &tile.parts);
    context.insert("threads", &THREADS);
    context.insert("share", &SHARE.min(elements));
    context.insert("elements", &elements);
    context.insert("to", &to);
    context.insert("element", element);
    context.insert("find", &text.finish());
    let tiles = match tile.rows {
        1 => "B * T".to_string(),
        rows => format!("((B * T + {}) / {rows})", rows - 1),
    };
    Ok(Lane {
        code: render("scatter.cu", &context)?,
        grid: LaneGrid {
            blocks: u64::from(tile.parts),
            rows: RowUnits::Tiles(tile.rows),
        },
        blocks: match tile.parts {
            1 => tiles,
            parts => format!("{tiles} * {parts}"),
        },
        shared_floats: 0,
        position: false,
        by_warpgroups: None,
    })
}

/// The search for the index variables that lead to an element.
struct Inverse<'a, 'g> {
    graph: &'g Graph,
    /// Axes of the result, and all its elements.
    own: &'a [AxisId],
    space: Space,
    /// For each of them, where an element is placed.
    index: &'a [IndexExpr],
    /// Variables that are known, by their names.
    known: BTreeMap<AxisId, String>,
    names: &'a mut Names,
    text: Text,
    /// Blocks that are open.
    depth: usize,
}

impl Inverse<'_, '_> {
    /// Writes what finds all of `axes`, and what an element has to fulfil to be placed here.
    fn find(&mut self, axes: &[AxisId]) {
        let mut open: Vec<usize> = (0..self.own.len()).collect();
        loop {
            // A place that tells its variables apart comes before any loop.
            let told = open.iter().position(|at| self.told(*at).is_some());
            if let Some(n) = told {
                let at = open.remove(n);
                let order = self.told(at).unwrap_or_default();
                self.divide(at, &order);
                continue;
            }
            let Some(axis) = axes.iter().find(|a| !self.known.contains_key(a)) else {
                break;
            };
            let name = self.name(*axis);
            let size = self.graph.size(*axis);
            self.open(format!("for (int {name} = 0; {name} < {size}; ++{name})"));
            self.known.insert(*axis, name);
        }
    }

    /// The unknown variables of a place with their coefficients, largest first, if no two choices of them
    /// lead to one place.
    fn told(&self, at: usize) -> Option<Vec<(AxisId, i64)>> {
        let terms = self.index[at].terms.iter();
        let mut unknown: Vec<(AxisId, i64)> = terms
            .filter(|(axis, c)| *c != 0 && !self.known.contains_key(axis))
            .copied()
            .collect();
        if unknown.len() > 1 && unknown.iter().any(|(_, c)| *c < 0) {
            return None;
        }
        unknown.sort_by_key(|(_, c)| std::cmp::Reverse(c.abs()));
        let reach = |(axis, c): &(AxisId, i64)| (self.graph.size(*axis) as i64 - 1) * c.abs();
        let apart = (0..unknown.len()).all(|i| {
            let below: i64 = unknown[i + 1..].iter().map(reach).sum();
            below < unknown[i].1.abs()
        });
        apart.then_some(unknown)
    }

    /// Writes the variables of a place that is made of them, and the conditions under which there are any.
    fn divide(&mut self, at: usize, unknown: &[(AxisId, i64)]) {
        let mut rest = index_text(&self.space, self.own[at], "elem");
        if self.index[at].base != 0 {
            rest = difference(&rest, self.index[at].base, "1");
        }
        for (axis, c) in &self.index[at].terms {
            if let Some(name) = self.known.get(axis)
                && *c != 0
            {
                rest = difference(&rest, *c, name);
            }
        }
        if unknown.is_empty() {
            self.open(format!("if ({rest} == 0)"));
            return;
        }
        for (axis, c) in unknown {
            let name = self.name(*axis);
            let size = self.graph.size(*axis);
            let last = *axis == unknown[unknown.len() - 1].0;
            match (c, last) {
                (1, true) => self.text.line(format!("const int {name} = {rest};")),
                (c, _) => {
                    let left = self.names.fresh("left");
                    self.text.line(format!("const int {left} = {rest};"));
                    self.text.line(format!("const int {name} = {left} / {c};"));
                    rest = format!("{left} % {}", c.abs());
                    if last {
                        self.open(format!("if ({rest} == 0)"));
                    } else {
                        // Division goes towards zero: what is below the first place is no place.
                        self.open(format!("if ({left} >= 0)"));
                    }
                }
            }
            let whole =
                self.index[at] == IndexExpr::axis(*axis) && self.graph.size(self.own[at]) <= size;
            if !whole {
                self.open(format!("if ({name} >= 0 && {name} < {size})"));
            }
            self.known.insert(*axis, name);
        }
    }

    fn name(&mut self, axis: AxisId) -> String {
        let name = self.graph.axis_name(axis).to_lowercase();
        self.names.fresh(&name)
    }

    fn open(&mut self, line: String) {
        self.text.open(line);
        self.depth += 1;
    }
}

/// `rest - coefficient * name`.
fn difference(rest: &str, coefficient: i64, name: &str) -> String {
    let (sign, size) = match coefficient < 0 {
        true => ('+', coefficient.unsigned_abs()),
        false => ('-', coefficient.unsigned_abs()),
    };
    match (size, name) {
        (size, "1") => format!("{rest} {sign} {size}"),
        (1, name) => format!("{rest} {sign} {name}"),
        (size, name) => format!("{rest} {sign} {name} * {size}"),
    }
}

/// The offset of an element of a row, by the names of the index variables.
fn place_text(
    graph: &Graph,
    value: fusec_ir::ValueId,
    index: &[IndexExpr],
    known: &BTreeMap<AxisId, String>,
) -> String {
    let offset = Grid::new(graph, &[]).global(&graph.value(value).axes, index);
    let factors = offset.local.into_iter();
    let mut order: Vec<(AxisId, i64)> = factors.filter(|(_, c)| *c != 0).collect();
    order.sort_by_key(|(axis, c)| (std::cmp::Reverse(*c), *axis));
    let mut parts: Vec<String> = Vec::new();
    for (axis, c) in order {
        let name = known.get(&axis).map_or("0", String::as_str);
        parts.push(match c {
            1 => name.to_string(),
            c => format!("{name} * {c}"),
        });
    }
    if offset.base != 0 {
        parts.push(offset.base.to_string());
    }
    sum_text(parts)
}
