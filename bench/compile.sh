# Sourced by prepare.sh and gpu.sh: compiles what bench/plans.txt lists and DIR lacks.
#
#   compile_plans FUSEC DIR JOBS [PATTERN]     PATTERN: an extended regular expression of names
#
# PROFILE: the device profile to plan with (h200).

# The list, with @golden replaced by one line per case and @against by one per model and kind of
# plan: NAME ARGS...
list_plans() {
    local name rest about case plan
    grep -v -e '^#' -e '^$' bench/plans.txt | while read -r name rest; do
        if [ "$name" = @golden ]; then
            for about in tests/golden/*/about.json; do
                case=$(basename "$(dirname "$about")")
                echo "golden-$case-$rest $(golden_model "$case") --dtype $rest --shape B=2,T=64"
            done
        elif [ "$name" = @against ]; then
            for plan in $rest; do
                sed -n "s/^model-\\([^ ]*\\) *\\(.*\\)/against-\\1-${plan/:/} \\2 --plan $plan/p" bench/plans.txt
            done
        else
            echo "$name $rest"
        fi
    done
}

# What a golden case is opened as: its directory, or the .pth in it.
golden_model() {
    local pth
    for pth in tests/golden/"$1"/*.pth; do
        if [ -e "$pth" ]; then
            echo "$pth"
            return
        fi
    done
    echo "tests/golden/$1"
}

compile_plans() {
    local fusec=$1 dir=$2 jobs=$3 pattern=${4:-.}
    mkdir -p "$dir"
    export PROFILE=${PROFILE:-h200}
    list_plans | awk -v pattern="$pattern" '$1 ~ pattern' | while read -r name rest; do
        [ -f "$dir/$name/manifest.json" ] || echo "$name $rest"
    done | xargs -P "$jobs" -d '\n' -I LINE sh -c '
        set -- $3 "$1" "$2"
        name=$1
        shift
        # The last two are the program and the directory; the others go to `fusec compile`.
        count=$(($# - 2))
        args=""
        while [ $count -gt 0 ]; do args="$args $1"; shift; count=$((count - 1)); done
        if ! "$1" compile $args --device-profile "$PROFILE" --out "$2/$name" >"$2/$name.log" 2>&1; then
            echo "FAILED: compile $name" >&2
            tail -n 5 "$2/$name.log" >&2
        fi
        rm -f "$2/$name.log"
    ' compile "$fusec" "$dir" LINE
}
