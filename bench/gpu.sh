#!/usr/bin/env bash
# Everything that needs a GPU, in one go, in under ten minutes: correctness first, then times.
# Runs in the repository's root, with .carry/ as bench/prepare.sh left it; writes to $OUT.
#
#   bench/gpu.sh [STAGE..]     verify calibrate ops models plans against; by default the first four
#
# SECONDS_PER_RUN: most seconds of timed runs of one subject at one shape (2).
# ONLY: operators to time, with commas between them (all). OPS: stages of bench/peers/run.py (ops scans attention);
# PEER_SECONDS: for each of them (130). bench/peers.sh gives them longer, and takes the peers' packages along.
# CASES: further golden cases for the stage `plans`: a folder of folders.
# MODELS: the models of the stage `against`, with spaces between them (all five).
set -uo pipefail
cd "$(dirname "$0")/.."
. bench/compile.sh

OUT=${OUT:-bench/results/unsorted}
mkdir -p "$OUT"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
FUSEC=$WORK/fusec
cp .carry/fusec "$FUSEC"
chmod +x "$FUSEC"
export FUSEC_CACHE_DIR=$WORK/cache
[ -f .carry/plans.tar.gz ] && tar -C "$WORK" -xzf .carry/plans.tar.gz
PLANS=$WORK/plans
MOST=${SECONDS_PER_RUN:-2}
STAGES=("${@:-}")
[ -z "${STAGES[0]}" ] && STAGES=(verify calibrate ops models)

say() { echo "== [${SECONDS} s] $*"; }

# Plans that were not carried are compiled here, where the toolkit brings NVRTC.
need() {
    compile_plans "$FUSEC" "$PLANS" "$(nproc)" "$1"
}

verify() {
    need '^golden-'
    local passed=0 failed=0 dtype about case log
    for dtype in f32 bf16; do
        for about in tests/golden/*/about.json; do
            case=$(basename "$(dirname "$about")")
            log=$WORK/verify.log
            if timeout 60 "$FUSEC" verify "$(golden_model "$case")" --golden "tests/golden/$case/golden.safetensors" \
                --device cuda:0 --plan-dir "$PLANS/golden-$case-$dtype" --trust-foreign-code >"$log" 2>&1; then
                passed=$((passed + 1))
                echo "ok   $case $dtype: $(awk '/prefill|steps/ { printf "%s %s %s  ", $1, $2, $3 }' "$log")"
            else
                failed=$((failed + 1))
                echo "FAIL $case $dtype"
                sed 's/^/     /' "$log" | head -n 12
            fi
            cat "$log" >>"$OUT/verify.txt"
        done
    done
    say "verify: $passed passed, $failed failed"
}

# Golden cases under plans of every kind, f32; the examples of the documentation, whose kernels are
# compared with the f64 interpreter.
plans() {
    local about case plan
    {
        for about in tests/golden/*/about.json ${CASES:+"$CASES"/*/about.json}; do
            case=$(dirname "$about")
            for plan in auto unfused random:1 random:2; do
                set -- "$case"/*.pth
                [ -e "$1" ] || set -- "$case"
                echo "$1 --golden $case/golden.safetensors --plan $plan"
            done
        done
    } | xargs -P 8 -d '\n' -I LINE sh -c '
        # shellcheck disable=SC2086
        if timeout 120 "$0" verify $1 --device cuda:0 >"$2/plans.$$" 2>&1; then echo "ok   $1"; else
            echo "FAIL $1"; head -n 8 "$2/plans.$$"; fi' "$FUSEC" LINE "$WORK" >"$OUT/plans.txt"
    local example
    for example in docs/examples/*.toml; do
        if timeout 60 "$FUSEC" bench "$example" --dtype f32 --device cuda:0 --shape B=3,T=300 --runs 5 --warmup 1 --check \
            --out "$WORK/example.json" >"$WORK/example.log" 2>&1; then echo "ok   $example: $(grep 'right against' "$WORK/example.log")"; else
            echo "FAIL $example"; tail -n 8 "$WORK/example.log"; fi
    done >>"$OUT/plans.txt"
    grep -A 8 '^FAIL' "$OUT/plans.txt" | head -n 60
    say "plans: $(grep -c '^ok' "$OUT/plans.txt") passed, $(grep -c '^FAIL' "$OUT/plans.txt") failed"
}

calibrate() {
    timeout 120 "$FUSEC" calibrate --device cuda:0 --out "$OUT/device.toml" || echo "FAIL calibrate"
}

ops() {
    need '^op-'
    local stage
    for stage in ${OPS:-ops scans attention}; do
        timeout 280 python3 bench/peers/run.py "$stage" --fusec "$FUSEC" --plans "$PLANS" --out "$OUT/peers-$stage.json" \
            --seconds "${PEER_SECONDS:-130}" ${ONLY:+--only "$ONLY"} || echo "FAIL $stage"
    done
}

models() {
    need '^model-'
    local name
    for name in rwkv7 rwkv6 mamba2 mamba1 gla; do
        # The plan for B = 8 and the one for B = 1, each with its single steps.
        timeout 120 "$FUSEC" bench --trust-foreign-code --plan-dir "$PLANS/model-$name-b8" --shape B=8,T=2048 --shape B=8,T=1 \
            --device cuda:0 --per-kernel --runs 30 --warmup 4 --most-seconds "$MOST" --out "$OUT/$name-b8.json" || echo "FAIL $name b8"
        timeout 120 "$FUSEC" bench --trust-foreign-code --plan-dir "$PLANS/model-$name-b1" --shape B=1,T=2048 --shape B=1,T=1 \
            --device cuda:0 --per-kernel --runs 50 --warmup 4 --most-seconds "$MOST" --out "$OUT/$name-b1.json" || echo "FAIL $name b1"
        say "$name"
    done
    pack models '*-b[18].json'
}

# The chosen plan beside others. Long, most of it compiling: name it to have it.
against() {
    local name batch shapes plan dirs
    for name in ${MODELS:-rwkv7 rwkv6 mamba2 mamba1 gla}; do
        need "^against-$name-"
        say "$name compiled"
        for batch in b8 b1; do
            shapes="--shape B=8,T=2048"
            [ $batch = b1 ] && shapes="--shape B=1,T=2048 --shape B=1,T=1"
            dirs=
            for plan in auto greedy unfused random1 random2 random3 random4 random5 random6 random7 random8; do
                dirs="$dirs --plan-dir $PLANS/against-$name-$batch-$plan"
            done
            # shellcheck disable=SC2086
            timeout 200 "$FUSEC" bench --trust-foreign-code $dirs $shapes --device cuda:0 --runs "${RUNS:-5}" --warmup 1 --most-seconds 1 \
                --out "$OUT/$name-$batch-against.json" || echo "FAIL $name $batch against"
            say "$name $batch"
        done
    done
    pack against '*-against.json'
}

# Few files come back from some machines: those of a stage become one.
pack() {
    # shellcheck disable=SC2086
    (cd "$OUT" && tar -czf "$1.tar.gz" $2 && rm -f $2)
}

# Plans are made for the card that is there, where it has a profile.
if [ -z "${PROFILE:-}" ]; then
    case $(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1) in
        *H100*) PROFILE=devices/h100.toml ;;
        *) PROFILE=devices/h200.toml ;;
    esac
fi
export PROFILE
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,temperature.gpu --format=csv,noheader || true
for stage in "${STAGES[@]}"; do
    say "$stage"
    case $stage in
        verify | calibrate | ops | models | plans | against) "$stage" ;;
        *) echo "no stage is called $stage"; exit 2 ;;
    esac
done
say done
