//! GPU architectures a cubin can be compiled for.
//!
//! Holds the name and its parts, nothing about what an architecture can do: limits live in
//! the device descriptions, instructions in the code generator.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Every architecture the code generator's primitives can be compiled for, oldest first.
///
/// Tensor-core primitives start at `sm_75`, so nothing older is listed, even though some NVRTC
/// versions still accept it.
const KNOWN: &[(u16, Option<Variant>)] = {
    use Variant::{ArchSpecific as A, FamilySpecific as F};
    &[
        (75, None),
        (80, None),
        (86, None),
        (87, None),
        (88, None),
        (89, None),
        (90, None),
        (90, Some(A)),
        (100, None),
        (100, Some(A)),
        (100, Some(F)),
        (103, None),
        (103, Some(A)),
        (103, Some(F)),
        (110, None),
        (110, Some(A)),
        (110, Some(F)),
        (120, None),
        (120, Some(A)),
        (120, Some(F)),
        (121, None),
        (121, Some(A)),
        (121, Some(F)),
    ]
};

/// What the letter behind an architecture's number promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Variant {
    /// `a`: instructions that exist on exactly this architecture (wgmma on `sm_90a`).
    ArchSpecific,
    /// `f`: instructions that exist on this architecture's family.
    FamilySpecific,
}

impl Variant {
    fn letter(self) -> &'static str {
        match self {
            Self::ArchSpecific => "a",
            Self::FamilySpecific => "f",
        }
    }
}

/// A GPU architecture, such as `sm_90a`. Always one that [`Arch::known`] lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Arch {
    number: u16,
    variant: Option<Variant>,
}

/// A name that is not an architecture fusec compiles for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("unknown GPU architecture `{name}`; use one of {}", known_names())]
pub struct UnknownArch {
    /// The name as given.
    pub name: String,
}

fn known_names() -> String {
    Arch::known()
        .map(|arch| arch.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

impl Arch {
    /// Every architecture that can be named, oldest first.
    pub fn known() -> impl Iterator<Item = Arch> {
        KNOWN
            .iter()
            .map(|&(number, variant)| Arch { number, variant })
    }

    /// The compute capability times ten: 90 for `sm_90` and for `sm_90a`.
    pub fn number(self) -> u16 {
        self.number
    }

    /// The compute capability: (9, 0) for `sm_90a`, (12, 1) for `sm_121`.
    pub fn compute_capability(self) -> (u16, u16) {
        (self.number / 10, self.number % 10)
    }

    /// Whether instructions of exactly this architecture may be used (`sm_90a`, not `sm_90`).
    /// Cubins for such an architecture run on no other.
    pub fn is_arch_specific(self) -> bool {
        self.variant == Some(Variant::ArchSpecific)
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "sm_{}{}",
            self.number,
            self.variant.map_or("", Variant::letter)
        )
    }
}

impl FromStr for Arch {
    type Err = UnknownArch;

    fn from_str(name: &str) -> Result<Self, UnknownArch> {
        Arch::known()
            .find(|arch| arch.to_string() == name)
            .ok_or_else(|| UnknownArch {
                name: name.to_owned(),
            })
    }
}

impl TryFrom<String> for Arch {
    type Error = UnknownArch;

    fn try_from(name: String) -> Result<Self, UnknownArch> {
        name.parse()
    }
}

impl From<Arch> for String {
    fn from(arch: Arch) -> String {
        arch.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_reads_back_as_itself() {
        for arch in Arch::known() {
            assert_eq!(arch.to_string().parse(), Ok(arch));
        }
    }

    #[test]
    fn parts_of_a_name() {
        let cases = [
            ("sm_75", 75, (7, 5), false),
            ("sm_90", 90, (9, 0), false),
            ("sm_90a", 90, (9, 0), true),
            ("sm_120f", 120, (12, 0), false),
            ("sm_121a", 121, (12, 1), true),
        ];
        for (name, number, capability, specific) in cases {
            let arch: Arch = name.parse().unwrap();
            assert_eq!(arch.number(), number, "{name}");
            assert_eq!(arch.compute_capability(), capability, "{name}");
            assert_eq!(arch.is_arch_specific(), specific, "{name}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_list() {
        for name in [
            "",
            "sm_",
            "sm_70",
            "sm_75a",
            "sm_90b",
            "SM_90",
            "90a",
            "sm_90a ",
            "compute_90",
        ] {
            let error = name.parse::<Arch>().unwrap_err();
            let text = error.to_string();
            assert!(text.contains(&format!("`{name}`")), "{text}");
            assert!(
                text.contains("sm_75, sm_80") && text.contains("sm_90a"),
                "{text}"
            );
        }
    }

    #[test]
    fn serialises_as_its_name() {
        let arch: Arch = "sm_90a".parse().unwrap();
        assert_eq!(serde_json::to_string(&arch).unwrap(), "\"sm_90a\"");
        assert!(serde_json::from_str::<Arch>("\"sm_91\"").is_err());
    }
}
