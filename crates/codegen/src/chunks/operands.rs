//! The elements of a chunk's operands: keys, queries, values, decays, bonuses. Never here: how an element of a
//! value is had, and the template's text.

use super::Hooks;
use super::runs::{OF_VALUES, Runs};
use crate::text::Text;
use fusec_fuse::Storage;
use fusec_fuse::chunked::linear::scaled_rows;
use fusec_fuse::chunked::staging::Operand;
use fusec_ir::StepRef;

impl Hooks<'_, '_> {
    /// The elements of a, if there is one, and the queries, and those of b and k.
    pub(super) fn keys(&mut self) -> String {
        let mut scope = self.scope(&self.key, "kj");
        let mut text = Text::default();
        let queries = self.parts.reads.iter().map(|read| read.query);
        let factor = self.parts.factor;
        let lefts = factor.map(|f| f.a).into_iter().chain(queries).enumerate();
        let b = factor.and_then(|f| f.b);
        let rights = b.into_iter().chain([self.parts.k]).enumerate();
        let lefts = lefts.map(|(n, item)| (format!("left_elements[{n}]"), item));
        let rights = rights.map(|(n, item)| (format!("right_elements[{n}]"), item));
        // Rows that arrive where products read them are not brought there.
        let (query, key) = (self.arrives(Operand::Query), self.arrives(Operand::Key));
        let lefts = lefts.filter(|_| !query);
        let rights = rights.filter(|_| !key);
        for (name, item) in lefts.chain(rights) {
            let value = self.coefficient(item, &mut scope, &mut text);
            text.line(format!("{name} = {value};"));
        }
        text.finish()
    }

    /// The decay of a key channel.
    pub(super) fn key_decay(&mut self) -> String {
        let mut scope = self.scope(&self.key, "kj");
        let mut text = Text::default();
        let value = self.coefficient(self.parts.decay, &mut scope, &mut text);
        text.line(format!("decay_element = {value};"));
        text.finish()
    }

    /// A bonus with the query and key that it is a weight of.
    pub(super) fn bonus_product(&mut self, bonus: StepRef, query: StepRef) -> String {
        let mut scope = self.scope(&self.key, "kj");
        let mut text = Text::default();
        let factors = [bonus, query, self.parts.k];
        let factors = factors.map(|item| self.coefficient(item, &mut scope, &mut text));
        text.line(format!(
            "bonus_element = ({}) * ({}) * ({});",
            factors[0], factors[1], factors[2]
        ));
        text.finish()
    }

    /// What the rows that arrive as values are multiplied by, if they do.
    pub(super) fn value_factor(&mut self) -> String {
        if !self.arrives(Operand::Value) {
            return String::new();
        }
        let of = (self.graph, self.parts, self.scan, &self.body.ops);
        let Some(rows) = scaled_rows(of.0, of.1, of.2, of.3, Storage::Bf16) else {
            return String::new();
        };
        let nothing = self.grid.space(&[]);
        let mut scope = self.scope(&nothing, "0");
        // Values are linear in the rows, so that is what they are of rows of ones.
        scope.known.push((rows, 0, "1.0f".into()));
        let mut text = Text::default();
        let value = self.coefficient(self.parts.v, &mut scope, &mut text);
        text.line(format!("v_factor = {value};"));
        text.finish()
    }

    /// The decay of a token.
    pub(super) fn token_decay(&mut self) -> String {
        let nothing = self.grid.space(&[]);
        let mut scope = self.scope(&nothing, "0");
        let mut text = Text::default();
        let value = self.coefficient(self.parts.decay, &mut scope, &mut text);
        text.line(format!("decay_element = {value};"));
        text.finish()
    }

    /// The values of a token, and what is loaded of eight of them before.
    pub(super) fn values(&mut self) -> (String, String) {
        let mut scope = self.scope(&self.value, "vi");
        let mut text = Text::default();
        let runs = || Runs::new(OF_VALUES, OF_VALUES, "column + nth");
        self.runs = self.by_warpgroup.then(runs);
        let value = self.coefficient(self.parts.v, &mut scope, &mut text);
        text.line(format!("v_element = {value};"));
        let loads = self.runs.take().map(|runs| runs.text.finish());
        (text.finish(), loads.unwrap_or_default())
    }
}
