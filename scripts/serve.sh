#!/usr/bin/env bash
# From a fresh machine to a server: environment, models, engines, then Gunicorn in the foreground.
# serve.sh [options of `ocr-hpi serve`]. A second start skips what has been done.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The options that decide what is fetched and built; the server validates them all.
read_options() {
  local pipelines=() value
  IFS=, read -ra pipelines <<<"${OCR_HPI_PIPELINE:-}"
  models=${OCR_HPI_MODELS:-models} threads=${OCR_HPI_THREADS:-} workers=${OCR_HPI_WORKERS:-}
  device=${OCR_HPI_DEVICE:-} fallback=${OCR_HPI_ALLOW_CPU_FALLBACK:-}
  local chosen=()
  while [ $# -gt 0 ]; do
    case $1 in
      --pipeline | --models | --threads | --workers | --device) value=${2:-} ;;
      *) value=${1#*=} ;;
    esac
    case $1 in
      --pipeline | --pipeline=*) chosen+=("$value") ;;
      --models | --models=*) models=$value ;;
      --threads | --threads=*) threads=$value ;;
      --workers | --workers=*) workers=$value ;;
      --device | --device=*) device=$value ;;
      --allow-cpu-fallback) fallback=yes ;;
      --help | -h) help=yes ;;
    esac
    shift
  done
  [ ${#chosen[@]} -gt 0 ] && pipelines=("${chosen[@]}")
  yamls=()
  for value in ${pipelines[@]+"${pipelines[@]}"}; do yamls+=("${value#*=}"); done
}

ensure_serving
cd "$ROOT"
help=
read_options "$@"
if [ -z "$help" ]; then
  options=(--models "$models")
  if [[ $threads =~ ^[0-9]+$ && $workers =~ ^[0-9]+$ ]]; then # one plan, whose cores they share
    options+=(--threads "$((10#$threads * 10#$workers))")
  elif [ -n "$threads" ]; then
    options+=(--threads "$threads")
  fi
  [ -z "$device" ] || options+=(--device "$device")
  # Names what is missing or has changed since the plan was made; says nothing where it is valid.
  if ! .venv/bin/ocr-hpi plan --check "${options[@]}" ${yamls[@]+"${yamls[@]}"} >&2; then
    bash scripts/fetch_models.sh --models "$models" ${yamls[@]+"${yamls[@]}"} >&2
    bash scripts/build_engines.sh "${options[@]}" ${yamls[@]+"${yamls[@]}"} >&2 ||
      [ -n "$fallback" ] || exit 1 # with it, the server itself names what is missing
  fi
fi
exec .venv/bin/ocr-hpi serve "$@"
