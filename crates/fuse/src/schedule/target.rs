//! The device as far as it limits a schedule: what can be launched on it, and with which instructions.
//!
//! The one place where an architecture becomes capabilities. Never here: rates, which are the cost
//! model's (see [`crate::cost`]).

use crate::Device;
use crate::elements::Element;
use crate::plan::Storage;

/// Shared memory that a block takes of its multiprocessor's beside its own, bytes.
pub const RESERVED_BYTES: usize = 1024;

/// What a schedule must fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Compute capability times ten.
    pub arch: u32,
    /// Whether instructions may be used that exist on this architecture only (`sm_90a`).
    pub specific: bool,
    /// Streaming multiprocessors.
    pub sms: usize,
    /// Shared memory that one block may have, bytes.
    pub shared_bytes: usize,
    /// 32-bit registers of a multiprocessor.
    pub registers: usize,
    /// L2 cache, bytes.
    pub l2_bytes: usize,
}

impl Target {
    /// The limits of a device, with the instructions of the architecture it is planned for.
    pub fn of(device: &Device) -> Target {
        let digits: String = device.arch.chars().filter(char::is_ascii_digit).collect();
        Target {
            arch: digits.parse().unwrap_or(0),
            specific: device.arch.ends_with('a'),
            sms: device.sms.value as usize,
            shared_bytes: (device.smem_kb.value * 1024.0) as usize,
            registers: device.registers.value as usize,
            l2_bytes: (device.l2_mb.value * 1e6) as usize,
        }
    }

    /// Shared memory of a block, bytes, that leaves room for so many of its kind on a multiprocessor.
    pub fn shared_beside(&self, blocks: usize) -> usize {
        ((self.shared_bytes + RESERVED_BYTES) / blocks).saturating_sub(RESERVED_BYTES)
    }

    /// Whether copies from memory to shared memory pass no registers (`cp.async`, from sm_80 on).
    pub fn copies(&self) -> bool {
        self.arch >= 80
    }

    /// Whether a kernel may start before the one before it has ended, and wait for its results itself
    /// (`griddepcontrol`, from sm_90 on).
    pub fn starts_early(&self) -> bool {
        self.arch >= 90
    }

    /// What the tensor cores multiply where values are stored so, by the instructions that the
    /// matrix-product template uses (`mma.m16n8k16`, from sm_80 on); `None` where products run on the
    /// FP32 units: f32 is computed in f32, without TF32.
    pub fn mma_operand(&self, storage: Storage) -> Option<Element> {
        match storage {
            Storage::F32 => None,
            Storage::Bf16 | Storage::F16 => (self.arch >= 80).then(|| storage.into()),
        }
    }

    /// What the tensor cores multiply by warpgroups (`wgmma`, which exactly sm_90a has) where values are
    /// stored so.
    pub fn wgmma_operand(&self, storage: Storage) -> Option<Element> {
        match storage {
            Storage::F32 => None,
            Storage::Bf16 | Storage::F16 => {
                (self.arch == 90 && self.specific).then(|| storage.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_follow_the_architecture_that_kernels_are_compiled_for() {
        let h200 = Device::find("h200").unwrap();
        let cases = [
            ("sm_90a", 90, true, Some(Element::F16)),
            ("sm_80", 80, false, Some(Element::F16)),
            ("sm_75", 75, false, None),
        ];
        for (arch, number, specific, operand) in cases {
            let target = Target::of(&h200.clone().compiled_for(arch));
            assert_eq!((target.arch, target.specific), (number, specific), "{arch}");
            assert_eq!(target.mma_operand(Storage::F16), operand, "{arch}");
            assert_eq!(target.mma_operand(Storage::F32), None, "{arch}");
        }
    }
}
