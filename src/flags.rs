//! Arguments that several verbs take, and how they are read.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use fusec_fuse::{Mode, Shape, Storage};
use fusec_ir::Graph;
use fusec_ir::gradient::WholeObjective;
use fusec_ir::last_row::only_last_rows;
use fusec_runtime::limits;
use fusec_runtime::model::Model;
use fusec_runtime::toolchain::{self, Arch};
use fusec_runtime::tune::Tuned;
use fusec_runtime::weights::WeightSpec;

use crate::failure::{self, Failure};

/// Which model, and with which sizes.
#[derive(Clone, Debug, Args)]
pub struct ModelArgs {
    /// A model.toml, or a directory with one; or a checkpoint: a directory with config.json and
    /// weights, or a .pth.
    pub model: PathBuf,
    /// A preset of the model text, such as one of its sizes.
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    pub preset: Option<String>,
    /// Another size for an axis of the model. May be repeated.
    #[arg(long = "axis", value_name = "AXIS=SIZE", help_heading = "Model")]
    pub axes: Vec<AxisSize>,
    /// Another value for a setting of the model. May be repeated.
    #[arg(long = "set", value_name = "SETTING=VALUE", help_heading = "Model")]
    pub settings: Vec<Assignment>,
    /// Tensors of the checkpoint that no parameter has to read; `*` stands for anything. May be
    /// repeated.
    #[arg(long, value_name = "PATTERN", help_heading = "Model")]
    pub allow_unused: Vec<String>,
    #[command(flatten)]
    pub zeros: ZerosArg,
}

/// What is expected of a model's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Args)]
pub struct ZerosArg {
    /// The share of what a relu gives that is expected to be zero, from 0 to below 1. Single steps of one
    /// sequence then leave out the rows of matrices that meet a zero, where that pays; no result changes but by rounding.
    #[arg(long, value_name = "SHARE", help_heading = "Model")]
    pub zeros: Option<Share>,
}

/// A number from 0 to below 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(f64);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            Ok(share) if (0.0..1.0).contains(&share) => Ok(Share(share)),
            _ => Err(format!("`{text}` is no number from 0 to below 1")),
        }
    }
}

impl ZerosArg {
    /// Tells a model what is expected of it.
    pub fn apply(self, graph: &mut Graph) {
        if let Some(Share(share)) = self.zeros {
            graph.zeros = share;
        }
    }
}

impl ModelArgs {
    /// The files that a run of it reads: the model and its weights.
    pub fn read<'a>(&'a self, weights: Option<&'a WeightSpec>) -> impl Iterator<Item = &'a Path> {
        std::iter::once(self.model.as_path()).chain(file_of(weights))
    }
}

/// The checkpoint that weights are read from, if they are.
pub fn file_of(weights: Option<&WeightSpec>) -> Option<&Path> {
    match weights? {
        WeightSpec::Checkpoint(path) => Some(path),
        WeightSpec::Random(_) => None,
    }
}

/// A time that is waited for at most, in seconds.
pub fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && seconds > 0.0 => Ok(seconds),
        _ => Err(format!("`{text}` is no number of seconds above 0")),
    }
}

/// How a model is turned into kernels.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Planning")]
pub struct PlanArgs {
    /// The run that costs are computed for: batch and tokens. The kernels run at any shape.
    #[arg(long, value_name = "B=N,T=N", default_value = "B=8,T=2048")]
    pub shape: ShapeArg,
    /// Storage type of activations and matrices: f32, bf16 or f16. States, norms and decays
    /// are computed in f32 always.
    #[arg(long, value_name = "TYPE", default_value_t = Storage::F32)]
    pub dtype: Storage,
    /// How kernels are chosen: auto (least cost), greedy, unfused, random:SEED.
    #[arg(long, value_name = "HOW", default_value_t = Mode::Auto)]
    pub plan: Mode,
    /// The device whose costs are used: a profile's name, or the path of one.
    #[arg(long, value_name = "NAME", default_value = "h200")]
    pub device_profile: String,
    /// Values that have to be computed in one kernel. May be repeated.
    #[arg(long, value_name = "VALUE,VALUE..")]
    pub fuse: Vec<Names>,
    /// Values that have to be computed in different kernels. May be repeated.
    #[arg(long, value_name = "VALUE,VALUE..")]
    pub split: Vec<Names>,
}

/// A plan that was measured.
#[derive(Clone, Debug, Args)]
pub struct TunedArg {
    /// Use the plan that was measured to be the fastest: a directory that `fusec compile --tune` wrote,
    /// or the tuned.json of one. Refused for another shape, type or device, and where the sources of
    /// kernels are no longer those that were timed.
    #[arg(long, value_name = "DIR|FILE", help_heading = "Measured plans")]
    pub tuned: Option<PathBuf>,
}

impl TunedArg {
    /// The record, if one is given. It takes the place of `plan`.
    pub fn read(&self, plan: &PlanArgs) -> Result<Option<Tuned>, Failure> {
        let Some(path) = &self.tuned else {
            return Ok(None);
        };
        if plan.plan != Mode::Auto {
            return Err(failure::message(
                format!(
                    "--tuned says how kernels are chosen, and so does --plan {}",
                    plan.plan
                ),
                "leave one of them out",
            ));
        }
        Tuned::read(path).map(Some).map_err(failure::input)
    }
}

/// How a model that is run on the emulator or a GPU is turned into kernels.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Kernels (--device emulator, cuda:N)")]
pub struct KernelArgs {
    /// Storage type of activations and matrices: f32, bf16 or f16.
    #[arg(long, value_name = "TYPE", default_value_t = Storage::F32)]
    pub dtype: Storage,
    /// How kernels are chosen: auto (least cost), greedy, unfused, random:SEED.
    #[arg(long, value_name = "HOW", default_value_t = Mode::Auto)]
    pub plan: Mode,
    /// The device whose costs are used: a profile's name, or the path of one.
    #[arg(long, value_name = "NAME", default_value = "h200")]
    pub device_profile: String,
    /// A directory that `fusec compile` wrote: its kernels are run, once they are shown to be what
    /// its plans become.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["dtype", "plan", "device_profile"])]
    pub plan_dir: Option<PathBuf>,
    /// Run whatever --plan-dir holds, unchecked: its sources on this machine's processor
    /// (emulator), its cubins on the GPU. It is the code of whoever wrote them.
    #[arg(long, requires = "plan_dir")]
    pub trust_foreign_code: bool,
    /// Seed of the order in which the emulator runs blocks and threads.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub emulator_seed: u64,
    #[command(flatten)]
    pub toolchain: ToolchainArgs,
}

impl KernelArgs {
    /// The planner's arguments, for costs at a shape.
    pub fn plan_args(&self, shape: Shape) -> PlanArgs {
        PlanArgs {
            shape: ShapeArg(shape),
            dtype: self.dtype,
            plan: self.plan,
            device_profile: self.device_profile.clone(),
            fuse: Vec::new(),
            split: Vec::new(),
        }
    }
}

/// What of a model is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Args)]
pub struct TrainingArg {
    /// A training step in place of the model: the forward pass, the cross-entropy of the next token, and
    /// the gradients of it by all parameters, as one graph.
    #[arg(long)]
    pub training: bool,
}

impl TrainingArg {
    /// Makes a model its training step, if that is asked for.
    pub fn apply(self, model: &mut Model) -> Result<(), Failure> {
        if self.training {
            let objective = WholeObjective::new(&model.graph).map_err(failure::input)?;
            model.graph = objective.gradient.graph;
        }
        Ok(())
    }

    /// The same, where rows of outputs may be asked for: a step needs all.
    pub fn apply_beside(self, logits: LogitsArg, model: &mut Model) -> Result<(), Failure> {
        if self.training && logits.logits == Logits::Last {
            return Err(failure::message(
                "a training step takes the loss of every token",
                "leave --logits last out, or --training",
            ));
        }
        self.apply(model)
    }
}

/// Which rows of its outputs a model is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Args)]
pub struct LogitsArg {
    /// Which rows of the outputs are computed in runs of several tokens: all, or the last of each
    /// sequence only.
    #[arg(long, value_name = "ROWS", default_value_t = Logits::All)]
    pub logits: Logits,
}

/// Rows of outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Logits {
    /// Every row.
    #[default]
    All,
    /// The last one of each sequence.
    Last,
}

impl Logits {
    /// The model that computes these rows, where it is not the model itself.
    pub fn asked(self, graph: &Graph) -> Option<Graph> {
        match self {
            Logits::All => None,
            Logits::Last => Some(only_last_rows(graph)),
        }
    }
}

impl fmt::Display for Logits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Logits::All => "all",
            Logits::Last => "last",
        })
    }
}

impl FromStr for Logits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Logits::All),
            "last" => Ok(Logits::Last),
            _ => Err(format!("`{text}` is neither all nor last")),
        }
    }
}

/// Where the CUDA compiler comes from.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Compiler")]
pub struct ToolchainArgs {
    /// Never use the network: no compiler is fetched.
    #[arg(long)]
    pub offline: bool,
    /// Compile every kernel anew, and remember none.
    #[arg(long)]
    pub no_cache: bool,
}

/// The architecture that kernels are compiled for.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Compiler")]
pub struct ArchArgs {
    /// GPU architecture, from sm_75 on; by default that of the device profile.
    #[arg(long, value_name = "ARCH")]
    pub arch: Option<Arch>,
}

impl ToolchainArgs {
    /// What the toolchain module is told: these arguments, and the environment variables that
    /// `--help` names.
    pub fn options(&self) -> toolchain::Options {
        toolchain::Options {
            offline: self.offline,
            no_cubin_cache: self.no_cache,
            ..toolchain::Options::from_env()
        }
    }
}

/// `B=8,T=2048`, in either order; what is left out is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShapeArg(pub Shape);

impl FromStr for ShapeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut batch, mut time) = (None, None);
        for part in text.split(',') {
            let Assignment { name, value } = part.parse()?;
            let slot = match name.as_str() {
                "B" => &mut batch,
                "T" => &mut time,
                _ => return Err(format!("`{name}` is neither B (batch) nor T (tokens)")),
            };
            let size = positive(&value)?;
            if slot.replace(size).is_some() {
                return Err(format!("`{name}` is given twice"));
            }
        }
        let shape = Shape {
            batch: batch.unwrap_or(1),
            time: time.unwrap_or(1),
        };
        limits::shape(shape).map_err(|error| error.to_string())?;
        Ok(ShapeArg(shape))
    }
}

/// `NAME=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Left of the sign.
    pub name: String,
    /// Right of it.
    pub value: String,
}

impl FromStr for Assignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() && !value.trim().is_empty() => {
                Ok(Assignment {
                    name: name.trim().into(),
                    value: value.trim().into(),
                })
            }
            _ => Err(format!("`{text}` is not of the form NAME=VALUE")),
        }
    }
}

/// `AXIS=SIZE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AxisSize {
    /// Name of the axis.
    pub axis: String,
    /// Its size.
    pub size: usize,
}

impl FromStr for AxisSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Assignment { name: axis, value } = text.parse()?;
        let size = positive(&value)?;
        Ok(AxisSize { axis, size })
    }
}

/// Names with commas between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names(pub Vec<String>);

impl FromStr for Names {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<String> = text.split(',').map(|n| n.trim().to_string()).collect();
        if names.len() < 2 || names.iter().any(String::is_empty) {
            return Err("give at least two names with a comma between them".into());
        }
        Ok(Names(names))
    }
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("`{text}` is not a whole number from 1 on")),
        Ok(number) => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_is_read_in_either_order_and_refused_with_the_reason() {
        let shape = |batch, time| Ok(ShapeArg(Shape { batch, time }));
        let cases = [
            ("B=8,T=2048", shape(8, 2048)),
            ("T=37, B=1", shape(1, 37)),
            ("T=5", shape(1, 5)),
            ("B=2", shape(2, 1)),
            ("B=0", Err("`0` is not a whole number from 1 on".into())),
            ("B=-1", Err("`-1` is not a whole number from 1 on".into())),
            ("B=1,B=2", Err("`B` is given twice".into())),
            ("T=1073741824", shape(1, 1 << 30)),
            (
                "T=1073741825",
                Err("T (tokens) is 1073741825, allowed are 1 to 1073741824".into()),
            ),
            (
                "B=1000000,T=1000000",
                Err("B times T is 1000000000000, allowed are 1 to 2147483648".into()),
            ),
            ("C=1", Err("`C` is neither B (batch) nor T (tokens)".into())),
            (
                "8x2048",
                Err("`8x2048` is not of the form NAME=VALUE".into()),
            ),
            ("", Err("`` is not of the form NAME=VALUE".into())),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<ShapeArg>(), expected, "{text}");
        }
    }

    #[test]
    fn a_pin_needs_two_names() {
        assert_eq!("a, b".parse(), Ok(Names(vec!["a".into(), "b".into()])));
        assert!("a".parse::<Names>().is_err());
        assert!("a,,b".parse::<Names>().is_err());
    }
}
