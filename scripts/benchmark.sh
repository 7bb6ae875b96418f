#!/usr/bin/env bash
# Speed and accuracy: benchmark.sh [--peers] [--data DIR] [--pipeline YAML ...] [--report DIR] ...
# Takes all that `ocr-hpi benchmark` takes; with --serve all that `ocr-hpi load` takes: the same over
# HTTP, with closed and open loads. --peers runs PaddleX and RapidOCR on the same images
# with the same models, each in an environment of its own: they pin different OpenCVs.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# A virtual environment with exactly these requirements. Made anew when they change.
ensure_peer() { # DIR REQUIREMENT...
  local dir=$1 base
  shift
  local stamp="$dir/.ocr-hpi-stamp" wanted="$dir $*"
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && return
  base=$(base_python)
  lock_environments "$base"
  if ! { [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; }; then
    say "making $dir: $* (minutes)"
    rm -rf "$dir"
    "$base" -m venv "$dir" >&2
    "$dir/bin/python" -m pip install --disable-pip-version-check --no-input --quiet "$@" >&2
    "$dir/bin/python" -c "import cv2" || {
      say "OpenCV does not load there. It needs the system's libGL; on Debian and Ubuntu:" \
        "apt install libgl1 libglib2.0-0. Then run the same command again"
      return 1
    }
    echo "$wanted" >"$stamp"
  fi
  unlock_environments
}

# What PaddleX's own serving needs beside PaddleX.
ensure_paddlex_serving() {
  local python="$ROOT/.venv-paddlex/bin/python"
  "$python" -c "import fastapi, filetype, uvicorn" 2>/dev/null && return
  lock_environments "$python"
  say "installing paddlex[serving] into .venv-paddlex"
  "$python" -m pip install --disable-pip-version-check --no-input --quiet "paddlex[serving]==3.7.2" >&2
  unlock_environments
}

command=benchmark peers= arguments=() pipelines=() help=
while [ $# -gt 0 ]; do
  case $1 in
    --serve) command=load ;;
    --peers) peers=yes ;;
    --pipeline) [ $# -gt 1 ] && pipelines+=("$2") && arguments+=("$1" "$2") && shift ;;
    --pipeline=*) pipelines+=("${1#*=}") && arguments+=("$1") ;;
    --data | --report) # from where the caller stands, not from the repository
      [ $# -gt 1 ] && arguments+=("$1" "$(realpath -m "$2")") && shift ;;
    -h | --help) help=yes && arguments+=("$1") ;;
    *) arguments+=("$1") ;;
  esac
  shift
done

ensure_serving
cd "$ROOT"
if [ -z "$help" ]; then
  bash scripts/fetch_models.sh ${pipelines[@]+"${pipelines[@]}"} >&2
  bash scripts/build_engines.sh ${pipelines[@]+"${pipelines[@]}"} >&2
  if [ -n "$peers" ]; then
    ensure_paddlex
    arguments+=(--paddlex "$ROOT/.venv-paddlex/bin/python")
  fi
  if [ -n "$peers" ] && [ "$command" = load ]; then
    ensure_paddlex_serving
  elif [ -n "$peers" ]; then
    arguments+=(--rapidocr "$ROOT/.venv-rapidocr/bin/python")
    ensure_peer "$ROOT/.venv-rapidocr" "rapidocr==3.10.0" "onnxruntime>=1.22,<2" "openvino>=2025.3,<2027"
  fi
fi
exec .venv/bin/ocr-hpi "$command" ${arguments[@]+"${arguments[@]}"}
