//! The machine code of a cubin as text, where the machine has a disassembler.
//!
//! `nvdisasm` is part of the CUDA toolkit, which nothing else here needs; so it is looked for and never
//! fetched.

use std::io::{self, Write};
use std::process::{Command, Stdio};

/// The disassembler, found as commands are.
pub const DISASSEMBLER: &str = "nvdisasm";

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
pub enum DisassembleError {
    /// The machine has no disassembler.
    #[error(
        "there is no {DISASSEMBLER} on this machine: it is part of the CUDA toolkit, and of the Python package `triton`, in triton/backends/nvidia/bin; put it on the PATH"
    )]
    NotFound,
    /// It cannot be run.
    #[error("cannot run {DISASSEMBLER}: {0}")]
    Run(#[from] io::Error),
    /// It refused.
    #[error("{DISASSEMBLER} refuses the cubin: {0}")]
    Refused(String),
}

impl DisassembleError {
    /// Whether a disassembler would help.
    pub fn is_missing(&self) -> bool {
        matches!(self, DisassembleError::NotFound)
    }
}

/// The machine code of the function `entry` of a cubin.
pub fn disassemble(cubin: &[u8], entry: &str) -> Result<String, DisassembleError> {
    // It reads files only.
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(cubin)?;
    let run = Command::new(DISASSEMBLER)
        .args(["--print-code", "--no-dataflow"])
        .arg(file.path())
        .stdin(Stdio::null())
        .output();
    let output = match run {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(DisassembleError::NotFound);
        }
        Err(error) => return Err(error.into()),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let first = said.lines().next().unwrap_or("it does not say why");
        return Err(DisassembleError::Refused(first.into()));
    }
    Ok(function(&String::from_utf8_lossy(&output.stdout), entry))
}

/// The part of a listing that is of one function: from its section's head to the next one.
fn function(listing: &str, entry: &str) -> String {
    let is_head =
        |line: &str| line.trim_start().starts_with(".section") || line.starts_with("//---");
    let own = format!(".text.{entry}");
    let mut out = String::new();
    let mut inside = false;
    for line in listing.lines() {
        if line.trim_start().starts_with(".section") && line.contains(".text.") {
            let name = line.split_whitespace().nth(1).unwrap_or_default();
            // The flags of the section stand behind a comma, with or without a space.
            inside = name.split(',').next() == Some(own.as_str());
        } else if inside && is_head(line) {
            inside = false;
        }
        if inside {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_cut_out_of_the_listing() {
        let listing = "\
\t.headerflags\t@\"EF_CUDA_SM90\"
//--------------------- .text.fusec_a --------------------------
\t.section\t.text.fusec_a,\"ax\",@progbits
fusec_a:
        /*0000*/ NOP ;
//--------------------- .text.fusec_ab --------------------------
\t.section\t.text.fusec_ab,\"ax\",@progbits
        /*0000*/ EXIT ;
";
        let text = function(listing, "fusec_a");
        assert!(text.contains("NOP") && !text.contains("EXIT"), "{text}");
        assert!(function(listing, "fusec_ab").contains("EXIT"));
        assert_eq!(function(listing, "fusec"), "");
    }
}
