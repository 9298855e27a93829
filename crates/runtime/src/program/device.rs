//! Where a program runs.

use std::fmt;
use std::str::FromStr;

use crate::executor::gpu::{GpuError, gpus};

/// A device by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceKind {
    /// The first GPU if there is one, else the interpreter.
    #[default]
    Auto,
    /// The interpreter, f32.
    Cpu,
    /// The generated kernels, on the CPU.
    Emulator,
    /// A GPU by number.
    Cuda(usize),
}

/// A name that is no device's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no device: there are auto, cpu, emulator and cuda:N")]
pub struct UnknownDevice(String);

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceKind::Auto => f.write_str("auto"),
            DeviceKind::Cpu => f.write_str("cpu"),
            DeviceKind::Emulator => f.write_str("emulator"),
            DeviceKind::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

impl FromStr for DeviceKind {
    type Err = UnknownDevice;

    fn from_str(text: &str) -> Result<Self, UnknownDevice> {
        match text {
            "auto" => Ok(DeviceKind::Auto),
            "cpu" => Ok(DeviceKind::Cpu),
            "emulator" => Ok(DeviceKind::Emulator),
            "cuda" => Ok(DeviceKind::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .map(DeviceKind::Cuda)
                .ok_or_else(|| UnknownDevice(text.to_owned())),
        }
    }
}

impl DeviceKind {
    /// What `auto` stands for on this machine; anything else is itself.
    pub fn resolved(self) -> Self {
        match self {
            DeviceKind::Auto => match gpus() {
                Ok(list) if !list.is_empty() => DeviceKind::Cuda(0),
                Ok(_) | Err(GpuError::NoDriver) => DeviceKind::Cpu,
                // There may be one that does not work: no reason to stop, but one to speak.
                Err(error) => {
                    tracing::warn!("no GPU can be used, the interpreter is taken: {error}");
                    DeviceKind::Cpu
                }
            },
            device => device,
        }
    }
}
