#!/bin/sh
# CIFAR-10, where first steps are larger and the layer quantizes: accuracy, and FGSM and PGD as published beside stronger attacks.
# studies/cifar/run.sh CIFAR10, a folder with train.tar and test.tar. The thin ResNet-20 by the recipe cifar10. Killed, it resumes.
#
# LIMIT: training images, as many of each class, and as many test images; EPOCHS; ARMS; SEEDS; IMAGES: attacked ones; ATTACKS.
# LIMIT=50000 EPOCHS=240 is the published protocol, and takes days of a core. Further options go to the training.
set -eu
CIFAR10=$1
shift
HERE=$(dirname "$0")
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
LIMIT=${LIMIT:-5000} EPOCHS=${EPOCHS:-10} ARMS=${ARMS:-plain,jpeg-dl,q-10,q-20,standard-85}
NAME=cifar-$LIMIT-$EPOCHS
jpegdl compare --config cifar10 --config "$HERE/arms.yaml" --name "$NAME" --data.name folder --data.path "$CIFAR10" \
  --data.limit "$LIMIT" --training.epochs "$EPOCHS" --data.workers 0 --arms "$ARMS" --seeds "${SEEDS:-3}" --jobs 1 "$@"
jpegdl attack --name "$NAME" --arms "$ARMS" --images "${IMAGES:-100}" --eps 1,2 --gradients own,ste \
  --attacks "${ATTACKS:-fgsm,pgd,apgd-ce,square}" --queries 500 --corruptions '[]' --jpeg '[]'
python "$HERE/../attacks/attacks.py" "runs/$NAME"
python "$HERE/quantizes.py" "runs/$NAME"
