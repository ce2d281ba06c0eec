#!/bin/sh
# The headline of the paper on its own kind of data and by its own protocol (resized crops, SGD 0.1 in steps, batches of 32):
# studies/headline/run.sh FOLDER SIZE BACKBONE, with FOLDER where flowers89 is, SIZE in pixels and BACKBONE resnet18 or
# jpegdl_studies.networks:resnet8, the small one. Three seeds, paired. Killed, it resumes.
set -eu
FOLDER=$1 SIZE=$2 BACKBONE=$3
shift 3
HERE=$(dirname "$0")
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
jpegdl compare --config finegrained --config "$HERE/arms.yaml" --name "headline-${BACKBONE#*:}-$SIZE" --backbone "$BACKBONE" \
  --data.name folder --data.path "$FOLDER" --data.size "$SIZE" --data.resize "$((SIZE * 8 / 7))" --data.workers 0 --seeds 3 \
  --jobs 1 "$@"
