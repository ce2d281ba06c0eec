#!/bin/sh
# Is training in bf16-mixed level with float32? studies/bf16/run.sh DTD10 FLOWERS89, the folders of the two sets; cifar_resnet8
# at 64 pixels by the recipe dtd10, 10 epochs, three seeds, paired. Killed, it resumes;
# studies/bf16/rule.py RUNS/bf16-dtd10 RUNS/bf16-flowers89 makes one table of both, and says what the rule says.
#
# The rule, written down when dtd10 was known and flowers89 was not: recipes may take bf16 where the machine has it if the
# difference from float32, averaged for each seed over both arms and both sets, has a 95 % interval that does not reach down to
# -2 points, and none of the four differences is significantly less than 0 after Holm's correction. If not, they stay float32.
set -eu
DTD10=$1 FLOWERS89=$2
shift 2
HERE=$(dirname "$0")
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
for set in "dtd10 $DTD10" "flowers89 $FLOWERS89"; do
  jpegdl compare --config dtd10 --training.precision 32-true \
    --config "$HERE/arms.yaml" --name "bf16-${set%% *}" --backbone cifar_resnet8 \
    --data.path "${set#* }" --training.epochs 10 --data.workers 0 --seeds 3 --jobs 1 "$@"
done
