#!/usr/bin/env bash
# Before a machine with a GPU is asked for: builds the program and compiles what is timed there,
# into .carry/, which holds everything bench/gpu.sh needs beside the working tree.
#
#   bench/prepare.sh [PATTERN]     only plans whose names match, such as 'op-|golden-.*-f32'
#
# FUSEC: a program built already. JOBS: kernels' compilations side by side (2).
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/compile.sh

mkdir -p .carry
if [ -z "${FUSEC:-}" ]; then
    # A commit is recorded only where the program is that commit's.
    FUSEC_COMMIT=
    if [ -z "$(git status --porcelain --untracked-files=no)" ]; then
        FUSEC_COMMIT=$(git rev-parse HEAD)
    fi
    export FUSEC_COMMIT
    cargo build --release --bin fusec
    FUSEC=target/release/fusec
fi
cp "$FUSEC" .carry/fusec
strip .carry/fusec
compile_plans "$FUSEC" .carry/plans "${JOBS:-2}" "${1:-^(golden|op|model)-}"
# Manifests of deep models are long and repetitive: packed, all travel in a few megabytes.
tar -C .carry -czf .carry/plans.tar.gz plans
du -sh .carry/fusec .carry/plans.tar.gz
echo "$(find .carry/plans -name manifest.json | wc -l) plans of $(list_plans | wc -l)"
