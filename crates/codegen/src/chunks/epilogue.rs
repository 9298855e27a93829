//! After a chunk: the operations that follow the recurrence, a warp to a token.

use super::{Hooks, Scope, statement_of, sum};
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
            text: Text::default(),
            open: None,
        };
        for (n, rest) in self.parts.rest.iter().enumerate() {
            let Some(rest) = rest else { continue };
            let mut scope = self.scope(&self.value, "vi");
            let mut text = Text::default();
            let value = self.coefficient(*rest, &mut scope, &mut text);
            text.line(format!("{}[vi] += {value};", row_of(n)));
            rows.element("", &[], &text.finish(), &scope);
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
                let store = self.store(value, &format!("{}[vi]", row_of(n)), &scope);
                rows.element("", &[], &store, &scope);
            }
        }
        for (n, statement) in program.statements.iter().enumerate() {
            if statement.op.is_some() {
                self.statement(&mut rows, n, statement);
            }
        }
        rows.flush();
        rows.text.finish()
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
        match (&statement.reduce, per_column) {
            (Some((combine, _)), true) => {
                let lane = format!("{name}_lane");
                text.line(match combine {
                    Combine::Sum => format!("{lane} += {value};"),
                    Combine::Max => format!("{lane} = fmax32({lane}, {value});"),
                });
                let declared = format!("float {lane} = {};", neutral(*combine));
                rows.element(&declared, &waits, &text.finish(), &scope);
                let whole = match combine {
                    Combine::Sum => "warp_sum",
                    Combine::Max => "warp_max",
                };
                rows.at_end(n, format!("const float {name} = {whole}({lane});"));
            }
            // A sum over axes of one element is that element.
            (_, true) => {
                text.line(format!("{name}[nth] = {value};"));
                self.stores(
                    statement,
                    n,
                    rows,
                    &format!("{name}[nth]"),
                    &scope,
                    &mut text,
                );
                let declared = format!("float {name}[{}];", rows.columns());
                rows.element(&declared, &waits, &text.finish(), &scope);
            }
            (_, false) => {
                text.line(format!("const float {name} = {value};"));
                let mut stores = Text::default();
                self.stores(statement, n, rows, &name, &scope, &mut stores);
                let stores = stores.finish();
                if !stores.is_empty() {
                    // One lane stores what all of them know.
                    text.open("if (lane == 0)");
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
                            let column = if per_column { "vi" } else { "0" };
                            format!("{}[{column}]", row_of(n))
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

    /// Writes the values that a statement computes and that are needed outside.
    fn stores(
        &mut self,
        statement: &Statement,
        n: usize,
        rows: &Rows<'_>,
        name: &str,
        scope: &Scope,
        text: &mut Text,
    ) {
        let Some(op) = statement.op else { return };
        for value in self.graph.op(op).outputs.clone() {
            if rows.program.value.get(&value) == Some(&n) && self.body.stores.contains(&value) {
                text.lines(&self.store(value, name, scope));
            }
        }
    }

    pub(super) fn store(&mut self, value: ValueId, name: &str, scope: &Scope) -> String {
        let graph = self.graph;
        let axes = &graph.value(value).axes;
        let index: Vec<IndexExpr> = axes.iter().map(|a| IndexExpr::axis(*a)).collect();
        let pointer = self.pointers.write(Place::Value(value), self.names);
        let element = c_type(self.pointers.element(Place::Value(value)));
        let mut places = vec![match graph.row_elements(value) {
            1 => "(batch * T + t)".to_string(),
            n => format!("(batch * T + t) * {n}"),
        }];
        places.extend(self.in_row(value, &index, scope));
        format!(
            "if (live) {pointer}[{}] = from_f32<{element}>({name});\n",
            sum(places)
        )
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
    text: Text,
    open: Option<Loop>,
}

/// A loop over a lane's columns that more statements may join.
struct Loop {
    declarations: Vec<String>,
    body: String,
    /// Reductions that are complete after it, and the statements that complete them.
    ends: Vec<(usize, String)>,
    scope: Scope,
}

impl Rows<'_> {
    /// Columns of one lane.
    fn columns(&self) -> usize {
        self.values.div_ceil(32)
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
        for line in &open.declarations {
            self.text.line(line);
        }
        self.text.line("#pragma unroll");
        self.text.open(format!(
            "for (int nth = 0; nth < {}; ++nth)",
            self.columns()
        ));
        self.text.line("const int vi = lane + nth * 32;");
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
    }
}
