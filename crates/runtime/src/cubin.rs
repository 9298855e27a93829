//! Reading what a kernel uses from a cubin: registers, shared memory, stack, parameters.
//!
//! A cubin is an ELF file. The figures are in `.nv.info` (per function), `.nv.info.KERNEL` and in
//! the sizes of `.nv.shared.KERNEL` and `.nv.constant0.KERNEL`. Nothing here needs a GPU or a
//! driver, and nothing here trusts the bytes.

use std::collections::{BTreeMap, BTreeSet};

use object::elf::{EM_CUDA, STT_FUNC, SymbolOther};
use object::read::elf::{ElfFile64, FileHeader, Sym};
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Bit of a symbol's `st_other` that marks a kernel, as opposed to a device function.
const STO_CUDA_ENTRY: SymbolOther = SymbolOther(0x10);
/// Shared memory that the system takes from each block, where [`RESERVED_SHARED_SECTION`] exists
/// (from `sm_90` on); the linker counts it into the kernel's section.
const RESERVED_SHARED_BYTES: u64 = 1024;
const RESERVED_SHARED_SECTION: &str = ".nv.shared.reserved.0";

/// Attribute numbers of `.nv.info`.
mod attribute {
    pub const MAX_THREADS: u8 = 0x05;
    pub const REQUIRED_THREADS: u8 = 0x10;
    pub const FRAME_SIZE: u8 = 0x11;
    pub const MIN_STACK_SIZE: u8 = 0x12;
    pub const PARAMETER_INFO: u8 = 0x17;
    pub const PARAMETER_BYTES: u8 = 0x19;
    pub const REGISTER_COUNT: u8 = 0x2f;
}

/// What one kernel uses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Registers per thread.
    pub registers: u32,
    /// Static shared memory, bytes per block, without what the system reserves.
    pub shared_bytes: u64,
    /// Shared memory that the system reserves, bytes per block: 1,024 from `sm_90` on, else 0.
    /// Counts against the block's limit together with static and dynamic shared memory.
    pub reserved_shared_bytes: u64,
    /// Local memory (the stack, callees included), bytes per thread.
    pub local_bytes: u32,
    /// The kernel's constant bank: launch data of the driver and the parameters, bytes.
    pub constant_bytes: u64,
    /// The kernel's parameters with their padding, bytes.
    pub param_bytes: u32,
    /// Each parameter, in the order of the declaration.
    pub params: Vec<Parameter>,
    /// Threads per block that the kernel was compiled for (`__launch_bounds__`), if it says so.
    pub max_threads: Option<u32>,
    /// Registers that did not fit. Not written in the cubin: `None` unless the compiler's log was
    /// at hand.
    pub spills: Option<Spills>,
}

/// Where a kernel parameter lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// Bytes from the start of the parameters.
    pub offset: u32,
    /// Size in bytes.
    pub bytes: u32,
}

/// Traffic to local memory caused by a lack of registers, bytes per thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spills {
    /// Bytes written.
    pub store_bytes: u32,
    /// Bytes read back.
    pub load_bytes: u32,
}

/// Why a cubin cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CubinError {
    /// The bytes are not a cubin.
    #[error("not a cubin: {reason}")]
    NotACubin {
        /// What is wrong.
        reason: String,
    },
    /// A section of attributes breaks off, or holds something of an unknown form.
    #[error("damaged cubin: section {section} cannot be read at byte {offset}: {reason}")]
    Malformed {
        /// The ELF section.
        section: String,
        /// Byte offset inside the section.
        offset: usize,
        /// What is wrong there.
        reason: &'static str,
    },
    /// A kernel lacks a figure that every kernel has.
    #[error("damaged cubin: kernel `{kernel}` has no {attribute}")]
    Missing {
        /// The kernel.
        kernel: String,
        /// What is missing.
        attribute: &'static str,
    },
}

/// One entry of a `.nv.info` section.
struct Attribute<'a> {
    number: u8,
    /// The 16 bits that stand in the entry's head when it has no bytes of its own.
    short: u16,
    bytes: &'a [u8],
}

impl Attribute<'_> {
    /// The `index`-th little-endian 32-bit word.
    fn word(&self, index: usize) -> Option<u32> {
        let start = index.checked_mul(4)?;
        let bytes = self.bytes.get(start..start.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }
}

/// Splits a `.nv.info` section into its entries: format, number, then 16 bits that are either the
/// value or, for format 4, the length of the bytes that follow.
fn attributes<'a>(section: &str, data: &'a [u8]) -> Result<Vec<Attribute<'a>>, CubinError> {
    const SHORT_FORMATS: std::ops::RangeInclusive<u8> = 1..=3;
    const SIZED_FORMAT: u8 = 4;
    let mut entries = Vec::new();
    let mut offset = 0;
    let malformed = |offset, reason| CubinError::Malformed {
        section: section.to_owned(),
        offset,
        reason,
    };
    while let Some(rest) = data.get(offset..).filter(|rest| !rest.is_empty()) {
        let &[format, number, low, high, ref tail @ ..] = rest else {
            return Err(malformed(offset, "an entry's head is cut short"));
        };
        let short = u16::from_le_bytes([low, high]);
        let bytes = if format == SIZED_FORMAT {
            tail.get(..usize::from(short))
                .ok_or_else(|| malformed(offset, "an entry is longer than the section"))?
        } else if SHORT_FORMATS.contains(&format) {
            &[]
        } else {
            return Err(malformed(offset, "an entry of unknown format"));
        };
        offset += 4 + bytes.len();
        entries.push(Attribute {
            number,
            short,
            bytes,
        });
    }
    Ok(entries)
}

/// The version of the assembler that made a cubin (`13.5.37`), from the note it leaves in it.
pub fn tool(cubin: &[u8]) -> Option<String> {
    let elf: ElfFile64<'_, LittleEndian> = ElfFile64::parse(cubin).ok()?;
    let note = elf.section_by_name(".note.nv.tkinfo")?.data().ok()?;
    // `Cuda compilation tools, release 13.5, V13.5.37`, ended by a NUL.
    let mut strings = note.split(|byte| *byte == 0);
    strings.find_map(|text| {
        let text = std::str::from_utf8(text).ok()?;
        let (before, version) = text.rsplit_once(", V")?;
        before.contains("release").then(|| version.to_owned())
    })
}

/// The resources of every kernel in a cubin, by kernel name. [`Resources::spills`] stays empty.
pub fn resources(cubin: &[u8]) -> Result<BTreeMap<String, Resources>, CubinError> {
    let not_a_cubin = |reason: String| CubinError::NotACubin { reason };
    let elf: ElfFile64<'_, LittleEndian> =
        ElfFile64::parse(cubin).map_err(|error| not_a_cubin(error.to_string()))?;
    let machine = elf.elf_header().e_machine(LittleEndian);
    if machine != EM_CUDA {
        let reason = format!(
            "an ELF file for machine {}, not for CUDA ({})",
            machine.0, EM_CUDA.0
        );
        return Err(not_a_cubin(reason));
    }

    let mut kernels: BTreeMap<usize, (String, Resources)> = BTreeMap::new();
    for symbol in elf.symbols() {
        let is_kernel = symbol.elf_symbol().st_other() & STO_CUDA_ENTRY == STO_CUDA_ENTRY
            && symbol.elf_symbol().st_type() == STT_FUNC
            && symbol.is_definition();
        if is_kernel {
            let name = symbol
                .name()
                .map_err(|error| not_a_cubin(error.to_string()))?;
            kernels.insert(symbol.index().0, (name.to_owned(), Resources::default()));
        }
    }

    let section_data = |name: &str| match elf.section_by_name(name) {
        Some(section) => section
            .data()
            .map_err(|error| not_a_cubin(error.to_string()))
            .map(Some),
        None => Ok(None),
    };

    let mut with_registers: BTreeSet<usize> = BTreeSet::new();
    for attribute in attributes(".nv.info", section_data(".nv.info")?.unwrap_or_default())? {
        let (Some(symbol), Some(value)) = (attribute.word(0), attribute.word(1)) else {
            continue;
        };
        let Ok(index) = usize::try_from(symbol) else {
            continue;
        };
        let Some((_, found)) = kernels.get_mut(&index) else {
            continue;
        };
        match attribute.number {
            attribute::REGISTER_COUNT => {
                found.registers = value;
                with_registers.insert(index);
            }
            // The frame is the kernel's own, the minimal stack counts its callees too.
            attribute::FRAME_SIZE | attribute::MIN_STACK_SIZE => {
                found.local_bytes = found.local_bytes.max(value);
            }
            _ => {}
        }
    }

    let reserves_shared = elf.section_by_name(RESERVED_SHARED_SECTION).is_some();
    let mut by_name = BTreeMap::new();
    for (index, (name, mut found)) in kernels {
        if !with_registers.contains(&index) {
            return Err(CubinError::Missing {
                kernel: name,
                attribute: "register count",
            });
        }
        let info = format!(".nv.info.{name}");
        let data = section_data(&info)?.ok_or_else(|| CubinError::Missing {
            kernel: name.clone(),
            attribute: "section of attributes",
        })?;
        read_kernel_attributes(&info, data, &mut found)?;
        let size = |section: &str| {
            elf.section_by_name(&format!("{section}.{name}"))
                .map_or(0, |section| section.size())
        };
        let shared = size(".nv.shared");
        if reserves_shared {
            found.reserved_shared_bytes = RESERVED_SHARED_BYTES.min(shared);
        }
        found.shared_bytes = shared - found.reserved_shared_bytes;
        found.constant_bytes = size(".nv.constant0");
        by_name.insert(name, found);
    }
    Ok(by_name)
}

fn read_kernel_attributes(
    section: &str,
    data: &[u8],
    found: &mut Resources,
) -> Result<(), CubinError> {
    let mut params: BTreeMap<u16, Parameter> = BTreeMap::new();
    for attribute in attributes(section, data)? {
        match attribute.number {
            attribute::PARAMETER_BYTES => found.param_bytes = u32::from(attribute.short),
            attribute::MAX_THREADS | attribute::REQUIRED_THREADS => {
                let sides = [attribute.word(0), attribute.word(1), attribute.word(2)];
                found.max_threads = sides
                    .into_iter()
                    .try_fold(1u32, |product, side| product.checked_mul(side?));
            }
            attribute::PARAMETER_INFO => {
                // Ordinal and offset share a word; the size stands above 18 bits of flags.
                if let (Some(place), Some(flags)) = (attribute.word(1), attribute.word(2)) {
                    let [low, high, offset_low, offset_high] = place.to_le_bytes();
                    let offset = u32::from(u16::from_le_bytes([offset_low, offset_high]));
                    let parameter = Parameter {
                        offset,
                        bytes: flags >> 18,
                    };
                    params.insert(u16::from_le_bytes([low, high]), parameter);
                }
            }
            _ => {}
        }
    }
    found.params = params.into_values().collect();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn entries_are_split_by_format() {
        let data = [
            [0x01, 0x50, 0x00, 0x00].as_slice(),
            &[0x03, 0x19, 0x14, 0x00],
            &[0x04, 0x05, 0x0c, 0x00, 128, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0],
            &[
                0x04, 0x17, 0x0c, 0x00, 0, 0, 0, 0, 1, 0, 8, 0, 0x00, 0xf0, 0x21, 0x00,
            ],
            &[
                0x04, 0x17, 0x0c, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0x00, 0xf0, 0x11, 0x00,
            ],
        ]
        .concat();
        let mut found = Resources::default();
        read_kernel_attributes(".nv.info.k", &data, &mut found).unwrap();
        let expected = Resources {
            param_bytes: 20,
            max_threads: Some(256),
            params: vec![
                Parameter {
                    offset: 0,
                    bytes: 4,
                },
                Parameter {
                    offset: 8,
                    bytes: 8,
                },
            ],
            ..Resources::default()
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn damaged_entries_are_located() {
        let sound = [0x03, 0x19, 0x14, 0x00];
        let cases: [(&[u8], &str); 4] = [
            (&[0x04], "head is cut short"),
            (
                &[0x04, 0x05, 0x0c, 0x00, 1, 2, 3],
                "longer than the section",
            ),
            (&[0x05, 0x05, 0x00, 0x00], "unknown format"),
            (&[0x00, 0x00, 0x00, 0x00], "unknown format"),
        ];
        for (bytes, reason) in cases {
            let data = [&sound, bytes].concat();
            let error = attributes(".nv.info", &data).err().unwrap();
            let text = error.to_string();
            assert!(text.contains(".nv.info cannot be read at byte 4"), "{text}");
            assert!(text.contains(reason), "{text}");
        }
    }

    #[test]
    fn an_elf_file_for_another_machine_is_refused() {
        let own_binary = std::fs::read("/proc/self/exe").unwrap();
        let text = resources(&own_binary).unwrap_err().to_string();
        assert!(text.contains("not for CUDA"), "{text}");
    }

    #[test]
    fn thread_limits_that_overflow_are_dropped() {
        let big = u32::MAX.to_le_bytes();
        let data = [[0x04, 0x05, 0x0c, 0x00], big, big, big].concat();
        let mut found = Resources::default();
        read_kernel_attributes(".nv.info.k", &data, &mut found).unwrap();
        assert_eq!(found.max_threads, None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(data in prop::collection::vec(any::<u8>(), 0..256)) {
            prop_assert!(resources(&data).is_err());
            let _ = read_kernel_attributes(".nv.info.k", &data, &mut Resources::default());
        }
    }
}
