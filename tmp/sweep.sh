#!/usr/bin/env bash
# sweep of gemv knobs, decode B=1
cd "$(dirname "$0")/.."
gunzip -kf .carry/fusec.gz; chmod +x .carry/fusec
FUSEC=$PWD/.carry/fusec
export FUSEC_CACHE_DIR=$(mktemp -d)
WORK=$(mktemp -d)
MODELS=${MODELS:-"rwkv7:1.5b rwkv6:1.6b mamba2:1.3b mamba1:1.4b gla:1.3b"}
i=0
while read -r line; do
  [ -z "$line" ] && continue
  for e in $MODELS; do echo "$i $e $line"; done
  i=$((i+1))
done < tmp/variants.txt > $WORK/jobs
one() { # compile only
  set -- $1; n=$1; e=$2; shift 2
  env $(for k in "$@"; do [ "$k" = base ] || echo K_$k; done) timeout 100 $FUSEC compile models/${e%%:*}.toml --preset ${e##*:} --axis L=8 --dtype bf16 --shape B=1,T=1 --out $WORK/c-$n-${e%%:*} >/dev/null 2>$WORK/c-$n-${e%%:*}.err || echo "FAIL compile $n $e $(tail -n 3 $WORK/c-$n-${e%%:*}.err)"
}
export -f one; export FUSEC WORK
tr '\n' '\0' < $WORK/jobs | xargs -0 -P 15 -I{} bash -c 'one "{}"'
echo "== [$SECONDS s] compiled"
while read -r n e rest; do
  [ $SECONDS -gt ${LIMIT:-520} ] && { echo "out of time at $n $e"; break; }
  f=$WORK/r-$n-${e%%:*}
  env $(for k in $rest; do [ "$k" = base ] || echo K_$k; done) timeout 60 $FUSEC bench models/${e%%:*}.toml --preset ${e##*:} --axis L=8 --dtype bf16 --shape B=1 --mode decode --device cuda:0 --runs 200 --warmup 20 --most-seconds 0.5 --per-kernel --out $f.json >$f.txt 2>&1 || { echo "FAIL $n $e"; tail -n 2 $f.txt; continue; }
  python3 - $f.json "$e" "$rest" <<'P'
import json,sys
d=json.load(open(sys.argv[1]))
m=d['subjects'][0]['measurements'][0]
ks={k['kernel']:k for k in m['kernels']}
print(f"{sys.argv[2]:12s} {m['milliseconds']['median']*1000:8.1f} us least {m['milliseconds']['least']*1000:8.1f}  n{m['launches']} | {sys.argv[3]} | "+" ".join(f"{k['kernel'][:14]}:{k['milliseconds']*1000:.2f}" for k in sorted(m['kernels'],key=lambda k:-k['milliseconds']*k['launches'])[:7]),flush=True)
P
done < $WORK/jobs
echo "== [$SECONDS s] done"
