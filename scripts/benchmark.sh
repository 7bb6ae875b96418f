#!/usr/bin/env bash
# Speed, accuracy and load, beside the peers:
#   benchmark.sh [--data DIR] [--peers] [--pipeline YAML ...] [--concurrency 1,4]   page by page
#   benchmark.sh --serve [--data DIR] [--peers] [--pipeline YAML]                   load test over HTTP
#   benchmark.sh --soak MINUTES [--pipeline YAML]                                   memory over time
# Each with --report DIR, and --help for all options. --peers runs PaddleX and RapidOCR on the same
# images, each in an environment of its own: they pin different OpenCVs.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# A virtual environment with exactly these requirements; made again when they change.
ensure_peer() { # DIR REQUIREMENT...
  local dir=$1 base
  shift
  local stamp="$dir/.ocr-hpi-stamp" contents="$dir $*"
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$contents" ] && return
  base=$(base_python)
  lock_environments "$base"
  if ! { [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$contents" ]; }; then
    say "making $dir: $* (minutes)"
    new_environment "$dir" peer || return
    "$base" -m venv "$dir" >&2
    "$dir/bin/python" -m pip install --disable-pip-version-check --no-input --quiet "$@" >&2
    "$dir/bin/python" -c "import cv2" || {
      say "OpenCV does not load there. It needs the system's libGL; on Debian and Ubuntu:" \
        "apt install libgl1 libglib2.0-0. Then run the same command again"
      return 1
    }
    echo "$contents" >"$stamp"
    rm "$dir/$MAKING"
  fi
  unlock_environments
}

# matplotlib for the charts, beside what serving needs.
ensure_charts() {
  "$ROOT/.venv/bin/python" -c "import matplotlib" 2>/dev/null && return
  say "installing matplotlib for the charts into .venv"
  (cd "$ROOT" && .venv/bin/python -m pip install --disable-pip-version-check --no-input --quiet \
    --editable ".[benchmark]" >&2)
}

command=compare peers= arguments=() pipelines=()
if is_help "$@"; then
  case " $* " in *" --serve "*) command=serve ;; *" --soak"*) command=soak ;; esac
  show_help "${BASH_SOURCE[0]}" "$ROOT/.venv/bin/python" -m benchmarks "$command"
fi
need() { [ $# -gt 1 ] || usage_error "$1 needs a value"; }
while [ $# -gt 0 ]; do
  case $1 in
    --serve) command=serve ;;
    --soak) command=soak && need "$@" && arguments+=(--minutes "$2") && shift ;;
    --soak=*) command=soak && arguments+=(--minutes "${1#*=}") ;;
    --peers) peers=yes ;;
    --pipeline) need "$@" && pipelines+=("$2") && arguments+=("$1" "$2") && shift ;;
    --pipeline=*) pipelines+=("${1#*=}") && arguments+=("$1") ;;
    --data=* | --report=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" && continue ;;
    --data | --report) # relative to where the caller is, not to the repository
      need "$@"
      [ "$1" = --report ] || [ -d "$2" ] || usage_error "--data $2: no such folder"
      arguments+=("$1" "$(realpath -m "$2")") && shift ;;
    *) arguments+=("$1") ;;
  esac
  shift
done

check_yamls ${pipelines[@]+"${pipelines[@]}"}
ensure_serving
cd "$ROOT"
[ "$command" = serve ] || ensure_charts
bash scripts/fetch_models.sh ${pipelines[@]+"${pipelines[@]}"} >&2
bash scripts/build_engines.sh ${pipelines[@]+"${pipelines[@]}"} >&2
if [ -n "$peers" ] && [ "$command" != soak ]; then
  ensure_peer "$ROOT/.venv-peer-paddlex" "paddlex[ocr,serving]==3.7.2" "paddlepaddle==3.2.2" "onnxruntime>=1.22,<2"
  arguments+=(--paddlex "$ROOT/.venv-peer-paddlex/bin/python")
fi
if [ -n "$peers" ] && [ "$command" = compare ]; then
  ensure_peer "$ROOT/.venv-rapidocr" "rapidocr==3.10.0" "onnxruntime>=1.22,<2" "openvino>=2025.3,<2027"
  arguments+=(--rapidocr "$ROOT/.venv-rapidocr/bin/python")
fi
exec .venv/bin/python -m benchmarks "$command" ${arguments[@]+"${arguments[@]}"}
