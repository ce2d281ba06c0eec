#!/bin/sh
# What the networks of studies/variants/run.sh make of default JPEG files of their test images: studies/stored/run.sh. Nothing is
# trained; two tables and two pictures.
set -eu
HERE=$(dirname "$0")
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
ARMS="jpeg-dl local-contrast faint-dc faint-contrast"
# shellcheck disable=SC2086 # arms, word by word
python "$HERE/stored.py" runs/gain-dtd10 $ARMS --subsampling 4:2:0 4:4:4 --figure "$HERE/../../docs/pictures/stored-dtd10.png"
# shellcheck disable=SC2086
python "$HERE/stored.py" runs/gain-flowers89 $ARMS --subsampling 4:2:0 4:4:4 --figure "$HERE/stored-flowers89.png"
