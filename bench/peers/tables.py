"""Records of run.py as tables for docs/performance.md: nothing but what stands in them.

    tables.py RECORD.json ..
"""

import json
import sys


def number(value):
    return "-" if value is None else f"{value:.3g}" if value >= 0.1 else f"{value:.4f}"


def why_not(peer):
    if "missing" in peer:
        return f"not installed ({peer['missing']})"
    if peer.get("check") and not peer["check"].get("passed"):
        return f"wrong ({peer['check'].get('error', peer['check'])})"
    return peer.get("error", "not timed").split(". ")[0][:90]


def table(record):
    lines = [
        f"`{record['stage']}`: {record.get('device')}, driver {record.get('driver')}, {record['date'][:10]}, commit "
        f"{record['fusec'].get('commit')}; "
        + ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items()),
        "",
        "| row | shape | fusec ms | best peer ms | fusec / peer | others |",
        "|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        times = [row[key]["median_ms"] for key in ("fusec", "fusec again") if "median_ms" in row.get(key, {})]
        best = row.get("best_peer")
        ours = number(max(times)) if times else f"none ({row.get('fusec', {}).get('error', '')[:90]})"
        others = []
        for name, peer in row["peers"].items():
            if best and name == best["name"]:
                continue
            right = "median_ms" in peer and peer.get("check", {}).get("passed")
            others.append(f"{name} {number(peer['median_ms'])}" if right else f"{name}: {why_not(peer)}")
        theirs = f"{number(best['median_ms'])} ({best['name']})" if best else "-"
        ratio = f"{max(times) / best['median_ms']:.2f}" if times and best else "-"
        lines.append(f"| {row['row']} | {row['shape']} | {ours} | {theirs} | {ratio} | {'; '.join(others)} |")
    return "\n".join(lines)


def main():
    for path in sys.argv[1:]:
        with open(path) as file:
            print(table(json.load(file)), end="\n\n")


if __name__ == "__main__":
    main()
