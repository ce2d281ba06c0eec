#!/bin/sh
# ResNet-18 from scratch by the recipe dtd10: studies/resnet18/run.sh DTD10 FLOWERS89, the folders of the sets. Six seeds of the one,
# three of the other. Killed, it resumes.
set -eu
DTD10=$1 FLOWERS89=$2
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
jpegdl compare --config dtd10 --training.precision 32-true --data.path "$DTD10" --seeds 6
jpegdl compare --config dtd10 --training.precision 32-true --name flowers89 --data.path "$FLOWERS89" --seeds 3
