#!/usr/bin/env bash
# A product after a squared relu, of one row: all of its matrix read, and what meets no zero. Right first, then
# times with shares of zeros that a threshold forces; JSON and a table to $OUT. Runs in the repository's root where a GPU and an
# NVRTC are; two minutes.
#
#   bench/zeros.sh [FUSEC]     the program, by default .carry/fusec
set -uo pipefail
cd "$(dirname "$0")/.."
FUSEC=$(realpath "${1:-.carry/fusec}")
OUT=${OUT:-bench/results/unsorted}
mkdir -p "$OUT"
WORK=$(mktemp -d)
export FUSEC_CACHE_DIR=$WORK/cache
trap 'rm -rf "$WORK"' EXIT

# The share of zeros, and what normal activations have to exceed for it.
SHARES="0:-9 0.25:-0.674 0.5:0 0.6:0.253 0.7:0.524 0.8:0.842 0.9:1.282 0.95:1.645"
for size in "2048 8192" "4096 16384"; do
    read -r C F <<<"$size"
    for entry in $SHARES; do
        # What is expected is 0.6 throughout, so that one kernel meets all shares; `all` expects none.
        for kind in all skip; do
            zeros=$([ $kind = skip ] && echo "--zeros 0.6")
            name=zeros-$C-${entry%%:*}-$kind
            # shellcheck disable=SC2086
            "$FUSEC" bench bench/cases/squared_relu.toml --axis "C=$C" --axis "F=$F" --set "threshold=${entry##*:}" $zeros \
                --dtype bf16 --shape B=1,T=1 --device cuda:0 --flush-l2 --per-kernel --check --runs 60 \
                --out "$WORK/$name.json" >"$WORK/$name.txt" 2>&1 || { echo "FAIL $name"; tail -n 5 "$WORK/$name.txt"; }
        done
    done
done
python3 - "$WORK" "$OUT" <<'EOP'
import glob, json, os, sys
all = {os.path.basename(f)[:-5]: json.load(open(f)) for f in sorted(glob.glob(f"{sys.argv[1]}/zeros-*.json"))}
json.dump(all, open(f"{sys.argv[2]}/zeros.json", "w"))
for name, record in all.items():
    for subject in record["subjects"]:
        for run in subject["measurements"]:
            kernels = ", ".join(f"{k['kernel']} {1e3 * k['milliseconds']:.2f} us" for k in run["kernels"])
            predicted = 1e3 * (run["predicted_ms"] or 0)
            print(f"{name:24} {1e3 * run['milliseconds']['median']:7.2f} us  predicted {predicted:7.2f}  {kernels}")
EOP
