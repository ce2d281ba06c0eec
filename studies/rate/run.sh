#!/bin/sh
# Tables for a network that stays as it is, learned on one half of the images and tested on the other, both ways round:
# studies/rate/run.sh WEIGHTS IMAGES. WEIGHTS: of tf_efficientnet_lite0 by timm's names. IMAGES: a tar with a folder for each WordNet
# id. Accuracy against true bits per pixel of real files, beside default JPEG at 4:4:4 and 4:2:0. Killed, it resumes.
set -eu
HERE=$(dirname "$0")
WEIGHTS=$1 IMAGES=$2
shift 2
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
for half in first second; do
  jpegdl compare --config finetune --training.precision 32-true \
    --config rate --config "$HERE/arms.yaml" --name "rate-$half" --backbone tf_efficientnet_lite0 \
    --weights "$WEIGHTS" --data.name "jpegdl_studies.cuts:$half" --data.path "$IMAGES" --data.crop random --data.batch-size 16 \
    --training.train layer --training.epochs 3 --training.test-every 3 --training.layer-optimizer.lr 0.05 --seeds 1 --jobs 1 "$@"
  jpegdl rate --name "rate-$half" --qualities 5,6,7,8,9,10,15,20,25,30,35,40,45,50,55,60,65,70,75,80,85,90,95
done
