#!/usr/bin/env bash
# Attention on a GPU in one go: every schedule of it is compared with the f64 interpreter and timed, at lengths
# around the edges of tiles and at long ones, then the chosen ones beside PyTorch's. Runs in the
# repository's root where a GPU and an NVRTC are; writes JSON and text to $OUT.
#
#   bench/attention.sh [FUSEC]     the program, by default .carry/fusec
#
# What the figures attend_* of devices/*.toml are to be fitted with: `fusec calibrate --fit "$OUT"/attention-*.json`.
set -uo pipefail
cd "$(dirname "$0")/.."
FUSEC=$(realpath "${1:-.carry/fusec}")
OUT=${OUT:-bench/results/unsorted}
mkdir -p "$OUT"
FUSEC_CACHE_DIR=${FUSEC_CACHE_DIR:-$(mktemp -d)}
export FUSEC_CACHE_DIR
CASE=bench/cases/attention.toml
failed=0

bench() {
    local name=$1
    shift
    if timeout 200 "$FUSEC" bench "$CASE" --device cuda:0 --check --per-kernel "$@" --out "$OUT/attention-$name.json" >"$OUT/attention-$name.txt" 2>&1; then
        echo "ok   $name: $(grep -h 'right against' "$OUT/attention-$name.txt" | head -n 1)"
    else
        failed=$((failed + 1))
        echo "FAIL $name"
        tail -n 8 "$OUT/attention-$name.txt"
    fi
}

# Right first. A plan of each seed draws one of the schedules.
for dtype in bf16 f16 f32; do
    for time in 1 2 15 16 17 37 63 64 65 300; do
        bench "edges-$dtype-$time" --dtype "$dtype" --shape "B=3,T=$time" --axis G=2 --axis H=3 --set window=100 \
            --against unfused,random:4 --runs 2 --warmup 1
    done
done
# Then times, all schedules beside each other.
for width in 32 64 128 256; do
    bench "width-$width" --dtype bf16 --shape B=8,T=2048 --axis G=$((2048 / width)) --axis N=$width --set window=2048 \
        --against unfused,random:4 --flush-l2 --most-seconds 2
done
for shape in B=1,T=2048 B=1,T=16384 B=8,T=256 B=1,T=1 B=64,T=1; do
    bench "shape-$shape" --dtype bf16 --shape "$shape" --axis G=8 --axis H=4 --axis N=128 --set window=16384 \
        --against unfused,random:4 --flush-l2 --most-seconds 2
done
bench hybrid --dtype bf16 --shape B=8,T=2048 --axis G=2 --set window=4096 --against unfused,random:4 --flush-l2 --most-seconds 2
# And beside PyTorch.
mkdir -p .carry
[ "$FUSEC" -ef .carry/fusec ] || cp "$FUSEC" .carry/fusec
OPS=attention bench/gpu.sh ops || failed=$((failed + 1))
echo "== [${SECONDS} s] $failed failed"
exit $((failed > 0))
