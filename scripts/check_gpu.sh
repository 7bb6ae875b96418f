#!/usr/bin/env bash
# Checks an NVIDIA GPU: check_gpu.sh [PIPELINE.yaml] [--device gpu:0] [--images DIR]
# Installs the GPU's packages, fetches the models, builds the CPU's plan and the GPU's, compares what
# they read and how fast. Ends with a verdict; exit code 0 if the GPU reads what the CPU reads.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case "${1:-}" in
  -h | --help)
    sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
esac
yaml=configs/PP-OCRv4_mobile.yaml device=gpu:0 rest=()
while [ $# -gt 0 ]; do
  case $1 in
    *.yaml | *.yml) yaml=$(realpath -m "$1") && check_yamls "$yaml" ;;
    --device) device=${2:-} && shift ;;
    --images) [ -d "${2:-}" ] || usage_error "--images ${2:-}: no such folder" && rest+=("$1" "$(realpath -m "${2:-}")") && shift ;;
    *) say "unknown: $1; see --help" && exit 2 ;;
  esac
  shift
done
bash "$ROOT/scripts/install_hpi_deps.sh" gpu >&2
cd "$ROOT"
bash scripts/fetch_models.sh "$yaml" >&2
bash scripts/build_engines.sh "$yaml" --device cpu >&2
bash scripts/build_engines.sh "$yaml" --device "$device" >&2
.venv/bin/ocr-hpi plan "$yaml" --device "$device"
exec .venv/bin/python -m benchmarks check-gpu "$yaml" --device "$device" ${rest[@]+"${rest[@]}"}
