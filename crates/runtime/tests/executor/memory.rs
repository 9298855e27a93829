//! The arena: right for any steps.

use crate::sample;
use fusec_codegen::{Buffer, BufferKind, Element, Extent, Regime, Step};
use fusec_fuse::{Shape, Storage};
use fusec_ir::ValueId;
use fusec_runtime::memory::{ALIGNMENT, ArenaPlan, Footprint, MemoryError, Slot, StatesPlan};
use proptest::prelude::*;

/// A regime with these buffers (elements of a row) and, per step, the buffers read and written.
fn regime(
    sizes: &[usize],
    steps: &[(Vec<usize>, Vec<usize>)],
    inputs: usize,
    outputs: usize,
) -> Regime {
    let last = sizes.len() - outputs;
    let buffers = sizes.iter().enumerate().map(|(i, elements)| Buffer {
        name: format!("b{i}"),
        kind: match i {
            _ if i < inputs => BufferKind::Input(ValueId(i as u32)),
            _ if i >= last => BufferKind::Output(ValueId(i as u32)),
            _ => BufferKind::Scratch(ValueId(i as u32)),
        },
        element: Element::Bf16,
        elements: *elements,
        extent: Extent::Rows,
    });
    let steps = steps.iter().map(|(reads, writes)| Step {
        kernel: 0,
        plan_kernel: 0,
        lanes: vec![],
        args: vec![],
        reads: reads.clone(),
        writes: writes.clone(),
        cooperative: false,
        persistent: false,
        early: false,
        one_row: false,
        tensor_maps: Vec::new(),
    });
    Regime {
        buffers: buffers.collect(),
        steps: steps.collect(),
        ..sample::manifest(Storage::F32).regimes.remove(1)
    }
}

const SHAPE: Shape = Shape { batch: 2, time: 3 };

/// A chain of steps, each writing some new buffers and reading some older ones.
fn chains() -> impl Strategy<Value = Regime> {
    (1usize..40)
        .prop_flat_map(|n| {
            let sizes = prop::collection::vec(1usize..3000, n + 2);
            let reads =
                prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..4), n);
            (sizes, reads)
        })
        .prop_map(|(sizes, reads)| {
            // Buffer 0 is the input, each step writes the next one, the last step the output too.
            let n = reads.len();
            let steps: Vec<_> = reads
                .iter()
                .enumerate()
                .map(|(at, reads)| {
                    let reads = reads.iter().map(|r| r.index(at + 1)).collect();
                    let writes = if at + 1 == n {
                        vec![at + 1, n + 1]
                    } else {
                        vec![at + 1]
                    };
                    (reads, writes)
                })
                .collect();
            regime(&sizes, &steps, 1, 1)
        })
}

proptest! {
    #[test]
    fn buffers_in_use_at_once_never_overlap(regime in chains()) {
        let plan = ArenaPlan::new(&regime, &[], SHAPE).expect("a plan");
        let slots: Vec<_> = plan.slots.iter().flatten().collect();
        for (i, a) in slots.iter().enumerate() {
            prop_assert_eq!(a.offset % ALIGNMENT, 0);
            prop_assert!(a.offset + a.bytes <= plan.bytes);
            for b in &slots[..i] {
                let apart = a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset;
                prop_assert!(apart || !a.lifetime.meets(b.lifetime), "{a:?} {b:?}");
            }
        }
        // Every step finds what it reads and writes alive.
        for (at, step) in regime.steps.iter().enumerate() {
            for buffer in step.reads.iter().chain(&step.writes) {
                let slot = plan.slots[*buffer].expect("a used buffer has a place");
                prop_assert!(slot.lifetime.first <= at && at <= slot.lifetime.last);
                prop_assert_eq!(Some(slot.bytes), regime.buffers[*buffer].bytes(SHAPE));
            }
        }
        // At least what one step needs at once, at most everything side by side.
        let padded = |slot: &&Slot| slot.bytes.next_multiple_of(ALIGNMENT);
        let at_once = (0..regime.steps.len())
            .map(|at| slots.iter().filter(|s| s.lifetime.first <= at && at <= s.lifetime.last).map(&padded).sum::<usize>())
            .max();
        prop_assert!(Some(plan.bytes) >= at_once);
        prop_assert!(plan.bytes <= slots.iter().map(padded).sum());
        prop_assert_eq!(plan, ArenaPlan::new(&regime, &[], SHAPE).expect("a plan"));
    }
}

#[test]
fn a_chain_of_equal_buffers_needs_two_beside_input_and_output() {
    let steps: Vec<_> = (0..10).map(|i| (vec![i], vec![i + 1])).collect();
    let regime = regime(&[64; 11], &steps, 1, 1);
    let plan = ArenaPlan::new(&regime, &[], SHAPE).expect("a plan");
    let one = 64 * 2 * 6usize;
    // Input, two that alternate; the output takes the place of the second last.
    assert_eq!(plan.bytes, 3 * one.next_multiple_of(ALIGNMENT));
}

#[test]
fn steps_that_read_what_is_not_there_are_refused() {
    let early = regime(&[8, 8, 8], &[(vec![1], vec![2])], 1, 1);
    let error = ArenaPlan::new(&early, &[], SHAPE).expect_err("b1 is never written");
    assert!(
        matches!(error, MemoryError::ReadBeforeWrite { step: 0, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("`b1`"));
    let never = regime(&[8, 8, 8], &[(vec![0], vec![1])], 1, 1);
    let error = ArenaPlan::new(&never, &[], SHAPE).expect_err("the output is never written");
    assert!(matches!(error, MemoryError::NeverWritten { .. }), "{error}");
    let huge = regime(&[usize::MAX / 8, 8], &[(vec![0], vec![1])], 1, 1);
    let error = ArenaPlan::new(&huge, &[], SHAPE).expect_err("too large");
    assert!(error.to_string().contains("`b0` at B=2, T=3"), "{error}");
}

#[test]
fn what_does_not_fit_is_refused_with_figures() {
    let manifest = sample::manifest(Storage::F32);
    let shape = Shape {
        batch: 1000,
        time: 2000,
    };
    let regime = &manifest.regimes[1];
    let states = StatesPlan::new(regime, shape.batch).expect("states");
    let arena = ArenaPlan::new(regime, &manifest.kernels, shape).expect("an arena");
    // x and d live together, then d and y.
    assert_eq!(arena.bytes, 2 * (1000 * 2000 * 5 * 4) + 1000 * 2000 * 4);
    assert_eq!((states.scan_bytes, states.tail_bytes), (20_224, 2 * 20_224));
    let need = Footprint::new(regime, 1024, &states, &arena);
    need.check(0, need.total()).expect("exactly enough");
    need.check(1000, need.total() - 1000)
        .expect("what is held counts");
    let error = need.check(0, 80_000_000).expect_err("too little");
    assert_eq!(
        error.to_string(),
        "needs 88.1 MB: weights 1.0 kB, states 20.2 kB, tails 40.4 kB, arena 88.0 MB; largest buffer: `x`, 40.0 MB; \
         free 80.0 MB. Use a smaller batch, a shorter run, or a smaller storage type"
    );
}

#[test]
fn tails_have_two_copies_and_scan_states_one() {
    let manifest = sample::manifest(Storage::F32);
    let plan = StatesPlan::new(&manifest.regimes[0], 3).expect("states");
    let mut copies = Vec::new();
    for slot in plan.slots.values() {
        assert_eq!(slot.bytes, 3 * 5 * 4);
        copies.push(slot.copies);
    }
    let [scan, tail] = copies[..] else {
        panic!("two states")
    };
    assert_eq!(scan[0], scan[1]);
    let mut starts = [scan[0], tail[0], tail[1]];
    starts.sort_unstable();
    assert_eq!(starts, [0, 256, 512]);
    assert_eq!(plan.bytes(), 768);
}
