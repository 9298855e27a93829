//! Weighted rows of chunks, and the walk over them, as text: the templates `weighted_rows.cu` and
//! `weighted_walk.cu`. The arithmetic is derived in [`fusec_fuse::chunked::weighted`].

use super::runs::Runs;
use super::{Hooks, Scope, first};
use crate::CodegenError;
use crate::chunked::Handed;
use crate::memory::Place;
use crate::render::render;
use fusec_fuse::Storage;
use fusec_fuse::chunked::TOKEN_VALUES;
use fusec_fuse::chunked::linear::scaled_rows;
use fusec_fuse::chunked::tile::Tile;
use fusec_fuse::chunked::weighted::{COLUMNS, PAD, Row, SPAN};
use fusec_fuse::schedule::Segments;
use serde::Serialize;
use tera::Context;

/// Tokens of a warp whose epilogues are under way together.
const UNROLL: usize = 4;

/// A bonus, for the template.
#[derive(Serialize)]
struct Bonus {
    text: String,
}

impl Hooks<'_, '_> {
    /// The phase that weights the rows of a chunk.
    pub(super) fn weighted_rows(
        &mut self,
        threads: usize,
        tile: Tile,
    ) -> Result<String, CodegenError> {
        let mut context = of_tile(tile, threads);
        context.insert("span", &SPAN);
        context.insert("columns", &COLUMNS);
        context.insert("places", &tile.maker_places());
        // Neighbouring key channels are loaded together.
        self.runs = Some(Runs {
            of_keys: true,
            ..Runs::new(COLUMNS, COLUMNS, "column + nth")
        });
        let keys = self.keys();
        let decay = self.key_decay();
        let bonuses = self.parts.reads.iter().filter_map(|read| {
            let bonus = read.bonus?;
            let text = self.bonus_product(bonus, read.query);
            Some(Bonus {
                text: text.trim_end().to_string(),
            })
        });
        let bonuses: Vec<Bonus> = bonuses.collect();
        let runs = self.runs.take().map(|runs| runs.text.finish());
        context.insert("runs", runs.unwrap_or_default().trim_end());
        let v_factor = self.factor_of_values();
        // Rows as they are need no factor.
        let v_factor = match v_factor.trim_end() {
            "v_factor = 1.0f;" => "",
            text => text,
        };
        let before = self.parts.reads.first().is_some_and(|read| read.before);
        context.insert("before", &before);
        context.insert("bonuses", &bonuses);
        context.insert("value_factor", v_factor);
        // Last, since it computes what the others keep of a token.
        let tokens = self.token_values();
        context.insert("tokens", tokens.trim_end());
        context.insert("token_values", &TOKEN_VALUES);
        for (name, text) in [("keys", &keys), ("decay", &decay)] {
            context.insert(name, text.trim_end());
        }
        for (name, row) in [
            ("to_queries", Row::Query),
            ("to_keys", Row::Key),
            ("to_scores", Row::Score),
            ("to_decays", Row::Decay),
        ] {
            let place = self.weighted_place(row, tile)?;
            let pointer = self.pointers.write(place, self.names);
            let of_chunk = format!("(batch * runs + run) * {}", self.heads());
            context.insert(name, &self.of_head(&pointer, &of_chunk, row, tile));
        }
        render("weighted_rows.cu", &context)
    }

    /// The phase that walks through chunks of them.
    pub(super) fn weighted_walk(
        &mut self,
        threads: usize,
        tile: Tile,
        segments: Option<Segments>,
    ) -> Result<String, CodegenError> {
        let mut context = of_tile(tile, threads);
        context.insert("places", &tile.taker_places());
        context.insert("unroll", &UNROLL);
        let (load_state, store_state, handed) = match segments {
            None => {
                let (load, store) = self.state()?;
                (load, store, None)
            }
            Some(segments) => {
                let (load, store, handed) = self.handed_state(segments)?;
                (load, store, Some(handed))
            }
        };
        let (last_segment, bring_state, store_product) = match &handed {
            None => (None, "", ""),
            Some(Handed::Takes {
                segments,
                bring_state,
            }) => (Some(segments - 1), bring_state.as_str(), ""),
            Some(Handed::Leaves { store_product }) => (None, "", store_product.as_str()),
        };
        context.insert("last_segment", &last_segment);
        let begin = if segments.is_some() { "t_begin" } else { "0" };
        let steps = if segments.is_some() { "t_end" } else { "T" };
        context.insert("begin", begin);
        context.insert("steps", steps);
        let epilogue = match tile.lefts() {
            0 => String::new(),
            _ => self.epilogue(),
        };
        for (name, text) in [
            ("load_state", load_state.as_str()),
            ("store_state", &store_state),
            ("bring_state", bring_state),
            ("store_product", store_product),
            ("epilogue", &epilogue),
        ] {
            context.insert(name, text.trim_end());
        }
        context.insert(
            "of_chunk",
            &format!("(batch * runs + chunk0 / CHUNK) * {}", self.heads()),
        );
        let all = [
            ("from_queries", Row::Query),
            ("from_scores", Row::Score),
            ("from_keys", Row::Key),
            ("from_decays", Row::Decay),
        ];
        let read = |row: Row| tile.lefts() > 0 || matches!(row, Row::Key | Row::Decay);
        for (name, row) in all.into_iter().filter(|(_, row)| read(*row)) {
            let place = self.weighted_place(row, tile)?;
            let pointer = self.pointers.read(place, self.names);
            context.insert(name, &self.of_head(&pointer, "of_chunk", row, tile));
        }
        context.insert("value_element", &self.value_element()?);
        render("weighted_walk.cu", &context)
    }

    /// What rows of values are multiplied by.
    fn factor_of_values(&mut self) -> String {
        let (graph, parts, ops) = (self.graph, self.parts, &self.body.ops);
        // Weighting computes no values: the walk has the operations of all of the lane.
        let rows = scaled_rows(graph, parts, self.scan, ops, Storage::Bf16);
        match rows {
            Some(rows) => self.factor_beside(rows),
            None => String::new(),
        }
    }

    /// The element (t, vi) of the rows that values are a multiple of, C text.
    fn value_element(&mut self) -> Result<String, CodegenError> {
        let (graph, parts, ops) = (self.graph, self.parts, &self.body.ops);
        let Some(rows) = scaled_rows(graph, parts, self.scan, ops, Storage::Bf16) else {
            return Err(CodegenError::Unsupported {
                kernel: graph.op(self.scan).name.clone(),
                what: "weighted rows of values that are no rows".into(),
            });
        };
        let scope: Scope = self.scope(&self.value.clone(), "vi");
        Ok(self.element_of(&rows, 0, &scope))
    }

    fn weighted_place(&self, row: Row, tile: Tile) -> Result<Place, CodegenError> {
        let elements = self.heads() * row.elements(tile.key);
        Ok(Place::Chunks(self.only_state()?, row, elements))
    }

    /// Heads of the recurrence.
    fn heads(&self) -> usize {
        self.graph.elements(&self.parts.layout.heads)
    }

    /// The rows of the block's head, of a chunk whose first head has number `chunk`; C text.
    fn of_head(&self, pointer: &str, chunk: &str, row: Row, tile: Tile) -> String {
        let mut head = String::from(chunk);
        let mut inside = self.heads();
        for axis in &self.parts.layout.heads {
            let size = self.graph.size(*axis);
            inside /= size.max(1);
            if size > 1 {
                let first = first(&self.first_index, *axis);
                head.push_str(&match inside {
                    1 => format!(" + {first}"),
                    n => format!(" + {first} * {n}"),
                });
            }
        }
        format!("{pointer} + ({head}) * {}", row.elements(tile.key))
    }
}

fn of_tile(tile: Tile, threads: usize) -> Context {
    let mut context = Context::new();
    context.insert("key", &tile.key);
    context.insert("value", &tile.value);
    context.insert("chunk", &tile.chunk);
    context.insert("warps", &tile.warps);
    context.insert("pad", &PAD);
    context.insert("lefts", &tile.lefts());
    // What stands before the work of a block's threads: a condition, if some have none.
    let own = match threads > 32 * tile.warps {
        true => "if (tid < THREADS) ",
        false => "",
    };
    context.insert("own", own);
    context
}
