#!/usr/bin/env bash
# Products of single steps as kernels of a CUDA graph and as phases of one kernel, side by side: persistent/steps.cu. Needs nvcc; half a minute.
#
#   bench/persistent.sh        writes $OUT/persistent.txt
set -euo pipefail
cd "$(dirname "$0")/persistent"
OUT=${OUT:-../results/unsorted}
mkdir -p "$OUT"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
nvcc -O3 -std=c++17 -arch=sm_90a -o "$WORK/steps" steps.cu
timeout 120 "$WORK/steps" | tee "$OUT/persistent.txt"
