"""Checks and times the kernels of `cargo run -p fusec-codegen --example products` beside cuBLAS (torch.matmul).

    run.py DIR [--rows 2048,16384] [--check 1,17,300] [--only PREFIX,...] [--out RESULT.json] [--commit HASH]

DIR holds products.json and NAME.cubin (or NAME.cu, compiled here by nvcc). Right first: each kernel against a float64
product on the GPU, results poisoned before, rows behind the last one watched. Then times: as many launches in one CUDA
graph as take about 4 ms, over operand sets that exceed the L2 cache together; kernels and cuBLAS take turns, medians.
"""
import argparse, ctypes, datetime, hashlib, json, math, os, statistics, subprocess, sys
import torch

cuda = ctypes.CDLL("libcuda.so.1")


def call(name, *args):
    code = getattr(cuda, name)(*args)
    if code:
        text = ctypes.c_char_p()
        cuda.cuGetErrorString(code, ctypes.byref(text))
        raise RuntimeError(f"{name}: {text.value.decode() if text.value else code}")


BF16, SWIZZLE_128, PROMOTE_256, MOST_SHARED = 9, 3, 3, 8


def tensor_map(tensor, axes, rows):
    """128 bytes at a multiple of 64, as the driver encodes them."""
    raw = (ctypes.c_ubyte * 192)()
    at = (ctypes.addressof(raw) + 63) // 64 * 64
    rank = len(axes)
    dims = (ctypes.c_uint64 * rank)(*[rows if a["extent"] == "rows" else a["extent"] for a in axes])
    strides = (ctypes.c_uint64 * rank)(*[2 * a["stride"] for a in axes[1:]], 0)
    box = (ctypes.c_uint32 * rank)(*[a["span"] for a in axes])
    ones = (ctypes.c_uint32 * rank)(*[1] * rank)
    call("cuTensorMapEncodeTiled", ctypes.c_void_p(at), BF16, ctypes.c_uint32(rank), ctypes.c_void_p(tensor.data_ptr()), dims, strides, box,
         ones, 0, SWIZZLE_128, PROMOTE_256, 0)
    return raw, at


class Kernel:
    def __init__(self, directory, info):
        self.info = info
        cubin = os.path.join(directory, info["name"] + ".cubin")
        source = os.path.join(directory, info["name"] + ".cu")
        if not os.path.exists(cubin):
            cubin = "/tmp/" + info["name"] + ".cubin"
            subprocess.run(["nvcc", "-cubin", "-std=c++17", "-gencode=arch=compute_90a,code=sm_90a", source, "-o", cubin], check=True)
        self.sha = hashlib.sha256(open(source, "rb").read()).hexdigest()
        self.image = open(cubin, "rb").read()
        module = ctypes.c_void_p()
        call("cuModuleLoadData", ctypes.byref(module), self.image)
        self.function = ctypes.c_void_p()
        call("cuModuleGetFunction", ctypes.byref(self.function), module, info["name"].encode())
        call("cuFuncSetAttribute", self.function, MOST_SHARED, info["shared"])

    def bind(self, buffers, rows, multiprocessors):
        """A closure that launches on the current stream."""
        info, keep, pointers = self.info, [], []
        for arg in info["args"]:
            if arg.startswith("map:"):
                raw, at = tensor_map(buffers[arg[4:]], info["maps"][arg[4:]], rows)
                keep.append(raw)
                pointers.append(at)
            else:
                value = ctypes.c_int64(rows if arg == "rows" else buffers[arg].data_ptr())
                keep.append(value)
                pointers.append(ctypes.addressof(value))
        params = (ctypes.c_void_p * len(pointers))(*pointers)
        tiles = -(-rows // info["tile_rows"]) * sum(lane["column_tiles"] for lane in info["lanes"])
        blocks = min(tiles, multiprocessors) if info["persistent"] else tiles
        one = ctypes.c_uint(1)

        def launch():
            stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
            call("cuLaunchKernel", self.function, ctypes.c_uint(blocks), one, one, ctypes.c_uint(info["threads"]), one, one,
                 ctypes.c_uint(info["shared"]), stream, params, None)

        launch.keep = (keep, params)
        return launch


def buffers_for(info, rows, seed, y_rows=None):
    torch.manual_seed(seed)
    depth = info["depth"]
    draw = lambda *shape: torch.randn(*shape, device="cuda", dtype=torch.float32)
    out = {"x": draw(rows, depth).bfloat16()}
    widest = max(lane["columns"] for lane in info["lanes"])
    out["bias"] = draw(widest)
    out["statistics"] = draw(rows, 2)
    for i, lane in enumerate(info["lanes"]):
        n = lane["columns"]
        for j in range(lane["products"]):
            w = draw(n, depth).bfloat16() if lane["layout"] == "Nk" else draw(depth, n).bfloat16()
            out[f"w{i}_{j}"] = w * torch.tensor(depth ** -0.5, dtype=torch.bfloat16, device="cuda")
        out[f"r{i}"] = draw(rows, n).bfloat16()
        out[f"y{i}"] = torch.full((y_rows or rows, n), float("nan"), device="cuda", dtype=torch.bfloat16)
    return out


def weights(buffers, info, i, j):
    w = buffers[f"w{i}_{j}"]
    return w.t() if info["lanes"][i]["layout"] == "Nk" else w


def expected(buffers, info, i):
    """Lane i in float64, by rows, so that large results fit."""
    lane = info["lanes"][i]
    sums = [weights(buffers, info, i, j).double() for j in range(lane["products"])]
    for at in range(0, buffers["x"].shape[0], 4096):
        part = slice(at, at + 4096)
        x = buffers["x"][part].double()
        s = x @ sums[0]
        r = buffers[f"r{i}"][part].double()
        kind = lane["epilogue"]
        if kind == "residual":
            s = s + r
        elif kind == "silu":
            s = s * torch.sigmoid(s)
        elif kind == "gate":
            s = torch.sigmoid(s) * r
        elif kind == "row_statistics":
            st = buffers["statistics"][part].double()
            s = (s - st[:, :1] * buffers["bias"][: lane["columns"]].double()) * st[:, 1:]
        elif kind == "pair":
            s = s * torch.sigmoid(s) * (x @ sums[1])
        yield part, s


def check(kernel, rows, sms):
    info = kernel.info
    b = buffers_for(info, rows, rows, y_rows=rows + 3)
    kernel.bind(b, rows, sms)()
    torch.cuda.synchronize()
    worst = 0.0
    for i in range(len(info["lanes"])):
        y = b[f"y{i}"]
        if not torch.isnan(y[rows:]).all():
            raise RuntimeError(f"{info['name']} rows {rows}: wrote behind lane {i}")
        off = ref = 0.0
        for part, s in expected(b, info, i):
            off += (y[:rows][part].double() - s).pow(2).sum().item()
            ref += s.pow(2).sum().item()
        error = math.sqrt(off / ref) if off == off else float("nan")
        worst = max(worst, error) if error == error else float("nan")
    return worst


def graph_of(launches, count):
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for launch in launches:
            launch()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for i in range(count):
            launches[i % len(launches)]()
    return graph


def sample(graph, count):
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / count


def main():
    p = argparse.ArgumentParser()
    p.add_argument("dir")
    p.add_argument("--rows", default="2048,16384")
    p.add_argument("--check", default="1,17,300")
    p.add_argument("--only", default="")
    p.add_argument("--rounds", type=int, default=9)
    p.add_argument("--out")
    p.add_argument("--commit", default="")
    a = p.parse_args()
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.zeros(1, device="cuda")
    sms = torch.cuda.get_device_properties(0).multi_processor_count
    index = json.load(open(os.path.join(a.dir, "products.json")))
    only = [o for o in a.only.split(",") if o]
    index = [i for i in index if not only or any(i["name"].startswith(o) for o in only)]
    results, kernels = [], []
    for info in index:
        try:
            kernel = Kernel(a.dir, info)
            errors = {}
            for rows in [int(r) for r in a.check.split(",") if r]:
                errors[rows] = check(kernel, rows, sms)
            if all(e < 4e-3 for e in errors.values()):
                kernels.append((kernel, errors))
            else:
                print(f"{info['name']}: WRONG {errors}", flush=True)
        except RuntimeError as error:
            print(f"{info['name']}: {error}", flush=True)
            if "illegal" in str(error) or "launch failure" in str(error):
                break
    groups = {}
    for kernel, errors in kernels:
        key = (kernel.info["depth"], tuple((l["columns"], l["layout"], l["products"]) for l in kernel.info["lanes"]))
        groups.setdefault(key, []).append((kernel, errors))
    for rows in [int(r) for r in a.rows.split(",") if r]:
        for (depth, _), members in groups.items():
            info = members[0][0].info
            columns = sum(l["columns"] * l["products"] for l in info["lanes"])
            flops = 2.0 * rows * depth * columns
            footprint = 2 * (rows * depth + depth * columns + 2 * rows * columns)
            sets = max(1, min(6, -(-200_000_000 // footprint)))
            bufs = [buffers_for(info, rows, s) for s in range(sets)]
            count = max(sets, min(200, round(4e-3 / (flops / 6.5e14 + 3e-6))))

            def blas(b):
                outs = [[torch.empty(rows, l["columns"], device="cuda", dtype=torch.bfloat16) for _ in range(l["products"])] for l in info["lanes"]]

                def launch():
                    for i, l in enumerate(info["lanes"]):
                        for j in range(l["products"]):
                            torch.matmul(b["x"], weights(b, info, i, j), out=outs[i][j])

                launch.keep = outs
                return launch

            # What a graph's launches write to has to outlive the graph.
            reference = [blas(b) for b in bufs]
            timed = [("cublas", graph_of(reference, count), None)]
            for kernel, errors in members:
                launches = [kernel.bind(b, rows, sms) for b in bufs]
                graph = graph_of(launches, count)
                graph_keep = launches
                timed.append((kernel.info["name"], graph, (kernel, errors, graph_keep)))
            samples = {name: [] for name, _, _ in timed}
            for round_ in range(a.rounds + 2):
                for name, graph, _ in timed:
                    t = sample(graph, count)
                    if round_ >= 2:
                        samples[name].append(t)
            base = statistics.median(samples["cublas"])
            for name, _, more in timed:
                t = statistics.median(samples[name])
                spread = (max(samples[name]) - min(samples[name])) / t
                row = {"name": name, "rows": rows, "depth": depth, "columns": [l["columns"] for l in info["lanes"]], "ms": t, "tflops": flops / t / 1e9,
                       "of_cublas": base / t, "spread": spread}
                if more:
                    kernel, errors, _ = more
                    row.update(tile=kernel.info["tile"], epilogue=[l["epilogue"] for l in kernel.info["lanes"]], sha256=kernel.sha, errors=errors)
                results.append(row)
                print(f"{rows:6} x {depth:5} x {columns:6}  {name:26} {t * 1e3:9.2f} us  {row['tflops']:6.1f} TFLOP/s  {100 * row['of_cublas']:6.1f} %  +-{50 * spread:.1f}", flush=True)
            del timed, bufs, reference
            torch.cuda.empty_cache()
    if a.out:
        driver = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True).stdout.strip()
        record = {"device": torch.cuda.get_device_name(0), "driver": driver, "torch": torch.__version__, "date": datetime.date.today().isoformat(), "commit": a.commit,
                  "protocol": "float64 check first; medians of interleaved CUDA graphs of about 4 ms, operands beyond the L2", "results": results}
        json.dump(record, open(a.out, "w"), indent=1)


main()
