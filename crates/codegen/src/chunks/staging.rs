//! Rows that arrive in shared memory ahead of time, and values of a token that are computed once.

use super::{Hooks, Scope, first, sum};
use crate::affine::OffsetText;
use crate::memory::{Place, c_type};
use crate::names::last;
use crate::text::Text;
use fusec_fuse::chunked::TOKEN_VALUES;
use fusec_fuse::chunked::staging::{Operand, Staged};
use fusec_ir::{Access, StateId};

/// Threads that copy rows beside products of warpgroups.
const COPIERS: usize = 64;

impl Hooks<'_, '_> {
    /// Names the slabs.
    pub(super) fn name_slabs(&mut self) {
        for slab in &self.slabs {
            let value = last(&self.graph.value(slab.value).name);
            let name = self.names.fresh(&format!("{value}_arrived"));
            self.slab_names.push(name);
        }
    }

    /// An element that is in shared memory by now, C text.
    pub(super) fn staged(&self, access: &Access, back: u32, scope: &Scope) -> Option<String> {
        let (element, _) = self.staged_element(access, back, scope)?;
        Some(format!("to_f32({element})"))
    }

    /// The same where it begins a run of neighbouring columns.
    pub(super) fn staged_run(
        &self,
        access: &Access,
        back: u32,
        scope: &Scope,
        run: usize,
    ) -> Option<String> {
        let (element, slab) = self.staged_element(access, back, scope)?;
        let aligned = slab.aligned && slab.piece == 16 && slab.row_stride().is_multiple_of(run);
        aligned.then_some(element)
    }

    /// Whether rows of a value are in shared memory.
    pub(super) fn is_staged(&self, access: &Access) -> bool {
        self.slabs.iter().any(|slab| slab.value == access.value)
    }

    fn staged_element(
        &self,
        access: &Access,
        back: u32,
        scope: &Scope,
    ) -> Option<(String, &Staged)> {
        if !scope.in_chunk {
            return None;
        }
        let axes = &self.graph.value(access.value).axes;
        let offset = self.grid.global(axes, &access.index);
        let same = |slab: &Staged| {
            slab.value == access.value && slab.base == offset.base && slab.block == offset.block
        };
        let n = self.slabs.iter().position(same)?;
        let (slab, name) = (&self.slabs[n], &self.slab_names[n]);
        let reach = offset.local.iter().map(|(axis, coefficient)| {
            let extent = self.grid.extent(*axis) as i64;
            coefficient * (extent - 1)
        });
        if reach.sum::<i64>() >= slab.elements as i64 || back > slab.halo {
            return None;
        }
        if slab.operand == Some(Operand::Value) {
            let column = offset.local_text(&scope.space, &scope.element);
            let column = column.unwrap_or_else(|| "0".to_string());
            return Some((format!("{name}[turn * STEP + place(at, {column})]"), slab));
        }
        let at = match self.updates {
            1 => "at".to_string(),
            n => format!("at / {n}"),
        };
        let row = match slab.halo - back {
            0 => at,
            ahead => format!("({at} + {ahead})"),
        };
        let mut places = vec![in_rows(&row, slab.row_stride())];
        if slab.turns() > 1 {
            places.insert(0, format!("turn * {}", turn_elements(slab, self.chunk)));
        }
        if !slab.aligned {
            places.push(format!("{name}_lead"));
        }
        places.extend(offset.local_text(&scope.space, &scope.element));
        Some((format!("{name}[{}]", sum(places)), slab))
    }

    /// A value of the token that is the same for all elements of a hook, if there is room for
    /// it: computed once, and found here.
    pub(super) fn of_token(&mut self, access: &Access, back: u32, scope: &Scope) -> Option<String> {
        let graph = self.graph;
        let value = graph.value(access.value);
        let mut variables = access.index.iter().flat_map(|i| &i.terms);
        let one = variables.all(|(axis, _)| self.grid.extent(*axis) == 1);
        let computed = self.producer(access.value).is_some();
        if !scope.in_chunk || back > 0 || !value.rows || !one || !computed {
            return None;
        }
        let known = self.tokens.iter().position(|a| a == access);
        let n = match known {
            Some(n) => n,
            // In a scope of one element it costs nothing to compute it there.
            None if scope.element == "0" || self.tokens.len() == TOKEN_VALUES => return None,
            None => {
                self.tokens.push(access.clone());
                self.tokens.len() - 1
            }
        };
        Some(of_tokens(n))
    }

    /// Computes the values of a token.
    pub(super) fn token_values(&mut self) -> String {
        let nothing = self.grid.space(&[]);
        let mut scope = self.scope(&nothing, "0");
        let mut text = Text::default();
        for (n, access) in std::mem::take(&mut self.tokens).iter().enumerate() {
            let value = self.read(access, &mut scope, &mut text);
            text.line(format!("{} = {value};", of_tokens(n)));
        }
        text.finish()
    }

    /// Defines the slabs, and what copies them.
    pub(super) fn ahead(&mut self, chunk: usize) -> String {
        if self.slabs.is_empty() {
            return String::new();
        }
        let mut text = Text::default();
        let mut floats = 0;
        for n in 0..self.slabs.len() {
            let (slab, name) = (self.slabs[n].clone(), self.slab_names[n].clone());
            let element = c_type(self.pointers.element(Place::Value(slab.value)));
            let start = self.start(&slab);
            let place = match slab.operand {
                None => format!("reinterpret_cast<{element}*>(arrived + {floats})"),
                Some(Operand::Query) => "left_rows".to_string(),
                Some(Operand::Key) => "right_rows".to_string(),
                Some(Operand::Value) => "v_rows".to_string(),
            };
            let rows = match self.by_warpgroup && slab.operand.is_some() {
                true => String::new(),
                false => format!(
                    "  // {}[{} rows][{}]",
                    if slab.turns() > 1 { "[2]" } else { "" },
                    chunk + slab.halo as usize,
                    slab.row_stride()
                ),
            };
            text.line(format!("{element}* const {name} = {place};{rows}"));
            if !slab.aligned {
                let piece = slab.piece / slab.element_bytes;
                let start = sum(start);
                text.line(format!(
                    "const int {name}_lead = int(({start}) % {piece}), {name}_start = int({start}) - {name}_lead;"
                ));
            }
            floats += slab.floats(chunk);
        }
        type Which = fn(&Staged) -> bool;
        let operands = match self.by_warpgroup {
            true => "auto bring_operands = [&](i64 first, int turn)",
            false => "auto bring_operands = [&](i64 first)",
        };
        let kinds: [(&str, Which); 3] = [
            ("auto bring_early = [&](i64 first, int turn)", |slab| {
                slab.early && slab.operand.is_none_or(|of| of == Operand::Value)
            }),
            ("auto bring_late = [&](i64 first)", |slab| !slab.early),
            (operands, |slab| {
                slab.operand.is_some_and(|of| of != Operand::Value)
            }),
        ];
        for (n, (head, which)) in kinds.into_iter().enumerate() {
            // What brings rows early is always there.
            if n > 0 && !self.slabs.iter().any(which) {
                continue;
            }
            text.open(head);
            // Steps are updates of tokens.
            text.line(match self.updates {
                1 => "const int rows = int(min(steps - first, i64(CHUNK)));".to_string(),
                n => format!("const int rows = int(min(steps / {n} - first, i64({chunk})));"),
            });
            for n in 0..self.slabs.len() {
                if which(&self.slabs[n]) {
                    self.bring(n, chunk, &mut text);
                }
            }
            text.close_with(";");
        }
        text.finish()
    }

    /// Whether the rows of an operand arrive where products read them.
    pub(super) fn arrives(&self, operand: Operand) -> bool {
        self.slabs.iter().any(|slab| slab.operand == Some(operand))
    }

    /// Whether some rows are needed after the products of a chunk only.
    pub(super) fn arrives_late(&self) -> bool {
        self.slabs.iter().any(|slab| !slab.early)
    }

    /// The first element of a slab in a row, as the parts of a sum.
    fn start(&self, slab: &Staged) -> Vec<String> {
        let mut parts: Vec<String> = Vec::new();
        for (axis, coefficient) in &slab.block {
            let first = first(&self.first_index, *axis);
            match coefficient {
                0 => {}
                1 => parts.push(first),
                c => parts.push(format!("{first} * {c}")),
            }
        }
        if slab.base != 0 {
            parts.push(slab.base.to_string());
        }
        parts
    }

    /// How many threads copy rows, and which of them one is, C text.
    fn copiers(&self) -> (&'static str, &'static str) {
        match self.by_warpgroup {
            true => ("COPIERS", "copier"),
            false => ("THREADS", "tid"),
        }
    }

    /// Copies one slab of a chunk.
    fn bring(&mut self, n: usize, chunk: usize, text: &mut Text) {
        let graph = self.graph;
        let (slab, name) = (self.slabs[n].clone(), self.slab_names[n].clone());
        let pointer = self.pointers.read(Place::Value(slab.value), self.names);
        let element = c_type(self.pointers.element(Place::Value(slab.value)));
        let row_elements = graph.row_elements(slab.value);
        let piece = slab.piece / slab.element_bytes;
        let (rows, pieces) = (chunk + slab.halo as usize, slab.pitch / piece);
        let start = match slab.aligned {
            true => self.start(&slab),
            false => vec![format!("{name}_start")],
        };
        let turn = (slab.turns() > 1).then(|| format!("turn * {}", turn_elements(&slab, chunk)));
        let (threads, thread) = self.copiers();
        // Where rows are whole shares of the threads, each of them has the same piece of some rows.
        let by_rows = self.by_warpgroup && COPIERS.is_multiple_of(pieces);
        let elem = (pieces > 1).then(|| match by_rows {
            true => format!("{thread} % {pieces} * {piece}"),
            false => format!("piece % {pieces} * {piece}"),
        });
        let e = elem.as_ref().map(|_| "elem".to_string());
        let mut of_chunk = vec![format!("(batch * T + first) * {row_elements}")];
        of_chunk.extend(start.clone());
        text.open("");
        if let (true, Some(elem)) = (by_rows, &elem) {
            text.line(format!("const int elem = {elem};"));
            of_chunk.extend(e.clone());
        }
        text.line(format!(
            "const {element}* const from = {pointer} + {};",
            sum(of_chunk)
        ));
        // Beside products under way few registers are left for addresses.
        text.line(match self.by_warpgroup {
            true => "#pragma unroll 4",
            false => "#pragma unroll",
        });
        if by_rows {
            let step = COPIERS / pieces;
            text.open(format!(
                "for (int round = 0; round < {}; ++round)",
                rows.div_ceil(step)
            ));
            text.line(match pieces {
                1 => format!("const int row = {thread} + round * {step};"),
                n => format!("const int row = {thread} / {n} + round * {step};"),
            });
            if !rows.is_multiple_of(step) {
                text.line(format!("if (row >= {rows}) break;"));
            }
        } else {
            let all = rows * pieces;
            text.open(format!(
                "for (int round = 0; round < ({all} + {threads} - 1) / {threads}; ++round)"
            ));
            let number = if self.by_warpgroup { "u32" } else { "int" };
            text.line(format!(
                "const {number} piece = round * {threads} + {thread};"
            ));
            text.line(format!(
                "if ({all} % {threads} != 0 && piece >= {all}) break;"
            ));
            text.line(match pieces {
                1 => "const int row = piece;".to_string(),
                n => format!("const int row = piece / {n};"),
            });
            if let Some(elem) = &elem {
                text.line(format!("const int elem = {elem};"));
            }
        }
        let stride = slab.row_stride();
        // Where products of warpgroups read them, they lie in swizzled lines.
        let lines = self.by_warpgroup && slab.operand.is_some();
        let of_turn = match slab.operand {
            Some(Operand::Value) => Some("turn * STEP".to_string()),
            Some(_) if self.turns > 1 => Some("turn * (KEYS / LINE) * STEP".to_string()),
            _ => None,
        };
        let to = match lines {
            true => [of_turn, Some("place(row, elem)".into()), None],
            false => [turn.clone(), Some(in_rows("row", stride)), e.clone()],
        };
        let to: Vec<String> = to.into_iter().flatten().collect();
        // Rows of the run that are there, counted from the first one of the chunk.
        let place = match slab.halo {
            0 => "row".to_string(),
            halo => {
                text.line(format!("const int place = row - {halo};"));
                "place".into()
            }
        };
        let mut inside = format!("{place} < rows");
        let mut from = vec![format!("({inside} ? {place} : 0) * {row_elements}")];
        from.extend(e.clone().filter(|_| !by_rows));
        // The last piece of a row may have elements that the row has not.
        if !slab.aligned {
            let places = start.iter().cloned().chain(e.clone()).collect();
            inside = format!("{inside} && {} < {row_elements}", sum(places));
        }
        let guard = match slab.halo {
            0 => "",
            _ => "if (first + place >= 0) ",
        };
        text.line(format!(
            "{guard}cp_async_{}({name} + {}, from + {}, {inside});",
            slab.piece,
            sum(to),
            sum(from)
        ));
        text.close();
        text.close();
        if let Some(tail) = slab.tail {
            self.bring_tail(&slab, tail, &name, element, turn, text);
        }
    }

    /// Rows before the first token of a run, from where they were kept.
    fn bring_tail(
        &mut self,
        slab: &Staged,
        tail: StateId,
        name: &str,
        element: &str,
        turn: Option<String>,
        text: &mut Text,
    ) {
        let width = self.graph.tail_width(tail);
        let row_elements = self.graph.row_elements(slab.value);
        let old = self.pointers.read(Place::OldTail(tail), self.names);
        let (threads, thread) = self.copiers();
        text.open(format!(
            "for (int element = {thread}; first == 0 && element < {}; element += {threads})",
            slab.halo as usize * slab.elements
        ));
        text.line(format!(
            "const int row = element / {0}, elem = element % {0};",
            slab.elements
        ));
        let mut to: Vec<String> = turn.into_iter().collect();
        to.push(in_rows("row", slab.pitch));
        if !slab.aligned {
            to.push(format!("{name}_lead"));
        }
        to.push("elem".into());
        let kept = match width - slab.halo {
            0 => format!("batch * {width} + row"),
            n => format!("batch * {width} + {n} + row"),
        };
        let mut from = vec![format!("({kept}) * {row_elements}")];
        from.extend(self.start(slab));
        from.push("elem".into());
        text.line(format!(
            "{name}[{}] = from_f32<{element}>({old}[{}]);",
            sum(to),
            sum(from)
        ));
        text.close();
    }
}

/// Value number `n` of a token, C text.
fn of_tokens(n: usize) -> String {
    match n {
        0 => "token_values[token]".to_string(),
        n => format!("token_values[{n} * CHUNK + token]"),
    }
}

/// The first element of a row, C text.
fn in_rows(row: &str, pitch: usize) -> String {
    match pitch {
        1 => row.to_string(),
        pitch => format!("{row} * {pitch}"),
    }
}

/// Elements of one turn of a slab.
fn turn_elements(slab: &Staged, chunk: usize) -> usize {
    slab.floats(chunk) * 4 / slab.turns() / slab.element_bytes
}
