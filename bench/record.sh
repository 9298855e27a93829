#!/usr/bin/env bash
# Records what the cost model is fitted to and held to, on a GPU in one go: golden cases first, then
# operators, whole models and the hybrids, kernel by kernel. Runs in the repository's root where a GPU
# and an NVRTC are; leaves golden.txt, record.txt and record.tar.gz (one JSON a subject) in $OUT.
#
#   bench/record.sh [FUSEC]     the program, by default .carry/fusec
#
# COMMIT: what the program was built from. SECONDS_PER_RUN: most seconds of timed runs of one subject at
# one shape (1). ONLY: a pattern of names to record (all). SKIP_GOLDEN=1: no golden cases.
set -uo pipefail
cd "$(dirname "$0")/.."
. bench/golden.sh
FUSEC=$(realpath "${1:-.carry/fusec}")
OUT=${OUT:-bench/results/unsorted}
mkdir -p "$OUT"
WORK=$(mktemp -d)
export FUSEC WORK FUSEC_CACHE_DIR=$WORK/cache
trap 'rm -rf "$WORK"' EXIT
MOST=${SECONDS_PER_RUN:-1}
LOG=$OUT/record.txt
mkdir -p "$WORK/record"
: >"$LOG"
say() { echo "== [${SECONDS} s] $*" | tee -a "$LOG"; }

# NAME, then what is timed.
subjects() {
    local op model b
    for op in gla ssd wkv6 wkv7 ln_shift6 norm_gain groupnorm_gate add_norm ln_linear conv_silu selective_scan; do
        echo "op-$op bench/cases/$op.toml --dtype bf16 --shape B=8,T=2048 --flush-l2"
    done
    echo "op-ssd_long bench/cases/ssd.toml --dtype bf16 --shape B=1,T=16384 --flush-l2"
    echo "op-wkv6_long bench/cases/wkv6.toml --dtype bf16 --shape B=1,T=16384 --flush-l2"
    echo "op-wkv7_long bench/cases/wkv7.toml --dtype bf16 --shape B=1,T=16384 --flush-l2"
    echo "op-gla_long bench/cases/gla.toml --dtype bf16 --shape B=1,T=16384 --flush-l2"
    echo "op-gated_deltanet bench/cases/gated_deltanet.toml --dtype bf16 --shape B=4,T=2048 --flush-l2"
    echo "op-gated_deltanet_long bench/cases/gated_deltanet.toml --dtype bf16 --shape B=1,T=8192 --flush-l2"
    echo "op-kda bench/cases/kda.toml --dtype bf16 --shape B=1,T=8192 --flush-l2"
    echo "op-attention bench/cases/attention.toml --dtype bf16 --shape B=8,T=2048 --set window=2048 --flush-l2"
    echo "op-attention_wide bench/cases/attention.toml --dtype bf16 --shape B=8,T=2048 --set window=2048 --axis G=16 --axis N=128 --flush-l2"
    echo "op-attention_hybrid bench/cases/attention.toml --dtype bf16 --shape B=8,T=2048 --set window=4096 --axis G=2 --flush-l2"
    echo "gated bench/cases/gated_scan.toml --dtype f16 --shape B=4,T=2048 --flush-l2 --against greedy,unfused"
    for b in 1 4 16; do
        echo "ss-f32-$b bench/cases/selective_scan.toml --axis D=2048 --axis N=32 --dtype f32 --shape B=$b,T=512 --flush-l2"
        echo "ss-f16-$b bench/cases/selective_scan.toml --axis D=2048 --axis N=32 --dtype f16 --shape B=$b,T=512 --flush-l2"
    done
    for model in gla:1.3b mamba2:1.3b rwkv6:1.6b rwkv7:1.5b mamba1:1.4b; do
        for b in 8 1; do
            echo "${model%%:*}-b$b models/${model%%:*}.toml --preset ${model##*:} --dtype bf16 --shape B=$b,T=2048 --shape B=$b,T=1"
        done
        echo "${model%%:*}-last models/${model%%:*}.toml --preset ${model##*:} --dtype bf16 --logits last --shape B=8,T=2048 --shape B=1,T=2048"
        echo "${model%%:*}-b64 models/${model%%:*}.toml --preset ${model##*:} --dtype bf16 --shape B=64,T=1"
    done
    for dtype in bf16 f32; do
        echo "hybrid-$dtype models/hybrid.toml --dtype $dtype --shape B=8,T=256 --shape B=8,T=512 --shape B=8,T=1024 --shape B=8,T=2048 --shape B=8,T=4096 --shape B=1,T=1"
    done
    echo "hybrid-against models/hybrid.toml --dtype bf16 --shape B=8,T=2048 --against greedy,unfused"
    for model in cp gf rf ws; do
        echo "hybrid-$model models/hybrid-$model.toml --dtype bf16 --shape B=8,T=2048"
    done
}

nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,temperature.gpu --format=csv,noheader | tee -a "$LOG"
chosen() { subjects | grep -E "^(${ONLY:-.*}) "; }
# Kernels are compiled side by side, so that timing finds them in the cache.
chosen | sed -E 's/ --flush-l2//; s/ --against [^ ]*//' | while read -r name model rest; do
    for shape in $(grep -oE -- '--shape [^ ]*' <<<"$rest" | cut -d' ' -f2); do
        echo "$model $(sed -E 's/--shape [^ ]*//g' <<<"$rest") --shape $shape --out $WORK/plan-$name-$shape"
    done
done >"$WORK/compile.list"
xargs -P 12 -L 1 timeout 200 "$FUSEC" compile <"$WORK/compile.list" >/dev/null 2>"$WORK/compile.log" || tail -n 5 "$WORK/compile.log"
say "compiled"
if [ -z "${SKIP_GOLDEN:-}" ]; then
    golden 12 "$OUT/golden.txt"
    say "golden: $(grep -c '^ok' "$OUT/golden.txt") passed, $(grep -c '^FAIL' "$OUT/golden.txt") failed"
fi
while read -r name model rest; do
    check=
    case $name in op-*) check=--check ;; esac
    # shellcheck disable=SC2086
    if timeout 100 "$FUSEC" bench "$model" $rest $check --device cuda:0 --per-kernel --runs 30 --warmup 4 --most-seconds "$MOST" \
        ${COMMIT:+--commit "$COMMIT"} --out "$WORK/record/$name.json" >"$WORK/$name.txt" 2>&1; then
        { echo "-- [${SECONDS} s] $name"; grep -A 3 ' median ' "$WORK/$name.txt" | grep -v ' median ' | head -n 8; grep 'right against' "$WORK/$name.txt"; } >>"$LOG"
    else
        { echo "FAIL $name"; tail -n 6 "$WORK/$name.txt"; } | tee -a "$LOG"
    fi
    cat "$WORK/$name.txt" >>"$WORK/record/all.txt"
    tar -C "$WORK" -czf "$OUT/record.tar.gz.part" record && mv "$OUT/record.tar.gz.part" "$OUT/record.tar.gz"
done < <(chosen)
say "recorded"
