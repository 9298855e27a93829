//! Rows that a walk has not come to: later ones where it begins with the first, earlier ones where it begins
//! with the last. They are read from memory, at the row where they are wanted.

use super::Emitter;
use crate::memory;
use crate::micro::Read;
use crate::micro::Src;
use fusec_ir::Direction;

/// Which row is spoken of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Coming<'a> {
    /// The one that is computed.
    Now,
    /// The one after it in the order of the walk.
    Next(Direction),
    /// The first of a walk, C text.
    First(&'a str),
    /// The last of a sequence.
    Last,
    /// The one called `row` in a run.
    InRun,
}

impl Coming<'_> {
    /// Its number among all rows, C text.
    pub fn row(self) -> String {
        self.moved(0)
    }

    /// The number of the row so many rows before it, or its own where there is none.
    pub fn row_apart(self, delay: i32) -> String {
        let (there, apart, own) = (self.is_there(delay), self.moved(-delay), self.moved(0));
        format!("({there} ? {apart} : {own})")
    }

    /// Whether there is a row so many rows before it, C text.
    pub fn is_there(self, delay: i32) -> String {
        let ahead = i64::from(delay.unsigned_abs());
        match (delay < 0, self.time()) {
            (true, (base, shift)) => format!("{} < T", sum(base, shift + ahead)),
            (false, (base, shift)) => format!("{base} >= {}", ahead - shift),
        }
    }

    /// Its number in its sequence: a C text and what is added to it.
    fn time(&self) -> (&str, i64) {
        match self {
            Coming::Now | Coming::InRun => ("t", 0),
            Coming::Next(Direction::Forward) => ("t", 1),
            Coming::Next(Direction::Reverse) => ("t", -1),
            Coming::First(first) => (first, 0),
            Coming::Last => ("T", -1),
        }
    }

    fn moved(&self, rows: i32) -> String {
        let rows = i64::from(rows);
        match self {
            Coming::Now | Coming::Next(_) | Coming::InRun => match self.time().1 + rows {
                0 => "row".into(),
                rows => format!("({})", sum("row", rows)),
            },
            Coming::First(_) | Coming::Last => {
                let (base, shift) = self.time();
                format!("(batch * T + {})", sum(base, shift + rows))
            }
        }
    }
}

/// `base + n`.
fn sum(base: &str, n: i64) -> String {
    match n {
        0 => base.to_string(),
        n if n < 0 => format!("{base} - {}", n.unsigned_abs()),
        n => format!("{base} + {n}"),
    }
}

/// A row as it is read: the condition under which it is one of the run, its address there, and where it lies
/// otherwise, if anywhere.
struct Apart {
    there: String,
    inside: String,
    outside: Option<String>,
}

impl Emitter<'_, '_, '_> {
    /// The element of the one number that a read is of, C text.
    pub(super) fn element_apart(&mut self, layout: usize, read: &Read) -> String {
        let Some(apart) = self.apart(layout, read) else {
            return String::new();
        };
        let outside = match apart.outside {
            Some(address) => format!("*({address})"),
            None => "0.0f".into(),
        };
        format!(
            "({} ? to_f32(*({})) : {outside})",
            apart.there, apart.inside
        )
    }

    /// Loads such a row into the registers called `name`.
    pub(super) fn load_apart(&mut self, layout: usize, name: &str, read: &Read) -> String {
        let l = self.layout(layout).clone();
        if l.vector == 1 {
            let element = self.element_apart(layout, read);
            return format!("{} = {element};", self.register(layout, name));
        }
        let (Some(apart), Src::Apart { value, .. }) = (self.apart(layout, read), read.src) else {
            return String::new();
        };
        let (_, element, offset) = self.in_memory(value, read);
        let target = self.vector(layout, name);
        let n = format!("row * {}", self.walk.grid.graph().row_elements(value));
        let load = |s: &Self, element: &str, address: &str| {
            s.load_vector(&l, Some(&n), &offset, element, address, &target)
        };
        let inside = load(self, element, &apart.inside);
        let outside = match &apart.outside {
            Some(address) => load(self, "float", address),
            None => format!(
                "#pragma unroll\nfor (int nth = 0; nth < {}; ++nth) {target}[nth] = 0.0f;",
                l.vector
            ),
        };
        let mut text = crate::text::Text::default();
        text.open(format!("if ({})", apart.there));
        text.lines(&inside);
        text.close();
        text.open("else");
        text.lines(&outside);
        text.close();
        text.finish()
    }

    fn apart(&mut self, layout: usize, read: &Read) -> Option<Apart> {
        let Src::Apart { value, delay, tail } = read.src else {
            return None;
        };
        let n = self.walk.grid.graph().row_elements(value);
        let (pointer, _, offset) = self.in_memory(value, read);
        let space = self.layout(layout).space.clone();
        let row = self.row_part(value, &Coming::Now.moved(-delay));
        let outside = tail.map(|tail| {
            let pointer = self.pointers.read(memory::Place::OldTail(tail), self.names);
            let (_, width) = self.tail_of(tail);
            let first = i64::from(width) - i64::from(delay);
            let row = format!("(batch * {width} + {}) * {n}", sum("t", first));
            self.address(&pointer, Some(row), &offset, &space)
        });
        Some(Apart {
            there: Coming::Now.is_there(delay),
            inside: self.address(&pointer, row, &offset, &space),
            outside,
        })
    }
}
