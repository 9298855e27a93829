//! The lane of a recurrence with a rank-one factor: what the hooks of its template compute. Never here:
//! what both forms have in common, and the template's text.

use super::{Hooks, Request};
use crate::CodegenError;
use crate::chunked::rank_one::{ChunkedRankOne, Read};
use crate::text::Text;
use fusec_fuse::chunked::Factor;
use fusec_fuse::chunked::rank_one::{Decays, Tile};
use fusec_ir::StepRef;

/// The template, its hooks filled.
pub(super) fn body(
    hooks: &mut Hooks<'_, '_>,
    request: &Request<'_, '_>,
    factor: Factor,
    tile: Tile,
) -> Result<String, CodegenError> {
    let keys = hooks.both_keys(factor);
    let key_decay = match tile.decays {
        Decays::PerToken => None,
        Decays::Centred | Decays::PerKey => Some(hooks.key_decay()),
    };
    let values = hooks.values();
    let reads = hooks.parts.reads.iter().map(|read| Read {
        output: read.output,
        before: read.before,
        bonus: read
            .bonus
            .map(|bonus| hooks.bonus_product(bonus, read.query)),
    });
    let reads = reads.collect();
    let (load_state, store_state, _) = hooks.state()?;
    let epilogue = hooks.epilogue();
    // Last, since it reads what the others keep of a token.
    let decay = key_decay.unwrap_or_else(|| hooks.token_decay());
    let tokens = hooks.token_values();
    let ahead = hooks.ahead(tile.chunk);
    let late = hooks.arrives_late();
    let chunked = ChunkedRankOne {
        tile,
        block_threads: request.threads,
        of_decayed: factor.of_decayed,
        reads,
        steps: "T".into(),
        setup: String::new(),
        tokens,
        ahead,
        late,
        keys,
        decay,
        values,
        load_state,
        store_state,
        epilogue,
    };
    Ok(chunked.render()?)
}

impl Hooks<'_, '_> {
    /// The elements of a and the queries, and those of b and k.
    fn both_keys(&mut self, factor: Factor) -> String {
        let mut scope = self.scope(&self.key, "kj");
        let mut text = Text::default();
        let queries = self.parts.reads.iter().map(|read| read.query);
        let lefts = [factor.a].into_iter().chain(queries).enumerate();
        let rights = factor.b.into_iter().chain([self.parts.k]).enumerate();
        let lefts = lefts.map(|(n, item)| (format!("left_elements[{n}]"), item));
        let rights = rights.map(|(n, item)| (format!("right_elements[{n}]"), item));
        for (name, item) in lefts.chain(rights) {
            let value = self.coefficient(item, &mut scope, &mut text);
            text.line(format!("{name} = {value};"));
        }
        text.finish()
    }

    /// The decay of a key channel.
    fn key_decay(&mut self) -> String {
        let mut scope = self.scope(&self.key, "kj");
        let mut text = Text::default();
        let value = self.coefficient(self.parts.decay, &mut scope, &mut text);
        text.line(format!("decay_element = {value};"));
        text.finish()
    }

    /// A bonus with the query and key that it is a weight of.
    fn bonus_product(&mut self, bonus: StepRef, query: StepRef) -> String {
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
}
