#!/bin/sh
# What of the layer carries its gain, with a small ResNet-8 at 64 pixels by the recipe dtd10: studies/gain/run.sh NAME FOLDER, with
# NAME dtd10 or flowers89 and FOLDER where that set is; five seeds, paired. Killed, it resumes.
set -eu
NAME=$1 FOLDER=$2
shift 2
HERE=$(dirname "$0")
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
jpegdl compare --config dtd10 --training.precision 32-true \
  --config "$HERE/arms.yaml" --name "gain-$NAME" --data.path "$FOLDER" \
  --backbone jpegdl_studies.networks:resnet8 --seeds 5 --jobs 1 "$@"
