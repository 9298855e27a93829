//! The model texts of `models/`, inside the binary: a checkpoint needs no file beside it.

use std::io;
use std::path::{Component, Path};

use fusec_ir::language::ModelSource;

macro_rules! texts {
    ($($path:literal),* $(,)?) => {
        [$(($path, include_str!(concat!("../../../../models/", $path)))),*]
    };
}

/// Path below `models/`, and text.
const TEXTS: [(&str, &str); 28] = texts![
    "blocks/frame.toml",
    "blocks/mamba2.toml",
    "blocks/rwkv6.toml",
    "blocks/swiglu.toml",
    "comba.toml",
    "deltanet.toml",
    "deltaproduct.toml",
    "gated-deltanet.toml",
    "gated-scan.toml",
    "gla.toml",
    "griffin.toml",
    "hgrn.toml",
    "hgrn2.toml",
    "hybrid-cp.toml",
    "hybrid-gf.toml",
    "hybrid-rf.toml",
    "hybrid-ws.toml",
    "hybrid.toml",
    "kda.toml",
    "lfm2.toml",
    "linear-attention.toml",
    "mamba1.toml",
    "mamba2.toml",
    "retnet.toml",
    "rwkv6-expanded.toml",
    "rwkv6.toml",
    "rwkv7.toml",
    "xlstm.toml",
];

fn find(path: &str) -> Option<&'static str> {
    let found = TEXTS.iter().find(|(name, _)| *name == path)?;
    Some(found.1)
}

/// The model text of that name (without `.toml`), with what it includes.
pub fn embedded(name: &str) -> Option<ModelSource<'static>> {
    let file = format!("{name}.toml");
    let text = find(&file)?;
    Some(ModelSource {
        name: format!("models/{file}"),
        text: text.to_string(),
        loader: Box::new(|path: &Path| {
            let parts = path.components().filter_map(|part| match part {
                Component::Normal(part) => part.to_str(),
                _ => None,
            });
            let path = parts.collect::<Vec<_>>().join("/");
            find(&path).map(str::to_string).ok_or_else(|| {
                let why = format!("no '{path}' among the built-in models");
                io::Error::new(io::ErrorKind::NotFound, why)
            })
        }),
    })
}

/// Names of the model texts inside the binary.
pub fn embedded_names() -> impl Iterator<Item = &'static str> {
    let tops = TEXTS.iter().filter(|(name, _)| !name.contains('/'));
    tops.filter_map(|(name, _)| name.strip_suffix(".toml"))
}

/// The checkpoints that are read into a built-in model: by `model_type`, or by what they are.
pub fn read_into(model: &str) -> Vec<&'static str> {
    let read: &[&str] = match model {
        "comba" => &["comba"],
        "deltanet" => &["delta_net"],
        "deltaproduct" => &["gated_deltaproduct"],
        "gated-deltanet" => &["gated_deltanet"],
        "gla" => &["gla"],
        "griffin" => &["recurrent_gemma"],
        "hgrn" => &["hgrn"],
        "hgrn2" => &["hgrn2"],
        "kda" => &["kda"],
        "lfm2" => &["lfm2"],
        "linear-attention" => &["linear_attn"],
        "mamba1" => &["mamba"],
        "mamba2" => &["mamba2"],
        "retnet" => &["retnet"],
        "rwkv6" => &["rwkv6", "RWKV-6 .pth"],
        "rwkv7" => &["rwkv7", "RWKV-7 .pth"],
        "xlstm" => &["xlstm"],
        _ => &[],
    };
    read.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_model_type_is_read_into_a_model() {
        let read: Vec<_> = embedded_names().flat_map(read_into).collect();
        for kind in super::super::KNOWN {
            assert_eq!(read.iter().filter(|r| **r == kind).count(), 1, "{kind}");
        }
    }

    #[test]
    fn no_model_text_is_left_out() {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
        let mut there = BTreeSet::new();
        for below in ["", "blocks/"] {
            for entry in std::fs::read_dir(models.join(below)).expect("a directory") {
                let name = entry.expect("an entry").file_name();
                let name = name.to_str().expect("a name in UTF-8").to_string();
                if name.ends_with(".toml") {
                    there.insert(format!("{below}{name}"));
                }
            }
        }
        let built_in: BTreeSet<String> = TEXTS.iter().map(|t| t.0.to_string()).collect();
        assert_eq!(built_in, there);
    }
}
