#!/usr/bin/env bash
# Where a package registry is: fetches what the peers need beside torch, triton and transformers, for Python 3.12 on
# x86-64 Linux, into .whl/, which travels to a GPU without a network.
#
#   bench/peers/fetch.sh            .whl: fla, mlstm_kernels, and the Triton files of mamba-ssm (sources.tar.gz)
#   bench/peers/fetch.sh delta      .whl-delta: FlashInfer and the cuDNN front end
#   bench/peers/fetch.sh tilelang   .whl-tilelang: tilelang and flash-qla, of whose kernels fla takes some then
#
# mamba-ssm and causal-conv1d are source distributions whose build asks for torch and a CUDA toolkit: only their files
# are taken; unpacked they stay in KEEP, if that is set. What their CUDA extensions are built to (bench/peers/extensions.py) goes to .whl/ as well.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p .whl .whl-delta .whl-tilelang

wheel() {
    local to=$1
    shift
    python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        --platform=manylinux_2_{17,24,27,28,31,34,35}_x86_64 --platform=manylinux{2014,1}_x86_64 -d "$to" "$@"
}

# pip runs a build script even to download a source distribution, and theirs import torch.
sources() {
    local work stub
    work=$(mktemp -d)
    stub=$work/stub/torch
    mkdir -p "$stub/utils"
    printf '%s\n' '__version__ = "2.11.0"' '_C = None' 'class version: cuda = hip = None' \
        'class cuda: is_available = staticmethod(lambda: False); device_count = staticmethod(lambda: 0)' >"$stub/__init__.py"
    touch "$stub/utils/__init__.py"
    printf '%s\n' 'CUDA_HOME = HIP_HOME = None' 'BuildExtension = object' 'CppExtension = CUDAExtension = lambda *a, **k: None' \
        >"$stub/utils/cpp_extension.py"
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install -q setuptools wheel packaging ninja
    (cd "$work" && MAMBA_SKIP_CUDA_BUILD=TRUE CAUSAL_CONV1D_SKIP_CUDA_BUILD=TRUE PYTHONPATH=$work/stub venv/bin/pip download -q \
        --no-deps --no-binary :all: --no-build-isolation mamba-ssm==2.3.2.post1 causal-conv1d==1.7.0)
    mkdir -p "$work/site"
    tar -C "$work" -xzf "$work"/mamba_ssm-*.tar.gz
    tar -C "$work" -xzf "$work"/causal_conv1d-*.tar.gz
    cp -r "$work"/mamba_ssm-*/mamba_ssm "$work/site/"
    rm "$work/site/mamba_ssm/__init__.py" # It loads every model and the extensions.
    cp -r "$work"/causal_conv1d-*/causal_conv1d "$work/site/"
    : >"$work/site/causal_conv1d/__init__.py"
    echo 2.3.2.post1 >"$work/site/mamba-ssm.sdist-version"
    tar -C "$work/site" -czf .whl/sources.tar.gz .
    [ -z "${KEEP:-}" ] || { mkdir -p "$KEEP" && cp -r "$work"/mamba_ssm-*/ "$work"/causal_conv1d-*/ "$KEEP/"; }
    rm -rf "$work"
}

case ${1:-} in
    delta) wheel .whl-delta flashinfer-python==0.6.9 nvidia-cudnn-frontend==1.32.0 apache-tvm-ffi==0.1.12 ;;
    tilelang) wheel .whl-tilelang tilelang==0.1.15 z3-solver==4.15.4.0 torch-c-dlpack-ext==0.1.5 flash-qla==0.1.3 ;;
    *)
        wheel .whl fla-core==0.6.0 flash-linear-attention==0.6.0 mlstm-kernels==2.0.6
        sources
        ;;
esac
find .whl*/ -type f -printf '%10s %p\n' | sort -k2
