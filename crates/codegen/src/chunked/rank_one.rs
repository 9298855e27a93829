//! The chunked form of a recurrence with a rank-one factor, as kernel text: the template
//! `chunked_rank_one.cu`, the sizes it can take, and what follows from them.
//!
//! Never here: which operations of a graph have this form, and what the hooks compute. The arithmetic
//! is derived in [`fusec_fuse::chunked::rank_one`]. The text is one lane's body, as that
//! of [`super::Chunked`], with the same kinds of hooks.

use super::{ChunkedError, own_threads, rendered, sizes, unroll};
use fusec_fuse::chunked::rank_one::{Decays, READ_LIMIT, Tile};
use fusec_fuse::chunked::{KEY_LIMIT, TOKEN_VALUES, VALUE_LIMIT};
use serde::Serialize;
use tera::Context;

/// A read of the state.
#[derive(Debug, Clone)]
pub struct Read {
    /// Number of the result that it is added to.
    pub output: usize,
    /// Whether it reads the state before the step.
    pub before: bool,
    /// Of element (t, `int kj`): assigns `bonus_element`, a weight of the current token's k v, the
    /// query and k multiplied in; `None` if there is no bonus.
    pub bonus: Option<String>,
}

/// A chunked recurrence with a rank-one factor. Hooks are C statements; they see `i64 t` (the token's
/// number), and assign to f32 variables that the template has defined.
#[derive(Debug, Clone)]
pub struct ChunkedRankOne {
    /// What a block holds. Value columns: 1 to 128; key channels: 1 to 256; chunks: 16, 32 or 64 tokens.
    pub tile: Tile,
    /// Threads of a block, at least those of the tile's warps: beside a lane that needs more, the
    /// others only take part in barriers.
    pub block_threads: usize,
    /// Whether the state is contracted with `a` after its decay.
    pub of_decayed: bool,
    /// As many as the tile has.
    pub reads: Vec<Read>,
    /// Integer expression: number of tokens.
    pub steps: String,
    /// Statements at the start: definitions that hooks use. They see `tid`, `lane`, `warp`.
    pub setup: String,
    /// As in [`super::Chunked`].
    pub tokens: String,
    /// As in [`super::Chunked`].
    pub ahead: String,
    /// Whether some rows are read after the products only.
    pub late: bool,
    /// Of element (t, `int kj`): assigns `left_elements[n]` (a, then the queries) and
    /// `right_elements[n]` (b, unless it is k, then k).
    pub keys: String,
    /// Of element (t, `int kj`), or of token t for [`Decays::PerToken`]: assigns `decay_element`.
    pub decay: String,
    /// Of element (t, `int vi`): assigns `v_element`.
    pub values: String,
    /// Of element (`int kj`, `int vi`): assigns the initial `s_element`.
    pub load_state: String,
    /// Of element (`int kj`, `int vi`): stores the final `s_element`.
    pub store_state: String,
    /// Of token t, run by a whole warp: does something with the rows of results in shared memory,
    /// `float* y_row`, `y1_row` and so on, which it may overwrite. It stores only if `live`: tokens past
    /// the end are repeats of the last one, with other rows.
    pub epilogue: String,
}

/// A bonus, for the template.
#[derive(Serialize)]
struct Bonus<'a> {
    read: usize,
    text: &'a str,
}

/// A result, for the template.
#[derive(Serialize)]
struct Output {
    reads: Vec<usize>,
}

pub(super) const NAME: &str = "chunked_rank_one.cu";

impl ChunkedRankOne {
    /// Threads that work.
    pub fn threads(&self) -> usize {
        32 * self.tile.warps()
    }

    /// Dynamic shared memory of a block, bytes.
    pub fn shared_bytes(&self) -> usize {
        self.tile.shared_bytes()
    }

    /// The lane's body.
    pub fn render(&self) -> Result<String, ChunkedError> {
        self.check()?;
        let tile = &self.tile;
        let mut context = Context::new();
        context.insert("key", &tile.key);
        context.insert("value", &tile.value);
        context.insert("chunk", &tile.chunk);
        context.insert("warps", &tile.warps());
        context.insert("pieces", &tile.pieces);
        context.insert("fine", &tile.fine());
        context.insert("lefts", &tile.lefts());
        context.insert("rights", &tile.rights());
        context.insert("along_key", &tile.along_key);
        context.insert("key_padded", &tile.key_padded());
        context.insert("value_padded", &tile.value_padded());
        context.insert("per_token", &(tile.decays == Decays::PerToken));
        context.insert("centred", &(tile.decays == Decays::Centred));
        context.insert("per_key", &(tile.decays == Decays::PerKey));
        context.insert("through_a", &self.of_decayed);
        context.insert("strict", &bits(1, |read| read.before, &self.reads));
        let a = u32::from(self.of_decayed);
        context.insert("through", &bits(a, |read| !read.before, &self.reads));
        let bonuses = self.reads.iter().enumerate().filter_map(|(read, of)| {
            let text = of.bonus.as_deref()?.trim_end();
            Some(Bonus { read, text })
        });
        context.insert("bonuses", &bonuses.collect::<Vec<_>>());
        let outputs = (0..tile.outputs).map(|output| {
            let reads = self.reads.iter().enumerate();
            let of = reads.filter(|(_, read)| read.output == output);
            let reads = of.map(|(n, _)| n).collect();
            Output { reads }
        });
        context.insert("outputs", &outputs.collect::<Vec<_>>());
        context.insert("own", own_threads(self.block_threads, self.threads()));
        context.insert("unroll", &unroll(&self.ahead));
        context.insert("late", &self.late);
        context.insert("token_values", &TOKEN_VALUES);
        context.insert("places", &tile.places());
        context.insert("steps", &self.steps);
        let hooks = [
            ("setup", self.setup.as_str()),
            ("tokens", &self.tokens),
            ("ahead", &self.ahead),
            ("keys", &self.keys),
            ("decay", &self.decay),
            ("values", &self.values),
            ("load_state", &self.load_state),
            ("store_state", &self.store_state),
            ("epilogue", &self.epilogue),
        ];
        rendered(NAME, context, &hooks)
    }

    /// Whether the template takes these sizes.
    pub fn check(&self) -> Result<(), ChunkedError> {
        let tile = &self.tile;
        sizes(
            NAME,
            [
                (
                    "chunk",
                    tile.chunk,
                    [16, 32, 64].contains(&tile.chunk),
                    "a chunk is 16, 32 or 64 tokens",
                ),
                (
                    "key",
                    tile.key,
                    (1..=KEY_LIMIT).contains(&tile.key),
                    "there are 1 to 256 key channels",
                ),
                (
                    "value",
                    tile.value,
                    (1..=VALUE_LIMIT).contains(&tile.value),
                    "a block has 1 to 128 value columns",
                ),
                (
                    "pieces",
                    tile.pieces,
                    (1..=3).contains(&tile.pieces),
                    "operands are split into 1 to 3 numbers",
                ),
                (
                    "reads",
                    self.reads.len(),
                    self.reads.len() == tile.reads && (1..=READ_LIMIT).contains(&tile.reads),
                    "there are 1 to 8 reads, as many as the tile has",
                ),
            ],
        )
    }
}

/// A bit for each left operand: that of `a`, then those of the reads.
fn bits(a: u32, of: impl Fn(&Read) -> bool, reads: &[Read]) -> u32 {
    let bit = |(n, read): (usize, &Read)| u32::from(of(read)) << (n + 1);
    a | reads.iter().enumerate().map(bit).sum::<u32>()
}
