//! The elements of a chunk's operands: keys, queries, values, decays, bonuses. Never here: how an element of a
//! value is had, and the template's text.

use super::runs::{OF_VALUES, Runs};
use super::{Hooks, Scope};
use crate::affine::Space;
use crate::text::Text;
use fusec_fuse::Storage;
use fusec_fuse::chunked::Update;
use fusec_fuse::chunked::linear::scaled_rows;
use fusec_fuse::chunked::staging::Operand;
use fusec_ir::{Access, StepRef};

impl Hooks<'_, '_> {
    /// The elements of a, if there is one, and the queries, and those of b and k.
    pub(super) fn keys(&mut self) -> String {
        // Rows that arrive where products read them are not brought there.
        let (query, key) = (self.arrives(Operand::Query), self.arrives(Operand::Key));
        let factor = self.parts.factor;
        self.by_update(&self.key.clone(), "kj", |hooks, n, update, scope, text| {
            let queries = hooks.parts.reads.iter().map(|read| read.query);
            let queries = queries.map(|item| (n == hooks.parts.read_at).then_some(item));
            let lefts = factor.map(|_| update.a).into_iter().chain(queries);
            let b = factor.filter(|f| !f.along_key).map(|_| update.b);
            let rights = b.into_iter().chain([Some(update.k)]);
            let named = |side: &'static str| {
                move |(n, item): (usize, Option<StepRef>)| (format!("{side}_elements[{n}]"), item)
            };
            let lefts = lefts.enumerate().map(named("left")).filter(|_| !query);
            let rights = rights.enumerate().map(named("right")).filter(|_| !key);
            for (name, item) in lefts.chain(rights) {
                let value = hooks.element(item, scope, text);
                text.line(format!("{name} = {value};"));
            }
        })
    }

    /// The decay of a key channel.
    pub(super) fn key_decay(&mut self) -> String {
        self.decay(&self.key.clone(), "kj")
    }

    /// What the rows that arrive as values are multiplied by, if they do.
    pub(super) fn value_factor(&mut self) -> String {
        if !self.arrives(Operand::Value) {
            return String::new();
        }
        let (graph, parts, ops) = (self.graph, self.parts, &self.body.ops);
        let rows = scaled_rows(graph, parts, self.scan, ops, Storage::Bf16);
        match rows {
            Some(rows) => self.factor_beside(rows),
            None => String::new(),
        }
    }

    /// What these rows, which values are a multiple of, are multiplied by.
    pub(super) fn factor_beside(&mut self, rows: Access) -> String {
        let Some(update) = self.parts.only_update() else {
            return String::new();
        };
        let nothing = self.grid.space(&[]);
        let mut scope = self.scope(&nothing, "0");
        // Values are linear in the rows, so that is what they are of rows of ones.
        scope.known.push((rows, 0, "1.0f".into()));
        let mut text = Text::default();
        let value = self.coefficient(update.v, &mut scope, &mut text);
        text.line(format!("v_factor = {value};"));
        text.finish()
    }

    /// The decay of a token.
    pub(super) fn token_decay(&mut self) -> String {
        self.decay(&self.grid.space(&[]), "0")
    }

    fn decay(&mut self, space: &Space, element: &str) -> String {
        self.by_update(space, element, |hooks, _, update, scope, text| {
            let value = hooks.coefficient(update.decay, scope, text);
            text.line(format!("decay_element = {value};"));
        })
    }

    /// A bonus with the query and key that it is a weight of.
    pub(super) fn bonus_product(&mut self, bonus: StepRef, query: StepRef) -> String {
        self.by_update(&self.key.clone(), "kj", |hooks, n, update, scope, text| {
            if n != hooks.parts.read_at {
                text.line("bonus_element = 0.0f;");
                return;
            }
            let factors = [bonus, query, update.k];
            let factors = factors.map(|item| hooks.coefficient(item, scope, text));
            text.line(format!(
                "bonus_element = ({}) * ({}) * ({});",
                factors[0], factors[1], factors[2]
            ));
        })
    }

    /// The values of a token, and what is loaded of eight of them before.
    pub(super) fn values(&mut self) -> (String, String) {
        let runs = || Runs::new(OF_VALUES, OF_VALUES, "column + nth");
        self.runs = self.by_warpgroup.then(runs);
        let text = self.by_update(
            &self.value.clone(),
            "vi",
            |hooks, _, update, scope, text| {
                let value = hooks.coefficient(update.v, scope, text);
                text.line(format!("v_element = {value};"));
            },
        );
        let loads = self.runs.take().map(|runs| runs.text.finish());
        (text, loads.unwrap_or_default())
    }

    /// A coefficient, or 0 where there is none.
    fn element(&mut self, item: Option<StepRef>, scope: &mut Scope, text: &mut Text) -> String {
        match item {
            Some(item) => self.coefficient(item, scope, text),
            None => "0.0f".into(),
        }
    }

    /// What `write` writes for each update of a token, of which `int update` says which it is.
    fn by_update(
        &mut self,
        space: &Space,
        element: &str,
        write: impl Fn(&mut Self, usize, &Update, &mut Scope, &mut Text),
    ) -> String {
        let mut text = Text::default();
        let parts = self.parts;
        let last = parts.updates.len() - 1;
        for (n, update) in parts.updates.iter().enumerate() {
            match (n, last) {
                (_, 0) => {}
                (0, _) => text.open("if (update == 0)"),
                (n, last) if n < last => text.open(format!("else if (update == {n})")),
                _ => text.open("else"),
            }
            let mut scope = self.scope(space, element);
            write(self, n, update, &mut scope, &mut text);
            if last > 0 {
                text.close();
            }
        }
        text.finish()
    }
}
