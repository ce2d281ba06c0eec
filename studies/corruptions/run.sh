#!/bin/sh
# What 15 common corruptions leave of five networks: studies/corruptions/run.sh NAME FOLDER, with NAME dtd10 or flowers89 and FOLDER
# where that set is. The small ResNet-8 at 64 pixels by the recipe dtd10, alone, behind the published layer, behind two layers that
# train nothing, and behind fixed Gabor cells; then 15 corruptions x 5 severities of 100 or 178 test images. Killed, it resumes.
# Further options go to the training: --seeds 5 adds seeds, and what is there is not done again.
#
# Planned before anything was trained: of each set, the mean over corruptions and severities, paired over seeds, each of the four
# against plain, p corrected by Holm over these four. All else is to look at. EPOCHS: 40, the recipe's.
set -eu
NAME=$1 FOLDER=$2
shift 2
HERE=$(dirname "$0")
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
IMAGES=100 EPOCHS=${EPOCHS:-40}
[ "$NAME" = dtd10 ] || IMAGES=178
for front in resnet8 v1_resnet8; do
  comparison=corruptions-$NAME-$EPOCHS arms=plain,jpeg-dl,local-contrast,faint-dc
  [ $front = resnet8 ] || { comparison=$comparison-v1 arms=plain; }
  jpegdl compare --config dtd10 --training.precision 32-true \
    --name "$comparison" --data.path "$FOLDER" --backbone "jpegdl_studies.networks:$front" \
    --arms "$arms" --training.epochs "$EPOCHS" --data.workers 0 --seeds 3 --jobs 1 "$@"
  jpegdl attack --name "$comparison" --arms "$arms" --eps '[]' --attacks '[]' --jpeg '[]' --images $IMAGES
done
python "$HERE/corruptions.py" "runs/corruptions-$NAME-$EPOCHS" "runs/corruptions-$NAME-$EPOCHS-v1=v1"
