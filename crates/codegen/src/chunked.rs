//! The chunked form of a recurrence with a diagonal decay and an outer-product update, as kernel text:
//! `S[kj, vi] = decay_t[kj] S[kj, vi] + k_t[kj] v_t[vi]`, read by `y_t[vi] = sum over kj of q_t[kj] S[kj, vi]`.
//!
//! Lives here: the template `chunked.cu`, the sizes it can take, and what follows from them: threads,
//! shared memory. Never here: which operations of a graph have this form, and what the hooks compute.
//!
//! The text is one lane's body, a `{ ... }` block: one block works through one sequence, one head and
//! one tile of value columns, [`Chunked::chunk`] tokens at a time. Around it the kernel must define
//! `smem` (128-byte aligned dynamic shared memory) and whatever the hooks name. Inside a chunk the
//! scores q k^T and the products with v and S run on the tensor cores. A decay enters as the product
//! over a run of tokens only, from a reference point at the border of a sub-chunk of 16, so nothing is
//! divided by a decay, nothing overflows that would not in the step-by-step form, and no logarithm is
//! needed.

pub mod rank_one;

use std::sync::LazyLock;

use fusec_fuse::chunked::staging::Room;
use fusec_fuse::chunked::{KEY_LIMIT, Places, SUB, TOKEN_VALUES, Tile, VALUE_LIMIT};
use serde::Serialize;
use tera::{Context, Tera};

/// Elements of a thread, or tokens of a warp, whose loads are under way together, and how many
/// where rows are in shared memory by then.
const UNROLL: usize = 4;
const UNROLL_AHEAD: usize = 8;

/// What a decay is indexed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Its own number for every key channel.
    PerKey,
    /// One number for all of them.
    PerToken,
}

/// One phase of a recurrence in segments that run side by side. The kernel defines `int segment`.
#[derive(Debug, Clone, Serialize)]
pub struct Segment {
    /// Segments of a sequence.
    pub count: usize,
    /// What is computed, in words.
    pub what: &'static str,
    /// The slots of this block's part of the state, a pointer expression over `SEGMENTS` and `SLOT`.
    pub slots: String,
    /// Whether only the state at the end of the segment is wanted, and the decay over it.
    pub states_only: bool,
}

/// A chunked recurrence. Hooks are C statements; they see `i64 t` (the token's number), and assign to
/// f32 variables that the template has defined.
#[derive(Debug, Clone)]
pub struct Chunked {
    /// Number of key channels, 1 to 256.
    pub key: usize,
    /// Value columns of a block, 1 to 128.
    pub value: usize,
    /// Tokens of a chunk: 16, 32 or 64.
    pub chunk: usize,
    /// Warps that work: 1, 2 or 4 per 16 tokens of the chunk.
    pub warps: usize,
    /// Threads of a block, at least those of `warps`: beside a lane that needs more, the others
    /// only take part in barriers.
    pub block_threads: usize,
    /// How many bf16 numbers an operand is split into: 1 for bf16 storage, 2 for f16, 3 keeps f32.
    pub pieces: usize,
    /// Shape of the decay.
    pub decay: Decay,
    /// Whether y reads the state before its update.
    pub before: bool,
    /// Integer expression: number of tokens.
    pub steps: String,
    /// The segment of a sequence that a block has, if it has not all of it.
    pub segments: Option<Segment>,
    /// Statements at the start: definitions that hooks use. They see `tid`, `lane`, `warp`.
    pub setup: String,
    /// Of token t, number `at` of the chunk: assigns `token_values[n * CHUNK + token]`, which other hooks read;
    /// empty if there are none.
    pub tokens: String,
    /// Defines `bring_early(i64 first, int turn)` and, if `late`, `bring_late(i64 first)`, which copy
    /// rows of the chunk that begins at token `first` to `float* arrived` with asynchronous copies:
    /// what hooks read before the products of a chunk, and only after them. Hooks find the row of
    /// token t at number `at` of `turn`. Empty if nothing arrives ahead of time.
    pub ahead: String,
    /// Whether some rows are read after the products only.
    pub late: bool,
    /// Room for those rows.
    pub room: Room,
    /// Of element (t, `int kj`): assigns `q_element`, `k_element` and, per key, `decay_element`.
    pub keys: String,
    /// Of token t, for [`Decay::PerToken`]: assigns `decay_element`.
    pub token_decay: String,
    /// Of element (t, `int vi`): assigns `v_element`.
    pub values: String,
    /// Of element (t, `int kj`): assigns `bonus_element`, an additional weight of the current token's
    /// k v in y; `None` if there is no bonus.
    pub bonus: Option<String>,
    /// Whether neighbours in memory of an element of the state differ in kj.
    pub keys_first: bool,
    /// Of element (`int kj`, `int vi`): assigns the initial `s_element`.
    pub load_state: String,
    /// Of element (`int kj`, `int vi`): stores the final `s_element`.
    pub store_state: String,
    /// Of token t, run by a whole warp: does something with `float* y_row`, its value columns in shared
    /// memory, which it may overwrite. It stores only if `live`: tokens past the end are repeats of the
    /// last one, with another row.
    pub epilogue: String,
}

/// Why a chunked recurrence cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ChunkedError {
    /// The template does not take these sizes.
    #[error("{template} does not take {what} = {got}: {limit}")]
    Size {
        /// The template.
        template: &'static str,
        /// Which one.
        what: &'static str,
        /// Its value.
        got: usize,
        /// What is required.
        limit: &'static str,
    },
    /// The template engine refused.
    #[error("template {template}: {source}")]
    Template {
        /// The template.
        template: &'static str,
        /// What it says.
        source: Box<tera::Error>,
    },
}

const NAME: &str = "chunked.cu";
const COMPOSE: &str = "chunked_compose.cu";

/// The templates of both forms.
static TEMPLATES: LazyLock<Tera> = LazyLock::new(|| {
    let mut tera = Tera::default();
    tera.add_raw_templates([
        (NAME, include_str!("../templates/chunked.cu")),
        (COMPOSE, include_str!("../templates/chunked_compose.cu")),
        (
            rank_one::NAME,
            include_str!("../templates/chunked_rank_one.cu"),
        ),
    ])
    .expect("the templates are part of this crate and tests render them");
    tera
});

/// The text of a template with these hooks.
fn rendered(
    template: &'static str,
    mut context: Context,
    hooks: &[(&'static str, &str)],
) -> Result<String, ChunkedError> {
    for (name, text) in hooks {
        context.insert(*name, text.trim_end());
    }
    TEMPLATES
        .render(template, &context)
        .map_err(|source| ChunkedError::Template {
            template,
            source: Box::new(source),
        })
}

/// Loads that are under way together, by whether rows are brought ahead of the work.
fn unroll(ahead: &str) -> usize {
    match ahead.is_empty() {
        true => UNROLL,
        false => UNROLL_AHEAD,
    }
}

/// What stands before the work of a block's threads: a condition, if some have none.
fn own_threads(block: usize, working: usize) -> &'static str {
    match block > working {
        true => "if (tid < THREADS) ",
        false => "",
    }
}

/// The first of some sizes that a template does not take.
fn sizes<const N: usize>(
    template: &'static str,
    checks: [(&'static str, usize, bool, &'static str); N],
) -> Result<(), ChunkedError> {
    match checks.into_iter().find(|(_, _, fits, _)| !fits) {
        Some((what, got, _, limit)) => Err(ChunkedError::Size {
            template,
            what,
            got,
            limit,
        }),
        None => Ok(()),
    }
}

/// The states at the starts of segments, from what each leaves; `load_state` is as in [`Chunked`].
pub fn compose(
    tile: &Tile,
    segment: &Segment,
    block_threads: usize,
    load_state: &str,
) -> Result<String, ChunkedError> {
    let threads = 32 * tile.warps();
    let mut context = Context::new();
    context.insert("key", &tile.key);
    context.insert("value", &tile.value);
    context.insert("threads", &threads);
    context.insert("per_key", &tile.per_key);
    context.insert("segments", segment);
    context.insert("own", own_threads(block_threads, threads));
    rendered(COMPOSE, context, &[("load_state", load_state)])
}

impl Chunked {
    /// Threads that work.
    pub fn threads(&self) -> usize {
        32 * self.warps
    }

    /// Dynamic shared memory of a block, bytes.
    pub fn shared_bytes(&self) -> usize {
        4 * self.places().end
    }

    /// The lane's body.
    pub fn render(&self) -> Result<String, ChunkedError> {
        self.check()?;
        let mut context = Context::new();
        context.insert("key", &self.key);
        context.insert("value", &self.value);
        context.insert("chunk", &self.chunk);
        context.insert("warps", &self.warps);
        context.insert("pieces", &self.pieces);
        context.insert("key_padded", &self.key_padded());
        context.insert("value_padded", &self.value_padded());
        context.insert("state_parts", &self.state_parts());
        context.insert("per_key", &(self.decay == Decay::PerKey));
        context.insert("before", &self.before);
        context.insert("own", own_threads(self.block_threads, self.threads()));
        context.insert("unroll", &unroll(&self.ahead));
        context.insert("late", &self.late);
        context.insert("keys_first", &self.keys_first);
        context.insert("token_values", &TOKEN_VALUES);
        context.insert("places", &self.places());
        context.insert("steps", &self.steps);
        context.insert("segments", &self.segments);
        let states_only = self.segments.as_ref().is_some_and(|of| of.states_only);
        context.insert("states_only", &states_only);
        let hooks = [
            ("setup", self.setup.as_str()),
            ("tokens", &self.tokens),
            ("ahead", &self.ahead),
            ("keys", &self.keys),
            ("decay", &self.token_decay),
            ("values", &self.values),
            ("bonus", self.bonus.as_deref().unwrap_or("")),
            ("load_state", &self.load_state),
            ("store_state", &self.store_state),
            ("epilogue", &self.epilogue),
        ];
        rendered(NAME, context, &hooks)
    }

    /// Whether the template takes these sizes.
    pub fn check(&self) -> Result<(), ChunkedError> {
        let parts = self.parts();
        let whole = parts * self.chunk == self.warps * SUB;
        let checks = [
            (
                "chunk",
                self.chunk,
                [16, 32, 64].contains(&self.chunk),
                "a chunk is 16, 32 or 64 tokens",
            ),
            (
                "warps",
                self.warps,
                whole && [1, 2, 4].contains(&parts),
                "there are 1, 2 or 4 warps per 16 tokens",
            ),
            (
                "key",
                self.key,
                (1..=KEY_LIMIT).contains(&self.key),
                "there are 1 to 256 key channels",
            ),
            (
                "value",
                self.value,
                (1..=VALUE_LIMIT).contains(&self.value),
                "a block has 1 to 128 value columns",
            ),
            (
                "pieces",
                self.pieces,
                (1..=3).contains(&self.pieces),
                "operands are split into 1 to 3 numbers",
            ),
        ];
        sizes(NAME, checks)
    }

    /// Warps that share 16 tokens.
    fn parts(&self) -> usize {
        self.warps * SUB / self.chunk.max(1)
    }

    fn key_padded(&self) -> usize {
        self.tile().key_padded()
    }

    fn value_padded(&self) -> usize {
        self.tile().value_padded(self.parts())
    }

    /// Column ranges of the state's update: as many as keep all warps busy.
    fn state_parts(&self) -> usize {
        let tiles = self.value_padded() / 8;
        let mut parts = (self.warps * 16 / self.key_padded()).max(1);
        while !tiles.is_multiple_of(parts) {
            parts -= 1;
        }
        parts
    }

    fn tile(&self) -> Tile {
        Tile {
            key: self.key,
            value: self.value,
            chunk: self.chunk,
            per_key: self.decay == Decay::PerKey,
            bonus: self.bonus.is_some(),
            room: self.room,
        }
    }

    fn places(&self) -> Places {
        self.tile().places(self.parts())
    }
}
