#!/usr/bin/env bash
# Fetches the models that pipelines name into models/, verified: fetch_models.sh [PIPELINE.yaml ...]
# Takes all options of `ocr-hpi fetch`.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

is_help "$@" && show_help "${BASH_SOURCE[0]}" "$ROOT/.venv/bin/ocr-hpi" fetch
for argument in "$@"; do
  case $argument in -*) ;; *.yaml | *.yml) check_yamls "$argument" ;; esac
done
ensure_serving
cd "$ROOT"
prefer=()
if [ -z "${OCR_HPI_BUILD_PYTHON:-}" ] && ! build_python >/dev/null; then
  say "no Python 3.11 or 3.12 to convert Paddle models with: models that are also published as ONNX" \
    "are fetched in that form"
  prefer=(--prefer onnx)
fi
exec .venv/bin/ocr-hpi fetch ${prefer[@]+"${prefer[@]}"} "$@"
