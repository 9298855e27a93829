# Sourced by whole.sh and record.sh: golden cases on a GPU, in f32 and bf16, side by side.
#
#   golden JOBS FILE     FILE: a line a case, with the first lines of what failed; failures are shown
#   single JOBS FILE     the same for models/ and one sequence, whose single steps have kernels of their own
#
# FUSEC: the program. WORK: a folder for logs. Runs in the repository's root.

verify() {
    local dir=$1 dtype=$2 model=$1 log
    log=$WORK/verify-$(basename "$dir")-$dtype.log
    set -- "$dir"/*.pth
    [ -e "$1" ] && model=$1
    if timeout 150 "$FUSEC" verify "$model" --golden "$dir/golden.safetensors" --dtype "$dtype" --device cuda:0 >"$log" 2>&1; then
        echo "ok   $(basename "$dir") $dtype"
    else
        echo "FAIL $(basename "$dir") $dtype"
        head -n 6 "$log"
    fi
}

verify_single() {
    local file=$1 dtype=$2 name log
    name=$(basename "$file" .toml)
    log=$WORK/single-$name-$dtype.log
    if timeout 150 "$FUSEC" verify "$file" --weights random:2 --shape B=1,T=6 --dtype "$dtype" --device cuda:0 >"$log" 2>&1; then
        echo "ok   $name $dtype"
    else
        echo "FAIL $name $dtype"
        head -n 6 "$log"
    fi
}

single() {
    local dtype file
    export FUSEC WORK
    export -f verify_single
    for dtype in f32 bf16; do
        for file in models/*.toml; do echo "$file $dtype"; done
    done | xargs -P "$1" -L 1 bash -c 'verify_single "$0" "$1"' >"$2" 2>&1
    grep -A 6 '^FAIL' "$2" | head -n 40
}

golden() {
    local dtype about
    export FUSEC WORK
    export -f verify
    for dtype in f32 bf16; do
        for about in tests/golden/*/about.json; do echo "$(dirname "$about") $dtype"; done
    done | xargs -P "$1" -L 1 bash -c 'verify "$0" "$1"' >"$2" 2>&1
    grep -A 6 '^FAIL' "$2" | head -n 40
}
