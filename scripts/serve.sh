#!/usr/bin/env bash
# From a fresh machine to a server: environment, models, engines, then Gunicorn in the foreground.
# serve.sh [options of `ocr-hpi serve`]. A second start skips what has been done.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The options that decide what is fetched and built; the server itself checks them all.
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

# What the models and engines were made from and for, as far as that is quick to check. If it is
# unchanged, there is nothing to fetch or build; the server checks its plan anyway.
state() {
  printf '%s\n' "$models" "$threads" "$workers" "$device" "${yamls[@]}"
  nproc
  cat /proc/driver/nvidia/version /proc/driver/nvidia/gpus/*/information 2>/dev/null || true
  cat /sys/fs/cgroup/cpu.max 2>/dev/null || true
  cat .venv/"$STAMP"
  find serving -name '*.py' -print0 | sort -z | xargs -0 sha256sum # the code that decides what a plan depends on
  sha256sum configs/*.yaml ${yamls[@]+"${yamls[@]}"}
  grep -m1 '^flags' /proc/cpuinfo || true
  find "$models" -type f -not -name '.*' -printf '%p %s %T@\n' | sort
}

ensure_serving
cd "$ROOT"
help=
read_options "$@"
if [ -z "$help" ]; then
  stamp="$models/engines/.serve-stamp"
  if ! [ -f "$stamp" ] || [ "$(cat "$stamp")" != "$(state 2>/dev/null | sha256sum)" ]; then
    cores=()
    if [[ $threads =~ ^[0-9]+$ && $workers =~ ^[0-9]+$ ]]; then # one plan, shared by all workers
      cores=(--threads "$((10#$threads * 10#$workers))")
    elif [ -n "$threads" ]; then
      cores=(--threads "$threads")
    fi
    bash scripts/fetch_models.sh --models "$models" ${yamls[@]+"${yamls[@]}"} >&2
    [ -z "$device" ] || cores+=(--device "$device")
    if bash scripts/build_engines.sh --models "$models" ${cores[@]+"${cores[@]}"} \
      ${yamls[@]+"${yamls[@]}"} >&2; then
      state 2>/dev/null | sha256sum >"$stamp" || rm -f "$stamp"
    elif [ -z "$fallback" ]; then # else the server says what is missing, and uses the CPU's plan
      exit 1
    fi
  fi
fi
exec .venv/bin/ocr-hpi serve "$@"
