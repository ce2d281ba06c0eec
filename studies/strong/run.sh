#!/bin/sh
# A strong plain network on few images: CIFAR-10 with 50 a class, a wide ResNet, plain and layer tuned alike, then both beside two
# layers that train nothing: studies/strong/run.sh CIFAR10, a folder with train.tar and test.tar. Killed, it resumes.
#
# BACKBONE, EPOCHS (up to twice as many are tried), TRIALS, SEEDS: as far as hours go. Published, not of the same images
# (ciFAIR-10, lossless): 66.5 % by a tuned Wide ResNet-16-8 (Brigato et al., "Tune It or Don't Use It", 2021).
set -eu
CIFAR10=$1
shift
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
BACKBONE=${BACKBONE:-cifar_wrn_16_2} EPOCHS=${EPOCHS:-60}
NAME=strong-$BACKBONE-$EPOCHS
jpegdl tune "$NAME" --config cifar10 --data.name jpegdl_studies.cuts:images_50 --data.path "$CIFAR10" --backbone "$BACKBONE" \
  --training.epochs "$EPOCHS" --training.optimizer.schedule onecycle --training.optimizer.milestones '[]' \
  --data.batch-size 20 --data.holdout 0.2 --data.workers 0 --trials "${TRIALS:-12}" --jobs 1 "$@"
jpegdl compare --config "runs/$NAME/tuned.yaml" --arms plain,jpeg-dl,faint-dc,local-contrast --training.test-every 1000 \
  --seeds "${SEEDS:-3}" --jobs 1 "$@"
