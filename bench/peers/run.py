"""Operators beside their peers, in one run on one GPU: fusec's figure of a row before and after all others'.

    run.py STAGE --fusec FUSEC --out FILE.json [--plans DIR] [--only ROW,..] [--seconds N] [--libraries NAME,..]

STAGE: ops (elementwise, projections, convolution), scans, delta (Gated DeltaNet, KDA),
mixed (linear attention with a normaliser, mLSTM, DeltaProduct), attention; backward (scans
forward and backward), models (prefill and single steps of whole models), training (of whole models). Each peer runs in a
process of its own under a time limit; one that is missing, fails, or gives wrong numbers is recorded with the reason.
First, all at once, peers compile and fusec compiles; then, one at a time, they are timed.
"""

import argparse
import concurrent.futures
import fnmatch
import importlib
import json
import pathlib
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))

from protocol import MOST_SECONDS, RUNS, WARMUPS, Clock, machine, now  # noqa: E402
from rows import STAGES, rows  # noqa: E402
from worker import MODULES  # noqa: E402

# A peer's limit, seconds: to compile at first; then to tune, compare and time all its rows.
COMPILING, TIMING = 150, 110
# Whole models have a script of their own, and fewer runs.
WHOLE = ("models", "training")


class Run:
    def __init__(self, args, place):
        self.args, self.place, self.began = args, pathlib.Path(place), time.time()
        wanted = args.only.split(",") if args.only else ["*"]
        self.rows = [row for row in rows(args.stage) if any(fnmatch.fnmatchcase(row.name, pattern) for pattern in wanted)]
        self.results = {row.name: {"row": row.name, "shape": row.shape, "dtype": row.dtype, "peers": {}} for row in self.rows}

    def left(self):
        return self.args.seconds - (time.time() - self.began)

    def say(self, text):
        print(f"== [{time.time() - self.began:.0f} s] {text}", flush=True)

    def peers(self):
        """(library, peer, the rows it has), in the order in which they are timed."""
        for library in self.args.libraries.split(","):
            whole = self.args.stage in WHOLE
            if whole and library != "fla":
                continue
            table = importlib.import_module("models" if whole else MODULES[library]).PEERS
            found = {}
            for row in self.rows:
                for peer in table.get(row.operator, {}):
                    # What a library does for one operator is one process, so that variants are compiled once.
                    key = (library, peer, "" if library == "torch" else row.operator)
                    found.setdefault(key, []).append(row.name)
            yield from ((library, peer, names) for (library, peer, _), names in found.items())

    def worker(self, library, peer, names, out, limit, *more):
        script = HERE / ("models.py" if self.args.stage in WHOLE else "worker.py")
        command = [sys.executable, script, "--stage", self.args.stage, "--library", library, "--peer", peer]
        command += ["--rows", ",".join(names), "--out", out, *more]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
            return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no word"])[-1][:400]
        except subprocess.TimeoutExpired:
            return f"stopped after {limit:.0f} s"

    def prepare(self):
        """Everything that compiles, side by side. Tuned by measurement in advance is nothing."""
        started = []
        with concurrent.futures.ThreadPoolExecutor(10) as pool:
            for row in self.rows:
                started.append(pool.submit(self.compile, row))
            for library, peer, names in self.peers():
                # Inductor compiles in processes of its own, and keeps what it measures: not while others run.
                if library != "torch":
                    limit = min(COMPILING, self.left() * 0.6)
                    started.append(pool.submit(self.worker, library, peer, names, self.place / "prepared.jsonl", limit, "--prepare"))
        self.say("compiled")

    def compile(self, row):
        if not (self.args.plans and row.plan):
            command = [self.args.fusec, "compile", *row.ours(self.place), "--out", self.place / "plans" / row.name]
            try:
                subprocess.run(command, capture_output=True, timeout=COMPILING, check=False)
            except subprocess.TimeoutExpired:
                pass  # Then `fusec bench` says so.

    def directory(self, row):
        """What was compiled of a row, if it was."""
        carried = pathlib.Path(self.args.plans, row.plan) if self.args.plans and row.plan else None
        found = [place for place in (carried, self.place / "plans" / row.name) if place and (place / "manifest.json").exists()]
        return found[0] if found else None

    def bench(self, what, row, limit, *more):
        """One `fusec bench`; its report, or why there is none."""
        out = self.place / "ours.json"
        out.unlink(missing_ok=True)
        warmups, runs = (4, 30) if self.args.stage in WHOLE else (WARMUPS, RUNS)
        command = [self.args.fusec, "bench", *what, "--device", "cuda:0", *row.flush, "--out", out, *more]
        command += ["--warmup", str(warmups), "--runs", str(runs), "--most-seconds", str(MOST_SECONDS)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=max(5, min(limit, self.left())))
            return json.loads(out.read_text())
        except subprocess.TimeoutExpired:
            return {"error": "stopped at its limit"}
        except (OSError, ValueError):
            return {"error": " ".join(done.stderr.split())[-400:]}

    def figures(self, report):
        """Of each subject of a report, by name."""
        self.provenance = report.get("provenance", {})
        found = {}
        for subject in report["subjects"]:
            if not subject.get("measurements"):
                found[subject["name"]] = {"error": subject.get("error") or "measured nothing"}
                continue
            measured = subject["measurements"][0]
            time_of = measured["milliseconds"]
            at = {"median_ms": time_of["median"], "p10_ms": time_of.get("p10"), "p90_ms": time_of.get("p90"), "shape": measured["shape"]}
            at.update(peak_bytes=measured.get("peak_bytes"), launches=measured.get("launches"), kernels=subject.get("kernels"))
            if measured.get("kernels"):
                at["kernels_ms"] = {k["kernel"]: [k["launches"], k["milliseconds"]] for k in measured["kernels"]}
            if subject.get("check"):
                at["check"] = subject["check"]
            found[subject["name"]] = at
        return found

    def ours(self, *more):
        """fusec's figures of all rows: in one process what was compiled, then what is missing, row by row."""
        compiled = {row.name: self.directory(row) for row in self.rows}
        # Weights of a whole model are drawn once, and two models are never on the GPU together.
        groups = {}
        for row in self.rows:
            if compiled[row.name]:
                groups.setdefault(row.operator if self.args.stage in WHOLE else "", []).append(row)
        found = {}
        for group in groups.values():
            what = ["--trust-foreign-code"]
            for row in group:
                what += ["--plan-dir", compiled[row.name]]
            report = self.bench(what, group[0], 150, *more)
            if "error" in report:
                continue
            by_directory = self.figures(report)
            for row in group:
                at = by_directory.get(compiled[row.name].name) or {}
                # A directory is timed at the shape it was compiled for: that of the row, or it says nothing.
                shape = at.get("shape")
                if shape and (shape["batch"], shape["time"]) == (row.sizes["B"], row.sizes["T"]):
                    found[row.name] = at
        for row in self.rows:
            if row.name in found:
                continue
            planned = ["--plan-dir", compiled[row.name], "--trust-foreign-code", "--shape", f"B={row.sizes['B']},T={row.sizes['T']}"]
            for what in filter(None, (planned if compiled[row.name] else None, row.ours(self.place))):
                if self.left() < 3:
                    break
                report = self.bench(what, row, 60, *more)
                found[row.name] = report if "error" in report else next(iter(self.figures(report).values()))
                if "median_ms" in found[row.name]:
                    break
            found[row.name] = found.get(row.name) or {"error": "not run: the stage's time was used up"}
        return found

    def time_all(self):
        began = time.time()
        # Kernels of an operator are compared with the interpreter here; of whole models, bench/whole.sh does it.
        checked = self.args.stage not in (*WHOLE, "backward")
        for name, found in self.ours(*(["--check"] if checked else ["--per-kernel"])).items():
            self.results[name]["fusec"] = found
        # Nothing is compared the second time: it takes less.
        self.last = min(60, time.time() - began) + 3
        self.say("fusec, before")
        for number, (library, peer, names) in enumerate(self.peers()):
            out = self.place / f"peer-{number}.jsonl"
            # The last seconds are fusec's, a second time.
            limit = min(TIMING * (1.4 if library == "torch" else 1), self.left() - self.last)
            if limit < 10:
                reason = "not run: the stage's time was used up"
            else:
                reason = self.worker(library, peer, names, out, limit)
            lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
            for found in lines:
                self.results[found.pop("row")]["peers"][found.pop("peer")] = {"library": library, **found}
            for name in names:
                self.results[name]["peers"].setdefault(peer, {"library": library, "error": reason or "gave nothing"})
            self.say(f"{peer}: {', '.join(names)}" + (f": {reason}" if reason else ""))
        for name, found in self.ours().items():
            self.results[name]["fusec again"] = found
        self.say("fusec, after")

    def limits(self):
        """What this GPU moves and multiplies at most, today."""
        import torch

        clock = Clock(flush=False, runs=20)
        source = torch.empty(2 << 30, dtype=torch.uint8, device="cuda").random_(0, 255)
        target = torch.empty_like(source)
        copy = clock.eager(lambda: target.copy_(source))["median_ms"]
        x, y = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        product = clock.eager(lambda: x @ y)["median_ms"]
        return {"copy_tb_s": 2 * source.numel() / 1e9 / copy, "bf16_product_tflop_s": 2 * 8192**3 / 1e9 / product}


def versions():
    from importlib import metadata

    names = ["torch", "triton", "transformers", "fla-core", "flash-linear-attention", "flashinfer-python", "flash-qla", "tilelang"]
    names += ["nvidia-cudnn-frontend", "nvidia-cudnn-cu13", "nvidia-cublas", "mamba-ssm", "causal-conv1d"]
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    # Unpacked without being installed: the file says which.
    for path in sys.path:
        for file in pathlib.Path(path or ".").glob("*.sdist-version"):
            found[file.name.removesuffix(".sdist-version")] = file.read_text().strip()
    return found


def best(result):
    """The fastest peer that was right: (milliseconds, name)."""
    right = [
        (peer["median_ms"], name)
        for name, peer in result["peers"].items()
        if "median_ms" in peer and peer.get("check", {}).get("passed")
    ]
    return min(right) if right else None


def table(results):
    lines = [f"{'row':24} {'shape':28} {'fusec ms':>9} {'again':>8} {'peer ms':>9} {'fusec/peer':>10}  peer"]
    number = lambda value: "-" if value is None else f"{value:.4f}"
    for result in results:
        ours, again = (result.get(key, {}).get("median_ms") for key in ("fusec", "fusec again"))
        peer = best(result)
        result["best_peer"] = peer and {"name": peer[1], "median_ms": peer[0]}
        slower = max(filter(None, (ours, again)), default=None)
        result["ratio_to_best_peer"] = slower / peer[0] if slower and peer else None
        ratio = "-" if result["ratio_to_best_peer"] is None else f"{result['ratio_to_best_peer']:.2f}"
        check = result.get("fusec", {}).get("check")
        wrong = "" if not check or check.get("passed") else "  fusec WRONG"
        lines.append(
            f"{result['row']:24} {result['shape']:28} {number(ours):>9} {number(again):>8} "
            f"{number(peer and peer[0]):>9} {ratio:>10}  {peer[1] if peer else ''}{wrong}"
        )
        for name, found in result["peers"].items():
            if "median_ms" in found and found.get("check", {}).get("passed"):
                if not peer or name != peer[1]:
                    lines.append(f"{'':72} {number(found['median_ms']):>9} {'':10}  {name}")
                continue
            check = found.get("check") or {}
            why = found.get("error") or (found.get("missing") and f"missing: {found['missing']}") or f"wrong: {check.get('error', check)}"
            lines.append(f"{'':72} {'-':>9} {'':10}  {name}: {' '.join(why.split())[:100]}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--fusec", required=True, help="the program")
    parser.add_argument("--out", required=True, help="the JSON file to write")
    parser.add_argument("--plans", help="where compiled directories of bench/plans.txt are")
    parser.add_argument("--only", help="rows, with commas between them; `*` stands for anything")
    parser.add_argument("--libraries", default=",".join(MODULES), help="peers' libraries, with commas between them")
    parser.add_argument("--seconds", type=float, default=270, help="for everything")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        run = Run(args, place)
        record = {"stage": args.stage, **machine(), "versions": versions()}
        # Before torch takes the GPU in this process nothing is timed, and after it is given back neither.
        limits = "import sys; sys.path.insert(0, sys.argv[1]); import json, run; print(json.dumps(run.Run.limits(None)))"
        done = subprocess.run([sys.executable, "-c", limits, HERE], capture_output=True, text=True, timeout=60)
        record["limits"] = json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr[-300:]}
        run.say(f"limits {record['limits']}")
        run.prepare()
        run.time_all()
        record["fusec"] = getattr(run, "provenance", {})
        results = list(run.results.values())
        text = table(results)
        record.update(rows=results, ended=now(), seconds=round(time.time() - run.began, 1))
        pathlib.Path(args.out).write_text(json.dumps(record, indent=1) + "\n")
        print(text, flush=True)
    wrong = [r["row"] for r in results if "median_ms" not in r.get("fusec", {})]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
