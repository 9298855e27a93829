//! Stages: statements over one layout, collected into one loop over a thread's elements.

use super::Emitter;
use crate::layout::{Layout, LayoutText};
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct Stage {
    pub(super) layout: usize,
    pub(super) declarations: Vec<String>,
    /// Of the first strip, where all read the same.
    pub(super) first_loads: Vec<String>,
    /// Before the elements of a vector.
    pub(super) loads: Vec<String>,
    /// One entry per run of consecutive lines of the same kind.
    pub(super) body: Vec<Piece>,
    /// After the guard, executed by every lane.
    pub(super) after: Vec<String>,
    /// Operands already loaded in this stage: text of the place to name.
    pub(super) loaded: BTreeMap<String, String>,
}

pub(super) enum Piece {
    /// Per element of the vector.
    Element(String),
    /// Per vector.
    Vector(String),
}

impl<'g> Emitter<'_, 'g, '_> {
    pub(super) fn stage(&mut self, layout: usize) -> &mut Stage {
        if self.stage.as_ref().is_some_and(|s| s.layout != layout) {
            self.flush();
        }
        self.stage.get_or_insert_with(|| Stage {
            layout,
            ..Stage::default()
        })
    }

    pub(super) fn barrier(&mut self) {
        self.flush();
        self.text.line("__syncthreads();");
        self.fresh.clear();
        self.turn.barrier();
    }

    pub(super) fn flush(&mut self) {
        let Some(stage) = self.stage.take() else {
            return;
        };
        let layout = self.layout(stage.layout).clone();
        for d in &stage.declarations {
            self.text.lines(d);
        }
        if !stage.first_loads.is_empty() {
            self.text.open("");
            self.text.line(element_number(&Layout {
                strips: 1,
                ..layout.clone()
            }));
            for load in &stage.first_loads {
                self.text.lines(load);
            }
            self.text.close();
        }
        self.open_elements(&layout);
        for load in &stage.loads {
            self.text.lines(load);
        }
        let mut open = false;
        for piece in &stage.body {
            match piece {
                Piece::Element(line) => {
                    if !open && layout.vector > 1 {
                        self.text.line("#pragma unroll");
                        self.text
                            .open(format!("for (int nth = 0; nth < {}; ++nth)", layout.vector));
                    }
                    open = true;
                    self.text.lines(line);
                }
                Piece::Vector(line) => {
                    if open && layout.vector > 1 {
                        self.text.close();
                    }
                    open = false;
                    self.text.lines(line);
                }
            }
        }
        if open && layout.vector > 1 {
            self.text.close();
        }
        self.close_elements(&layout, &stage.after);
        self.exchange();
    }

    pub(super) fn open_elements(&mut self, layout: &Layout) {
        if layout.space.len() == 1 {
            return;
        }
        if layout.strips > 1 {
            self.text.line("#pragma unroll");
            self.text.open(format!(
                "for (int strip = 0; strip < {}; ++strip)",
                layout.strips
            ));
        } else {
            self.text.open("");
        }
        self.text.line(element_number(layout));
        if !layout.exact {
            self.text
                .open(format!("if (elem < {})", layout.space.len()));
        }
    }

    pub(super) fn close_elements(&mut self, layout: &Layout, after: &[String]) {
        if layout.space.len() == 1 {
            for line in after {
                self.text.line(line);
            }
            return;
        }
        if !layout.exact {
            self.text.close();
        }
        for line in after {
            self.text.line(line);
        }
        self.text.close();
    }
}

/// The line that defines `elem`, the number of a thread's first element.
fn element_number(layout: &Layout) -> String {
    let (thread, threads) = (layout.thread(), layout.threads);
    if let Some(turns) = layout.turns() {
        let (row, chunk) = (layout.space.innermost(), layout.chunk);
        let thread = match layout.strips {
            1 => thread.to_string(),
            _ => format!("(strip * {threads} + {thread})"),
        };
        return format!(
            "const int elem = {thread} / {turns} * {row} + {thread} % {turns} * {chunk};"
        );
    }
    match (layout.strips > 1, layout.vector) {
        (false, 1) => format!("const int elem = {thread};"),
        (false, v) => format!("const int elem = {thread} * {v};"),
        (true, 1) => format!("const int elem = strip * {threads} + {thread};"),
        (true, v) => format!("const int elem = (strip * {threads} + {thread}) * {v};"),
    }
}
