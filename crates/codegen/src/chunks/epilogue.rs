//! After a chunk: the operations that follow the recurrence, a warp to a token, or four lanes of one.

use super::runs::{OF_RESULTS, Runs};
use super::{Hooks, Scope, statement_of, sum};
use crate::chunked::RUN_COLUMNS;
use crate::layout::neutral;
use crate::memory::{Place, c_type};
use crate::micro::{self, Program, Read, Src, Statement};
use crate::text::Text;
use fusec_ir::{Access, AxisId, Combine, Direction, IndexExpr, ValueId};

impl<'g> Hooks<'_, 'g> {
    /// What happens to the row `y_row` of token t.
    pub(super) fn epilogue(&mut self) -> String {
        let program = micro::lower(self.graph, &self.after, &[], Direction::Forward);
        let names = program.statements.iter().map(|s| match s.op {
            Some(_) => self.names.fresh(&s.name),
            // Loads are done where they are needed.
            None => String::new(),
        });
        let names: Vec<String> = names.collect();
        let mut rows = Rows {
            program: &program,
            names,
            values: self.value.len(),
            in_registers: self.by_warpgroup,
            text: Text::default(),
            open: None,
        };
        self.runs = self
            .by_warpgroup
            .then(|| Runs::new(rows.columns(), OF_RESULTS, rows.column()));
        for (n, rest) in self.parts.rest.iter().enumerate() {
            let Some(rest) = rest else { continue };
            let mut scope = self.scope(&self.value, "vi");
            let mut text = Text::default();
            let value = self.coefficient(*rest, &mut scope, &mut text);
            text.line(format!("{} += {value};", self.result(n, true)));
            let loads = self.loads();
            rows.element(&loads, &[], &text.finish(), &scope);
        }
        for (n, value) in self
            .graph
            .op(self.scan)
            .outputs
            .clone()
            .into_iter()
            .enumerate()
        {
            if self.body.stores.contains(&value) {
                let scope = self.scope(&self.value, "vi");
                let result = self.result(n, true);
                self.store_column(&mut rows, value, &result, &scope);
            }
        }
        for (n, statement) in program.statements.iter().enumerate() {
            if statement.op.is_some() {
                self.statement(&mut rows, n, statement);
            }
        }
        rows.flush();
        self.runs = None;
        rows.text.finish()
    }

    /// What has to be loaded before the loop over columns, from here on.
    fn loads(&mut self) -> String {
        let runs = self.runs.as_mut();
        runs.map(|runs| std::mem::take(&mut runs.text).finish())
            .unwrap_or_default()
    }

    fn statement(&mut self, rows: &mut Rows<'_>, n: usize, statement: &Statement) {
        let along = |axes: &[AxisId]| {
            let mut axes = axes.iter();
            axes.any(|a| self.value.axes.contains(a))
        };
        let per_column = along(&statement.iteration_axes());
        let waits: Vec<usize> = statement.reads.iter().filter_map(statement_of).collect();
        rows.settle(&waits, per_column);
        let mut scope = match (&rows.open, per_column) {
            (Some(open), true) => open.scope.clone(),
            (None, true) => self.scope(&self.value, "vi"),
            (_, false) => {
                let nothing = self.grid.space(&[]);
                self.scope(&nothing, "0")
            }
        };
        let mut text = Text::default();
        let mut operands = Vec::new();
        for read in &statement.reads {
            operands.push(self.operand(rows, read, &mut scope, &mut text, per_column));
        }
        let value = self.expression(&statement.expr, &operands, &scope);
        let name = rows.names[n].clone();
        let loads = self.loads();
        match (&statement.reduce, per_column) {
            (Some((combine, _)), true) => {
                let lane = format!("{name}_lane");
                text.line(match combine {
                    Combine::Sum => format!("{lane} += {value};"),
                    Combine::Max => format!("{lane} = fmax32({lane}, {value});"),
                });
                let declared = format!("{loads}float {lane} = {};", neutral(*combine));
                rows.element(&declared, &waits, &text.finish(), &scope);
                let whole = match (combine, self.by_warpgroup) {
                    (Combine::Sum, false) => "warp_sum",
                    (Combine::Max, false) => "warp_max",
                    (Combine::Sum, true) => "lane_sum<4>",
                    (Combine::Max, true) => "lane_max<4>",
                };
                rows.at_end(n, format!("const float {name} = {whole}({lane});"));
            }
            // A sum over axes of one element is that element.
            (_, true) => {
                text.line(format!("{name}[nth] = {value};"));
                let declared = format!("{loads}float {name}[{}];", rows.columns());
                rows.element(&declared, &waits, &text.finish(), &scope);
                for value in self.stored(statement, n, rows) {
                    self.store_column(rows, value, &format!("{name}[nth]"), &scope);
                }
            }
            (_, false) => {
                text.line(format!("const float {name} = {value};"));
                let stored = self.stored(statement, n, rows).into_iter();
                let stores: String = stored.map(|v| self.store(v, &name, &scope)).collect();
                if !stores.is_empty() {
                    // One lane stores what all of them know.
                    text.open(match self.by_warpgroup {
                        true => "if (lane % 4 == 0)",
                        false => "if (lane == 0)",
                    });
                    text.lines(&stores);
                    text.close();
                }
                rows.text.lines(&text.finish());
            }
        }
    }

    /// An operand of an epilogue statement, C text.
    fn operand(
        &mut self,
        rows: &Rows<'_>,
        read: &Read,
        scope: &mut Scope,
        text: &mut Text,
        per_column: bool,
    ) -> String {
        let fixed = |value: ValueId, index: &[IndexExpr]| Access {
            value,
            delay: 0,
            tail: None,
            index: index.to_vec(),
        };
        match read.src {
            Src::Statement(s) => {
                let source = &rows.program.statements[s];
                match (source.op, source.reads.first()) {
                    (None, Some(load)) => match load.src {
                        Src::Row(value) if self.graph.producer(value) == Some(self.scan) => {
                            let outputs = &self.graph.op(self.scan).outputs;
                            let n = outputs.iter().position(|v| *v == value).unwrap_or(0);
                            self.result(n, per_column)
                        }
                        Src::Row(value) => self.read(&fixed(value, &load.index), scope, text),
                        _ => String::new(),
                    },
                    _ => {
                        let wide = source.axes.iter().any(|a| self.value.axes.contains(a));
                        match wide {
                            true => format!("{}[nth]", rows.names[s]),
                            false => rows.names[s].clone(),
                        }
                    }
                }
            }
            Src::Fixed(value) => self.read(&fixed(value, &read.index), scope, text),
            // No operation of an epilogue reads a state, a row without a load, another row, or a table.
            Src::State(_) | Src::Row(_) | Src::Apart { .. } | Src::Table { .. } => String::new(),
        }
    }

    /// Element vi of result number `n` of the recurrence, or its only one; C text.
    fn result(&self, n: usize, per_column: bool) -> String {
        let column = match (per_column, self.by_warpgroup) {
            (false, _) => "0",
            (true, false) => "vi",
            (true, true) => "nth",
        };
        format!("{}[{column}]", row_of(n))
    }

    /// The values that a statement computes and that are needed outside.
    fn stored(&self, statement: &Statement, n: usize, rows: &Rows<'_>) -> Vec<ValueId> {
        let Some(op) = statement.op else {
            return vec![];
        };
        let outputs = self.graph.op(op).outputs.iter().copied();
        let own = |value: &ValueId| {
            rows.program.value.get(value) == Some(&n) && self.body.stores.contains(value)
        };
        outputs.filter(own).collect()
    }

    /// Stores a value of which each lane has columns: one at a time, or, where a lane has neighbours in its
    /// registers and they lie side by side in memory, both.
    fn store_column(&mut self, rows: &mut Rows<'_>, value: ValueId, name: &str, scope: &Scope) {
        let axes = &self.graph.value(value).axes;
        let index: Vec<IndexExpr> = axes.iter().map(|a| IndexExpr::axis(*a)).collect();
        if !(self.by_warpgroup && self.side_by_side(value, &index, OF_RESULTS)) {
            let store = self.store(value, name, scope);
            return rows.element("", &[], &store, scope);
        }
        let (pointer, at) = self.stored_at(value, scope);
        let run = self.names.fresh(&format!(
            "{}_run",
            crate::names::last(&self.graph.value(value).name)
        ));
        let declared = format!(
            "float {run}[{}][{OF_RESULTS}];",
            rows.columns() / OF_RESULTS
        );
        let body = format!("{run}[nth / {OF_RESULTS}][nth % {OF_RESULTS}] = {name};\n");
        rows.element(&declared, &[], &body, scope);
        let mut text = Text::default();
        text.line("#pragma unroll");
        text.open(format!(
            "for (int nth = 0; nth < {}; nth += {OF_RESULTS})",
            rows.columns()
        ));
        text.line(format!("const int vi = {};", rows.column()));
        text.line(format!(
            "if (live) store_vec({pointer} + {at}, {run}[nth / {OF_RESULTS}]);"
        ));
        text.close();
        rows.after_loop(&text.finish());
    }

    pub(super) fn store(&mut self, value: ValueId, name: &str, scope: &Scope) -> String {
        let element = c_type(self.pointers.element(Place::Value(value)));
        let (pointer, at) = self.stored_at(value, scope);
        format!("if (live) {pointer}[{at}] = from_f32<{element}>({name});\n")
    }

    /// Where an element of a value is stored: the pointer, and the place behind it, C text.
    fn stored_at(&mut self, value: ValueId, scope: &Scope) -> (String, String) {
        let graph = self.graph;
        let axes = &graph.value(value).axes;
        let index: Vec<IndexExpr> = axes.iter().map(|a| IndexExpr::axis(*a)).collect();
        let pointer = self.pointers.write(Place::Value(value), self.names);
        let mut places = vec![match graph.row_elements(value) {
            1 => "(batch * T + t)".to_string(),
            n => format!("(batch * T + t) * {n}"),
        }];
        places.extend(self.in_row(value, &index, scope));
        (pointer, sum(places))
    }
}

/// The row of result number `n` of the recurrence, C text.
fn row_of(n: usize) -> String {
    match n {
        0 => "y_row".into(),
        n => format!("y{n}_row"),
    }
}

/// The epilogue under construction: loops over a lane's value columns, and what stands between them.
struct Rows<'p> {
    program: &'p Program,
    names: Vec<String>,
    /// Value columns of the block.
    values: usize,
    /// Whether a lane of four has its columns in registers, in pairs.
    in_registers: bool,
    text: Text,
    open: Option<Loop>,
}

/// A loop over a lane's columns that more statements may join.
struct Loop {
    declarations: Vec<String>,
    body: String,
    /// Reductions that are complete after it, and the statements that complete them.
    ends: Vec<(usize, String)>,
    /// Statements that follow these.
    after: String,
    scope: Scope,
}

impl Rows<'_> {
    /// Columns of one lane.
    fn columns(&self) -> usize {
        match self.in_registers {
            true => RUN_COLUMNS,
            false => self.values.div_ceil(32),
        }
    }

    /// Column number `nth` of a lane, C text.
    fn column(&self) -> String {
        match self.in_registers {
            true => "nth / 2 * 8 + lane_pair + nth % 2".into(),
            false => "lane + nth * 32".into(),
        }
    }

    /// Adds what follows the open loop.
    fn after_loop(&mut self, text: &str) {
        if let Some(open) = &mut self.open {
            open.after.push_str(text);
        }
    }

    /// Ends the open loop if a statement cannot join it.
    fn settle(&mut self, waits: &[usize], per_column: bool) {
        let joins = match &self.open {
            Some(open) => per_column && !open.ends.iter().any(|(n, _)| waits.contains(n)),
            None => true,
        };
        if !joins {
            self.flush();
        }
    }

    /// Adds to the loop over columns.
    fn element(&mut self, declared: &str, waits: &[usize], body: &str, scope: &Scope) {
        self.settle(waits, true);
        let open = self.open.get_or_insert_with(|| Loop {
            declarations: vec![],
            body: String::new(),
            ends: vec![],
            after: String::new(),
            scope: scope.clone(),
        });
        if !declared.is_empty() {
            open.declarations.push(declared.to_string());
        }
        open.body.push_str(body);
        open.scope.known = scope.known.clone();
    }

    fn at_end(&mut self, n: usize, line: String) {
        if let Some(open) = &mut self.open {
            open.ends.push((n, line));
        }
    }

    fn flush(&mut self) {
        let Some(open) = self.open.take() else { return };
        for lines in &open.declarations {
            self.text.lines(lines);
        }
        self.text.line("#pragma unroll");
        self.text.open(format!(
            "for (int nth = 0; nth < {}; ++nth)",
            self.columns()
        ));
        let column = self.column();
        self.text.line(format!("const int vi = {column};"));
        if self.values.is_multiple_of(32) {
            self.text.lines(&open.body);
        } else {
            self.text.open(format!("if (vi < {})", self.values));
            self.text.lines(&open.body);
            self.text.close();
        }
        self.text.close();
        for (_, line) in &open.ends {
            self.text.line(line);
        }
        self.text.lines(&open.after);
    }
}
