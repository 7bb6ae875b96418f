#!/usr/bin/env bash
# Paddle to ONNX to engines, measured on this machine: build_engines.sh [PIPELINE.yaml ...]
# Takes all options of `ocr-hpi build`. Run at deploy time.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

is_help "$@" && show_help "${BASH_SOURCE[0]}" "$ROOT/.venv/bin/ocr-hpi" build
for argument in "$@"; do
  case $argument in -*) ;; *.yaml | *.yml) check_yamls "$argument" ;; esac
done
ensure_serving
cd "$ROOT"

pending=$(.venv/bin/ocr-hpi build --pending-conversions "$@")
if [ -n "$pending" ] && [ -z "${OCR_HPI_BUILD_PYTHON:-}" ]; then
  if ! python=$(build_python); then
    say "converting $(echo "$pending" | tr '\n' ' ')needs Python 3.11 or 3.12 (paddle2onnx has no wheel" \
      "for others), and none was found. Install one, or name it: PYTHON=/path/to/python3.12." \
      "Or, if they are also published as ONNX: move their folders out of models/, then run" \
      "bash scripts/fetch_models.sh --prefer onnx"
    exit 1
  fi
  ensure_venv "$ROOT/.venv-build" build "$python"
fi
exec .venv/bin/ocr-hpi build "$@"
