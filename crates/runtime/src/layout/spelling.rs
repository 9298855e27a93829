//! Other spellings of the same weights: what stands around a state dict, names that a class had
//! before and still reads, conversions to other engines. Afterwards the names are those of the
//! model texts, which know one spelling of each layout.
//!
//! Every rule looks at names and extents only, and gives a name that is not taken.

use super::tensors::HEAD;
use crate::checkpoint::Checkpoint;

/// Tensors of which every checkpoint of a layout has one, under the name that the texts know.
const TABLES: [&str; 4] = [
    "emb.weight",
    "backbone.embeddings.weight",
    "backbone.embedding.weight",
    "model.embeddings.weight",
];

/// Brings the names of a checkpoint to those of the model texts.
pub(crate) fn respell(checkpoint: &mut Checkpoint) {
    unwrap(checkpoint);
    add_backbone(checkpoint);
    for name in checkpoint.all_names() {
        older_fla(checkpoint, &name);
    }
    web_rwkv(checkpoint);
}

/// Takes away what all names of a model begin with: `{"state_dict": ...}`, `module.`.
fn unwrap(checkpoint: &mut Checkpoint) {
    if TABLES.iter().any(|table| checkpoint.has(table)) {
        return;
    }
    let mut prefixes: Vec<String> = Vec::new();
    for name in checkpoint.names() {
        // The longest name that fits tells the most: `model.emb.weight` is no `emb.weight` only.
        let prefix = TABLES.iter().filter_map(|table| {
            let prefix = name.strip_suffix(table)?;
            prefix.ends_with('.').then_some(prefix)
        });
        prefixes.extend(prefix.min_by_key(|prefix| prefix.len()).map(str::to_string));
    }
    // Two models in one file: which one is meant is not ours to guess.
    if let [prefix] = &prefixes[..] {
        checkpoint.take_prefix(prefix);
    }
}

/// A backbone that was saved without the class around it: its names lack the first word.
fn add_backbone(checkpoint: &mut Checkpoint) {
    let embedding = ["embeddings.weight", "embedding.weight"];
    if !embedding.iter().any(|table| checkpoint.has(table)) {
        return;
    }
    for (mixer, prefix) in [
        ("layers.0.mixer.", "backbone."),
        ("layers.0.attn.", "model."),
    ] {
        if checkpoint.names().any(|name| name.starts_with(mixer)) {
            checkpoint.add_prefix(prefix);
            // The head, if it is there, is none of the backbone's.
            checkpoint.rename(&format!("{prefix}{HEAD}"), HEAD);
            return;
        }
    }
}

/// Names of fla's classes that they had before.
fn older_fla(checkpoint: &mut Checkpoint, name: &str) {
    if !name.starts_with("model.layers.") {
        return;
    }
    if let Some(attn) = name.strip_suffix("x_x").filter(|a| a.ends_with(".attn.")) {
        // The six mixers of RWKV-7, packed.
        let names = ["r", "w", "k", "v", "a", "g"].map(|x| format!("{attn}x_{x}"));
        checkpoint.unpack(name, &names);
    }
    if let Some(attn) = name
        .strip_suffix("norm.weight")
        .filter(|a| a.ends_with(".attn."))
    {
        checkpoint.rename(name, &format!("{attn}o_norm.weight"));
    }
}

/// The files of web-rwkv and ai00: RWKV's own, some tensors renamed and low-rank pairs transposed.
fn web_rwkv(checkpoint: &mut Checkpoint) {
    let Some(width) = extents(checkpoint, "emb.weight").and_then(|e| e.last().copied()) else {
        return;
    };
    let six = checkpoint.has("blocks.0.att.time_mix_w1");
    let seven = checkpoint.has("blocks.0.att.r_k") && {
        // The way in is stored [C, rank] by the authors; a square one says nothing.
        let turned = ["w1", "a1", "g1"].iter().filter_map(|pair| {
            let [rows, columns] = extents(checkpoint, &format!("blocks.0.att.{pair}"))?[..] else {
                return None;
            };
            (rows != columns).then_some(columns == width && rows != width)
        });
        let turned: Vec<bool> = turned.collect();
        !turned.is_empty() && turned.iter().all(|turned| *turned)
    };
    if !six && !seven {
        return;
    }
    for name in checkpoint.all_names() {
        let Some((block, last)) = name.rsplit_once('.') else {
            continue;
        };
        if !block.starts_with("blocks.") {
            continue;
        }
        let pairs: &[&str] = match six {
            true => &[
                "time_mix_w1",
                "time_mix_w2",
                "time_decay_w1",
                "time_decay_w2",
            ],
            false => &["w1", "w2", "a1", "a2", "g1", "g2", "v1", "v2"],
        };
        if pairs.contains(&last) {
            checkpoint.transpose(&name);
        }
        if !six {
            continue;
        }
        if last == "time_first" {
            checkpoint.rename(&name, &format!("{block}.time_faaaa"));
        } else if let Some(mixed) = last.strip_prefix("time_mix_") {
            checkpoint.rename(&name, &format!("{block}.time_maa_{mixed}"));
        }
    }
}

fn extents<'c>(checkpoint: &'c Checkpoint, name: &str) -> Option<&'c [usize]> {
    Some(checkpoint.tensor(name)?.shape)
}
