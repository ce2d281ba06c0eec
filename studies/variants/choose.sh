#!/bin/sh
# Which variant is best, by the training images of dtd10 alone: studies/variants/choose.sh TRAIN, with TRAIN their tar. Five times
# trained on four fifths of each class and tested on the last, a seed for each. Killed, it resumes; then
# python -m jpegdl_studies.gains --together runs/variants-fold-* prints the table.
set -eu
TRAIN=$1
shift
HERE=$(dirname "$0")
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
for fold in 0 1 2 3 4; do
  jpegdl compare --config dtd10 --training.precision 32-true --config "$HERE/arms.yaml" --name "variants-fold-$fold" \
    --data.name "jpegdl_studies.cuts:fold_$fold" --data.path "$TRAIN" --backbone jpegdl_studies.networks:resnet8 \
    --seeds "$fold," --jobs 1 "$@"
done
