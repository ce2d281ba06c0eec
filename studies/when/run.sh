#!/bin/sh
# When does the layer help? One thing changed at a time, from the small ResNet-8 of studies/gain at 64 pixels by the recipe dtd10:
# studies/when/run.sh DTD10 FLOWERS89 CIFAR10, the folders of the three sets. Five seeds, paired. Killed, it resumes;
# python -m jpegdl_studies.gains makes one table of its comparisons.
set -eu
DTD10=$1 FLOWERS89=$2 CIFAR10=$3
shift 3
HERE=$(dirname "$0")
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
MORE=$*
compare() { # NAME, then settings
  name=$1
  shift
  # shellcheck disable=SC2086 # settings given to this script, word by word
  jpegdl compare --config dtd10 --training.precision 32-true \
    --config "$HERE/arms.yaml" --backbone jpegdl_studies.networks:resnet8 --seeds 5 --jobs 1 \
    --name "when-$name" "$@" $MORE
}

# Epochs; the recipe's 40 are studies/gain.
compare dtd10-epochs-160 --data.path "$DTD10" --training.epochs 160 --training.test-every 40
compare flowers89-epochs-160 --data.path "$FLOWERS89" --training.epochs 160 --training.test-every 40
compare dtd10-epochs-10 --data.path "$DTD10" --training.epochs 10
# Augmentation.
compare dtd10-color-jitter --data.path "$DTD10" --data.color-jitter 0.4
compare flowers89-color-jitter --data.path "$FLOWERS89" --data.color-jitter 0.4
compare dtd10-randaugment --data.path "$DTD10" --data.auto-augment rand-m9-mstd0.5-inc1
# Images a class, in as many steps of training. Of dtd10, all 80 are studies/gain; of CIFAR-10, at its own 32 pixels.
compare dtd10-images-20 --data.name jpegdl_studies.cuts:images_20 --data.path "$DTD10" --training.epochs 160 --training.test-every 40
compare dtd10-images-10 --data.name jpegdl_studies.cuts:images_10 --data.path "$DTD10" --training.epochs 320 --training.test-every 80
compare dtd10-images-5 --data.name jpegdl_studies.cuts:images_5 --data.path "$DTD10" --training.epochs 640 --training.test-every 160
set -- --data.size 32 --data.resize 40
compare cifar10-images-10 --data.name jpegdl_studies.cuts:images_10 --data.path "$CIFAR10" "$@" --training.epochs 320 --training.test-every 160
compare cifar10-images-50 --data.name jpegdl_studies.cuts:images_50 --data.path "$CIFAR10" "$@" --training.epochs 64 --training.test-every 32
compare cifar10-images-200 --data.name jpegdl_studies.cuts:images_200 --data.path "$CIFAR10" "$@" --training.epochs 32 --training.test-every 16
# Resolution.
compare dtd10-pixels-32 --data.path "$DTD10" --data.size 32 --data.resize 40
compare dtd10-pixels-128 --data.path "$DTD10" --data.size 128 --data.resize 160
# Networks.
compare dtd10-resnet8-stride1 --data.path "$DTD10" --backbone cifar_resnet8
compare dtd10-resnet18 --data.path "$DTD10" --backbone resnet18
compare dtd10-densenet121 --data.path "$DTD10" --backbone densenet121
