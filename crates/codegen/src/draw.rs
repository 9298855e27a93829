//! The kernel that draws the next tokens from logits, by the law of `docs/generation.md`.
//!
//! What lives here: its text for a type of logits, and the layout of the memory that it shares with the host.
//! It is no part of a model or of a plan: whoever runs a model puts it beside the model's kernels.

use crate::CodegenError;
use crate::manifest::{ENTRY, Element, KernelImage, KernelParam, Manifest, ParamKind};
use crate::memory::c_type;
use crate::prelude;
use crate::render::render;
use sha2::{Digest, Sha256};
use tera::Context;

/// Threads of its blocks, of which each sequence has one.
pub const THREADS: u32 = 1024;
/// Bins of a search for the last token that stays: a power of two, and a multiple of the threads.
const BINS: u32 = 2048;
/// Tokens that are compared with each other at the end of a search.
const LISTED: u32 = 1024;
/// Pieces of the vocabulary whose weights are summed apart: a multiple of 32.
const PIECES: u32 = 256;
/// Dynamic shared memory of a block, bytes: bins of a weight and a count, listed tokens of a key and a weight,
/// sums of pieces and of warps, and what was found.
const SHARED_BYTES: u32 = BINS * 12 + LISTED * 16 + PIECES * 8 + THREADS / 32 * 8 + 3 * 8 + 2 * 4;

/// Bytes of the settings that all sequences have in common.
pub const SETTINGS_BYTES: usize = 32;
/// Bytes of what is kept of a sequence.
pub const SEQUENCE_BYTES: usize = 24;

/// What all sequences have in common, as the kernel reads it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// What differences of logits are multiplied by to be powers of two.
    pub scale: f32,
    /// Divides the logits above 0 of tokens seen before, multiplies the others.
    pub penalty: f32,
    /// Tokens that stay; 0 for all.
    pub top_k: u32,
    /// Whether the first of the order is taken, always.
    pub greedy: bool,
    /// Share of the weight that stays, of 2^32.
    pub share: u64,
    /// Key of the draws.
    pub seed: u64,
}

impl Settings {
    /// As the kernel reads them.
    pub fn bytes(&self) -> [u8; SETTINGS_BYTES] {
        let mut bytes = [0; SETTINGS_BYTES];
        bytes[..4].copy_from_slice(&self.scale.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.penalty.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.top_k.to_le_bytes());
        bytes[12..16].copy_from_slice(&u32::from(self.greedy).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.share.to_le_bytes());
        bytes[24..].copy_from_slice(&self.seed.to_le_bytes());
        bytes
    }
}

/// A sequence, as the kernel keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sequence {
    /// Position of the token that is drawn next.
    pub position: u64,
    /// Number of the sequence.
    pub number: u32,
    /// Tokens drawn since the host last wrote this.
    pub drawn: u32,
    /// The first token whose logit was no finite number, and the logit; the host writes none.
    pub fault: Option<(u32, f32)>,
}

impl Sequence {
    /// As the kernel keeps it.
    pub fn bytes(&self) -> [u8; SEQUENCE_BYTES] {
        let (fault, value) = match self.fault {
            None => (0, 0.0),
            Some((token, value)) => (token + 1, value),
        };
        let mut bytes = [0; SEQUENCE_BYTES];
        bytes[..8].copy_from_slice(&self.position.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.number.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.drawn.to_le_bytes());
        bytes[16..20].copy_from_slice(&u32::to_le_bytes(fault));
        bytes[20..].copy_from_slice(&f32::to_le_bytes(value));
        bytes
    }

    /// From what the kernel kept.
    pub fn from_bytes(bytes: [u8; SEQUENCE_BYTES]) -> Self {
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let position = u64::from(word(4)) << 32 | u64::from(word(0));
        Sequence {
            position,
            number: word(8),
            drawn: word(12),
            fault: match word(16) {
                0 => None,
                fault => Some((fault - 1, f32::from_bits(word(20)))),
            },
        }
    }
}

/// The kernel for logits of this type, under a name that no kernel of the manifest has. Its parameters: the
/// logits, the next token of each sequence, the settings, the sequences, the tokens drawn, a bit for each token
/// that was seen, and then the elements of a row of logits, the tokens of the vocabulary, and how many drawn
/// tokens of a sequence are kept.
pub fn kernel(manifest: &Manifest, logits: Element) -> Result<KernelImage, CodegenError> {
    let taken = |name: &String| {
        let kernels = manifest.kernels.iter();
        kernels.clone().any(|kernel| kernel.name == *name)
    };
    let mut name = String::from("draw_token");
    while taken(&name) {
        name.push('_');
    }
    let entry = format!("{ENTRY}{name}");
    let mut context = Context::new();
    context.insert("entry", &entry);
    context.insert("element", c_type(logits));
    context.insert("threads", &THREADS);
    context.insert("bins", &BINS);
    context.insert("listed", &LISTED);
    context.insert("pieces", &PIECES);
    let body = render("draw.cu", &context)?;
    let min_arch = prelude::min_arch(&prelude::primitives_in(&body))?;
    // Its primitives are its own: with those of the model's kernels in one file, these would be compiled again.
    let source = prelude::with_prelude(&body);
    let digest = Sha256::digest(source.as_bytes());
    let pointers = ["logits", "next", "common", "records", "drawn", "marks"];
    let pointers = pointers.map(|name| (name, ParamKind::Pointer));
    let numbers = ["width", "tokens", "kept_steps"].map(|name| (name, ParamKind::I64));
    let params = pointers.into_iter().chain(numbers);
    Ok(KernelImage {
        image: name.clone(),
        name,
        entry,
        source_sha256: digest.iter().map(|b| format!("{b:02x}")).collect(),
        source,
        threads: THREADS,
        shared_bytes: SHARED_BYTES,
        min_arch,
        params: params
            .map(|(name, kind)| KernelParam {
                name: name.into(),
                kind,
            })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_sequence_is_read_as_it_was_written() {
        for fault in [None, Some((0, f32::INFINITY)), Some((70_000, -0.5))] {
            let sequence = Sequence {
                position: 5 << 33 | 7,
                number: 3,
                drawn: 9,
                fault,
            };
            assert_eq!(Sequence::from_bytes(sequence.bytes()), sequence);
        }
    }
}
