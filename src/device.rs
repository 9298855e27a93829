//! The `--device` argument, and starting a model on what it names.

use std::fmt;
use std::str::FromStr;

use fusec_ir::Graph;
use fusec_runtime::cpu::CpuSession;
use fusec_runtime::session::Session;
use fusec_runtime::weights::Weights;

use crate::failure::{self, Failure};

/// Where a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The first GPU if there is one, else the interpreter.
    Auto,
    /// The interpreter.
    Cpu,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Device::Auto => "auto",
            Device::Cpu => "cpu",
        })
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            _ => Err(format!("`{text}` is none of auto, cpu")),
        }
    }
}

/// Starts a model on a device.
pub fn start<'g>(
    device: Device,
    graph: &'g Graph,
    weights: Weights,
) -> Result<Box<dyn Session + 'g>, Failure> {
    match device {
        Device::Auto | Device::Cpu => {
            let session = CpuSession::<f32>::new(graph, weights).map_err(failure::input)?;
            Ok(Box::new(session))
        }
    }
}
