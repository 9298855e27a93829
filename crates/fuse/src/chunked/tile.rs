//! What a block of a chunked recurrence holds, and the arithmetic behind it: a step that multiplies
//! its state by a diagonal, perhaps plus a matrix of rank one, and adds an outer product.
//!
//! Without the matrix of rank one, per head, with `S` over value rows and key columns:
//!
//! ```text
//! S_t = S_{t-1} D_t + v_t k_t^T                       D_t = diag(d_t)
//! y_t = S_t q_t                                       or, before the step, S_{t-1} q_t
//! ```
//!
//! Write `D(s, t)` for the product of the decays after token s through token t. From the state `S`
//! before the first of some tokens, with tokens as rows,
//!
//! ```text
//! Y  = Q S^T + P V        Q has the rows D(0, t) q_t,  P[t, s] = k_s^T D(s, t) q_t,  s <= t
//! S' = S D + V^T K        K has the rows D(t, end) k_t
//! ```
//!
//! (Before the step: `D(s, t-1)` and `s < t`; maths.md has the sources.) With a decay that is one
//! number per token a weight of rows and columns is all that `D(s, t)` is, and a whole chunk comes to
//! the state at once. With one per key channel it is the 16 tokens of a *sub-chunk*: a tile of the
//! tensor cores, over which no product of decays is longer than 16.
//!
//! With a matrix of rank one:
//!
//! ```text
//! u_t = S_{t-1} a_t                                   or, of the decayed state, S_{t-1} D_t a_t
//! S_t = S_{t-1} D_t + u_t b_t^T + v_t k_t^T           D_t = diag(d_t)
//! y_t = S_t q_t                                       or, before the step, S_{t-1} q_t
//! ```
//!
//! From the state `S` before the first of some tokens,
//!
//! ```text
//! S_t = S D(0, t) + sum over s <= t of (u_s b_s^T + v_s k_s^T) D(s, t)
//! u_t = S D(0, t-1) a_t + sum over s < t of u_s L[t, s] + v_s M[t, s]
//!       L[t, s] = b_s^T D(s, t-1) a_t,    M[t, s] = k_s^T D(s, t-1) a_t
//! ```
//!
//! With tokens as rows this is `(I - L) U = A S^T + M V`, `A` having the rows `D(0, t-1) a_t`. `L` is
//! strictly lower triangular, so `U` follows by substitution or, as here, from the inverse of the
//! unit lower triangular `I - L`: what Schreiber and Van Loan call the compact WY form of a product
//! of reflections, generalised by a decay (Bischof and Van Loan 1987; Yang et al. 2024, arXiv
//! 2406.06484, for the delta rule; arXiv 2412.06464 with a scalar decay). Results and the new state
//! are products again:
//!
//! ```text
//! Y  = Q S^T + N U + P V        N[t, s] = b_s^T D(s, t) q_t,    P[t, s] = k_s^T D(s, t) q_t,    s <= t
//! S' = S D + U^T B + V^T K      B has the rows D(t, end) b_t,   K the rows D(t, end) k_t
//! ```
//!
//! If `b` is `k`, which a delta rule's is up to a number that `a` takes in, only `w_t = u_t + v_t` is
//! needed: `(I - L) W = A S^T + V`, `Y = Q S^T + P W`, `S' = S D + W^T K`.
//!
//! (Before the step: `D(s, t-1)` and `s < t`.) Nothing is truncated and nothing but the products is
//! rounded. A contraction of the decayed state has `D(s, t)` in the place of `D(s, t-1)`.
//!
//! Sixteen tokens, a sub-chunk, are solved at once: the inverse
//! is a substitution in a warp's registers, and no decay runs over more than 16 tokens, after which
//! the state carries it. A longer solve costs more: the products with the state are linear in the
//! number of tokens, those between tokens quadratic. A *chunk* of one to four sub-chunks is brought
//! into products together, so that all warps have work; then each warp takes its 16 value columns of
//! the state, in registers, through the sub-chunks, without a barrier: value columns do not depend on
//! each other.
//!
//! Several updates a token, `S (D_1 + a_1 b_1^T) + v_1 k_1^T` and so on, are as many tokens in the place of
//! one, of which one has queries: all of the above holds as it is, with one row of results for each token.
//! So Siems et al. 2025 (arXiv 2502.10297) compute products of Householder matrices.
//!
//! How decays enter ([`Decays`]), each without a logarithm: as products of the decays themselves.
//!
//! Lives here: the sizes of a block. Never here: the text of the kernel.

use super::staging::{OPERAND_PAD, Operand, Room, Staged};
use super::warpgroup::{self, Products};
use super::weighted::Weighted;
use super::{MOST_TOKENS, Parts, SUB, TOKEN_VALUES, pieces};
use crate::plan::Storage;
use crate::regions::Regions;
use crate::schedule::RESERVED_BYTES;
use fusec_ir::class::decay_range;
use fusec_ir::{Graph, OpId};
use serde::{Deserialize, Serialize};

/// The smallest decay of which the product over half a sub-chunk, and its inverse, are far from the
/// ends of the range of f32 and bf16: 2^-64.
const CENTRED: f64 = 1.0 / 256.0;
/// Reads of the state that a warp has accumulators for.
pub const READ_LIMIT: usize = 8;
/// Value columns of a warp.
const COLUMNS: usize = 16;
/// Tokens of a key channel that one thread brings into products: half a sub-chunk.
const TOKENS: usize = SUB / 2;
/// Fewest warps of a block, and most for what comes before the products with the state: where an
/// operand is wide or in pieces, a thread needs more registers than 512 threads leave it.
const LEAST_WARPS: usize = 4;
const MOST_WARPS: (usize, usize) = (16, 8);
/// Threads of a block of which two are given half of the registers each.
const MOST_THREADS: usize = 256;
/// Fewest registers of a thread.
const REGISTERS: usize = 96;
/// Registers of a thread beside those of the state, where nothing is solved for.
const OTHERS: usize = 64;
/// The same where tokens of a span are multiplied element by element.
const OTHERS_IN_SPANS: usize = 96;
/// Most blocks that are planned to share a multiprocessor.
const MOST_BLOCKS: usize = 8;

/// How decays come into the products inside a sub-chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decays {
    /// One number per token: weights of whole rows and columns of the products.
    PerToken,
    /// One per key channel, proven to be so large that the product over half a sub-chunk can be
    /// divided by: each operand carries the decay between its token and the middle.
    Centred,
    /// One per key channel, perhaps 0: products inside a sub-chunk are summed element by element, with
    /// the decay from one token to the other.
    PerKey,
}

impl Decays {
    /// Those of a scan.
    pub fn of(graph: &Graph, scan: OpId, parts: &Parts<'_>) -> Decays {
        if !parts.decays_per_key(graph) {
            return Decays::PerToken;
        }
        match decay_range(graph, scan, parts.found, 0) {
            Ok((low, _)) if low >= CENTRED => Decays::Centred,
            _ => Decays::PerKey,
        }
    }
}

/// What a state is multiplied by beside its decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Factor {
    /// Nothing.
    Nothing,
    /// `a k^T`, with the key that values are multiplied by.
    AlongKey,
    /// `a b^T`, with a vector of its own.
    Apart,
}

/// What one block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tile {
    /// Key channels, all of them.
    pub key: usize,
    /// Value columns of the block.
    pub value: usize,
    /// Tokens of a chunk; updates of tokens, where one has several.
    pub chunk: usize,
    /// Updates of a token.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub updates: usize,
    /// How decays come in.
    pub decays: Decays,
    /// Reads of the state.
    pub reads: usize,
    /// Results they are added to.
    pub outputs: usize,
    /// What the state is multiplied by beside its decay.
    pub factor: Factor,
    /// Whether the current token has a bonus.
    pub bonus: bool,
    /// bf16 numbers that an operand is split into.
    pub pieces: usize,
    /// Blocks of a multiprocessor that share its registers: 1 or 2.
    pub resident: usize,
    /// Warps of the block, at least those that have value columns of the state.
    pub warps: usize,
    /// Room for rows that arrive ahead of time.
    pub room: Room,
    /// Queries and keys whose rows arrive where products read them.
    pub arriving: usize,
    /// Whether rows do that values are a multiple of.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub values_arrive: bool,
    /// Whose products they are.
    #[serde(default, skip_serializing_if = "Products::by_warp")]
    pub products: Products,
    /// Whether a phase before weights queries and keys by decays, and which of the two phases it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weighted: Option<Weighted>,
}

/// Places of a block's data in shared memory, f32 elements, each a multiple of 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the template says what each is")]
pub struct Places {
    pub right_rows: usize,
    pub v_rows: usize,
    pub scores: usize,
    pub solved: usize,
    pub y_rows: usize,
    pub decays: usize,
    pub between: usize,
    pub since: usize,
    pub until: usize,
    pub early: usize,
    pub totals: usize,
    pub bonuses: usize,
    pub tokens: usize,
    pub staged: usize,
    /// All of it.
    pub end: usize,
}

fn one() -> usize {
    1
}

fn is_one(n: &usize) -> bool {
    *n == 1
}

impl Tile {
    /// That of a block with so many value columns and the least chunk.
    pub fn least(
        graph: &Graph,
        scan: OpId,
        parts: &Parts<'_>,
        storage: Storage,
        value: usize,
        slabs: &[Staged],
    ) -> Tile {
        let of_values = |slab: &Staged| slab.operand == Some(Operand::Value);
        Tile {
            key: graph.elements(&parts.layout.key),
            value,
            chunk: SUB,
            updates: parts.updates.len(),
            decays: Decays::of(graph, scan, parts),
            reads: parts.reads.len(),
            outputs: parts.rest.len(),
            factor: match parts.factor {
                None => Factor::Nothing,
                Some(factor) if factor.along_key => Factor::AlongKey,
                Some(_) => Factor::Apart,
            },
            bonus: parts.reads.iter().any(|read| read.bonus.is_some()),
            pieces: pieces(storage),
            resident: 1,
            warps: LEAST_WARPS,
            room: Room::of(slabs),
            arriving: slabs
                .iter()
                .filter(|slab| slab.operand.is_some() && !of_values(slab))
                .count(),
            values_arrive: slabs.iter().any(of_values),
            products: Products::Warp,
            weighted: None,
        }
    }

    /// The largest chunk of which as many of the `share` blocks that come to a multiprocessor, with
    /// `bytes` of shared memory and so many registers, are there at a time as can be: at most two where
    /// tokens are solved for. A block has at most so many warps, unless more have value columns. Not fewer than 32 tokens if one block can have those, and no more than
    /// twice the run. `None` if not even 16 tokens fit.
    pub fn fitting(
        self,
        bytes: usize,
        registers: usize,
        time: usize,
        share: usize,
        warps: usize,
    ) -> Option<Tile> {
        let of = |chunk| {
            let tile = Tile { chunk, ..self };
            Tile {
                warps: tile.wanted_warps(share, registers, warps),
                ..tile
            }
        };
        let long = |tile: &Tile| tile.chunk > SUB && tile.chunk >= 2 * time * tile.updates;
        let all = || {
            [MOST_TOKENS, 32, 16]
                .map(of)
                .into_iter()
                .filter(|s| !long(s))
        };
        let fits = |tile: &Tile, blocks: usize| tile.shared_bytes() * blocks <= bytes;
        let most = match self.solves() {
            true => 2,
            false => of(SUB).blocks_by_registers(registers).min(MOST_BLOCKS),
        };
        let blocks = share.clamp(1, most);
        let least = if self.solves() { blocks } else { 1 };
        (least..=blocks)
            .rev()
            .find_map(|blocks| all().find(|s| fits(s, blocks) && s.chunk >= 32))
            .or_else(|| all().find(|s| fits(s, 1) && s.chunk <= 32))
    }

    /// Elements of the state of a block.
    pub fn state_elements(&self) -> usize {
        self.key * self.value
    }

    /// Whether there is a matrix of rank one beside the decay, so that tokens are solved for.
    pub fn solves(&self) -> bool {
        self.factor != Factor::Nothing
    }

    /// Whether a whole chunk comes to the state at once, and not 16 tokens: its results are in a
    /// warp's registers then.
    pub fn together(&self) -> bool {
        !self.solves() && self.decays == Decays::PerToken && self.reads <= 1
    }

    /// Whether 8 tokens come to the state at once: each key channel has a decay that nothing bounds, so
    /// tokens are multiplied with tokens element by element, as few as may be.
    pub fn in_spans(&self) -> bool {
        let few = matches!((self.reads, self.outputs), (0, 0) | (1, 1));
        !self.solves() && self.decays == Decays::PerKey && few
    }

    /// Tokens that come to the state at once.
    pub fn span(&self) -> usize {
        match (self.together(), self.in_spans()) {
            (true, _) => self.chunk,
            (_, true) => TOKENS,
            _ => SUB,
        }
    }

    /// Neighbouring key channels that a lane has of a span: two, unless the state leaves too few
    /// registers for their tokens.
    pub fn columns(&self) -> usize {
        match self.key_padded().is_multiple_of(64) && self.key_padded() <= 128 {
            true => 2,
            false => 1,
        }
    }

    /// Warps that share the key channels of a span, each as many.
    pub fn shares(&self) -> usize {
        let groups = self.key_padded() / (32 * self.columns());
        let warps = self.warps / (self.chunk / TOKENS);
        let divides = |shares: &usize| groups.is_multiple_of(*shares);
        (1..=warps.max(1)).rev().find(divides).unwrap_or(1)
    }

    /// bf16 numbers of a query, a key and their products. Where tokens are solved for, or come to the
    /// state a few at a time, these make up most of a result: at least two then, so that it is as exact
    /// as one of values that are rounded between operations.
    pub fn fine(&self) -> usize {
        match self.solves() || self.in_spans() {
            true => self.pieces.max(2),
            false => self.pieces,
        }
    }

    /// bf16 numbers of `u` and `v`, which stand for each other where `b` is `k`.
    pub fn many(&self) -> usize {
        match self.factor {
            Factor::AlongKey => self.fine(),
            Factor::Nothing | Factor::Apart => self.pieces,
        }
    }

    /// Left operands of the products: `a`, if there is one, and the queries.
    pub fn lefts(&self) -> usize {
        usize::from(self.solves()) + self.reads
    }

    /// Right operands: `k`, and `b` if it is another vector.
    pub fn rights(&self) -> usize {
        match self.factor {
            Factor::Nothing | Factor::AlongKey => 1,
            Factor::Apart => 2,
        }
    }

    /// Key channels, up to whole tensor-core tiles.
    pub fn key_padded(&self) -> usize {
        let tile = if self.in_spans() { 32 } else { 16 };
        self.key.next_multiple_of(tile)
    }

    /// Value columns, up to whole warps.
    pub fn value_padded(&self) -> usize {
        self.value.next_multiple_of(COLUMNS)
    }

    /// Warps that bring tokens of a key channel into products, all at once: not more than have registers.
    /// The state has value columns for some of them, or for all.
    fn wanted_warps(&self, share: usize, registers: usize, at_most: usize) -> usize {
        let busy = self.chunk / TOKENS * self.key_padded() / 32;
        let most = match self.solves() {
            true if self.key_padded() <= 64 && self.pieces == 1 => MOST_WARPS.0,
            true => MOST_WARPS.1,
            // So many of all blocks of a multiprocessor hide what one waits for.
            false => {
                let by_registers = registers / (32 * self.registers_of_thread());
                (MOST_WARPS.0 / share.max(1)).min(by_registers)
            }
        };
        let most = 1 << most.min(at_most).max(1).ilog2();
        busy.clamp(LEAST_WARPS, most.max(LEAST_WARPS))
            .max(self.value_warps())
    }

    /// Registers of a thread, as compilers were seen to take them: those of the state, and what products
    /// and elements under way need.
    fn registers_of_thread(&self) -> usize {
        if let Some(which) = self.weighted {
            return self.weighted_registers(which);
        }
        if self.products == Products::Warpgroup {
            return warpgroup::OTHERS + self.key / 2;
        }
        match (self.solves(), self.in_spans()) {
            (true, _) => (72 + self.key_padded() * 7 / 8).max(REGISTERS),
            (false, true) => OTHERS_IN_SPANS + self.key_padded() / 2,
            (false, false) => OTHERS + self.key_padded() / 2,
        }
    }

    /// Warps that have value columns of the state.
    pub fn value_warps(&self) -> usize {
        self.value_padded() / COLUMNS
    }

    /// Blocks that fit a multiprocessor with so many registers.
    pub fn blocks_by_registers(&self, all: usize) -> usize {
        let threads = 32 * self.warps;
        let wanted = self.registers_of_thread();
        let most = all / (threads * self.resident.max(1));
        (all / (wanted.min(most) * threads)).max(1)
    }

    /// The same for `share` blocks to a multiprocessor with so much shared memory, bytes, and so many
    /// registers: some at a time hide what one waits for, if there are some.
    pub fn shared_by(self, share: usize, bytes: usize, registers: usize) -> Tile {
        let alone = Tile {
            resident: 1,
            ..self
        };
        let resident = match self.solves() {
            true if share > 1
                && 2 * self.shared_bytes() <= bytes
                && 32 * self.warps <= MOST_THREADS =>
            {
                2
            }
            true => 1,
            false => {
                let by_room = bytes / (self.shared_bytes() + RESERVED_BYTES);
                let most = share.min(by_room).min(MOST_BLOCKS);
                most.min(alone.blocks_by_registers(registers)).max(1)
            }
        };
        Tile { resident, ..self }
    }

    /// Sub-chunks of a chunk.
    pub fn subs(&self) -> usize {
        self.chunk / SUB
    }

    /// Where everything lies.
    pub fn places(&self) -> Places {
        let (k, v, chunk, subs) = (
            self.key_padded(),
            self.value_padded(),
            self.chunk,
            self.subs(),
        );
        let mut regions = Regions::default();
        let mut take = |floats: usize| regions.take(floats);
        let of = |decays: Decays, floats: usize| match self.decays == decays {
            true => floats,
            false => 0,
        };
        let (per_token, centred) = (Decays::PerToken, Decays::Centred);
        // bf16 numbers, two to an element; rows are padded so that 8 of them lie in different banks.
        let row = chunk * (k + OPERAND_PAD) / 2;
        let (pieces, fine, rights) = (self.pieces, self.fine(), self.rights());
        let others = (rights - 1) * pieces;
        let solves = usize::from(self.solves());
        // Decays from token to token are those of results and of what is solved for.
        let read = usize::from(self.lefts() > 0);
        take((solves * pieces + self.reads * fine) * row);
        let mut places = Places {
            right_rows: take(match self.in_spans() {
                true => pieces * row,
                false => (others + fine) * row,
            }),
            v_rows: take(self.many() * chunk * (v + 8) / 2),
            scores: take(match self.in_spans() {
                true => self.reads * self.shares() * chunk * TOKENS,
                false => {
                    (solves * rights * pieces + self.reads * (others + fine))
                        * chunk
                        * (self.span() + 8)
                        / 2
                }
            }),
            solved: take(solves * chunk * (SUB + 4)),
            y_rows: take(self.outputs * chunk * (v + 4)),
            decays: take(match self.in_spans() {
                true => 0,
                false => of(per_token, chunk) + of(Decays::PerKey, chunk * (k + 8)),
            }),
            between: take(read * of(per_token, chunk * (SUB + 4))),
            since: take(read * of(per_token, chunk)),
            until: take(of(per_token, chunk)),
            early: take(of(centred, subs * k)),
            totals: take(match self.decays {
                Decays::PerToken => subs,
                Decays::Centred => subs * k,
                Decays::PerKey => chunk / self.span() * k,
            }),
            bonuses: take(if self.bonus { self.reads * chunk } else { 0 }),
            tokens: take(TOKEN_VALUES * chunk),
            staged: take(self.room.floats(chunk / self.updates)),
            end: 0,
        };
        places.end = regions.end();
        places
    }

    /// Shared memory of a block, bytes.
    pub fn shared_bytes(&self) -> usize {
        4 * match (self.weighted, self.products) {
            (Some(Weighted::Makes), _) => self.maker_places().end,
            (Some(Weighted::Takes), _) => self.taker_places().end,
            (None, Products::Warp) => self.places().end,
            (None, Products::Warpgroup) => self.warpgroup_places().end,
        }
    }

    /// Products of tensor-core tiles (16 x 8 x 16) that one warp does for its value columns of a
    /// sub-chunk, those of pieces counted one by one.
    pub fn state_products(&self) -> f64 {
        if self.weighted.is_some() {
            return 0.0;
        }
        let (keys, rights) = (self.key_padded() / 16, self.rights());
        let one = terms(self.pieces, self.pieces);
        let of_keys = 2 * keys * (self.lefts() + rights) * one;
        let many = terms(self.many(), self.fine());
        // Sub-chunks whose values a result takes in, of those of a chunk that comes at once.
        let seen = (self.span() / SUB + 1) as f64 / 2.0;
        let (of_results, solved) = match self.factor {
            Factor::Nothing => (many as f64 * seen, 0),
            Factor::AlongKey => (many as f64, 2 * rights * one),
            Factor::Apart => ((one + many) as f64, 2 * rights * one),
        };
        (of_keys + solved) as f64 + 2.0 * self.reads as f64 * of_results
    }

    /// Those of the products between the tokens of a sub-chunk, and those before that come to the state
    /// with it, for all warps.
    pub fn token_products(&self) -> f64 {
        let (own, fine) = (
            terms(self.pieces, self.pieces),
            terms(self.fine(), self.fine()),
        );
        let others = (self.rights() - 1) * own;
        match self.decays {
            Decays::PerKey => 0.0,
            _ => {
                let of_a = if self.solves() { others + own } else { 0 };
                let one = of_a + self.reads * (others + fine);
                let seen = (self.span() / SUB + 1) as f64 / 2.0;
                (self.key_padded() / 16 * 2 * one) as f64 * seen
            }
        }
    }

    /// Multiply-adds of one chunk between tokens whose decays keep them from the tensor cores.
    pub fn pairs(&self) -> f64 {
        match self.decays {
            _ if self.weighted == Some(Weighted::Makes) => self.weighted_pairs(),
            _ if self.lefts() == 0 || self.weighted.is_some() => 0.0,
            Decays::PerKey if self.in_spans() => {
                (self.chunk * (TOKENS + 1) * self.key_padded()) as f64
            }
            Decays::PerKey => {
                let operands = self.lefts() * self.rights() + self.rights();
                (self.chunk * SUB * self.key_padded() * operands * self.pieces) as f64
            }
            Decays::PerToken | Decays::Centred => 0.0,
        }
    }

    /// Products of a warpgroup of 64 rows, 8 columns and 16 of the sum, of one chunk.
    pub fn group_products(&self) -> f64 {
        match (self.weighted, self.products) {
            (Some(Weighted::Makes), _) | (None, Products::Warp) => 0.0,
            (Some(Weighted::Takes), _) => self.weighted_products(),
            (None, Products::Warpgroup) => self.warpgroup_products(),
        }
    }

    /// Tensor-core work of one chunk, floating-point operations.
    pub fn tensor_flops(&self) -> f64 {
        if self.products == Products::Warpgroup {
            return self.group_products() * (2 * 64 * 8 * 16) as f64;
        }
        let warps = (self.value_padded() / COLUMNS) as f64;
        let products = warps * self.state_products() + self.token_products();
        self.subs() as f64 * products * (2 * 16 * 8 * 16) as f64
    }

    /// Elements of one chunk that threads bring into products or out of them: keys of both kinds, queries,
    /// decays, values, results.
    pub fn elements(&self) -> f64 {
        if let Some(which) = self.weighted {
            return self.weighted_elements(which);
        }
        if self.products == Products::Warpgroup {
            return self.warpgroup_elements();
        }
        let decays = usize::from(self.decays != Decays::PerToken);
        let per_key = self.lefts() + self.rights() + decays - self.arriving;
        (self.chunk * (per_key * self.key + (1 + self.outputs) * self.value)) as f64
    }

    /// Other work of one chunk: decays, pieces, the inverse, and products inside sub-chunks where
    /// their decays keep them from the tensor cores.
    pub fn simt_flops(&self) -> f64 {
        let (chunk, k, v) = (
            self.chunk as f64,
            self.key_padded() as f64,
            self.value_padded() as f64,
        );
        let operands = (self.lefts() + self.rights()) as f64;
        let sub = SUB as f64;
        let inside = match self.decays {
            Decays::PerToken => chunk * 3.0 * sub,
            Decays::Centred => chunk * k * (6.0 + operands),
            Decays::PerKey => chunk * k * (sub * operands + 2.0 * operands),
        };
        match self.weighted {
            Some(Weighted::Makes) => return inside,
            // The state decays, and becomes an operand.
            Some(Weighted::Takes) => return k * v * 3.0,
            None => {}
        }
        let split = 3.0 * self.pieces as f64 * chunk * (operands * k + 2.0 * v);
        let times = (self.chunk / self.span()) as f64;
        let state = times * k * v * (2.0 + 3.0 * self.pieces as f64);
        inside + split + state + chunk * sub
    }
}

/// Products of pieces for one of numbers with so many: those as large as the smallest piece.
fn terms(a: usize, b: usize) -> usize {
    let most = a.max(b);
    let of_order = |order: usize| (0..=order).filter(|p| *p < a && order - p < b).count();
    (0..most).map(of_order).sum()
}
