#!/bin/sh
# How is the plain network trained best? By training images alone: trained on four fifths of each class, tested on the last fifth:
# studies/headline/tune.sh TRAIN SIZE BACKBONE, with TRAIN the tar of flowers89's training images. Killed, it resumes.
set -eu
TRAIN=$1 SIZE=$2 BACKBONE=$3
shift 3
HERE=$(dirname "$0")
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
for fold in 0 1; do
  jpegdl compare --config finegrained --config "$HERE/tune.yaml" --name "tune-${BACKBONE#*:}-$SIZE-$fold" --backbone "$BACKBONE" \
    --data.name "jpegdl_studies.cuts:fold_$fold" --data.path "$TRAIN" --data.size "$SIZE" --data.resize "$((SIZE * 8 / 7))" \
    --data.workers 0 --seeds "$fold," --jobs 1 "$@"
done
