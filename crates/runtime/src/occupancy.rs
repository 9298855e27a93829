//! How many blocks of a kernel a multiprocessor holds at once.
//!
//! From what a kernel uses and what an architecture has; nothing is asked of a driver. The limits are
//! those of the table "Technical Specifications per Compute Capability" of NVIDIA's CUDA C++ Programming
//! Guide. Never here: what is made of it; a low occupancy is no fault of a kernel that has work enough.

use crate::cubin::Resources;
use fusec_fuse::{Device, Target};
use serde::Serialize;

/// Registers are given to warps by so many.
const REGISTER_UNIT: usize = 256;
/// Threads of a warp.
const WARP: usize = 32;
/// Shared memory is given to blocks by so many bytes.
const SHARED_UNIT: usize = 128;

/// What a multiprocessor of an architecture holds.
struct Limits {
    /// Compute capability times ten.
    arch: u32,
    threads: usize,
    blocks: usize,
    shared_bytes: usize,
}

const fn limits(arch: u32, threads: usize, blocks: usize, shared_kib: usize) -> Limits {
    Limits {
        arch,
        threads,
        blocks,
        shared_bytes: shared_kib * 1024,
    }
}

const KNOWN: [Limits; 8] = [
    limits(75, 1024, 16, 64),
    limits(80, 2048, 32, 164),
    limits(86, 1536, 16, 100),
    limits(87, 1536, 16, 164),
    limits(89, 1536, 24, 100),
    limits(90, 2048, 32, 228),
    limits(100, 2048, 32, 228),
    limits(120, 1536, 24, 100),
];

/// The blocks that a multiprocessor holds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Occupancy {
    /// Blocks at once; 0 if not even one fits.
    pub blocks: usize,
    /// Their threads over those that a multiprocessor can hold.
    pub part: f64,
    /// What there is too little of for one more block.
    pub limited_by: &'static str,
}

/// How many blocks of a kernel with `threads` and `dynamic_bytes` of dynamic shared memory a
/// multiprocessor holds. `None` for an architecture whose limits are not known here.
pub fn occupancy(
    device: &Device,
    used: &Resources,
    threads: u32,
    dynamic_bytes: u32,
) -> Option<Occupancy> {
    let target = Target::of(device);
    let has = KNOWN.iter().find(|limits| limits.arch == target.arch)?;
    let warps = (threads as usize).div_ceil(WARP).max(1);
    let registers = (used.registers as usize * WARP).next_multiple_of(REGISTER_UNIT) * warps;
    let shared = used.shared_bytes + used.reserved_shared_bytes + u64::from(dynamic_bytes);
    let shared = usize::try_from(shared).ok()?.next_multiple_of(SHARED_UNIT);
    let fits = [
        ("blocks", has.blocks),
        ("threads", has.threads / (warps * WARP)),
        ("registers", target.registers / registers.max(1)),
        ("shared memory", has.shared_bytes / shared.max(1)),
    ];
    let (limited_by, blocks) = fits.into_iter().min_by_key(|(_, blocks)| *blocks)?;
    Some(Occupancy {
        blocks,
        part: (blocks * warps * WARP) as f64 / has.threads as f64,
        limited_by,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_as_many_as_the_scarcest_thing_allows() {
        let h200 = Device::find("h200").expect("a profile");
        let used = |registers, shared_bytes, reserved_shared_bytes| Resources {
            registers,
            shared_bytes,
            reserved_shared_bytes,
            ..Resources::default()
        };
        // Of 65,536 registers, 2,048 threads, 32 blocks and 228 KiB.
        for (used, threads, dynamic, blocks, limited_by) in [
            (used(32, 0, 0), 256, 0, 8, "threads"),
            (used(16, 0, 0), 32, 0, 32, "blocks"),
            (used(128, 0, 0), 256, 0, 2, "registers"),
            // 33 registers are given as 40: 8 warps take 10,240.
            (used(33, 0, 0), 256, 0, 6, "registers"),
            (used(32, 0, 1024), 128, 100 * 1024, 2, "shared memory"),
            (used(32, 1024, 1024), 128, 226 * 1024, 1, "shared memory"),
            (used(255, 0, 0), 1024, 0, 0, "registers"),
        ] {
            let found = occupancy(&h200, &used, threads, dynamic).expect("a known architecture");
            assert_eq!((found.blocks, found.limited_by), (blocks, limited_by));
            assert!((found.part - (blocks * threads as usize) as f64 / 2048.0).abs() < 1e-12);
        }
        let other = h200.compiled_for("sm_88");
        assert_eq!(occupancy(&other, &used(32, 0, 0), 32, 0), None);
    }
}
