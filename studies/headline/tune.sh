#!/bin/sh
# How is the plain network trained best? By training images alone: trained on four fifths of each class, tested on the last fifth:
# studies/headline/tune.sh TRAIN SIZE, with TRAIN the tar of flowers89's training images. Killed, it resumes.
set -eu
TRAIN=$1 SIZE=$2
shift 2
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" PYTHONPATH="$(dirname "$0")/..${PYTHONPATH:+:$PYTHONPATH}"
jpegdl compare --config finegrained --config "$(dirname "$0")/tune.yaml" --name "tune-$SIZE" --data.name cuts:fold_0 --data.path "$TRAIN" \
  --data.size "$SIZE" --data.resize "$((SIZE * 8 / 7))" --data.workers 0 --seeds 1 --jobs 1 "$@"
