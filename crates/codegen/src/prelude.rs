//! The primitives prelude: every PTX instruction and intrinsic that generated kernels use, behind a
//! named primitive.
//!
//! Lives here: which primitive is defined by which piece of `templates/prelude/*.cu`, what it needs,
//! the lowest architecture that has it, and the emission of exactly the pieces that a kernel names.
//! Never here: the CPU bodies (the emulator's shim in `fusec-runtime` has one of the same name for
//! each), and any knowledge of plans or templates.
//!
//! A piece in a prelude file begins with a marker line
//! `//@ NAME[, NAME...] [needs NAME[, NAME...]] [arch N[a]]`; its text runs to the next marker. `arch N`:
//! from that architecture on; `arch Na`: on that one only.

use crate::lexeme::{Lexeme, lexemes};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// Pieces are emitted in the order of these files and, inside a file, in the order of the text: a piece
/// may only need pieces before it.
const FILES: &[(&str, &str)] = &[
    ("types.cu", include_str!("../templates/prelude/types.cu")),
    ("vector.cu", include_str!("../templates/prelude/vector.cu")),
    ("math.cu", include_str!("../templates/prelude/math.cu")),
    ("warp.cu", include_str!("../templates/prelude/warp.cu")),
    ("mma.cu", include_str!("../templates/prelude/mma.cu")),
    ("async.cu", include_str!("../templates/prelude/async.cu")),
    ("bulk.cu", include_str!("../templates/prelude/bulk.cu")),
    ("wgmma.cu", include_str!("../templates/prelude/wgmma.cu")),
    ("grid.cu", include_str!("../templates/prelude/grid.cu")),
];

/// The lowest compute capability fusec generates code for (10 * major + minor).
pub const BASE_ARCH: u32 = 75;

/// One piece of the prelude: the primitives that it defines and what they rest on.
#[derive(Debug, Clone)]
struct Piece {
    names: Vec<&'static str>,
    needs: Vec<&'static str>,
    arch: u32,
    /// Whether later architectures lack it.
    only: bool,
    text: &'static str,
}

#[derive(Debug)]
struct Catalogue {
    pieces: Vec<Piece>,
    by_name: BTreeMap<&'static str, usize>,
}

/// A primitive was asked for that the prelude does not define.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the primitives prelude defines no `{name}`: add it to crates/codegen/templates/prelude and its CPU body to the emulator's shim"
)]
pub struct UnknownPrimitive {
    /// The name that was asked for.
    pub name: String,
}

static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| {
    read_catalogue(FILES).expect("the prelude files are part of this crate and a test reads them")
});

fn split_names(text: &'static str) -> Vec<&'static str> {
    text.split(',')
        .map(str::trim)
        .filter(|n| !n.is_empty())
        .collect()
}

fn read_marker(line: &'static str) -> Result<Piece, String> {
    let (head, arch) = line.split_once(" arch ").unwrap_or((line, ""));
    let number = arch.trim().trim_end_matches('a');
    let only = arch.trim().ends_with('a');
    let arch = match number {
        "" => BASE_ARCH,
        number => number
            .parse()
            .map_err(|_| format!("`{line}`: arch is not a number"))?,
    };
    let (names, needs) = head.split_once(" needs ").unwrap_or((head, ""));
    Ok(Piece {
        names: split_names(names),
        needs: split_names(needs),
        arch,
        only,
        text: "",
    })
}

fn read_catalogue(files: &[(&'static str, &'static str)]) -> Result<Catalogue, String> {
    const MARK: &str = "//@ ";
    let mut catalogue = Catalogue {
        pieces: Vec::new(),
        by_name: BTreeMap::new(),
    };
    for (file, text) in files {
        for section in text.split(MARK).skip(1) {
            let (marker, body) = section
                .split_once('\n')
                .ok_or_else(|| format!("{file}: a marker without text"))?;
            let mut piece = read_marker(marker)?;
            piece.text = body.trim_end();
            for need in &piece.needs {
                let at = catalogue.by_name.get(need).ok_or_else(|| {
                    format!("{file}: `{marker}`: `{need}` is not defined before it")
                })?;
                let needed = &catalogue.pieces[*at];
                piece.arch = piece.arch.max(needed.arch);
                piece.only |= needed.only;
            }
            for name in &piece.names {
                if catalogue
                    .by_name
                    .insert(name, catalogue.pieces.len())
                    .is_some()
                {
                    return Err(format!("{file}: `{name}` is defined twice"));
                }
            }
            catalogue.pieces.push(piece);
        }
    }
    Ok(catalogue)
}

/// Every primitive's name, in alphabetical order.
pub fn primitives() -> impl Iterator<Item = &'static str> {
    CATALOGUE.by_name.keys().copied()
}

/// The primitives that exist on compute capability `arch` (75, 80, 90, ...).
pub fn primitives_on(arch: u32) -> BTreeSet<&'static str> {
    CATALOGUE
        .by_name
        .iter()
        .filter(|(_, at)| {
            let piece = &CATALOGUE.pieces[**at];
            piece.arch == arch || (piece.arch < arch && !piece.only)
        })
        .map(|(name, _)| *name)
        .collect()
}

/// Whether the prelude defines this word.
pub fn is_primitive(word: &str) -> bool {
    CATALOGUE.by_name.contains_key(word)
}

/// The primitives that `source` mentions outside comments and string literals.
pub fn primitives_in(source: &str) -> BTreeSet<&'static str> {
    let words = lexemes(source).filter_map(|lexeme| match lexeme {
        Lexeme::Word(word) => CATALOGUE.by_name.get_key_value(word),
        Lexeme::Comment(_) | Lexeme::Other(_) => None,
    });
    words.map(|(name, _)| *name).collect()
}

/// Indices of the pieces that define `names` and everything they need.
fn closure(names: &BTreeSet<&str>) -> Result<BTreeSet<usize>, UnknownPrimitive> {
    let mut wanted: Vec<&str> = names.iter().copied().collect();
    let mut pieces = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        let at = *CATALOGUE
            .by_name
            .get(name)
            .ok_or_else(|| UnknownPrimitive {
                name: name.to_owned(),
            })?;
        if pieces.insert(at) {
            wanted.extend(&CATALOGUE.pieces[at].needs);
        }
    }
    Ok(pieces)
}

/// The GPU definitions of `names` and of all they need, in a fixed order, inside the guard that lets the
/// emulator put its own in their place.
pub fn prelude_for(names: &BTreeSet<&str>) -> Result<String, UnknownPrimitive> {
    let mut out = String::from("#ifndef FUSEC_EMULATOR\n");
    for at in closure(names)? {
        out.push_str(CATALOGUE.pieces[at].text);
        out.push_str("\n\n");
    }
    out.push_str("#endif  // FUSEC_EMULATOR\n");
    Ok(out)
}

/// Name of the file that kernels include.
pub const FILE: &str = "fusec.cuh";

/// The text of [`FILE`] for kernels that use these primitives.
pub fn file(names: &BTreeSet<&str>) -> Result<String, UnknownPrimitive> {
    Ok(format!(
        "// {FILE}: the primitives of the kernels beside this file, every PTX instruction and intrinsic behind a\n\
         // name. It holds what they use, needs no other header, and is read by one kernel at a time.\n\n{}",
        prelude_for(names)?
    ))
}

/// The prelude that the kernel text `body` needs, followed by `body`: a complete, self-contained source.
pub fn with_prelude(body: &str) -> String {
    let prelude =
        prelude_for(&primitives_in(body)).expect("primitives_in returns only known names");
    format!("{prelude}\n{body}")
}

/// The lowest compute capability (75, 80, 90, ...) on which all of `names` exist.
pub fn min_arch(names: &BTreeSet<&str>) -> Result<u32, UnknownPrimitive> {
    Ok(closure(names)?
        .into_iter()
        .map(|at| CATALOGUE.pieces[at].arch)
        .max()
        .unwrap_or(BASE_ARCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_reads() {
        let catalogue = read_catalogue(FILES).expect("prelude files are well formed");
        assert!(catalogue.pieces.len() > 40);
        for piece in &catalogue.pieces {
            assert!(!piece.names.is_empty(), "{:?}", piece.text);
            assert!(
                piece.text.starts_with("// "),
                "each primitive is documented: {:?}",
                piece.names
            );
            for name in &piece.names {
                assert!(
                    piece.text.contains(name),
                    "`{name}` does not appear in its own piece"
                );
            }
        }
    }

    #[test]
    fn every_piece_declares_what_it_needs() {
        let catalogue = read_catalogue(FILES).expect("prelude files are well formed");
        for piece in &catalogue.pieces {
            let have =
                closure(&piece.names.iter().copied().collect()).expect("own names are known");
            for used in primitives_in(piece.text) {
                assert!(
                    have.contains(&catalogue.by_name[used]),
                    "{:?} uses `{used}` without `needs`",
                    piece.names
                );
            }
        }
    }

    #[test]
    fn only_what_is_named_is_emitted() {
        let text = prelude_for(&BTreeSet::from(["warp_sum"])).expect("known");
        assert!(text.contains("float lane_sum") && !text.contains("lane_max"));
        assert!(
            text.starts_with("#ifndef FUSEC_EMULATOR\n")
                && text.ends_with("#endif  // FUSEC_EMULATOR\n")
        );
        assert_eq!(
            prelude_for(&BTreeSet::from(["nonsense"])),
            Err(UnknownPrimitive {
                name: "nonsense".into()
            })
        );
    }

    #[test]
    fn names_are_found_in_code_and_nowhere_else() {
        for (source, expected) in [
            ("y = fsilu(x);", vec!["fsilu"]),
            ("// fsilu\n/* fexp \n */ flog(x)", vec!["flog"]),
            ("asm(\"fexp\\\" flog\"); fsin(x)", vec!["fsin"]),
            ("my_fexp(x1fexp) + fexp", vec!["fexp"]),
            ("/* open", vec![]),
        ] {
            assert_eq!(
                primitives_in(source).into_iter().collect::<Vec<_>>(),
                expected,
                "{source}"
            );
        }
    }

    #[test]
    fn architectures_follow_from_what_is_used() {
        for (name, arch) in [
            ("fexp", 75),
            ("ldmatrix_x4", 75),
            ("mma_k16", 80),
            ("cp_async_16", 80),
            ("tensor_load_2d", 90),
            ("wgmma_n64", 90),
        ] {
            assert_eq!(min_arch(&BTreeSet::from([name])), Ok(arch), "{name}");
            assert_eq!(primitives_on(75).contains(name), arch <= 75);
            // Later architectures multiply by other instructions.
            let later = primitives_on(100).contains(name);
            assert_eq!(later, !name.starts_with("wgmma"), "{name}");
        }
    }
}
