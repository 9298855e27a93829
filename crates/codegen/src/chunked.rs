//! The chunked form of a recurrence as kernel text: a diagonal decay and an outer product, perhaps with
//! a rank-one factor beside the decay.
//!
//! Lives here: the template `chunked.cu` with its parts (how keys come in, the products between tokens,
//! the walk with the state), its sister `chunked_warpgroup.cu` for products of warpgroups, the sizes it can take, and what follows from them: threads,
//! shared memory. Never here: which operations of a graph have this form, and what the hooks compute.
//! The arithmetic is derived in [`fusec_fuse::chunked::tile`].
//!
//! The text is one lane's body, a `{ ... }` block: one block works through one sequence, one head and
//! one tile of value columns, some tokens at a time. Around it the kernel must define `smem` (128-byte
//! aligned dynamic shared memory) and whatever the hooks name. The products between tokens and with
//! the state run on the tensor cores. A decay enters as the product over a run of tokens only, so
//! nothing overflows that would not in the step-by-step form, and no logarithm is needed.

use std::sync::LazyLock;

use fusec_fuse::chunked::tile::{Decays, Factor, READ_LIMIT, Tile};
use fusec_fuse::chunked::warpgroup::{self, Products};
use fusec_fuse::chunked::{KEY_LIMIT, TOKEN_VALUES, VALUE_LIMIT};
use serde::Serialize;
use tera::{Context, Tera};

/// Elements of a thread, or tokens of a warp, whose loads are under way together, and how many
/// where rows are in shared memory by then.
const UNROLL: usize = 4;
const UNROLL_AHEAD: usize = 8;

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

/// What a block has to do with segments of T before and after its own, number `int segment`.
#[derive(Debug, Clone)]
pub enum Handed {
    /// It leaves what its segment makes of a state, and the product of its decays.
    Leaves {
        /// Of element (`int kj`), or of all for [`Decays::PerToken`]: stores `product_element`.
        store_product: String,
    },
    /// It puts the state before its segment together, and stores that after the last segment only.
    Takes {
        /// How many segments there are.
        segments: u32,
        /// Of element (`int kj`, `int vi`): brings `s_element` through segment number `before`.
        bring_state: String,
    },
}

/// A chunked recurrence. Hooks are C statements; they see `i64 t` (the token's
/// number), where tokens have several updates `int update` (which of them it is), and assign to f32 variables that the template has defined.
#[derive(Debug, Clone)]
pub struct Chunked {
    /// What a block holds. Value columns: 1 to 128; key channels: 1 to 256; chunks: 16, 32 or 64 tokens.
    pub tile: Tile,
    /// Threads of a block, at least those of the tile's warps: beside a lane that needs more, the
    /// others only take part in barriers.
    pub block_threads: usize,
    /// Whether the state is contracted with `a`, if there is one, after its decay.
    pub of_decayed: bool,
    /// As many as the tile has.
    pub reads: Vec<Read>,
    /// Number of the update of a token that reads are before or after.
    pub read_at: usize,
    /// A bit for each update of a token: whether it is contracted with the state that the one before it is
    /// contracted with.
    pub at_once: u32,
    /// Integer expressions: the first token, and the one after the last; of updates, where a token has
    /// several.
    pub begin: String,
    /// See `begin`.
    pub steps: String,
    /// What is handed from segment to segment of T, if there are several.
    pub handed: Option<Handed>,
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
    /// Whether `bring_operands(i64 first)` (with products of warpgroups also `int turn`), which `ahead` defines then, copies the queries, or the keys,
    /// to where products read them: [`Tile::together`] only.
    pub query_arrives: bool,
    /// See `query_arrives`.
    pub key_arrives: bool,
    /// Of element (t, `int kj`): assigns `left_elements[n]` (a, if there is one, then the queries) and
    /// `right_elements[n]` (b, if there is one that is not k, then k).
    pub keys: String,
    /// Of element (t, `int kj`), or of token t for [`Decays::PerToken`]: assigns `decay_element`.
    pub decay: String,
    /// Of element (t, `int vi`): assigns `v_element`.
    pub values: String,
    /// With products of warpgroups: what is loaded together of the eight elements from `int column` on, of which
    /// `vi` is number `int nth`.
    pub value_runs: String,
    /// With products of warpgroups, where rows arrive that values are a multiple of, in the place of both: of token t,
    /// assigns `v_factor`.
    pub value_factor: String,
    /// Of element (`int kj`, `int vi`): assigns the initial `s_element`.
    pub load_state: String,
    /// Of element (`int kj`, `int vi`): stores the final `s_element`.
    pub store_state: String,
    /// Of token t, run by a whole warp: does something with the rows of results in shared memory,
    /// `float* y_row`, `y1_row` and so on, which it may overwrite. It stores only if `live`: tokens past
    /// the end are repeats of the last one, with other rows. With products of warpgroups, run by four lanes, of
    /// which each has 16 columns in `float y_row[]`.
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
const BY_WARPGROUP: &str = "chunked_warpgroup.cu";
/// Value columns of a thread whose warpgroup has 64 of them for 16 tokens to a warp.
pub(crate) const RUN_COLUMNS: usize = warpgroup::VALUES / 4;

static TEMPLATES: LazyLock<Tera> = LazyLock::new(|| {
    let mut tera = Tera::default();
    tera.add_raw_templates([
        (NAME, include_str!("../templates/chunked.cu")),
        (
            BY_WARPGROUP,
            include_str!("../templates/chunked_warpgroup.cu"),
        ),
        (
            "chunked_decays.cu",
            include_str!("../templates/chunked_decays.cu"),
        ),
        (
            "chunked_keys.cu",
            include_str!("../templates/chunked_keys.cu"),
        ),
        (
            "chunked_tokens.cu",
            include_str!("../templates/chunked_tokens.cu"),
        ),
        (
            "chunked_walk.cu",
            include_str!("../templates/chunked_walk.cu"),
        ),
        (
            "chunked_states.cu",
            include_str!("../templates/chunked_states.cu"),
        ),
    ])
    .expect("the templates are part of this crate and tests render them");
    tera
});

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

impl Chunked {
    /// Threads that work.
    pub fn threads(&self) -> usize {
        32 * self.tile.warps
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
        context.insert("updates", &tile.updates);
        context.insert("read_at", &self.read_at);
        context.insert("at_once", &self.at_once);
        context.insert("warps", &tile.warps);
        context.insert("pieces", &tile.pieces);
        context.insert("fine", &tile.fine());
        context.insert("lefts", &tile.lefts());
        context.insert("rights", &tile.rights());
        context.insert("factor", &tile.solves());
        context.insert("along_key", &(tile.factor == Factor::AlongKey));
        context.insert("together", &tile.together());
        context.insert("spans", &tile.in_spans());
        context.insert("shares", &tile.shares());
        context.insert("columns", &tile.columns());
        context.insert(
            "before",
            &self.reads.first().is_some_and(|read| read.before),
        );
        context.insert("key_padded", &tile.key_padded());
        context.insert("value_padded", &tile.value_padded());
        context.insert("per_token", &(tile.decays == Decays::PerToken));
        context.insert("centred", &(tile.decays == Decays::Centred));
        context.insert("per_key", &(tile.decays == Decays::PerKey));
        context.insert("through_a", &self.of_decayed);
        let a = tile.solves();
        let strict = bits(a.then_some(true), |read| read.before, &self.reads);
        context.insert("strict", &strict);
        let of_a = a.then_some(self.of_decayed);
        let through = bits(of_a, |read| !read.before, &self.reads);
        context.insert("through", &through);
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
        // What stands before the work of a block's threads: a condition, if some have none.
        let own = match self.block_threads > self.threads() {
            true => "if (tid < THREADS) ",
            false => "",
        };
        context.insert("own", own);
        let unroll = match self.ahead.is_empty() {
            true => UNROLL,
            false => UNROLL_AHEAD,
        };
        context.insert("unroll", &unroll);
        context.insert("late", &self.late);
        // Where the state is not read, there are no queries to bring.
        let no_query = self.query_arrives || tile.lefts() == 0;
        context.insert("query_arrives", &no_query);
        context.insert("key_arrives", &self.key_arrives);
        context.insert("arrive", &(self.query_arrives || self.key_arrives));
        context.insert("all_arrive", &(no_query && self.key_arrives));
        let (last_segment, bring_state, store_product) = match &self.handed {
            None => (None, "", ""),
            Some(Handed::Takes {
                segments,
                bring_state,
            }) => (Some(segments - 1), bring_state.as_str(), ""),
            Some(Handed::Leaves { store_product }) => (None, "", store_product.as_str()),
        };
        context.insert("last_segment", &last_segment);
        context.insert("begin", &self.begin);
        context.insert("token_values", &TOKEN_VALUES);
        let template = match tile.products {
            Products::Warp => {
                context.insert("places", &tile.places());
                NAME
            }
            Products::Warpgroup => {
                context.insert("places", &tile.warpgroup_places());
                context.insert("turns", &tile.turns());
                context.insert("run_columns", &RUN_COLUMNS);
                BY_WARPGROUP
            }
        };
        context.insert("steps", &self.steps);
        let hooks = [
            ("setup", self.setup.as_str()),
            ("tokens", &self.tokens),
            ("ahead", &self.ahead),
            ("keys", &self.keys),
            ("decay", &self.decay),
            ("values", &self.values),
            ("value_runs", &self.value_runs),
            ("value_factor", &self.value_factor),
            ("load_state", &self.load_state),
            ("store_state", &self.store_state),
            ("epilogue", &self.epilogue),
            ("bring_state", bring_state),
            ("store_product", store_product),
        ];
        for (name, text) in hooks {
            context.insert(name, text.trim_end());
        }
        TEMPLATES
            .render(template, &context)
            .map_err(|source| ChunkedError::Template {
                template,
                source: Box::new(source),
            })
    }

    /// Whether the template takes these sizes.
    pub fn check(&self) -> Result<(), ChunkedError> {
        let tile = &self.tile;
        // What becomes of the state alone is of use to later segments only.
        let least = usize::from(!matches!(self.handed, Some(Handed::Leaves { .. })));
        let checks = [
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
                "updates",
                tile.updates,
                tile.updates > self.read_at,
                "a token has at least one update, and those that reads are around",
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
                self.reads.len() == tile.reads && (least..=READ_LIMIT).contains(&tile.reads),
                "there are 1 to 8 reads, as many as the tile has; none where only the state is wanted",
            ),
        ];
        match checks.into_iter().find(|(_, _, fits, _)| !fits) {
            Some((what, got, _, limit)) => Err(ChunkedError::Size {
                template: NAME,
                what,
                got,
                limit,
            }),
            None => Ok(()),
        }
    }
}

/// A bit for each left operand: that of `a`, if there is one, then those of the reads.
fn bits(a: Option<bool>, of: impl Fn(&Read) -> bool, reads: &[Read]) -> u32 {
    let all = a.into_iter().chain(reads.iter().map(of));
    all.enumerate().map(|(n, bit)| u32::from(bit) << n).sum()
}
