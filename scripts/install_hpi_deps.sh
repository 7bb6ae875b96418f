#!/usr/bin/env bash
# The inference backends for a device, from package indexes alone: install_hpi_deps.sh cpu|gpu
# gpu needs a driver and no more: CUDA and cuDNN come as wheels. --tensorrt adds TensorRT, whose
# libraries only NVIDIA's own index has (https://pypi.nvidia.com).
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage="usage: bash scripts/install_hpi_deps.sh cpu|gpu [--tensorrt]"
case "${1:-} ${2:-}" in
  "cpu " | "gpu " | "gpu --tensorrt") ;;
  "-h " | "--help ")
    echo "$usage"
    exit 0
    ;;
  *)
    say "$usage"
    exit 2
    ;;
esac
ensure_serving "$1"
if [ -n "${2:-}" ]; then
  say "installing TensorRT from https://pypi.nvidia.com (2 GB)"
  (cd "$ROOT" && .venv/bin/python -m pip install --disable-pip-version-check --no-input \
    --extra-index-url https://pypi.nvidia.com --editable ".[gpu,tensorrt]" >&2) || {
    say "TensorRT could not be installed; pip's reason is above. Without it, engines for the GPU are" \
      "ONNX Runtime's with CUDA: everything else is ready"
    exit 1
  }
fi
exec "$ROOT/.venv/bin/ocr-hpi" doctor
