//! Runs of rows: what comes before and after the recurrence for several rows at once.

use super::Emitter;
use super::apart::Coming;
use crate::memory::Place;
use crate::micro::Src;
use crate::parts::Part;
use fusec_ir::Direction;

/// Registers of a block that rows on their way from memory may fill, and of a thread.
const BROUGHT_REGISTERS: usize = 48 * 256;
const BROUGHT_PER_THREAD: usize = 96;

impl<'g> Emitter<'_, 'g, '_> {
    /// Whether a result has a place in shared memory for each row of a run.
    pub(super) fn crosses(&self, statement: usize) -> bool {
        self.rows_ident.contains_key(&statement)
    }

    /// The shared copy of a result, C text.
    pub(super) fn shared_copy(&mut self, statement: usize) -> String {
        self.used.insert(statement);
        self.shared_ident
            .get(&statement)
            .cloned()
            .unwrap_or_default()
    }

    /// Shared memory for so many elements of each row of a run.
    pub(super) fn declare_rows(&mut self, name: &str, floats: usize) {
        let rows = self.walk.layouts.parts.rows;
        self.declare_shared(name, rows * pitch(floats));
    }

    /// Rows that a team takes one after the other, outside of the recurrence.
    pub(super) fn turns(&self) -> usize {
        self.walk.layouts.parts.rows.div_ceil(self.teams())
    }

    /// Teams of a block.
    fn teams(&self) -> usize {
        self.walk.layouts.threads / self.walk.layouts.parts.team
    }

    /// Whether a row outside of the recurrence is loaded while another run, or the recurrence, is
    /// under way.
    pub(super) fn brought(&self, i: usize) -> bool {
        self.brings && self.walk.layouts.parts.of[i] != Part::Step && self.is_row(i)
    }

    /// Whether there are registers for what is brought.
    fn has_room(&self) -> bool {
        let registers = |i: usize| {
            let layout = self.layout(self.walk.layouts.placed[i].layout);
            let [read] = self.walk.program.statements[i].reads.as_slice() else {
                return 0;
            };
            let Src::Row(value) = read.src else {
                return 0;
            };
            let bytes = self.pointers.element(Place::Value(value)).bytes();
            layout.strips * (layout.vector * bytes).div_ceil(4)
        };
        let parts = &self.walk.layouts.parts;
        let outside = (0..parts.of.len()).filter(|i| parts.of[*i] != Part::Step && self.is_row(*i));
        let room = BROUGHT_REGISTERS / self.walk.layouts.threads;
        outside.map(registers).sum::<usize>() * self.turns() <= room.min(BROUGHT_PER_THREAD)
    }

    /// The rows from `first` to `t_end`, counted from the last one on in that direction, a run after the other.
    pub(super) fn runs(&mut self, first: &str) {
        self.brings = self.has_room();
        let parts = &self.walk.layouts.parts;
        let (rows, team) = (parts.rows, parts.team);
        let has = |part: Part| parts.of.contains(&part);
        self.text.line(format!(
            "const int team = tid / {team}, member = tid % {team};"
        ));
        self.bring(Part::Before, first, true);
        self.text.open(format!(
            "for (i64 first = {first}; first < t_end; first += {rows})"
        ));
        self.text.line(format!(
            "const int rows = (int)(t_end - first < {rows} ? t_end - first : {rows});"
        ));
        if has(Part::Before) {
            self.text
                .line("// Before the recurrence, rows side by side.");
            self.part(Part::Before);
            self.barrier();
        }
        self.bring(Part::Before, &format!("first + {rows}"), false);
        self.bring(Part::After, "first", true);
        self.text
            .line("// The recurrence, one row after the other.");
        self.part(Part::Step);
        self.barrier();
        if has(Part::After) {
            self.text
                .line("// After the recurrence, rows side by side.");
            self.part(Part::After);
            let reads = |i: &usize| parts.of[*i] == Part::Before;
            if !has(Part::Before) || self.used.iter().any(reads) {
                self.barrier();
            }
        }
        self.text.close();
    }

    /// Starts the loads of the rows from `first` on that a part takes.
    fn bring(&mut self, part: Part, first: &str, declare: bool) {
        let of_part = |s: &Self, i: usize| s.brought(i) && s.walk.layouts.parts.of[i] == part;
        let rows = self.rows_under_way(of_part, Coming::InRun);
        if rows.is_empty() {
            return;
        }
        for line in rows.values().flat_map(|(declarations, _)| declarations) {
            if declare {
                self.text.line(line);
            }
        }
        let team = self.open_turns();
        // The row that a team computes: the last one of a run for teams that have none.
        let last = self.walk.layouts.parts.rows - 1;
        let at = match self.teams() > last + 1 {
            true => format!("({team} < {last} ? {team} : {last})"),
            false => team,
        };
        self.text.line(format!("const i64 next = {first} + {at};"));
        self.text.line(match self.walk.direction {
            Direction::Forward => "const i64 row = batch * T + (next < t_end ? next : t_end - 1);",
            Direction::Reverse => {
                "const i64 row = batch * T + (next < t_end ? T - 1 - next : T - t_end);"
            }
        });
        for (layout, (_, loads)) in rows {
            self.start_loads(layout, &loads);
        }
        self.text.close();
    }

    /// Opens the loop over the rows of a team; gives the number of the row in the run, C text.
    fn open_turns(&mut self) -> String {
        let teams = self.teams();
        match self.turns() {
            1 => {
                self.text.open("");
                "team".into()
            }
            turns => {
                self.text.line("#pragma unroll");
                self.text
                    .open(format!("for (int turn = 0; turn < {turns}; ++turn)"));
                format!("turn * {teams} + team")
            }
        }
    }

    /// One part of a run.
    fn part(&mut self, part: Part) {
        self.used.clear();
        let before = std::mem::take(&mut self.text);
        let parts = &self.walk.layouts.parts;
        let belongs = |i: usize| parts.of[i] == part;
        match part {
            Part::Step => self.one_row(belongs),
            Part::Before | Part::After => self.statements(belongs),
        }
        let body = std::mem::replace(&mut self.text, before);
        if part == Part::Step {
            self.text.line("#pragma unroll 2");
            self.text.open("for (int at = 0; at < rows; ++at)");
        } else {
            let team = self.open_turns();
            self.text.line(format!("const int next = {team};"));
            // The last row again where there are fewer: nothing then depends on their number.
            self.text
                .line("const int at = next < rows ? next : rows - 1;");
        }
        self.text.line(match self.walk.direction {
            Direction::Forward => "const i64 t = first + at;",
            Direction::Reverse => "const i64 t = T - 1 - first - at;",
        });
        self.say_whether_live();
        self.text.line("const i64 row = batch * T + t;");
        for i in &self.used {
            if let (Some(rows), Some(own)) = (self.rows_ident.get(i), self.shared_ident.get(i)) {
                let pitch = pitch(self.walk.layouts.placed[*i].shared_space.len());
                self.text
                    .line(format!("float* const {own} = {rows} + at * {pitch};"));
            }
        }
        self.text.lines(&body.finish());
        self.text.close();
    }
}

/// Elements from one row to the next: vectors of a row are aligned.
fn pitch(floats: usize) -> usize {
    floats.next_multiple_of(4)
}
