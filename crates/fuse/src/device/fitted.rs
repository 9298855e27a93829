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

/// A figure of the table, to read.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The name of its field.
    pub field: &'static str,
    /// What it is in words, line by line.
    pub meaning: &'static [&'static str],
    /// Least and largest value that is believed, before anything is measured. None of figures that are
    /// no matter of degree, which a fit leaves as they are.
    pub range: Option<(f64, f64)>,
    /// The figure.
    pub figure: &'a FittedFigure,
}

/// Declares the table once: the fields, what each is in words, what is believed of it, and the ways to
/// go through them.
macro_rules! fitted {
    ($($(#[doc = $line:literal])+ $field:ident $(in $least:literal to $most:literal)?,)+) => {
        /// The figures of the `[fitted]` table of a device file.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Fitted {
            $($(#[doc = $line])+ pub $field: FittedFigure,)+
        }

        impl Fitted {
            /// Every figure, in the order of the table.
            pub fn entries(&self) -> Vec<Entry<'_>> {
                vec![$(Entry {
                    field: stringify!($field),
                    meaning: &[$($line),+],
                    range: [$(($least, $most))?].first().copied(),
                    figure: &self.$field,
                },)+]
            }

            /// Every figure, in the same order, to be changed.
            pub fn figures_mut(&mut self) -> Vec<&mut FittedFigure> {
                vec![$(&mut self.$field,)+]
            }
        }
    };
}

fitted! {
    /// part of the L2 that activations may fill before they count as evicted
    l2_share,
    /// part of `memory_tbs`, which a copy reaches, that kernels reach
    memory_efficiency in 0.7 to 1.0,
    /// part of `memory_tbs` that streams of weights reach
    stream_efficiency,
    /// how many times its even share of the memory bandwidth one multiprocessor can draw
    memory_reach in 1.0 to 10.0,
    /// part of the L2's time for parameters of rows, which every run of rows reads, that does not pass
    /// while rows arrive
    row_parameters in 0.1 to 1.0,
    /// an access to memory that the next one waits for, with the work between the two, us
    trip_us in 0.4 to 3.0,
    /// part of the tensor cores' rate that products reach which share one tile of activations: their
    /// accumulators leave room for half a tile each
    pair_efficiency in 0.5 to 1.0,
    /// part of that rate which a product reaches that computes activations on their way in, for which
    /// tiles are short and pass through registers
    staged_efficiency in 0.2 to 1.0,
    /// how many times that rate products by warpgroups reach, with what their epilogues compute and read
    warpgroup_rate,
    /// part of that rate which tiles of fewer than 128 rows reach: they load more for each operation
    small_efficiency in 0.3 to 1.0,
    /// part of `fp32_tflops` that products in tiles reach
    fp32_efficiency in 0.2 to 1.0,
    /// blocks of a matrix product that keep the tensor cores of a multiprocessor busy
    tensor_blocks in 1.0 to 4.0,
    /// what a multiprocessor needs beside the operations of a tile: first loads, results, the next
    /// block, us
    tile_us in 0.2 to 4.0,
    /// instruction slots of an instruction after a matrix product, which nothing overlaps with
    epilogue_slots in 0.3 to 4.0,
    /// instruction slots of an instruction of maps and reductions
    instruction_slots in 0.7 to 4.0,
    /// operations of the FP32 units that one takes which multiplies a few rows with a column
    column_slots in 1.0 to 12.0,
    /// instruction slots of an element of a row that a block brings to shared memory for its columns
    stage_slots in 2.0 to 100.0,
    /// the same of an operation that it computes for such an element
    stage_operation_slots in 2.0 to 60.0,
    /// instruction slots of a block of columns beside these: barriers, sums over its warps, results
    column_block_slots in 5e3 to 2e5,
    /// operations of the FP32 units that one of attention takes: each row walks its keys one after the
    /// other
    attend_slots in 5.0 to 150.0,
    /// part of the tensor cores' rate that products of attention reach, with the weights between them
    attend_efficiency in 0.2 to 1.5,
    /// the barrier, the copies and the sums over lanes of a tile of keys of attention on tensor cores,
    /// clock cycles
    attend_tile_cycles in 100.0 to 4e3,
    /// a tensor-core product of a warp for a tile of keys, clock cycles
    attend_product_cycles in 4.0 to 64.0,
    /// a weight of a thread for a tile of keys, clock cycles
    attend_weight_cycles in 4.0 to 80.0,
    /// a row that a block walks although the next one is already on its way, us
    row_us in 0.2 to 3.0,
    /// registers of a thread of the row template
    row_registers,
    /// registers of a thread of the scan template
    scan_registers,
    /// how much longer a step of a scan takes for each further block on the same multiprocessor, where
    /// rows arrive one at a time
    scan_sharing,
    /// a step of a scan whose rows arrive in runs, by itself, clock cycles
    step_cycles in 60.0 to 800.0,
    /// an exchange of what surrounds the recurrence, for a row, clock cycles
    step_exchange_cycles in 20.0 to 800.0,
    /// a sum inside a step that the next state waits for, clock cycles
    step_sum_cycles in 30.0 to 400.0,
    /// what surrounds the recurrence for a run of rows, before and after it, us
    run_us in 0.7 to 7.0,
    /// what blocks of a scan wait for that find no place at first, beside their steps, us
    scan_wave_us in 1.0 to 16.0,
    /// instruction slots that a step of a scan takes for each of its operations
    step_slots in 0.5 to 5.0,
    /// the same where rows of a state are summed that have more than `short_sum` elements: more lanes
    /// share one, and each reads as much of what is spread along it
    long_step_slots in 1.0 to 12.0,
    /// elements of a row of a state up to which summing it takes `step_slots`
    short_sum,
    /// operations that a special function in a step counts for
    special_slots in 1.0 to 16.0,
    /// barriers and waits of one chunk of a recurrence, clock cycles
    chunk_cycles,
    /// an element of the state that a thread loads or stores, clock cycles
    chunk_state_cycles,
    /// an element that a thread brings into its products, clock cycles
    chunk_element_cycles,
    /// the same of an element whose row is in shared memory by then, clock cycles
    chunk_element_ahead_cycles,
    /// threads of a multiprocessor beyond which more of them bring no more elements in at a time
    chunk_busy_threads,
    /// the inverses of a chunk with a rank-one factor, clock cycles
    chunk_solve_cycles,
    /// a product of tensor-core tiles between tokens of a chunk, clock cycles
    chunk_token_product_cycles,
    /// a multiply-add of a thread between tokens, where each key has a decay that nothing bounds, clock
    /// cycles
    chunk_pair_cycles,
    /// a product of a warpgroup of 64 rows, 8 columns and 16 of the sum, with what brings its operands and takes its
    /// results, clock cycles
    chunk_group_product_cycles,
    /// the start of a warp's walk through the sub-chunks of a chunk, clock cycles
    chunk_walk_cycles,
    /// tokens of that walk that come to the state at once, beside their products, clock cycles
    chunk_span_cycles,
    /// a product of tensor-core tiles of a warp there, clock cycles
    chunk_product_cycles,
    /// the same where every quarter of a multiprocessor has as much to do, clock cycles
    chunk_shared_product_cycles,
    /// part of the time of two blocks with such chunks on one multiprocessor which is latency
    chunk_latency,
    /// an operation on registers around a recurrence in chunks, clock cycles
    around_operation_cycles in 1.0 to 16.0,
    /// a special function there, clock cycles
    around_special_cycles in 5.0 to 80.0,
    /// a load there beside that of an operation's first operand, clock cycles
    around_load_cycles in 20.0 to 300.0,
    /// the same of a row that is in shared memory by then, clock cycles
    around_load_ahead_cycles in 4.0 to 60.0,
    /// a load of a parameter there, clock cycles
    around_parameter_cycles in 4.0 to 150.0,
    /// a sum over a warp there, clock cycles
    around_sum_cycles in 50.0 to 900.0,
}

impl Fitted {
    /// The table for another device: the values stay, as estimates.
    pub fn taken_over(mut self) -> Fitted {
        for figure in self.figures_mut() {
            figure.from = Provenance::Estimate;
        }
        self
    }
}
