#!/usr/bin/env bash
# Single steps of whole models by two programs side by side: the models of 1.3 to 1.6 B at B1 and B8, kernel by kernel.
# Right first: each model with one sequence against the f64 interpreter, by the first program. Runs in
# the repository's root where a GPU and an NVRTC are; JSON and tables to $OUT; three minutes.
#
#   bench/steps.sh [FUSEC [OTHER]]     by default .carry/fusec and no other
#
# MODELS: name:preset, with spaces between them. SHAPES: with spaces between them.
set -uo pipefail
cd "$(dirname "$0")/.."
. bench/golden.sh
FUSEC=$(realpath "${1:-.carry/fusec}")
OTHER=${2:+$(realpath "$2")}
OUT=${OUT:-bench/results/unsorted}
mkdir -p "$OUT"
WORK=$(mktemp -d)
export FUSEC WORK FUSEC_CACHE_DIR=$WORK/cache
trap 'rm -rf "$WORK"' EXIT
MODELS=${MODELS:-rwkv7:1.5b rwkv6:1.6b mamba2:1.3b mamba1:1.4b gla:1.3b}
SHAPES=${SHAPES:-B=1,T=1 B=8,T=1}

single 14 "$OUT/single.txt"
echo "== [${SECONDS} s] one sequence: $(grep -c '^ok' "$OUT/single.txt") passed, $(grep -c '^FAIL' "$OUT/single.txt") failed"

# PROGRAM NAME ARGUMENTS..: a plan directory, compiled beside others.
plan() {
    echo "$1 compile --dtype bf16 --out $WORK/$2 ${*:3}"
}
{
    for entry in $MODELS; do
        for shape in $SHAPES; do
            of="models/${entry%%:*}.toml --preset ${entry##*:} --shape $shape"
            plan "$FUSEC" "new-${entry%%:*}-$shape" $of
            if [ -n "$OTHER" ]; then plan "$OTHER" "old-${entry%%:*}-$shape" $of; fi
        done
    done
} | xargs -P 14 -I{} timeout 200 bash -c '{}' >/dev/null 2>"$WORK/compile.log" || tail -n 5 "$WORK/compile.log"
echo "== [${SECONDS} s] compiled"
for round in 1 2; do
    for dir in "$WORK"/*-*-B=*; do
        [ -d "$dir" ] || continue
        name=$(basename "$dir") program=$FUSEC
        case $name in old-*) program=$OTHER ;; esac
        shape=${name##*-}
        timeout 60 "$program" bench --plan-dir "$dir" --trust-foreign-code --shape "$shape" --device cuda:0 --warmup 4 --most-seconds 1 --runs 40 --per-kernel \
            --out "$WORK/result-$round-$name.json" >"$WORK/$name.txt" 2>&1 || { echo "FAIL $name"; tail -n 4 "$WORK/$name.txt"; }
    done
done
python3 - "$WORK" "$OUT" <<'EOP'
import glob, json, os, sys
all = {os.path.basename(f)[len("result-"):-len(".json")]: json.load(open(f)) for f in sorted(glob.glob(f"{sys.argv[1]}/result-*.json"))}
json.dump(all, open(f"{sys.argv[2]}/steps.json", "w"))
for name, record in all.items():
    for subject in record["subjects"]:
        for run in subject["measurements"]:
            kernels = ", ".join(f"{k['kernel']} {k['launches']} x {1e3 * k['milliseconds']:.2f}" for k in run["kernels"] if k["launches"] > 1)
            print(f"{name:28} {run['milliseconds']['median']:.4f} ms  {100 * (run['memory_fraction'] or 0):.1f} %  predicted {run['predicted_ms'] or 0:.4f}  {kernels}")
EOP
