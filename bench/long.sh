#!/usr/bin/env bash
# Long runs on a GPU: single steps against runs over the same tokens (outputs and states, errors against position),
# and the same steps again and again, which have to give the same bits.
# Runs in the repository's root where a GPU and an NVRTC are; writes JSON to $OUT, one file for each run.
#
#   bench/long.sh [FUSEC]     the program, by default .carry/fusec
#
# MODELS: name:preset, with spaces between them. DTYPES: types, likewise. TOKENS: steps of a long run (100000).
# TIMES: repeats (1000) of STEPS steps (16). MOST: seconds of a run, after which it is given up (580).
set -uo pipefail
cd "$(dirname "$0")/.."
FUSEC=$(realpath "${1:-.carry/fusec}")
OUT=${OUT:-bench/results/unsorted}
mkdir -p "$OUT"
FUSEC_CACHE_DIR=$(mktemp -d)
export FUSEC_CACHE_DIR
trap 'rm -rf "$FUSEC_CACHE_DIR"' EXIT
failed=0

# NAME ARGUMENT..: one run of `verify`.
look() {
    local name=$1 status
    shift
    timeout "${MOST:-580}" "$FUSEC" verify "$@" --weights random:1 --device cuda:0 --json >"$OUT/$name.json" 2>"$OUT/$name.err"
    status=$?
    echo "== [${SECONDS} s] $name: status $status"
    if [ $status -ne 0 ]; then
        failed=1
        head -n 5 "$OUT/$name.err"
    else
        rm -f "$OUT/$name.err"
    fi
    python3 - "$OUT/$name.json" <<'PY'
import json, os, sys
if os.path.getsize(sys.argv[1]) == 0:
    sys.exit()
answer = json.load(open(sys.argv[1]))
for mark in answer.get("marks", []):
    same = "same" if mark["same_largest"] else "other"
    print(f"   {mark['tokens']:>7} tokens: output {mark['output']:.2e} ({same} largest), state {mark['state']:.2e} {mark['of_state']}")
if "times" in answer:
    print(f"   {answer['times']} times {answer['steps']} steps: {answer['differing']} differ {answer['first'] or ''}")
PY
}

for entry in ${MODELS:-rwkv7:0.4b mamba2:370m gla:340m}; do
    name=${entry%%:*}
    preset=${entry##*:}
    for dtype in ${DTYPES:-f32 bf16}; do
        look "long-$name-$preset-$dtype" "models/$name.toml" --preset "$preset" --dtype "$dtype" --long "${TOKENS:-100000}"
    done
    look "repeat-$name-$preset-bf16" "models/$name.toml" --preset "$preset" --dtype bf16 --repeat "${TIMES:-1000}" --steps "${STEPS:-16}"
done
exit $failed
