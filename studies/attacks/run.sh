#!/bin/sh
# How easily three networks are attacked, with and without the layer: studies/attacks/run.sh DTD10, the folder of that set. ResNet-18
# and the small ResNet-8 on dtd10, and the demo's. Killed, it resumes.
set -eu
DTD10=$1
HERE=$(dirname "$0")
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

# ResNet-18.
jpegdl compare --config dtd10 --training.precision 32-true --data.path "$DTD10" --seeds 3 --jobs 1
jpegdl attack --name dtd10 --images 100 --eps 0.5,1,2 --attacks fgsm,pgd,apgd-ce --gradients own,ste \
  --corruptions '[]'
jpegdl explain --name dtd10 --images 100

# The small ResNet-8 of studies/gain.
"$HERE/../gain/run.sh" dtd10 "$DTD10" --arms plain,jpeg-dl,local-contrast --seeds 3
jpegdl attack --name gain-dtd10 --arms plain,jpeg-dl,local-contrast --seeds 3 --images 60 --eps 1 --eps-l2 0.25 \
  --severities 1,3,5
python "$HERE/attacks.py" runs/gain-dtd10

# The demo's, first few attacks and then all of the default.
jpegdl compare --config demo --jobs 1
jpegdl attack --name demo --images 108 --eps 1,2,4 --attacks fgsm,pgd,apgd-ce --gradients own,ste \
  --corruptions '[]'
jpegdl attack --name demo --images 54 --eps 1 --eps-l2 0.25 --severities 1,3,5
python "$HERE/attacks.py" runs/demo
