//! The lane of a chunked recurrence: what the hooks of its template compute.
//!
//! The arithmetic of chunks is in [`crate::chunked`]; here the operations around a recurrence become
//! the elements of its operands and the epilogue of a row. An element of what comes before the
//! recurrence is computed from memory wherever it is needed; an epilogue is run for one token by one
//! warp, whose lanes share the value columns.

mod carried;
mod epilogue;
mod operands;
mod runs;
mod staging;
mod weighted;

use crate::CodegenError;
use crate::affine::sum_text as sum;
use crate::affine::{Grid, Offset, OffsetText, Space, index_text};
use crate::cexpr::{self, Leaves};
use crate::chunked::{self, Chunked};
use crate::lane::Lane;
use crate::manifest::{LaneGrid, RowUnits};
use crate::memory::{Place, Pointers};
use crate::micro::{Read, Src};
use crate::names::Names;
use crate::text::Text;
use fusec_fuse::chunked::staging::{Operand, Staged, at};
use fusec_fuse::chunked::tile::{Decays, Tile};
use fusec_fuse::chunked::warpgroup::Products;
use fusec_fuse::chunked::weighted::Weighted;
use fusec_fuse::chunked::{Classes, MOST_TOKENS, Parts, slabs};
use fusec_fuse::schedule::{Pass, Segments};
use fusec_fuse::{Body, Kernel, Schedule, Storage};
use fusec_ir::{Access, AxisId, Expr, Graph, IndexExpr, OpId, OpKind, StepRef, ValueId};
use runs::Runs;
use std::collections::BTreeMap;

/// What the lane is made for.
pub struct Request<'a, 'g> {
    /// The graph.
    pub graph: &'g Graph,
    /// The classes of its recurrences.
    pub classes: &'a Classes,
    /// Storage type of activations.
    pub storage: Storage,
    /// The kernel, for messages.
    pub kernel: &'a Kernel,
    /// The body.
    pub body: &'a Body,
    /// Threads of the kernel's blocks.
    pub threads: usize,
}

/// A lane of the chunked template.
pub fn lane<'g>(
    request: &Request<'_, 'g>,
    pointers: &mut Pointers<'g>,
    names: &mut Names,
) -> Result<Lane, CodegenError> {
    let Request {
        graph,
        classes,
        body,
        kernel,
        ..
    } = *request;
    let unsupported = |what: String| CodegenError::unsupported(kernel, what);
    let (Schedule::Chunked(chunk), [scan]) = (&body.schedule, body.anchors()) else {
        return Err(unsupported("a chunk of several recurrences".into()));
    };
    let scan = *scan;
    let tile = chunk.tile;
    let parts = Parts::of(graph, classes, scan)
        .map_err(|not| unsupported(format!("a chunked recurrence with {}", not.got)))?;
    let segments = chunk.segments;
    let parts = match segments {
        Some(of) if of.pass == Pass::States => parts.without_reads(),
        _ => parts,
    };
    let grid = Grid::new(graph, &chunk.grid);
    let mut first_index = BTreeMap::new();
    let mut decode = Text::default();
    let walked = segments.map_or(1, Segments::walked);
    let blocks = grid.blocks() * walked;
    if !body.tails.is_empty() && blocks > 1 {
        decode.line(format!("const i64 share = block % {blocks};"));
    }
    let makes = tile.weighted == Some(Weighted::Makes);
    // Innermost first: it is the fastest to vary from block to block.
    for g in chunk.grid.iter().rev() {
        let name = names.fresh(&format!("{}0", graph.axis_name(g.axis).to_lowercase()));
        let n = graph.size(g.axis) / g.tile;
        let times = match g.tile {
            1 => String::new(),
            tile => format!(" * {tile}"),
        };
        decode.line(format!("const int {name} = (int)(block % {n}){times};"));
        decode.line(format!("block /= {n};"));
        first_index.insert(g.axis, name);
    }
    if tile.weighted.is_some() {
        let chunk = tile.chunk;
        decode.line(format!("const i64 runs = (T + {}) / {chunk};", chunk - 1));
    }
    match segments {
        None if makes => {
            decode.line("const int run = (int)(block % runs);");
            decode.line("const i64 batch = block / runs;");
        }
        None => decode.line("const i64 batch = block;"),
        Some(Segments { count, .. }) => {
            decode.line(format!("const int segment = (int)(block % {walked});"));
            decode.line(format!("const i64 batch = block / {walked};"));
            let all = count as usize * MOST_TOKENS;
            decode.line(format!(
                "const i64 segment_rows = (T + {}) / {all} * {MOST_TOKENS};",
                all - 1
            ));
            for (name, from) in [
                ("t_begin", "segment * segment_rows"),
                ("t_end", "t_begin + segment_rows"),
            ] {
                decode.line(format!("const i64 {name} = {from} < T ? {from} : T;"));
            }
        }
    }
    let mut hooks = Hooks {
        graph,
        scan,
        parts: &parts,
        body,
        key: grid.space(&parts.layout.key),
        value: grid.space(&parts.layout.value),
        grid,
        first_index,
        after: body.roles.epilogue.clone(),
        chunk: tile.chunk / tile.updates,
        by_warpgroup: tile.products == Products::Warpgroup && tile.weighted.is_none(),
        turns: tile.turns(),
        updates: tile.updates,
        pointers,
        names,
        position: false,
        slabs: slabs(graph, &parts, request.storage, body),
        slab_names: Vec::new(),
        tokens: Vec::new(),
        runs: None,
    };
    hooks.name_slabs();
    let text = match tile.weighted {
        None => filled(&mut hooks, request, tile)?,
        Some(Weighted::Makes) => hooks.weighted_rows(request.threads, tile)?,
        Some(Weighted::Takes) => hooks.weighted_walk(request.threads, tile, segments)?,
    };
    let tails = hooks.tails(request.threads, blocks);
    let position = hooks.position;
    let mut code = decode.finish();
    code.push_str(&text);
    code.push_str(&tails);
    Ok(Lane {
        code,
        grid: LaneGrid {
            blocks: blocks as u64,
            rows: match makes {
                true => RowUnits::Runs(tile.chunk as u32),
                false => RowUnits::Batch,
            },
        },
        blocks: match (blocks, makes) {
            (n, true) => format!("B * ((T + {}) / {}) * {n}", tile.chunk - 1, tile.chunk),
            (1, false) => "B".into(),
            (n, false) => format!("B * {n}"),
        },
        shared_floats: tile.shared_bytes() / 4,
        position,
        by_warpgroups: None,
    })
}

/// The template, its hooks filled.
fn filled(
    hooks: &mut Hooks<'_, '_>,
    request: &Request<'_, '_>,
    tile: Tile,
) -> Result<String, CodegenError> {
    let keys = hooks.keys();
    let key_decay = match tile.decays {
        Decays::PerToken => None,
        Decays::Centred | Decays::PerKey => Some(hooks.key_decay()),
    };
    let value_factor = hooks.value_factor();
    let (values, value_runs) = match value_factor.is_empty() {
        true => hooks.values(),
        false => Default::default(),
    };
    let reads = hooks.parts.reads.iter().map(|read| chunked::Read {
        output: read.output,
        before: read.before,
        bonus: read
            .bonus
            .map(|bonus| hooks.bonus_product(bonus, read.query)),
    });
    let reads = reads.collect();
    let segments = request.body.schedule.segments();
    let (load_state, store_state, handed) = match segments {
        None => {
            let (load, store) = hooks.state()?;
            (load, store, None)
        }
        Some(segments) => {
            let (load, store, handed) = hooks.handed_state(segments)?;
            (load, store, Some(handed))
        }
    };
    let epilogue = hooks.epilogue();
    // Last, since it reads what the others keep of a token.
    let decay = key_decay.unwrap_or_else(|| hooks.token_decay());
    let tokens = hooks.token_values();
    let ahead = hooks.ahead(tile.chunk / tile.updates);
    let late = hooks.arrives_late();
    let arriving = [Operand::Query, Operand::Key].map(|operand| hooks.arrives(operand));
    let times = |tokens: &str| match tile.updates {
        1 => tokens.to_string(),
        n => format!("{tokens} * {n}"),
    };
    let chunked = Chunked {
        tile,
        block_threads: request.threads,
        of_decayed: hooks.parts.factor.is_some_and(|factor| factor.of_decayed),
        reads,
        read_at: hooks.parts.read_at,
        at_once: {
            let bits = hooks.parts.updates.iter().enumerate();
            bits.map(|(n, update)| u32::from(update.at_once) << n).sum()
        },
        begin: segments.map_or("0".into(), |_| times("t_begin")),
        steps: segments.map_or_else(|| times("T"), |_| times("t_end")),
        handed,
        setup: String::new(),
        tokens,
        ahead,
        late,
        query_arrives: arriving[0],
        key_arrives: arriving[1],
        keys,
        decay,
        values,
        value_runs,
        value_factor,
        load_state,
        store_state,
        epilogue,
    };
    Ok(chunked.render()?)
}

/// The writer of a lane's hooks.
struct Hooks<'a, 'g> {
    graph: &'g Graph,
    scan: OpId,
    parts: &'a Parts<'a>,
    body: &'a Body,
    grid: Grid<'g>,
    /// Key channels of the block: elements `kj`.
    key: Space,
    /// Value columns of the block: elements `vi`.
    value: Space,
    first_index: BTreeMap<AxisId, String>,
    /// Operations after the recurrence.
    after: Vec<OpId>,
    /// Tokens of a chunk, whole ones.
    chunk: usize,
    /// Whether products are those of warpgroups.
    by_warpgroup: bool,
    /// Copies of operands that arrive, then.
    turns: usize,
    /// Updates of a token.
    updates: usize,
    pointers: &'a mut Pointers<'g>,
    names: &'a mut Names,
    position: bool,
    /// Rows that are in shared memory by the time that hooks run, with their names.
    slabs: Vec<Staged>,
    slab_names: Vec<String>,
    /// Values of a token that are the same for all its elements.
    tokens: Vec<Access>,
    /// Where a thread has neighbouring value columns: what it loads of them together.
    runs: Option<Runs>,
}

/// A place in a hook: the element that is computed, and what is known there.
#[derive(Clone)]
struct Scope {
    space: Space,
    /// Its number, C text.
    element: String,
    grid_first: BTreeMap<AxisId, String>,
    /// Whether it is in the loops over a chunk.
    in_chunk: bool,
    /// Rows before `t`; `t` is known to be at least that.
    back: u32,
    known: Vec<(Access, u32, String)>,
}

impl<'g> Hooks<'_, 'g> {
    fn scope(&self, space: &Space, element: &str) -> Scope {
        Scope {
            space: space.clone(),
            element: element.to_string(),
            grid_first: self.first_index.clone(),
            in_chunk: true,
            back: 0,
            known: Vec::new(),
        }
    }

    /// A coefficient of the step at the element of a scope; its axes are read by themselves.
    fn coefficient(&mut self, item: StepRef, scope: &mut Scope, text: &mut Text) -> String {
        let by: Vec<IndexExpr> = self
            .parts
            .axes_of(item)
            .iter()
            .map(|a| IndexExpr::axis(*a))
            .collect();
        self.item(item, &by, scope, text)
    }

    /// An item of the step, its axes read at `by`.
    fn item(
        &mut self,
        item: StepRef,
        by: &[IndexExpr],
        scope: &mut Scope,
        text: &mut Text,
    ) -> String {
        let parts = self.parts;
        let place = at(parts.axes_of(item), by);
        match item {
            StepRef::Input(i) => match self.graph.op(self.scan).inputs.get(i) {
                Some(access) => {
                    let index = access.index.iter().map(|e| e.substitute(&place)).collect();
                    let access = Access {
                        index,
                        ..access.clone()
                    };
                    self.read(&access, scope, text)
                }
                None => String::new(),
            },
            StepRef::Op(i) => {
                let Some(op) = parts.found.coefficients.get(i) else {
                    return String::new();
                };
                let mut operands = Vec::new();
                for access in &op.inputs {
                    let by: Vec<IndexExpr> = access.axes.iter().map(|a| place(*a)).collect();
                    operands.push(self.item(access.item, &by, scope, text));
                }
                let expr = op.expr.substitute_axes(&place);
                self.expression(&expr, &operands, scope)
            }
            // The analysis gives no coefficient that depends on the state.
            StepRef::State(_) => String::new(),
        }
    }

    /// An element of a value: loaded, or computed from what can be loaded.
    fn read(&mut self, access: &Access, scope: &mut Scope, text: &mut Text) -> String {
        let graph = self.graph;
        let back = scope.back + access.delay.unsigned_abs();
        let known = scope
            .known
            .iter()
            .find(|(a, b, _)| *b == back && a.value == access.value && a.index == access.index);
        if let Some((_, _, name)) = known {
            return name.clone();
        }
        if let Some(name) = self.of_token(access, back, scope) {
            return name;
        }
        let name = self.names.fresh(&graph.value(access.value).name);
        match (self.producer(access.value), access.tail) {
            (Some(id), None) => {
                let value = self.computed(id, access, scope, text);
                text.line(format!("const float {name} = {value};"));
            }
            (Some(id), Some(tail)) if access.delay > 0 => {
                // Rows before the first one were kept; the others are computed again.
                text.line(format!("float {name};"));
                let old = self.old_row(tail, access, back, scope);
                text.open(format!("if (t < {back})"));
                text.line(format!("{name} = {old};"));
                text.close();
                text.open("else");
                let mut inner = Scope {
                    back,
                    ..scope.clone()
                };
                let now = Access {
                    delay: 0,
                    tail: None,
                    ..access.clone()
                };
                let value = self.computed(id, &now, &mut inner, text);
                text.line(format!("{name} = {value};"));
                text.close();
            }
            _ => {
                let run = match access.tail {
                    None => self.in_run(access, back, scope),
                    Some(_) => None,
                };
                let staged = match &run {
                    Some(_) => run,
                    None => self.staged(access, back, scope),
                };
                let now = match &staged {
                    Some(staged) => staged.clone(),
                    None => self.loaded(access, back, scope),
                };
                let value = match access.tail.filter(|_| staged.is_none()) {
                    Some(tail) if access.delay > 0 => {
                        let old = self.old_row(tail, access, back, scope);
                        format!("t < {back} ? {old} : {now}")
                    }
                    _ => now,
                };
                text.line(format!("const float {name} = {value};"));
            }
        }
        scope.known.push((access.clone(), back, name.clone()));
        name
    }

    /// The operation of the body, before the recurrence, that makes a value.
    fn producer(&self, value: ValueId) -> Option<OpId> {
        self.graph.producer(value).filter(|id| {
            *id != self.scan
                && self.body.ops.binary_search(id).is_ok()
                && self.after.binary_search(id).is_err()
        })
    }

    /// What a map makes of its operands, at the element that `access` reads.
    fn computed(
        &mut self,
        id: OpId,
        access: &Access,
        scope: &mut Scope,
        text: &mut Text,
    ) -> String {
        let graph = self.graph;
        let op = graph.op(id);
        let place = at(&graph.value(access.value).axes, &access.index);
        let OpKind::Map { expr } = &op.kind else {
            return String::new();
        };
        let mut operands = Vec::new();
        for inner in &op.inputs {
            let index = inner.index.iter().map(|e| e.substitute(&place)).collect();
            let inner = Access {
                index,
                ..inner.clone()
            };
            operands.push(self.read(&inner, scope, text));
        }
        let expr = expr.substitute_axes(&place);
        self.expression(&expr, &operands, scope)
    }

    fn expression(&mut self, expr: &Expr, operands: &[String], scope: &Scope) -> String {
        expr.walk(&mut |e| self.position |= matches!(e, Expr::Position));
        let position = match scope.back {
            0 => "position + t".to_string(),
            back => format!("position + t - {back}"),
        };
        cexpr::text(
            expr,
            &Leaves {
                input: &|i| operands.get(i).cloned().unwrap_or_default(),
                index: &|axis| self.variable(axis, scope),
                position: &position,
                varies: None,
            },
        )
    }

    /// The index along an axis, C text.
    fn variable(&self, axis: AxisId, scope: &Scope) -> String {
        let local = index_text(&scope.space, axis, &scope.element);
        match scope.grid_first.get(&axis) {
            Some(first) if local == "0" => first.clone(),
            Some(first) => format!("{first} + {local}"),
            None => local,
        }
    }

    /// The place of an element in a row, C text.
    fn in_row(&self, value: ValueId, index: &[IndexExpr], scope: &Scope) -> Vec<String> {
        let axes = &self.graph.value(value).axes;
        let offset: Offset = match scope.grid_first.is_empty() {
            true => Grid::new(self.graph, &[]).global(axes, index),
            false => self.grid.global(axes, index),
        };
        let mut places: Vec<String> = Vec::new();
        places.extend(offset.block_text(&|a| first(&scope.grid_first, a)));
        places.extend(offset.local_text(&scope.space, &scope.element));
        places
    }

    fn loaded(&mut self, access: &Access, back: u32, scope: &Scope) -> String {
        format!("to_f32({})", self.element_of(access, back, scope))
    }

    /// An element in memory, C text.
    fn element_of(&mut self, access: &Access, back: u32, scope: &Scope) -> String {
        let graph = self.graph;
        let value = graph.value(access.value);
        let pointer = self.pointers.read(Place::Value(access.value), self.names);
        let mut places = Vec::new();
        if value.rows {
            let row = match back {
                0 => "(batch * T + t)".to_string(),
                back => format!("(batch * T + t - {back})"),
            };
            places.push(match graph.row_elements(access.value) {
                1 => row,
                n => format!("{row} * {n}"),
            });
        }
        places.extend(self.in_row(access.value, &access.index, scope));
        format!("{pointer}[{}]", sum(places))
    }
}

fn statement_of(read: &Read) -> Option<usize> {
    match read.src {
        Src::Statement(s) => Some(s),
        _ => None,
    }
}

fn first(of: &BTreeMap<AxisId, String>, axis: AxisId) -> String {
    of.get(&axis).cloned().unwrap_or_else(|| "0".into())
}
