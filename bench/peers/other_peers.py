"""FlashInfer, flash-qla and the cuDNN front end: kernels for the delta rule with head widths of 128; mlstm_kernels."""

import pathlib
import sys
import types

import torch


def flashinfer(x):
    """Packed sequences, decays themselves and not their logarithms. Its kernels are built by nvcc when first called, 64
    variants of them in minutes; a build of the one that is needed is taken where there is one."""
    from flashinfer import gdn_prefill
    from flashinfer.gdn_prefill import chunk_gated_delta_rule

    for built in (pathlib.Path(entry) / "gdn_prefill_sm90.so" for entry in sys.path):
        if built.exists():
            import tvm_ffi

            load = types.SimpleNamespace(build_and_load=lambda: tvm_ffi.load_module(str(built)))
            gdn_prefill.gen_gdn_prefill_sm90_module = lambda: load
            break

    s = x.sizes
    flat = lambda t: t.reshape(-1, *t.shape[2:]).contiguous()
    ends = torch.arange(0, (s.B + 1) * s.T, s.T, dtype=torch.int64, device=x.q.device)
    q, k, v = flat(x.q), flat(x.k), flat(x.v)
    decay, beta = flat(x.log_decay.float().exp()), flat(x.beta.float())
    return lambda: chunk_gated_delta_rule(q, k, v, decay, beta, scale=x.scale, cu_seqlens=ends).view(s.B, s.T, s.Hv, s.D)


def flash_qla(x):
    from flash_qla import chunk_gated_delta_rule

    return lambda: chunk_gated_delta_rule(x.q, x.k, x.v, x.log_decay.float(), x.beta.float(), scale=x.scale)[0]


def cudnn_kda(x):
    """One kernel, compiled by NVRTC; packed sequences, logarithms of decays in f32."""
    from cudnn.linear_attention.ops.kda import kimi_delta_attention

    s = x.sizes
    flat = lambda t: t.reshape(-1, *t.shape[2:]).contiguous()
    ends = torch.arange(0, (s.B + 1) * s.T, s.T, dtype=torch.int32, device=x.q.device)
    q, k, v, gate, beta = flat(x.q), flat(x.k), flat(x.v), flat(x.log_decay.float()), flat(x.beta.float())

    def run():
        y = kimi_delta_attention(q, k, v, gate, beta, ends, scale=x.scale)
        return (y[0] if isinstance(y, (tuple, list)) else y).view(s.B, s.T, s.H, s.D)

    return run


def mlstm_kernels(chunk):
    """Its Triton kernels, whose chunks are as long as asked for; gates before their functions, in the kernel."""

    def make(x):
        from mlstm_kernels.torch.chunkwise.triton_xl_chunk import mlstm_chunkwise__xl_chunk

        return lambda: mlstm_chunkwise__xl_chunk(
            x.q, x.k, x.v, x.i, x.f, chunk_size=chunk, eps=1e-6, autocast_kernel_dtype=x.q.dtype
        )

    return make


PEERS = {
    "mlstm": {"mlstm_kernels": mlstm_kernels(128), "mlstm_kernels, chunks of 256": mlstm_kernels(256)},
    "gated_deltanet": {"FlashInfer": flashinfer, "flash-qla": flash_qla},
    "kda": {"cuDNN front end": cudnn_kda},
}
