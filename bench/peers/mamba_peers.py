"""mamba-ssm and causal-conv1d. Their Triton files need no extension: the package is found by its folder, without
its __init__, which would load every model; the CUDA extensions are taken where they are built."""

import importlib.util
import pathlib
import sys
import types


def packages():
    """Makes `import mamba_ssm.ops...` work from an unpacked sdist on the path."""
    if "mamba_ssm" in sys.modules:
        return
    for entry in sys.path:
        folder = pathlib.Path(entry) / "mamba_ssm"
        if (folder / "ops").is_dir():
            package = types.ModuleType("mamba_ssm")
            package.__path__ = [str(folder)]
            sys.modules["mamba_ssm"] = package
            return
    raise ModuleNotFoundError("mamba_ssm is not on the path", name="mamba_ssm")


def extension(name):
    if importlib.util.find_spec(name) is None:
        raise ModuleNotFoundError(f"the CUDA extension {name} is not built", name=name)
    return importlib.import_module(name)


def ssd(x):
    packages()
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined as scan

    return lambda: scan(x.x, x.dt, x.rate, x.b, x.c, 256, D=x.skip, dt_bias=x.dt_bias, dt_softplus=True)


def selective_scan(x):
    import torch

    cuda = extension("selective_scan_cuda")
    if torch.is_grad_enabled():
        packages()
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn as scan

        return lambda: scan(x.x, x.dt, x.rate, x.b, x.c, x.skip, x.z, x.dt_bias, delta_softplus=True)
    b, c = x.b[:, None], x.c[:, None]
    return lambda: cuda.fwd(x.x, x.dt, x.rate, b, c, x.skip, x.z, x.dt_bias, True)[-1]


def conv_silu(x):
    import torch

    cuda = extension("causal_conv1d_cuda")
    rows = x.x.transpose(1, 2)
    out = torch.empty_like(rows)

    def run():
        cuda.causal_conv1d_fwd(rows, x.taps, x.bias, None, None, out, None, True)
        return out.transpose(1, 2)

    return run


PEERS = {
    "ssd": {"mamba-ssm": ssd},
    "selective_scan": {"mamba-ssm": selective_scan},
    "conv_silu": {"causal-conv1d": conv_silu},
}
