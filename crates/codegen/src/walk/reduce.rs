//! Reductions: inside a thread, a group of lanes, the block, or through shared memory.

use super::Emitter;
use super::stage::Piece;
use crate::affine::{Offset, OffsetText, Space};
use crate::layout::{LayoutText, Place, Reduction, neutral};
use crate::memory::{self, c_type};
use fusec_ir::{AxisId, Combine, IndexExpr};
use std::collections::BTreeMap;

/// A sum (or maximum) over the block, as far as one thread has it.
pub(super) struct BlockPart {
    pub(super) statement: usize,
    combine: Combine,
    part: String,
}

impl<'g> Emitter<'_, 'g, '_> {
    pub(super) fn reduce(
        &mut self,
        i: usize,
        combine: Combine,
        reduction: Reduction,
        value: String,
        space: &Space,
    ) {
        let placed = self.walk.layouts.placed[i].clone();
        let layout = self.layout(placed.layout).clone();
        let name = self.ident[i].clone();
        let accumulate = |target: &str| match combine {
            Combine::Sum => format!("{target} += {value};"),
            Combine::Max => format!("{target} = fmax32({target}, {value});"),
        };
        match reduction {
            Reduction::Block if layout.space.len() == 1 => {
                // One element: the reduction is the element itself.
                self.stage(placed.layout)
                    .body
                    .push(Piece::Element(format!("const float {name} = {value};")));
                self.flush();
                self.store_uniform(i);
            }
            Reduction::Block => {
                let part = self.names.fresh(&format!("{name}_part"));
                let stage = self.stage(placed.layout);
                stage
                    .declarations
                    .push(format!("float {part} = {};", neutral(combine)));
                stage.body.push(Piece::Element(accumulate(&part)));
                self.parts.push(BlockPart {
                    statement: i,
                    combine,
                    part,
                });
                if !self.walk.repeats {
                    self.flush();
                }
            }
            Reduction::Lanes(lanes) => {
                let register = self.slice_register(placed.layout, &name);
                let primitive = match combine {
                    Combine::Sum => "lane_sum",
                    Combine::Max => "lane_max",
                };
                let declaration = if layout.strips > 1 {
                    format!("float {name}[{}];", layout.strips)
                } else {
                    format!("float {name} = {};", neutral(combine))
                };
                let extent = lanes * layout.vector;
                let first = format!("elem % {extent} == 0");
                let in_range = (!layout.exact).then(|| format!("elem < {}", space.len()));
                let shared = placed.shared.then(|| self.shared_copy(i));
                let writes = self.slice_writes(i, &layout.space);
                let stage = self.stage(placed.layout);
                stage.declarations.push(declaration);
                if layout.strips > 1 {
                    // The neutral element also for strips without elements: every lane takes
                    // part in the shuffle.
                    stage.declarations.push(format!(
                        "#pragma unroll\nfor (int strip = 0; strip < {}; ++strip) {name}[strip] = {};",
                        layout.strips,
                        neutral(combine)
                    ));
                }
                stage.body.push(Piece::Element(accumulate(&register)));
                if lanes > 1 {
                    stage
                        .after
                        .push(format!("{register} = {primitive}<{lanes}>({register});"));
                }
                let mut conditions = vec![first];
                conditions.extend(in_range);
                let condition = conditions.join(" && ");
                if let Some(shared) = shared {
                    let index = if extent == 1 {
                        "elem".into()
                    } else {
                        format!("elem / {extent}")
                    };
                    stage
                        .after
                        .push(format!("if ({condition}) {shared}[{index}] = {register};"));
                    self.publishes(i);
                }
                for (guard, line) in writes {
                    let mut parts = vec![condition.clone()];
                    parts.extend(guard);
                    self.stage(placed.layout)
                        .after
                        .push(format!("if ({}) {line}", parts.join(" && ")));
                }
                self.flush();
            }
            Reduction::Shared => self.reduce_shared(i, combine, value),
        }
    }

    /// The exchange among all threads of the block that completes the sums of a stage.
    pub(super) fn exchange(&mut self) {
        let parts = std::mem::take(&mut self.parts);
        let threads = self.walk.layouts.threads;
        for combine in [Combine::Sum, Combine::Max] {
            let alike: Vec<&BlockPart> = parts.iter().filter(|p| p.combine == combine).collect();
            let name = |part: &BlockPart| self.ident[part.statement].clone();
            match alike.as_slice() {
                [] => {}
                [part] => {
                    let name = name(part);
                    // Where another exchange follows before the scratch is used again, its barrier
                    // is enough.
                    let primitive = match (combine, self.exchanges > 1 || self.walk.repeats) {
                        (Combine::Sum, false) => "block_sum",
                        (Combine::Max, false) => "block_max",
                        (Combine::Sum, true) => "block_sum_once",
                        (Combine::Max, true) => "block_max_once",
                    };
                    let scratch = self.scratch(1);
                    self.text.line(format!(
                        "const float {name} = {primitive}<{threads}>({}, {scratch});",
                        part.part
                    ));
                    self.exchanged(scratch, self.exchanges > 1);
                    self.store_uniform(part.statement);
                }
                alike => {
                    let names: Vec<String> = alike.iter().map(|part| name(part)).collect();
                    let primitive = match combine {
                        Combine::Sum => "block_sum_vec_once",
                        Combine::Max => "block_max_vec_once",
                    };
                    let scratch = self.scratch(alike.len());
                    let all = self.names.fresh("parts");
                    let values: Vec<&str> = alike.iter().map(|part| part.part.as_str()).collect();
                    let n = alike.len();
                    let values = values.join(", ");
                    self.text.line(format!("float {all}[{n}] = {{{values}}};"));
                    self.text
                        .line(format!("{primitive}<{threads}, {n}>({all}, {scratch});"));
                    self.exchanged(scratch, true);
                    for (j, name) in names.iter().enumerate() {
                        self.text.line(format!("const float {name} = {all}[{j}];"));
                    }
                    for part in alike {
                        self.store_uniform(part.statement);
                    }
                }
            }
        }
    }

    /// Behind an exchange, which is a barrier; `once` if its scratch is still read then. Rows that take
    /// turns with their scratch have no other row's.
    fn exchanged(&mut self, scratch: String, once: bool) {
        // A single warp exchanges by shuffles.
        if self.walk.layouts.threads <= 32 {
            return;
        }
        if !self.walk.repeats {
            self.turn.writes(&scratch);
        }
        self.turn.barrier();
        if once && !self.walk.repeats {
            self.turn.reads(scratch);
        }
    }

    /// Each term to shared memory, then one thread per result, or some lanes of a warp.
    pub(super) fn reduce_shared(&mut self, i: usize, combine: Combine, value: String) {
        let placed = self.walk.layouts.placed[i].clone();
        let layout = self.layout(placed.layout).clone();
        let terms = self.names.fresh(&format!("{}_terms", self.ident[i]));
        self.declare_shared(&terms, layout.space.len());
        let element = match layout.vector {
            1 => "elem".to_string(),
            _ => format!("elem + {}", layout.step_text()),
        };
        self.stage(placed.layout)
            .body
            .push(Piece::Element(format!("{terms}[{element}] = {value};")));
        self.turn.writes(&terms);
        self.barrier();
        let results = placed.shared_space.clone();
        let shared = self.shared_copy(i);
        let threads = self.walk.layouts.threads;
        // Offset of result o's first term, and the loops over the reduced axes.
        let mut strides = BTreeMap::new();
        let mut stride = 1i64;
        for (axis, extent) in layout.space.axes.iter().zip(&layout.space.extents).rev() {
            strides.insert(*axis, stride);
            stride *= *extent as i64;
        }
        let kept = Offset {
            base: 0,
            local: results.axes.iter().map(|a| (*a, strides[a])).collect(),
            block: BTreeMap::new(),
        };
        let reduced: Vec<AxisId> = layout
            .space
            .axes
            .iter()
            .copied()
            .filter(|a| !results.axes.contains(a))
            .collect();
        let inner = self.walk.grid.space(&reduced);
        let over = Offset {
            base: 0,
            local: reduced.iter().map(|a| (*a, strides[a])).collect(),
            block: BTreeMap::new(),
        };
        let base = kept
            .local_text(&results, "result")
            .unwrap_or_else(|| "0".into());
        let term = over
            .local_text(&inner, "term")
            .unwrap_or_else(|| "0".into());
        // Results that are fewer than threads have several each, neighbours of one warp.
        let lanes = match combine {
            Combine::Sum => lanes_of_result(results.len(), inner.len(), threads),
            Combine::Max => 1,
        };
        let accumulate = match combine {
            Combine::Sum => format!("total += {terms}[{base} + {term}];"),
            Combine::Max => format!("total = fmax32(total, {terms}[{base} + {term}]);"),
        };
        let (count, length) = (results.len(), inner.len());
        let start = format!("float total = {};", neutral(combine));
        if lanes == 1 {
            self.text.open(format!(
                "for (int result = tid; result < {count}; result += {threads})"
            ));
            self.text.line(start);
            self.text.line(format!(
                "for (int term = 0; term < {length}; ++term) {accumulate}"
            ));
        } else {
            let all = count * lanes == threads;
            self.text.open("");
            self.text.line(format!("const int result = tid / {lanes};"));
            self.text.line(start);
            let guard = if all {
                String::new()
            } else {
                format!("if (result < {count}) ")
            };
            self.text.line(format!(
                "{guard}for (int term = tid % {lanes}; term < {length}; term += {lanes}) {accumulate}"
            ));
            self.text.line(format!("total = lane_sum<{lanes}>(total);"));
            let among = if all {
                String::new()
            } else {
                format!("result < {count} && ")
            };
            self.text.open(format!("if ({among}tid % {lanes} == 0)"));
        }
        self.text.line(format!("{shared}[result] = total;"));
        for (value, statement) in &self.walk.program.value {
            if *statement == i && self.walk.stores.contains(value) {
                let place = memory::Place::Value(*value);
                let pointer = self.pointers.write(place, self.names);
                let element = c_type(self.pointers.element(place));
                let axes = self.walk.grid.graph().value(*value).axes.clone();
                let index: Vec<IndexExpr> = axes.iter().map(|a| IndexExpr::axis(*a)).collect();
                let offset = self.walk.grid.global(&axes, &index);
                let mut parts = vec![pointer];
                parts.extend(self.row_part(*value, "row"));
                parts.extend(offset.block_text(&|a| self.first_index(a)));
                parts.extend(offset.local_text(&results, "result"));
                let guard = self
                    .write_condition(&axes, self.live())
                    .map(|c| format!("if ({c}) "))
                    .unwrap_or_default();
                self.text.line(format!(
                    "{guard}*({}) = from_f32<{element}>(total);",
                    parts.join(" + ")
                ));
            }
        }
        if lanes > 1 {
            self.text.close();
        }
        self.text.close();
        self.publishes(i);
        self.turn.reads(terms);
    }

    /// Shared memory for an exchange of so many numbers among all threads. Rows that follow each
    /// other take turns: nobody writes what another still reads, with one barrier to an exchange.
    /// Elsewhere it is the same for all where an exchange leaves it free again, else one for each.
    fn scratch(&mut self, numbers: usize) -> String {
        let floats = numbers * self.walk.layouts.threads.div_ceil(32);
        if self.walk.repeats {
            let name = self.names.fresh("reduce_scratch");
            self.declare_shared(&name, 2 * floats);
            return format!("{name} + (t & 1) * {floats}");
        }
        if self.exchanges == 1
            && let Some(name) = &self.scratch
        {
            return name.clone();
        }
        let name = self.names.fresh("reduce_scratch");
        self.declare_shared(&name, floats);
        self.scratch = Some(name.clone());
        name
    }

    /// After a reduction over the whole block.
    pub(super) fn store_uniform(&mut self, i: usize) {
        if self.walk.layouts.placed[i].shared {
            let shared = self.shared_copy(i);
            let name = self.ident[i].clone();
            self.text
                .line(format!("if (tid == 0) {shared}[0] = {name};"));
            self.publishes(i);
        }
        for (guard, line) in self.slice_writes(
            i,
            &Space {
                axes: vec![],
                extents: vec![],
            },
        ) {
            let mut parts = vec!["tid == 0".to_string()];
            parts.extend(guard);
            self.text
                .line(format!("if ({}) {line}", parts.join(" && ")));
        }
    }

    /// Stores (and the sink) of a reduction's result: `(condition, statement)`, for the lane that
    /// holds it.
    pub(super) fn slice_writes(
        &mut self,
        i: usize,
        space: &Space,
    ) -> Vec<(Option<String>, String)> {
        let mut out = Vec::new();
        let placed = self.walk.layouts.placed[i].clone();
        let register = match placed.place {
            Place::Uniform => self.ident[i].clone(),
            _ => self.slice_register(placed.layout, &self.ident[i]),
        };
        for (value, statement) in &self.walk.program.value {
            if *statement != i {
                continue;
            }
            let axes = self.walk.grid.graph().value(*value).axes.clone();
            let index: Vec<IndexExpr> = axes.iter().map(|a| IndexExpr::axis(*a)).collect();
            let offset = self.walk.grid.global(&axes, &index);
            if self.walk.stores.contains(value) {
                let place = memory::Place::Value(*value);
                let pointer = self.pointers.write(place, self.names);
                let element = c_type(self.pointers.element(place));
                let row = self.row_part(*value, "row");
                let address = self.address(&pointer, row, &offset, space);
                out.push((
                    self.write_condition(&axes, self.live()),
                    format!("*({address}) = from_f32<{element}>({register});"),
                ));
            }
            if let Some((sink, target)) = &self.walk.sink
                && sink == value
            {
                let address = self.address(target, None, &offset, space);
                out.push((None, format!("*({address}) = {register};")));
            }
        }
        out
    }
}

/// Lanes of a warp that add up the terms of one result together: as many as there are threads for, and no
/// more than terms.
fn lanes_of_result(results: usize, terms: usize, threads: usize) -> usize {
    let most = (threads / results.max(1)).min(terms).clamp(1, 32);
    1 << most.ilog2()
}
