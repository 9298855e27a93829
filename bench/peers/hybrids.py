"""The small hybrids in PyTorch for bench/sweep.sh: right first, then everything compiled side by side, then timed in turn.

    hybrids.py --fusec FUSEC --out FILE.json [--only hybrid,..] [--compiled hybrid:256,..] [--dtype bfloat16] [--seconds N]

--compiled: what torch.compile is asked for, a model at a length each; everything is timed eager. What is not compiled
in its time is left out and said. FILE.json is read by `fusec bench --beside`.
"""

import argparse
import datetime
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))

from protocol import machine  # noqa: E402

TIMES = "256,512,1024,2048,4096"
# Lengths that cost most to compile come first.
COMPILED = "hybrid:4096,hybrid:2048,hybrid:1024,hybrid:512,hybrid:256"


class Process:
    """A call of hybrid.py that compiles, says that it is ready, and times when it is its turn."""

    def __init__(self, args, place, variant, way, times):
        self.name = f"{variant}-{way}-{times.replace(',', '-')}"
        self.what = {"model": variant, "way": way, "batch": 8, "dtype": args.dtype, "times": times}
        self.out, self.ready = place / f"{self.name}.json", place / f"{self.name}.ready"
        command = [sys.executable, HERE / "hybrid.py", "time", "--fusec", args.fusec, "--out", self.out, "--turns", place]
        command += ["--only", variant, "--ways", way, "--times", times, "--dtype", args.dtype, "--most-seconds", "0.7"]
        self.log = open(place / f"{self.name}.txt", "w+")
        # A group of its own, since inductor compiles in processes that would outlive it.
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True)
        self.stopped = None

    def waits(self):
        return not self.ready.exists() and self.process.poll() is None

    def stop(self, why):
        self.stopped = why
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def rows(self):
        try:
            rows = json.loads(self.out.read_text())["rows"]
        except (OSError, ValueError):
            rows = []
        if self.stopped or not rows:
            self.log.seek(0)
            error = self.stopped or " ".join(self.log.read().split())[-300:] or "no word"
            rows.append(self.what | {"error": error})
        return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fusec", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--only", default="hybrid")
    parser.add_argument("--compiled", default=COMPILED)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--seconds", type=float, default=100, help="in all; compiling may take 0.65 of it")
    args = parser.parse_args()
    began = time.time()
    left = lambda part: part * args.seconds - (time.time() - began)
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(place / "inductor"))
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "2")
        variants = args.only.split(",")
        asked = [one.split(":") for one in args.compiled.split(",") if one]
        all = [Process(args, place, variant, "compiled", tokens) for variant, tokens in asked if variant in variants]
        all += [Process(args, place, variant, "eager", TIMES) for variant in variants]
        while any(process.waits() for process in all) and left(0.65) > 0:
            time.sleep(0.1)
        for process in all:
            if process.waits():
                process.stop(f"not compiled within {0.65 * args.seconds:.0f} s")
        print(f"== [{time.time() - began:.0f} s] {sum(process.ready.exists() for process in all)} of {len(all)} ready", flush=True)
        (place / "go").touch()
        for process in all:
            try:
                process.process.wait(max(0.1, left(1)))
            except subprocess.TimeoutExpired:
                process.stop(f"stopped after {args.seconds:.0f} s")
        rows = [row for process in all for row in process.rows()]
    for row in rows:
        median = row.get("milliseconds", {}).get("median")
        said = f"{median:.3f} ms" if median else row.get("error", "none")[:100]
        print(f"{row['model']} {row['way']} T{row.get('time', row.get('times'))}: {said}")
    torch = subprocess.run([sys.executable, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True)
    record = {**machine(), "torch": torch.stdout.strip(), "warmups": 10}
    # A row that was not timed at any one length is no row of a sweep.
    record["rows"] = [row for row in rows if "time" in row]
    record["not_timed"] = [row for row in rows if "time" not in row]
    record["ended"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    pathlib.Path(args.out).write_text(json.dumps(record, indent=1) + "\n")
    print(f"== [{time.time() - began:.0f} s] timed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
