#!/usr/bin/env bash
# Paddle to ONNX to engines, measured on this machine: build_engines.sh [PIPELINE.yaml ...]
# Takes all options of `ocr-hpi build`. Run at deploy time.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

ensure_serving
cd "$ROOT"
case " $* " in *" --help "* | *" -h "*) exec .venv/bin/ocr-hpi build "$@" ;; esac

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
