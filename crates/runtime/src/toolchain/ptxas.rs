//! Reading what ptxas says about each kernel (`--ptxas-options=-v`).
//!
//! Spilled bytes are written nowhere else: a cubin holds the size of the stack frame, but not how
//! much of it is registers that did not fit.

use serde::{Deserialize, Serialize};

/// What ptxas reported about one kernel. A figure that the log does not hold is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PtxasReport {
    /// The kernel's name as in the cubin (mangled unless declared `extern "C"`).
    pub kernel: String,
    /// Registers per thread.
    pub registers: Option<u32>,
    /// Stack frame of the kernel itself, bytes per thread.
    pub stack_bytes: Option<u32>,
    /// Bytes per thread written to local memory because registers ran out.
    pub spill_store_bytes: Option<u32>,
    /// Bytes per thread read back from local memory.
    pub spill_load_bytes: Option<u32>,
    /// Static shared memory, bytes per block; ptxas leaves it out when there is none.
    pub shared_bytes: Option<u32>,
}

/// The per-kernel reports of a compilation log, in the log's order.
///
/// Lines about device functions that were not inlined, warnings and anything unknown are skipped.
pub fn parse_ptxas_log(log: &str) -> Vec<PtxasReport> {
    let mut reports: Vec<PtxasReport> = Vec::new();
    // Function properties are also printed for functions that a kernel calls: only those of the
    // kernel itself belong into its report.
    let mut about_the_kernel = false;
    for line in log.lines() {
        if let Some(kernel) = between(line, "Compiling entry function '", "'") {
            about_the_kernel = true;
            reports.push(PtxasReport {
                kernel: kernel.to_owned(),
                ..PtxasReport::default()
            });
            continue;
        }
        let Some(report) = reports.last_mut() else {
            continue;
        };
        if let Some((_, function)) = line.split_once("Function properties for ") {
            about_the_kernel = function.trim().trim_matches('\'') == report.kernel;
        } else if line.contains("bytes stack frame") {
            if about_the_kernel {
                report.stack_bytes = number_before(line, " bytes stack frame");
                report.spill_store_bytes = number_before(line, " bytes spill stores");
                report.spill_load_bytes = number_before(line, " bytes spill loads");
            }
        } else if line.contains("Used ") && line.contains(" registers") {
            report.registers = number_before(line, " registers");
            report.shared_bytes = number_before(line, " bytes smem");
        }
    }
    reports
}

fn between<'a>(line: &'a str, open: &str, close: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(open)?;
    Some(rest.split_once(close)?.0)
}

/// The unsigned number that ends right before `unit`.
fn number_before(line: &str, unit: &str) -> Option<u32> {
    let (head, _) = line.split_once(unit)?;
    let digits = head.rsplit(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LOG: &str = "\
ptxas warning : Value of threads per SM for entry spilly is out of range. .minnctapersm will be ignored
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'row_norm' for 'sm_80'
ptxas info    : Function properties for row_norm
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, used 1 barriers, 1024 bytes smem, 372 bytes cmem[0]
ptxas info    : Compiling entry function 'spilly' for 'sm_80'
ptxas info    : Function properties for spilly
    624 bytes stack frame, 956 bytes spill stores, 1196 bytes spill loads
ptxas info    : Function properties for callee
    8 bytes stack frame, 4 bytes spill stores, 2 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers, 624 bytes cumulative stack size
";

    #[test]
    fn one_report_per_kernel_in_order() {
        let report = |kernel: &str, registers, stack, stores, loads, shared| PtxasReport {
            kernel: kernel.to_owned(),
            registers: Some(registers),
            stack_bytes: Some(stack),
            spill_store_bytes: Some(stores),
            spill_load_bytes: Some(loads),
            shared_bytes: shared,
        };
        assert_eq!(
            parse_ptxas_log(LOG),
            [
                report("row_norm", 12, 0, 0, 0, Some(1024)),
                report("spilly", 32, 624, 956, 1196, None),
            ]
        );
    }

    #[test]
    fn figures_that_are_missing_or_too_large_are_not_invented() {
        let log = "ptxas info : Compiling entry function 'k' for 'sm_80'\n\
                   ptxas info : Used 99999999999 registers, x bytes smem\n";
        let [report] = parse_ptxas_log(log).try_into().unwrap();
        assert_eq!(
            report,
            PtxasReport {
                kernel: "k".to_owned(),
                ..PtxasReport::default()
            }
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC*") {
            parse_ptxas_log(&text);
        }

        #[test]
        fn any_cut_through_a_log_is_read_without_a_panic(from in 0..LOG.len(), to in 0..LOG.len()) {
            parse_ptxas_log(&LOG[from.min(to)..from.max(to)]);
        }
    }
}
