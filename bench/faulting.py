#!/usr/bin/env python3
"""A plan directory one kernel of which writes where it must not, for `bench/faults.sh`: compiled, then edited
and compiled again, source, cubin and hashes together. Needs NVRTC as `fusec toolchain` finds it, and nothing
but Python.

    faulting.py FUSEC MODEL FOLDER ARCH
"""

import ctypes
import hashlib
import json
import pathlib
import subprocess
import sys

FAULT = "    *reinterpret_cast<volatile float*>(i64(16)) = 1.0f;\n"


def compiled(library, source, header, arch):
    """The cubin of a source that includes fusec.cuh."""
    nvrtc = ctypes.CDLL(library)

    def call(name, *arguments):
        status = getattr(nvrtc, name)(*arguments)
        if status:
            sys.exit(f"{name}: status {status}")

    program = ctypes.c_void_p()
    headers = (ctypes.c_char_p * 1)(header.encode())
    names = (ctypes.c_char_p * 1)(b"fusec.cuh")
    call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), b"faulting.cu", 1, headers, names)
    options = [f"--gpu-architecture={arch}".encode(), b"--std=c++17", b"-default-device"]
    call("nvrtcCompileProgram", program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    call("nvrtcGetCUBINSize", program, ctypes.byref(size))
    cubin = ctypes.create_string_buffer(size.value)
    call("nvrtcGetCUBIN", program, cubin)
    return cubin.raw


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def main():
    fusec, model, folder, arch = sys.argv[1:]
    folder = pathlib.Path(folder)
    about = subprocess.run([fusec, "toolchain", "--json"], capture_output=True, text=True)
    if about.returncode:
        sys.exit(about.stderr)
    library = json.loads(about.stdout)["nvrtc"]["path"]
    subprocess.run(
        [fusec, "compile", model, "--axis", "C=64", "--shape", "B=1,T=4", "--arch", arch, "--out", folder],
        check=True, stdout=subprocess.DEVNULL)
    manifest = json.loads((folder / "manifest.json").read_text())
    cubins = json.loads((folder / "cubins.json").read_text())
    header = (folder / "kernels/fusec.cuh").read_text()
    # The last one of a run of several tokens, so that others have run before it.
    step = manifest["regimes"][-1]["steps"][-1]
    name = manifest["kernels"][step["kernel"]]["image"]
    kernel = next(kernel for kernel in manifest["kernels"] if kernel["name"] == name)
    path = folder / f"kernels/{name}.cu"
    source = path.read_text()
    # Functions that it calls stand before it.
    entry = source.index("__global__")
    body = source.index(") {\n", entry) + len(") {\n")
    source = source[:body] + FAULT + source[body:]
    path.write_text(source)
    kernel["source_sha256"] = sha256(source.encode())
    (folder / "manifest.json").write_text(json.dumps(manifest))
    cubin = compiled(library, source, header, arch)
    (folder / f"kernels/{name}.{arch}.cubin").write_bytes(cubin)
    cubins["sha256"][arch][name] = sha256(cubin)
    (folder / "cubins.json").write_text(json.dumps(cubins))
    print(f"{folder}: kernel `{name}` for {arch} writes to address 16")


if __name__ == "__main__":
    main()
