//! The matrix-vector template: few rows; each block computes the prologue for itself.

use super::contract::lanes;
use super::space::check_halo;
use super::{Group, row};
use crate::plan::{Body, Reject, Template};
use fusec_ir::OpId;

/// Elements of one row of the prologue that a block can hold.
const PROLOGUE_LIMIT: usize = 16384;

/// Blocks of a lane, beside others of its kernel, that keep a large GPU busy.
const WANTED_BLOCKS: usize = 264;
/// The same where each block computes a prologue before it gets to its weights: fewer blocks, each
/// with more columns, do that less often.
const WANTED_PROLOGUES: usize = 64;
/// Columns of a block, at most, without a prologue and with one.
const COLUMNS: usize = 8;
const COLUMNS_AFTER_PROLOGUE: usize = 16;

/// Weights of a block beyond which the prologue of one row is short beside them.
const WEIGHTS: usize = 32 * 1024;

/// Result columns that one block of a matrix-vector product makes.
///
/// `columns` is the length of a result row, `depth` that of the sum behind an element, `prologue`
/// whether anything is computed before the product, for each of `rows` rows.
pub fn columns_per_block(rows: usize, columns: usize, depth: usize, prologue: bool) -> usize {
    let (most, wanted) = match prologue {
        true if COLUMNS * depth < WEIGHTS * rows => (COLUMNS_AFTER_PROLOGUE, WANTED_PROLOGUES),
        true => (COLUMNS, WANTED_PROLOGUES),
        false => (COLUMNS, WANTED_BLOCKS),
    };
    let mut per_block = most;
    while per_block > 1 && columns / per_block < wanted {
        per_block /= 2;
    }
    per_block
}

pub fn fit(group: &Group<'_>, contracts: &[OpId]) -> Result<Vec<Body>, Reject> {
    let mut taken: Vec<OpId> = Vec::new();
    lanes(group, contracts)?
        .into_iter()
        .map(|lane| {
            check_halo(group, &lane.prologue)?;
            for id in &lane.prologue {
                let size = row::whole_extent(group, *id);
                if size > PROLOGUE_LIMIT {
                    return Err(group.reject(
                        "prologue-size",
                        [*id],
                        format!("{PROLOGUE_LIMIT} elements"),
                        format!("{size} elements of `{}`", group.name(*id)),
                    ));
                }
            }
            let ops = lane.ops();
            // A prologue operation of two lanes is stored by the first.
            let own: Vec<OpId> = ops
                .iter()
                .copied()
                .filter(|id| !taken.contains(id))
                .collect();
            taken.extend(&own);
            Ok(Body {
                template: Template::Gemv,
                anchors: lane.contracts,
                stores: own
                    .iter()
                    .flat_map(|id| group.stored_outputs(*id))
                    .collect(),
                tails: row::tails(group, &own),
                ops,
                grid: vec![],
                rows_per_block: 1,
                ahead: false,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::columns_per_block;

    #[test]
    fn columns_of_a_block() {
        // Rows, columns, depth, prologue, expected.
        let cases = [
            (1, 4096, 2048, false, 8),
            (1, 2048, 2048, false, 4),
            (1, 128, 4096, false, 1),
            (1, 2048, 2048, true, 16),
            (1, 2048, 4096, true, 8),
            (8, 2048, 4096, true, 16),
            (1, 128, 4096, true, 2),
            (1, 1, 64, true, 1),
        ];
        for (rows, columns, depth, prologue, expected) in cases {
            let got = columns_per_block(rows, columns, depth, prologue);
            assert_eq!(got, expected, "{rows} {columns} {depth} {prologue}");
        }
    }
}
