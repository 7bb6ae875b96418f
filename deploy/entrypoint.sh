#!/bin/sh
# Of the image: links its models into the volume, where plans are written, then runs `ocr-hpi`.
set -eu

mkdir -p "$TMPDIR" "$OCR_HPI_MODELS" || {
  echo "Error: user $(id -u) cannot write to /data: give it a volume, for example -v ocr:/data" >&2
  exit 1
}
find "$OCR_HPI_MODELS" -xtype l -delete # links of an older image
flock "$OCR_HPI_MODELS" cp --recursive --symbolic-link --no-clobber /app/models/. "$OCR_HPI_MODELS"

# Without a subcommand, the arguments are options of `serve`.
case ${1:--} in -*) set -- serve --build "$@" ;; esac
exec ocr-hpi "$@"
