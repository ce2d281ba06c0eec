#!/bin/sh
# All images, or --limit N of them, with one thread and out of others' way: sh studies/files/run.sh DATA WEIGHTS OUT [--limit N]
set -e
data=$1 weights=$2 out=$3
shift 3
here=$(dirname "$0")
export OMP_NUM_THREADS=1
mkdir -p "$out"
nice -n 19 python "$here/measure.py" "$out/lite0.jsonl" --images "$data" --weights "$weights" "$@"
nice -n 19 python "$here/measure.py" "$out/lite1.jsonl" --images "$data" --weights "$weights" --swap "$@"
for name in lite0 lite1; do
  nice -n 19 python "$here/summarize.py" "$out/$name.jsonl" --csv "$out/$name.csv"
done
