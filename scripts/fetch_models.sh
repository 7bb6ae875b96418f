#!/usr/bin/env bash
# The models that pipelines name, verified, into models/: fetch_models.sh [PIPELINE.yaml ...]
# Takes all that `ocr-hpi fetch` takes.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

ensure_serving
cd "$ROOT"
prefer=()
if [ -z "${OCR_HPI_BUILD_PYTHON:-}" ] && ! build_python >/dev/null; then
  say "no Python 3.11 or 3.12, which converting Paddle models needs: models that are published as" \
    "ONNX too are fetched so"
  prefer=(--prefer onnx)
fi
exec .venv/bin/ocr-hpi fetch ${prefer[@]+"${prefer[@]}"} "$@"
