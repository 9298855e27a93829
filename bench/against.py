"""A table of records in which plans were timed beside each other (bench/against.sh).

    python3 bench/against.py RECORD.json..

For each model and run: the fastest plan, what the chosen plan takes over it, measured and predicted, and
predicted over measured of the chosen plan. Its last lines count those within 5 % and name the others.
"""

import json
import sys
from pathlib import Path

WITHIN = 1.05


def plans(record):
    """By run: the median, the prediction and the number of timed runs of each plan."""
    runs = {}
    for subject in record["subjects"]:
        for measured in subject["measurements"]:
            shape = (measured["shape"]["batch"], measured["shape"]["time"])
            of = measured["milliseconds"]
            runs.setdefault(shape, {})[subject["name"]] = (of["median"], measured["predicted_ms"], of["runs"])
    return runs


def main(paths):
    lines, ratios, failed = [], [], []
    for path in map(Path, paths):
        record = json.loads(path.read_text())
        failed += [f"{path.stem} {s['name']}: {s['error']}" for s in record["subjects"] if s["error"]]
        for (batch, time), timed in plans(record).items():
            best = min(timed, key=lambda plan: timed[plan][0])
            if "auto" not in timed:
                failed.append(f"{path.stem} T{time}: the chosen plan was not timed")
                continue
            ms, predicted, _ = timed["auto"]
            best_ms, best_predicted, _ = timed[best]
            known = predicted and best_predicted
            ratio = ms / best_ms
            ratios.append((ratio, f"{path.stem} T{time}", best))
            once = sum(runs == 1 for _, _, runs in timed.values())
            slowest = max(t[0] for t in timed.values())
            lines.append(
                f"{path.stem:24} {time:5} {ms:10.4f} {best:>9} {best_ms:10.4f} {ratio:7.3f} "
                f"{predicted / best_predicted if known else float('nan'):9.3f} "
                f"{predicted / ms if predicted else float('nan'):11.2f} {slowest / ms:8.1f} {len(timed):6} {once:5}"
            )
    print(
        f"{'case':24} {'T':>5} {'auto, ms':>10} {'best':>9} {'best, ms':>10} {'ratio':>7} {'predicted':>9} "
        f"{'pred./meas.':>11} {'slowest':>8} {'timed':>6} {'once':>5}"
    )
    print("\n".join(lines))
    within = sum(ratio <= WITHIN for ratio, _, _ in ratios)
    print(f"\nwithin 5 % of the best: {within} of {len(ratios)}")
    for ratio, name, best in sorted(ratios, reverse=True):
        if ratio > WITHIN:
            print(f"  {name}: {ratio:.3f} times {best}")
    for line in failed:
        print(f"  FAILED {line}")


main(sys.argv[1:])
