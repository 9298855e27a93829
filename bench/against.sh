#!/usr/bin/env bash
# The chosen plan beside greedy, unfused and random ones: every model of models/, with two layers, and
# every case of bench/cases, one and eight sequences, prefill and single steps. Runs in the repository's
# root where a GPU and an NVRTC are. Leaves in $OUT: against.txt, a table; against.tar.gz, one record of
# `fusec bench --per-kernel` for each case; left.txt, the cases that time did not suffice for.
#
#   bench/against.sh [FUSEC]     the program, by default .carry/fusec
#   bench/against.sh --list      the cases: NAME, then what is compiled
#
# CASES: a file with the names of the cases to take, one a line, such as left.txt of an earlier call (all).
# ONLY: a pattern of names. PLANS: with spaces between them. LIMIT: seconds after which no case is begun (510).
# LONGEST: seconds of a run beyond which a plan is timed once, after one run before it (0.25); records say so.
# DTYPE: bf16. BENCH: further arguments of `fusec bench`.
set -uo pipefail
cd "$(dirname "$0")/.."
PLANS=${PLANS:-auto greedy unfused random:1 random:2 random:3 random:4 random:5 random:6 random:7 random:8}
LIMIT=${LIMIT:-510}
LONGEST=${LONGEST:-0.25}
DTYPE=${DTYPE:-bf16}

# What a model is compared with: a size that is in use and a vocabulary that leaves the layers most of a
# run. Models without such a size are taken as they are.
size_of() {
    case $1 in
        deltanet | gla | hgrn | hgrn2 | kda) echo "--preset 340m --axis L=2 --axis V=1024" ;;
        gated-deltanet) echo "--preset 0.5b --axis L=2 --axis V=1024" ;;
        mamba1 | mamba2) echo "--preset 370m --axis L=2 --axis V=1024" ;;
        retnet | rwkv7) echo "--preset 0.4b --axis L=2 --axis V=1024" ;;
        rwkv6) echo "--preset 1.6b --axis L=2 --axis V=1024" ;;
        rwkv6-expanded) echo "--axis H=16 --axis C=1024 --axis V=1024" ;;
        hybrid*) echo "--preset 17m --axis L=2" ;;
    esac
}

list() {
    local text name batch more
    for text in bench/cases/*.toml models/*.toml; do
        name=$(basename "$text" .toml)
        more=
        case $text in
            bench/cases/attention.toml) more="--set window=2048" ;;
            models/*) more=$(size_of "$name") ;;
        esac
        [[ $text = bench/* ]] && name=op-$name
        for batch in 1 8; do
            echo "$name-b$batch $text $more --shape B=$batch,T=2048"
        done
    done | grep -E "^[^ ]*${ONLY:-}" | { if [ -n "${CASES:-}" ]; then grep -F -f <(sed 's/$/ /' "$CASES"); else cat; fi; }
}
if [ "${1:-}" = --list ]; then
    list
    exit
fi

FUSEC=$(realpath "${1:-.carry/fusec}")
OUT=${OUT:-bench/results/unsorted}
mkdir -p "$OUT"
WORK=$(mktemp -d)
mkdir -p "$WORK/plans" "$WORK/records"
export FUSEC WORK PLANS LIMIT DTYPE FUSEC_CACHE_DIR=${FUSEC_CACHE_DIR:-$WORK/cache}
trap 'rm -rf "$WORK"' EXIT
say() { echo "== [${SECONDS} s] $*"; }
list >"$WORK/cases"
say "$(wc -l <"$WORK/cases") cases"

# The plans of a case one after the other: what several of them have in common is compiled once. Cases
# are compiled side by side, in the order in which they are timed.
compile() {
    local name=$1 plan
    shift
    mkdir -p "$WORK/plans/$name"
    for plan in $PLANS; do
        [ -e "$WORK/over" ] && return
        timeout 200 "$FUSEC" compile "$@" --dtype "$DTYPE" --plan "$plan" --device-profile "${PROFILE:-h200}" \
            --out "$WORK/plans/$name/${plan/:/}" >"$WORK/plans/$name.log" 2>&1 ||
            { echo "FAIL compile $name $plan"; tail -n 4 "$WORK/plans/$name.log"; }
    done
    touch "$WORK/plans/$name/complete"
}
export -f compile
cores=$(nproc)
RAYON_NUM_THREADS=2 xargs -a "$WORK/cases" -P $((cores > 4 ? cores * 3 / 4 : 2)) -L 1 bash -c 'compile "$@"' compile 2>&1 &
compiling=$!

while read -r name text rest; do
    until [ -e "$WORK/plans/$name/complete" ] || [ "$SECONDS" -gt "$LIMIT" ]; do sleep 0.1; done
    if [ "$SECONDS" -gt "$LIMIT" ]; then
        echo "$name"
        continue
    fi
    shapes=${rest##*--shape }
    dirs=
    for plan in $PLANS; do
        [ -e "$WORK/plans/$name/${plan/:/}/manifest.json" ] && dirs="$dirs --plan-dir $WORK/plans/$name/${plan/:/}"
    done
    cold=
    [[ $name = op-* ]] && cold=--flush-l2
    # shellcheck disable=SC2086
    timeout 60 "$FUSEC" bench --trust-foreign-code $dirs --shape "$shapes" --shape "${shapes%%,*},T=1" $cold --device cuda:0 \
        --warmup 4 --runs 60 --most-seconds 0.12 --longest "$LONGEST" --per-kernel --device-profile "${PROFILE:-h200}" \
        --out "$WORK/records/$name.json" ${BENCH:-} >"$WORK/bench.log" 2>&1 ||
        { echo "FAIL bench $name"; tail -n 4 "$WORK/bench.log"; } >&2
    rm -rf "${WORK:?}/plans/$name/"*/
    say "$name" >&2
done <"$WORK/cases" >"$OUT/left.txt"
touch "$WORK/over"
kill "$compiling" 2>/dev/null
wait "$compiling" 2>/dev/null
shopt -s nullglob
python3 bench/against.py "$WORK"/records/*.json >"$OUT/against.txt"
cat "$OUT/against.txt"
tar -C "$WORK/records" -czf "$OUT/against.tar.gz" .
say "done; $(wc -l <"$OUT/left.txt") cases left"
