//! The kernels of each part of a model, equal parts selected once.

use super::progress::Progress;
use crate::context::Context;
use crate::error::PlanError;
use crate::plan::Mode;
use crate::segment::{runs, structure};
use crate::select::{Selection, select};
use fusec_ir::{OpId, Pin, PinKind};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;

/// Operations of a segment that are planned together. Longer ones are cut: exact selection of a
/// part takes more than its share, and a layer may repeat a block as often as it likes.
pub const PART: usize = 96;

/// Selections known so far.
#[derive(Debug, Default)]
pub struct Selections {
    /// By how they were made, and what for.
    known: BTreeMap<(String, String), Selection>,
    /// How many were made, and not found.
    pub made: usize,
}

/// Which parts are planned how.
pub struct Wanted<'a> {
    /// How kernels are chosen.
    pub mode: Mode,
    /// Wishes about fusion.
    pub pins: &'a [Pin],
}

impl Selections {
    /// The kernels of a segment, part by part.
    pub fn of(
        &mut self,
        ctx: &Context<'_>,
        ops: &[OpId],
        wanted: &Wanted<'_>,
        progress: &mut Progress,
        watch: &mut dyn FnMut(&Progress),
    ) -> Result<Selection, PlanError> {
        let held = held(ctx, ops, wanted.pins);
        let mut whole: Option<Selection> = None;
        for range in runs(ctx, ops, PART, &held) {
            progress.operations = range.len();
            let part = self.part(ctx, &ops[range.clone()], wanted, progress, watch)?;
            let part = part.moved(range.start);
            whole = Some(match whole {
                None => part,
                Some(before) => before.and(part),
            });
        }
        whole.ok_or_else(|| PlanError::Selection("a segment has no operations".into()))
    }

    fn part(
        &mut self,
        ctx: &Context<'_>,
        ops: &[OpId],
        wanted: &Wanted<'_>,
        progress: &mut Progress,
        watch: &mut dyn FnMut(&Progress),
    ) -> Result<Selection, PlanError> {
        let mut tell = |work, steps| {
            progress.work = work;
            progress.steps = steps;
            watch(progress);
        };
        tell("selecting kernels", 0);
        let mut choose = || select(ctx, ops, wanted.mode, wanted.pins, &mut tell);
        if matches!(wanted.mode, Mode::Random(_)) {
            // Random selections of equal parts differ.
            return choose();
        }
        let mut text = structure(ctx, ops);
        text.push_str(&marks(ctx, ops, wanted.pins));
        let key = (wanted.mode.to_string(), text);
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let selection = choose()?;
        self.made += 1;
        self.known.insert(key, selection.clone());
        Ok(selection)
    }
}

/// Which operations make values that pins name, which of them, and what the pins wish.
fn marks(ctx: &Context<'_>, ops: &[OpId], pins: &[Pin]) -> String {
    let mut text = String::new();
    for (i, id) in ops.iter().enumerate() {
        for value in &ctx.graph.op(*id).outputs {
            let name = &ctx.graph.value(*value).name;
            for (n, pin) in pins.iter().enumerate() {
                if let Some(at) = pin.values.iter().position(|v| v == name) {
                    let (kind, of) = (pin.kind, pin.values.len());
                    // Writing to a string cannot fail.
                    let _ = write!(text, "{i} {n} {kind:?} {at}/{of};");
                }
            }
        }
    }
    text
}

/// The operations between those that a pin wants together.
fn held(ctx: &Context<'_>, ops: &[OpId], pins: &[Pin]) -> Vec<Range<usize>> {
    let together = pins.iter().filter(|pin| pin.kind == PinKind::Fuse);
    let of = |pin: &Pin| {
        let makes = |id: &OpId| {
            let mut outputs = ctx.graph.op(*id).outputs.iter();
            outputs.any(|v| pin.values.contains(&ctx.graph.value(*v).name))
        };
        let first = ops.iter().position(makes)?;
        let last = ops.iter().rposition(makes)?;
        Some(first..last + 1)
    };
    together.filter_map(of).collect()
}
