//! Arguments and grids of launches.

use crate::run::weights;
use crate::sample::{self, C};
use fusec_codegen::{Arg, LaneGrid, Manifest, RowUnits};
use fusec_fuse::{Shape, Storage};
use fusec_runtime::executor::{
    ArgValue, Bases, Binding, Constants, ExecuteError, Launch, Place, Region, TailCopy,
};
use fusec_runtime::memory::{ArenaPlan, StatesPlan};

const BASES: Bases = Bases {
    drawing: 0,
    constants: 1 << 20,
    states: 2 << 20,
    arena: 3 << 20,
};

struct Bound {
    manifest: Manifest,
    constants: Constants,
    states: StatesPlan,
    arena: ArenaPlan,
}

impl Bound {
    fn new(manifest: Manifest, regime: usize, shape: Shape) -> Self {
        let of = &manifest.regimes[regime];
        Self {
            constants: Constants::new(&manifest, &weights()).expect("constants"),
            states: StatesPlan::new(of, shape.batch).expect("states"),
            arena: ArenaPlan::new(of, &manifest.kernels, shape).expect("an arena"),
            manifest,
        }
    }

    fn at(&self, regime: usize, parity: usize) -> Binding<'_> {
        Binding {
            manifest: &self.manifest,
            regime,
            constants: &self.constants,
            states: &self.states,
            arena: &self.arena,
            parity,
        }
    }

    fn launches(&self, regime: usize, parity: usize) -> Vec<Launch> {
        let launches = self.at(regime, parity).launches(BASES);
        launches.unwrap_or_else(|error| panic!("{error}"))
    }
}

const SHAPE: Shape = Shape { batch: 2, time: 9 };

#[test]
fn every_argument_is_the_address_of_its_buffer_or_its_integer() {
    let bound = Bound::new(sample::manifest(Storage::Bf16), 1, SHAPE);
    let binding = bound.at(1, 0);
    let launches = bound.launches(1, 0);
    assert_eq!(launches.len(), 3);
    for (launch, step) in launches.iter().zip(&bound.manifest.regimes[1].steps) {
        assert_eq!(launch.args.len(), step.args.len());
        for (value, arg) in launch.args.iter().zip(&step.args) {
            let address = |buffer, copy| {
                let Place {
                    region,
                    offset,
                    bytes,
                } = binding.place(buffer, copy).expect("a place");
                let buffer = &bound.manifest.regimes[1].buffers[buffer];
                assert_eq!(Some(bytes), buffer.bytes(SHAPE), "{}", buffer.name);
                let base = match region {
                    Region::Constants => BASES.constants,
                    Region::States => BASES.states,
                    Region::Arena => BASES.arena,
                    Region::Drawing => BASES.drawing,
                };
                ArgValue::Address(base + offset as u64)
            };
            let want = match *arg {
                Arg::Buffer(buffer) => address(buffer, TailCopy::Old),
                Arg::OldTail(buffer) => address(buffer, TailCopy::Old),
                Arg::NewTail(buffer) => address(buffer, TailCopy::New),
                Arg::Batch => ArgValue::Integer(2),
                Arg::Time => ArgValue::Integer(9),
                Arg::Position => ArgValue::Position,
                Arg::TensorMap(_) => panic!("the sample has no tensor maps"),
            };
            assert_eq!(*value, want, "{} {arg:?}", launch.name);
        }
    }
}

#[test]
fn parity_exchanges_the_copies_of_tails_and_nothing_else() {
    let bound = Bound::new(sample::manifest(Storage::F32), 1, SHAPE);
    let (even, odd) = (bound.launches(1, 0), bound.launches(1, 1));
    for (even, odd) in even.iter().zip(&odd) {
        let args = &bound.manifest.regimes[1].steps[even.step].args;
        for ((a, b), arg) in even.args.iter().zip(&odd.args).zip(args) {
            let tail = matches!(arg, Arg::OldTail(_) | Arg::NewTail(_));
            assert_eq!(a != b, tail, "{} {arg:?}", even.name);
        }
    }
    // The stencil's two tails trade places.
    assert_eq!(even[1].args[1], odd[1].args[2]);
    assert_eq!(even[1].args[2], odd[1].args[1]);
}

#[test]
fn regimes_share_constants_and_states() {
    let manifest = sample::manifest(Storage::F32);
    let shape = Shape { batch: 2, time: 1 };
    let (decode, prefill) = (
        Bound::new(manifest.clone(), 0, shape),
        Bound::new(manifest, 1, SHAPE),
    );
    for (buffer, about) in decode.manifest.regimes[0].buffers.iter().enumerate() {
        let place = |bound: &Bound, regime| bound.at(regime, 0).place(buffer, TailCopy::Old);
        let (a, b) = (place(&decode, 0), place(&prefill, 1));
        if a.is_some_and(|a| a.region != Region::Arena) {
            assert_eq!(a, b, "{}", about.name);
        }
    }
    // The table, the load-time decay, each once; the logit itself no kernel reads.
    assert_eq!(decode.constants.bytes(), 256 + 256);
}

#[test]
fn grids_follow_the_lanes() {
    let lane = |blocks, rows| LaneGrid { blocks, rows };
    let cases = [
        (vec![lane(1, RowUnits::Batch)], SHAPE, Some(2)),
        (vec![lane(3, RowUnits::Runs(4))], SHAPE, Some(3 * 2 * 3)),
        (vec![lane(5, RowUnits::Tiles(4))], SHAPE, Some(5 * 5)),
        (
            vec![lane(1, RowUnits::Batch), lane(2, RowUnits::Tiles(1))],
            SHAPE,
            Some(2 + 36),
        ),
        (vec![lane(0, RowUnits::Batch)], SHAPE, None),
        (vec![lane(1 << 30, RowUnits::Batch)], SHAPE, None),
        (vec![lane(u64::MAX, RowUnits::Tiles(1))], SHAPE, None),
        (
            vec![lane((1 << 30) - 1, RowUnits::Batch)],
            SHAPE,
            Some(i32::MAX as u32 - 1),
        ),
    ];
    for (lanes, shape, want) in cases {
        let mut manifest = sample::manifest(Storage::F32);
        manifest.regimes[1].steps[0].lanes = lanes.clone();
        let bound = Bound::new(manifest, 1, shape);
        match (bound.at(1, 0).launches(BASES), want) {
            (Ok(launches), Some(want)) => assert_eq!(launches[0].grid, want, "{lanes:?}"),
            (Err(ExecuteError::Launch { kernel, .. }), None) => assert_eq!(kernel, "look_up"),
            (got, want) => panic!("{lanes:?}: {got:?}, want {want:?}"),
        }
    }
}

#[test]
fn what_a_step_begins_is_listed_as_fresh() {
    let bound = Bound::new(sample::manifest(Storage::F32), 1, SHAPE);
    let fresh: Vec<Vec<(Region, usize)>> = bound
        .launches(1, 0)
        .iter()
        .map(|launch| launch.fresh.iter().map(|p| (p.region, p.bytes)).collect())
        .collect();
    let rows = 2 * 9 * C * 4;
    // x; then d and the new tail; then y. Inputs and states come from before.
    let arena = (Region::Arena, rows);
    assert_eq!(
        fresh,
        [
            vec![arena],
            vec![arena, (Region::States, 2 * C * 4)],
            vec![arena]
        ]
    );
}
