//! Rows that arrive in shared memory ahead of time, and values of a token that are computed once.

use super::{Hooks, Scope, first, sum};
use crate::affine::OffsetText;
use crate::memory::{Place, c_type};
use crate::names::last;
use crate::text::Text;
use fusec_fuse::chunked::TOKEN_VALUES;
use fusec_fuse::chunked::staging::{Operand, Staged};
use fusec_ir::{Access, StateId};

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
        Some(format!("to_f32({name}[{}])", sum(places)))
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
            };
            text.line(format!(
                "{element}* const {name} = {place};  // {}[{} rows][{}]",
                if slab.turns() > 1 { "[2]" } else { "" },
                chunk + slab.halo as usize,
                slab.row_stride()
            ));
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
        let kinds: [(&str, Which); 3] = [
            ("auto bring_early = [&](i64 first, int turn)", |slab| {
                slab.early && slab.operand.is_none()
            }),
            ("auto bring_late = [&](i64 first)", |slab| !slab.early),
            ("auto bring_operands = [&](i64 first)", |slab| {
                slab.operand.is_some()
            }),
        ];
        for (n, (head, which)) in kinds.into_iter().enumerate() {
            // What brings rows early is always there.
            if n > 0 && !self.slabs.iter().any(which) {
                continue;
            }
            text.open(head);
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
        let all = rows * pieces;
        text.line("#pragma unroll");
        text.open(format!(
            "for (int round = 0; round < ({all} + THREADS - 1) / THREADS; ++round)"
        ));
        text.line("const int piece = round * THREADS + tid;");
        text.line(format!(
            "if ({all} % THREADS != 0 && piece >= {all}) break;"
        ));
        let (row, e) = match pieces {
            1 => ("piece".to_string(), None),
            n => (
                format!("piece / {n}"),
                Some(format!("piece % {n} * {piece}")),
            ),
        };
        text.line(format!("const int row = {row};"));
        if let Some(e) = &e {
            text.line(format!("const int elem = {e};"));
        }
        let e = e.map(|_| "elem".to_string());
        text.line(match slab.halo {
            0 => "const i64 t = first + row;".to_string(),
            halo => format!("const i64 t = first + row - {halo};"),
        });
        let stride = slab.row_stride();
        let to: Vec<String> = [turn.clone(), Some(in_rows("row", stride)), e.clone()]
            .into_iter()
            .flatten()
            .collect();
        // Steps are updates of tokens.
        let end = match self.updates {
            1 => "steps".to_string(),
            n => format!("steps / {n}"),
        };
        let mut from = vec![format!(
            "(batch * T + (t < {end} ? t : 0)) * {row_elements}"
        )];
        from.extend(start.clone());
        from.extend(e.clone());
        let mut inside = format!("t < {end}");
        // The last piece of a row may have elements that the row has not.
        if !slab.aligned {
            let places = start.iter().cloned().chain(e.clone()).collect();
            inside = format!("{inside} && {} < {row_elements}", sum(places));
        }
        let guard = if slab.halo > 0 { "if (t >= 0) " } else { "" };
        text.line(format!(
            "{guard}cp_async_{}({name} + {}, {pointer} + {}, {inside});",
            slab.piece,
            sum(to),
            sum(from)
        ));
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
        text.open(format!(
            "for (int element = tid; first == 0 && element < {}; element += THREADS)",
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
