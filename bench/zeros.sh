#!/usr/bin/env bash
# A product after a squared relu, of one row: all of its matrix read, and what meets no zero. Right first, then
# times with shares of zeros that a threshold forces; JSON and a table to $OUT. Runs in the repository's root where a GPU and an
# NVRTC are; a minute. The cases are compiled side by side, and timed by one process.
#
#   bench/zeros.sh [FUSEC]     the program, by default .carry/fusec
#
# SIZES: C,F of the model, with spaces between them. PROFILE: the device's (h200). LIMIT: seconds for the comparison, and again for the times (40).
set -uo pipefail
cd "$(dirname "$0")/.."
FUSEC=$(realpath "${1:-.carry/fusec}")
OUT=${OUT:-bench/results/unsorted}
PROFILE=${PROFILE:-h200}
LIMIT=${LIMIT:-40}
mkdir -p "$OUT"
WORK=$(mktemp -d)
mkdir "$WORK/plans"
export FUSEC WORK PROFILE FUSEC_CACHE_DIR=$WORK/cache
trap 'rm -rf "$WORK"' EXIT
say() { echo "== [${SECONDS} s] $*"; }

# Zeros of a hundred, and what normal activations have to exceed for it.
SHARES="0:-9 25:-0.674 50:0 60:0.253 70:0.524 80:0.842 90:1.282 95:1.645"
SIZES=${SIZES:-2048,8192 4096,16384}

# NAME C F THRESHOLD ARGUMENTS..: a plan directory. What is expected is 0.6 throughout, so that one kernel meets all
# shares; `all` expects none.
compile() {
    local name=$1 c=$2 f=$3 threshold=$4
    shift 4
    timeout 60 "$FUSEC" compile bench/cases/squared_relu.toml --axis "C=$c" --axis "F=$f" --set "threshold=$threshold" "$@" \
        --dtype bf16 --shape B=1,T=1 --device-profile "$PROFILE" --out "$WORK/plans/$name" >"$WORK/$name.txt" 2>&1 ||
        { echo "FAIL compile $name"; tail -n 5 "$WORK/$name.txt"; }
}
export -f compile
for size in $SIZES; do
    for entry in $SHARES; do
        name=zeros-${size%%,*}-$(printf %02d "${entry%%:*}")
        echo "$name-all ${size/,/ } ${entry##*:}"
        echo "$name-skip ${size/,/ } ${entry##*:} --zeros 0.6"
    done
done >"$WORK/cases"
RAYON_NUM_THREADS=2 xargs -a "$WORK/cases" -P "$(nproc)" -L 1 bash -c 'compile "$@"' compile
say "$(ls "$WORK/plans" | wc -l) of $(wc -l <"$WORK/cases") compiled"

# DIRS..: arguments for them.
dirs() {
    local dir
    for dir in "$@"; do [ -e "$dir/manifest.json" ] && echo "--plan-dir $dir"; done
}
# Of the smaller matrices what leaves zeros out, and one that does not, is compared with the f64 interpreter, by a process of its own: kernels
# differ in sizes and thresholds only.
first=${SIZES%%,*}
# shellcheck disable=SC2046
timeout "$LIMIT" "$FUSEC" bench --trust-foreign-code $(dirs "$WORK/plans/zeros-$first-"*-skip "$WORK/plans/zeros-$first-60-all") --shape B=1,T=1 --device cuda:0 --check --warmup 1 --runs 5 \
    --device-profile "$PROFILE" --out "$WORK/check.json" >"$WORK/check.txt" 2>&1 || { echo "FAIL check"; tail -n 5 "$WORK/check.txt"; }
say "compared"
# shellcheck disable=SC2046
timeout "$LIMIT" "$FUSEC" bench --trust-foreign-code $(dirs "$WORK/plans/"*) --shape B=1,T=1 --device cuda:0 --flush-l2 --per-kernel --warmup 4 --runs 60 --most-seconds 0.2 \
    --device-profile "$PROFILE" --out "$WORK/times.json" >"$WORK/times.txt" 2>&1 || { echo "FAIL times"; tail -n 5 "$WORK/times.txt"; }
say "timed"
python3 - "$WORK" "$OUT" <<'EOP'
import json, os, sys
work, out = sys.argv[1:]
# What a process had done when its time was over is in its file.
records = {name: json.load(open(f"{work}/{name}.json")) for name in ("check", "times") if os.path.exists(f"{work}/{name}.json")}
json.dump(records, open(f"{out}/zeros.json", "w"))
checks = {s["name"]: s["check"] for s in records.get("check", {"subjects": []})["subjects"]}
passed = sum(1 for check in checks.values() if check and check["passed"])
print(f"compared with the f64 interpreter: {passed} of {len(checks)} passed")
for name, check in checks.items():
    if not check or not check["passed"]:
        print(f"FAIL {name}: {check}")
for subject in records.get("times", {"subjects": []})["subjects"]:
    if subject["error"]:
        print(f"FAIL {subject['name']}: {subject['error']}")
    for run in subject["measurements"]:
        kernels = ", ".join(f"{k['kernel']} {1e3 * k['milliseconds']:.2f} us" for k in run["kernels"])
        predicted = 1e3 * (run["predicted_ms"] or 0)
        print(f"{subject['name']:20} {1e3 * run['milliseconds']['median']:7.2f} us  predicted {predicted:7.2f}  {kernels}")
EOP
say "done"
