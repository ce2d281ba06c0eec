#!/bin/sh
# The demo's comparison, and what each frequency is worth to its first model: studies/demo/run.sh
set -eu
jpegdl compare --config demo
jpegdl explain --name demo
