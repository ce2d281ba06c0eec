#!/bin/sh
# The variant that choose.sh found best, on the test images of both sets beside what it starts from: studies/variants/run.sh DTD10
# FLOWERS89, the folders of the sets. Its runs are kept with those of studies/gain, the same five seeds. Killed, it resumes.
set -eu
DTD10=$1 FLOWERS89=$2
shift 2
HERE=$(dirname "$0")
for name in dtd10 flowers89; do
  [ $name = dtd10 ] && folder=$DTD10 || folder=$FLOWERS89
  "$HERE/../gain/run.sh" "$name" "$folder" --config "$HERE/arms.yaml" \
    --arms plain,jpeg-dl,local-contrast,faint-dc,faint-contrast "$@"
done
