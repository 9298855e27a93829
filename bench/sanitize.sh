#!/usr/bin/env bash
# The kernels of every family of models/ under the four tools of compute-sanitizer, and a run whose
# activations have more than 2^32 elements, in one go, in under five minutes. Runs in the repository's root
# where a GPU, an NVRTC and compute-sanitizer are; nothing has to be built there.
#
#   bench/sanitize.sh [FUSEC]     the program, by default .carry/fusec or .carry/fusec.gz
#
# Leaves in $OUT: sanitize.txt (a line a run: verdict, tool, model, storage, shape, errors counted),
# sanitize-failures.txt (what the tools said of each run that is not clean), large.txt.
#
# memcheck, racecheck and synccheck look at `verify`, which poisons memory in first runs and compares
# numbers besides; initcheck looks at `run` on memory as the driver gives it, since poison counts as
# initialised, and takes the runs of several tokens and of one in processes of their own: what the first
# has written is initialised for the second. A copy by a tensor map moves boxes, and what of a box lies
# outside of its tensor is filled with zeros and not read; should the tool count it as read, errors at T=37
# (74 rows, of boxes of 64) are gone at T=64 (128 rows). That nothing inside is read before it was written is
# shown without a GPU: the emulator refuses a copy that brings an element of its poison, and all other reads of
# a product by warpgroups are of rows and columns inside its result.
#
# PART: K/N, every N-th run from the K-th on, so that all of them are had in pieces of a few minutes. DONE: an
# earlier sanitize.txt, whose clean runs are not made again. ONLY: a pattern of model names (all). TOOLS: with
# spaces between them (all four). JOBS: side by side (10). SECONDS_PER_RUN: after which a run is given up (60).
# SECONDS_IN_ALL: after which none is started (220), the large run apart. SKIP_LARGE=1: no large run.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-bench/results/unsorted}
mkdir -p "$OUT"
OUT=$(realpath "$OUT")
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
# What was carried here may have lost its mode.
FUSEC=$WORK/fusec
if [ -n "${1:-}" ] || [ -f .carry/fusec ]; then cp "${1:-.carry/fusec}" "$FUSEC"; else gzip -dc .carry/fusec.gz >"$FUSEC"; fi
chmod +x "$FUSEC" && [ -s "$FUSEC" ] || exit 2
LIMIT=${SECONDS_PER_RUN:-60}
DEADLINE=$(($(date +%s) + ${SECONDS_IN_ALL:-220}))
SANITIZER=${SANITIZER:-$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | tail -n 1)}
if [ -z "$SANITIZER" ]; then
    echo "no compute-sanitizer: it comes with the CUDA toolkit; SANITIZER names it" >&2
    exit 2
fi
export FUSEC OUT WORK LIMIT DEADLINE SANITIZER FUSEC_CACHE_DIR=$WORK/cache
say() { echo "== [${SECONDS} s] $*"; }

# As small as their tiles, chunks and heads allow. Widths are those of the texts, depth is one layer; the
# variants of a hybrid differ in how two branches meet.
models() {
    local file name
    for file in models/*.toml; do
        name=$(basename "$file" .toml)
        grep -qE "^(${ONLY:-.*})$" <<<"$name" || continue
        # Not every model has layers.
        if grep -qE '^L = ' "$file"; then echo "$file --axis L=1"; else echo "$file"; fi
    done
}

# TOOL, then what it looks at, the quick ones first. Kernels follow from the shape: one sequence and few tokens, and so
# many that recurrences go in chunks; in bf16 products are by warpgroups at both.
runs() {
    local shape tool model dtype
    for shape in B=1,T=3 B=2,T=37 B=2,T=1 B=2,T=64 B=1,T=320; do
        for tool in ${TOOLS:-memcheck initcheck synccheck racecheck}; do
            # Steps of `verify` are runs of one token; whole boxes are of interest to one tool.
            case $tool:$shape in
                initcheck:*) ;;
                *:B=2,T=1 | *:B=2,T=64) continue ;;
            esac
            models | while read -r model; do
                for dtype in f32 bf16; do
                    if [ "$tool" = initcheck ]; then
                        echo "$tool run $model --dtype $dtype --shape $shape"
                    else
                        echo "$tool verify $model --dtype $dtype --shape $shape --steps 1"
                    fi
                done
            done
        done
    done
}

# The run's name in the results.
label() {
    local tool=$1
    shift
    echo "$tool $(sed 's#models/##; s#\.toml##; s#--dtype ##; s#--shape ##; s#--axis L=1 ##' <<<"$*")"
}

# Those of this part, without what was clean before.
chosen() {
    local part=${PART:-1/1} run
    awk -v k="${part%/*}" -v n="${part#*/}" 'NR % n == k % n' | while read -r run; do
        # shellcheck disable=SC2086 # words
        [ -n "${DONE:-}" ] && grep -qF "ok $(label $run):" "$DONE" || echo "$run"
    done
}

# Without its sanitizer, so that kernels are in the cache, and a failure there is one of the program.
warm() {
    timeout "$LIMIT" "$FUSEC" "$@" --weights random:1 --device cuda:0 >/dev/null 2>&1
}

sanitized() {
    local tool=$1 log label flags errors status verdict=ok began left
    label=$(label "$@")
    shift
    began=$(date +%s)
    left=$((DEADLINE - began))
    if [ $left -lt 5 ]; then
        echo "LEFT $label: no time for it"
        return
    fi
    log=$(mktemp -p "$WORK" run.XXXXXX)
    flags=()
    case $tool in
        memcheck) flags=(--padding 64) ;;
        racecheck) flags=(--racecheck-report all) ;;
    esac
    timeout $((left < LIMIT ? left : LIMIT)) "$SANITIZER" --tool "$tool" "${flags[@]}" --print-limit 20 --error-exitcode 99 \
        "$FUSEC" "$@" --weights random:1 --device cuda:0 >"$log" 2>&1
    status=$?
    # The last line that counts: ERROR SUMMARY, or of racecheck RACECHECK SUMMARY.
    errors=$(grep -E 'SUMMARY' "$log" | tail -n 1 | grep -oE '[0-9]+ (error|hazard)' | head -n 1 | cut -d' ' -f1)
    case $status in
        0) [ "${errors:-0}" = 0 ] || verdict=FOUND ;;
        99) verdict=FOUND ;;
        124) verdict=SLOW ;;
        # A tolerance that is exceeded (1), or an input that is refused (2).
        *) verdict=FAIL ;;
    esac
    # A tool that printed no summary has looked at nothing.
    [ "$verdict" = ok ] && [ -z "$errors" ] && verdict=NOTHING
    echo "$verdict $label: ${errors:-no} errors, status $status, $(($(date +%s) - began)) s"
    if [ "$verdict" != ok ]; then
        { echo "== $verdict $label"; head -c 6000 "$log"; echo; } >"$log.failed"
    fi
    rm -f "$log"
}
export -f warm sanitized label

# Activations of B T C = 2^32 + 2^20 elements and more: a model of rows, so the last rows of the large run
# are what a run on those rows alone gives. Addresses that wrapped would read, or write, others.
large() {
    python3 bench/large.py "$FUSEC" "$WORK" >"$OUT/large.txt" 2>&1
    local status=$?
    cat "$OUT/large.txt"
    say "large: status $status"
}

nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
"$SANITIZER" --version | tail -n 1
runs | chosen >"$WORK/runs.list"
say "$(wc -l <"$WORK/runs.list") runs"
sed -E 's/^[a-z]+ //' "$WORK/runs.list" | sort -u |
    xargs -P "$(nproc)" -L 1 bash -c 'warm "$@"' warm
say "compiled"
xargs -P "${JOBS:-10}" -L 1 bash -c 'sanitized "$@"' sanitized <"$WORK/runs.list" >"$OUT/sanitize.txt"
cat "$WORK"/run.*.failed >"$OUT/sanitize-failures.txt" 2>/dev/null || true
sort -o "$OUT/sanitize.txt" "$OUT/sanitize.txt"
grep -v '^ok' "$OUT/sanitize.txt" | head -n 40
for tool in ${TOOLS:-memcheck initcheck synccheck racecheck}; do
    say "$tool: $(grep -c "^ok $tool" "$OUT/sanitize.txt") clean of $(grep -c "^[A-Za-z]* $tool" "$OUT/sanitize.txt")"
done
[ -n "${SKIP_LARGE:-}" ] || large
say done
! grep -qv '^ok' "$OUT/sanitize.txt"
