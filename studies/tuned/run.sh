#!/bin/sh
# Plain and the layer tuned alike by `jpegdl tune`, on training images alone, then both trained with what was found:
# studies/tuned/run.sh NAME [FOLDER]. NAME demo; or dtd10 or flowers89, with FOLDER where that set is, the small ResNet-8 at 64
# pixels by the recipe dtd10, EPOCHS epochs and up to twice as many. Twelve trials each, three seeds. Killed, it resumes.
set -eu
NAME=$1
shift
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
if [ "$NAME" = demo ]; then
  jpegdl tune tune-demo --config demo --trials 12 --jobs 1 "$@"
else
  FOLDER=$1
  shift
  jpegdl tune "tune-$NAME" --config dtd10 --training.precision 32-true --data.path "$FOLDER" \
    --backbone jpegdl_studies.networks:resnet8 --training.epochs "${EPOCHS:-20}" --data.workers 0 --trials 12 --jobs 1 "$@"
fi
jpegdl compare --config "runs/tune-$NAME/tuned.yaml" --seeds 3 --jobs 1
