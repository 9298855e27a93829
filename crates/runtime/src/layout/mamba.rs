//! Mamba 1 and 2: the classes of transformers and of fla. The authors' own form is another file's.

use super::config::Config;
use super::tensors::Tensors;
use super::{Layout, LayoutError, flag, number, text};

/// Which class wrote a configuration. All have the same tensors and other names of options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writer {
    /// transformers.
    Transformers,
    /// fla before 0.5, with the option names of transformers for time steps.
    OlderFla,
    /// fla.
    Fla,
}

impl Writer {
    fn of(config: &Config<'_>) -> Self {
        let any = |options: &[&str]| options.iter().any(|option| config.has(option));
        // Only fla has other implementations of norms and losses to choose from; only its later
        // classes have the option names of mamba_ssm.
        match any(&["dt_min", "dt_max", "dt_rank", "dt_limit", "dt_init_floor"]) {
            true => Writer::Fla,
            false if any(&["norm_eps", "fuse_norm", "fuse_cross_entropy"]) => Writer::OlderFla,
            false => Writer::Transformers,
        }
    }

    /// The epsilon of every norm. fla before 0.3 has the name of transformers.
    fn eps(self, config: &Config<'_>) -> Result<f64, LayoutError> {
        let name = match self {
            Writer::OlderFla if !config.has("norm_eps") => "layer_norm_epsilon",
            Writer::OlderFla | Writer::Fla => "norm_eps",
            Writer::Transformers => "layer_norm_epsilon",
        };
        config.number(name, 1e-5)
    }
}

/// What every Mamba has.
pub(super) struct Frame {
    /// Entries of the vocabulary.
    pub v: usize,
    /// Width.
    pub c: usize,
    /// Layers.
    pub layers: usize,
    /// Whether the embedding is the head too.
    pub tied: bool,
    /// Whether the convolution has a bias.
    pub conv_bias: bool,
    /// Whether the projections in and out have biases.
    pub proj_bias: bool,
    /// Epsilon of every norm.
    pub eps: f64,
}

impl Frame {
    /// Reads it; `layers` and `tied` are what the class has without the options.
    fn read(
        config: &Config<'_>,
        tensors: &Tensors<'_>,
        writer: Writer,
        layers: usize,
        tied: bool,
    ) -> Result<Self, LayoutError> {
        let [v, c] = table(tensors)?;
        let layers = config.layers(layers)?;
        config.only("hidden_size", &[&c.to_string()])?;
        config.only("vocab_size", &[&v.to_string()])?;
        config.only("hidden_act", &["\"silu\"", "\"swish\""])?;
        tensors.check_head(config, tied)?;
        // Left in converted checkpoints by the class that they were converted from.
        config.only("d_model", &[&c.to_string()])?;
        config.only("n_layer", &[&layers.to_string()])?;
        config.only("ssm_cfg", &["{}"])?;
        // Two implementations of the same norm.
        config.only("fuse_norm", &["true", "false"])?;
        // How the weights were first drawn, in which precision the residual is kept (f32 here),
        // and which of several equal implementations is used.
        config.ignore(&[
            "dt_init_floor",
            "dt_init_scheme",
            "dt_max",
            "dt_min",
            "dt_scale",
            "fused_add_norm",
            "residual_in_fp32",
            "time_step_floor",
            "time_step_init_scheme",
            "time_step_max",
            "time_step_min",
            "time_step_scale",
            "use_associative_scan",
            "use_falcon_mamba",
            "use_mambapy",
        ]);
        Ok(Frame {
            v,
            c,
            layers,
            tied: !tensors.has(super::tensors::HEAD),
            conv_bias: config.flag("use_conv_bias", true)?,
            proj_bias: config.flag("use_bias", false)?,
            eps: writer.eps(config)?,
        })
    }
}

/// Entries of the vocabulary, and width.
pub(super) fn table(tensors: &Tensors<'_>) -> Result<[usize; 2], LayoutError> {
    let name = match tensors.has("backbone.embedding.weight") {
        true => "backbone.embedding.weight",
        false => "backbone.embeddings.weight",
    };
    tensors.shape(name, "vocabulary and width")
}

const MIXER: &str = "backbone.layers.0.mixer.";

fn mixer(name: &str) -> String {
    format!("{MIXER}{name}")
}

/// Sizes of the mixer of Mamba 1, from its tensors.
pub(super) struct Mixer1 {
    /// Inner width.
    pub inner: usize,
    /// Size of the state.
    pub state: usize,
    /// Rank of the time step.
    pub rank: usize,
    /// Taps of the convolution.
    pub taps: usize,
}

impl Mixer1 {
    pub fn read(tensors: &Tensors<'_>) -> Result<Self, LayoutError> {
        let [inner, state] = tensors.shape(&mixer("A_log"), "inner width and state size")?;
        let [_, rank] = tensors.shape(&mixer("dt_proj.weight"), "rank of the time step")?;
        let [_, _, taps] = tensors.shape(&mixer("conv1d.weight"), "width of the convolution")?;
        Ok(Mixer1 {
            inner,
            state,
            rank,
            taps,
        })
    }

    /// The model of a frame and a mixer.
    pub fn layout(&self, frame: &Frame) -> Layout {
        Layout::new(
            "mamba1",
            [
                ("V", frame.v),
                ("C", frame.c),
                ("L", frame.layers),
                ("Di", self.inner),
                ("Ns", self.state),
                ("R", self.rank),
                ("K", self.taps),
            ],
            [
                ("norm_eps", number(frame.eps)),
                ("tied", flag(frame.tied)),
                ("conv_bias", flag(frame.conv_bias)),
                ("proj_bias", flag(frame.proj_bias)),
            ],
        )
    }
}

/// Mamba 1 of transformers or fla, which name a few options otherwise.
pub(super) fn mamba1(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<Layout, LayoutError> {
    let writer = Writer::of(config);
    let (layers, tied) = match writer {
        Writer::Transformers => (32, true),
        Writer::OlderFla | Writer::Fla => (48, false),
    };
    let frame = Frame::read(config, tensors, writer, layers, tied)?;
    let mixer = Mixer1::read(tensors)?;
    let rank = match writer {
        Writer::Fla => "dt_rank",
        Writer::OlderFla | Writer::Transformers => "time_step_rank",
    };
    config.only("state_size", &[&mixer.state.to_string()])?;
    config.only("intermediate_size", &[&mixer.inner.to_string()])?;
    config.only("d_inner", &[&mixer.inner.to_string()])?;
    config.only(rank, &[&mixer.rank.to_string(), "\"auto\""])?;
    config.only("conv_kernel", &[&mixer.taps.to_string()])?;
    config.only("rms_norm", &["true"])?;
    config.widens("expand", frame.c, mixer.inner)?;
    Ok(mixer.layout(&frame))
}

/// Sizes and settings of the mixer of Mamba 2.
pub(super) struct Mixer2 {
    /// Heads.
    pub heads: usize,
    /// Channels of a head.
    pub head: usize,
    /// Groups that share B and C.
    pub groups: usize,
    /// Size of the state.
    pub state: usize,
    /// Taps of the convolution.
    pub taps: usize,
    /// Limits of the step size.
    pub limit: (f64, f64),
    /// Whether each group of heads is normalised by itself.
    pub norm_per_group: bool,
    /// The norm of what the scan gives: after the gate, before it, or none.
    pub gated_norm: &'static str,
    /// D per head or per channel.
    pub skip: &'static str,
}

impl Mixer2 {
    /// Sizes from the tensors; settings are those of a norm after the gate, and no limits.
    pub fn read(tensors: &Tensors<'_>, groups: usize) -> Result<Self, LayoutError> {
        let [heads] = tensors.shape(&mixer("A_log"), "number of heads")?;
        let [_, inner] = tensors.shape(&mixer("out_proj.weight"), "inner width")?;
        let convolved = mixer("conv1d.weight");
        let [conv, _, taps] = tensors.shape(&convolved, "channels that are convolved")?;
        let states = conv.saturating_sub(inner);
        let equal = "heads of equal width";
        Ok(Mixer2 {
            heads,
            head: tensors.divided(&mixer("out_proj.weight"), inner, heads, equal)?,
            groups,
            state: tensors.divided(&convolved, states, groups.saturating_mul(2), "B and C")?,
            taps,
            limit: (0.0, f64::INFINITY),
            norm_per_group: true,
            gated_norm: "after",
            skip: "head",
        })
    }

    /// Channels of all heads.
    pub fn inner(&self) -> usize {
        self.heads * self.head
    }

    /// The model of a frame and a mixer.
    pub fn layout(&self, frame: &Frame, tensors: &Tensors<'_>) -> Result<Layout, LayoutError> {
        let equal = "heads in equal groups";
        let group = tensors.divided(&mixer("A_log"), self.heads, self.groups, equal)?;
        // A step size is a softplus: a limit at or below 0 is none.
        let dt_min = match self.limit.0 > 0.0 {
            true => self.limit.0,
            false => f64::NEG_INFINITY,
        };
        Ok(Layout::new(
            "mamba2",
            [
                ("V", frame.v),
                ("C", frame.c),
                ("L", frame.layers),
                ("G", self.groups),
                ("Hg", group),
                ("P", self.head),
                ("Ns", self.state),
                ("K", self.taps),
            ],
            [
                ("norm_eps", number(frame.eps)),
                ("mixer_eps", number(frame.eps)),
                ("dt_min", number(dt_min)),
                ("dt_max", number(self.limit.1)),
                ("norm_per_group", flag(self.norm_per_group)),
                ("tied", flag(frame.tied)),
                ("conv_bias", flag(frame.conv_bias)),
                ("proj_bias", flag(frame.proj_bias)),
                ("skip", text(self.skip)),
                ("gated_norm", text(self.gated_norm)),
            ],
        ))
    }
}

/// Mamba 2 of transformers or fla, whose files look the same: they differ in the names of
/// options, in which of them they obey, and in how the gated norm treats several groups.
pub(super) fn mamba2(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<Layout, LayoutError> {
    let writer = Writer::of(config);
    let (layers, groups, limit) = match writer {
        Writer::Fla => (48, 1, "dt_limit"),
        Writer::OlderFla => (48, 1, "time_step_limit"),
        Writer::Transformers => (64, 8, "time_step_limit"),
    };
    let frame = Frame::read(config, tensors, writer, layers, false)?;
    let mut mixer = Mixer2::read(tensors, config.size_or("n_groups", groups)?)?;
    config.only("num_heads", &[&mixer.heads.to_string()])?;
    config.only("head_dim", &[&mixer.head.to_string()])?;
    config.only("state_size", &[&mixer.state.to_string()])?;
    config.only("conv_kernel", &[&mixer.taps.to_string()])?;
    config.only("intermediate_size", &[&mixer.inner().to_string()])?;
    config.widens("expand", frame.c, mixer.inner())?;
    config.ignore(&["time_step_rank", "A_init_range", "conv_init"]);
    mixer.limit = config.range(limit, (0.0, f64::INFINITY))?;
    let open = match writer {
        Writer::Fla => {
            mixer.gated_norm = gated_norm(config)?;
            mixer.skip = skip(config)?;
            config.only("rms_norm", &["true"])?;
            None
        }
        // These classes have no such options, or do not obey them: their norm is after the gate.
        Writer::OlderFla | Writer::Transformers => {
            config.ignore(&["norm_before_gate", "rmsnorm", "rms_norm", "D_has_hdim"]);
            let (per_group, open) = norm_per_group(config, writer);
            mixer.norm_per_group = per_group;
            open.filter(|_| mixer.groups > 1)
        }
    };
    let layout = mixer.layout(&frame, tensors)?;
    Ok(match open {
        None => layout,
        Some(why) => layout.assuming("norm_per_group", why),
    })
}

/// The norm around the gate, as fla and mamba_ssm say it.
pub(super) fn gated_norm(config: &Config<'_>) -> Result<&'static str, LayoutError> {
    let normed = config.flag("rmsnorm", true)?;
    let before = config.flag("norm_before_gate", false)?;
    Ok(match (normed, before) {
        (false, _) => "none",
        (true, false) => "after",
        (true, true) => "before",
    })
}

/// What D is for, as fla and mamba_ssm say it.
pub(super) fn skip(config: &Config<'_>) -> Result<&'static str, LayoutError> {
    Ok(match config.flag("D_has_hdim", false)? {
        true => "channel",
        false => "head",
    })
}

/// The release of transformers from which on its class normalises each group by itself, as
/// mamba_ssm always did.
const NORM_PER_GROUP_SINCE: (u32, u32) = (5, 23);

/// Whether each group is normalised by itself, and why, if the file leaves it open.
fn norm_per_group(config: &Config<'_>, writer: Writer) -> (bool, Option<&'static str>) {
    if writer == Writer::OlderFla {
        let why = "as fla before 0.5 computes without mamba_ssm; mamba_ssm has it true";
        return (false, Some(why));
    }
    match config.release() {
        Some(release) if release >= NORM_PER_GROUP_SINCE => (true, None),
        // Only the first release has this option, for which one model was converted.
        Some(_) if config.has("norm_before_gate") => (
            true,
            Some("as Codestral, for which this form was made, was trained with mamba_ssm"),
        ),
        Some(_) => (
            false,
            Some(
                "as transformers before 5.23 computes; it is true for weights that were trained \
                 with mamba_ssm, and of later releases",
            ),
        ),
        None => (
            true,
            Some("as transformers from 5.23 on and mamba_ssm compute"),
        ),
    }
}
