#!/usr/bin/env bash
# The Python package on a machine with a GPU and torch, in under 200 s a stage. Runs in the repository's root; no
# network is needed.
#
#   bench/python_gpu.sh checks [NAME ..]     claim by claim, and what a call costs (bench/python_gpu.py): python.json
#   bench/python_gpu.sh tests [ARGUMENT ..]  the package's tests, on the interpreter, the emulator and the GPU:
#                                            python.txt and python.xml
#   bench/python_gpu.sh doors                what was last changed about calls, and the C++ program (bench/standalone.sh,
#                                            with .carry/fusec), in under 150 s together
#
# WHEEL: the wheel that `cargo xtask wheel` built, by default the newest in .carry/ or target/wheel/dist/.
# SECONDS_MOST: how long a stage may take, 185 by default.
set -uo pipefail
cd "$(dirname "$0")/.."
STAGE=${1:-checks}
shift || true
OUT=${OUT:-bench/results/unsorted}
mkdir -p "$OUT"
OUT=$(realpath "$OUT")
MOST=${SECONDS_MOST:-185}
WHEEL=${WHEEL:-$(ls -t .carry/fusec-*.whl target/wheel/dist/fusec-*.whl 2>/dev/null | head -n 1)}
[ -n "$WHEEL" ] || { echo "no wheel: cargo xtask wheel builds one; put it into .carry/"; exit 2; }
# Kept from one stage to the next, while the machine is: the package, and what it has compiled.
SITE=${PYTHON_SITE:-/tmp/fusec-python-site}
SUM=$(sha256sum "$WHEEL" | cut -c1-16)
if [ ! -e "$SITE/.$SUM" ]; then
    rm -rf "$SITE"
    mkdir -p "$SITE"
    # Unpacked rather than installed: nothing is asked of pip, which may not be here.
    python3 -m zipfile -e "$WHEEL" "$SITE" && touch "$SITE/.$SUM" || exit 2
    # What the tests need beside it (pytest and what that needs, numpy), where it is not here.
    for wheel in .carry/*.whl; do
        name=${wheel##*/}
        name=${name%%-*}
        case $name in fusec | "*.whl") continue ;; esac
        python3 -c "import $name" 2>/dev/null || python3 -m zipfile -e "$wheel" "$SITE"
    done
fi
export PYTHONPATH=$SITE PYTHONUNBUFFERED=1 FUSEC_CACHE_DIR=${FUSEC_CACHE_DIR:-/tmp/fusec-python-cache}

case $STAGE in
    checks)
        only=()
        [ $# -eq 0 ] || only=(--only "$@")
        python3 bench/python_gpu.py --out "$OUT/python.json" --seconds $((MOST - SECONDS - 5)) "${only[@]}" 2>&1 | tee "$OUT/python-checks.txt"
        ;;
    tests)
        cd crates/python
        timeout $((MOST - SECONDS)) python3 -m pytest -q -p no:cacheprovider --durations=10 --junit-xml="$OUT/python.xml" "$@" 2>&1 | tee "$OUT/python.txt"
        ;;
    doors)
        bench/standalone.sh
        status=$?
        python3 bench/python_gpu.py --out "$OUT/python.json" --seconds $((145 - SECONDS)) --only here captured \
            captured_without_a_call_before overhead forward state nothing_is_copied_or_waited_for on_the_callers_stream \
            one_model_on_two_streams two_threads_two_streams_two_models dropped_while_it_runs ten_thousand_lengths \
            mistakes_are_named tensors_of_another_library compiled 2>&1 | tee "$OUT/python-checks.txt"
        exit $((PIPESTATUS[0] || status))
        ;;
    *)
        echo "no stage is called $STAGE"
        exit 2
        ;;
esac
