#!/bin/sh
# One pair of tables for two networks (dtd10, 64 pixels: ResNet-18 and ResNet-8, each as plain training left it), against a pair for
# each, and against the other one's: studies/rate/universal.sh FOLDER, after studies/rate/along.sh dtd10 FOLDER. Killed, it resumes.
set -eu
FOLDER=$1
shift
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
COMMON="--config dtd10 --training.precision 32-true --config rate --data.path $FOLDER --seeds 1 --jobs 1"
TABLES="--training.train layer --training.epochs 8 --training.test-every 8 --training.layer-optimizer.lr 0.05"
LARGE=runs/universal-plain/plain/0 SMALL=runs/rate-dtd10/plain/0

arms() { # NAME RUNS...: an arm for each weight, with the tables of those runs and nothing trained
  for weight in 0.01 0.03 0.1; do printf '%s-%s: {layer: {tables: %s/rate-%s/0/tables.json, train: false}}, ' "$1" "$weight" "$2" "$weight"; done
}

jpegdl compare $COMMON --name universal-plain --arms plain "$@"
own=plain,rate-0.01,rate-0.03,rate-0.1
jpegdl compare $COMMON $TABLES --name universal-large --weights $LARGE/model.safetensors --arms "$own" "$@"
jpegdl compare $COMMON $TABLES --name universal-small --backbone cifar_resnet8 --weights $SMALL/model.safetensors --arms "$own" "$@"
jpegdl compare $COMMON $TABLES --name universal-both --weights $LARGE/model.safetensors --training.networks "$SMALL" \
  --arms "$own" "$@"
jpegdl compare $COMMON $TABLES --name universal-large --weights $LARGE/model.safetensors \
  --arms "[plain, rate-0.01, rate-0.03, rate-0.1, $(arms others runs/universal-small)$(arms both runs/universal-both)]" "$@"
jpegdl compare $COMMON $TABLES --name universal-small --backbone cifar_resnet8 --weights $SMALL/model.safetensors \
  --arms "[plain, rate-0.01, rate-0.03, rate-0.1, $(arms others runs/universal-large)$(arms both runs/universal-both)]" "$@"
jpegdl rate --name universal-large
jpegdl rate --name universal-small
