#!/bin/sh
# A pretrained network behind hard JPEG layers, nothing trained: studies/pretrained/run.sh WEIGHTS IMAGES
# WEIGHTS: weights of tf_efficientnet_lite0 by timm's names. IMAGES: a folder or a tar with one folder for each WordNet id.
# Prints the table of FINDINGS.md. The standard tables, 4:4:4, without a level cap, and without rounding pixels.
set -eu
WEIGHTS=$1 IMAGES=$2
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

row() {
  title=$1
  shift
  jpegdl evaluate --name pretrained-study --backbone tf_efficientnet_lite0 --weights "$WEIGHTS" --data.path "$IMAGES" "$@" |
    sed -n "s/^test accuracy \(.*\) % of .* images, loss \(.*\)/| $title | \1 | \2 |/p"
}

printf '| layer | accuracy, %% | loss |\n|---|---|---|\n'
row none --arm plain
for quality in 10 20 30 40 50 60 70 80 90 95; do
  row "quality $quality" --arm jpeg-dl --layer.tables "standard:$quality" --layer.rounding hard --layer.bits null
done
row "quality 95, 8-bit levels" --arm jpeg-dl --layer.tables standard:95 --layer.rounding hard --layer.bits 8
