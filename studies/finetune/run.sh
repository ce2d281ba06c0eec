#!/bin/sh
# Does the layer help a network that is pretrained? studies/finetune/run.sh WEIGHTS NAME DATA [--KEY VALUE ...]
# WEIGHTS: weights of tf_efficientnet_lite0 by timm's names. NAME: of the comparison. DATA: a folder with train and test images.
# EfficientNet-Lite0 fine-tuned with and without the layer by the recipe finetune at 128 pixels, 12 epochs, three seeds, with one
# thread. Killed, it resumes. The learning rates were chosen by the plain arm alone, on DTD's first ten classes, seed 0: after 6
# epochs 1e-4 with 1e-3 for the head gave less.
set -eu
WEIGHTS=$1 NAME=$2 DATA=$3
shift 3
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec jpegdl compare --config finetune --training.precision 32-true \
  --name "$NAME" --backbone tf_efficientnet_lite0 --weights "$WEIGHTS" --data.path "$DATA" \
  --data.size 128 --data.resize 146 --training.epochs 12 --training.test-every 4 --training.optimizer.lr 3e-4 \
  --training.head-lr 1e-2 --jobs 1 "$@"
