#!/usr/bin/env bash
# Whole models on a GPU in one go: golden cases in f32 and bf16 first, side by side, then prefill and
# single steps of models of about 1.5 B parameters, and the small hybrid beside a greedy plan.
# Runs in the repository's root where a GPU and an NVRTC are; writes JSON to $OUT.
#
#   bench/whole.sh [FUSEC]     the program, by default .carry/fusec
#
# MODELS: name:preset, with spaces between them. SHAPES: with spaces between them.
set -uo pipefail
cd "$(dirname "$0")/.."
. bench/golden.sh
FUSEC=$(realpath "${1:-.carry/fusec}")
OUT=${OUT:-bench/results/unsorted}
mkdir -p "$OUT"
WORK=$(mktemp -d)
export FUSEC WORK FUSEC_CACHE_DIR=$WORK/cache
trap 'rm -rf "$WORK"' EXIT
MODELS=${MODELS:-rwkv7:1.5b rwkv6:1.6b mamba2:1.3b mamba1:1.4b gla:1.3b}
SHAPES=${SHAPES:-B=8,T=2048 B=1,T=2048 B=1,T=1 B=8,T=1 B=64,T=1}

golden 10 "$OUT/golden.txt"
echo "== [${SECONDS} s] golden: $(grep -c '^ok' "$OUT/golden.txt") passed, $(grep -c '^FAIL' "$OUT/golden.txt") failed"
single 14 "$OUT/single.txt"
echo "== [${SECONDS} s] one sequence: $(grep -c '^ok' "$OUT/single.txt") passed, $(grep -c '^FAIL' "$OUT/single.txt") failed"

# Kernels are compiled side by side, so that timing finds them in the cache.
for entry in $MODELS; do
    for shape in $SHAPES; do
        echo "models/${entry%%:*}.toml --preset ${entry##*:} --shape $shape --out $WORK/${entry%%:*}-$shape"
    done
done | xargs -P 14 -L 1 timeout 120 "$FUSEC" compile --dtype bf16 >/dev/null 2>"$WORK/compile.log" || tail -n 5 "$WORK/compile.log"
echo "== [${SECONDS} s] compiled"

bench() {
    local name=$1
    shift
    timeout 60 "$FUSEC" bench "$@" --device cuda:0 --warmup 4 --most-seconds 1 --out "$WORK/result-$name.json" >"$WORK/$name.txt" 2>&1 ||
        { echo "FAIL $name"; tail -n 4 "$WORK/$name.txt"; return; }
    sed -n '/ median /{n;p}' "$WORK/$name.txt" | head -n 3 | sed "s/^/$name: /"
}
for entry in $MODELS; do
    for shape in $SHAPES; do
        bench "${entry%%:*}-$shape" "models/${entry%%:*}.toml" --preset "${entry##*:}" --dtype bf16 --shape "$shape" --runs 25 --per-kernel
    done
    echo "== [${SECONDS} s] $entry"
done
bench hybrid models/hybrid.toml --dtype bf16 --shape B=8,T=2048 --against greedy,unfused --runs 40
bench gated-scan bench/cases/gated_scan.toml --dtype f16 --shape B=4,T=2048 --against greedy,unfused --runs 40 --flush-l2
python3 - "$WORK" "$OUT" <<'PY'
import glob, json, os, sys
found = sorted(glob.glob(f"{sys.argv[1]}/result-*.json"))
all = {os.path.basename(f)[len("result-"):-len(".json")]: json.load(open(f)) for f in found}
json.dump(all, open(f"{sys.argv[2]}/whole.json", "w"))
PY
