#!/usr/bin/env bash
# The tests of the Python package on a machine with a GPU and torch: they run on the interpreter, on the emulator, and
# on the GPU. Runs in the repository's root; writes python.txt and python.xml to $OUT. No network is needed.
#
#   bench/python_gpu.sh [PYTEST'S ARGUMENTS..]
#
# WHEEL: the wheel that `cargo xtask wheel` built, by default the newest in .carry/ or target/wheel/dist/.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-bench/results/unsorted}
mkdir -p "$OUT"
OUT=$(realpath "$OUT")
WHEEL=${WHEEL:-$(ls -t .carry/fusec-*.whl target/wheel/dist/fusec-*.whl 2>/dev/null | head -n 1)}
[ -n "$WHEEL" ] || { echo "no wheel: cargo xtask wheel builds one; put it into .carry/"; exit 2; }
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
python3 -m pip install -q --no-index --no-deps --no-compile --target "$WORK/site" "$WHEEL" || exit 2
export PYTHONPATH=$WORK/site FUSEC_CACHE_DIR=$WORK/cache PYTHONUNBUFFERED=1

python3 - <<'PY'
import fusec, torch
print(fusec.__file__)
print("toolchain", fusec.toolchain(offline=True))
print("torch", torch.__version__, torch.cuda.get_device_name(0) if torch.cuda.is_available() else "without a GPU")
PY
cd crates/python
timeout "${MOST_SECONDS:-500}" python3 -m pytest -q -p no:cacheprovider --durations=10 --junit-xml="$OUT/python.xml" "$@" 2>&1 | tee "$OUT/python.txt"
