//! Schedules and launches in a line, for people.

use super::wgmma::{CONSUMERS, DEPTH};
use super::{AttendTile, GemmTile, Launch, Pass, RowSumTile, Schedule, Segments};
use crate::chunked::warpgroup::Products;
use crate::chunked::weighted::Weighted;
use fusec_ir::Direction;
use std::fmt;

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Schedule::Row(tile) => write!(f, "{} a block", count(tile.rows as usize, "row")),
            Schedule::Scan(tile) => {
                match tile.run {
                    0 | 1 => f.write_str("a row at a time")?,
                    run => write!(f, "runs of {run} rows")?,
                }
                match tile.direction {
                    Direction::Forward => {}
                    Direction::Reverse => f.write_str(", from the last row to the first")?,
                }
                segments(f, tile.segments)
            }
            Schedule::Chunked(chunk) => {
                let tile = &chunk.tile;
                if tile.weighted == Some(Weighted::Makes) {
                    return write!(
                        f,
                        "rows of chunks of {} tokens weighted, {} keys",
                        tile.chunk, tile.key
                    );
                }
                write!(
                    f,
                    "chunks of {} {}, {} keys x {} values",
                    tile.chunk,
                    if tile.updates > 1 {
                        "updates"
                    } else {
                        "tokens"
                    },
                    tile.key,
                    tile.value
                )?;
                match (tile.weighted, tile.products) {
                    (Some(_), _) => f.write_str(" by warpgroups, of weighted rows")?,
                    (None, Products::Warpgroup) => f.write_str(" by a warpgroup")?,
                    (None, Products::Warp) => {}
                }
                if chunk.ahead {
                    f.write_str(", rows ahead of time")?;
                }
                segments(f, chunk.segments)
            }
            Schedule::Gemv(tile) => {
                write!(
                    f,
                    "{} x {} a block",
                    count(tile.rows, "row"),
                    count(tile.columns, "column")
                )?;
                match tile.split {
                    1 => Ok(()),
                    split => write!(f, ", {split} warps a column"),
                }
            }
            Schedule::Stream(tile) => {
                write!(
                    f,
                    "{}, a stream of {} a block",
                    count(tile.rows, "row"),
                    count(tile.columns, "column")
                )
            }
            Schedule::NonZero(tile) => write!(
                f,
                "1 row, those of {} a block that meet no zero",
                count(tile.columns, "column")
            ),
            Schedule::Thin(tile) => {
                let (rows, columns) = (count(tile.rows, "row"), tile.columns);
                write!(
                    f,
                    "{rows} x {columns} columns a block, {} warps a column",
                    tile.split
                )
            }
            Schedule::Gemm(GemmTile::Simt(tile)) => {
                write!(f, "tiles of {} x {} on FP32 units", tile.rows, tile.columns)
            }
            Schedule::Gemm(GemmTile::Mma(tile)) => write!(
                f,
                "tiles of {} x {} x {}, {} stages, {} x {} warps",
                tile.rows, tile.columns, tile.depth, tile.stages, tile.warps_m, tile.warps_n
            ),
            Schedule::Gemm(GemmTile::Wgmma(tile)) => write!(
                f,
                "tiles of {} x {} x {DEPTH}, {} stages, {CONSUMERS} warpgroups in turn",
                tile.rows, tile.columns, tile.stages
            ),
            Schedule::LastRow(tile) => {
                write!(f, "{} a sequence", count(tile.parts as usize, "block"))
            }
            Schedule::Scatter(tile) => write!(
                f,
                "{} to {}",
                count(tile.rows as usize, "row"),
                count(tile.parts as usize, "block")
            ),
            Schedule::RowSum(tile) => row_sum(f, tile),
            Schedule::Attend(AttendTile::Simt(tile)) => write!(
                f,
                "{} a block, {} at a time",
                count(tile.rows as usize, "row"),
                count(tile.keys as usize, "key")
            ),
            Schedule::Attend(AttendTile::Mma(tile)) => {
                write!(f, "{}", count(tile.rows as usize, "row"))?;
                if tile.group > 1 {
                    write!(f, " of {} heads", tile.group)?;
                }
                write!(
                    f,
                    " a block, {} at a time on tensor cores",
                    count(tile.keys as usize, "key")
                )
            }
        }
    }
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Launch {
            threads,
            shared_bytes,
            blocks,
            early,
        } = self;
        write!(
            f,
            "{} of {threads} threads",
            count(*blocks as usize, "block")
        )?;
        if *shared_bytes > 0 {
            let kib = f64::from(*shared_bytes) / 1024.0;
            write!(f, ", {kib:.1} KiB of shared memory")?;
        }
        match early {
            true => write!(f, ", started early"),
            false => Ok(()),
        }
    }
}

fn segments(f: &mut fmt::Formatter<'_>, segments: Option<Segments>) -> fmt::Result {
    match segments {
        None => Ok(()),
        Some(Segments { count, pass }) => match pass {
            Pass::States => write!(f, ", states of {} of {count} segments", count - 1),
            Pass::Results => write!(f, ", {count} segments"),
        },
    }
}

fn row_sum(f: &mut fmt::Formatter<'_>, tile: &RowSumTile) -> fmt::Result {
    match tile {
        RowSumTile::Mma(tile) => write!(
            f,
            "tiles of {} x {}, {} rows at a time, {} stages",
            tile.columns[0], tile.columns[1], tile.depth, tile.stages
        )?,
        RowSumTile::Simt(tile) => write!(
            f,
            "tiles of {} x {} on FP32 units",
            tile.columns[0], tile.columns[1]
        )?,
        RowSumTile::Elements(tile) => {
            write!(f, "{} a block", count(tile.vector * tile.across, "element"))?
        }
        RowSumTile::Entries(tile) => {
            let entries = match tile.entries {
                1 => "1 entry".to_string(),
                n => format!("{n} entries"),
            };
            write!(f, "{entries} x {} a warp", count(tile.channels, "channel"))?;
        }
        RowSumTile::Parts(tile) => return write!(f, "adds {}", count(tile.parts, "part")),
    }
    match tile.parts() {
        1 => Ok(()),
        parts => write!(f, ", rows in {parts} parts"),
    }
}

fn count(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}
