#!/usr/bin/env bash
# Training by kernels, in one go: gradients first (a few steps of every model of models/ on the GPU beside the
# same steps by the interpreter), then the sanitizers, then times of training steps, then a real run.
# Runs in the repository's root where a GPU and an NVRTC are; writes to $OUT.
#
#   bench/train.sh [FUSEC] [STAGE..]     stages: steps sanitize times run; all by default
#
# TEXT: what the real run trains on, a text in UTF-8; VALID: what it is measured on. STEPS: of the real run.
# ONLY: a pattern of model names of the first stage; TIMES: one of the names in the list of the third.
set -uo pipefail
cd "$(dirname "$0")/.."
FUSEC=$(realpath "${1:-.carry/fusec}")
shift
STAGES=("${@:-}")
[ -z "${STAGES[0]}" ] && STAGES=(steps sanitize times run)
OUT=${OUT:-bench/results/unsorted}
mkdir -p "$OUT"
WORK=$(mktemp -d)
export FUSEC OUT WORK FUSEC_CACHE_DIR=$WORK/cache
trap 'rm -rf "$WORK"' EXIT
say() { echo "== [${SECONDS} s] $*"; }

# The losses and norms of the gradients of some steps of a model on one device.
some_steps() {
    local file=$1 device=$2 dtype=$3 to=$4 layers=()
    grep -qE '^L = ' "$file" && layers=(--axis L=2)
    timeout 200 "$FUSEC" train "$file" "${layers[@]}" --tokens README.md --steps 3 --batch 3 --length 70 \
        --lr 1e-3 --device "$device" --dtype "$dtype" --out "$to" >"$to.log" 2>&1
}

one_model() {
    local file=$1 name dtype bound
    name=$(basename "$file" .toml)
    if ! some_steps "$file" cpu f32 "$WORK/$name-cpu"; then
        grep -q "no token id per position" "$WORK/$name-cpu.log" || echo "FAIL $name cpu: $(head -n 3 "$WORK/$name-cpu.log" | tr '\n' ' ')"
        return
    fi
    for dtype in f32 bf16; do
        bound=$([ $dtype = f32 ] && echo 2e-4 || echo 5e-2)
        if ! some_steps "$file" cuda:0 $dtype "$WORK/$name-$dtype"; then
            if grep -q "transpose of attention" "$WORK/$name-$dtype.log"; then
                echo "none $name $dtype: attention"
            else
                echo "FAIL $name $dtype: $(head -n 4 "$WORK/$name-$dtype.log" | tr '\n' ' ')"
            fi
            continue
        fi
        python3 - "$WORK/$name-cpu/log.jsonl" "$WORK/$name-$dtype/log.jsonl" "$bound" "$name $dtype" <<'PY'
import json, sys
want, got = ([json.loads(l) for l in open(f)] for f in sys.argv[1:3])
bound = float(sys.argv[3])
apart = lambda k, n: max(abs(a[k] - b[k]) / abs(a[k]) for a, b in zip(want[:n], got[:n]))
# The first step of AdamW moves every weight by about the rate whatever its gradient is, so that what is
# rounding in the first gradient is none in the second.
loss, norm = apart("loss", 3), apart("gradient_norm", 1)
good = len(want) == len(got) == 3 and loss < bound and norm < bound
print("ok  " if good else "FAIL", sys.argv[4], f"losses {loss:.1e}, norm of the first gradient {norm:.1e}")
PY
    done
}
export -f some_steps one_model

steps() {
    ls models/*.toml | grep -E "/(${ONLY:-.*})\.toml$" | xargs -P 8 -I{} bash -c 'one_model {}' >"$OUT/steps.txt" 2>&1
    sort -k2 "$OUT/steps.txt"
    say "steps: $(grep -c '^ok' "$OUT/steps.txt") right, $(grep -c '^FAIL' "$OUT/steps.txt") wrong"
}

sanitized() {
    local tool=$1 file=$2 dtype=$3 name errors log
    name=$(basename "$file" .toml)
    log=$WORK/$tool-$name-$dtype.txt
    timeout 110 "$SANITIZER" --tool "$tool" --error-exitcode 7 "$FUSEC" train "$file" --axis L=1 --tokens README.md \
        --steps 1 --batch 2 --length 37 --device cuda:0 --dtype "$dtype" --out "$WORK/$tool-$name-$dtype" >"$log" 2>&1
    errors=$(grep -oE "ERROR SUMMARY: [0-9]+|RACECHECK SUMMARY: [0-9]+" "$log" | tail -n 1)
    echo "$tool $name $dtype: ${errors:-gave nothing: $(tail -n 2 "$log" | tr '\n' ' ')}"
    grep -q ": 0$" <<<"$errors" || grep -E "=========" "$log" | head -n 30 >>"$OUT/sanitize-failures.txt"
}
export -f sanitized

sanitize() {
    SANITIZER=${SANITIZER:-$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | tail -n 1)}
    [ -n "$SANITIZER" ] || { echo "no compute-sanitizer"; return; }
    export SANITIZER
    for tool in memcheck racecheck synccheck; do
        for file in models/hybrid.toml models/rwkv7.toml models/gla.toml models/mamba1.toml; do
            for dtype in f32 bf16; do echo "$tool $file $dtype"; done
        done
    done | xargs -P 10 -L 1 bash -c 'sanitized "$@"' _ >"$OUT/sanitize.txt" 2>&1
    sort "$OUT/sanitize.txt"
    say "sanitizers"
}

# Name, model, preset, shape.
times() {
    while read -r name file preset shape; do
        [[ $name =~ ${TIMES:-.} ]] || continue
        local sizes=()
        [ "$preset" = - ] || sizes=(--preset "$preset")
        timeout 90 "$FUSEC" bench "$file" "${sizes[@]}" --training --dtype bf16 --shape "$shape" --device cuda:0 --per-kernel \
            --against unfused --runs 10 --warmup 2 --most-seconds 2 --out "$OUT/times-$name.json" >"$WORK/$name.txt" 2>&1 ||
            { echo "FAIL $name"; tail -n 4 "$WORK/$name.txt"; continue; }
        sed -n '/ median /{n;p;n;p}' "$WORK/$name.txt" | head -n 2 | sed "s/^/$name: /"
    done <<'LIST'
hybrid-256 models/hybrid.toml - B=8,T=256
hybrid-1024 models/hybrid.toml - B=8,T=1024
gla-340m models/gla.toml 340m B=4,T=512
mamba2-130m models/mamba2.toml 130m B=2,T=512
rwkv7-0.1b models/rwkv7.toml 0.1b B=4,T=512
LIST
    say "times"
}

run() {
    local train=("$FUSEC" train models/hybrid.toml --tokens "$TEXT" --valid "$VALID" --steps "${STEPS:-2000}" --batch 8 --length 256
        --lr 2e-3 --min-lr 1e-4 --warmup 100 --clip 1 --save-every 1000 --valid-every 250 --device cuda:0 --dtype bf16)
    "$FUSEC" train models/hybrid.toml --tokens README.md --steps 1 --batch 1 --length 16 --device cuda:0 --lr 0 --out "$WORK/begin" >/dev/null 2>&1
    timeout "${MOST_SECONDS:-280}" "${train[@]}" --out "$WORK/run" >"$OUT/run.txt" 2>&1 || tail -n 5 "$OUT/run.txt"
    tail -n 3 "$OUT/run.txt"
    cp "$WORK/run/log.jsonl" "$OUT/"
    local last before
    last=$(ls -d "$WORK"/run/step-* | tail -n 1)
    before=$(ls -d "$WORK"/begin/step-* | tail -n 1)
    for weights in "$before" "$last"; do
        echo "--- ${weights##*/} of ${weights#"$WORK"/}"
        "$FUSEC" generate models/hybrid.toml --weights "$weights/weights.safetensors" --prompt "The function returns " \
            --tokens 300 --temperature 0.8 --seed 1 --device cuda:0 2>/dev/null | cat -v
        echo
    done >"$OUT/generated.txt"
    cat "$OUT/generated.txt"
    say "run: loss $(head -n 1 "$OUT/log.jsonl" | grep -o '"loss":[0-9.]*') to $(tail -n 1 "$OUT/log.jsonl")"
}

for stage in "${STAGES[@]}"; do "$stage"; done
