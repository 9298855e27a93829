//! Device profiles: the limits the cost model uses, each with its provenance.
//!
//! A profile is a TOML file under `devices/`; those of the repository are
//! compiled in, so that plans are the same everywhere. Nothing here asks a
//! driver what is plugged in.

mod fitted;

pub use fitted::{Entry, Fitted, FittedFigure};

use crate::plan::Storage;
use fusec_ir::language::{LONGEST_MESSAGE, MAX_TOML_NESTING, readable, too_deep};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

/// Where a figure comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provenance {
    /// Measured on such a device.
    Measured,
    /// From the maker's documents.
    Datasheet,
    /// Set so that predictions agree with recorded results of such a device.
    Fit,
    /// Scaled from a related device; to be replaced by a measurement.
    Estimate,
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Provenance::Measured => "measured",
            Provenance::Datasheet => "datasheet",
            Provenance::Fit => "fit",
            Provenance::Estimate => "estimate",
        })
    }
}

/// A number and its provenance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// The number, in the unit of its field.
    pub value: f64,
    /// Where it comes from.
    pub from: Provenance,
}

/// What the cost model knows of a GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Short name (`h200`).
    pub name: String,
    /// Full name.
    pub title: String,
    /// Architecture its kernels are compiled for (`sm_90a`).
    pub arch: String,
    /// Streaming multiprocessors.
    pub sms: Figure,
    /// Device memory bandwidth, TB/s, reads and writes together.
    pub memory_tbs: Figure,
    /// L2 cache, MB.
    pub l2_mb: Figure,
    /// L2 bandwidth, TB/s.
    pub l2_tbs: Figure,
    /// Tensor cores with 16-bit inputs and f32 accumulation, TFLOP/s.
    pub tensor_tflops: Figure,
    /// FP32 outside tensor cores, TFLOP/s.
    pub fp32_tflops: Figure,
    /// Special functions per SM and clock.
    pub sfu_per_sm: Figure,
    /// Boost clock, GHz.
    pub clock_ghz: Figure,
    /// One step of a sequential recurrence, microseconds.
    pub step_us: Figure,
    /// One block-wide exchange (a reduction inside a row, a shared-memory hand-over), microseconds.
    pub barrier_us: Figure,
    /// One barrier of all blocks of a grid, a block to each multiprocessor, microseconds: from the last
    /// block's arrival to where all go on.
    pub grid_barrier_us: Figure,
    /// Start of a kernel on a stream, microseconds.
    pub stream_launch_us: Figure,
    /// Start of a kernel inside a CUDA graph, microseconds.
    pub graph_launch_us: Figure,
    /// Shared memory one block may use, KiB.
    pub smem_kb: Figure,
    /// 32-bit registers of one SM.
    pub registers: Figure,
    /// What no single measurement gives.
    pub fitted: Fitted,
}

/// Why a device profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// No such profile is compiled in.
    #[error(
        "unknown device `{name}`: one of {known}, or the path of a device file ending in .toml"
    )]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The file cannot be read.
    #[error("cannot read the device file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a device profile.
    #[error("{path} is not a device profile: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why, with the place.
        reason: String,
    },
    /// Brackets nest deeper than a profile needs.
    #[error("{path} is not a device profile: brackets are nested more than {limit} deep")]
    Nested {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// The file is a profile of an earlier version.
    #[error(
        "{path} has no [fitted] table, which the cost model needs: \
         write the profile again with `fusec calibrate`, or copy the table of a related device from devices/"
    )]
    Unfitted {
        /// The file.
        path: PathBuf,
    },
    /// A figure is not a positive number.
    #[error("{path}: `{field}` must be a positive number, got {value}")]
    Figure {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// Its value.
        value: f64,
    },
}

const BUILT_IN: [(&str, &str); 6] = [
    ("h200", include_str!("../../../devices/h200.toml")),
    ("h100", include_str!("../../../devices/h100.toml")),
    ("a100", include_str!("../../../devices/a100.toml")),
    ("rtx4090", include_str!("../../../devices/rtx4090.toml")),
    ("rtx4050", include_str!("../../../devices/rtx4050.toml")),
    ("t4", include_str!("../../../devices/t4.toml")),
];

impl Device {
    /// The names of the profiles that are compiled in.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// A compiled-in profile by name, or a profile from a path ending in `.toml`.
    pub fn find(name_or_path: &str) -> Result<Device, DeviceError> {
        let (text, path) = Device::text(name_or_path)?;
        Device::parse(&text, &path)
    }

    /// What a profile says of itself in the comment at its head, line by line.
    pub fn note(name_or_path: &str) -> Result<String, DeviceError> {
        let (text, _) = Device::text(name_or_path)?;
        let head = text.lines().map_while(|line| line.strip_prefix("# "));
        Ok(head.collect::<Vec<_>>().join("\n"))
    }

    /// Reads a profile from a file.
    pub fn load(path: &Path) -> Result<Device, DeviceError> {
        Device::parse(&read(path)?, path)
    }

    /// The text of a profile, and its place.
    fn text(name_or_path: &str) -> Result<(Cow<'static, str>, PathBuf), DeviceError> {
        if name_or_path.ends_with(".toml") {
            let path = PathBuf::from(name_or_path);
            return Ok((read(&path)?.into(), path));
        }
        match BUILT_IN.iter().find(|(name, _)| *name == name_or_path) {
            Some((name, text)) => Ok(((*text).into(), format!("devices/{name}.toml").into())),
            None => Err(DeviceError::Unknown {
                name: name_or_path.to_string(),
                known: Device::names().collect::<Vec<_>>().join(", "),
            }),
        }
    }

    fn parse(text: &str, path: &Path) -> Result<Device, DeviceError> {
        let unreadable = |error: toml::de::Error| DeviceError::Parse {
            path: path.to_path_buf(),
            reason: readable(&error.to_string(), LONGEST_MESSAGE),
        };
        if too_deep(text).is_some() {
            return Err(DeviceError::Nested {
                path: path.to_path_buf(),
                limit: MAX_TOML_NESTING,
            });
        }
        let table: toml::Table = toml::from_str(text).map_err(unreadable)?;
        if table.contains_key("sms") && !table.contains_key("fitted") {
            return Err(DeviceError::Unfitted {
                path: path.to_path_buf(),
            });
        }
        let device: Device = toml::from_str(text).map_err(unreadable)?;
        let figures = device
            .figures()
            .map(|(field, figure)| (field, figure.value));
        let fitted = device.fitted.entries();
        let fitted = fitted.iter().map(|of| (of.field, of.figure.value));
        for (field, value) in figures.into_iter().chain(fitted) {
            if !(value.is_finite() && value > 0.0) {
                return Err(DeviceError::Figure {
                    path: path.to_path_buf(),
                    field,
                    value,
                });
            }
        }
        Ok(device)
    }

    /// Every figure that can be looked up or measured alone, with the name of its field.
    pub fn figures(&self) -> [(&'static str, Figure); 15] {
        [
            ("sms", self.sms),
            ("memory_tbs", self.memory_tbs),
            ("l2_mb", self.l2_mb),
            ("l2_tbs", self.l2_tbs),
            ("tensor_tflops", self.tensor_tflops),
            ("fp32_tflops", self.fp32_tflops),
            ("sfu_per_sm", self.sfu_per_sm),
            ("clock_ghz", self.clock_ghz),
            ("step_us", self.step_us),
            ("barrier_us", self.barrier_us),
            ("grid_barrier_us", self.grid_barrier_us),
            ("stream_launch_us", self.stream_launch_us),
            ("graph_launch_us", self.graph_launch_us),
            ("smem_kb", self.smem_kb),
            ("registers", self.registers),
        ]
    }

    /// The device as far as kernels compiled for an architecture can use it: its instructions, and
    /// the shared memory that a block of it may have. Rates stay those of the profile.
    pub fn compiled_for(mut self, arch: &str) -> Device {
        if self.arch != arch {
            let number: String = arch.chars().filter(char::is_ascii_digit).collect();
            let smem_kb = match number.as_str() {
                "75" => 64.0,
                "80" | "87" => 163.0,
                "86" | "89" | "120" => 99.0,
                _ => 227.0,
            };
            self.smem_kb.value = self.smem_kb.value.min(smem_kb);
            self.arch = arch.to_owned();
        }
        self
    }

    /// Tensor-core rate for a storage type in TFLOP/s; `None` where none applies (f32 is
    /// computed in f32, without TF32; bf16 needs sm_80).
    pub fn tensor_rate(&self, storage: Storage) -> Option<f64> {
        match storage {
            Storage::F32 => None,
            Storage::Bf16 if self.arch == "sm_75" => None,
            Storage::Bf16 | Storage::F16 => Some(self.tensor_tflops.value),
        }
    }
}

/// Bytes of a profile that are read; those of this repository have a few thousand.
const MOST_BYTES: u64 = 1 << 20;

fn read(path: &Path) -> Result<String, DeviceError> {
    fusec_ir::files::read_text(path, MOST_BYTES).map_err(|source| DeviceError::Read {
        path: path.to_path_buf(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_compiled_in_profile_parses_and_carries_its_own_name() {
        for name in Device::names() {
            let device = Device::find(name).unwrap();
            assert_eq!(device.name, name);
        }
    }

    #[test]
    fn a_profile_with_a_figure_that_is_no_positive_number_is_refused_by_name() {
        let text = BUILT_IN[0]
            .1
            .replace("memory_tbs = { value = ", "memory_tbs = { value = -");
        let error = Device::parse(&text, Path::new("x.toml")).unwrap_err();
        assert!(error.to_string().contains("memory_tbs"), "{error}");
    }

    #[test]
    fn a_profile_without_fitted_figures_says_where_to_get_them() {
        let text = BUILT_IN[0].1.split("[fitted]").next().unwrap();
        let error = Device::parse(text, Path::new("x.toml"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("[fitted]") && error.contains("calibrate"),
            "{error}"
        );
        let text = BUILT_IN[0]
            .1
            .replace("trip_us = { value = ", "trip_us = { value = -");
        let error = Device::parse(&text, Path::new("x.toml")).unwrap_err();
        assert!(error.to_string().contains("trip_us"), "{error}");
    }

    #[test]
    fn an_unknown_device_lists_what_there_is() {
        let error = Device::find("h2000").unwrap_err().to_string();
        assert!(error.contains("h200,") && error.contains("t4"), "{error}");
    }

    #[test]
    fn tensor_cores_serve_16_bit_types_only() {
        let t4 = Device::find("t4").unwrap();
        assert_eq!(t4.tensor_rate(Storage::F32), None);
        assert_eq!(t4.tensor_rate(Storage::Bf16), None);
        assert_eq!(t4.tensor_rate(Storage::F16), Some(65.0));
    }
}
