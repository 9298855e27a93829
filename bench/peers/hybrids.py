"""The small hybrids beside PyTorch in one run: fusec's sweep, then hybrid.py, eager and compiled, each T by itself.

    hybrids.py --fusec FUSEC --out FILE.json [--only hybrid,..] [--dtypes bfloat16,float32] [--seconds N]
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))

from protocol import machine  # noqa: E402

TIMES = (256, 512, 1024, 2048, 4096)
STORAGE = {"bfloat16": "bf16", "float32": "f32"}


def sweep(args, place, variant, dtype):
    """fusec over all T at B = 8: milliseconds by T."""
    out = place / f"{variant}-{dtype}.json"
    command = [args.fusec, "bench", f"models/{variant}.toml", "--dtype", STORAGE[dtype], "--device", "cuda:0", "--out", out]
    for tokens in TIMES:
        command += ["--shape", f"B=8,T={tokens}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        report = json.loads(out.read_text())
    except subprocess.TimeoutExpired:
        return {}, {"error": "stopped after 120 s"}
    except (OSError, ValueError):
        return {}, {"error": " ".join(done.stderr.split())[-400:]}
    found = {}
    for subject in report["subjects"]:
        for measured in subject["measurements"]:
            found[measured["shape"]["time"]] = {
                "milliseconds": measured["milliseconds"], "tokens_per_second": measured["tokens_per_second"],
                "peak_bytes": measured.get("peak_bytes"), "launches": measured["launches"],
            }
    return found, report["provenance"]


def peer(args, place, variant, dtype, way, tokens, limit, prepare=False):
    out = place / f"{variant}-{dtype}-{way}-{tokens}.json"
    command = [sys.executable, HERE / "hybrid.py", "time", "--fusec", args.fusec, "--out", out, "--only", variant, "--ways", way]
    command += ["--times", str(tokens), "--dtype", dtype] + (["--prepare"] if prepare else [])
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        row = json.loads(out.read_text())["rows"]
        return row[0] if row else {}
    except subprocess.TimeoutExpired:
        return {"error": f"stopped after {limit:.0f} s"}
    except (OSError, ValueError):
        return {"error": " ".join(done.stderr.split())[-400:]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fusec", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--only", default="hybrid")
    parser.add_argument("--dtypes", default="bfloat16,float32")
    parser.add_argument("--seconds", type=float, default=265)
    args = parser.parse_args()
    began = time.time()
    left = lambda: args.seconds - (time.time() - began)
    rows, ours, provenance = [], {}, {}
    cases = [(variant, dtype) for variant in args.only.split(",") for dtype in args.dtypes.split(",")]
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(place / "inductor"))
        # A loop over chunks is unrolled by the compiler: minutes at large T, so all at once, and what is not done is said.
        with concurrent.futures.ThreadPoolExecutor(len(TIMES)) as pool:
            for variant, dtype in cases:
                for tokens in TIMES:
                    pool.submit(peer, args, place, variant, dtype, "compiled", tokens, left() * 0.45, True)
        # What was measured while others ran is not kept.
        for tuned in pathlib.Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).rglob("*.best_config"):
            tuned.unlink()
        print(f"== [{time.time() - began:.0f} s] compiled", flush=True)
        for variant, dtype in cases:
            ours[variant, dtype], provenance = sweep(args, place, variant, dtype)
        for variant, dtype in cases:
            for tokens in TIMES:
                row = {"model": variant, "dtype": dtype, "batch": 8, "time": tokens, "fusec": ours[variant, dtype].get(tokens)}
                for way, limit in (("eager", 40), ("compiled", 40)):
                    limit = min(limit, left())
                    row[way] = peer(args, place, variant, dtype, way, tokens, limit) if limit > 8 else {"error": "not run: no time left"}
                rows.append(row)
                shown = []
                for way in ("fusec", "eager", "compiled"):
                    at = row[way] or {}
                    median = at.get("milliseconds", {}).get("median")
                    shown.append(f"{way} {median:.3f} ms" if median else f"{way} - ({at.get('error', 'none')[:60]})")
                print(f"{variant} {dtype} B8 T{tokens}: {', '.join(shown)}", flush=True)
    record = {"stage": "hybrid", **machine(), "fusec": provenance, "rows": rows, "seconds": round(time.time() - began, 1)}
    pathlib.Path(args.out).write_text(json.dumps(record, indent=1) + "\n")
    # As hybrid.py writes it, for `fusec bench --sweep --beside`.
    theirs = [row[way] for row in rows for way in ("eager", "compiled") if "model" in row[way]]
    beside = {key: record.get(key) for key in ("device", "driver", "date")} | {"warmups": 10, "rows": theirs}
    pathlib.Path(args.out).with_suffix(".beside.json").write_text(json.dumps(beside, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
