//! What lies in memory while a regime runs.

use crate::data::{BufferReport, Memory};
use crate::fold::Folded;
use fusec_codegen::{BufferKind, KernelImage, Regime};
use fusec_runtime::memory::{ArenaPlan, MemoryError, StatesPlan, align};

/// Places and lifetimes of a regime's buffers at the shape that it is planned for.
pub(crate) fn memory(
    regime: &Regime,
    kernels: &[KernelImage],
    parts: &[Folded<'_>],
) -> Result<Memory, MemoryError> {
    let shape = regime.shape;
    let arena = ArenaPlan::new(regime, kernels, shape)?;
    let states = StatesPlan::new(regime, shape.batch)?;
    let is_constant =
        |kind: BufferKind| matches!(kind, BufferKind::Param(_) | BufferKind::LoadTime(_));
    let constants = regime
        .buffers
        .iter()
        .filter(|buffer| is_constant(buffer.kind))
        .filter_map(|buffer| align(buffer.bytes(shape)?))
        .map(|bytes| bytes as f64);
    let mut out = Memory {
        constants: constants.sum(),
        states: states.bytes() as f64,
        arena: arena.bytes as f64,
        live: vec![0.0; regime.steps.len()],
        ..Memory::default()
    };
    // The launches of layers that stand for others, and of what is outside of layers.
    let told = |step: usize| {
        let within = |part: &Folded<'_>| {
            let end = part.first + part.kernels.len();
            part.first <= step && step < end
        };
        parts.iter().any(within)
    };
    for (buffer, slot) in regime.buffers.iter().zip(&arena.slots) {
        let Some(slot) = slot else { continue };
        let lifetime = slot.lifetime;
        for live in &mut out.live[lifetime.first..=lifetime.last] {
            *live += slot.bytes as f64;
        }
        if !told(lifetime.first) {
            out.folded += 1;
            continue;
        }
        out.buffers.push(BufferReport {
            name: buffer.name.clone(),
            offset: slot.offset as f64,
            bytes: slot.bytes as f64,
            first: lifetime.first,
            last: lifetime.last,
        });
    }
    Ok(out)
}
