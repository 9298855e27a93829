#!/usr/bin/env bash
# What a GPU that is absent, full, taken or at fault makes of the program: exit status and message of each. Runs
# in the repository's root where a GPU is, in under two minutes; nothing has to be built there.
#
#   bench/faults.sh prepare [FUSEC]   where NVRTC and python3 are: a plan whose kernel writes where it must
#                                     not, into .carry/faulting (ARCH: for which GPU, sm_90a)
#   bench/faults.sh [FUSEC]           where the GPU is; FUSEC: by default .carry/fusec
#
# DEVICE: cuda:0. With DEVICE=emulator or DEVICE=cpu only what makes sense there: memory and interruptions.
# MEMORY_MIB: of the device, where no nvidia-smi says. A line a case; the status is that of the worst.
set -uo pipefail
# Jobs of their own: a shell without them has what it starts in the background ignore Ctrl-C, and the program goes
# on ignoring what it was told to.
set -m
cd "$(dirname "$0")/.."
DEVICE=${DEVICE:-cuda:0}
CARRIED=.carry/faulting
WORK=$(mktemp -d)
HOLDER=
trap '[ -z "$HOLDER" ] || kill "$HOLDER" 2>/dev/null; rm -rf "$WORK"' EXIT
FAILED=0

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

prepare() {
    python3 bench/faulting.py "$1" "$MODEL" "$CARRIED" "${ARCH:-sm_90a}"
}

if [ "${1:-}" = prepare ]; then
    prepare "$(realpath "${2:-.carry/fusec}")"
    exit
fi

# What was carried here may have lost its mode.
FUSEC=$WORK/fusec
cp "$(realpath "${1:-.carry/fusec}")" "$FUSEC" && chmod +x "$FUSEC" || exit 2
export FUSEC_CACHE_DIR=$WORK/cache

# NAME STATUS SAYS..: what the command before has to have ended with and said. LOG holds what it said.
LOG=$WORK/log
judge() {
    local name=$1 want=$2 got=$3 says missing=
    shift 3
    for says in "$@"; do
        grep -qF -- "$says" "$LOG" || missing+=" '$says'"
    done
    if [ "$got" = "$want" ] && [ -z "$missing" ]; then
        echo "ok   $name: status $got"
    else
        echo "FAIL $name: status $got, wanted $want${missing:+; not said:$missing}"
        head -n 8 "$LOG"
        FAILED=1
    fi
}

on() { "$FUSEC" "$@" --weights random:1 --device "$DEVICE" >"$LOG" 2>&1; }

# Seconds for which something has to become true.
within() {
    local seconds=$1 end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.2
    done
}

on_gpu() { [[ $DEVICE == cuda* ]]; }
free_mib() { nvidia-smi -i "${DEVICE#cuda:}" --query-gpu=memory.free --format=csv,noheader,nounits; }
total_mib() {
    if [ -n "${MEMORY_MIB:-}" ]; then
        echo "$MEMORY_MIB"
    elif on_gpu; then
        nvidia-smi -i "${DEVICE#cuda:}" --query-gpu=memory.total --format=csv,noheader,nounits
    else
        awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo
    fi
}

# Rows of which a run takes so many MiB: each value of a row is 16 KiB, and two or three live at a time.
rows() { echo $(($1 * 64 / 2)); }

absent() {
    on_gpu || return 0
    "$FUSEC" run "$MODEL" --weights random:1 --device cuda:99 --shape B=1,T=2 >"$LOG" 2>&1
    judge "a GPU that is not there" 2 $? "cuda:99" "--device auto"
    CUDA_VISIBLE_DEVICES= on run "$MODEL" --shape B=1,T=2
    judge "no GPU at all" 2 $? "cannot run on $DEVICE"
    CUDA_VISIBLE_DEVICES= "$FUSEC" run "$MODEL" --axis C=64 --weights random:1 --device auto --shape B=1,T=2 >"$LOG" 2>&1
    judge "no GPU, and any device will do" 0 $? "cpu"
}

too_large() {
    local rows
    rows=$(rows $((4 * $(total_mib))))
    on run "$MODEL" --shape B=8,T=$((rows / 8))
    judge "a run that needs more memory than there is" 2 $? "needs" "largest buffer" "free"
    on run "$MODEL" --axis C=64 --shape B=1,T=2
    judge "a small one after it" 0 $?
}

# Another process has two thirds of the memory, and as much is asked for again.
taken() {
    on_gpu && command -v nvidia-smi >/dev/null || return 0
    local rows before share
    before=$(free_mib)
    share=$(($(total_mib) * 2 / 3))
    rows=$(rows "$share")
    "$FUSEC" bench "$MODEL" --weights random:1 --device "$DEVICE" --shape B=8,T=$((rows / 8)) --runs 1000000 \
        --most-seconds 600 >"$WORK/holder" 2>&1 &
    HOLDER=$!
    less_is_free() { [ "$(free_mib)" -lt $((before - share / 2)) ] || ! kill -0 "$HOLDER" 2>/dev/null; }
    within 60 less_is_free
    if ! kill -0 "$HOLDER" 2>/dev/null; then
        cp "$WORK/holder" "$LOG"
        judge "a process that takes two thirds" running ended
        HOLDER=
        return
    fi
    on run "$MODEL" --shape B=8,T=$((rows / 8))
    judge "memory that another process has" 2 $? "free"
    kill -INT "$HOLDER"
    wait "$HOLDER"
    cp "$WORK/holder" "$LOG"
    judge "Ctrl-C of the process that has it" 130 $?
    HOLDER=
    on run "$MODEL" --axis C=64 --shape B=1,T=2
    judge "the GPU afterwards" 0 $?
}

faulting() {
    on_gpu || return 0
    if [ ! -d "$CARRIED" ]; then
        echo "LEFT a kernel that faults: there is no $CARRIED (bench/faults.sh prepare makes it)"
        return
    fi
    on run "$MODEL" --axis C=64 --shape B=1,T=4 --plan-dir "$CARRIED"
    judge "a plan that was edited" 2 $? "is not what this program makes" "--trust-foreign-code"
    on run "$MODEL" --axis C=64 --shape B=1,T=4 --plan-dir "$CARRIED" --trust-foreign-code --out "$WORK/out.safetensors"
    judge "a kernel that faults" 2 $? "kernel \`" "which computes" "failed with" "CUDA_ERROR" "not used any further"
    [ ! -e "$WORK/out.safetensors" ] || { echo "FAIL a kernel that faults: it has written results"; FAILED=1; }
    on run "$MODEL" --axis C=64 --shape B=1,T=4
    judge "another process after it" 0 $?
}

# SIGNAL STATUS: in the middle of work that would take minutes.
interrupted() {
    local pid device=$DEVICE
    # Times of the emulator say nothing, and `bench` refuses them.
    local work=(bench "$MODEL" --shape B=8,T=4096 --runs 1000000 --most-seconds 600)
    [ "$device" = emulator ] && work=(run "$MODEL" --shape B=1,T=4096)
    "$FUSEC" "${work[@]}" --weights random:1 --device "$device" --out "$WORK/interrupted" >"$LOG" 2>&1 &
    pid=$!
    sleep "${AFTER:-8}"
    kill -"$1" "$pid" 2>/dev/null
    wait "$pid"
    judge "SIG$1 in the middle of work" "$2" $?
    [ ! -e "$WORK/interrupted" ] || { echo "FAIL SIG$1 in the middle of work: it has written results"; FAILED=1; }
}

absent
too_large
taken
interrupted INT 130
interrupted TERM 143
faulting
if find "$WORK" -name '.fusec-partial-*' | grep -q .; then
    echo "FAIL something unfinished was left:"
    find "$WORK" -name '.fusec-partial-*'
    FAILED=1
fi
exit $FAILED
