//! Figures of the cost model that no datasheet has and no single measurement gives: they are set so
//! that predictions agree with what kernels of the templates take.
//!
//! Lives here: what each figure means, in which unit, and where its value comes from. Never here: a
//! value; those stand in the `[fitted]` table of each file under `devices/`.

use super::Provenance;
use serde::{Deserialize, Serialize};

/// A fitted number and where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FittedFigure {
    /// The number, in the unit of its field.
    pub value: f64,
    /// [`Provenance::Fit`] where results of this device were fitted, [`Provenance::Estimate`] where
    /// the value was taken over from a related one.
    pub from: Provenance,
    /// The device whose results were fitted, and the date of these results.
    pub on: String,
}

/// Declares the table once: the fields, what each is in words, and the ways to go through them.
macro_rules! fitted {
    ($($(#[doc = $line:literal])+ $field:ident,)+) => {
        /// The figures of the `[fitted]` table of a device file.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Fitted {
            $($(#[doc = $line])+ pub $field: FittedFigure,)+
        }

        impl Fitted {
            /// Every figure: the name of its field, what it is in words, line by line, and the figure.
            pub fn figures(&self) -> Vec<(&'static str, &'static [&'static str], &FittedFigure)> {
                vec![$((stringify!($field), &[$($line),+] as &[&str], &self.$field),)+]
            }

            /// Every figure by the name of its field, to be changed.
            pub fn figures_mut(&mut self) -> Vec<(&'static str, &mut FittedFigure)> {
                vec![$((stringify!($field), &mut self.$field),)+]
            }
        }
    };
}

fitted! {
    /// part of the L2 that activations may fill before they count as evicted
    l2_share,
    /// part of the L2's time for parameters of rows, which every run of rows reads, that does not pass
    /// while rows arrive
    row_parameters,
    /// how many times its even share of the memory bandwidth one multiprocessor can draw
    memory_reach,
    /// an access to memory that the next one waits for, with the work between the two, us
    trip_us,
    /// part of the tensor cores' rate that products reach which share one tile of activations: their
    /// accumulators leave room for half a tile each
    pair_efficiency,
    /// part of that rate which a product reaches that computes activations on their way in, for which
    /// tiles are short and pass through registers
    staged_efficiency,
    /// how many times that rate products by warpgroups reach, with what their epilogues compute and read
    warpgroup_rate,
    /// blocks of a matrix product that keep the tensor cores of a multiprocessor busy
    tensor_blocks,
    /// instruction slots of an operation after a matrix product, which nothing overlaps with
    epilogue_slots,
    /// a row that a block walks although the next one is already on its way, us
    row_us,
    /// an element of a row that a thread computes before products of few rows, for each row after the
    /// first, us
    stage_element_us,
    /// registers of a thread of the row template
    row_registers,
    /// registers of a thread of the scan template
    scan_registers,
    /// how much longer a step of a scan takes for each further block on the same multiprocessor, where
    /// rows arrive one at a time
    scan_sharing,
    /// part of `step_us` that is left where rows arrive in runs and what surrounds the recurrence is
    /// computed for all rows of a run at once
    run_step,
    /// part of `barrier_us` that is left of an exchange after the recurrence where rows come in runs
    run_exchange,
    /// the same of a sum inside a step that another one waits for
    run_reduction,
    /// instruction slots that a step of a scan takes for each of its operations
    step_slots,
    /// the same where rows of a state are summed that have more than `short_sum` elements: more lanes
    /// share one, and each reads as much of what is spread along it
    long_step_slots,
    /// elements of a row of a state up to which summing it takes `step_slots`
    short_sum,
    /// instruction slots of a special function in a step beside the one that is counted
    special_slots,
    /// the barriers of one chunk of a recurrence, clock cycles
    chunk_cycles,
    /// the same where rows arrive ahead of time, with the copies and what no load hides any more
    chunk_ahead_cycles,
    /// an element that a thread loads or stores for a chunk, its latency shared with the elements in
    /// flight beside it, clock cycles
    chunk_element_cycles,
    /// the same of an element whose row is in shared memory by then, clock cycles
    chunk_element_ahead_cycles,
    /// a floating-point operation of a thread of a chunk outside the tensor cores, with the loads from
    /// shared memory that it waits for, clock cycles
    chunk_flop_cycles,
    /// part of the time of two blocks of chunks on one multiprocessor which is latency: it stays when
    /// there are more, or one
    chunk_latency,
    /// blocks of chunks, at most, whose registers fit one multiprocessor
    chunk_resident,
    /// barriers and waits of one chunk of a recurrence with a rank-one factor, clock cycles
    factor_chunk_cycles,
    /// an element that a thread brings into its products, clock cycles
    factor_element_cycles,
    /// the same of an element whose row is in shared memory by then, clock cycles
    factor_element_ahead_cycles,
    /// threads of a multiprocessor beyond which more of them bring no more elements in at a time
    factor_busy_threads,
    /// the inverses of a chunk, clock cycles
    factor_solve_cycles,
    /// a product of tensor-core tiles between tokens of a chunk, clock cycles
    factor_token_product_cycles,
    /// a multiply-add of a thread between tokens, where each key has a decay that nothing bounds, clock
    /// cycles
    factor_pair_cycles,
    /// the start of a warp's walk through the sub-chunks of a chunk, clock cycles
    factor_walk_cycles,
    /// a sub-chunk of that walk beside its products, clock cycles
    factor_sub_cycles,
    /// a product of tensor-core tiles of a warp in a sub-chunk, clock cycles
    factor_product_cycles,
    /// the same where every quarter of a multiprocessor has as much to do, clock cycles
    factor_shared_product_cycles,
    /// part of the time of two blocks with such chunks on one multiprocessor which is latency
    factor_latency,
    /// an operation on registers around a recurrence in chunks, clock cycles
    around_operation_cycles,
    /// a special function there, clock cycles
    around_special_cycles,
    /// a load there beside that of an operation's first operand, clock cycles
    around_load_cycles,
    /// the same of a row that is in shared memory by then, clock cycles
    around_load_ahead_cycles,
    /// a sum over a warp there, clock cycles
    around_sum_cycles,
}

impl Fitted {
    /// The table for another device: the values stay, as estimates.
    pub fn taken_over(mut self) -> Fitted {
        for (_, figure) in self.figures_mut() {
            figure.from = Provenance::Estimate;
        }
        self
    }
}
