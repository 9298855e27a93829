#!/usr/bin/env bash
# fusec beside its peers on one GPU, in the same run: each stage by itself, in under 280 s. Runs in the repository's
# root where a GPU and an NVRTC are; writes peers-STAGE.json and peers-STAGE.txt to $OUT.
#
#   bench/peers.sh STAGE [ARGUMENT..]
#
#   ops scans delta mixed attention    operators (bench/peers/run.py, which takes the arguments)
#   products                     single products beside cuBLAS
#   backward                     recurrences forward and backward
#   models training              whole models of fla
#   drop-in                      fusec.ops of the Python package beside the operators whose arguments they have, in f32
#
# .carry/fusec.gz: the program, or FUSEC. .carry/fusec-*.whl: the Python package, for drop-in.
# .whl*/: what bench/peers/fetch.sh brought, wheels, archives and extensions; peers without theirs are told missing.
set -uo pipefail
cd "$(dirname "$0")/.."
STAGE=${1:?a stage}
shift
OUT=${OUT:-bench/results/unsorted}
mkdir -p "$OUT"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false FUSEC_CACHE_DIR=$WORK/cache

if [ -z "${FUSEC:-}" ] && [ "$STAGE" != drop-in ]; then
    FUSEC=$WORK/fusec
    if [ -f .carry/fusec.gz ]; then gzip -dc .carry/fusec.gz >"$FUSEC"; else cp .carry/fusec "$FUSEC"; fi
    chmod +x "$FUSEC"
fi

# Kept from one call to the next, while the machine is. Unpacked, not installed: two wheels share the package fla, and
# pip replaces the one's with the other's.
SITE=${PEERS_SITE:-/tmp/peers-site}
mkdir -p "$SITE"
for wheel in .whl*/*.whl .carry/fusec-*.whl; do
    [ -e "$wheel" ] && [ ! -e "$SITE/.${wheel##*/}" ] || continue
    python3 -m zipfile -e "$wheel" "$SITE" && touch "$SITE/.${wheel##*/}"
done
for archive in .whl*/*.tar.gz .whl*/*.tar.xz; do
    [ ! -e "$archive" ] || tar -C "$SITE" -xf "$archive"
done
for extension in .whl*/*.so; do
    [ ! -e "$extension" ] || cp "$extension" "$SITE/"
done
export PYTHONPATH=$SITE${PYTHONPATH:+:$PYTHONPATH}
echo "== [${SECONDS} s] peers: $(ls "$SITE" | grep -v -e dist-info -e '^bin$' | tr '\n' ' ')"

case $STAGE in
    ops | scans | delta | mixed | attention | backward | products | models | training)
        python3 bench/peers/run.py "$STAGE" --fusec "$FUSEC" --out "$OUT/peers-$STAGE.json" --seconds $((268 - SECONDS)) "$@"
        ;;
    drop-in) python3 bench/peers/drop_in.py --out "$OUT/peers-drop-in.json" --seconds $((250 - SECONDS)) "$@" ;;
    *)
        echo "no stage is called $STAGE"
        exit 2
        ;;
esac 2>&1 | tee "$OUT/peers-$STAGE.txt"
echo "== [${SECONDS} s] done"
