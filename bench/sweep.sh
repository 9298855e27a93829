#!/usr/bin/env bash
# The mission's protocol on a GPU in one go, in under 150 s: the small hybrid and its variants over T in 256..4096 at
# B = 8, fused and unfused, beside PyTorch eager, compiled, and compiled as one CUDA graph; 10 warm-ups, 100 timed runs.
# Right first: all logits of the PyTorch models against fusec's. Runs in the repository's root where a GPU, an NVRTC and
# torch are. Leaves in $OUT: sweep-MODEL.json (records), sweep-peers.json, sweep-MODEL/ (sweep.csv and plots),
# report-hybrid.html (a page with measured times), sweep.txt (all that was said).
#
#   bench/sweep.sh [MODEL..]     of models/, by default hybrid and its variants
#
# .carry/fusec.gz: the program, or FUSEC. DTYPE: bf16. COMMIT: what the program was built from.
# COMPILED: what PyTorch is asked to compile, MODEL:T with commas between. LIMIT: seconds in all (148).
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-bench/results/unsorted}
mkdir -p "$OUT"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
export PYTHONUNBUFFERED=1 FUSEC_CACHE_DIR=${FUSEC_CACHE_DIR:-$WORK/cache}
LIMIT=${LIMIT:-148}
DTYPE=${DTYPE:-bf16}
TIMES="256 512 1024 2048 4096"
MODELS=("$@")
[ $# -gt 0 ] || MODELS=(hybrid hybrid-gf hybrid-rf hybrid-ws hybrid-cp)
COMPILED=${COMPILED:-hybrid:4096,hybrid:2048,hybrid:1024,hybrid:512,hybrid:256}
case $DTYPE in bf16) TORCH=bfloat16 ;; f32) TORCH=float32 ;; *) echo "DTYPE is bf16 or f32"; exit 2 ;; esac
exec > >(tee "$OUT/sweep.txt") 2>&1
say() { echo "== [${SECONDS} s] $*"; }
left() { echo $((LIMIT - SECONDS)); }

if [ -z "${FUSEC:-}" ]; then
    FUSEC=$WORK/fusec
    if [ -f .carry/fusec.gz ]; then gzip -dc .carry/fusec.gz >"$FUSEC"; else cp .carry/fusec "$FUSEC"; fi
    chmod +x "$FUSEC"
fi
FUSEC=$(realpath "$FUSEC")
export FUSEC WORK DTYPE
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,temperature.gpu --format=csv,noheader || exit 2

# Both on processors only. Kernels are compiled meanwhile, so that timing finds them in the cache.
if python3 -c 'import torch, safetensors' 2>"$WORK/torch.txt"; then
    (cd bench/peers && timeout 60 python3 hybrid.py check --fusec "$FUSEC" --models ../../models >"$WORK/check.txt" 2>&1)
    right=$?
    cat "$WORK/check.txt"
else
    right=2
    echo "no peers: $(tail -n 1 "$WORK/torch.txt")"
fi
say "checked"
joined=$(IFS=,; echo "${MODELS[*]}")
peers=
if [ $right = 0 ]; then
    python3 bench/peers/hybrids.py --fusec "$FUSEC" --only "$joined" --compiled "$COMPILED" --dtype "$TORCH" \
        --seconds $((LIMIT * 6 / 10 - SECONDS)) --out "$OUT/sweep-peers.json" &
    peers=$!
elif [ $right = 1 ]; then
    echo "FAIL: PyTorch and fusec do not agree: no times of it"
fi
for model in "${MODELS[@]}"; do
    for time in $TIMES; do
        for plan in auto unfused; do
            echo "models/$model.toml --dtype $DTYPE --plan $plan --shape B=8,T=$time --out $WORK/plan-$model-$time-$plan"
        done
    done
done | xargs -P 4 -L 1 timeout 60 "$FUSEC" compile >/dev/null 2>"$WORK/compile.txt" || tail -n 5 "$WORK/compile.txt"
say "compiled"
[ -z "$peers" ] || wait "$peers"

failed=0
for model in "${MODELS[@]}"; do
    if [ "$(left)" -lt 6 ]; then
        echo "not timed: $model (the time is used up)"
        failed=1
        continue
    fi
    beside=()
    check=
    [ "$model" != "${MODELS[0]}" ] || check=--check
    [ ! -s "$OUT/sweep-peers.json" ] || beside=(--beside "$OUT/sweep-peers.json")
    timeout "$(left)" "$FUSEC" bench "models/$model.toml" --dtype "$DTYPE" --device cuda:0 --sweep --most-seconds 0.5 $check \
        ${COMMIT:+--commit "$COMMIT"} "${beside[@]}" --plots "$OUT/sweep-$model" --out "$OUT/sweep-$model.json" >"$WORK/$model.txt" 2>&1 || failed=1
    sed -n '/^sweep over/,$p; / against the f64 interpreter/p; /FAILED/p' "$WORK/$model.txt"
    [ -s "$OUT/sweep-$model.json" ] || tail -n 5 "$WORK/$model.txt"
    say "$model"
done
if [ "$(left)" -ge 8 ]; then
    timeout "$(left)" "$FUSEC" report "models/${MODELS[0]}.toml" --dtype "$DTYPE" --bench --against greedy -o "$OUT/report-${MODELS[0]}.html" || failed=1
else
    echo "no report: the time is used up"
fi
python3 - "$OUT" "$DTYPE" <<'PY'
import glob, json, sys
for path in sorted(glob.glob(f"{sys.argv[1]}/sweep-*.json")):
    if path.endswith("peers.json"):
        continue
    record = json.load(open(path))
    clocks = [m.get("clocks") or {} for s in record["subjects"] for m in s["measurements"]]
    mhz = sorted(c["sm_mhz"] for c in clocks if "sm_mhz" in c)
    why = {m.get("no_clocks") for s in record["subjects"] for m in s["measurements"]} - {None}
    held = sorted({w for c in clocks for w in c.get("held_back", [])})
    print(f"{path}: clocks {mhz[0] if mhz else '-'}..{mhz[-1] if mhz else '-'} MHz {held} {why or ''}")
PY
say "done"
exit $failed
