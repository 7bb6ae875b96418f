#!/usr/bin/env bash
# Speed, accuracy and load, beside the peers:
#   benchmark.sh [--data DIR] [--peers] [--pipeline YAML ...] [--concurrency 1,4]   page by page
#   benchmark.sh --by-model [--data DIR] [--peers] [--pipeline YAML ...]            beside them, by model
#   benchmark.sh --serve [--data DIR] [--peers] [--pipeline YAML]                   load test over HTTP
#   benchmark.sh --serve --mixed [--pipeline YAML ...]                              three pipelines at once
#   benchmark.sh --soak MINUTES [--pipeline YAML]                                   memory over time
# Each with --report DIR, and --help for all options. --peers runs PaddleX and RapidOCR, with --by-model
# also TurboOCR, on the same images, each in an environment of its own: they pin different OpenCVs.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# A virtual environment with exactly these requirements; made again when they change.
ensure_peer() { # DIR PYTHON REQUIREMENT...
  local dir=$1 base=$2
  shift 2
  local stamp="$dir/.ocr-hpi-stamp" contents="$dir $*"
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$contents" ] && return
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

command=compare peers= by_model= arguments=() pipelines=()
if is_help "$@"; then
  case " $* " in *" --mixed "*) command=mixed ;; *" --serve "*) command=serve ;; *" --soak"*) command=soak ;; esac
  show_help "${BASH_SOURCE[0]}" "$ROOT/.venv/bin/python" -m benchmarks "$command"
fi
need() { [ $# -gt 1 ] || usage_error "$1 needs a value"; }
while [ $# -gt 0 ]; do
  case $1 in
    --serve) [ "$command" = mixed ] || command=serve ;;
    --mixed) command=mixed ;;
    --by-model) by_model=yes && arguments+=("$1") ;;
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

if [ ${#pipelines[@]} = 0 ]; then
  if [ -n "$by_model" ]; then pipelines=(PP-OCRv4_mobile PP-OCRv5_mobile PP-OCRv6_tiny PP-OCRv6_small); fi
  if [ "$command" = mixed ]; then pipelines=(PP-OCRv6_tiny PP-OCRv4_mobile PP-OCRv6_small); fi
  for number in "${!pipelines[@]}"; do
    pipelines[number]=configs/${pipelines[number]}.yaml
    arguments+=(--pipeline "${pipelines[number]}")
  done
fi
check_yamls ${pipelines[@]+"${pipelines[@]}"}
ensure_serving
cd "$ROOT"
case $command in compare | soak) ensure_charts ;; esac
bash scripts/fetch_models.sh ${pipelines[@]+"${pipelines[@]}"} >&2
bash scripts/build_engines.sh ${pipelines[@]+"${pipelines[@]}"} >&2
case $command in soak | mixed) peers= ;; esac
if [ -n "$peers" ]; then
  ensure_peer "$ROOT/.venv-peer-paddlex" "$(base_python)" "paddlex[ocr,serving]==3.7.2" "paddlepaddle==3.2.2" "onnxruntime>=1.22,<2"
  arguments+=(--paddlex "$ROOT/.venv-peer-paddlex/bin/python")
fi
if [ -n "$peers" ] && [ "$command" = compare ]; then
  ensure_peer "$ROOT/.venv-rapidocr" "$(base_python)" "rapidocr==3.10.0" "onnxruntime>=1.22,<2" "openvino>=2025.3,<2027"
  arguments+=(--rapidocr "$ROOT/.venv-rapidocr/bin/python")
fi
if [ -n "$peers" ] && [ -n "$by_model" ]; then
  # pyenv keeps a version off PATH that is not its global one.
  if python=$(find_python 3.12 3.13 "${PYTHON:-}" python3.12 python3 \
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python); then
    ensure_peer "$ROOT/.venv-turboocr" "$python" "turboocr[cpu]==4.0.0a8"
    arguments+=(--turboocr "$ROOT/.venv-turboocr/bin/python")
  else
    say "TurboOCR is left out: its engine needs Python 3.12, which was not found. Install it, or name" \
      "it: PYTHON=/path/to/python3.12"
  fi
fi
exec .venv/bin/python -m benchmarks "$command" ${arguments[@]+"${arguments[@]}"}
