# Sourced by whole.sh and record.sh: golden cases on a GPU, in f32 and bf16, side by side.
#
#   golden JOBS FILE     FILE: a line a case, with the first lines of what failed; failures are shown
#   single JOBS FILE     the same for models/ and one sequence, whose single steps have kernels of their own
#
# FUSEC: the program. WORK: a folder for logs. Runs in the repository's root.

# NAME DTYPE ARGUMENTS..: a line, and what was said of a failure.
verify() {
    local name=$1 dtype=$2 log=$WORK/verify-$1-$2.log
    shift 2
    if timeout 150 "$FUSEC" verify "$@" --dtype "$dtype" --device cuda:0 >"$log" 2>&1; then
        echo "ok   $name $dtype"
    else
        echo "FAIL $name $dtype"
        head -n 6 "$log"
    fi
}

verify_golden() {
    local dir=$1 dtype=$2 model=$1
    set -- "$dir"/*.pth
    [ -e "$1" ] && model=$1
    verify "$(basename "$dir")" "$dtype" "$model" --golden "$dir/golden.safetensors"
}

verify_single() {
    verify "single-$(basename "$1" .toml)" "$2" "$1" --weights random:2 --shape B=1,T=6
}

# FUNCTION JOBS FILE SUBJECT..: each subject in both types.
in_both_types() {
    local function=$1 jobs=$2 file=$3 dtype subject
    shift 3
    export FUSEC WORK
    export -f verify "$function"
    for dtype in f32 bf16; do
        for subject in "$@"; do echo "$subject $dtype"; done
    done | xargs -P "$jobs" -L 1 bash -c "$function"' "$0" "$1"' >"$file" 2>&1
    grep -A 6 '^FAIL' "$file" | head -n 40
}

golden() {
    local about dirs=()
    for about in tests/golden/*/about.json; do dirs+=("$(dirname "$about")"); done
    in_both_types verify_golden "$1" "$2" "${dirs[@]}"
}

single() {
    in_both_types verify_single "$1" "$2" models/*.toml
}
