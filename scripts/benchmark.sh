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
    rm -rf "$dir"
    "$base" -m venv "$dir" >&2
    "$dir/bin/python" -m pip install --disable-pip-version-check --no-input --quiet "$@" >&2
    "$dir/bin/python" -c "import cv2" || {
      say "OpenCV does not load there. It needs the system's libGL; on Debian and Ubuntu:" \
        "apt install libgl1 libglib2.0-0. Then run the same command again"
      return 1
    }
    echo "$contents" >"$stamp"
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

command=compare peers= arguments=() pipelines=() help=
while [ $# -gt 0 ]; do
  case $1 in
    --serve) command=serve ;;
    --soak) command=soak && [ $# -gt 1 ] && arguments+=(--minutes "$2") && shift ;;
    --soak=*) command=soak && arguments+=(--minutes "${1#*=}") ;;
    --peers) peers=yes ;;
    --pipeline) [ $# -gt 1 ] && pipelines+=("$2") && arguments+=("$1" "$2") && shift ;;
    --pipeline=*) pipelines+=("${1#*=}") && arguments+=("$1") ;;
    --data | --report) # relative to where the caller is, not to the repository
      [ $# -gt 1 ] && arguments+=("$1" "$(realpath -m "$2")") && shift ;;
    -h | --help) help=yes && arguments+=("$1") ;;
    *) arguments+=("$1") ;;
  esac
  shift
done

ensure_serving
cd "$ROOT"
if [ -z "$help" ]; then
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
fi
exec .venv/bin/python -m benchmarks "$command" ${arguments[@]+"${arguments[@]}"}
