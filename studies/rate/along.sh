#!/bin/sh
# Network and tables trained together for accuracy and rate, by the recipe dtd10 with the small ResNet-8: studies/rate/along.sh NAME
# FOLDER, with NAME dtd10 or flowers89 and FOLDER where that set is. Accuracy against true bits per pixel of real files, beside
# default JPEG read by the plain network and by one trained on JPEG files. Killed, it resumes.
set -eu
NAME=$1 FOLDER=$2
shift 2
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
jpegdl compare --config dtd10 --training.precision 32-true \
  --config rate --name "rate-$NAME" --data.path "$FOLDER" --backbone cifar_resnet8 --seeds 3 --jobs 1 \
  --arms plain,jpeg-augmentation,rate-0.003,rate-0.01,rate-0.03 "$@"
jpegdl rate --name "rate-$NAME" --qualities 5,10,20,30,40,50,60,70,80,90
