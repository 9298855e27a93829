#!/usr/bin/env bash
# What a GPU that is absent, full, busy or at fault makes of the program, and what an interruption does while it
# works: a table of cases with exit statuses, and what was said where one fails. Runs in the repository's root where
# a GPU, an NVRTC and python3 are, in under 90 s; nothing has to be built there.
#
#   bench/faults.sh prepare [FUSEC]   a plan whose kernel writes where it must not, into .carry/faulting (ARCH: for
#                                     which GPU, sm_90a); needs no GPU. Where it is missing it is made on the spot
#   bench/faults.sh [FUSEC]           where the GPU is
#
# FUSEC: by default .carry/fusec, or .carry/fusec.gz. DEVICE: cuda:0. With DEVICE=emulator or DEVICE=cpu only what
# makes sense there: memory and interruptions. MEMORY_MIB: of the device, where no nvidia-smi says. AFTER: seconds
# after which work is interrupted (10). Leaves the table in $OUT/faults.txt where OUT is set. The status is 0 if every
# case is as it should be and none was left out.
#
# A GPU that drops off the bus or that another process has to itself cannot be had on purpose: what the driver says
# then is said, call by call, by that of tests/faults/driver.cpp.
set -uo pipefail
# Jobs of their own: a shell without them has what it starts in the background ignore Ctrl-C, and the program goes
# on ignoring what it was told to.
set -m
cd "$(dirname "$0")/.."
DEVICE=${DEVICE:-cuda:0}
CARRIED=.carry/faulting
WORK=$(mktemp -d)
STARTED=()
clean() {
    [ ${#STARTED[@]} -eq 0 ] || kill "${STARTED[@]}" 2>/dev/null
    rm -rf "$WORK"
}
trap clean EXIT
TABLE=$WORK/table
: >"$TABLE"

# What was carried here may have lost its mode.
FUSEC=$WORK/fusec
[ "${1:-}" = prepare ] && GIVEN=${2:-} || GIVEN=${1:-}
if [ -n "$GIVEN" ]; then
    cp "$(realpath "$GIVEN")" "$FUSEC" || exit 2
elif [ -f .carry/fusec ]; then
    cp .carry/fusec "$FUSEC"
else
    gzip -dc .carry/fusec.gz >"$FUSEC" || exit 2
fi
chmod +x "$FUSEC"
export FUSEC_CACHE_DIR=${FUSEC_CACHE_DIR:-$WORK/cache}

# Rows of C numbers, so that a run takes what its shape says; a product, so that it takes time.
MODEL=$WORK/model.toml
cat >"$MODEL" <<'TOML'
name = "faults"

[axes]
V = 64
C = 4096

[param]
emb = { shape = "V, C", init = "normal(1)" }
w   = { shape = "C, C" }

[model]
flow = """
  x = gather(emb, ids)
  x = silu(shift(x) @ w) @ w
  logits = x @ emb
  return logits
"""
TOML

# A recurrence that goes one step after the other, of narrow rows: one kernel that runs for as long as T says.
STEPS=$WORK/steps.toml
cat >"$STEPS" <<'TOML'
name = "steps"

[axes]
V = 256
C = 8

[param]
emb = { shape = "V, C", init = "normal(1)" }

[recurrence.turn]
inputs  = "v[C]"
state   = "S[C]"
outputs = "s[C]"
step    = """
  S = tanh(tanh(tanh(tanh(S + v))))
  s = S
"""

[model]
flow = """
  x = gather(emb, ids)
  logits = turn(x) @ emb
  return logits
"""
TOML
for n in $(seq 400); do echo "line $n of a text to train on and to go on with"; done >"$WORK/text.txt"

prepare() { python3 bench/faulting.py "$FUSEC" "$MODEL" "$1" "$2"; }

if [ "${1:-}" = prepare ]; then
    prepare "$CARRIED" "${ARCH:-sm_90a}"
    exit
fi

BEGAN=0
# VERDICT CASE STATUS WANTED
row() { printf '%-5s %-58s %6s %6s %6s s\n' "$1" "$2" "$3" "$4" $((SECONDS - BEGAN)) | tee -a "$TABLE"; BEGAN=$SECONDS; }

# CASE WANTED GOT SAYS..: what ended with this status and said what is in LOG.
LOG=$WORK/log
judge() {
    local name=$1 want=$2 got=$3 says missing=
    shift 3
    for says in "$@"; do
        # Lines are broken, words are not.
        tr -s '[:space:]' ' ' <"$LOG" | grep -qF -- "$says" || missing+=" '$says'"
    done
    grep -q panicked "$LOG" && missing+=" (it panicked)"
    if [ "$got" = "$want" ] && [ -z "$missing" ]; then
        row ok "$name" "$got" "$want"
    else
        row FAIL "$name" "$got" "$want"
        [ -z "$missing" ] || echo "      not said:$missing"
        head -n 8 "$LOG" | sed 's/^/      | /'
    fi
}
fails() {
    row FAIL "$1" - -
    echo "      $2"
}

fusec() { timeout -k 5 60 "$FUSEC" "$@" >"$LOG" 2>&1; }
on() { fusec "$@" --weights random:1 --device "$DEVICE"; }

# Seconds for which something has to become true.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.2
    done
}

on_gpu() { [[ $DEVICE == cuda* ]]; }
asked() { nvidia-smi -i "${DEVICE#cuda:}" --query-gpu="$1" --format=csv,noheader,nounits; }
total_mib() {
    if [ -n "${MEMORY_MIB:-}" ]; then
        echo "$MEMORY_MIB"
    elif on_gpu; then
        asked memory.total
    else
        awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo
    fi
}

# Rows of which a run takes so many MiB: each value of a row is 16 KiB, and two or three live at a time.
rows() { echo $(($1 * 64 / 2)); }

absent() {
    on_gpu || return 0
    fusec run "$MODEL" --weights random:1 --device cuda:99 --shape B=1,T=2
    judge "a GPU that is not there" 2 $? "cuda:99" "--device auto"
    CUDA_VISIBLE_DEVICES= on run "$MODEL" --shape B=1,T=2
    judge "no GPU at all" 2 $? "cannot run on $DEVICE"
    CUDA_VISIBLE_DEVICES= fusec run "$MODEL" --axis C=64 --weights random:1 --device auto --shape B=1,T=2
    judge "no GPU at all, and any device will do" 0 $? "cpu"
}

too_large() {
    local rows verb verbs=(run bench)
    [ "$DEVICE" = emulator ] && verbs=(run)
    rows=$(rows $((4 * $(total_mib))))
    for verb in "${verbs[@]}"; do
        on "$verb" "$MODEL" --shape B=8,T=$((rows / 8))
        judge "$verb: more memory than there is" 2 $? "needs" "largest buffer" "free"
    done
    on run "$MODEL" --axis C=64 --shape B=1,T=2
    judge "a small run after it" 0 $?
}

# Another process has two thirds of the memory, and computes; as much is asked for again.
taken() {
    on_gpu || return 0
    local rows before share holder
    before=$(asked memory.free)
    share=$(($(total_mib) * 2 / 3))
    rows=$(rows "$share")
    "$FUSEC" bench "$MODEL" --dtype bf16 --weights random:1 --device "$DEVICE" --shape B=8,T=$((rows / 4)) --runs 1000000 \
        --most-seconds 600 >"$WORK/holder" 2>&1 &
    holder=$!
    STARTED+=("$holder")
    less_is_free() { [ "$(asked memory.free)" -lt $((before - share / 2)) ] || ! kill -0 "$holder" 2>/dev/null; }
    within 40 less_is_free
    if ! kill -0 "$holder" 2>/dev/null; then
        cp "$WORK/holder" "$LOG"
        judge "a process that takes two thirds" running ended
        return
    fi
    on run "$MODEL" --dtype bf16 --shape B=8,T=$((rows / 4))
    judge "memory that another process has" 2 $? "needs" "free"
    on run "$MODEL" --axis C=64 --shape B=1,T=2
    judge "a small run while another process computes" 0 $?
    kill -INT "$holder"
    wait "$holder"
    local status=$?
    cp "$WORK/holder" "$LOG"
    judge "Ctrl-C of the process that has it" 130 $status
    on run "$MODEL" --axis C=64 --shape B=1,T=2
    judge "the GPU afterwards" 0 $?
}

# A fault is the end of a context, not of a GPU.
faulting() {
    on_gpu || return 0
    if [ ! -d "$CARRIED" ]; then
        CARRIED=$WORK/faulting
        if ! prepare "$CARRIED" "sm_$(asked compute_cap | tr -d .)a" >"$LOG" 2>&1; then
            fails "a kernel that faults" "its plan cannot be made: $(tail -n 1 "$LOG")"
            return
        fi
    fi
    on run "$MODEL" --axis C=64 --shape B=1,T=4 --plan-dir "$CARRIED"
    judge "a plan that was edited" 2 $? "is not what this program makes" "--trust-foreign-code"
    on run "$MODEL" --axis C=64 --shape B=1,T=4 --plan-dir "$CARRIED" --trust-foreign-code --output "$WORK/out.safetensors"
    judge "run: a kernel that faults" 2 $? "kernel \`" "which computes" "failed with" "CUDA_ERROR" "not used any further"
    [ ! -e "$WORK/out.safetensors" ] || fails "run: a kernel that faults" "it has written results"
    on bench "$MODEL" --axis C=64 --shape B=1,T=4 --plan-dir "$CARRIED" --trust-foreign-code
    judge "bench: a kernel that faults" 2 $? "kernel \`" "which computes" "failed with" "CUDA_ERROR" "not used any further"
    on run "$MODEL" --axis C=64 --shape B=1,T=4
    judge "another process after it" 0 $?
}

# Each verb that computes for long, all at once, in the middle of its work; each file that it would write.
interrupted() {
    local out=$WORK/interrupted work pid n=0 name status signal rest watch
    local device="--device $DEVICE --weights random:1"
    mkdir "$out"
    local works=(
        "run 130 INT run $STEPS $device --shape B=1,T=268435456 --logits last --output $out/run"
        "run 143 TERM run $STEPS $device --shape B=1,T=268435456 --logits last --output $out/run-2"
        "verify 143 TERM verify $STEPS $device --steps 1000000"
        "generate 130 INT generate $STEPS $device --prompt Once --tokens 1000000"
        "train 143 TERM train $STEPS --device $DEVICE --tokens $WORK/text.txt --steps 1000000 --batch 4 --length 64 --out $out/train"
        "bench 130 INT bench $MODEL $device --shape B=8,T=4096 --runs 1000000 --most-seconds 600 --out $out/bench"
        "bench 143 TERM bench $MODEL $device --shape B=8,T=4096 --runs 1000000 --most-seconds 600 --out $out/bench-2"
    )
    local names=() wanted=() signals=() pids=()
    for work in "${works[@]}"; do
        read -r name status signal rest <<<"$work"
        # Times of the emulator say nothing, and `bench` refuses them; long runs need more than a host may have.
        [ "$DEVICE" = emulator ] && [ "$name" = bench ] && continue
        on_gpu || rest=${rest/T=268435456/T=1048576}
        # shellcheck disable=SC2086 # words
        "$FUSEC" $rest >"$WORK/log.$n" 2>&1 &
        pids+=($!) names+=("$name") wanted+=("$status") signals+=("$signal")
        n=$((n + 1))
    done
    STARTED+=("${pids[@]}")
    sleep "${AFTER:-10}"
    on_gpu && echo "      the GPU is in use for $(asked utilization.gpu) % of the time"
    BEGAN=$SECONDS
    for n in "${!pids[@]}"; do
        pid=${pids[$n]}
        cp "$WORK/log.$n" "$LOG"
        if ! kill -"${signals[$n]}" "$pid" 2>/dev/null; then
            wait "$pid"
            judge "${names[$n]}: SIG${signals[$n]} in the middle of its work" running $?
            continue
        fi
        # Whoever does not end is ended.
        ( sleep 15; kill -KILL "$pid" 2>/dev/null ) &
        watch=$!
        disown "$watch"
        wait "$pid"
        status=$?
        kill "$watch" 2>/dev/null
        cp "$WORK/log.$n" "$LOG"
        judge "${names[$n]}: SIG${signals[$n]} in the middle of its work" "${wanted[$n]}" "$status"
    done
    # The log and the checkpoints of a training are there to be gone on with.
    left=$(find "$out" -type f -not -path '*/train/*')
    [ -z "$left" ] || fails "interrupted work leaves nothing" "there is $left"
}

printf '%-5s %-58s %6s %6s\n' "" "case on $DEVICE" status wanted | tee -a "$TABLE"
absent
too_large
taken
interrupted
faulting
left=$(find "$WORK" -name '.fusec-partial-*')
[ -z "$left" ] || fails "nothing unfinished is left" "there is $left"
cases=$(grep -c ' s$' "$TABLE")
bad=$(grep -c '^FAIL' "$TABLE")
echo "$((cases - bad)) of $cases cases are as they should be, $SECONDS s" | tee -a "$TABLE"
if [ -n "${OUT:-}" ]; then
    mkdir -p "$OUT"
    cp "$TABLE" "$OUT/faults.txt"
fi
[ "$bad" -eq 0 ]
