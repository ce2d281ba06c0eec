#!/bin/sh
# All images, or --limit N of them, with one thread and out of others' way: sh studies/files/run.sh DATA WEIGHTS OUT [--limit N]
set -e
data=$1 weights=$2 out=$3
shift 3
here=$(dirname "$0")
export OMP_NUM_THREADS=1
mkdir -p "$out"
run() {
  nice -n 19 python "$here/$@"
}
run measure.py "$out/lite0.jsonl" --images "$data" --weights "$weights" "$@"
run encoders.py "$out/encoders.jsonl" --images "$data" --weights "$weights" "$@"
run measure.py "$out/lite1.jsonl" --images "$data" --weights "$weights" --swap --mus 1.0 0.25 "$@"
run summarize.py "$out/lite0.jsonl" "$out/encoders.jsonl" --csv "$out/lite0.csv" --rates "$out/rates.csv"
run summarize.py "$out/lite1.jsonl" --csv "$out/lite1.csv"
run draw.py curves "$out/curves.png" "$out/lite0.csv"
run draw.py photos "$out/photos.png" --images "$data" --weights "$weights"
run table_methods.py "$out/tables.jsonl" --images "$data" --weights "$weights" --csv "$out/tables.csv" "$@"
