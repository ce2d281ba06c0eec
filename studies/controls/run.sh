#!/bin/sh
# One short run of every arm of `compare` on two small sets: studies/controls/run.sh DTD10 CIFAR10
# Each argument is a folder with train.tar and test.tar (or train/ and test/), one folder per class. Start it twice, or on several
# machines that share the folder, and they share the work. Results: runs/controls-*/summary.md and FINDINGS.md.
set -eu
ARMS=$(python -c 'from jpegdl.comparison import ARMS; print(",".join(ARMS))')
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

jpegdl compare --config dtd10 --training.precision 32-true \
  --data.path "$1" --name controls-dtd10 --arms "$ARMS" --seeds 1 --backbone cifar_resnet8 \
  --training.epochs 12 --training.test-every 12 --layer.images 400

jpegdl compare --config cifar10 --data.name folder --data.path "$2" --name controls-cifar10 --arms "$ARMS" --seeds 1 \
  --backbone cifar_resnet8 --data.limit 5000 --training.epochs 10 --training.test-every 10 \
  --training.optimizer.schedule onecycle --training.optimizer.lr 0.1 --layer.images 1000
