#!/bin/sh
# What layers cost in time, in front of the networks of studies/variants/run.sh: studies/cost/run.sh, on an idle machine.
set -eu
HERE=$(dirname "$0")
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
python "$HERE/cost.py" runs/gain-dtd10 jpeg-dl local-contrast faint-dc faint-contrast --rounds 40
python "$HERE/cost.py" runs/gain-dtd10 jpeg-dl local-contrast faint-dc faint-contrast --rounds 15 --size 224 --batch 8
