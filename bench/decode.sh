#!/usr/bin/env bash
# Single steps of whole models at several batch sizes: tokens a second, the share of the memory's speed,
# and each kernel. Golden cases in 16 bits come first: nothing is timed before it is right.
# Runs in the repository's root where a GPU and an NVRTC are; writes JSON to $OUT.
#
#   bench/decode.sh [FUSEC]     the program, by default .carry/fusec
#
# MODELS: name:preset, with spaces between them. BATCHES: sequences, with spaces between them.
# GOLDEN: a pattern of the golden cases that are verified first.
set -uo pipefail
cd "$(dirname "$0")/.."
FUSEC=$(realpath "${1:-.carry/fusec}")
OUT=${OUT:-bench/results/unsorted}
mkdir -p "$OUT"
FUSEC_CACHE_DIR=$(mktemp -d)
export FUSEC_CACHE_DIR
trap 'rm -rf "$FUSEC_CACHE_DIR"' EXIT

verify() {
    local about case dir log
    log=$FUSEC_CACHE_DIR/verify.$$.log
    for about in tests/golden/*/about.json; do
        dir=$(dirname "$about")
        case=$(basename "$dir")
        [[ $case =~ ${GOLDEN:-.} ]] || continue
        set -- "$dir"/*.pth
        [ -e "$1" ] || set -- "$dir"
        if timeout 100 "$FUSEC" verify "$1" --golden "$dir/golden.safetensors" --dtype bf16 --device cuda:0 >"$log" 2>&1; then
            echo "ok   $case"
        else
            echo "FAIL $case"
            head -n 8 "$log"
        fi
    done
}

verify
for entry in ${MODELS:-rwkv7:1.5b rwkv6:1.6b mamba2:1.3b mamba1:1.4b gla:1.3b}; do
    name=${entry%%:*}
    for batch in ${BATCHES:-1 8 64}; do
        timeout 100 "$FUSEC" bench "models/$name.toml" --preset "${entry##*:}" --dtype bf16 --mode decode \
            --shape "B=$batch" --device cuda:0 --per-kernel --runs 60 --warmup 5 --most-seconds 2 \
            --out "$OUT/decode-$name-b$batch.json" >"$OUT/decode-$name-b$batch.txt" 2>&1 ||
            { echo "FAIL $name B=$batch"; tail -n 5 "$OUT/decode-$name-b$batch.txt"; }
        echo "== [${SECONDS} s] $name B=$batch"
        grep -E "decode|T=1|median|tokens" "$OUT/decode-$name-b$batch.txt" | head -n 4
    done
done
# Everything in one file, since few come back.
python3 - "$OUT" <<'PY'
import glob, json, os, sys
out = sys.argv[1]
files = sorted(glob.glob(f"{out}/decode-*.json"))
json.dump({os.path.basename(f): json.load(open(f)) for f in files}, open(f"{out}/decode.json", "w"))
for f in files + glob.glob(f"{out}/decode-*.txt"):
    os.remove(f)
PY
