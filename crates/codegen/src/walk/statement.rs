//! Statements: maps, and where their results go.

use super::Emitter;
use super::operand::{row_alignment, strided};
use super::stage::Piece;
use crate::affine::index_text;
use crate::cexpr::{self, Leaves};
use crate::layout::{LayoutText, Place};
use crate::memory::{self, c_type};
use crate::micro::Src;
use crate::parts::Part;
use fusec_ir::{AxisId, Expr, IndexExpr};

impl<'g> Emitter<'_, 'g, '_> {
    pub(super) fn statement(&mut self, i: usize) {
        let s = &self.walk.program.statements[i];
        let placed = self.walk.layouts.placed[i].clone();
        // Shared operands must be complete before anyone reads them.
        let mut reads_shared = Vec::new();
        for read in &s.reads {
            if let Src::Statement(source) = read.src
                && !self.walk.layouts.in_registers(read, source, i)
            {
                if !self.crosses(source) {
                    reads_shared.push(source);
                }
                if self.fresh.contains(&source) {
                    self.barrier();
                }
            }
        }
        let waits = |read: &crate::micro::Read| match read.src {
            Src::Statement(source) => self.parts.iter().any(|part| part.statement == source),
            _ => false,
        };
        if s.reads.iter().any(waits) {
            self.flush();
        }
        let uniform_reduction =
            placed.reduction.is_some() && self.layout(placed.layout).space.len() == 1;
        if uniform_reduction {
            self.flush();
        }
        self.stage(placed.layout);
        // What was open before may have ended in an exchange, and with it a barrier.
        for source in reads_shared {
            let name = self.shared_copy(source);
            self.turn.reads(name);
        }
        if self.prefetched(i) || self.brought(i) {
            self.take_prefetched(i);
            return;
        }
        if let (Expr::Input(0), [read], Place::Registers) =
            (&s.expr, s.reads.as_slice(), placed.place)
            && matches!(
                read.src,
                Src::Row(_) | Src::Apart { .. } | Src::Fixed(_) | Src::Table { .. }
            )
        {
            let name = self.ident[i].clone();
            let line = self.direct_load(placed.layout, &name, read, "row");
            let declaration = self.declaration(placed.layout, &self.ident[i]);
            let stage = self.stage(placed.layout);
            stage.declarations.push(declaration);
            stage.loads.push(line);
            self.publish(i);
            return;
        }
        let operands: Vec<String> = s
            .reads
            .iter()
            .map(|read| self.operand(i, placed.layout, read))
            .collect();
        let layout = self.layout(placed.layout).clone();
        let (space, vector) = (layout.space.clone(), layout.vector);
        let element = match vector {
            1 => "elem".to_string(),
            _ if layout.turns().is_some() => format!("(elem + {})", layout.step_text()),
            _ => "elem + nth".to_string(),
        };
        let index = |axis: AxisId| {
            let local = index_text(&space, axis, &element);
            match self.walk.first_index.get(&axis) {
                Some(first) if local == "0" => first.clone(),
                Some(first) => format!("{first} + {local}"),
                None => local,
            }
        };
        let varies = |n: usize| operands.get(n).is_none_or(|x| x.contains("nth"));
        let is_of_step =
            !self.walk.program.states.is_empty() && self.walk.layouts.parts.of[i] == Part::Step;
        let value = cexpr::text(
            &s.expr,
            &Leaves {
                input: &|n| operands.get(n).cloned().unwrap_or_default(),
                index: &index,
                position: "position + t",
                varies: is_of_step.then_some(&varies),
            },
        );
        match (&s.reduce, placed.reduction) {
            (Some((combine, _)), Some(reduction)) => {
                self.reduce(i, *combine, reduction, value, &space);
            }
            _ => self.map(i, value),
        }
    }

    pub(super) fn map(&mut self, i: usize, value: String) {
        let placed = self.walk.layouts.placed[i].clone();
        let name = self.ident[i].clone();
        let register = self.register(placed.layout, &name);
        let declaration = self.declaration(placed.layout, &name);
        let stage = self.stage(placed.layout);
        if placed.place == Place::Uniform {
            stage
                .body
                .push(Piece::Element(format!("const float {name} = {value};")));
        } else {
            stage.declarations.push(declaration);
            stage
                .body
                .push(Piece::Element(format!("{register} = {value};")));
        }
        self.publish(i);
    }

    /// Copies a map's result to shared memory and to memory, where it is wanted.
    pub(super) fn publish(&mut self, i: usize) {
        let placed = self.walk.layouts.placed[i].clone();
        let name = self.ident[i].clone();
        let register = self.register(placed.layout, &name);
        let vector = self.layout(placed.layout).vector;
        if placed.shared {
            let shared = self.shared_copy(i);
            let line = if placed.place == Place::Uniform {
                let thread = self.layout(placed.layout).thread();
                Piece::Vector(format!("if ({thread} == 0) {shared}[0] = {name};"))
            } else if vector > 1 {
                let at = self.layout(placed.layout).step_text();
                Piece::Element(format!("{shared}[elem + {at}] = {register};"))
            } else {
                Piece::Element(format!("{shared}[elem] = {register};"))
            };
            self.stage(placed.layout).body.push(line);
            self.publishes(i);
        }
        self.store_registers(i);
    }

    /// Notes that a result's shared copy is written here.
    pub(super) fn publishes(&mut self, i: usize) {
        let name = self.shared_copy(i);
        self.turn.writes(&name);
        self.fresh.insert(i);
    }

    /// Writes a result that lives in registers to memory, where it is wanted.
    pub(super) fn store_registers(&mut self, i: usize) {
        let walk = self.walk;
        for (value, statement) in &walk.program.value {
            if *statement != i {
                continue;
            }
            if walk.stores.contains(value) {
                let place = memory::Place::Value(*value);
                let pointer = self.pointers.write(place, self.names);
                let element = c_type(self.pointers.element(place));
                let axes = walk.grid.graph().value(*value).axes.clone();
                let row = self.row_part(*value, "row");
                let condition = self.write_condition(&axes, self.live());
                let store = if (walk.streams)(*value) {
                    "store_vec_stream"
                } else {
                    "store_vec"
                };
                self.write(i, &axes, &pointer, row, (store, element), condition);
            }
            if let Some((sink, target)) = &walk.sink
                && sink == value
            {
                let axes = walk.grid.graph().value(*value).axes.clone();
                // Rows of the halo are overwritten by the live row, which comes last.
                self.write(i, &axes, target, None, ("store_vec", "float"), None);
            }
        }
    }

    /// Whether a result is a state before its step, as large as all that a block holds.
    fn hands_out_a_state(&self, i: usize) -> bool {
        let statements = &self.walk.program.statements;
        let mut at = i;
        loop {
            let s = &statements[at];
            match (&s.expr, s.reads.as_slice()) {
                (Expr::Input(0), [read]) if s.reduce.is_none() => match read.src {
                    Src::State(_) => return true,
                    Src::Statement(source) => at = source,
                    _ => return false,
                },
                _ => return false,
            }
        }
    }

    /// Adds the writes of one statement's registers to the current stage.
    pub(super) fn write(
        &mut self,
        i: usize,
        axes: &[AxisId],
        pointer: &str,
        row: Option<String>,
        (store, element): (&str, &str),
        condition: Option<String>,
    ) {
        let placed = self.walk.layouts.placed[i].clone();
        let layout = self.layout(placed.layout).clone();
        let index: Vec<IndexExpr> = axes.iter().map(|a| IndexExpr::axis(*a)).collect();
        let offset = self.walk.grid.global(axes, &index);
        let address = self.address(pointer, row.clone(), &offset, &layout.space);
        let name = self.ident[i].clone();
        let guard = |extra: Option<String>, body: String| {
            let mut parts: Vec<String> = condition.clone().into_iter().collect();
            parts.extend(extra);
            if parts.is_empty() {
                body
            } else {
                format!("if ({}) {body}", parts.join(" && "))
            }
        };
        let (step, v) = (offset.step(&layout.space), layout.vector);
        let line = match placed.place {
            Place::Uniform => Piece::Vector(guard(
                Some(format!("{} == 0", layout.thread())),
                format!("*({address}) = from_f32<{element}>({name});"),
            )),
            _ if v > 1
                && step == 1
                && layout.turns().is_none()
                && offset.aligned(self.walk.grid, &layout.space, v as i64)
                && row_alignment(row.as_deref(), v) =>
            {
                let registers = self.vector(placed.layout, &name);
                Piece::Vector(guard(
                    None,
                    format!("{store}<{element}, {v}>({address}, {registers});"),
                ))
            }
            _ if self.hands_out_a_state(i)
                && self.moves_whole(&layout, row.as_deref(), &offset)
                && layout.turns().is_some() =>
            {
                let (registers, chunk) = (self.vector(placed.layout, &name), layout.chunk);
                let apart = layout.turns().unwrap_or(1) * chunk;
                Piece::Vector(guard(
                    None,
                    format!(
                        "store_chunks<{element}, {v}, {chunk}>({address}, {apart}, {registers});"
                    ),
                ))
            }
            _ if v > 1 => {
                let register = self.register(placed.layout, &name);
                let at = strided(&layout, step);
                Piece::Element(guard(
                    None,
                    format!("({address})[{at}] = from_f32<{element}>({register});"),
                ))
            }
            _ => {
                let register = self.register(placed.layout, &name);
                Piece::Vector(guard(
                    None,
                    format!("*({address}) = from_f32<{element}>({register});"),
                ))
            }
        };
        self.stage(placed.layout).body.push(line);
    }
}
