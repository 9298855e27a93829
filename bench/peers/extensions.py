"""Builds the CUDA extensions of mamba-ssm and causal-conv1d for sm_90, with nvcc and the headers of torch; no GPU.

    python3 extensions.py SOURCES OUT [--jobs N] [--nvcc NVCC] [--include DIR]

SOURCES holds the two unpacked source distributions. The interpreter has to be of the version that will load the
results, which go to OUT. Variants with complex numbers are left out: nothing here uses them, and they are half of the
time.
"""

import argparse
import concurrent.futures
import pathlib
import subprocess
import sys
import sysconfig
import tempfile

FLAGS = ["-O3", "-std=c++17", "-gencode=arch=compute_90a,code=sm_90a", "-Xcompiler", "-fPIC", "--use_fast_math", "--expt-relaxed-constexpr"]
FLAGS += ["--expt-extended-lambda", "-U__CUDA_NO_HALF_OPERATORS__", "-U__CUDA_NO_HALF_CONVERSIONS__", "-U__CUDA_NO_BFLOAT16_OPERATORS__"]
FLAGS += ["-U__CUDA_NO_BFLOAT16_CONVERSIONS__", "-U__CUDA_NO_BFLOAT162_OPERATORS__", "-U__CUDA_NO_BFLOAT162_CONVERSIONS__"]


def without_complex(source):
    text = source.read_text()
    if source.suffix == ".cpp":
        return text.replace("c10::complex<float>", "float")
    return "\n".join(line for line in text.splitlines() if "complex_t>(" not in line) + "\n"


def build(name, folder, args, pool):
    import torch

    root = pathlib.Path(torch.__file__).parent
    include = [folder, root / "include", root / "include/torch/csrc/api/include", sysconfig.get_paths()["include"], *args.include]
    common = [f"-I{path}" for path in include] + [f"-DTORCH_EXTENSION_NAME={name}", "-DTORCH_API_INCLUDE_EXTENSION_H"]
    with tempfile.TemporaryDirectory() as work:
        jobs = []
        for source in sorted(folder.glob("*.c*")):
            if source.suffix not in (".cpp", ".cu") or "complex" in source.name:
                continue
            text, out = pathlib.Path(work) / source.name, pathlib.Path(work) / (source.name + ".o")
            text.write_text(without_complex(source))
            command = [args.nvcc, *FLAGS, *common, "-c", text, "-o", out]
            jobs.append((out, pool.submit(subprocess.run, command, capture_output=True, text=True)))
        for out, job in jobs:
            done = job.result()
            if done.returncode:
                raise RuntimeError(f"{out.name}: {done.stderr[-2000:]}")
            print(f"compiled {out.name}", flush=True)
        target = args.out / f"{name}.so"
        libraries = [f"-L{root / 'lib'}", "-lc10", "-lc10_cuda", "-ltorch", "-ltorch_cpu", "-ltorch_cuda", "-ltorch_python"]
        # CUDA's runtime is the one that torch has loaded.
        link = ["g++", "-shared", *(str(out) for out, _ in jobs), *libraries, "-o", target]
        subprocess.run(link, check=True)
    print(f"built {target}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--include", type=pathlib.Path, action="append", default=[], help="headers of CUDA's, where nvcc does not find them")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    wrong = 0
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for name, pattern in (("causal_conv1d_cuda", "causal_conv1d-*/csrc"), ("selective_scan_cuda", "mamba_ssm-*/csrc/selective_scan")):
            for folder in args.sources.glob(pattern):
                try:
                    build(name, folder, args, pool)
                except (RuntimeError, subprocess.CalledProcessError) as error:
                    print(f"FAILED {name}: {error}")
                    wrong += 1
    return wrong


if __name__ == "__main__":
    sys.exit(main())
