#!/usr/bin/env bash
# The C++ program of `fusec compile --standalone` on a GPU: built by g++ with the cubins that NVRTC makes here, run in
# one piece and in pieces, and compared with `fusec run` of the same plan on the same GPU; what a run of it takes, and
# what submitting one does. Runs in the repository's root, in under 60 s; writes standalone.txt to $OUT.
#
#   bench/standalone.sh [FUSEC]     by default .carry/fusec
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-bench/results/unsorted}
mkdir -p "$OUT"
OUT=$(realpath "$OUT")
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
FUSEC=$WORK/fusec
cp "${1:-.carry/fusec}" "$FUSEC" && chmod +x "$FUSEC" || exit 2
export FUSEC_CACHE_DIR=${FUSEC_CACHE_DIR:-$WORK/cache}
CXX=$(command -v g++ || command -v c++) || { echo "no g++ here"; exit 2; }
# The model of the page of the book.
sed -n '/^```toml/,/^```$/p' docs/standalone.md | sed '1d;$d' >"$WORK/small.toml"

# The largest difference of two files of f32 tensors, by the largest number of the second.
cat >"$WORK/apart.py" <<'END'
import array, json, struct, sys
def read(path):
    data = open(path, "rb").read()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    out = {}
    for name, about in header.items():
        begin, end = about["data_offsets"]
        out[name] = about["shape"], array.array("f", data[8 + length + begin : 8 + length + end])
    return out
a, b = read(sys.argv[1]), read(sys.argv[2])
assert a.keys() == b.keys(), (a.keys(), b.keys())
worst = 0.0
for name in a:
    (shape, x), (other, y) = a[name], b[name]
    assert shape == other and len(x) == len(y), (name, shape, other)
    most = max(abs(v) for v in y)
    assert most > 0 and most < 1e30, name
    worst = max(worst, max(abs(p - q) for p, q in zip(x, y)) / most)
print(f"{worst:.1e}")
sys.exit(worst > float(sys.argv[3]))
END

failed=0
# Name, model, arguments of compile, arguments of both programs, pieces, bounds: of the whole run (the same kernels: all
# but equal, for the order of sums over blocks is fixed), and in pieces, where single steps have kernels of their own.
one() {
    local name=$1 model=$2 how=$3 rows=$4 pieces=$5 bound=$6
    local dir=$WORK/$name
    # shellcheck disable=SC2086
    "$FUSEC" compile "$model" $how --standalone --weights random:1 --out "$dir" >"$WORK/log" 2>&1 ||
        { echo "FAIL $name: compile"; tail -n 5 "$WORK/log"; failed=1; return; }
    local folder=$dir/standalone program
    program=$(basename "$(ls "$folder"/*.cpp)" .cpp)
    local last=()
    [[ $how == *"--logits last"* ]] && last=(--logits last)
    local axes=()
    [[ $how =~ (--axis [^ ]+) ]] && read -ra axes <<<"${BASH_REMATCH[1]}"
    if (cd "$folder" && "$CXX" -std=c++17 -O2 -Wall -Wextra "$program.cpp" -o "$program" -ldl) &&
        "$folder/$program" $rows --seed 3 --inputs-out "$dir/in" --output "$dir/whole" --repeat 200 &&
        "$FUSEC" run "$model" "${axes[@]}" "${last[@]}" --weights random:1 --plan-dir "$dir" --device cuda:0 --input "$dir/in" --output "$dir/run" >"$WORK/log" 2>&1; then
        echo "     apart in one piece: $(python3 "$WORK/apart.py" "$dir/whole" "$dir/run" 1e-6)" || failed=1
        python3 "$WORK/apart.py" "$dir/whole" "$dir/run" 1e-6 >/dev/null || { echo "FAIL $name: apart"; failed=1; }
        if [ -n "$pieces" ]; then
            "$folder/$program" --input "$dir/in" --pieces "$pieces" --output "$dir/pieces" --repeat 200 || failed=1
            echo "     apart in pieces: $(python3 "$WORK/apart.py" "$dir/pieces" "$dir/run" "$bound")"
            python3 "$WORK/apart.py" "$dir/pieces" "$dir/run" "$bound" >/dev/null || { echo "FAIL $name: apart in pieces"; failed=1; }
        fi
        echo "done $name"
    else
        echo "FAIL $name"
        tail -n 5 "$WORK/log"
        failed=1
    fi
}

{
    one small "$WORK/small.toml" "" "--batch 2 --time 75" "64,1,1,9" 1e-4
    one small-bf16-last "$WORK/small.toml" "--dtype bf16 --logits last --shape B=4,T=512" "--batch 4 --time 512" "" 0
    one hybrid-bf16 models/hybrid.toml "--dtype bf16 --axis L=2 --shape B=4,T=512" "--batch 4 --time 512" "509,1,1,1" 5e-2
    one rwkv7 models/rwkv7.toml "--axis L=2 --shape B=1,T=256" "--batch 1 --time 256" "254,1,1" 1e-3
    # What cannot be: said, with status 2.
    "$WORK/small/standalone/small" --device 99
    [ $? -eq 2 ] || { echo "FAIL a device that is not there"; failed=1; }
    [ $failed -eq 0 ] && echo "all compared" || echo "something failed"
} 2>&1 | tee "$OUT/standalone.txt"
grep -q '^all compared' "$OUT/standalone.txt"
