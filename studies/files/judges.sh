#!/bin/sh
# Files for one small network, read by those of other families: studies/files/judges.sh NAME FOLDER OUT PART, with FOLDER where
# train.tar and test.tar of NAME (dtd10, flowers89 or cifar10) are. Parts: train, files, read, along, on-files (with RATE=bits per
# pixel), along-tuned (with WEIGHTS=FILE of tf_efficientnet_lite0). Other crops: WEIGHTS=FILE studies/files/judges.sh imagenet
# FOLDER OUT views, with images.tar. Killed, it resumes.
set -eu
NAME=$1 FOLDER=$2 OUT=$3 PART=$4
shift 4
HERE=$(dirname "$0")
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
SET=$OUT/$NAME RUNS=$OUT/runs
judges() { python "$HERE/judges.py" "$@"; }
SIDE=96
[ "$NAME" = cifar10 ] && SIDE=32
mkdir -p "$SET"

compare() { # compare NETWORK BACKBONE ARMS SEEDS [--KEY VALUE ...]
  network=$1 backbone=$2 arms=$3 seeds=$4
  shift 4
  jpegdl compare --config dtd10 \
    --config "$HERE/judges.yaml" "$@" --output "$RUNS" --name "$NAME-$network" --backbone "$backbone" \
    --data.path "$SET" --data.size $SIDE --data.resize $SIDE --arms "$arms" --seeds "$seeds" --jobs 1
}
RESNET=jpegdl_studies.networks:resnet8
run() { echo "$RUNS/$NAME-$1/$2/$3"; }

files_along() { # files_along NETWORK MU ANSWERS: files guided for seed 0 of each arm, read by all seeds of both
  network=$1 mu=$2 answers=$3
  set --
  for arm in plain some-files; do
    jpegdl compress "$SET/photos" "$SET/along/for $arm/effort 3, mu $mu" --reader "$(run "$network" $arm 0)" --effort 3 --mu "$mu"
    for seed in 0 1 2; do
      set -- "$@" "$arm-$seed=$(run "$network" $arm $seed)"
    done
  done
  judges ladder "$SET/photos" "$SET/along"
  judges read "$SET/photos" "$SET/along" "$OUT/along/$answers" "$@"
}

case $PART in
train)
  for part in train test; do
    limit=
    [ "$NAME" = cifar10 ] && limit="--of-each-class $([ $part = train ] && echo 300 || echo 60)"
    # shellcheck disable=SC2086 # word by word
    judges squares "$FOLDER/$part.tar" "$SET/$part" --side $SIDE $limit
  done
  judges squares "$FOLDER/test.tar" "$SET/photos" --side $SIDE --of-each-class "${PHOTOS:-$([ "$NAME" = flowers89 ] && echo 6 || echo 60)}"
  if [ "$NAME" = cifar10 ]; then # of 32 pixels: without a stride in the first convolution, and crops that cifar10's recipe has
    set -- --data.crop random --data.pad 4 --training.epochs 10 --training.test-every 10
    compare resnet8 cifar_resnet8 plain 2 "$@"
    compare vgg8 cifar_vgg8 plain 1 "$@"
    compare mobilenetv2 cifar_mobilenetv2 plain 1 "$@"
  else
    compare resnet8 $RESNET plain 2
    compare vgg8 jpegdl_studies.families:vgg8 plain 1
    compare mobilenetv2 jpegdl_studies.families:mobilenetv2 plain 1
  fi
  ;;
files)
  judges ladder "$SET/photos" "$SET/files"
  for network in ${READERS:-resnet8 vgg8 both}; do
    case $network in # who has a say, and who has none
    resnet8) readers=$(run resnet8 plain 0) judge=$(run vgg8 plain 0) ;;
    vgg8) readers=$(run vgg8 plain 0) judge=$(run resnet8 plain 0) ;;
    both) readers=$(run resnet8 plain 0),$(run vgg8 plain 0) judge=$(run mobilenetv2 plain 0) ;;
    esac
    for made in "1 0.25" "1 0.06" "3 0.25" "3 0.06"; do # small networks lose little: a bit is worth less than in views
      # shellcheck disable=SC2086 # word by word
      set -- $made
      jpegdl compress "$SET/photos" "$SET/files/for $network/effort $1, mu $2" --reader "$readers" --judge "$judge" \
        --effort "$1" --mu "$2"
    done
  done
  ;;
read)
  judges read "$SET/photos" "$SET/files" "$OUT/answers/$NAME" "resnet8=$(run resnet8 plain 0)" "resnet8, another seed=$(run resnet8 plain 1)" \
    "vgg8=$(run vgg8 plain 0)" "mobilenetv2=$(run mobilenetv2 plain 0)"
  ;;
along) # half of each training batch out of files, three seeds; then files for that network
  compare resnet8 $RESNET plain,some-files 3
  files_along resnet8 0.06 "$NAME"
  ;;
along-tuned) # the same for EfficientNet-Lite0 from its weights, photos of 128 pixels; a few epochs, as weights need no more
  SET=$OUT/$NAME-128
  for part in train test; do
    judges squares "$FOLDER/$part.tar" "$SET/$part" --side 128
  done
  judges squares "$FOLDER/test.tar" "$SET/photos" --side 128 --of-each-class "${PHOTOS:-$([ "$NAME" = flowers89 ] && echo 6 || echo 60)}"
  jpegdl compare --config finetune --config "$HERE/judges.yaml" --output "$RUNS" --name "$NAME-lite0" \
    --backbone tf_efficientnet_lite0 --weights "$WEIGHTS" --data.path "$SET" --data.size 128 --data.resize 128 \
    --training.epochs 8 --training.test-every 8 --arms plain,some-files --seeds 3 --jobs 1
  files_along lite0 0.25 "$NAME-128"
  ;;
on-files) # trained on files for VGG-8, of RATE bits per pixel, and tested on originals
  judges_of="$(run vgg8 plain 0)"
  for effort in 1 3; do
    jpegdl compress "$SET/train" "$SET/on/effort-$effort/train" --reader "$judges_of" --effort $effort --bits-per-pixel "$RATE"
  done
  judges like "$SET/on/effort-1/train" "$SET/train" "$SET/on/libjpeg/train"
  {
    echo "arms:"
    echo "  - plain"
    for made in libjpeg effort-1 effort-3; do
      [ -e "$SET/on/$made/test" ] || ln -s ../../test "$SET/on/$made/test"
      echo "  - on-$made: {layer: {kind: none}, data: {path: \"$SET/on/$made\"}}"
    done
  } >"$SET/on/arms.yaml"
  compare resnet8 $RESNET plain,on-libjpeg,on-effort-1,on-effort-3 3 --config "$SET/on/arms.yaml"
  ;;
views) # files for Lite0's own view, the middle 224 of 256 pixels, seen in other ways
  judges squares "$FOLDER/images.tar" "$SET/photos" --side 256 --classes "${PHOTOS:-200}"
  judges ladder "$SET/photos" "$SET/files"
  reader=tf_efficientnet_lite0@$WEIGHTS judge=jpegdl_studies.judges:lite1_of_photos
  for made in "1 1" "3 1" "1 0.25" "3 0.25"; do
    # shellcheck disable=SC2086 # word by word
    set -- $made
    jpegdl compress "$SET/photos" "$SET/files/for lite0/effort $1, mu $2" --reader "$reader" --judge $judge --effort "$1" --mu "$2"
  done
  judges read "$SET/photos" "$SET/files" "$OUT/answers/$NAME" lite0="$reader" lite1=$judge --views
  ;;
*)
  echo "no part $PART: train, files, read, along, along-tuned, on-files or views" >&2
  exit 2
  ;;
esac
