"""What is compared: an operator at a size, by the case of bench/cases that computes it."""

import pathlib
from dataclasses import dataclass, field


@dataclass
class Row:
    name: str
    operator: str  # A function of inputs.py, references.py, and of the peers' modules.
    sizes: dict
    case: str
    axes: dict = field(default_factory=dict)  # Axes of the case that differ from its own.
    settings: dict = field(default_factory=dict)
    dtype: str = "bf16"
    plan: str = ""  # The directory of bench/plans.txt, where compiled ones are carried.
    flush = ["--flush-l2"]

    @property
    def shape(self):
        return " ".join(f"{axis}{size}" for axis, size in self.sizes.items())

    def ours(self, place):
        """The arguments of `fusec bench` and `fusec compile`; `place` is for what has to be written first."""
        arguments = [self.text(place), "--dtype", self.dtype]
        for axis, size in self.axes.items():
            arguments += ["--axis", f"{axis}={size}"]
        for name, value in self.settings.items():
            arguments += ["--set", f"{name}={value}"]
        return arguments + ["--shape", f"B={self.sizes['B']},T={self.sizes['T']}"]

    def text(self, place):
        """Where the model text is: as it stands in bench/cases, from the repository's root."""
        return f"bench/cases/{self.case}.toml"

    def small(self):
        """Sizes at which the peer is compared with the formula: several chunks and a part of one, two heads."""
        few = {"B": 2, "T": 150, "H": 2, "G": 2, "D": 64, "C": 256}
        if self.operator == "mlstm":
            few["T"] = 512  # Its peer takes whole chunks only.
        kept = {"D", "C"} if self.operator in ("kda", "gated_deltanet", "mlstm", "delta_product") else set()
        return {axis: size if axis in kept else min(size, few.get(axis, size)) for axis, size in self.sizes.items()}


def elementwise():
    for name in ("ln_shift6", "norm_gain", "groupnorm_gate", "add_norm"):
        yield Row(name, name, {"B": 8, "T": 2048, "C": 2048}, name, plan=f"op-{name}")
    yield Row("ln_linear", "ln_linear", {"B": 8, "T": 2048, "C": 2048}, "ln_linear", plan="op-ln_linear")
    yield Row("ln_linear_step", "ln_linear", {"B": 1, "T": 1, "C": 2048}, "ln_linear", plan="op-ln_linear_step")
    yield Row("conv_silu", "conv_silu", {"B": 8, "T": 2048, "C": 4096, "K": 4}, "conv_silu", plan="op-conv_silu")
    yield Row("gated_scan", "gated_scan", {"B": 4, "T": 2048, "C": 256, "D": 64}, "gated_scan", dtype="f16", plan="op-gated_scan")


def scans():
    for batch, time, suffix in ((8, 2048, ""), (1, 16384, "_long")):
        shape = {"B": batch, "T": time}
        yield Row(f"wkv6{suffix}", "wkv6", {**shape, "H": 32, "N": 64}, "wkv6", plan=f"op-wkv6{suffix}")
        yield Row(f"wkv7{suffix}", "wkv7", {**shape, "H": 32, "N": 64}, "wkv7", plan=f"op-wkv7{suffix}")
        yield Row(f"gla{suffix}", "gla", {**shape, "H": 4, "K": 256, "V": 512}, "gla", plan=f"op-gla{suffix}")
        yield Row(f"ssd{suffix}", "ssd", {**shape, "H": 64, "P": 64, "N": 128}, "ssd", plan=f"op-ssd{suffix}")
    yield Row("selective_scan", "selective_scan", {"B": 8, "T": 2048, "D": 4096, "N": 16}, "selective_scan", plan="op-selective_scan")
    for dtype in ("f32", "f16"):
        for batch in (1, 4, 16):
            sizes = {"B": batch, "T": 512, "D": 2048, "N": 32}
            axes = {"D": 2048, "N": 32}
            yield Row(f"selective_scan_{dtype}_{batch}", "selective_scan", sizes, "selective_scan", axes, dtype=dtype)


def delta():
    for batch, time, suffix in ((4, 2048, ""), (1, 8192, "_long"), (1, 32768, "_longest")):
        sizes = {"B": batch, "T": time, "H": 16, "Hv": 64, "D": 128}
        yield Row(f"gated_deltanet{suffix}", "gated_deltanet", sizes, "gated_deltanet", plan=f"op-gated_deltanet{suffix}")
    for time, heads in ((1024, 24), (4096, 8), (8192, 16), (16384, 4), (16384, 24)):
        sizes = {"B": 1, "T": time, "H": heads, "D": 128}
        yield Row(f"kda_{time}_{heads}", "kda", sizes, "kda", {"H": heads}, plan="op-kda" if (time, heads) == (8192, 16) else "")


def mixed():
    """Steps of several recurrences, and of several updates of one."""
    for batch, time, suffix in ((8, 2048, ""), (1, 16384, "_long")):
        sizes = {"B": batch, "T": time, "H": 8, "D": 128}
        yield Row(f"linear_attention{suffix}", "linear_attention", sizes, "linear_attention", plan=f"op-linear_attention{suffix}")
        yield Row(f"mlstm{suffix}", "mlstm", sizes, "mlstm", plan=f"op-mlstm{suffix}")
        sizes = {"B": batch, "T": time, "H": 16, "D": 128, "M": 2}
        yield Row(f"delta_product{suffix}", "delta_product", sizes, "delta_product", plan=f"op-delta_product{suffix}")


def attention():
    for name, groups, heads, width, window in (
        ("attention", 32, 1, 64, 2048),
        ("attention_wide", 16, 1, 128, 2048),
        ("attention_group", 4, 4, 128, 2048),
        ("attention_hybrid", 2, 1, 64, 4096),
    ):
        axes = {"G": groups, "H": heads, "N": width}
        yield Row(name, "attention", {"B": 8, "T": 2048, **axes}, "attention", axes, {"window": window}, plan=f"op-{name}")
    axes = {"G": 8, "H": 4, "N": 128}
    yield Row("attention_long", "attention", {"B": 1, "T": 16384, **axes}, "attention", axes, {"window": 16384})


class Backward(Row):
    """Forward and backward of an operator: gradients by all of its inputs."""

    def text(self, place):
        import gradients

        text = place / f"{self.case}-backward.toml"
        if not text.exists():
            text.write_text(gradients.with_gains(pathlib.Path(f"bench/cases/{self.case}.toml").read_text()))
        return text

    def ours(self, place):
        return [*super().ours(place), "--training"]


def backward():
    for row in (*scans(), *delta()):
        if row.name in ("wkv6", "wkv7", "gla", "ssd", "selective_scan", "gated_deltanet"):
            sizes = {**row.sizes, "B": 8}
            yield Backward(f"{row.name}_backward", row.operator, sizes, row.case, row.axes)


class Product(Row):
    """One product of an activation and a matrix, nothing else in the run."""

    def text(self, place):
        text = place / "product.toml"
        if not text.exists():
            text.write_text(
                'name = "product"\n[axes]\nK = 2048\nN = 2048\n[input]\nx = "K"\n'
                '[param]\nweight = { shape = "N, K" }\n[model]\nflow = "return x @ weight"\n'
            )
        return text


def products():
    """What the models of about 1.5 B parameters multiply by, at 2,048 and 16,384 rows."""
    shapes = [(2048, 2048), (2048, 8192), (8192, 2048), (2048, 5632), (5632, 2048), (2048, 4096), (4096, 2048)]
    for batch in (1, 8):
        for depth, columns in shapes + [(2048, 96), (96, 2048), (2048, 256)] + [(2048, 65536)] * (batch == 1):
            axes = {"K": depth, "N": columns}
            yield Product(f"product_{depth}_{columns}_{2048 * batch}", "product", {"B": batch, "T": 2048, **axes}, "product", axes)


@dataclass
class Model:
    """A whole model of models/ with random weights."""

    name: str
    model: str
    preset: str
    what: str  # prefill with the last rows of the logits, decode, or training: loss and all gradients
    sizes: dict
    dtype: str = "bf16"
    plan = ""
    flush = ()

    @property
    def operator(self):
        return f"{self.model}-{self.preset}"

    @property
    def shape(self):
        return f"{self.what} " + " ".join(f"{axis}{size}" for axis, size in self.sizes.items())

    def ours(self, place):
        more = {"prefill": ["--logits", "last"], "decode": [], "training": ["--training"]}[self.what]
        shape = f"B={self.sizes['B']},T={self.sizes['T']}"
        return [f"models/{self.model}.toml", "--preset", self.preset, "--dtype", self.dtype, "--shape", shape, *more]


def models():
    for model, preset in (("rwkv7", "1.5b"), ("rwkv6", "1.6b"), ("mamba2", "1.3b"), ("gla", "1.3b")):
        for what, batch, time in (("prefill", 8, 2048), ("prefill", 1, 2048), ("decode", 1, 1), ("decode", 64, 1)):
            yield Model(f"{model}_{what}_b{batch}", model, preset, what, {"B": batch, "T": time})


def training():
    for model, preset in (("rwkv7", "0.4b"), ("mamba2", "370m"), ("gla", "340m")):
        for batch, time in ((8, 2048), (4, 512)):
            yield Model(f"{model}_training_b{batch}", model, preset, "training", {"B": batch, "T": time})


STAGES = {"ops": elementwise, "scans": scans, "delta": delta, "mixed": mixed, "attention": attention}
STAGES |= {"backward": backward, "products": products, "models": models, "training": training}


def rows(stage):
    return list(STAGES[stage]())
